"""STCH: a smooth maximum of the losses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Unpack

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation, Preference
from plait.balancing.log_sum import log_sum_weights
from plait.errors import ConfigurationError
from plait.registry import nearest


def stch_weights(
    losses: Tensor, *, mu: float, preference: Tensor | None = None, reference: Tensor | None = None
) -> Tensor:
    """The gradient of ``mu log sum_i exp(lambda_i (L_i - z_i) / mu)``, a smooth maximum.

    The value is between ``max_i lambda_i (L_i - z_i)`` and that plus ``mu log T``.

    >>> stch_weights(torch.tensor([1.0, 3.0]), mu=0.1)
    tensor([2.2699e-05, 4.9998e-01])

    Args:
        losses: L, ``[T]``, of any sign.
        mu: Smoothness, above 0: towards 0 only the largest weighted gap counts, towards infinity all count
            by lambda.
        preference: lambda, ``[T]``, not negative, used as given; None for 1 / T each.
        reference: z, the ideal point ``[T]``; None for 0.

    Returns:
        Weights ``lambda_i softmax_i(lambda (L - z) / mu)``, ``[T]``. Entries of minus infinity are left out,
        with weight 0. Never waits for the device.

    Source:
        Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective Optimization, ICML 2024.
    """
    scale = torch.full_like(losses, 1 / len(losses)) if preference is None else preference.to(losses)
    gaps = losses if reference is None else losses - reference.to(losses)
    scores = (scale * gaps / mu).masked_fill(gaps == -torch.inf, -torch.inf)
    return scale * scores.softmax(0)


class STCH(Balancer):
    """Smooth Tchebycheff scalarisation: a smooth maximum of the tasks' losses, so the worst task counts most.

    Two forms. The default is the one the authors train networks with: for ``warm_up_epochs`` epochs and one
    more it is the mean of the log-losses. The mean losses of that last epoch are the nadir N, and from then
    on it is the smooth maximum of ``log(L_i / N_i)``. Multiplying a loss by a positive constant changes
    nothing. A task that was absent in that epoch goes on with its log-loss until an epoch in which it is
    present has ended. A loss of exactly 0 is left out; a negative one makes the weights NaN.

    With ``warm_up_epochs=None`` it is the paper's formula on the losses as they are, from the first step.

    Args:
        mu: Smoothness, above 0.
        warm_up_epochs: Epochs of log-losses before the one whose mean is the nadir; None for the paper's
            formula.
        preference: lambda, by name or in declared order: of sum 1 over the present tasks in the paper's
            formula, of mean 1 in the form with logarithms.
        reference: ``{task: ideal loss}`` in the paper's formula; 0 for the others.
        common: See :class:`~plait.balancing.Common`.

    Source:
        Lin et al., Smooth Tchebycheff Scalarization for Multi-Objective Optimization, ICML 2024, and their
        code for multi-task learning. That multiplies by T, as ``reduction="sum"`` does here. The paper's
        formula is multiplied by T: with equal preference its weights sum to 1 instead of 1 / T.
    """

    needs = Needs(quantity="losses", epoch_end=True)
    natural = "mean"
    epoch: Tensor
    sums: Tensor
    counts: Tensor
    nadir: Tensor

    def __init__(
        self,
        *,
        mu: float = 1.0,
        warm_up_epochs: int | None = 4,
        preference: Preference | None = None,
        reference: Mapping[str, float] | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.set_preference(preference)
        if not mu > 0:
            raise ConfigurationError(f"mu of STCH must be above 0, got {mu}")
        if warm_up_epochs is not None and warm_up_epochs < 0:
            raise ConfigurationError(f"warm_up_epochs is 0 or more, or null, got {warm_up_epochs}")
        if reference and warm_up_epochs is not None:
            raise ConfigurationError(
                "a reference belongs to the paper's formula: pass warm_up_epochs=None (null in a recipe) too"
            )
        for name, value in (reference or {}).items():
            if name not in (self.tasks or ()):
                raise ConfigurationError(
                    f"a reference is given for {name!r}{nearest(name, self.tasks or ())}; "
                    f"the tasks are {', '.join(self.tasks or ('not named: pass tasks=[...]',))}"
                )
            if not math.isfinite(value):
                raise ConfigurationError(f"the reference of {name!r} must be finite, got {value}")
        self.mu, self.warm_up_epochs, self.reference = mu, warm_up_epochs, dict(reference or {})
        self.register_buffer("epoch", torch.tensor(0))
        for name in ("sums", "counts", "nadir"):
            self.declare_state(name)

    def weights(self, seen: Observation) -> Tensor:
        losses, preference = self.losses_of(seen), self.preference_of(seen)
        if self.warm_up_epochs is None:
            reference = self._reference_of(seen)
            return len(losses) * stch_weights(losses, mu=self.mu, preference=preference, reference=reference)
        scale = torch.ones_like(losses) if preference is None else len(losses) * preference.to(losses)
        nadir = self.state("nadir", seen.total, like=losses)[list(seen.places)]
        known = nadir > 0
        heard = known & (losses != 0)
        gaps = (losses / nadir).log().masked_fill(~heard, -torch.inf)
        shares = stch_weights(gaps, mu=self.mu, preference=scale) * heard.sum()
        # The gradient of log L is 1 / L, of a task without a nadir as well.
        shares = shares.where(known, scale).masked_fill(losses == 0, 0.0)
        return log_sum_weights(losses, shares) / len(losses)

    def observe(self, seen: Observation) -> None:
        if self.warm_up_epochs is not None:
            losses, places = self.losses_of(seen), list(seen.places)
            self.state("sums", seen.total, like=losses)[places] += losses
            self.state("counts", seen.total, like=losses)[places] += 1

    def end_epoch(self) -> None:
        """Takes the epoch's means as the nadir of tasks that still need one; here the host waits."""
        if self.warm_up_epochs is None:
            return
        if int(self.epoch) >= self.warm_up_epochs and self.counts.numel():
            nadir = self.state("nadir", len(self.sums), like=self.sums)
            self.nadir = torch.where(nadir > 0, nadir, self.sums / self.counts.clamp(min=1))
        self.sums, self.counts = torch.zeros_like(self.sums), torch.zeros_like(self.counts)
        self.epoch += 1

    def _reference_of(self, seen: Observation) -> Tensor | None:
        if not self.reference:
            return None
        names = self.tasks or ()
        return torch.tensor([self.reference.get(names[place], 0.0) for place in seen.places])
