"""How numbers are printed: in their unit, with the digits that their interval justifies."""

from __future__ import annotations

import math
from dataclasses import dataclass

from plait.study.analysis import Comparison, Estimate, Key
from plait.study.comparison import DIGITS, show
from plait.study.results import StudyResults

GAIN: Key = ("gain", "mean")
"""The mean relative gain."""


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """What a key is of, and how its values are printed.

    Attributes:
        task: The task, or ``mean`` for the mean relative gain.
        title: Its name in a table's head, without unit.
        unit: ``%``, ``m``, ``°`` or empty.
        factor: What a value is multiplied by to be in that unit.
        higher_is_better: Its direction.
        protocol: By whose rules a measure is taken; empty for a gain.
        gain: Whether it is a relative gain, which is always printed with its sign.
    """

    task: str
    title: str
    unit: str
    factor: float
    higher_is_better: bool
    protocol: str = ""
    gain: bool = False

    @property
    def head(self) -> str:
        """Title, unit and direction: ``RMSE (m) ↓``."""
        return f"{self.title}{f' ({self.unit})' if self.unit else ''} {'↑' if self.higher_is_better else '↓'}"

    @property
    def words(self) -> str:
        """The quantity in a sentence: ``RMSE of depth``."""
        return self.title if self.gain else f"{self.title} of {self.task}"

    def decimals(self, low: float, high: float) -> int:
        """How many decimals an interval justifies."""
        return decimals(self.factor * low, self.factor * high, self.usual)

    @property
    def usual(self) -> int:
        """Decimals where nothing else is known."""
        return 1 if self.gain else DIGITS.get(self.unit, 3)

    def number(self, value: float, digits: int, *, sign: bool = False) -> str:
        """A value in the unit, without it; a dash where there is none."""
        return show(self.factor * value, digits, sign=sign or self.gain)

    def interval(self, low: float, high: float, *, sign: bool = False, digits: int | None = None) -> str:
        """Both ends of an interval, without unit; empty where there is none."""
        if not (math.isfinite(low) and math.isfinite(high)):
            return ""
        digits = self.decimals(low, high) if digits is None else digits
        return f"{self.number(low, digits, sign=sign)} to {self.number(high, digits, sign=sign)}"

    def value(self, found: Estimate) -> str:
        """A mean with its unit: ``+3.1 %``."""
        return with_unit_of(self.number(found.mean, self.decimals(found.low, found.high)), self.unit)

    def estimate(self, found: Estimate) -> str:
        """A mean as a sentence has it: ``+3.1 % (95 % interval +1.2 to +5.0)``."""
        interval = self.interval(found.low, found.high)
        return f"{self.value(found)} (95 % interval {interval})" if interval else self.value(found)

    @property
    def apart(self) -> str:
        """The unit of a difference: two shares, or two gains, are so many points apart."""
        return "points" if self.unit == "%" else self.unit

    def difference(self, found: Comparison) -> str:
        """A difference as a sentence has it, with its sign: ``-0.018 m, 95 % interval -0.024 to -0.013``."""
        said = self.apart_by(found.difference, found.low, found.high)
        interval = self.interval(found.low, found.high, sign=True)
        return f"{said}, 95 % interval {interval}" if interval else said

    def gained(self, found: Comparison) -> str:
        """A relative gain over the second arm, which has none: ``+3.1 % (95 % interval +1.2 to +5.0)``.

        The interval is that of the difference, which the test of it belongs to.
        """
        said = with_unit_of(self.number(found.difference, self.decimals(found.low, found.high)), self.unit)
        interval = self.interval(found.low, found.high)
        return f"{said} (95 % interval {interval})" if interval else said

    def apart_by(self, value: float, low: float, high: float) -> str:
        """A difference with its sign and unit: ``-0.018 m``."""
        return with_unit_of(self.number(value, self.decimals(low, high), sign=True), self.apart)

    def spread(self, found: Estimate, digits: int | None = None) -> str:
        """Mean and standard deviation over seeds, or the value alone: ``49.6 ± 0.4``."""
        digits = self.decimals(found.low, found.high) if digits is None else digits
        mean = self.number(found.mean, digits)
        if not math.isfinite(found.spread):
            return mean
        return f"{mean} ± {show(self.factor * found.spread, digits)}"


def quantity(results: StudyResults, key: Key) -> Quantity:
    """What a key of an analysis is of."""
    task, name = key
    if task == "gain" and (name == "mean" or name in results.tasks):
        title = "mean relative gain" if name == "mean" else f"relative gain on {name}"
        return Quantity(task=name, title=title, unit="%", factor=1.0, higher_is_better=True, gain=True)
    measure = next(measure for measure in results.measures[task] if measure.name == name)
    return Quantity(
        task=task,
        title=measure.title,
        unit=measure.unit,
        factor=100.0 if measure.unit == "%" else 1.0,
        higher_is_better=measure.higher_is_better,
        protocol=measure.protocol,
    )


def decimals(low: float, high: float, usual: int) -> int:
    """Decimals with which half an interval keeps one digit, or two if it begins with 1.

    Args:
        low: Lower end.
        high: Upper end.
        usual: Decimals where there is no interval; there is never more than one above it.

    >>> decimals(1.2, 5.0, 1), decimals(-2.0, 8.0, 1), decimals(0.441, 0.452, 3), decimals(0.0, 0.0, 1)
    (1, 0, 3, 1)
    """
    half = (high - low) / 2
    if not (math.isfinite(half) and half > 0):
        return usual
    place = -math.floor(math.log10(half))
    return min(max(place + (half * 10.0**place < 2), 0), usual + 1)


def probability(p: float) -> str:
    """A p-value as tables print it.

    >>> [probability(p) for p in (0.00002, 0.0123, 0.31, 1.0, float("nan"))]
    ['< 0.001', '0.012', '0.31', '1.00', '–']
    """
    if math.isnan(p):
        return "–"
    return "< 0.001" if p < 0.001 else show(p, 3 if p < 0.1 else 2)


def with_unit_of(number: str, unit: str) -> str:
    """A number with its unit behind it.

    >>> with_unit_of("3.1", "%"), with_unit_of("19.3", "°"), with_unit_of("0.2", "")
    ('3.1 %', '19.3°', '0.2')
    """
    return f"{number}{unit}" if unit == "°" else f"{number} {unit}".rstrip()
