"""Weights that do not change: the baseline that every other rule has to beat."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Unpack

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.errors import ConfigurationError
from plait.registry import nearest


class Equal(Balancer):
    """The plain sum of the losses: every weight is 1, whichever tasks are present.

    A sum, not a mean: adding a task does not change what the others contribute, and neither does a batch
    that lacks one. With ``reduction="mean"`` it is the mean over the present ones.

    Args:
        common: See :class:`~plait.balancing.Common`.
    """

    needs = Needs(quantity="nothing")

    def __init__(self, **common: Unpack[Common]) -> None:
        super().__init__(**common)

    def weights(self, seen: Observation) -> Tensor:
        return torch.ones(len(seen.places), dtype=torch.float64)


class Fixed(Balancer):
    """A weighted sum of the losses: weights are used as given, neither normalised nor spread anew.

    Args:
        weights: ``{task: weight}``, finite and not negative; tasks that are not named have their own
            ``Task.weight``, or 1 if only names are known.
        common: See :class:`~plait.balancing.Common`.

    Raises:
        ConfigurationError: Without tasks, or for a weight of an unknown task, or one that is negative.
    """

    needs = Needs(quantity="nothing")
    factors: Tensor

    def __init__(self, *, weights: Mapping[str, float] | None = None, **common: Unpack[Common]) -> None:
        tasks = common.get("tasks")
        common["tasks"] = tasks if tasks is not None else tuple(weights or ()) or None
        super().__init__(**common)
        if self.tasks is None:
            raise ConfigurationError(
                "fixed weights belong to tasks: pass tasks=, weights={task: weight} or both"
            )
        given = {} if tasks is None else {t.name: t.weight for t in tasks if not isinstance(t, str)}
        given |= weights or {}
        for name, weight in given.items():
            if name not in self.tasks:
                raise ConfigurationError(
                    f"a weight is given for {name!r}{nearest(name, self.tasks)}; "
                    f"the tasks are {', '.join(self.tasks)}"
                )
            if not (math.isfinite(weight) and weight >= 0):
                raise ConfigurationError(
                    f"the weight of {name!r} must be finite and not negative, got {weight}"
                )
        factors = [float(given.get(name, 1.0)) for name in self.tasks]
        # Not saved: the recipe says what they are, also when a run is resumed with others.
        self.register_buffer("factors", torch.tensor(factors, dtype=torch.float64), persistent=False)

    def weights(self, seen: Observation) -> Tensor:
        return self.factors[list(seen.places)]
