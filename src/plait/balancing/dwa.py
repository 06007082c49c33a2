"""DWA: more weight to the tasks whose loss has fallen least."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.errors import ConfigurationError


def dwa_weights(last: Tensor, before: Tensor, *, temperature: float = 2.0) -> Tensor:
    """Weights that favour the tasks whose loss has fallen least (dynamic weight average).

    >>> dwa_weights(torch.tensor([0.5, 3.0]), torch.tensor([1.0, 3.0]))
    tensor([0.8756, 1.1244])

    Args:
        last: Mean loss of each task over the last epoch, ``[T]``, positive.
        before: The same over the epoch before it, ``[T]``, positive.
        temperature: Large values approach equal weights.

    Returns:
        Positive weights ``[T]`` that sum to T. Multiplying both means of a task by a constant changes
        nothing.

    Raises:
        ValueError: If a mean is not positive; the message names its place and value. So it waits for the
            device.

    Source:
        Liu, Johns and Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019, eq. 7.
    """
    for name, means in {"last": last, "before": before}.items():
        for place, mean in enumerate(means.tolist()):
            if not mean > 0:
                raise ValueError(f"mean losses are divided: expected {name}[{place}] above 0, got {mean}")
    return len(last) * torch.softmax(last / before / temperature, dim=0)


class DWA(Balancer):
    """Dynamic weight average: weights of an epoch from the mean losses of the two epochs before it.

    In the first two epochs all weights are 1, and so is that of a task without a mean in one of the two
    epochs (it was absent, or its loss was exactly 0 throughout). In each step the weights of the present
    tasks are scaled to sum to their number. The rule sees how fast a loss falls and never how large it is:
    it does not balance scales.

    Args:
        temperature: T in the paper; large values approach equal weights.
        common: See :class:`~plait.balancing.Common`.

    Raises:
        ConfigurationError: At the end of an epoch, if a task's mean loss is negative.

    Source:
        Liu, Johns and Davison, End-to-End Multi-Task Learning with Attention, CVPR 2019, section 3.3.
    """

    needs = Needs(quantity="nothing", epoch_end=True)
    sums: Tensor
    counts: Tensor
    last: Tensor
    factors: Tensor

    def __init__(self, *, temperature: float = 2.0, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        if not temperature > 0:
            raise ConfigurationError(f"the temperature of DWA must be above 0, got {temperature}")
        self.temperature = temperature
        for name in ("sums", "counts", "last", "factors"):
            self.declare_state(name)

    def weights(self, seen: Observation) -> Tensor:
        factors = self.state("factors", seen.total, fill=1.0, like=seen.losses)[list(seen.places)]
        return factors * (len(factors) / factors.sum())

    def observe(self, seen: Observation) -> None:
        losses, places = self.losses_of(seen), list(seen.places)
        self.state("sums", seen.total, like=losses)[places] += losses
        self.state("counts", seen.total, like=losses)[places] += 1

    def end_epoch(self) -> None:
        """Makes the weights of the next epoch; here the host waits for the device."""
        if not self.counts.any():
            return
        before = self.state("last", len(self.sums), like=self.sums)
        last = self.sums / self.counts.clamp(min=1)
        if (last < 0).any():
            named = dict(zip(self.tasks or range(len(last)), last.tolist(), strict=True))
            raise ConfigurationError(f"DWA divides mean losses and needs positive ones, got {named}")
        known = (last > 0) & (before > 0)
        factors = torch.ones_like(last)
        factors[known] = dwa_weights(last[known], before[known], temperature=self.temperature)
        self.last, self.factors = last, factors
        self.sums, self.counts = torch.zeros_like(last), torch.zeros_like(last)
