"""What a tree may cost, and what the parts of a backbone cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from plait.errors import ConfigurationError

if TYPE_CHECKING:
    from plait.config import Model

Unit = Literal["parameters", "macs"]


@dataclass(frozen=True)
class Budget:
    """The most that all copies of a backbone's parts may cost together; heads are the same in every tree.

    Attributes:
        unit: ``parameters``, or ``macs``: multiply-accumulates of one image.
        amount: How much, in that unit or as a multiple of the shared network's.
        relative: Whether it is a multiple.
    """

    unit: Unit = "parameters"
    amount: float = math.inf
    relative: bool = True

    @classmethod
    def parse(cls, text: str, unit: Unit = "parameters") -> Budget:
        """Reads a number, or a multiple of the shared network.

        >>> Budget.parse("1.5x"), Budget.parse("2e9", "macs").amount
        (Budget(unit='parameters', amount=1.5, relative=True), 2000000000.0)

        Raises:
            ConfigurationError: If it is neither, or not positive.
        """
        number = text.strip().lower()
        relative = number.endswith(("x", "×"))
        try:
            amount = float(number[:-1] if relative else number)
        except ValueError:
            amount = math.nan
        if not amount > 0:
            raise ConfigurationError(
                f"a budget of {unit} is a positive number, or a multiple of the shared network such as 1.5x; "
                f"got {text!r}"
            )
        return cls(unit, amount, relative)

    def limit(self, shared: float) -> float:
        """The budget in its unit, for a shared network that costs so much."""
        # A hair of room, so that rounding does not refuse a multiple that is met exactly.
        return self.amount * shared * (1 + 1e-9) if self.relative else self.amount

    def __str__(self) -> str:
        what = "multiply-accumulates" if self.unit == "macs" else "parameters"
        if not math.isfinite(self.amount):
            return f"any number of {what}"
        return f"{self.amount:g}× the shared {what}" if self.relative else f"{self.amount:,.0f} {what}"


@dataclass(frozen=True)
class PartCosts:
    """What one copy of each part of a backbone costs, the stem first.

    Attributes:
        parameters: Learned numbers.
        macs: Multiply-accumulates of one image.
    """

    parameters: tuple[int, ...]
    macs: tuple[int, ...]

    def of(self, unit: Unit) -> tuple[int, ...]:
        """The costs in a unit."""
        return self.parameters if unit == "parameters" else self.macs


def part_costs(model: Model, size: tuple[int, int]) -> PartCosts:
    """Counts the parts of a recipe's backbone, without computing anything.

    Args:
        model: The recipe's part.
        size: Height and width of the image.

    Raises:
        ConfigurationError: If the backbone has no stages.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from plait.models.backbones import create_backbone
    from plait.models.encoders.base import staged

    with torch.device("meta"), torch.no_grad():
        backbone = staged(create_backbone(model.backbone, **model.backbone_options), "branched").eval()
        features = backbone.pad(torch.empty(1, 3, *size))
        parameters, macs = [], []
        for part in (backbone.stem, *backbone.stages):
            with FlopCounterMode(display=False) as counter:
                features = part(features)
            macs.append(int(counter.get_total_flops()) // 2)
            parameters.append(sum(parameter.numel() for parameter in part.parameters()))
    return PartCosts(tuple(parameters), tuple(macs))
