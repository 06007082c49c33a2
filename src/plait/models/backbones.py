"""Image networks of timm, one adapter a family, all seen as ordered stages that give a feature pyramid."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, cast

import timm
from timm.models import is_model, model_entrypoint
from torch import Tensor, nn
from torch.nn import functional as F

from plait.errors import ConfigurationError
from plait.models.blocks import cut
from plait.models.recompute import recomputed
from plait.models.weights import WeightsReport, timm_network
from plait.registry import check_arguments, nearest

Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]


class Stage(nn.Sequential):
    """Blocks that run in order, each from ``[B, C, h, w]`` to ``[B, C', h', w']``.

    With ``recompute`` set, training keeps only the input of each block and computes the rest again in the
    backward pass: less memory for more time, with the same gradients and the same running statistics.
    """

    recompute: bool = False

    def forward(self, features: Tensor) -> Tensor:
        for block in self:
            features = recomputed(block, features) if self.recompute and self.training else block(features)
        return features


class Backbone(nn.Module):
    """An image network that turns images of any size into a pyramid of feature maps.

    Where the family has them, ``stem`` and ``stages`` are the network itself: the stem maps images to
    features, each stage maps the features of the one before, and the output of each stage is a level of
    the pyramid. An encoder whose tasks interact between stages runs them itself, between :meth:`pad` and
    :meth:`crop`. Families without such stages (HRNet, vision transformers) leave ``stages`` empty.

    Attributes:
        name: timm's name of the network.
        channels: Channels of each level.
        strides: Stride of each level; a level of an image ``[H, W]`` has ``ceil(H / stride)`` rows.
        multiple: What the height and width of an image are padded to a multiple of (bottom and right, with
            zeros, which are the mean of normalised images).
        stem: Images to the input of the first stage; empty where there are no stages.
        stages: One :class:`Stage` a level, or none.
        normalisation: ``(mean, std)`` of the RGB values in [0, 1] the network was trained with.
        weights: What was loaded, or None if the network starts at random.
    """

    default_head: ClassVar[str] = "fpn"

    stem: nn.Sequential
    stages: Sequence[Stage]

    def __init__(
        self,
        name: str,
        *,
        network: Any,
        channels: Sequence[int],
        strides: Sequence[int],
        weights: WeightsReport | None,
        multiple: int = 1,
        gradient_checkpointing: bool = False,
        stem: Mapping[str, nn.Module] | None = None,
        stages: Sequence[Sequence[nn.Module]] = (),
    ) -> None:
        super().__init__()
        self.name = name
        self.channels = tuple(channels)
        self.strides = tuple(strides)
        self.multiple = multiple
        self.weights = weights
        self.gradient_checkpointing = gradient_checkpointing
        self.normalisation: Normalisation = (
            tuple(network.pretrained_cfg["mean"]),
            tuple(network.pretrained_cfg["std"]),
        )
        self.stem = nn.Sequential(OrderedDict(stem or {}))
        self.stages = cast("Sequence[Stage]", nn.ModuleList(Stage(*blocks) for blocks in stages))
        for stage in self.stages:
            stage.recompute = gradient_checkpointing

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps normalised images ``[B, 3, H, W]`` to ``[B, C_s, ceil(H/s), ceil(W/s)]`` for each stride s."""
        return self.crop(self.pyramid(self.pad(images)), images.shape[-2:])

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The levels of padded images."""
        features, levels = self.stem(images), []
        for stage in self.stages:
            features = stage(features)
            levels.append(features)
        return levels

    def pad(self, images: Tensor) -> Tensor:
        """Images padded to sizes that the network divides evenly."""
        # In whole multiples and with nothing negative divided: where sizes are only known as an exported
        # network runs, torch then sees what divides them, and ONNX, which rounds towards zero, agrees.
        height, width = images.shape[-2:]
        rows = (height + self.multiple - 1) // self.multiple * self.multiple
        columns = (width + self.multiple - 1) // self.multiple * self.multiple
        return F.pad(images, (0, columns - width, 0, rows - height))

    def crop(self, levels: Sequence[Tensor], size: Sequence[int]) -> list[Tensor]:
        """Levels without what :meth:`pad` added to images of this ``(H, W)``."""
        height, width = size
        return [
            cut(level, ((height + stride - 1) // stride, (width + stride - 1) // stride))
            for level, stride in zip(levels, self.strides, strict=True)
        ]

    def part(self, number: int) -> nn.Module:
        """A part of the network: 0 is the stem, ``k`` the k-th stage."""
        return self.stages[number - 1] if number else self.stem

    def drop(self, part: int) -> None:
        """Takes a part out, to be computed elsewhere: 0 is the stem, ``k`` the k-th stage."""
        if part == 0:
            self.stem = nn.Sequential()
        else:
            self.stages[part - 1] = Stage()  # type: ignore[index]

    def parts(self) -> list[list[nn.Module]]:
        """The network cut into consecutive parts, the stem first."""
        return [[self.stem], *([cast("nn.Module", stage)] for stage in self.stages)]

    def depths(self) -> dict[str, int]:
        """For each parameter, by name, how many parts follow its own; 0 for what no part holds (a neck)."""
        parts = self.parts()
        after = {
            id(parameter): len(parts) - 1 - place
            for place, modules in enumerate(parts)
            for module in modules
            for parameter in module.parameters()
        }
        return {name: after.get(id(parameter), 0) for name, parameter in self.named_parameters()}


class ResNet(Backbone):
    """ResNet and its kin (ResNeXt, SE-ResNet), by default at output stride 8 as in the survey.

    With output stride 8 the last two stages keep their resolution: their strides become 1, and their 3x3
    convolutions have dilation 2 and 4 (the first one of each stage that of the stage before), which is
    the published scheme.

    Args:
        name: timm's name.
        output_stride: 8, 16 or 32.
        drop_path_rate: Probability of skipping a block in training.
        gradient_checkpointing: Whether to recompute blocks in the backward pass.
        pretrained: Whether to start from ImageNet weights.
        weights: A file to start from instead.
    """

    default_head = "deeplab"

    def __init__(
        self,
        name: str,
        *,
        output_stride: int = 8,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
        pretrained: bool = False,
        weights: Path | str | None = None,
    ) -> None:
        if output_stride not in (8, 16, 32):
            raise ConfigurationError(f"output_stride of {name} must be 8, 16 or 32, got {output_stride}")
        network, report = timm_network(
            name,
            trim=_remove("fc"),
            pretrained=pretrained,
            weights=weights,
            output_stride=output_stride,
            drop_path_rate=drop_path_rate,
        )
        levels = network.feature_info[-4:]
        super().__init__(
            name,
            network=network,
            channels=[level["num_chs"] for level in levels],
            strides=[min(level["reduction"], output_stride) for level in levels],
            weights=report,
            gradient_checkpointing=gradient_checkpointing,
            stem={part: getattr(network, part) for part in ("conv1", "bn1", "act1", "maxpool")},
            stages=[network.layer1, network.layer2, network.layer3, network.layer4],
        )


class EfficientNet(Backbone):
    """EfficientNet (and MobileNetV2, MnasNet), the levels at strides 4 to 32.

    The stem reaches to the end of stride 2; a stage holds all blocks of one stride.

    Args:
        name: timm's name, for instance ``tf_efficientnet_lite0``, whose ImageNet weights need no network.
        drop_path_rate: Probability of skipping a block in training.
        gradient_checkpointing: Whether to recompute blocks in the backward pass.
        pretrained: Whether to start from ImageNet weights.
        weights: A file to start from instead.
    """

    def __init__(
        self,
        name: str,
        *,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
        pretrained: bool = False,
        weights: Path | str | None = None,
    ) -> None:
        network, report = timm_network(
            name,
            trim=_remove("conv_head", "bn2", "classifier"),
            pretrained=pretrained,
            weights=weights,
            drop_path_rate=drop_path_rate,
        )
        # A level ends with a group of blocks; what ends at stride 2, blocks or a convolution, is the stem.
        ends = [
            int(info["module"].removeprefix("blocks.")) + 1 if info["module"].startswith("blocks.") else 0
            for info in network.feature_info
        ]
        levels = [info for info in network.feature_info if info["reduction"] >= 4]
        ends = ends[-len(levels) - 1 :]
        super().__init__(
            name,
            network=network,
            channels=[level["num_chs"] for level in levels],
            strides=[level["reduction"] for level in levels],
            weights=report,
            gradient_checkpointing=gradient_checkpointing,
            stem={"conv_stem": network.conv_stem, "bn1": network.bn1, "blocks": network.blocks[: ends[0]]},
            stages=[
                [block for group in network.blocks[first:end] for block in group]
                for first, end in pairwise(ends)
            ],
        )


class ConvNeXt(Backbone):
    """ConvNeXt; the first block of each stage is its downsampling layer.

    Args:
        name: timm's name.
        drop_path_rate: Probability of skipping a block in training.
        gradient_checkpointing: Whether to recompute blocks in the backward pass.
        pretrained: Whether to start from ImageNet weights.
        weights: A file to start from instead.
    """

    def __init__(
        self,
        name: str,
        *,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
        pretrained: bool = False,
        weights: Path | str | None = None,
    ) -> None:
        network, report = timm_network(
            name,
            trim=_remove("norm_pre", "head"),
            pretrained=pretrained,
            weights=weights,
            drop_path_rate=drop_path_rate,
        )
        levels = network.feature_info
        super().__init__(
            name,
            network=network,
            channels=[level["num_chs"] for level in levels],
            strides=[level["reduction"] for level in levels],
            multiple=levels[-1]["reduction"],
            weights=report,
            gradient_checkpointing=gradient_checkpointing,
            stem=dict(network.stem.named_children()),
            stages=[_without_identity(stage.downsample, *stage.blocks) for stage in network.stages],
        )


class ChannelsFirst(nn.Module):
    """A block on ``[B, H, W, C]``, seen from outside as one on ``[B, C, H, W]``; nothing is copied."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, features: Tensor) -> Tensor:
        moved: Tensor = self.block(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return moved


class Swin(Backbone):
    """Swin transformer (V1 and V2); the first block of each stage but the first merges patches.

    Args:
        name: timm's name.
        drop_path_rate: Probability of skipping a block in training.
        gradient_checkpointing: Whether to recompute blocks in the backward pass.
        pretrained: Whether to start from ImageNet weights.
        weights: A file to start from instead.
    """

    def __init__(
        self,
        name: str,
        *,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
        pretrained: bool = False,
        weights: Path | str | None = None,
    ) -> None:
        network, report = timm_network(
            name,
            trim=_remove("norm", "head"),
            pretrained=pretrained,
            weights=weights,
            strict_img_size=False,
            drop_path_rate=drop_path_rate,
        )
        levels = network.feature_info
        super().__init__(
            name,
            network=network,
            channels=[level["num_chs"] for level in levels],
            strides=[level["reduction"] for level in levels],
            multiple=levels[-1]["reduction"],
            weights=report,
            gradient_checkpointing=gradient_checkpointing,
            stem={"patch_embed": network.patch_embed, "channels_first": _ToChannelsFirst()},
            stages=[
                [ChannelsFirst(block) for block in _without_identity(stage.downsample, *stage.blocks)]
                for stage in network.layers
            ],
        )


class HRNet(Backbone):
    """HRNet: four branches at strides 4 to 32 that exchange features throughout, so it has no stages.

    Inside the fusion layers coarse maps are upsampled bilinearly, as in the published dense prediction
    networks; timm's classification network, otherwise the same, takes the nearest neighbour.

    Args:
        name: timm's name; the survey's HRNet-W18 is ``hrnet_w18_small_v2``.
        gradient_checkpointing: Whether to recompute modules in the backward pass.
        pretrained: Whether to start from ImageNet weights.
        weights: A file to start from instead.

    Source:
        Sun et al., High-Resolution Representations for Labeling Pixels and Regions, 2019.
    """

    default_head = "hrnet"

    def __init__(
        self,
        name: str,
        *,
        gradient_checkpointing: bool = False,
        pretrained: bool = False,
        weights: Path | str | None = None,
    ) -> None:
        network, report = timm_network(
            name,
            trim=_remove("incre_modules", "downsamp_modules", "final_layer", "head_drop", "classifier"),
            pretrained=pretrained,
            weights=weights,
        )
        for module in network.modules():
            if isinstance(module, nn.Upsample):
                module.mode = "bilinear"
        super().__init__(
            name,
            network=network,
            channels=network.stage4_cfg["num_channels"],
            strides=[4, 8, 16, 32],
            multiple=32,
            weights=report,
            gradient_checkpointing=gradient_checkpointing,
        )
        for part in ("conv1", "bn1", "act1", "conv2", "bn2", "act2", "layer1"):
            self.stem.add_module(part, getattr(network, part))
        self.transitions = nn.ModuleList([network.transition1, network.transition2, network.transition3])
        self.exchanges = nn.ModuleList([network.stage2, network.stage3, network.stage4])

    def pyramid(self, images: Tensor) -> list[Tensor]:
        branches = [self.stem(images)]
        for transition, exchange in zip(self.transitions, self.exchanges, strict=True):
            branches = [
                step(branches[min(i, len(branches) - 1)])
                for i, step in enumerate(cast("nn.ModuleList", transition))
            ]
            for module in cast("nn.Sequential", exchange):
                branches = self._run(module, branches)
        return branches

    def parts(self) -> list[list[nn.Module]]:
        return [[self.stem], *([*pair] for pair in zip(self.transitions, self.exchanges, strict=True))]

    def _run(self, module: nn.Module, branches: list[Tensor]) -> list[Tensor]:
        if self.gradient_checkpointing and self.training:
            result: list[Tensor] = recomputed(module, branches)
        else:
            result = module(list(branches))  # timm's module overwrites entries of its argument
        return result


class Reassemble(nn.Module):
    """A neck that turns four maps at one stride p into a pyramid at strides p/4, p/2, p and 2p.

    Each map is projected by a 1x1 convolution to D/8, D/4, D/2 and D channels, then enlarged by transposed
    convolutions (4 and 2 times), kept, or shrunk by a strided 3x3 convolution.

    Source:
        Ranftl, Bochkovskiy and Koltun, Vision Transformers for Dense Prediction, ICCV 2021, section 3.1
        ("reassemble"); without its readout token, whose place differs between transformers.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.channels = tuple(max(dimension // part, 1) for part in (8, 4, 2, 1))
        first, second, third, fourth = self.channels
        self.levels = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(dimension, first, 1), nn.ConvTranspose2d(first, first, 4, stride=4)),
                nn.Sequential(
                    nn.Conv2d(dimension, second, 1), nn.ConvTranspose2d(second, second, 2, stride=2)
                ),
                nn.Conv2d(dimension, third, 1),
                nn.Sequential(
                    nn.Conv2d(dimension, fourth, 1), nn.Conv2d(fourth, fourth, 3, stride=2, padding=1)
                ),
            ]
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps four ``[B, D, h, w]`` to ``[B, C_k, h_k, w_k]``."""
        return [level(each) for level, each in zip(self.levels, maps, strict=True)]


NECKS: Mapping[str, type[Reassemble]] = {"reassemble": Reassemble}


class ViT(Backbone):
    """Plain vision transformers (ViT, DeiT, DINOv2, DINOv3, EVA): four depths of one stride, and a neck.

    The maps are the outputs of the blocks at a quarter, a half, three quarters and the end of the depth,
    before the final norm. It has no stages.

    Args:
        name: timm's name.
        neck: Makes the pyramid: ``reassemble``, at strides p/4 to 2p of the patch size p.
        patch_size: Another patch size than the network's own (its embedding is resampled), for instance 16
            for DINOv2's 14; must be a multiple of 4.
        drop_path_rate: Probability of skipping a block in training.
        gradient_checkpointing: Whether to recompute blocks in the backward pass.
        pretrained: Whether to start from ImageNet weights; the neck always starts at random.
        weights: A file to start from instead.
    """

    def __init__(
        self,
        name: str,
        *,
        neck: str = "reassemble",
        patch_size: int | None = None,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
        pretrained: bool = False,
        weights: Path | str | None = None,
    ) -> None:
        if neck not in NECKS:
            raise ConfigurationError(
                f"unknown neck {neck!r}{nearest(neck, NECKS)}; known are {', '.join(NECKS)}"
            )
        network, report = timm_network(
            name,
            trim=_remove_transformer_head,
            pretrained=pretrained,
            weights=weights,
            dynamic_img_size=True,
            drop_path_rate=drop_path_rate,
            **({} if patch_size is None else {"patch_size": patch_size}),
        )
        patch = max(network.patch_embed.patch_size)
        if patch % 4:
            raise ConfigurationError(
                f"{name} has patches of {patch} pixels, expected a multiple of 4 so that the pyramid has "
                f"whole strides: set patch_size to {-(-patch // 4) * 4}"
            )
        pyramid = NECKS[neck](network.embed_dim)
        if report is not None:
            new = tuple(f"neck.{key}" for key in pyramid.state_dict())
            report = WeightsReport(report.loaded, (*report.missing, *new), report.unexpected, report.source)
        super().__init__(
            name,
            network=network,
            channels=pyramid.channels,
            strides=[patch // 4, patch // 2, patch, 2 * patch],
            multiple=2 * patch,
            weights=report,
            gradient_checkpointing=gradient_checkpointing,
        )
        network.set_grad_checkpointing(gradient_checkpointing)
        depth = len(network.blocks)
        self.taken = [-(-depth * quarter // 4) - 1 for quarter in (1, 2, 3, 4)]
        self.transformer = network
        self.neck = pyramid

    def pyramid(self, images: Tensor) -> list[Tensor]:
        maps = self.transformer.forward_intermediates(
            images, indices=self.taken, norm=False, output_fmt="NCHW", intermediates_only=True
        )
        levels: list[Tensor] = self.neck(maps)
        return levels

    def parts(self) -> list[list[nn.Module]]:
        blocks = list(self.transformer.blocks)
        before = [part for part in self.transformer.children() if part is not self.transformer.blocks]
        return [before, *([block] for block in blocks)]

    def depths(self) -> dict[str, int]:
        # Tokens and positions are parameters of the transformer itself, and come before its first block.
        direct = {f"transformer.{name}" for name, _ in self.transformer.named_parameters(recurse=False)}
        last = len(self.transformer.blocks)
        return {name: last if name in direct else depth for name, depth in super().depths().items()}


FAMILIES: Mapping[str, type[Backbone]] = {
    "resnet": ResNet,
    "hrnet": HRNet,
    "efficientnet": EfficientNet,
    "convnext": ConvNeXt,
    "swin_transformer": Swin,
    "swin_transformer_v2": Swin,
    "vision_transformer": ViT,
    "eva": ViT,
}
"""The adapter of each of timm's model files."""


def create_backbone(
    name: str,
    *,
    pretrained: bool = False,
    weights: Path | str | None = None,
    **options: Any,
) -> Backbone:
    """A backbone by timm's name.

    Args:
        name: For instance ``resnet18``, ``hrnet_w18_small_v2``, ``tf_efficientnet_lite0``,
            ``convnext_tiny``, ``swin_tiny_patch4_window7_224`` or ``vit_base_patch16_224.mae``.
        pretrained: Whether to start from ImageNet weights; they come or an error does.
        weights: A ``.safetensors`` or ``.pth`` file to start from instead.
        options: Keyword arguments of the family's adapter, for instance ``output_stride`` of :class:`ResNet`.

    Raises:
        ConfigurationError: If the name or an option is unknown, or the family has no adapter.
        WeightsUnavailableError: If the pretrained weights cannot be had.
        CheckpointError: If the file of weights cannot be read or does not fit.
    """
    architecture, _, tag = name.partition(".")
    if not is_model(architecture):
        raise ConfigurationError(
            f"unknown backbone {name!r}{nearest(architecture, timm.list_models())}; "
            f"it must be a name that timm.list_models() knows"
        )
    module = model_entrypoint(architecture).__module__.rpartition(".")[2]
    if module not in FAMILIES:
        raise ConfigurationError(
            f"backbone {name!r} is of timm's family {module!r}, for which there is no adapter; "
            f"there is one for {', '.join(FAMILIES)}"
        )
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ConfigurationError(
            f"{architecture} has no weights {tag!r}{nearest(tag, tags)}: name one of "
            f"{', '.join(tags) or 'none'}, or leave the name of weights out"
        )
    family = FAMILIES[module]
    check_arguments(f"backbone {name!r}", family, options, but=("name", "pretrained", "weights"))
    make: Any = family
    backbone: Backbone = make(name, pretrained=pretrained, weights=weights, **options)
    return backbone


class _ToChannelsFirst(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features.permute(0, 3, 1, 2)


def _remove(*parts: str) -> Callable[[Any], None]:
    """A function that replaces the named parts of a network, where it has them, by nothing."""

    def trim(network: Any) -> None:
        for part in parts:
            if getattr(network, part, None) is not None:
                setattr(network, part, nn.Identity())

    return trim


def _remove_transformer_head(network: Any) -> None:
    network.prune_intermediate_layers(len(network.blocks), prune_norm=True, prune_head=True)


def _without_identity(*blocks: nn.Module) -> list[nn.Module]:
    return [block for block in blocks if not isinstance(block, nn.Identity)]
