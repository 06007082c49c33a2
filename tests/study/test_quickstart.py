"""The quickstart: like with like, in processes of their own, and never twice the same work."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from plait.config import Recipe, plain
from plait.errors import ConfigurationError, PlaitError
from plait.study import quickstart as main_job


def test_networks_differ_in_nothing_but_their_tasks() -> None:
    recipes = main_job.arms(5.0)
    multi = recipes[main_job.MULTI_TASK]
    assert list(recipes)[1:] == [f"single-task-{task}" for task in multi.tasks]
    for name, recipe in recipes.items():
        assert {**plain(recipe), "tasks": None} == {**plain(multi), "tasks": None}
        if name != main_job.MULTI_TASK:
            assert recipe.tasks == {name.removeprefix("single-task-"): multi.tasks[next(iter(recipe.tasks))]}


def test_minutes_scale_the_steps_down_to_a_floor() -> None:
    steps = [main_job.arms(minutes)[main_job.MULTI_TASK].training.steps for minutes in (1e-9, 1, 5, 50)]
    assert steps[0] == main_job.FEWEST_STEPS
    assert steps == sorted(steps)
    assert steps[3] == 10 * steps[2]


def test_only_the_same_recipes_share_a_folder() -> None:
    names = {main_job.identity(main_job.arms(minutes)) for minutes in (1, 1, 2, 5)}
    assert len(names) == 3


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_minutes_must_be_a_positive_number(minutes: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="positive"):
        main_job.quickstart(minutes=minutes, out=tmp_path)


def pretend(monkeypatch: pytest.MonkeyPatch, code: str) -> list[str]:
    """Replaces training by a line of Python; returns the names of the runs that were started."""
    started: list[str] = []

    def start(run: Path, recipe: Recipe) -> subprocess.Popen[bytes]:
        started.append(run.name)
        run.mkdir(parents=True, exist_ok=True)
        with main_job.log_file(run).open("wb") as log:
            return subprocess.Popen([sys.executable, "-c", code, str(run)], stdout=log, stderr=log)

    monkeypatch.setattr(main_job, "start", start)
    monkeypatch.setattr(main_job, "PAUSE", 0.02)
    return started


def test_finished_runs_are_not_started_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started = pretend(monkeypatch, "import sys, pathlib; (pathlib.Path(sys.argv[1]) / 'scores.json').touch()")
    recipes = {tmp_path / name: recipe for name, recipe in main_job.arms(0.1).items()}
    done = tmp_path / main_job.MULTI_TASK
    done.mkdir()
    (done / "scores.json").touch()
    main_job.train_all(recipes, None)
    assert started == [run.name for run in recipes if run != done]
    main_job.train_all(recipes, None)
    assert len(started) == 3


def test_a_failure_is_told_in_the_words_of_the_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, "import sys; print('plait: the disk is full'); sys.exit(2)")
    recipes = {tmp_path / name: recipe for name, recipe in main_job.arms(0.1).items()}
    with pytest.raises(PlaitError, match=f"training {main_job.MULTI_TASK} failed: the disk is full"):
        main_job.train_all(recipes, None)


def test_progress_shows_steps_rate_and_time_left_in_eighty_columns(tmp_path: Path) -> None:
    recipes = {tmp_path / name: recipe for name, recipe in main_job.arms(5.0).items()}
    seen = io.StringIO()
    with main_job.bars(recipes, Console(file=seen, width=80, force_terminal=True, color_system=None)) as show:
        for run in recipes:
            run.mkdir()
            (run / "log.jsonl").write_text('{"step": 17, "images_per_second": 12.34}\n{"step": 18, "ima')
        show()
    for run in recipes:
        assert re.search(rf"{run.name} .*17/250 12\.3 images/s [-0-9:]+ *$", seen.getvalue(), re.MULTILINE)


LISTENING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job is born deaf to it
from plait.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_interrupted_and_started_again_it_ends_in_a_report(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "plait",
        "quickstart",
        "--minutes",
        "0.01",
        "--out",
        str(tmp_path / "quick"),
    ]
    listening = [sys.executable, "-c", LISTENING, *command[3:]]
    first = subprocess.Popen(listening, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 300
    while not list(tmp_path.rglob("scores.json")) and time.monotonic() < deadline and first.poll() is None:
        time.sleep(0.5)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert first.returncode == 130
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("scores.json")}
    assert 1 <= len(finished) < 4
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=500, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items())
    assert len(list(tmp_path.rglob("scores.json"))) == 4
    page = (tmp_path / "quick" / "report.html").read_text()
    assert "One seed (0)" in page
    assert page.count("<img") >= 6 * (1 + 3 * 5)
    assert "multi-task" in done.stdout
    report = [*command[:3], "report", str(tmp_path / "quick" / "runs"), "--out", str(tmp_path / "b.html")]
    again = subprocess.run(report, capture_output=True, text=True, timeout=300, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (tmp_path / "b.csv").is_file()
