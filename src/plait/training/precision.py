"""Mixed precision: what runs in which type, and the loss scale that float16 needs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import Tensor, nn

from plait.errors import ConfigurationError

Precision = Literal["fp32", "bf16", "fp16"]
"""The type of the forward pass; parameters, losses and optimizer stay in float32."""


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context in which the networks run.

    Raises:
        ConfigurationError: If ``precision`` is none of ``fp32``, ``bf16`` and ``fp16``.
    """
    if precision == "fp32":
        return nullcontext()
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in types:
        raise ConfigurationError(f"precision is fp32, bf16 or fp16, got {precision!r}")
    return torch.autocast(device.type, dtype=types[precision])


class LossScaler(nn.Module):
    """The factor that keeps float16 gradients from underflowing; halved at an overflow, doubled in calm.

    It never waits for the device, works on every device, and is saved and restored like any module. Unlike
    ``torch.amp.GradScaler`` it leaves the unscaling to whoever takes the gradients, because balancing rules
    must see unscaled ones.

    Args:
        scale: The factor to start with.
        growth_interval: Finite steps in a row before the factor is doubled.
        largest: The factor is never larger.
    """

    scale: Tensor
    finite_steps: Tensor

    def __init__(
        self, scale: float = 2.0**16, *, growth_interval: int = 2000, largest: float = 2.0**24
    ) -> None:
        super().__init__()
        self.growth_interval = growth_interval
        self.largest = largest
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("finite_steps", torch.tensor(0))

    def update(self, finite: Tensor) -> None:
        """Adapts the factor to a step whose gradients were all finite (bool scalar), or not."""
        steps = torch.where(finite, self.finite_steps + 1, 0)
        grown = steps >= self.growth_interval
        factor = torch.where(finite, torch.where(grown, 2.0, 1.0), 0.5)
        self.scale.copy_((self.scale * factor).clamp(2.0**-24, self.largest))
        self.finite_steps.copy_(torch.where(grown, 0, steps))
