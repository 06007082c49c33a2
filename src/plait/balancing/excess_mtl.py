"""ExcessMTL: multiplicative weights that follow the tasks' estimated excess risks."""

from __future__ import annotations

from typing import Unpack

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.gradients import widest
from plait.balancing.simplex import heard
from plait.errors import ConfigurationError


def excess_risks(jacobian: Tensor, roots: Tensor) -> Tensor:
    """Estimated excess risk of each task: ``g^T H^-1 g``, with the diagonal H of AdaGrad.

    Args:
        jacobian: Gradients g ``[T, D]``.
        roots: H: roots of the sums of squares of all gradients so far, these ones included, ``[T, D]``.

    Returns:
        ``[T]``, float64. An entry whose gradients were all zero adds nothing.

    Source:
        He et al., Robust Multi-Task Learning with Excess Risks, ICML 2024, eq. 6 and 7.
    """
    scaled = torch.where(roots > 0, jacobian / roots, jacobian)
    return (jacobian * scaled).sum(dim=1, dtype=widest(jacobian.device))


def excess_mtl_weights(
    log_weights: Tensor, excess: Tensor, reference: Tensor, *, eta: float = 1e-2
) -> Tensor:
    """One step of multiplicative weights: ``w_i <- w_i exp(eta excess_i / reference_i)``, their sum kept.

    Args:
        log_weights: Logarithms of the weights ``[T]``; so none is ever rounded to zero for good.
        excess: Estimated excess risks ``[T]``.
        reference: The same at the start of training ``[T]``, positive.
        eta: Step size.

    Returns:
        Logarithms of the new weights ``[T]``.

    Source:
        He et al., Robust Multi-Task Learning with Excess Risks, ICML 2024, eq. 9 and section 3.2.
    """
    moved = log_weights + eta * excess / reference
    return moved - moved.logsumexp(0) + log_weights.logsumexp(0)


class ExcessMTL(Balancer):
    """Gives weight to the tasks that are furthest from their optimum, whatever noise their labels carry.

    Weights start at 1 and keep the sum T, so equal gradients g give T g. They move before they are used, and
    do not depend on the scale of a task's loss. A task that is absent, or whose gradient is exactly zero,
    keeps its weight and its state, and the others' weights keep their sum.

    Its state is as large as the Jacobian: T times the parameters of the scope. At features there is no such
    state, because each batch has other ones: that scope is refused.

    Args:
        eta: Step size of the multiplicative weights.
        warm_up: In how many steps the reference is measured: the mean excess risk of the first ones in which
            the task is seen. A task's weight rests until then. 1 is the official code; the paper takes three
            epochs.
        common: See :class:`~plait.balancing.Common`.

    Source:
        He et al., Robust Multi-Task Learning with Excess Risks, ICML 2024, algorithm 1.
    """

    needs = Needs(quantity="jacobian")
    scopes = ("parameters", "last_layer", "modules")

    def __init__(self, *, eta: float = 1e-2, warm_up: int = 1, **common: Unpack[Common]) -> None:
        super().__init__(**common)
        if not eta > 0:
            raise ConfigurationError(f"the step size eta of ExcessMTL must be positive, got {eta}")
        if warm_up < 1:
            raise ConfigurationError(f"ExcessMTL measures its reference in 1 step or more, got {warm_up}")
        self.eta = eta
        self.warm_up = warm_up
        for name in ("roots", "log_weights", "reference", "count"):
            self.declare_state(name)

    def weights(self, seen: Observation) -> Tensor:
        assert seen.jacobian is not None
        jacobian, places = seen.jacobian, list(seen.places)
        roots = self.state("roots", seen.total, jacobian.shape[1], dtype=jacobian.dtype, like=jacobian)
        roots[places] = torch.hypot(roots[places], jacobian)
        excess = excess_risks(jacobian, roots[places])
        log_weights = self.state("log_weights", seen.total, like=excess)
        reference = self.state("reference", seen.total, like=excess)
        count = self.state("count", seen.total, like=excess)

        loud = heard(excess)
        at = [places[i] for i in loud]
        count[at] += 1
        measuring = (count[at] <= self.warm_up).tolist()
        first = [place for place, early in zip(at, measuring, strict=True) if early]
        reference[first] += (excess[[places.index(p) for p in first]] - reference[first]) / count[first]
        late = [place for place, early in zip(at, measuring, strict=True) if not early]
        if late:
            risen = excess[[places.index(p) for p in late]]
            log_weights[late] = excess_mtl_weights(log_weights[late], risen, reference[late], eta=self.eta)
        return log_weights[places].exp()
