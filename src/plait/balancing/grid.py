"""Fixed weights by search: the points of a grid, and the best of them by a score."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from plait.errors import ConfigurationError

LARGEST = 1_000_000
"""Combinations that are listed at most."""


@dataclass(frozen=True)
class Trial:
    """One point of a grid and what it scored.

    Attributes:
        weights: ``{task: weight}``, as the ``fixed`` balancer takes them.
        score: Of the network trained with them; higher is better, NaN if the training failed.
    """

    weights: Mapping[str, float]
    score: float


def weight_grid(
    tasks: Sequence[str],
    *,
    values: Sequence[float] = (0.1, 1.0, 10.0),
    budget: int | None = None,
    seed: int = 0,
) -> list[dict[str, float]]:
    """All combinations of some weights that differ in more than a common factor.

    A common factor changes the learning rate and not the balance, so proportional combinations are one point,
    and every point is scaled to mean 1, as equal weights have.

    >>> [list(point.values()) for point in weight_grid(["depth", "normals"], values=(1, 3))]
    [[1.0, 1.0], [0.5, 1.5], [1.5, 0.5]]

    Args:
        tasks: Their names.
        values: What a weight may be, positive. K geometric steps give ``K^T - (K - 1)^T`` points.
        budget: At most so many points, drawn without replacement; equal weights are always among them.
            None for all.
        seed: Of the draw.

    Returns:
        Points ``{task: weight}``, equal weights first, the others in the order of ``itertools.product``.

    Raises:
        ConfigurationError: Without tasks or values, for a value that is not positive, a budget below 1, or
            more than a million combinations.
    """
    if not tasks or not values or not all(math.isfinite(value) and value > 0 for value in values):
        raise ConfigurationError(
            f"a grid needs tasks and positive values, got {list(tasks)} and {list(values)}"
        )
    if budget is not None and budget < 1:
        raise ConfigurationError(f"the budget of a grid is 1 or more points, got {budget}")
    if len(values) ** len(tasks) > LARGEST:
        raise ConfigurationError(
            f"{len(values)} values for {len(tasks)} tasks are {len(values) ** len(tasks)} combinations: "
            f"use fewer values, or search over groups of tasks"
        )
    # Decimal as they are written, so that 0.1 : 1 and 1 : 10 are the same proportion.
    exact = [Fraction(str(value)) for value in values]
    points: dict[tuple[Fraction, ...], None] = {(Fraction(1),) * len(tasks): None}
    for combination in itertools.product(exact, repeat=len(tasks)):
        total = sum(combination)
        points[tuple(len(tasks) * weight / total for weight in combination)] = None
    equal, *others = points
    if budget is not None and budget <= len(others):
        chosen = sorted(random.Random(seed).sample(range(len(others)), budget - 1))
        others = [others[number] for number in chosen]
    return [dict(zip(tasks, map(float, point), strict=True)) for point in (equal, *others)]


def grid_search(
    evaluate: Callable[[Mapping[str, float]], float], grid: Iterable[Mapping[str, float]]
) -> list[Trial]:
    """Scores every point of a grid; the best is the first.

    The score that chooses is no longer an independent one: train on the training split, let ``evaluate``
    score on a validation split, and report the chosen weights on a test split that took no part.

    >>> trials = grid_search(lambda weights: -weights["depth"], weight_grid(["depth", "normals"]))
    >>> round(trials[0].weights["normals"], 3)
    1.98

    Args:
        evaluate: From weights to a score, higher being better; for instance trains with the ``fixed``
            balancer and returns the mean relative gain on the validation split.
        grid: Points, for instance those of :func:`weight_grid`.

    Returns:
        All trials, best first; of equal ones the earlier first, and those of score NaN last.

    Raises:
        ConfigurationError: If no point has a score.
    """
    trials = [Trial(dict(weights), float(evaluate(weights))) for weights in grid]
    if all(math.isnan(trial.score) for trial in trials):
        raise ConfigurationError(f"none of the {len(trials)} points of the grid has a score: all are NaN")
    return sorted(trials, key=lambda trial: (math.isnan(trial.score), -trial.score))
