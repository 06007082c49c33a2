"""Augmentation where the network is: views that were drawn by the loader and are made on the device.

The draws are the loader's own, from (seed, epoch, sample id), and so are the warps: what differs is where
the pixels are computed, and the rounding. The loader ships images and labels as they were read, and the few
numbers that say how each row and column of a view is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plait.data.labels import Label
from plait.data.sample import Batch, DataSet, Geometry, Sample
from plait.data.transforms import DEVICE_KERNELS, FILL, LUMA, warp_geometry
from plait.data.warp import Axis, Warp
from plait.errors import ConfigurationError
from plait.tasks.base import Task


def require_device_kernels(dataset: DataSet, tasks: Sequence[Task]) -> None:
    """Raises :class:`ConfigurationError` if a task's labels cannot be warped on a device."""
    for task in tasks:
        label_type = dataset.fields.get(task.label, task.label_type)
        if label_type not in DEVICE_KERNELS:
            name = label_type.__name__
            raise ConfigurationError(
                f"training.augment_on device needs a kernel that warps {name}, the label type of task "
                f"{task.name!r}: register one with plait.data.transforms.device_kernel({name}), or set "
                f"training.augment_on to loader"
            )


@dataclass(frozen=True)
class View:
    """What was drawn for a sample.

    Attributes:
        warp: Its geometry.
        colour: float64 ``[3, 3]``; a colour becomes ``colour @ it + grey * m``, ``m`` the view's mean luma.
        grey: See there.
    """

    warp: Warp
    colour: NDArray[Any]
    grey: float


@dataclass(frozen=True)
class DrawnBatch:
    """A training batch before its views are made: samples as read, on the host.

    Smaller samples lie in the upper left corner of what the largest needs.

    Attributes:
        images: uint8 ``[B, 3, H, W]``.
        labels: ``{label: [B, C, H, W]}`` of the labels that a sample has; the others' are unknown.
        types: ``{label: its type}``.
        tasks: ``{task: its label}``.
        warps: The geometry drawn for each sample.
        colour: The colour drawn for each sample: float32 ``[B, 3, 4]``, the matrix beside the grey.
        normalisation: Mean and standard deviation of each channel, for images in [0, 1]: float32 ``[2, 3]``.
        present: As in :class:`~plait.data.sample.Batch`; of the views, not of the samples.
        ids: The samples' names.
        geometry: Of the views.
    """

    images: Tensor
    labels: Mapping[str, Tensor]
    types: Mapping[str, type[Label]]
    tasks: Mapping[str, str]
    warps: Warps
    colour: Tensor
    normalisation: Tensor
    present: Mapping[str, Tensor]
    ids: Sequence[str]
    geometry: Sequence[Geometry]

    @classmethod
    def of(
        cls,
        samples: Sequence[Sample],
        views: Sequence[View],
        tasks: Sequence[Task],
        normalisation: tuple[Sequence[float], Sequence[float]],
        present: Mapping[str, Tensor],
    ) -> DrawnBatch:
        """Lays samples of one or several sizes together with the views drawn for them."""
        sizes = [sample.image.shape[-2:] for sample in samples]
        size = (max(height for height, _ in sizes), max(width for _, width in sizes))
        labels, types = {}, {}
        for name, unknown in {task.label: task.label_type.unknown_like for task in tasks}.items():
            maps = [sample.targets.get(name) for sample in samples]
            if known := [one for one in maps if one is not None]:
                labels[name], types[name] = _together(maps, unknown(*size)), type(known[0])
        colour = np.stack([np.column_stack([view.colour, np.full(3, view.grey)]) for view in views])
        return cls(
            images=_together([sample.image for sample in samples], torch.zeros(3, *size, dtype=torch.uint8)),
            labels=labels,
            types=types,
            tasks={task.name: task.label for task in tasks},
            warps=Warps.of([view.warp for view in views], width=size[1]),
            colour=torch.from_numpy(colour).float(),
            normalisation=torch.tensor(normalisation, dtype=torch.float32),
            present=present,
            ids=[sample.id for sample in samples],
            geometry=[
                warp_geometry(sample.geometry, view.warp) for sample, view in zip(samples, views, strict=True)
            ],
        )

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Batch:
        """Makes the batch on ``device``, without waiting for it.

        Images are those of the loader's augmentation but for rounding; labels are the same, unless a place is
        so near the border of two pixels that rounding decides.
        """
        warps = self.warps.to(device, non_blocking)
        images = self.images.to(device, non_blocking=non_blocking)
        labels = {
            name: DEVICE_KERNELS[self.types[name]](label.to(device, non_blocking=non_blocking), warps)
            for name, label in self.labels.items()
        }
        colour = self.colour.to(device, non_blocking=non_blocking)
        normalisation = self.normalisation.to(device, non_blocking=non_blocking)
        return Batch(
            images=_normalised(_coloured(warps.bilinear(images), colour), normalisation),
            targets={task: labels[label] for task, label in self.tasks.items() if label in labels},
            present=self.present,
            ids=self.ids,
            geometry=self.geometry,
        )


def _together(maps: Sequence[Tensor | None], empty: Tensor) -> Tensor:
    """Maps ``[C, h, w]`` in the corners of copies of ``empty`` ``[C, H, W]``; ``[B, C, H, W]``."""
    joined = empty.expand(len(maps), *empty.shape).clone()
    for place, one in zip(joined, maps, strict=True):
        if one is not None:
            place[:, : one.shape[-2], : one.shape[-1]] = one.as_subclass(Tensor)
    return joined


def _coloured(levels: Tensor, colour: Tensor) -> Tensor:
    """Images ``[B, 3, H, W]`` of levels to 255, recoloured, in [0, 1]."""
    red, green, blue = levels.mean((2, 3)).unbind(1)
    luma = float(LUMA[0]) * red + float(LUMA[1]) * green + float(LUMA[2]) * blue
    matrix, grey = colour[..., :3] / 255, colour[..., 3] * luma[:, None] / 255
    # Written out: a product of matrices would use TensorFloat-32 where the network does.
    mixed = grey[..., None, None] + matrix[:, :, 0, None, None] * levels[:, :1]
    for channel in (1, 2):
        mixed += matrix[:, :, channel, None, None] * levels[:, channel, None]
    return mixed.clamp_(0, 1)


def _normalised(images: Tensor, normalisation: Tensor) -> Tensor:
    mean, deviation = normalisation[..., None, None].unbind(0)
    return images.sub_(mean).mul_(1 / deviation)


# --- geometry -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Warps:
    """The warps of a batch as tensors: a :class:`~plait.data.warp.Warp` with one more dimension.

    Attributes:
        size: Height and width of the views.
        width: Of the samples' maps, as they are laid together.
        places: Where in its sample each pixel of a view lies.
        zoom: float32 ``[B, 1, 1, 1]``; depth is divided by it.
        turn: float32 ``[B, 2, 2]``; what happens to directions in the image plane.
        down: How the images' rows are interpolated; None if they are only turned.
        across: How their columns are.
        turned: Where in the image so interpolated each pixel lies; None if it is upright, and thus done.
        fill: What a pixel outside gets, levels to 255: float32 ``[3, 1, 1]``.
    """

    size: tuple[int, int]
    width: int
    places: Places
    zoom: Tensor
    turn: Tensor
    down: Taps | None
    across: Taps | None
    turned: Places | None
    fill: Tensor

    @classmethod
    def of(cls, warps: Sequence[Warp], width: int) -> Warps:
        """Of warps of one result size, from samples that lie in maps of so many columns."""
        turned, axes = None, []
        if all(warp.upright for warp in warps):
            axes = [warp.axes() for warp in warps]
        else:
            split = [warp.shrunk_first() for warp in warps]
            turned = Places.of([turn for _, turn in split])
            if any(shrink is not None for shrink, _ in split):
                axes = [(shrink or Warp.identity(turn.source)).axes() for shrink, turn in split]
        return cls(
            size=warps[0].size,
            width=width,
            places=Places.of(warps),
            zoom=torch.tensor([warp.zoom for warp in warps], dtype=torch.float32).view(-1, 1, 1, 1),
            turn=torch.from_numpy(np.stack([warp.turn for warp in warps])).float(),
            down=Taps.of([down for down, _ in axes]) if axes else None,
            across=Taps.of([across for _, across in axes]) if axes else None,
            turned=turned,
            fill=255 * torch.tensor(FILL, dtype=torch.float32)[:, None, None],
        )

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Warps:
        """The same warps with their tensors on ``device``."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        moved = {
            name: part.to(device, non_blocking=non_blocking) if hasattr(part, "to") else part
            for name, part in parts.items()
        }
        return replace(self, **moved)

    def nearest(self, values: Tensor, outside: float) -> Tensor:
        """Each pixel takes the value ``[B, C, H, W]`` of the sample's pixel that it falls in.

        Pixels that fall in none get ``outside``.
        """
        index, inside = self._nearest
        taken = values.flatten(2).gather(2, index.expand(-1, values.shape[1], -1))
        return taken.view(*values.shape[:2], *self.size).where(inside, outside)

    @cached_property
    def _nearest(self) -> tuple[Tensor, Tensor]:
        return self.places.nearest(self.size, self.width)

    def bilinear(self, images: Tensor) -> Tensor:
        """Images uint8 ``[B, 3, H, W]`` interpolated, smoothed where they shrink: float32, levels to 255."""
        levels = images.float()
        for dimension, taps in ((2, self.down), (3, self.across)):
            if taps is not None:
                levels = taps.along(levels, dimension)
        _, inside = self._nearest
        if self.turned is not None:
            _, inside = self.turned.nearest(self.size, levels.shape[3])
            levels = self.turned.bilinear(levels, self.size)
        return levels.where(inside, self.fill)


@dataclass(frozen=True)
class Places:
    """Where the pixels of views lie in their sources.

    Attributes:
        inverse: float64 ``[B, 2, 3]`` (float32 where a device has no other), coordinates ``(x, y, 1)`` of a
            view to those of its source.
        source: Height and width of each source, ``[B, 2]``.
    """

    inverse: Tensor
    source: Tensor

    @classmethod
    def of(cls, warps: Sequence[Warp]) -> Places:
        """Of warps of one result size."""
        inverse = torch.from_numpy(np.stack([warp.inverse[:2] for warp in warps]))
        return cls(inverse, torch.tensor([warp.source for warp in warps]))

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Places:
        """The same places on ``device``."""
        inverse = self.inverse.float() if torch.device(device).type == "mps" else self.inverse
        return Places(
            inverse.to(device, non_blocking=non_blocking), self.source.to(device, non_blocking=non_blocking)
        )

    def nearest(self, size: tuple[int, int], width: int) -> tuple[Tensor, Tensor]:
        """The pixel that each falls in, of flat sources of so many columns: index ``[B, 1, h * w]``.

        And whether it falls in any: bool ``[B, 1, h, w]``.
        """
        y, x = (coordinate.floor().long() for coordinate in self._grid(size))
        height, columns = self.source[:, :, None, None].unbind(1)
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < columns)
        index = torch.where(inside, y * width + x, 0)
        return index.flatten(1)[:, None], inside[:, None]

    def bilinear(self, levels: Tensor, size: tuple[int, int]) -> Tensor:
        """Interpolates ``[B, C, H, W]`` between the four pixels around each place."""
        y, x = self._grid(size)
        last_row, last_column = (self.source - 1)[:, :, None, None].unbind(1)
        row, down = _neighbours(y, last_row)
        column, right = _neighbours(x, last_column)
        below, beside = torch.minimum(row + 1, last_row), torch.minimum(column + 1, last_column)
        flat, width = levels.flatten(2), levels.shape[3]
        total = levels.new_zeros(*levels.shape[:2], *size)
        for rows, columns, weight in (
            (row, column, (1 - down) * (1 - right)),
            (row, beside, (1 - down) * right),
            (below, column, down * (1 - right)),
            (below, beside, down * right),
        ):
            index = (rows * width + columns).flatten(1)[:, None].expand(-1, levels.shape[1], -1)
            total += flat.gather(2, index).view_as(total) * weight[:, None]
        return total

    def _grid(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """``y`` and ``x`` in the source of every pixel, each ``[B, h, w]``."""
        down, across = (
            torch.arange(extent, device=self.inverse.device, dtype=self.inverse.dtype) + 0.5
            for extent in size
        )
        to_x, to_y = self.inverse[:, :, :, None, None].unbind(1)
        y, x = (across * part[:, 0] + (down[:, None] * part[:, 1] + part[:, 2]) for part in (to_y, to_x))
        return y, x


def _neighbours(places: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """The pixel centre before each coordinate, and how far beyond it the coordinate lies, in [0, 1)."""
    shifted = torch.minimum((places - 0.5).clamp(min=0), last.to(places.dtype))
    low = shifted.long()
    return low, (shifted - low).float()


@dataclass(frozen=True)
class Taps:
    """How one axis of every image of a batch is interpolated: :class:`~plait.data.warp.Axis` for each.

    Attributes:
        places: int64 ``[B, K, n]``, pixels of the source.
        weights: float32 ``[B, K, n]``; 0 where an image needs fewer pixels than another.
    """

    places: Tensor
    weights: Tensor

    @classmethod
    def of(cls, axes: Sequence[Axis]) -> Taps:
        """Of axes that may differ in length and in how many pixels they weigh."""
        shape = (len(axes), *np.max([axis.taps.shape for axis in axes], axis=0))
        places, weights = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
        for row, axis in enumerate(axes):
            many, length = axis.taps.shape
            places[row, :many, :length] = axis.taps
            weights[row, :many, :length] = axis.weights
        return cls(torch.from_numpy(places), torch.from_numpy(weights))

    def to(self, device: torch.device | str, non_blocking: bool = True) -> Taps:
        """The same on ``device``."""
        return Taps(
            self.places.to(device, non_blocking=non_blocking),
            self.weights.to(device, non_blocking=non_blocking),
        )

    def along(self, levels: Tensor, dimension: int) -> Tensor:
        """Interpolates float32 ``[B, C, H, W]`` along its rows (dimension 2) or its columns (3)."""
        shape = [len(levels), 1, 1, 1]
        shape[dimension] = self.places.shape[2]
        total = None
        for place, weight in zip(self.places.unbind(1), self.weights.unbind(1), strict=True):
            part = levels.take_along_dim(place.view(shape), dimension) * weight.view(shape)
            total = part if total is None else total.add_(part)
        assert total is not None  # there are two taps at least
        return total
