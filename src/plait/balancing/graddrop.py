"""GradDrop: in each element of the gradient one sign is drawn, and the other is dropped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import torch
from torch import Tensor

from plait.balancing.base import Balancer, Common, Needs, Observation
from plait.balancing.draws import Draws
from plait.errors import ConfigurationError
from plait.registry import nearest
from plait.training.distributed import reduce_sum


def graddrop_masks(signed: Tensor, draws: Tensor) -> Tensor:
    """What is kept of each task's gradient: ``[T, K]``, bool.

    The purity ``P = (1 + sum_i G_i / sum_i |G_i|) / 2`` of an element is the probability that what is
    positive is kept there; otherwise what is negative is. A task without a sign at an element is kept.

    Args:
        signed: G, ``[T, K]``: the gradients, or their sums over the batch times the sign of the
            feature.
        draws: Uniform in [0, 1), ``[K]``.
    """
    purity = (1 + signed.sum(0) / signed.abs().sum(0)) / 2
    return torch.where(draws < purity, signed >= 0, signed <= 0)


def graddrop_direction(jacobian: Tensor, draws: Tensor, *, leak: Tensor | float = 0.0) -> Tensor:
    """The sum of the gradients after sign dropout: ``sum_i (l_i + (1 - l_i) M_i) g_i``, elementwise.

    M_i is 1 where task i has the sign that was drawn (see :func:`graddrop_masks`). Where all tasks
    agree in sign, it is the plain sum. Its expectation is the plain sum everywhere, for any leak that
    the tasks have in common.

    >>> jacobian = torch.tensor([[3.0, 1.0], [-1.0, 1.0]])
    >>> graddrop_direction(jacobian, torch.tensor([0.7, 0.7]))
    tensor([3., 2.])
    >>> graddrop_direction(jacobian, torch.tensor([0.8, 0.8]))
    tensor([-1.,  2.])

    Args:
        jacobian: One gradient a row, ``[T, D]``. A row of zeros changes nothing.
        draws: Uniform in [0, 1), ``[D]``.
        leak: l in [0, 1], one or ``[T]``: the part of a gradient that is never dropped.

    Returns:
        The update ``[D]``, of the type and device of ``jacobian``.

    Source:
        Chen et al., Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout,
        NeurIPS 2020, algorithm 1, with the identity for f.
    """
    return _kept(jacobian, graddrop_masks(jacobian, draws), leak)


def graddrop_at_features(
    jacobian: Tensor,
    values: Tensor,
    shapes: Sequence[tuple[int, ...]],
    generator: torch.Generator,
    *,
    leak: Tensor | float = 0.0,
) -> Tensor:
    """The same at features z: one sign is drawn for each element of a feature, for the whole batch.

    ``G_i = sum over the batch of sign(z) g_i``, over the images of all processes: the masks have no
    batch axis, and apply to each image's gradient as it is. What is preserved in expectation is the sum
    of the G_i.

    Args:
        jacobian: Gradients at the features, one task a row, ``[T, D]``.
        values: z, ``[D]``.
        shapes: Of the features whose elements the columns are, in order; the first axis is the batch.
        generator: Of the draws; equal on every process, on the CPU.
        leak: As for :func:`graddrop_direction`.

    Returns:
        The gradient at the features ``[D]``.

    Source:
        Chen et al., Just Pick a Sign, NeurIPS 2020, algorithm 1, steps 3 to 6.
    """
    sizes = [torch.Size(shape).numel() for shape in shapes]
    blocks = [
        block.view(len(jacobian), shape[0], -1)
        for block, shape in zip(torch.split(jacobian, sizes, dim=1), shapes, strict=True)
    ]
    signs = [
        part.sign().view(shape[0], -1) for part, shape in zip(torch.split(values, sizes), shapes, strict=True)
    ]
    widened = torch.promote_types(jacobian.dtype, torch.float32)
    turned = [block.to(widened) * sign for block, sign in zip(blocks, signs, strict=True)]
    sums = [part.sum(1) for part in turned]
    sizes_of_terms = [part.abs().sum(1) for part in turned]
    signed, largest = reduce_sum(torch.stack([torch.cat(sums, dim=1), torch.cat(sizes_of_terms, dim=1)]))
    # A sum that is zero but for rounding has no sign, however the batch is spread over processes.
    signed = signed.where(signed.abs() > 64 * torch.finfo(widened).eps * largest, 0.0)
    masks = graddrop_masks(signed, uniform(signed, generator))
    kept = torch.split(masks, [total.shape[1] for total in sums], dim=1)
    return torch.cat(
        [_kept(block, mask[:, None], leak).flatten() for block, mask in zip(blocks, kept, strict=True)]
    )


def uniform(jacobian: Tensor, generator: torch.Generator) -> Tensor:
    """A number in [0, 1) for each column, drawn on the CPU so that it is the same everywhere."""
    return torch.rand(jacobian.shape[1], generator=generator, device="cpu").to(jacobian.device)


def _kept(gradients: Tensor, masks: Tensor, leak: Tensor | float) -> Tensor:
    leaks = torch.as_tensor(leak, device=gradients.device).to(gradients.dtype)
    leaks = leaks.expand(len(gradients)).view(-1, *[1] * (gradients.dim() - 1))
    return ((leaks + (1 - leaks) * masks) * gradients).sum(0)


class GradDrop(Balancer):
    """Gradient sign dropout: where tasks disagree about the sign of an element, one sign is drawn.

    The paper's place is ``scope="features"``: the sign is that of ``z * gradient``, summed over the
    batch, and there is one draw for an element of a feature. With ``scope="parameters"`` (the default,
    as for other rules) there is one draw for each parameter. Equal gradients g of T tasks give T g. The
    rule is elementwise: it has no weights, and it changes if parameters are rotated. The update may
    conflict with a task, also in expectation.

    Args:
        leak: The part of each gradient that is never dropped, in [0, 1]: one number, or one a task by
            name (others 0) or in declared order. 1 for a task keeps its gradient whole. Unless it is
            the same for all, the expectation is not the plain sum.
        seed: Of the draws. They are the same on every process.
        common: See :class:`~plait.balancing.Common`.

    Raises:
        ConfigurationError: For a leak outside [0, 1], or one that does not fit the tasks.

    Source:
        Chen et al., Just Pick a Sign: Optimizing Deep Multitask Models with Gradient Sign Dropout,
        NeurIPS 2020, algorithm 1. Its increasing function f of the purity is the identity, as in its
        experiments.
    """

    needs = Needs(quantity="jacobian", direction=True)
    natural = "sum"

    def __init__(
        self,
        *,
        leak: float | Mapping[str, float] | Sequence[float] = 0.0,
        seed: int = 0,
        **common: Unpack[Common],
    ) -> None:
        super().__init__(**common)
        self.leak = self._checked(leak)
        self.draws = Draws(seed)

    def combine(self, jacobian: Tensor, seen: Observation) -> Tensor:
        leak = self._leak_of(seen)
        generator = self.draws.next()
        if seen.values is not None:
            return graddrop_at_features(jacobian, seen.values, seen.shapes, generator, leak=leak)
        return graddrop_direction(jacobian, uniform(jacobian, generator), leak=leak)

    def _checked(self, leak: float | Mapping[str, float] | Sequence[float]) -> float | tuple[float, ...]:
        if isinstance(leak, Mapping):
            if self.tasks is None:
                raise ConfigurationError("a leak by name needs tasks: pass tasks=[...], or a list of numbers")
            for name in leak:
                if name not in self.tasks:
                    raise ConfigurationError(
                        f"a leak is given for {name!r}{nearest(name, self.tasks)}; "
                        f"the tasks are {', '.join(self.tasks)}"
                    )
            leak = [leak.get(name, 0.0) for name in self.tasks]
        checked = float(leak) if isinstance(leak, int | float) else tuple(map(float, leak))
        for part in checked if isinstance(checked, tuple) else (checked,):
            if not 0 <= part <= 1:
                raise ConfigurationError(f"a leak lies between 0 (none) and 1 (all is kept), got {part}")
        if isinstance(checked, tuple) and self.tasks is not None:
            self._count_leaks(checked, len(self.tasks))
        return checked

    def _count_leaks(self, leaks: tuple[float, ...], tasks: int) -> None:
        if len(leaks) != tasks:
            raise ConfigurationError(
                f"leaks are given for {len(leaks)} tasks, but there are {tasks}: "
                f"pass one number each, or one for all"
            )

    def _leak_of(self, seen: Observation) -> Tensor | float:
        if isinstance(self.leak, float):
            return self.leak
        self._count_leaks(self.leak, seen.total)
        return torch.tensor([self.leak[place] for place in seen.places], dtype=torch.float64)
