"""RLW: random weights, the baseline of every rule that claims to know better."""

from __future__ import annotations

from typing import Literal, Unpack, get_args

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.draws import Draws
from plait.errors import ConfigurationError

Distribution = Literal["normal", "uniform", "dirichlet", "bernoulli", "constrained_bernoulli"]


def rlw_weights(
    tasks: int, *, distribution: Distribution = "normal", generator: torch.Generator | None = None
) -> Tensor:
    """Random weights of T tasks.

    Args:
        tasks: T, 1 to 62.
        distribution: ``"normal"`` and ``"uniform"``: the softmax of T standard normal numbers, or of T
            numbers uniform in [0, 1]. ``"dirichlet"``: uniform on the simplex. ``"bernoulli"``: equal weights
            of a random subset of the tasks, each but the empty one being as likely.
            ``"constrained_bernoulli"``: one task at a time.
        generator: On the CPU; None for torch's own.

    Returns:
        Weights ``[T]``, float64, on the CPU, not negative, with sum 1. The mean of each is 1 / T.

    Source:
        Lin et al., Reasonable Effectiveness of Random Weighting, TMLR 2022, and its first code release.
        There the tasks of a Bernoulli subset have weight 1 each.
    """
    match distribution:
        case "normal":
            return torch.randn(tasks, generator=generator, dtype=torch.float64).softmax(0)
        case "uniform":
            return torch.rand(tasks, generator=generator, dtype=torch.float64).softmax(0)
        case "dirichlet":
            # Exponential numbers divided by their sum.
            drawn = torch.empty(tasks, dtype=torch.float64).exponential_(generator=generator)
        case "bernoulli":
            subset = int(torch.randint(1, 2**tasks, (), generator=generator))
            drawn = torch.tensor([float(subset >> task & 1) for task in range(tasks)], dtype=torch.float64)
        case "constrained_bernoulli":
            chosen = int(torch.randint(tasks, (), generator=generator))
            drawn = torch.zeros(tasks, dtype=torch.float64)
            drawn[chosen] = 1
    return drawn / drawn.sum()


class RLW(Balancer):
    """Random loss weighting: new weights in every step, which depend on nothing.

    They are the same on every process, move nobody else's random numbers, and go on where they were when
    training is resumed. In expectation it is the mean of the losses.

    Args:
        distribution: Where weights are drawn from; see :func:`rlw_weights`.
        seed: Of the weights, beside the seed of the run.
        common: See :class:`~plait.balancing.Common`.

    Source:
        Lin et al., Reasonable Effectiveness of Random Weighting, TMLR 2022.
    """

    needs = Needs(quantity="nothing")
    natural = "mean"

    def __init__(
        self, *, distribution: Distribution = "normal", seed: int = 0, **common: Unpack[Common]
    ) -> None:
        super().__init__(**common)
        if distribution not in get_args(Distribution):
            raise ConfigurationError(
                f"distribution is one of {', '.join(get_args(Distribution))}, got {distribution!r}"
            )
        self.distribution = distribution
        self.draws = Draws(seed)

    def weights(self, seen: Observation) -> Tensor:
        return rlw_weights(len(seen.places), distribution=self.distribution, generator=self.draws.next())
