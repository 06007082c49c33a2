"""An exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of a network's floating-point parameters and buffers over its training.

    After update ``k`` (from 1) the average moves by ``1 - min(decay, (1 + k) / (10 + k))`` towards the
    weights: the lower decay at first lets it leave the initial weights behind, as in TensorFlow's
    ``ExponentialMovingAverage(num_updates=...)``. Running statistics of norms are averaged like weights;
    integers are not averaged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: tensor.detach().clone() for name, tensor in floating(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves towards the weights after update ``step`` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = floating(model)
        torch._foreach_lerp_(list(self.values.values()), [now[name] for name in self.values], 1 - decay)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """The network with the averaged weights, inside the ``with``."""
        own = {name: tensor.detach().clone() for name, tensor in floating(model).items()}
        copy_into(model, self.values)
        try:
            yield
        finally:
            copy_into(model, own)


def floating(model: nn.Module) -> dict[str, Tensor]:
    """The floating-point entries of a network's state, by name."""
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


@torch.no_grad()
def copy_into(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copies values over a network's weights of the same names."""
    own = floating(model)
    for name, value in values.items():
        own[name].copy_(value)
