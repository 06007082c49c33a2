"""The larger single-task networks of a study: one arm for each arm that needs more than its plain ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from plait.config import Recipe
from plait.errors import ConfigurationError
from plait.study.arms import SINGLE_TASK, Network, PlannedArm

MORE = 1.05
"""An arm that needs at most so many times the operations of its single-task networks gets no larger ones."""


def larger_arms(arms: Sequence[PlannedArm], how: Literal["wider"] | Sequence[str]) -> list[PlannedArm]:
    """The arms, and at the end single-task networks as large as those of them that need more operations.

    Args:
        arms: With their single-task references.
        how: As in :func:`plait.study.larger.larger_recipe`.

    Raises:
        ConfigurationError: If an arm cannot be built, or nothing can be made larger.
    """
    from plait.study.larger import larger_recipe, total_macs

    made: list[PlannedArm] = []
    held: list[PlannedArm] = []
    plain: dict[tuple[str, tuple[int, int]], int] = {}
    for arm in arms:
        reference = next((r for r in arms if r.name == arm.reference), None)
        if reference is None:
            held.append(arm)
            continue
        size = seen_size(arm.recipe)
        single = [network.recipe for network in reference.networks]
        try:
            needed = total_macs([arm.recipe], size)
            if (reference.name, size) not in plain:
                plain[reference.name, size] = total_macs(single, size)
        except ConfigurationError as error:
            raise ConfigurationError(f"arm {arm.name!r}: {error}") from error
        if needed <= MORE * plain[reference.name, size]:
            held.append(arm)
            continue
        larger = larger_recipe(single, needed, how, size)
        networks = tuple(
            Network(task=network.task, recipe=recipe)
            for network, recipe in zip(reference.networks, larger.recipes, strict=True)
        )
        known = next((other for other in made if other.networks == networks), None)
        if known is None:
            known = PlannedArm(
                name=f"{SINGLE_TASK} as large as {arm.name}",
                role="larger single-task",
                networks=networks,
                processes=reference.processes,
                reference=reference.name,
                note=f"made for {arm.name}: {larger.changed}, {larger.ratio:.2f} times its operations",
            )
            made.append(known)
        held.append(replace(arm, larger=known.name))
    return [*held, *made]


def seen_size(recipe: Recipe) -> tuple[int, int]:
    """Height and width at which a network sees an image in evaluation."""
    if recipe.evaluation.size is not None:
        height, width = recipe.evaluation.size
        return int(height), int(width)
    from plait.training.run import Run

    sample = Run(Path(), recipe).dataset(recipe.data.test_split)[0]
    return int(sample.image.shape[-2]), int(sample.image.shape[-1])
