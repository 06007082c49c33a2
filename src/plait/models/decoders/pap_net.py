"""PAP-Net: what belongs together for one task belongs together for the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from plait.errors import ConfigurationError
from plait.models.blocks import conv_norm_relu
from plait.models.decoders.streams import StreamDecoder
from plait.models.predictions import Predictions
from plait.tasks.base import Task

SHORTEST = 1e-6  # the gradient of a unit vector grows as its length falls


class PAPNet(StreamDecoder):
    """Every task says which positions are alike, and each task's features spread along all tasks' affinities.

    The pyramid becomes one map. For each task two bottlenecks (its stream) turn it into features of ``width``
    channels, of which a 1x1 convolution makes the initial prediction, and another, with batch norm and ReLU,
    the affinities M of all pairs of positions. The features of a main task i are then diffused,
    ``h(t+1) = beta * sum_k a_ik M_k h(t) + (1 - beta) * h(0)``, with positive weights a_i that sum to 1, and
    two bottlenecks and a head reconstruct the final prediction. Auxiliary tasks are predicted initially and
    give affinities; they are not diffused. A task that is alone is diffused along its own affinities.

    Args:
        tasks: The tasks in declared order.
        channels: Channels of each level of each task's pyramid, the same for all tasks.
        strides: Strides of the levels, the same for all tasks.
        groups: The encoder's groups: one map is computed for each. None: each task is its own.
        default_head: The backbone family's head; not used.
        width: Channels of each task's features; affinities are computed from half as many.
        stride: The work is done at the size of the finest level with this stride or more (of the coarsest if
            there is none).
        iterations: Steps of the diffusion, 1 or more.
        beta: What each step takes from the positions alike, above 0 and at most 1.
        head: Head of the final predictions, on the reconstructed map; ``linear`` is a 1x1 convolution.
        head_options: Keyword arguments of the head.
        gradient_checkpointing: Whether to compute streams, diffusion and reconstruction again in the
            backward pass: less memory for more time.

    Raises:
        ConfigurationError: If tasks have pyramids of different shapes, or an option is out of range.

    Source:
        Zhang et al., Pattern-Affinitive Propagation across Depth, Surface Normal and Semantic Segmentation,
        CVPR 2019 (arXiv 1906.03525); beta and the unit length of the rows are those of a public
        re-implementation. Our interpretation, because we know the paper in outline and have no code of its
        authors: one scale instead of several, the blocks of the streams and the reconstruction, and what a
        position without features does (:func:`affinity`). The paper's loss on pairs of positions is left
        out: neither its form nor its weight is known to us. Affinities are never written out as an N x N
        matrix; the paper's are, which is why it works on few positions.
    """

    def __init__(
        self,
        *,
        tasks: Sequence[Task],
        channels: Mapping[str, Sequence[int]],
        strides: Mapping[str, Sequence[int]],
        groups: Mapping[str, str] | None = None,
        default_head: str = "fpn",
        width: int = 256,
        stride: int = 4,
        iterations: int = 3,
        beta: float = 0.05,
        head: str = "linear",
        head_options: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        for option, value, least in (
            ("width", width, 2),
            ("stride", stride, 1),
            ("iterations", iterations, 1),
        ):
            if value < least:
                raise ConfigurationError(
                    f"the {option} of decoder 'pap_net' must be {least} or more, got {value}"
                )
        if not 0 < beta <= 1:
            raise ConfigurationError(f"beta of decoder 'pap_net' must be above 0 and at most 1, got {beta}")
        super().__init__(
            "pap_net",
            tasks=tasks,
            channels=channels,
            strides=strides,
            groups=groups,
            width=width,
            stride=stride,
            head=head,
            head_options=head_options,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.similar = nn.ModuleDict({name: conv_norm_relu(width, width // 2, 1) for name in self.names})
        self.diffusion = nn.ModuleDict({name: Diffusion(self.names, iterations, beta) for name in self.main})

    def forward(self, pyramids: Mapping[str, Sequence[Tensor]], size: Sequence[int]) -> Predictions:
        features = self.features(pyramids)
        affinities = self._affinities(features)
        final = {
            task: self.finished(task, self.run(diffusion, features[task], affinities), size)
            for task, diffusion in self.diffusion.items()
        }
        return Predictions(final, [self.predicted(features)])

    def affinities(self, pyramids: Mapping[str, Sequence[Tensor]]) -> dict[str, Affinity]:
        """Each task's affinities, to look at; ``affinities[task].matrix()`` writes one out."""
        return self._affinities(self.features(pyramids))

    def _affinities(self, features: Mapping[str, Tensor]) -> dict[str, Affinity]:
        return {
            task: affinity(self.run(similar, features[task]).flatten(2).mT)
            for task, similar in self.similar.items()
        }


class Affinity(NamedTuple):
    """Row-stochastic affinities of N positions, ``left right^T + diag(own)``, as three thin factors.

    Attributes:
        left: ``[B, N, C]``: unit rows, divided by their sums of similarities.
        right: ``[B, N, C]``: unit rows.
        own: ``[B, N, 1]``: what a position keeps of itself beyond that.
    """

    left: Tensor
    right: Tensor
    own: Tensor

    def propagate(self, values: Tensor, weight: Tensor | float = 1.0) -> Tensor:
        """``weight`` times the matrix product with values ``[B, N, D]``; needs no N x N matrix."""
        # The weight is applied to the small factors, so that nothing of the size of the values is kept.
        return self.left @ (weight * (self.right.mT @ values)) + (weight * self.own) * values

    def matrix(self) -> Tensor:
        """The whole matrix ``[B, N, N]``, for a look at small maps."""
        return self.left @ self.right.mT + torch.diag_embed(self.own.squeeze(-1))


def affinity(features: Tensor) -> Affinity:
    """Cosine similarities of all pairs of positions, each row divided by its sum.

    A position whose features are all zero (shorter than 1e-6) is like no other: it keeps its own value.

    Args:
        features: ``[B, N, C]``, none negative; half precision is computed in float32.

    Source:
        Zhang et al., CVPR 2019, affinity learning with the dot product. X X^T h is computed as X (X^T h),
        which is exact: N C D operations for D values instead of N^2 (C + D), and memory linear in N.
    """
    with _without_autocast(features.device):
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        lengths = features.norm(dim=-1, keepdim=True)
        seen = lengths > SHORTEST
        rows = features * (seen / lengths.where(seen, 1))
        sums = rows @ rows.sum(1, keepdim=True).mT  # at least 1 where seen: a row's product with itself
        return Affinity(rows / sums.where(seen, 1), rows, (~seen).to(rows.dtype))


class Diffusion(nn.Module):
    """Spreads one task's features along the affinities of all tasks, in learned proportions.

    Args:
        senders: The tasks whose affinities are used.
        iterations: Steps.
        beta: What each step takes from the positions alike; the rest are the features at the start.

    Source:
        Zhang et al., CVPR 2019, cross-task propagation and task-specific diffusion.
    """

    def __init__(self, senders: Sequence[str], iterations: int, beta: float) -> None:
        super().__init__()
        self.logits = nn.ParameterDict({sender: nn.Parameter(torch.zeros(())) for sender in senders})
        self.iterations = iterations
        self.beta = beta

    def weights(self) -> dict[str, Tensor]:
        """The share of each sender's affinities: positive scalars that sum to 1."""
        shares = torch.stack([*self.logits.values()]).softmax(0)
        return dict(zip(self.logits, shares.unbind(), strict=True))

    def forward(self, features: Tensor, affinities: Mapping[str, Affinity]) -> Tensor:
        """Maps features ``[B, D, h, w]`` to diffused ones of that shape; affinities are of h w positions."""
        weights = self.weights()
        with _without_autocast(features.device):
            start = features.flatten(2).mT.to(affinities[next(iter(weights))].left.dtype)
            state = start
            for _ in range(self.iterations):
                heard = [affinities[task].propagate(state, weight) for task, weight in weights.items()]
                state = torch.lerp(start, sum(heard[1:], start=heard[0]), self.beta)
            return state.mT.reshape(features.shape).to(features.dtype)


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Sums over all positions of a map need float32."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
