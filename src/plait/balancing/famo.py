"""FAMO: losses that fall at the same rate, from loss values alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Unpack

import torch
from torch import Tensor

from plait.balancing.adam import Adam
from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.errors import ConfigurationError
from plait.registry import nearest


def famo_weights(gaps: Tensor, xi: Tensor) -> Tensor:
    """Weights ``z_i / D_i``, scaled to sum 1, with ``z = softmax(xi)``.

    They are the gradient of ``c sum_i z_i log D_i`` with ``c = 1 / sum_i (z_i / D_i)`` held constant.

    >>> famo_weights(torch.tensor([1.0, 3.0]), torch.zeros(2))
    tensor([0.7500, 0.2500])

    Args:
        gaps: D, the losses less their minima, ``[T]``, positive.
        xi: Logits ``[T]``.

    Returns:
        Weights ``[T]``, not negative. A gap of exactly 0 has weight 0 and is left out; if one is negative,
        all are NaN. Never waits for the device.

    Source:
        Liu, Feng, Stone and Liu, FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023.
    """
    nothing = gaps == 0
    # softmax(xi - log D) is z / D, normalised.
    scores = (xi - gaps.log()).masked_fill(nothing, -torch.inf)
    return scores.softmax(0).masked_fill(nothing, 0.0)


def famo_slope(before: Tensor, after: Tensor, xi: Tensor) -> Tensor:
    """What Adam descends along to move the logits: ``z * (delta - z . delta)``.

    delta is how far each log-gap fell in one update, so logits of slow tasks rise. It is the Jacobian of the
    softmax times delta.

    Args:
        before: Gaps before the update, ``[T]``.
        after: Gaps of the same batch after it, ``[T]``.
        xi: Logits ``[T]``.

    Returns:
        ``[T]``, with sum 0. A task one of whose gaps is not positive and finite is left out, with 0. Never
        waits for the device.

    Source:
        Liu, Feng, Stone and Liu, FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023.
    """
    unknown = ~((before > 0) & (after > 0) & before.isfinite() & after.isfinite())
    z = xi.masked_fill(unknown, -torch.inf).softmax(0).masked_fill(unknown, 0.0)
    delta = (before.log() - after.log()).masked_fill(unknown, 0.0)
    return z * (delta - (z * delta).sum())


class FAMO(Balancer):
    """Fast adaptive multitask optimisation: every log-loss should fall by the same amount in each update.

    After the optimiser's step the losses of the same batch are evaluated once more; the logits of tasks that
    fell less than others rise. Multiplying a loss by a positive constant changes neither the proportions of
    the weighted losses nor what is learned. A loss equal to its minimum is left out, a smaller one makes the
    weights NaN. If the optimiser skipped its step, no loss has fallen, and the logits move by their momentum
    and decay alone.

    The logits and Adam's moments of an absent task stay as they are.

    Args:
        lr: Learning rate of the logits.
        gamma: Weight decay of the logits, added to their gradient: it pulls towards equal logits. 0.01 in
            the authors' stand-alone file, 0.00001 in the class of their experiments, 0.001 in LibMTL.
        minimum: ``{task: smallest possible loss}``; 0 for the others.
        common: See :class:`~plait.balancing.Common`.

    Source:
        Liu, Feng, Stone and Liu, FAMO: Fast Adaptive Multitask Optimization, NeurIPS 2023. Their code
        adds 1e-8 to losses and clips the shared gradient to length 1; neither is done here.
    """

    needs = Needs(quantity="losses", closure=True)
    natural = "mean"
    xi: Tensor

    def __init__(
        self,
        *,
        lr: float = 0.025,
        gamma: float = 0.01,
        minimum: Mapping[str, float] | None = None,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        if not (lr > 0 and gamma >= 0):
            raise ConfigurationError(
                f"FAMO needs a learning rate above 0 and a gamma of 0 or more, got {lr} and {gamma}"
            )
        for name, value in (minimum or {}).items():
            if name not in (self.tasks or ()):
                raise ConfigurationError(
                    f"a minimum is given for {name!r}{nearest(name, self.tasks or ())}; "
                    f"the tasks are {', '.join(self.tasks or ('not named: pass tasks=[...]',))}"
                )
            if not math.isfinite(value):
                raise ConfigurationError(f"the minimum of {name!r} must be finite, got {value}")
        self.minimum = dict(minimum or {})
        self.adam = Adam(lr=lr, weight_decay=gamma)
        self.declare_state("xi")
        self._before: tuple[tuple[int, ...], Tensor] | None = None

    def weights(self, seen: Observation) -> Tensor:
        gaps = self._gaps(self.losses_of(seen), seen.places)
        return famo_weights(gaps, self.state("xi", seen.total, like=gaps)[list(seen.places)])

    def observe(self, seen: Observation) -> None:
        losses = self.losses_of(seen)
        self.state("xi", seen.total, like=losses)
        self._before = seen.places, self._gaps(losses, seen.places)

    def after_update(self, losses: Callable[[], Tensor]) -> None:
        """Moves the logits by what the update did to the losses of its batch."""
        if self._before is None:
            return
        places, before = self._before
        self._before = None
        after = self._gaps(losses().to(before)[list(places)], places)
        slope = famo_slope(before, after, self.xi[list(places)])
        self.xi = self.adam.step(self.xi, slope, places)

    def _gaps(self, losses: Tensor, places: tuple[int, ...]) -> Tensor:
        if not self.minimum:
            return losses
        names = self.tasks or ()
        minima = [self.minimum.get(names[place], 0.0) for place in places]
        return losses - torch.tensor(minima, dtype=losses.dtype).to(losses.device, non_blocking=True)
