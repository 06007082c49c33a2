"""What training asks about a network's parameters: how deep they lie, and how to freeze batch norm."""

from __future__ import annotations

from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from plait.errors import ConfigurationError
from plait.models.backbones import Backbone


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
