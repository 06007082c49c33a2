"""Questions that all texts and tables ask of an analysis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from plait.config import Component, named
from plait.models import licences
from plait.study.analysis import Analysis, Comparison, Key
from plait.study.comparison import show
from plait.study.reporting.numbers import GAIN, Quantity, decimals, with_unit_of
from plait.study.results import ArmResult, StudyResults

Focus = Literal["encoder", "decoder", "both", "neither"]

NO_INTERACTION = {"encoder": ("shared", "separate"), "decoder": ("independent",)}
"""Parts in which tasks do not interact beyond sharing everything or nothing."""


def headlines(results: StudyResults) -> list[Key]:
    """The headline measure of each task."""
    return [(name, measures[0].name) for name, measures in results.measures.items()]


def gain_keys(results: StudyResults) -> list[Key]:
    """The relative gain of each task, then their mean."""
    return [*(("gain", task) for task in results.tasks), GAIN]


def scored(analysis: Analysis) -> list[ArmResult]:
    """The arms that have numbers, single-task references included."""
    return [arm for arm in analysis.results.arms if analysis.estimates.get(arm.name)]


def reference(results: StudyResults, arm: ArmResult) -> ArmResult | None:
    """The single-task networks that an arm's relative gain refers to; None for themselves and without any."""
    if arm.role == "single-task" or arm.reference is None:
        return None
    return results.arm(arm.reference)


def against_reference(analysis: Analysis, arm: ArmResult, key: Key) -> Comparison | None:
    """An arm minus its single-task networks; None if they were not compared."""
    single = reference(analysis.results, arm)
    return None if single is None else analysis.compared(key, arm.name, single.name)


def tested(found: Comparison | None) -> bool:
    """Whether a comparison has a p-value."""
    return found is not None and math.isfinite(found.adjusted)


def cost_ratio(analysis: Analysis, arm: ArmResult, cost: str = "macs") -> float | None:
    """An arm's cost over that of its single-task networks together; None if either was not measured."""
    single = reference(analysis.results, arm)
    return None if single is None else ratio(arm, single, cost)


def ratio(arm: ArmResult, other: ArmResult, cost: str = "macs") -> float | None:
    """One arm's cost over another's; None if either was not measured or the other's is 0."""
    ours, theirs = (getattr(one.cost, cost, None) for one in (arm, other))
    return ours / theirs if ours is not None and theirs else None


def part(arm: ArmResult, axis: str) -> Component:
    """An arm's encoder, decoder or balancer with its options, or its backbone."""
    recipe = arm.recipe
    return {
        "backbone": recipe.model.backbone,
        "encoder": recipe.model.encoder,
        "decoder": recipe.model.decoder,
        "balancer": recipe.balancer,
    }[axis]


def focus(arm: ArmResult) -> Focus:
    """Where an arm's tasks interact."""
    encoder, decoder = (named(part(arm, axis))[0] not in NO_INTERACTION[axis] for axis in NO_INTERACTION)
    return "both" if encoder and decoder else "encoder" if encoder else "decoder" if decoder else "neither"


def settings(arm: ArmResult) -> Mapping[str, Any]:
    """What an arm does differently beside its parts and tasks, apart from what was searched for it."""
    searched = {key for chosen in arm.tuned.values() for key in chosen}
    return {key: here for key, (here, _) in arm.differs.items() if key not in searched}


def images(results: StudyResults) -> int:
    """How many test images were scored; 0 if that is unknown."""
    for arm in results.arms:
        for run in arm.runs:
            return run.scores.images
    return 0


def split(results: StudyResults) -> str:
    """The name of the scored split; empty if nothing was scored."""
    for arm in results.arms:
        for run in arm.runs:
            return run.scores.split or run.recipe.data.test_split
    return ""


def data_sets(results: StudyResults) -> list[str]:
    """The data sets that the arms learn, as a rule one."""
    return list(dict.fromkeys(arm.recipe.data.name for arm in results.arms))


def facts(results: StudyResults) -> list[tuple[str, str]]:
    """How a study was made, and under which licence the weights are that its networks started from."""
    started = licences.told(arm.recipe.model for arm in results.arms)
    return [*results.facts, ("Backbone and weights", started)]


def count(number: int, one: str, many: str = "") -> str:
    """A number of things.

    >>> count(1, "seed"), count(3, "seed")
    ('1 seed', '3 seeds')
    """
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def titled(title: str, text: str) -> str:
    """A text under a study's title.

    >>> titled("Rooms", "No arm."), titled("How?", "No arm.")
    ('Rooms: No arm.', 'How? No arm.')
    """
    return f"{title}{'' if title.endswith(('.', '?', '!')) else ':'} {text}"


def seeds_in_words(arms: Sequence[ArmResult]) -> str:
    """How many seeds arms have: ``3 seeds``, or ``2 to 3 seeds``."""
    numbers = sorted({len(arm.seeds) for arm in arms})
    return count(numbers[0], "seed") if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]} seeds"


def power(comparisons: Sequence[Comparison], of: Quantity) -> str:
    """How small a difference cannot be seen: half the width of the intervals; empty without any.

    It is a lower bound: after the correction for many comparisons, more is needed.
    """
    halves = sorted(of.factor * (c.high - c.low) / 2 for c in comparisons if math.isfinite(c.high - c.low))
    if not halves:
        return ""
    low, high = (show(half, decimals(-half, half, 1)) for half in (halves[0], halves[-1]))
    if halves[-1] < 1.5 * halves[0]:
        return f"about {with_unit_of(low, of.apart)}"
    return f"about {low} to {with_unit_of(high, of.apart)} (by arm)"
