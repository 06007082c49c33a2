"""What the runs of an arm logged while they trained, read once and averaged over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plait.study.charts import Curve

if TYPE_CHECKING:
    from plait.study.results import ArmResult
    from plait.tasks.base import Task
    from plait.training.run import Run

POINTS = 120
"""Points of a curve at most; longer logs are averaged in blocks of equal size."""
CONSTANT = 1e-6
"""Weights that change by no more than this part of themselves are called constant."""

Line = Mapping[str, Any]
Matrix = Mapping[str, Mapping[str, float]]
"""``{row: {column: value}}``."""


@dataclass(frozen=True, kw_only=True)
class History:
    """One arm's training over steps; a curve is the mean over its seeds, NaN where none has a value.

    Attributes:
        loss: Training loss by task.
        validation: Headline measure on the validation split by task, in its own unit.
        weight: The balancer's weight by task.
        gradient_norm: Length of the task's gradient where the balancer took it, by task.
        conflicts: Share of conflicting pairs of tasks, in [0, 1]; empty where no gradients were taken.
        affinity: Mean over measurements and seeds: by which part of itself the column's loss falls after a
            step on the row alone; empty where it was not measured.
        cosine: Likewise the cosine of two tasks' gradients at all shared layers.
        gradients: Lines of the first seed's log that hold measured gradients, with that run and the rest of
            its lines; None where it measured none.
    """

    loss: Mapping[str, Curve]
    validation: Mapping[str, Curve]
    weight: Mapping[str, Curve]
    gradient_norm: Mapping[str, Curve]
    conflicts: Curve
    affinity: Matrix = field(default_factory=dict)
    cosine: Matrix = field(default_factory=dict)
    gradients: tuple[Run, list[dict[str, Any]]] | None = None

    @property
    def balances(self) -> bool:
        """Whether any weight changed while it trained."""
        for curve in self.weight.values():
            values = [value for _, value in curve if math.isfinite(value)]
            if values and max(values) - min(values) > CONSTANT * max(map(abs, values)):
                return True
        return False


def read(arm: ArmResult, tasks: Mapping[str, Task]) -> History:
    """Reads the logs of an arm's finished runs.

    Args:
        arm: The arm.
        tasks: The reported tasks.
    """
    every = Gathered()
    gradients = None
    for place, seed in enumerate(arm.seeds):
        for run in seed.runs:
            log = run.log
            every.take(log, {name: task.headline.name for name, task in tasks.items()})
            if place == 0 and gradients is None and any("gradients" in line for line in log):
                gradients = (run, log)
    return History(
        loss=every.curves("loss"),
        validation=every.curves("validation"),
        weight=every.curves("weight"),
        gradient_norm=every.curves("gradient_norm"),
        conflicts=every.curves("conflicts").get("", []),
        affinity=every.matrix("affinity"),
        cosine=every.matrix("cosine"),
        gradients=gradients,
    )


class Gathered:
    """Numbers of several logs under ``(quantity, name)`` by step, as sums and counts."""

    def __init__(self) -> None:
        self.over_steps: dict[tuple[str, str], dict[int, tuple[float, int]]] = {}
        self.pairs: dict[tuple[str, str, str], tuple[float, int]] = {}

    def take(self, log: Sequence[Line], headlines: Mapping[str, str]) -> None:
        """Adds a run's log; of validations the given measure of each task."""
        for line in log:
            step = int(line["step"])
            for quantity in ("loss", "weight", "gradient_norm"):
                for name, value in line.get(quantity, {}).items():
                    self._add(quantity, name, step, value)
            if "conflicts" in line:
                self._add("conflicts", "", step, line["conflicts"])
            for task, numbers in line.get("validation", {}).items():
                if task in headlines:
                    self._add("validation", task, step, numbers.get(headlines[task]))
            for quantity, row, column, value in pairs(line):
                if value is not None and math.isfinite(value):
                    total, count = self.pairs.get((quantity, row, column), (0.0, 0))
                    self.pairs[quantity, row, column] = (total + value, count + 1)

    def _add(self, quantity: str, name: str, step: int, value: float | None) -> None:
        found = self.over_steps.setdefault((quantity, name), {})
        total, count = found.get(step, (0.0, 0))
        if value is not None and math.isfinite(value):
            total, count = total + value, count + 1
        found[step] = (total, count)

    def curves(self, quantity: str) -> dict[str, Curve]:
        """The means of a quantity over steps, by name; those without any value are left out."""
        found = {}
        for (kind, name), by_step in self.over_steps.items():
            if kind == quantity and any(count for _, count in by_step.values()):
                curve = [(float(s), t / n if n else math.nan) for s, (t, n) in sorted(by_step.items())]
                found[name] = thinned(curve)
        return found

    def matrix(self, quantity: str) -> dict[str, dict[str, float]]:
        """The means of a quantity of pairs."""
        found: dict[str, dict[str, float]] = {}
        for (kind, row, column), (total, count) in self.pairs.items():
            if kind == quantity:
                found.setdefault(row, {})[column] = total / count
        return found


def pairs(line: Line) -> Iterator[tuple[str, str, str, float | None]]:
    """What a line says of ordered pairs of tasks: ``(quantity, row, column, value)``."""
    for giver, onto in line.get("affinity", {}).items():
        for taker, value in onto.items():
            yield "affinity", giver, taker, value
    cosine = line.get("gradients", {}).get("whole", {}).get("cosine", {})
    for one, others in cosine.items():
        for other, value in others.items():
            if one != other:
                yield "cosine", one, other, value
                if one not in cosine.get(other, {}):  # each pair may be logged once
                    yield "cosine", other, one, value


def thinned(curve: Curve, most: int = POINTS) -> Curve:
    """The curve as means over blocks of equal length, at most ``most`` of them, at each block's last step.

    >>> thinned([(1, 4.0), (2, 2.0), (3, 6.0)], 2)
    [(2, 3.0), (3, 6.0)]
    """
    size = -(-len(curve) // most)
    if size <= 1:
        return curve
    blocks = [curve[start : start + size] for start in range(0, len(curve), size)]
    found = []
    for block in blocks:
        known = [value for _, value in block if math.isfinite(value)]
        found.append((block[-1][0], sum(known) / len(known) if known else math.nan))
    return found
