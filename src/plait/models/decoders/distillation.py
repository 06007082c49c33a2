"""Multi-modal distillation: how tasks' features of one size inform each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from plait.errors import ConfigurationError
from plait.models.blocks import conv3x3
from plait.models.recompute import recomputed
from plait.registry import nearest


class Messages(nn.Module):
    """Adds to each receiving task a message from every other task.

    With a 3x3 convolution M for each ordered pair of tasks, a receiver t has
    ``F'_t = F_t + sum_(a != t) M_at(F_a)``. If messages are gated there is a second one G for each pair, and
    ``M_at(F_a)`` is multiplied by ``sigmoid(G_at(F_a))``. A receiver without others keeps its features.

    Args:
        senders: All tasks, in declared order.
        receivers: Those that listen; a task does not listen to itself.
        channels: C, of every task's features.
        gated: Whether messages pass a gate (variant C) or not (variant B).
        gradient_checkpointing: Whether gated messages are computed again in the backward pass; messages
            without gates keep nothing but the senders' features anyway.

    Source:
        Xu et al., PAD-Net: Multi-Tasks Guided Prediction-and-Distillation Network, CVPR 2018,
        variants B and C of its distillation. As in the published code of Vandenhende et al., Multi-Task
        Learning for Dense Prediction Tasks: A Survey, TPAMI 2021, the gate has C channels and reads the
        sender, and no convolution has a bias.
    """

    def __init__(
        self,
        senders: Sequence[str],
        receivers: Sequence[str],
        channels: int,
        *,
        gated: bool,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.receivers = tuple(receivers)
        self.pairs = [(s, r) for r in receivers for s in senders if s != r]
        self.messages = nn.ModuleDict(
            {
                f"{sender} to {receiver}": GatedMessage(channels) if gated else conv3x3(channels, channels)
                for sender, receiver in self.pairs
            }
        )
        self.recompute = gated and gradient_checkpointing

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Maps all tasks' features ``[B, C, h, w]`` to the receivers' refined ones, of the same shape."""
        refined = {receiver: features[receiver] for receiver in self.receivers}
        for sender, receiver in self.pairs:
            message, sent = self.messages[f"{sender} to {receiver}"], features[sender]
            heard = recomputed(message, sent) if self.recompute and self.training else message(sent)
            refined[receiver] = refined[receiver] + heard
        return refined


class GatedMessage(nn.Module):
    """A message and the gate that it passes, both read from the sender."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.message = conv3x3(channels, channels)
        self.gate = conv3x3(channels, channels)

    def forward(self, sent: Tensor) -> Tensor:
        """Maps the sender's features ``[B, C, h, w]`` to what is heard of them, of the same shape."""
        heard: Tensor = self.message(sent) * self.gate(sent).sigmoid()
        return heard


class Concatenation(nn.Module):
    """Computes each receiving task's features anew from those of all tasks.

    ``F'_t = M_t([F_1; ...; F_T])``, with a 3x3 convolution from TC to C channels for each receiver. With one
    task there is nothing to concatenate, and it keeps its features.

    Args:
        senders: All tasks, in declared order.
        receivers: Those that listen.
        channels: C, of every task's features.

    Source:
        Xu et al., PAD-Net, CVPR 2018, variant A of its distillation. The receiver's own features stand at its
        place among the others, so that one order of channels serves all receivers.
    """

    def __init__(self, senders: Sequence[str], receivers: Sequence[str], channels: int) -> None:
        super().__init__()
        self.senders = tuple(senders)
        self.receivers = tuple(receivers)
        self.convolutions = nn.ModuleDict(
            {receiver: conv3x3(len(senders) * channels, channels) for receiver in receivers}
            if len(senders) > 1
            else {}
        )
        self.task_axes = {f"convolutions.{receiver}.weight": (1,) for receiver in self.convolutions}

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Maps all tasks' features ``[B, C, h, w]`` to the receivers' refined ones, of the same shape."""
        if len(self.senders) == 1:
            return {receiver: features[receiver] for receiver in self.receivers}
        everything = torch.cat([features[sender] for sender in self.senders], 1)
        return {receiver: self.convolutions[receiver](everything) for receiver in self.receivers}


def distillation_module(
    name: str,
    senders: Sequence[str],
    receivers: Sequence[str],
    channels: int,
    *,
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """A module from the features of all tasks to the refined ones of those that listen.

    Args:
        name: ``attention``, ``concatenation`` or ``message``.
        senders: All tasks, in declared order.
        receivers: Those that listen.
        channels: Of every task's features.
        gradient_checkpointing: Whether to compute in the backward pass again what would take much memory.

    Raises:
        ConfigurationError: If the name is unknown.
    """
    known: Mapping[str, Callable[..., nn.Module]] = {
        "attention": partial(Messages, gated=True, gradient_checkpointing=gradient_checkpointing),
        "concatenation": Concatenation,
        "message": partial(Messages, gated=False),
    }
    if name not in known:
        raise ConfigurationError(
            f"unknown distillation {name!r}{nearest(name, known)}; known are {', '.join(known)}"
        )
    return known[name](senders, receivers, channels)
