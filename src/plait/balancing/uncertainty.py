"""Uncertainty weighting: each task's noise is learned, and noisy tasks count less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Unpack

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.errors import ConfigurationError
from plait.registry import nearest

if TYPE_CHECKING:
    from plait.tasks.base import Likelihood

TERMS: Mapping[Likelihood, tuple[float, float]] = {
    "gaussian": (0.5, 0.5),
    "laplace": (1.0, 1.0),
    "classification": (1.0, 0.5),
}
"""a and b of a task's term ``a exp(-s) L + b s`` in the objective."""


def uncertainty_weights(s: Tensor, likelihoods: Sequence[Likelihood]) -> Tensor:
    """Weights ``a exp(-s)``: what each loss is multiplied by in ``sum_i a_i exp(-s_i) L_i + b_i s_i``.

    >>> uncertainty_weights(torch.zeros(3), ["gaussian", "laplace", "classification"])
    tensor([0.5000, 1.0000, 1.0000])

    Args:
        s: Log-noise of each task, ``[T]``: log sigma^2, but log b for a Laplace likelihood.
        likelihoods: Of each task. ``"gaussian"``: ``exp(-s) L / 2 + s / 2`` (L a squared error),
            ``"laplace"``: ``exp(-s) L + s`` (L an absolute error), ``"classification"``:
            ``exp(-s) L + s / 2`` (L a cross-entropy).

    Returns:
        Positive weights ``[T]``.

    Source:
        Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018,
        section 3.2. The Laplace term is the negative logarithm of that density, as theirs is of a Gaussian's.
    """
    return _constants(likelihoods, 0, s) * (-s).exp()


def uncertainty_slopes(losses: Tensor, s: Tensor, likelihoods: Sequence[Likelihood]) -> Tensor:
    """The gradient of the objective by s: ``b_i - w_i L_i``, ``[T]``; see :func:`uncertainty_weights`.

    At a constant loss it vanishes where ``w_i L_i = b_i``, whatever the scale of the loss is.
    """
    return _constants(likelihoods, 1, s) - uncertainty_weights(s, likelihoods) * losses


class Uncertainty(Balancer):
    """Uncertainty weighting: the negative log-likelihood of all tasks, whose noises are learned.

    Each s is a parameter of its own, learned by the run's optimiser without weight decay; its gradient is
    written in closed form. An absent task's s has no gradient, so momentum does not move it either.

    The objective ``sum a exp(-s) L + b s`` becomes negative where losses are small: that is no fault. A
    negative *loss* is: it drives its s down for ever. So does a loss of exactly 0, slowly.

    Args:
        likelihoods: ``{task: "gaussian", "laplace" or "classification"}`` in place of the tasks' own
            (``Task.likelihood``). A task that is only a name has ``"gaussian"``.
        initial: s at first; 0 starts with weights 1/2, 1 and 1.
        common: See :class:`~plait.balancing.Balancer`; ``tasks`` is needed.

    Raises:
        ConfigurationError: Without tasks, or for an unknown task or likelihood.

    Source:
        Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018.
    """

    needs = Needs(quantity="losses", parameters=True)

    def __init__(
        self,
        *,
        likelihoods: Mapping[str, Likelihood] | None = None,
        initial: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        declared = common.get("tasks")
        if declared is None or self.tasks is None:
            raise ConfigurationError("uncertainty weighting learns one number a task: pass tasks=[...]")
        own = {task.name: task.likelihood for task in declared if not isinstance(task, str)}
        chosen: dict[str, Likelihood] = own | dict(likelihoods or {})
        for name, likelihood in chosen.items():
            if name not in self.tasks:
                raise ConfigurationError(
                    f"a likelihood is given for {name!r}{nearest(name, self.tasks)}; "
                    f"the tasks are {', '.join(self.tasks)}"
                )
            if likelihood not in TERMS:
                raise ConfigurationError(
                    f"the likelihood of {name!r} must be one of {', '.join(TERMS)}, got {likelihood!r}"
                )
        self.likelihoods = tuple(chosen.get(name, "gaussian") for name in self.tasks)
        self.s = nn.ParameterList([torch.tensor(float(initial)) for _ in self.tasks])

    def weights(self, seen: Observation) -> Tensor:
        losses = self.losses_of(seen)
        likelihoods = [self.likelihoods[place] for place in seen.places]
        s = torch.stack([self.s[place].detach() for place in seen.places]).to(losses)
        for place, slope in zip(seen.places, uncertainty_slopes(losses, s, likelihoods), strict=True):
            parameter = self.s[place]
            slope = slope.to(parameter)
            parameter.grad = slope if parameter.grad is None else parameter.grad + slope
        return uncertainty_weights(s, likelihoods)


def _constants(likelihoods: Sequence[Likelihood], number: int, like: Tensor) -> Tensor:
    """One of the two constants of each term, beside a tensor, copied without waiting for the device."""
    values = [TERMS[likelihood][number] for likelihood in likelihoods]
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=True)
