"""A network for several tasks: an encoder, then a decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import Parameter

import plait.tasks
from plait import registry
from plait.errors import ConfigurationError
from plait.models.backbones import Backbone, Normalisation, create_backbone
from plait.models.decoders.base import Decoder
from plait.models.encoders.base import Encoder
from plait.models.predictions import Predictions
from plait.tasks.base import Task


class MultiTaskNetwork(nn.Module):
    """Images to one prediction a task: an encoder, then a decoder; tasks may interact in either.

    Args:
        encoder: Made for the names of ``tasks``, in their order.
        decoder: Made for ``tasks`` and the encoder's pyramids.
        tasks: The tasks in declared order, auxiliary ones included.
        at_cut: What acts between the two, in training and in every prediction: it maps pyramids by task to
            pyramids of the same shapes. Every task then has features of its own, so the decoder must be made
            with one group a task.

    Raises:
        ConfigurationError: If the encoder was made for other tasks, or has no cut for what acts there.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        tasks: Sequence[Task],
        at_cut: nn.Module | None = None,
    ) -> None:
        super().__init__()
        names = tuple(task.name for task in tasks)
        if encoder.tasks != names:
            raise ConfigurationError(
                f"the encoder was made for {', '.join(encoder.tasks)}, expected {', '.join(names)}: "
                f"make both for the same tasks in the same order"
            )
        if at_cut is not None and not encoder.has_cut:
            raise ConfigurationError(
                f"{type(at_cut).__name__} act between encoder and decoder on features that tasks share, but "
                f"encoder {type(encoder).__name__} hands on none: use encoder 'shared' or 'branched', or "
                f"another balancer"
            )
        self.encoder = encoder
        self.decoder = decoder
        self.tasks = tuple(tasks)
        self.at_cut = at_cut

    @property
    def normalisation(self) -> Normalisation:
        """``(mean, std)`` of RGB in [0, 1] that images are expected to be normalised with."""
        return self.encoder.normalisation

    def forward(self, images: Tensor, tasks: Iterable[str] | None = None) -> Predictions:
        """Maps normalised images ``[B, 3, H, W]`` to predictions at full size, in each task's logits.

        With ``tasks``, only these are predicted, and what they do not need is not computed.
        """
        if tasks is None:
            return self.decode(self.encoder(images), images.shape[-2:])
        asked = set(self.encoder.asked(tasks))
        pyramids = self.encoder(images, None if self.decoder.interacts else asked)
        made = self.decode(pyramids, images.shape[-2:])
        return made._replace(
            final={task: map_ for task, map_ in made.final.items() if task in asked},
            intermediate=[{t: m for t, m in level.items() if t in asked} for level in made.intermediate],
            features={task: map_ for task, map_ in made.features.items() if task in asked},
        )

    def decode(self, pyramids: Mapping[str, Sequence[Tensor]], size: Sequence[int]) -> Predictions:
        """Maps the encoder's pyramids to predictions at ``size``, with the penalties of both halves."""
        features = pyramids if self.at_cut is None else self.at_cut(pyramids)
        made: Predictions = self.decoder(features, size=size)
        if own := self.encoder.penalties():
            made = made._replace(penalties={**own, **made.penalties})
        return made

    def shared_parameters(self) -> dict[tuple[str, ...], list[Parameter]]:
        """Every parameter of the encoder, once, under the tasks (in declared order) that depend on it.

        Where tasks interact in the decoder these are all tasks, also for what one task's features come from.
        """
        users = self.encoder.shared_parameters()
        if not self.decoder.interacts:
            return users
        return {self.encoder.tasks: [parameter for listed in users.values() for parameter in listed]}

    def lr_multipliers(self) -> dict[Parameter, float]:
        """Parameters that learn at a multiple of the learning rate, and the multiple."""
        return {**self.encoder.lr_multipliers(), **self.decoder.lr_multipliers()}

    def at_step(self, step: int, steps: int) -> None:
        """Called before each update with how many were made and how many there will be."""
        self.encoder.at_step(step, steps)
        self.decoder.at_step(step, steps)


def create_model(
    *,
    backbone: str | Callable[[], Backbone],
    tasks: Sequence[Task] | Mapping[str, Mapping[str, Any]],
    encoder: str = "shared",
    decoder: str = "independent",
    pretrained: bool = False,
    weights: Path | str | None = None,
    encoder_options: Mapping[str, Any] | None = None,
    decoder_options: Mapping[str, Any] | None = None,
    backbone_options: Mapping[str, Any] | None = None,
    at_cut: Callable[[Mapping[str, Sequence[int]]], nn.Module | None] | None = None,
) -> MultiTaskNetwork:
    """A multi-task network by the names of its parts.

    Args:
        backbone: timm's name of the image network (see :func:`~plait.models.backbones.create_backbone`), or a
            function that makes a :class:`~plait.models.backbones.Backbone` of your own.
        tasks: The tasks in declared order, auxiliary ones included, or their declaration; see
            :func:`plait.tasks.parse`.
        encoder: A name of ``plait.list_encoders()``, or your own as ``package.module:Class``.
        decoder: A name of ``plait.list_decoders()``, or your own.
        pretrained: Whether backbones start from ImageNet weights.
        weights: A ``.safetensors`` or ``.pth`` file for the backbone to start from instead.
        encoder_options: The encoder's own keyword arguments.
        decoder_options: The decoder's own, for instance ``{"head": "fpn", "head_options": {"width": 32}}``.
        backbone_options: The backbone adapter's own, for instance ``{"output_stride": 16}``.
        at_cut: Makes what acts between encoder and decoder (see :class:`MultiTaskNetwork`) from the channels
            of each task's pyramid, or None: for instance ``balancer.at_cut``.

    Raises:
        ConfigurationError: If a name or an option is unknown, or the parts cannot work together; the
            sentence names both.
        WeightsUnavailableError: If the pretrained weights cannot be had.
        CheckpointError: If the file of weights cannot be read or does not fit.
    """
    declared = plait.tasks.parse(tasks) if isinstance(tasks, Mapping) else tuple(tasks)
    for task in declared:
        if not isinstance(task, Task):
            raise ConfigurationError(
                f"expected tasks, got {task!r}: declare them, as in {{'depth': {{'kind': 'depth'}}}}"
            )
    registry.check_options("decoder", decoder, decoder_options or {})

    named = backbone if isinstance(backbone, str) else getattr(backbone, "__name__", "its own")
    if not isinstance(backbone, str) and (pretrained or weights or backbone_options):
        raise ConfigurationError(
            f"pretrained, weights and backbone_options are for backbones of timm, but {named} makes its own: "
            f"set them there"
        )

    def make_backbone() -> Backbone:
        if not isinstance(backbone, str):
            return backbone()
        return create_backbone(backbone, pretrained=pretrained, weights=weights, **(backbone_options or {}))

    names = [task.name for task in declared]
    registry.check_options("encoder", encoder, encoder_options or {})
    try:
        made: Encoder = registry.build(
            "encoder", encoder, encoder_options or {}, make_backbone=make_backbone, tasks=names
        )
        between = None if at_cut is None else at_cut(made.channels)
        head: Decoder = registry.build(
            "decoder",
            decoder,
            decoder_options or {},
            tasks=declared,
            channels=made.channels,
            strides=made.strides,
            groups=made.groups if between is None else {name: name for name in names},
            default_head=made.default_head,
        )
        return MultiTaskNetwork(made, head, declared, between)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"{error} (encoder {encoder!r} on {named!r}, decoder {decoder!r})"
        ) from error
