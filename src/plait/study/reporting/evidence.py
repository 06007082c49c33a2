"""The comparisons behind an answer, and how they are said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from plait.study.analysis import Analysis, Comparison, Key
from plait.study.comparison import join
from plait.study.reporting import reading
from plait.study.reporting.layout import NOTHING, Cell, Column, Table, number
from plait.study.reporting.numbers import GAIN, Quantity, probability, quantity
from plait.study.results import ArmResult

CANNOT = "This study cannot answer it"

FEW = 6
"""How many of the differences an answer names at most; the others stand in its list."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One comparison behind an answer.

    Attributes:
        study: The study's title.
        key: What was compared.
        quantity: How that is printed.
        comparison: The two arms and the test.
    """

    study: str
    key: Key
    quantity: Quantity
    comparison: Comparison

    @property
    def tested(self) -> bool:
        """Whether it has a p-value."""
        return reading.tested(self.comparison)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A question with what the tests say to it.

    Attributes:
        question: In one sentence.
        text: The answer, in a few.
        answered: Whether there were tests to answer it from.
        evidence: The comparisons behind it.
    """

    question: str
    text: str
    answered: bool = False
    evidence: tuple[Evidence, ...] = ()


def evidence(analysis: Analysis, pairs: Iterable[tuple[ArmResult, ArmResult]]) -> Iterator[Evidence]:
    """Pairs in the mean relative gain or, where there is none, in each headline measure."""
    for first, second in pairs:
        whole = analysis.compared(GAIN, first.name, second.name)
        keys = [GAIN] if whole is not None else reading.headlines(analysis.results)
        for key in keys:
            found = analysis.compared(key, first.name, second.name)
            if found is not None:
                yield Evidence(
                    study=analysis.results.title,
                    key=key,
                    quantity=quantity(analysis.results, key),
                    comparison=found,
                )


def pairs_in_words(found: Sequence[Evidence]) -> str:
    """How many comparisons differ, which, and how small a difference could not have been seen."""
    held = [one for one in found if one.tested]
    untested = len(found) - len(held)
    rest = f" {reading.count(untested, 'comparison')} could not be tested." if untested else ""
    if not held:
        return rest.strip()
    told = [one for one in held if one.comparison.better is not None]
    if not told:
        return f"{none_told_apart(held)}{rest}"
    by_quantity: dict[str, list[str]] = {}
    for one in told[:FEW]:
        by_quantity.setdefault(one.quantity.words, []).append(said(one))
    named = " ".join(f"In {words}, {'; '.join(pairs)}." for words, pairs in by_quantity.items())
    more = f" {len(told) - FEW} more differ; they are listed." if len(told) > FEW else ""
    level = len(held) - len(told)
    left = {0: "", 1: " The other was not told apart."}.get(level, f" {level} others were not told apart.")
    return f"{named}{more}{left}{rest}"


def said(one: Evidence) -> str:
    """One shown difference, the better arm first: ``a is shown to be better than b (+3.1 points, ...)``."""
    pair = one.comparison
    if pair.better == pair.second:
        pair = Comparison(
            first=pair.second, second=pair.first, difference=-pair.difference, low=-pair.high, high=-pair.low,
            p=pair.p, adjusted=pair.adjusted, better=pair.better,
        )  # fmt: skip
    return f"{pair.first} is shown to be better than {pair.second} ({one.quantity.difference(pair)})"


def none_told_apart(held: Sequence[Evidence]) -> str:
    """Says that no difference was shown, and how small a one could not have been."""
    kinds = {one.key: one.quantity for one in held}
    which = "The two were" if len(held) == 1 else f"None of the {len(held)} comparisons was"
    text = "not told apart" if len(held) == 1 else "told apart"
    smallest = [
        f"{reading.power([one.comparison for one in held if one.key == key], of)} in {of.words}"
        for key, of in kinds.items()
    ]
    return f"{which} {text}; differences below {join(smallest)} cannot be seen here."


def table(answer: Answer) -> Table:
    """The comparisons behind an answer."""
    several = len({one.study for one in answer.evidence}) > 1
    heads = ["study"] * several + [
        "first",
        "second",
        "in",
        "first − second",
        "95 % interval",
        "adjusted p",
        "better",
    ]
    numeric = ("first − second", "95 % interval", "adjusted p")
    rows = tuple(
        (
            *[Cell(text=one.study)] * several,
            Cell(text=one.comparison.first),
            Cell(text=one.comparison.second),
            Cell(text=one.quantity.words),
            Cell(text=first_minus_second(one), value=number(one.quantity.factor * one.comparison.difference)),
            Cell(
                text=one.quantity.interval(one.comparison.low, one.comparison.high, sign=True) or NOTHING,
            ),
            Cell(text=probability(one.comparison.adjusted), value=number(one.comparison.adjusted)),
            Cell(text=one.comparison.better or ("not shown" if one.tested else "not tested")),
        )
        for one in answer.evidence
    )
    columns = tuple(Column(title=head, numeric=head in numeric) for head in heads)
    return Table(title=f"Behind the answer: {answer.question}", columns=columns, rows=rows)


def first_minus_second(one: Evidence) -> str:
    """A difference with its unit, without its interval."""
    of, pair = one.quantity, one.comparison
    return of.apart_by(pair.difference, pair.low, pair.high)
