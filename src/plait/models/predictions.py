"""What a decoder returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor


class Predictions(NamedTuple):
    """Predictions in logits.

    Attributes:
        final: ``{task: [B, C, H, W]}`` at the asked size, for every task that is not auxiliary.
        intermediate: One ``{task: [B, C, h, w]}`` a level, auxiliary tasks included, at the level's own size.
        penalties: ``{name: scalar}``, added to the objective outside the balancer.
        features: ``{task: [B, C, h, w]}``, the last features of each task where a penalty looks at them, else
            empty.
    """

    final: Mapping[str, Tensor]
    intermediate: Sequence[Mapping[str, Tensor]] = ()
    penalties: Mapping[str, Tensor] = {}
    features: Mapping[str, Tensor] = {}
