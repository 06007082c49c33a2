"""What training asks about a network's parameters: how deep they lie, the last that tasks share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from plait.balancing.gradients import Cut, gradients_of, last_weight
from plait.balancing.probe import untouched
from plait.errors import ConfigurationError
from plait.models.backbones import Backbone

if TYPE_CHECKING:
    from plait.models.network import MultiTaskNetwork


def backbone_depths(model: nn.Module) -> dict[str, int]:
    """For each parameter of a backbone in the model, by full name, the stages between it and the decoder.

    The last stage (a vision transformer's last block) and a neck have 0, the stem has the most. Parameters
    outside backbones are not in it.
    """
    depths = {}
    for prefix, backbone in model.named_modules():
        if isinstance(backbone, Backbone):
            dot = f"{prefix}." if prefix else ""
            depths.update({dot + name: depth for name, depth in backbone.depths().items()})
    return depths


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that keeps its statistics: :meth:`train` leaves it in evaluation mode."""

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        super().train(False)
        return self


class FrozenBatchNormAct2d(BatchNormAct2d):
    """The same for timm's batch norm with activation."""

    def train(self, mode: bool = True) -> FrozenBatchNormAct2d:
        super().train(False)
        return self


_FROZEN = {
    nn.BatchNorm2d: FrozenBatchNorm2d,
    nn.SyncBatchNorm: FrozenBatchNorm2d,  # without a batch to share, it is a plain one
    BatchNormAct2d: FrozenBatchNormAct2d,
}


def freeze_batch_norm(module: nn.Module) -> int:
    """Freezes every batch norm below ``module``, in place: statistics stay, scales and shifts do not train.

    Names in the state dict stay as they are, and so does the freeze when ``train()`` is called.

    Returns:
        How many are frozen.

    Raises:
        ConfigurationError: If there is a kind of batch norm that we cannot freeze.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    for norm in norms:
        if type(norm) not in _FROZEN and type(norm) not in _FROZEN.values():
            raise ConfigurationError(
                f"cannot freeze a {type(norm).__name__}; expected "
                f"{', '.join(known.__name__ for known in _FROZEN)}: train it, or use another backbone"
            )
        norm.__class__ = _FROZEN.get(type(norm), type(norm))
        norm.eval()
        norm.requires_grad_(False)
    return len(norms)


def last_shared_layer(model: MultiTaskNetwork) -> list[nn.Parameter]:
    """The weight of the last layer that tasks share, before each feature map that a prediction is made from.

    Norms and biases are no layer. Which maps these are depends on the head: a DeepLab head reads the last
    level, so on a ResNet it is the last convolution of the last stage; HRNet, FPN and linear heads read every
    level, so it is the last convolution of each stage, or into each branch of an HRNet; with a neck, of its
    levels. Levels before which every layer is frozen have none.
    Found in the graph of a blank image, without a trace in the network.

    Raises:
        ConfigurationError: If tasks share no weight that is trained.
    """
    shared = {p for tasks, ps in model.shared_parameters().items() if len(tasks) > 1 for p in ps}
    first = next(model.parameters())
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.enable_grad(), untouched(model), torch.compiler.set_stance("force_eager"):
            cut = Cut(model.encoder(first.new_zeros(1, 3, 64, 64)))
            made = model.decode(cut.structure, (64, 64))
            maps = [m for level in (made.final, *made.intermediate) for m in level.values()]
            read = gradients_of([torch.stack([m.sum() for m in maps]).sum()], cut.leaves, keep=False)
    finally:
        for module, training in modes.items():
            module.training = training
    levels = [feature for feature, gradient in zip(cut.features, read, strict=True) if gradient is not None]
    found = dict.fromkeys(last_weight(level, shared) for level in levels)
    found.pop(None, None)  # a level before which every layer is frozen
    if not found:
        raise ConfigurationError(
            f"encoder {type(model.encoder).__name__} has no layer that tasks share and that is trained: "
            f"use balancer 'equal' or another encoder"
        )
    return [weight for weight in found if isinstance(weight, nn.Parameter)]
