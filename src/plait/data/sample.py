"""What flows from a data set to the network: samples and batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from plait.data.labels import Label


@dataclass(frozen=True)
class Geometry:
    """Where a pixel of the original image lies on the network's input.

    Attributes:
        size: Height and width of the original image and labels.
        matrix: float64 ``[3, 3]``, original pixel coordinates ``(x, y, 1)`` (centres at +0.5) to input
            pixel coordinates.
    """

    size: tuple[int, int]
    matrix: Tensor = field(default_factory=lambda: torch.eye(3, dtype=torch.float64))


@dataclass(frozen=True)
class Sample:
    """One image with the labels it has; an absent label is absent.

    Attributes:
        id: Unique in its data set.
        image: RGB ``[3, H, W]``: uint8 as read, float32 in [0, 1] once transformed.
        targets: ``{label field: [C, H, W]}``, a subset of the fields asked for.
        geometry: How the image came from the file.
    """

    id: str
    image: Tensor
    targets: Mapping[str, Label]
    geometry: Geometry


@dataclass(frozen=True)
class Batch:
    """Samples of one size, normalised.

    Attributes:
        images: float32 ``[B, 3, H, W]``, normalised with the backbone's statistics.
        targets: ``{task: [B, C, H, W]}`` for the tasks that at least one sample is labelled for; the
            samples without that label are unknown everywhere.
        present: ``{task: bool [B]}`` for every task: whether the sample has anything that its loss counts.
        ids: The samples' names.
        geometry: How each image came from its file.
        labels: For evaluation: ``{task: [C, h, w]}`` a sample, at the label's own size; else empty.
    """

    images: Tensor
    targets: Mapping[str, Tensor]
    present: Mapping[str, Tensor]
    ids: Sequence[str]
    geometry: Sequence[Geometry]
    labels: Sequence[Mapping[str, Tensor]] = ()

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """The same batch with images and targets on ``device``.

        ``present`` stays on the host, which decides by it, and so do evaluation labels.
        """

        def move(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device, non_blocking=non_blocking) for name, tensor in tensors.items()}

        return Batch(
            images=self.images.to(device, non_blocking=non_blocking),
            targets=move(self.targets),
            present=self.present,
            ids=self.ids,
            geometry=self.geometry,
            labels=self.labels,
        )


class DataSet(Protocol):
    """What every data set offers: a length, samples by place, names, and what its labels mean.

    Constructed as ``(split, labels, root=None, ...)``, where ``labels`` are the label fields to load.

    Further members are read where a data set has them:

    - ``present(place) -> frozenset[str]``: the labels that a sample has, without loading it. Needed by
      samplers that go by labels, and to hide labels by seed.
    - ``measuring: {argument: value}``: what a measure must know of the data, for instance the
      ``max_distance`` at which boundaries match.
    - ``state() -> str``: a checksum that is another one if the files of the split, or what is declared of
      them, have changed. Needed by packs, to tell that they are out of date.
    - ``facts: {what: answer}``: what a person wants to know about the set.
    - ``splits``: the names of its splits, no two of which share a sample; ``train``, ``val`` and ``test``
      if absent.
    """

    split: str
    fields: Mapping[str, type[Label]]
    """Every label field this data set can give, with its type."""
    classes: Mapping[str, Sequence[str]]
    """Class names of its semantic fields."""

    def __len__(self) -> int: ...

    def __getitem__(self, place: int) -> Sample: ...

    def id(self, place: int) -> str:
        """The name of the sample at a place, without loading it."""
        ...
