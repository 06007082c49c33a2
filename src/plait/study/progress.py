"""How a study is shown while it runs, and afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from plait.study.quickstart import last_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from plait.study.schedule import Planned, Scheduler, Snapshot

PAUSE = 0.5
"""Seconds between pictures."""
BAR = 24


class Display:
    """Shows a study in a terminal: a table that changes, or a line a finished run where there is none.

    Args:
        console: Where; None for nowhere.
    """

    def __init__(self, console: Console | None) -> None:
        self.console = console
        self.live: Any = None
        self.shown = 0.0
        self.seconds: Mapping[str, float] = {}
        self.estimate: Callable[[], Mapping[str, float]] = dict
        self.slots = 1
        self.ended = 0

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    @contextmanager
    def stage(self, words: str) -> Iterator[None]:
        """Says what is going on before runs begin."""
        if self.console is not None:
            self.console.print(f"{words} …", style="dim")
        yield

    def begin(self, scheduler: Scheduler, costs: Mapping[str, Mapping[str, Any]]) -> None:
        """Says what is to come, and how long it will take."""
        from plait.study.conduct import estimated_seconds, memory_needed

        self.estimate = partial(estimated_seconds, scheduler, costs)
        self.seconds = self.estimate()
        self.slots = scheduler.executor.slots
        if self.console is None:
            return
        snapshot = scheduler.snapshot()
        done = snapshot.count("finished")
        words = [f"{snapshot.expected} runs on {scheduler.executor.name}"]
        if done:
            words.append(f"{done} are there already")
        left = remaining(snapshot, self.seconds, self.slots)
        if left > 0:
            words.append(f"about {in_words(left)}")
            words.append(f"at most {memory_needed(costs) / 1e9:.1f} GB of memory each")
        self.console.print("; ".join(words), soft_wrap=True)
        if self.console.is_terminal and left > 0:
            from rich.live import Live

            self.live = Live(console=self.console, auto_refresh=False, transient=False)
            self.live.start()

    def update(self, snapshot: Snapshot) -> None:
        """Shows how the study stands, at most twice a second."""
        if self.live is None or time.monotonic() - self.shown < PAUSE:
            return
        self.shown = time.monotonic()
        if len(snapshot.planned) != len(self.seconds):  # a search goes on
            self.seconds = self.estimate()
        self.live.update(picture(snapshot, self.seconds, self.slots), refresh=True)

    def say(self, sentence: str) -> None:
        """Says how a run ended."""
        self.ended += 1
        if self.console is not None:
            self.console.print(sentence, soft_wrap=True)


def picture(snapshot: Snapshot, seconds: Mapping[str, float], slots: int) -> RenderableType:
    """The table of arms, and a line below it."""
    from rich.console import Group
    from rich.text import Text

    left = remaining(snapshot, seconds, slots)
    done, failed = snapshot.count("finished"), snapshot.count("failed")
    words = [f"{done} of {snapshot.expected} runs"]
    words += [f"{failed} failed"] * (failed > 0) + [f"about {in_words(left)} left"] * (left > 0)
    return Group(table(snapshot), Text(", ".join(words), style="bold"))


def table(snapshot: Snapshot) -> Table:
    """A line an arm: what is done, what is running and how far."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False)
    for head in ("arm", "", "done", "now"):
        made.add_column(head, justify="right" if head == "done" else "left", no_wrap=head != "now")
    by_arm: dict[str, list[Planned]] = {}
    for planned in snapshot.planned.values():
        if planned.place is not None:
            by_arm.setdefault(planned.place.arm, []).append(planned)
    for arm, runs in by_arm.items():
        states = [snapshot.rows[run.job.identity].state for run in runs]
        done, failed = states.count("finished"), states.count("failed")
        part = round(BAR * done / len(runs))
        wrong = max(failed > 0, round(BAR * failed / len(runs))) if failed else 0
        bar = Text("━" * part, style="green") + Text("━" * wrong, style="red")
        bar += Text("━" * max(0, BAR - part - wrong), style="dim")
        count = f"{done}/{len(runs)}" + f", {failed} failed" * (failed > 0)
        now = [how_far(run) for run, state in zip(runs, states, strict=True) if state == "running"]
        made.add_row(Text(arm), bar, count, Text("; ".join(now), style="dim"))
    return made


def how_far(planned: Planned) -> str:
    """Where a running run is."""
    line = last_line(planned.folder)
    at = planned.place
    assert at is not None
    name = f"trial {at.trial + 1}" if at.trial >= 0 else f"seed {at.seed}"
    name += f" {at.task}" * bool(at.task)
    return f"{name}: step {line['step']}" if "step" in line else f"{name}: starting"


def remaining(snapshot: Snapshot, seconds: Mapping[str, float], slots: int) -> float:
    """Seconds until everything is done: by the measurement, corrected by what whole runs have taken."""
    ended = [
        (row.seconds, seconds[name])
        for name, row in snapshot.rows.items()
        if name in seconds
        and row.state == "finished"
        and row.seconds
        and row.attempts == 1
        and row.seconds >= row.result.get("train_seconds", 0.0)  # not only the rest of an interrupted one
    ]
    ratio = sum(a for a, _ in ended) / sum(b for _, b in ended) if ended else 1.0
    now = time.monotonic()
    left, longest = 0.0, 0.0
    for name in snapshot.planned:
        if name in seconds and snapshot.rows[name].state in ("waiting", "running"):
            spent = now - snapshot.running[name] if name in snapshot.running else 0.0
            rest = max(0.0, ratio * seconds[name] - spent)
            left, longest = left + rest, max(longest, rest)
    known = len(snapshot.planned)
    if known and snapshot.expected > known:  # trials that are not known yet
        left += (snapshot.expected - known) * ratio * sum(seconds.values()) / max(1, len(seconds))
    return max(longest, left / max(1, slots))  # one run is not shared out


def in_words(seconds: float) -> str:
    """A time as a person says it.

    >>> in_words(42), in_words(600), in_words(9000), in_words(200000)
    ('1 min', '10 min', '2 h 30 min', '2 days 7 h')
    """
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} day{'s' * (days > 1)} {hours} h"
