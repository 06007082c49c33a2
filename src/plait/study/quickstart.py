"""The main job: single-task networks beside a multi-task one, from the packaged rooms to a report.

Each network is an ordinary run of ``plait train`` in its own folder and its own process of one thread, so
that an interrupted quickstart goes on where it stopped, and anything in it can be run again by hand.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.config import Recipe, dump, load_recipe, replace
from plait.errors import ConfigurationError, PlaitError
from plait.study.cores import IdleCores, most_processes

if TYPE_CHECKING:
    from rich.console import Console

    from plait.study.comparison import Comparison

RECIPE = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"
STEPS_A_MINUTE = 50
FEWEST_STEPS = 4
ENOUGH_IDLE = 0.7
PAUSE = 1.0
MULTI_TASK = "multi-task"


def quickstart(
    *, minutes: float = 5.0, out: Path = Path("quickstart"), console: Console | None = None
) -> Comparison:
    """Trains the networks that are not trained yet, scores them, and writes the report.

    Args:
        minutes: Scales the number of steps; with 5 everything takes under five minutes on two idle cores.
            However small, every part is run.
        out: Where the runs and ``report.html`` (also ``.md`` and ``.csv``) go. Runs already there are used.
        console: Where progress is shown; None for nowhere.

    Returns:
        The comparison that the report shows: one seed, and it says so.

    Raises:
        ConfigurationError: If ``minutes`` is not a positive number.
        PlaitError: If a network's training fails; the sentence is that of the training.
    """
    from plait.study.report import report

    if not 0 < minutes < float("inf"):
        raise ConfigurationError(f"--minutes must be a positive number, got {minutes}")
    started = time.monotonic()
    recipes = arms(minutes)
    folder = out / "runs" / identity(recipes)
    train_all({folder / name: recipe for name, recipe in recipes.items()}, console)
    with stage("Measuring cost, drawing pictures and writing the report", console):
        comparison, page = report(
            [folder / name for name in recipes],
            out=out / "report.html",
            title="Quickstart: one network for three tasks, beside one for each",
            command=f"plait quickstart --minutes {minutes:g} --out {out}",
        )
    if console is not None:
        console.print(f"{time.monotonic() - started:.0f} s in all. The report is {page}", highlight=False)
    return comparison


def arms(minutes: float) -> dict[str, Recipe]:
    """The recipe of each network by the name of its run, the slowest first."""
    steps = max(FEWEST_STEPS, round(STEPS_A_MINUTE * minutes))
    recipe = replace(load_recipe(RECIPE), {"training.steps": steps})
    single = {
        f"single-task-{name}": dataclasses.replace(recipe, tasks={name: o})
        for name, o in recipe.tasks.items()
    }
    return {MULTI_TASK: recipe, **single}


def identity(recipes: Mapping[str, Recipe]) -> str:
    """A folder name that is the same only for the same recipes: other settings never mix with them."""
    text = "\n".join(f"{name}\n{dump(recipe)}" for name, recipe in recipes.items())
    steps = next(iter(recipes.values())).training.steps
    return f"{steps}-steps-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def finished(run: Path) -> bool:
    """Whether a run is trained and scored."""
    return (run / "scores.json").is_file()


def train_all(recipes: Mapping[Path, Recipe], console: Console | None) -> None:
    """Trains every unfinished run, a process each, as many at a time as the machine has idle cores for.

    Raises:
        PlaitError: As soon as one fails; the others are stopped, and go on from their checkpoints next time.
    """
    waiting = [(run, recipe) for run, recipe in recipes.items() if not finished(run)]
    running: dict[Path, subprocess.Popen[bytes]] = {}
    most, idle = most_processes(), IdleCores()
    with bars(recipes, console) as show:
        try:
            while waiting or running:
                free = idle.look()
                if waiting and (not running or (len(running) < most and free >= ENOUGH_IDLE)):
                    run, recipe = waiting.pop(0)
                    running[run] = start(run, recipe)
                time.sleep(PAUSE)
                for run, process in list(running.items()):
                    if process.poll() is not None:
                        del running[run]
                        if process.returncode != 0:
                            raise PlaitError(f"training {run.name} failed: {last_words(run)}")
                show()
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()


def start(run: Path, recipe: Recipe) -> subprocess.Popen[bytes]:
    """A process that trains one network, or goes on training it."""
    run.parent.mkdir(parents=True, exist_ok=True)
    file = run.parent / f"{run.name}.yaml"
    file.write_text(dump(recipe), encoding="utf-8")
    # One thread each: threads that wait for each other on a shared core are many times slower than one.
    alone = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with log_file(run).open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "plait", "train", str(file), "--out", str(run)],
            env={**os.environ, **alone},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def log_file(run: Path) -> Path:
    """What a run's process printed."""
    return run.parent / f"{run.name}.txt"


def last_words(run: Path) -> str:
    """The last line that a run's process printed."""
    lines = log_file(run).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("plait: ") if lines else "it printed nothing and ended"


def last_line(run: Path) -> dict[str, Any]:
    """The last whole line of a run's log; empty before the first."""
    try:
        with (run / "log.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError):
            continue  # a line that is being written
    return {}


@contextmanager
def bars(recipes: Mapping[Path, Recipe], console: Console | None) -> Iterator[Callable[[], None]]:
    """Steps, rate and time left of each run; yields the function that brings them up to date."""
    if console is None:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        rows = {
            run: progress.add_task(run.name, total=recipe.training.steps, rate="")
            for run, recipe in recipes.items()
        }

        def show() -> None:
            for run, row in rows.items():
                line = last_line(run)
                done = recipes[run].training.steps if finished(run) else line.get("step", 0)
                rate = f"{line['images_per_second']:.1f} images/s" if "images_per_second" in line else ""
                progress.update(row, completed=done, rate=rate)

        show()
        yield show
        show()


@contextmanager
def stage(words: str, console: Console | None) -> Iterator[None]:
    """Says what is going on while it goes on."""
    if console is None:
        yield
        return
    with console.status(words):
        yield
