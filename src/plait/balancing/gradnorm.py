"""GradNorm: weights that bring the tasks' gradients to lengths that follow their training rates."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from plait.balancing.adam import Adam
from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.simplex import heard
from plait.errors import ConfigurationError


def gradnorm_gradient(
    norms: Tensor, losses: Tensor, initial: Tensor, weights: Tensor, *, alpha: float = 1.5
) -> Tensor:
    """Gradient of GradNorm's objective with respect to the weights, in closed form.

    With ``G_i = w_i m_i`` the length of the weighted gradient, and ``r_i`` the task's inverse training rate
    ``L_i / L_i(0)`` over the mean of all, the objective is ``sum_i |G_i - mean(G) r_i^alpha|`` and the
    target ``mean(G) r_i^alpha`` counts as constant. As G_i is linear in w_i, no second derivative is taken.

    >>> gradnorm_gradient(*torch.tensor([[3.0, 1.0], [1.0, 1.0], [1.0, 1.0], [1.0, 1.0]]))
    tensor([ 3., -1.])

    Args:
        norms: Lengths m_i of the unweighted gradients ``[T]``.
        losses: ``[T]``, positive.
        initial: The losses L_i(0) at the start of training, ``[T]``, positive.
        weights: ``[T]``, positive.
        alpha: How strongly slow tasks are favoured; 0 asks for equal lengths.

    Returns:
        ``dL_grad/dw``, ``[T]``; zero where the length is on its target.

    Source:
        Chen et al., GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks,
        ICML 2018, eq. 1 and 2.
    """
    lengths = weights * norms
    progress = losses / initial
    rates = progress / progress.mean()
    target = lengths.mean() * rates**alpha
    return (lengths - target).sign() * norms


class GradNorm(Balancer):
    """Learns weights so that tasks that train slowly get longer gradients.

    A step is taken with the weights as they are; then they make a step of their own, with Adam, for the next
    one (the order of the paper's algorithm 1). Weights start at 1 and keep the sum T, so equal gradients g
    give T g. A step at most halves a weight, which keeps it positive; the paper and its followers leave
    that to chance.

    A task that is absent, or whose gradient is exactly zero, keeps its weight, its moments and its first
    loss, and the others' weights keep their sum. L(0) is the first loss of the task that is not zero; until
    there is one, its weight rests too.
    Losses must be positive: a negative one makes the weights of its step NaN, and changes no state.

    Args:
        alpha: How strongly slow tasks are favoured. The paper uses 1.5 on NYUv2 (0.12 where tasks are
            alike); 0 asks for equal lengths.
        lr: Learning rate of the weights.
        common: See :class:`~plait.balancing.Common`. As in the paper, lengths are compared over the last
            shared layer, and heads are trained with the weights too.

    Source:
        Chen et al., GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks,
        ICML 2018, algorithm 1.
    """

    needs = Needs(quantity="gramian")
    default_scope = "last_layer"
    default_heads = "weighted"

    def __init__(self, *, alpha: float = 1.5, lr: float = 0.025, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        if not alpha >= 0:
            raise ConfigurationError(f"alpha of GradNorm must not be negative, got {alpha}")
        if not lr > 0:
            raise ConfigurationError(f"the learning rate of GradNorm's weights must be positive, got {lr}")
        self.alpha = alpha
        self.adam = Adam(lr=lr)
        self.declare_state("task_weights")
        self.declare_state("initial")

    def weights(self, seen: Observation) -> Tensor:
        assert seen.gramian is not None
        losses, places = self.losses_of(seen), list(seen.places)
        weights = self.state("task_weights", seen.total, fill=1.0, like=seen.gramian)
        used = weights[places]
        if bool((losses < 0).any()):
            return torch.full_like(used, torch.nan)  # and nothing is remembered of it
        # A task whose loss was always zero has no rate.
        rated = (self.state("initial", seen.total, like=weights)[places] != 0) | (losses != 0)
        squares = seen.gramian.diagonal()
        if loud := heard(squares * rated):
            self._move(weights, [seen.places[i] for i in loud], squares[loud].sqrt(), losses[loud])
        return used

    def _move(self, weights: Tensor, at: list[int], norms: Tensor, losses: Tensor) -> None:
        """One step of the weights at some places, which keep their sum."""
        initial = self.state("initial", len(weights), like=weights)
        initial[at] = torch.where(initial[at] == 0, losses, initial[at])
        before = weights[at]
        gradient = gradnorm_gradient(norms, losses, initial[at], before, alpha=self.alpha)
        after = torch.maximum(self.adam.step(weights, gradient, at)[at], before / 2)
        weights[at] = after * before.sum() / after.sum()
