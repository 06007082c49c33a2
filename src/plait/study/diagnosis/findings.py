"""Measured gradients as series by name, and in sentences that say no more than the numbers do."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plait.study.charts import Curve
from plait.study.comparison import join

Array = NDArray[np.float64]

WHOLE = "all shared layers"
"""What the whole is called beside the stages."""
EQUAL = 1.1
"""Up to this ratio of lengths none is called the longest."""


@dataclass(frozen=True)
class Findings:
    """What a run's log, or a look at its checkpoint, says about the gradients of its tasks.

    Attributes:
        tasks: Names of the tasks.
        log: Lines with ``loss`` and ``weight``: means over a few steps each.
        lines: Lines with ``gradients``: a measurement each.
        trained: Whether these were made while the run trained, so that there is time and an update.
    """

    tasks: tuple[str, ...]
    log: Sequence[Mapping[str, Any]]
    lines: Sequence[Mapping[str, Any]]
    trained: bool

    @property
    def stages(self) -> list[str]:
        """Names of the groups of layers that were told apart."""
        return list(dict.fromkeys(stage for line in self.lines for stage in line["gradients"]["stages"]))

    @property
    def pairs(self) -> list[str]:
        """Names of the pairs of tasks."""
        return [pair(one, two) for i, one in enumerate(self.tasks) for two in self.tasks[i + 1 :]]

    def has(self, quantity: str) -> bool:
        """Whether a quantity was measured at all."""
        return any(np.isfinite(values).any() for values in self.of(quantity).values())

    def of(self, quantity: str, stage: str | None = None) -> dict[str, Array]:
        """A quantity by task, by pair, or alone (under its own name): one value a measurement, else ``nan``.

        Args:
            quantity: As :func:`plait.training.diagnosis.numbers` names it; or ``loss`` or ``weight``.
            stage: Which group of layers; None for all shared ones together.
        """
        found: dict[str, Array] = {}
        for place, line in enumerate(self.lines):
            gradients = line["gradients"]
            where = gradients["whole"] if stage is None else gradients["stages"].get(stage, {})
            value = where.get(quantity, gradients.get(quantity))
            for name, number in _named(quantity, value):
                values = found.setdefault(name, np.full(len(self.lines), np.nan))
                values[place] = math.nan if number is None else number
        return found

    def curves(self, quantity: str, stage: str | None = None) -> dict[str, Curve]:
        """The same over steps."""
        steps = [float(line["step"]) for line in self.lines]
        return {
            name: list(zip(steps, values.tolist(), strict=True))
            for name, values in self.of(quantity, stage).items()
        }

    def logged(self, quantity: str) -> dict[str, Curve]:
        """A quantity of the log's own lines over steps, by task (or alone)."""
        found: dict[str, list[tuple[float, float]]] = {}
        for line in self.log:
            for name, number in _named(quantity, line.get(quantity)):
                found.setdefault(name, []).append(
                    (float(line["step"]), math.nan if number is None else float(number))
                )
        return {name: curve for name, curve in found.items() if any(math.isfinite(v) for _, v in curve)}

    def mean(self, quantity: str, stage: str | None = None) -> dict[str, float]:
        """The mean over measurements that have a value; geometric of lengths, for conditions the median."""
        over = {"norm": _geometric, "condition": _median}.get(quantity, _mean)
        return {name: over(values) for name, values in self.of(quantity, stage).items()}

    def negative(self, stage: str | None = None) -> dict[str, float]:
        """The part of the measurements in which each pair's cosine was negative."""
        return {name: _mean(_sign(values)) for name, values in self.of("cosine", stage).items()}

    def sentences(self) -> list[str]:
        """What the numbers say."""
        said = [self._conflicts(), self._where(), self._lengths()]
        if self.trained:
            said += [self._parts(), self._update()]
        return [sentence for sentence in said if sentence]

    def _conflicts(self) -> str:
        cosine = self.of("cosine")
        signs = {name: _sign(values) for name, values in cosine.items()}
        signs = {name: values[np.isfinite(values)] for name, values in signs.items()}
        counts = {name: len(values) for name, values in signs.items() if len(values)}
        if not counts:
            return "No two tasks had a gradient of the same layers at the same time, so none were compared."
        total = sum(counts.values())
        share = sum(float(signs[name].sum()) for name in counts) / total
        if share == 0:
            lowest = min(counts, key=lambda name: float(np.nanmin(cosine[name])))
            return (
                f"No two tasks' gradients pointed against each other in the {total} comparisons; the lowest "
                f"cosine was {text(float(np.nanmin(cosine[lowest])))}, of {lowest}."
            )
        worst = max(counts, key=lambda name: (signs[name].mean(), -float(np.nanmean(cosine[name]))))
        values = cosine[worst]
        spread = (
            f"mean cosine {text(float(np.nanmean(values)))}, from {text(float(np.nanmin(values)))} to "
            f"{text(float(np.nanmax(values)))}"
        )
        often = f"{int(signs[worst].sum())} of {counts[worst]} measurements"
        if len(counts) == 1:
            return f"The gradients of {worst} pointed against each other in {often} ({spread})."
        return (
            f"In {percent(share)} of {total} comparisons of two tasks their gradients pointed against each "
            f"other. Most often those of {worst} did: in {often} ({spread})."
        )

    def _where(self) -> str:
        found = {
            stage: _mean(self.of("conflicts", stage).get("conflicts", np.empty(0))) for stage in self.stages
        }
        found = {stage: value for stage, value in found.items() if math.isfinite(value)}
        if len(found) < 2:
            return ""
        most, least = max(found, key=found.__getitem__), min(found, key=found.__getitem__)
        if found[most] == found[least]:
            return f"The share of conflicts is the same in every stage ({percent(found[most])})."
        who = "pairs" if len(self.tasks) > 2 else "they"
        return (
            f"By stage, {who} conflict most often in {most} ({percent(found[most])} of comparisons) and "
            f"least often in {least} ({percent(found[least])})."
        )

    def _lengths(self) -> str:
        lengths = {task: value for task, value in self.mean("norm").items() if value > 0}
        if len(lengths) < 2:
            return ""
        longest, shortest = max(lengths, key=lengths.__getitem__), min(lengths, key=lengths.__getitem__)
        ratio = lengths[longest] / lengths[shortest]
        if ratio < EQUAL:
            return f"The tasks' gradients are about equally long (within a factor of {ratio:.2f})."
        return (
            f"The gradient of {longest} is the longest, {ratio:.3g} times as long as that of {shortest}, the "
            f"shortest, before any weight."
        )

    def _parts(self) -> str:
        parts = {task: _mean(np.abs(values)) for task, values in self.of("share").items()}
        parts = {task: value for task, value in parts.items() if math.isfinite(value)}
        if len(parts) < 2:
            return ""
        most, least = max(parts, key=parts.__getitem__), min(parts, key=parts.__getitem__)
        return (
            f"Of what the tasks bring into the update (effective weight times length), {most} has the "
            f"largest part, {percent(parts[most])} on average, and {least} the smallest, "
            f"{percent(parts[least])}."
        )

    def _update(self) -> str:
        said = []
        for quantity, what in (("update", "the update"), ("moved", "the step that the optimizer took")):
            against = []
            for task, values in self.of(quantity).items():
                known = values[np.isfinite(values)]
                if (known < 0).any():
                    against.append(f"{task} ({int((known < 0).sum())} of {len(known)} measurements)")
            if self.has(quantity):
                said.append(
                    f"{what} went against the gradient of {join(against)}"
                    if against
                    else f"{what} went against no task's gradient"
                )
        return f"{'; '.join(said)}.".replace("the", "The", 1) if said else ""


def pair(one: str, other: str) -> str:
    """The name of a pair of tasks.

    >>> pair("depth", "edges")
    'depth and edges'
    """
    return f"{one} and {other}"


def text(value: float, digits: int = 2) -> str:
    """A number as a page shows it; a dash where there is none.

    >>> text(-0.123), text(float("nan"))
    ('−0.12', '–')
    """
    if not math.isfinite(value):
        return "–"
    shown = f"{value:.{digits}f}"
    return (shown.lstrip("-") if float(shown) == 0 else shown).replace("-", "−")


def percent(part: float) -> str:
    """A part of one in percent.

    >>> percent(0.254), percent(0.004), percent(0.998)
    ('25 %', '0.4 %', '99.8 %')
    """
    digits = 1 if 0 < part < 0.01 or 0.99 < part < 1 else 0
    return f"{100 * part:.{digits}f} %"


def _named(quantity: str, value: Any) -> Iterator[tuple[str, float | None]]:
    """A logged value by task, by pair or alone."""
    if not isinstance(value, Mapping):
        if value is not None:
            yield quantity, value
        return
    for task, inside in value.items():
        if isinstance(inside, Mapping):
            yield from ((pair(task, other), number) for other, number in inside.items())
        else:
            yield task, inside


def _sign(values: Array) -> Array:
    return np.where(np.isfinite(values), (values < 0).astype(np.float64), np.nan)


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def _geometric(values: Array) -> float:
    return math.exp(_mean(np.log(values[values > 0]))) if (values > 0).any() else math.nan


def _median(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else math.nan
