"""PSD: local structures of every task guide where the others' features spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait.errors import ConfigurationError
from plait.models.decoders.streams import StreamDecoder
from plait.models.predictions import Predictions
from plait.tasks.base import Task
from plait.tasks.loss import at_least_float32


class PSD(StreamDecoder):
    """Pattern-structure diffusion: features spread along local affinities, the task's own and counterparts'.

    The pyramid becomes one map. For each task two bottlenecks turn it into features of ``width`` channels, of
    which a 1x1 convolution makes the initial prediction. A structure is what one position has in common with
    each position of the window around it: affinities that sum to 1 (:func:`structures`). A main task adds to
    its own structures those of every other task at the same position, as far as they match its own
    (:class:`Transfer`), and spreads its features along the sum again and again,
    ``h(t+1) = beta * S h(t) + (1 - beta) * h(0)``, so that each step widens the reach by half a window. Two
    bottlenecks and a head reconstruct the final prediction. Auxiliary tasks are predicted initially and give
    structures; they do not receive. A task that is alone spreads along its own structures.

    Args:
        tasks: The tasks in declared order.
        channels: Channels of each level of each task's pyramid, the same for all tasks.
        strides: Strides of the levels, the same for all tasks.
        groups: The encoder's groups: one map is computed for each. None: each task is its own.
        default_head: The backbone family's head; not used.
        width: Channels of each task's features; structures are computed from a quarter as many.
        stride: The work is done at the size of the finest level with this stride or more (of the coarsest if
            there is none).
        window: Height and width of a structure, odd and 3 or more.
        iterations: Steps of the diffusion, 1 or more.
        beta: What each step takes from the neighbours, above 0 and at most 1.
        head: Head of the final predictions, on the reconstructed map; ``linear`` is a 1x1 convolution.
        head_options: Keyword arguments of the head.
        gradient_checkpointing: Whether to compute streams, diffusion and reconstruction again in the
            backward pass: less memory for more time.

    Raises:
        ConfigurationError: If tasks have pyramids of different shapes, or an option is out of range.

    Source:
        Zhou et al., Pattern-Structure Diffusion for Multi-Task Learning, CVPR 2020. Our interpretation: its
        equations and code were not available to us, only its outline (small-scale graphlets as structures;
        recursive aggregation that widens their reach within a task; counterpart structures of the same
        position transferred by how well the pair matches; both diffused jointly). The formulas for
        affinities, matching and diffusion, the blocks and all defaults are ours.
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
        window: int = 3,
        iterations: int = 3,
        beta: float = 0.5,
        head: str = "linear",
        head_options: Mapping[str, Any] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        for option, value in (("width", width), ("stride", stride), ("iterations", iterations)):
            if value < 1:
                raise ConfigurationError(f"the {option} of decoder 'psd' must be 1 or more, got {value}")
        if window < 3 or window % 2 == 0:
            raise ConfigurationError(f"the window of decoder 'psd' must be odd and 3 or more, got {window}")
        if not 0 < beta <= 1:
            raise ConfigurationError(f"beta of decoder 'psd' must be above 0 and at most 1, got {beta}")
        super().__init__(
            "psd",
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
        self.window = window
        self.embed = nn.ModuleDict({name: nn.Conv2d(width, max(width // 4, 1), 1) for name in self.names})
        self.transfer = nn.ModuleDict({name: Transfer(self.names, name) for name in self.main})
        self.diffusion = Diffusion(iterations, beta)

    def forward(self, pyramids: Mapping[str, Sequence[Tensor]], size: Sequence[int]) -> Predictions:
        features = self.features(pyramids)
        mined = {task: structures(embed(features[task]), self.window) for task, embed in self.embed.items()}
        final = {
            task: self.finished(task, self.run(self.diffusion, features[task], transfer(mined)), size)
            for task, transfer in self.transfer.items()
        }
        return Predictions(final, [self.predicted(features)])


def structures(embedded: Tensor, window: int) -> Tensor:
    """What each position has in common with those of the window around it: positive shares that sum to 1.

    Scaled dot products, softmax over the window; positions outside the map have share 0.

    Args:
        embedded: ``[B, E, h, w]``; half precision is computed in float32.
        window: k, the window's height and width, odd.

    Returns:
        ``[B, k*k, h, w]``, the window's rows one after the other.
    """
    embedded = at_least_float32(embedded)
    inside = neighbours(embedded.new_ones(1, 1, *embedded.shape[-2:]), window)
    common = [(embedded * near).sum(1, keepdim=True) for near in neighbours(embedded, window)]
    scores = torch.cat(common, 1) / embedded.shape[1] ** 0.5
    shares: Tensor = scores.masked_fill(torch.cat(inside, 1) == 0, -torch.inf).softmax(1)
    return shares


def spread(structure: Tensor, values: Tensor) -> Tensor:
    """Each position's mean of the values around it, with its structure's shares as weights.

    Args:
        structure: ``[B, k*k, h, w]``, see :func:`structures`.
        values: ``[B, C, h, w]``.
    """
    window = round(structure.shape[1] ** 0.5)
    # One shift after the other: all windows side by side would take k*k times the memory.
    total = torch.zeros_like(values)
    for place, near in enumerate(neighbours(values, window)):
        total = total + structure[:, place : place + 1] * near
    return total


def neighbours(values: Tensor, window: int) -> list[Tensor]:
    """``[B, C, h, w]`` shifted by each offset of a window, zero from outside; views of one padded map."""
    height, width = values.shape[-2:]
    padded = F.pad(values, [window // 2] * 4)
    return [padded[..., y : y + height, x : x + width] for y, x in product(range(window), repeat=2)]


class Transfer(nn.Module):
    """Adds the structures of the other tasks at the same position to a task's own, as far as they match.

    With m the cosine of two structures at a position, a sender's weight there is
    ``sigmoid(scale * m + bias)``, with a learned scale and bias for each sender; the task's own structure has
    weight 1, and the sum is divided by the weights' sum.

    Args:
        tasks: All tasks.
        receiver: The one that receives.

    Source:
        Our interpretation of the inter-task diffusion in Zhou et al., CVPR 2020.
    """

    def __init__(self, tasks: Sequence[str], receiver: str) -> None:
        super().__init__()
        self.receiver = receiver
        senders = [task for task in tasks if task != receiver]
        self.scales = nn.ParameterDict({sender: nn.Parameter(torch.ones(())) for sender in senders})
        self.biases = nn.ParameterDict({sender: nn.Parameter(torch.zeros(())) for sender in senders})

    def forward(self, structures: Mapping[str, Tensor]) -> Tensor:
        """Maps all tasks' structures ``[B, k*k, h, w]`` to those the receiver's features spread along."""
        own = structures[self.receiver]
        joint, total = own, torch.ones_like(own[:, :1])
        for sender, scale in self.scales.items():
            match = F.cosine_similarity(own, structures[sender], dim=1).unsqueeze(1)
            weight = (scale * match + self.biases[sender]).sigmoid()
            joint, total = joint + weight * structures[sender], total + weight
        return joint / total


class Diffusion(nn.Module):
    """Spreads features along structures again and again, keeping a part of the features at the start.

    Args:
        iterations: Steps.
        beta: What each step takes from the neighbours.
    """

    def __init__(self, iterations: int, beta: float) -> None:
        super().__init__()
        self.iterations = iterations
        self.beta = beta

    def forward(self, features: Tensor, structure: Tensor) -> Tensor:
        """Maps features ``[B, C, h, w]`` and structures ``[B, k*k, h, w]`` to diffused features."""
        start = at_least_float32(features)
        state = start
        for _ in range(self.iterations):
            state = torch.lerp(start, spread(structure, state), self.beta)
        return state.to(features.dtype)
