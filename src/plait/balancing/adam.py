"""Adam for a rule's own numbers, one a task, in buffers: no optimizer to save and restore beside the rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Adam(nn.Module):
    """The steps of Adam on a vector with one entry a task; an absent task's entry and moments stay.

    The same as one ``torch.optim.Adam`` for each task, stepped only when the task is present: bias
    corrections count the steps of that task. Its buffers are sized by the first step or by a loaded state.

    >>> import torch
    >>> adam = Adam(lr=0.1)
    >>> adam.step(torch.ones(3, dtype=torch.float64), torch.tensor([2.0, -1e-3]), places=(0, 2))
    tensor([0.9000, 1.0000, 1.1000], dtype=torch.float64)

    Args:
        lr: Learning rate: about the length of an entry's first step, whatever the gradient's size.
        betas: How much of the two running moments is kept in a step.
        eps: Added to the root of the second moment.
        weight_decay: Multiplies the values and is added to their gradient (as Adam has it, not AdamW).

    Source:
        Kingma and Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, algorithm 1.
    """

    first: Tensor
    second: Tensor
    count: Tensor

    def __init__(
        self,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        for name in ("first", "second", "count"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))

    def step(self, values: Tensor, gradient: Tensor, places: Sequence[int]) -> Tensor:
        """One step against the gradient.

        Args:
            values: ``[T]``, float64.
            gradient: Of the P entries at ``places``, ``[P]``.
            places: Ascending indices into the T entries.

        Returns:
            New values ``[T]``; ``values`` itself is not changed.
        """
        if len(self.first) != len(values):
            for name in ("first", "second", "count"):
                setattr(self, name, torch.zeros_like(values))
        at = list(places)
        slope = gradient.to(values) + self.weight_decay * values[at]
        first, second = self.betas
        self.count[at] += 1
        self.first[at] = first * self.first[at] + (1 - first) * slope
        self.second[at] = second * self.second[at] + (1 - second) * slope.square()
        mean = self.first[at] / (1 - first ** self.count[at])
        root = (self.second[at] / (1 - second ** self.count[at])).sqrt()
        moved = values.clone()
        moved[at] -= self.lr * mean / (root + self.eps)
        return moved

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for name in ("first", "second", "count"):
            saved = state_dict.get(prefix + name)
            if saved is not None:
                setattr(self, name, torch.zeros_like(saved, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
