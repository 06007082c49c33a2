"""From what steps report to lines of the log, trackers and the bar, without waiting for the device."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from plait.config import plain
from plait.tasks.base import Task
from plait.training.logs import Log, flat, make_trackers
from plait.training.run import Run
from plait.training.session import Session
from plait.training.step import StepReport

ABOUT = ("step", "lr", "seconds", "images_per_second")
"""What each line of the log begins with; numbers that were measured follow."""

Progress = Callable[[int, int, Mapping[str, float]], None]
"""Called with the steps made, the steps in all, and the mean loss of each task since the last call."""


class Journal:
    """Tells what happens in a run; in processes other than the first it keeps quiet.

    Args:
        session: What trains.
        run: Where the log goes.
        tell: The bar, or the user's function.
        writes: Whether this is the process that writes.
        validates: Whether the log needs columns for validations.
    """

    def __init__(self, session: Session, run: Run, tell: Progress, *, writes: bool, validates: bool) -> None:
        self.session = session
        self.run = run
        self.tell = tell
        self.gradients = session.balancer.needs.gradients
        self.log: Log | None = None
        self.trackers: list[Any] = []
        if writes:
            named = columns(run.tasks, gradients=self.gradients, validates=validates)
            self.log = Log(run.path, named, step=session.step)
            self.trackers = make_trackers(run.recipe.training.trackers, run.path, plain(run.recipe))
        self.sums: dict[str, Tensor] = {}
        self.steps: Counter[str] = Counter()
        self.written = session.step, session.seconds

    def add(self, report: StepReport) -> None:
        """Takes note of a step; a task that was absent from it has no part in its means.

        Of the Gramian, where the balancer took one, it keeps the tasks' norms and the share of conflicts.
        """
        values = {"grad_norm": report.grad_norm, **seen_by_balancer(self.run.tasks, report)}
        for task, weight, present in zip(self.run.tasks, report.weights, report.present, strict=True):
            if present:
                values |= {f"loss.{task.name}": report.losses[task.name], f"weight.{task.name}": weight}
        for name, tensor in values.items():
            value = tensor.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.steps.update(values.keys())

    def write(self) -> None:
        """Writes a line of means over the steps since the last one; none if there was no step.

        A task that was absent from all of them has null.
        """
        session, (step, seconds) = self.session, self.written
        steps = session.step - step
        if steps == 0:
            return
        measured = columns(self.run.tasks, gradients=self.gradients, validates=False)[len(ABOUT) :]
        means = {n: float(self.sums[n]) / self.steps[n] if n in self.sums else math.nan for n in measured}
        row: dict[str, Any] = {
            "step": session.step,
            "lr": session.lr,
            "seconds": round(session.seconds, 3),
            "images_per_second": round(
                steps * self.run.recipe.training.batch_size / max(session.seconds - seconds, 1e-9), 2
            ),
            **nested(means),
        }
        self.sums, self.steps, self.written = {}, Counter(), (session.step, session.seconds)
        self.line(row)
        self.tell(session.step, self.run.recipe.training.steps, row["loss"])

    def line(self, row: Mapping[str, Any]) -> None:
        """Writes a line as it is."""
        if self.log is not None:
            self.log.add(row)
        numbers = {name: value for name, value in flat(row) if value is not None}
        for tracker in self.trackers:
            tracker.log(numbers, step=self.session.step)

    def close(self) -> None:
        """Lets the trackers finish what they send."""
        for tracker in self.trackers:
            tracker.finish()


def seen_by_balancer(tasks: Sequence[Task], report: StepReport) -> dict[str, Tensor]:
    """Lengths of the tasks' gradients, and the share of conflicting pairs, where the balancer takes them.

    They are what a Gramian says that was taken anyway: at features, or at some parameters, as its ``scope``
    says. Nothing waits for the device.

    Returns:
        ``gradient_norm.TASK`` of each present task; and ``conflicts``, the part of the pairs of present tasks
        whose gradients have a negative inner product, if there is a pair. Nothing without a Gramian.
    """
    if report.gramian is None:
        return {}
    here = [place for place, present in enumerate(report.present) if present]
    norms = report.gramian.diagonal().clamp(min=0).sqrt()
    found = {f"gradient_norm.{tasks[place].name}": norms[place] for place in here}
    if len(here) > 1:
        pairs = torch.stack([report.gramian[i, j] for i, j in combinations(here, 2)])
        found["conflicts"] = (pairs < 0).to(pairs.dtype).mean()
    return found


def columns(tasks: Sequence[Task], *, gradients: bool, validates: bool) -> list[str]:
    """The columns of ``log.csv``: with ``gradients`` also what :func:`seen_by_balancer` says."""
    by_task = [f"{kind}.{task.name}" for kind in ("loss", "weight") for task in tasks]
    scores = [f"validation.{t.name}.{m.name}" for t in tasks if not t.auxiliary for m in t.measures]
    losses = [f"validation_loss.{task.name}" for task in tasks]
    norms = [*(f"gradient_norm.{task.name}" for task in tasks), *["conflicts"] * (len(tasks) > 1)]
    return [
        *ABOUT,
        "grad_norm",
        *by_task,
        *(norms if gradients else []),
        *(scores + losses if validates else []),
    ]


def nested(numbers: Mapping[str, float]) -> dict[str, Any]:
    """Dotted names as nested dictionaries, with None for what JSON has no number for.

    >>> nested({"loss.depth": 0.5, "loss.edges": float("nan"), "grad_norm": 2.0})
    {'loss': {'depth': 0.5, 'edges': None}, 'grad_norm': 2.0}
    """
    tree: dict[str, Any] = {}
    for name, value in numbers.items():
        first, _, rest = name.partition(".")
        number = value if math.isfinite(value) else None
        if rest:
            tree.setdefault(first, {})[rest] = number
        else:
            tree[first] = number
    return tree


@contextmanager
def shown(progress: bool | Progress, start: int) -> Iterator[Progress]:
    """The function that is told of progress: a bar for True, nothing for False, else the user's own."""
    if progress is False:
        yield lambda step, steps, losses: None
        return
    if progress is not True:
        yield progress
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(), TextColumn("{task.fields[losses]}"),
    )  # fmt: skip
    with Bar(*columns, console=Console(stderr=True)) as bar:
        job = bar.add_task("training", total=None, rate="", losses="")

        def tell(step: int, steps: int, losses: Mapping[str, float]) -> None:
            speed = bar.tasks[0].speed
            bar.update(
                job,
                completed=step,
                total=steps,
                rate=f"{speed:.2f} steps/s" if speed else "",
                losses="  ".join(f"{t} {v:.3f}" if v is not None else f"{t} -" for t, v in losses.items()),
            )

        bar.update(job, completed=start)
        yield tell
