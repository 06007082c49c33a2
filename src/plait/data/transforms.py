"""Augmentation, and how every label type behaves under geometry.

All geometry of a sample is one :class:`~plait.data.warp.Warp`, applied once to each map: the image is
interpolated, labels take the nearest source pixel, so no value is made up between two objects, and what
falls outside the source is unknown. Conventions (those of the survey, section "augmentation" of its code):

* Seen from closer by a factor ``s``, depth becomes ``depth / s``, inverse depth is multiplied by ``s``, and
  normals stay. Resizing a picture is no zoom: it has the same depths with fewer pixels.
* A flip changes the sign of the normals' x; a rotation turns their (x, y) with the picture.

The same kernels are registered with torchvision's ``transforms.v2`` for our label types, so its flips,
crops, pads, resizes, rotations and affine maps are right for them; every other geometric transform of
torchvision, and a label type for which nothing is registered here, is an error, never a pass-through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from plait.data.labels import UNKNOWN_CLASS, Depth, InverseDepth, Label, Mask, Normals, Semantic
from plait.data.sample import Geometry, Sample
from plait.data.warp import Memory, Warp
from plait.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from plait.data.device import Warps

Array = NDArray[Any]
Kernel = Callable[[Array, Warp], Array]
AnyKernel = TypeVar("AnyKernel", bound=Kernel)
DeviceKernel = Callable[[Tensor, "Warps"], Tensor]
AnyDeviceKernel = TypeVar("AnyDeviceKernel", bound=DeviceKernel)

FILL = (0.485, 0.456, 0.406)
"""The colour of what falls outside an image, RGB in [0, 1]: ImageNet's mean."""

LUMA = np.array([0.299, 0.587, 0.114])

KERNELS: dict[type[Label], Kernel] = {}
"""How each label type is warped; see :func:`kernel`."""

DEVICE_KERNELS: dict[type[Label], DeviceKernel] = {}
"""How a batch of each label type is warped on a device; see :func:`device_kernel`."""


def kernel(label_type: type[Label]) -> Callable[[AnyKernel], AnyKernel]:
    """Registers how a label type is warped: ``(values [C, H, W], warp) -> values [C, h, w]``."""

    def register(function: AnyKernel) -> AnyKernel:
        KERNELS[label_type] = function
        return function

    return register


def device_kernel(label_type: type[Label]) -> Callable[[AnyDeviceKernel], AnyDeviceKernel]:
    """Registers how a batch of a label type is warped: ``(values [B, C, H, W], warps) -> [B, C, h, w]``.

    It does what the type's :func:`kernel` does, in tensors on any device; ``warps`` has ``nearest``, ``zoom``
    and ``turn`` as a warp has, for every sample of the batch. Only needed to augment on the device.
    """

    def register(function: AnyDeviceKernel) -> AnyDeviceKernel:
        DEVICE_KERNELS[label_type] = function
        return function

    return register


@kernel(Semantic)
def _warp_semantic(values: Array, warp: Warp) -> Array:
    return warp.nearest(values, UNKNOWN_CLASS)


@device_kernel(Semantic)
def _warp_semantics(values: Tensor, warps: Warps) -> Tensor:
    return warps.nearest(values, UNKNOWN_CLASS)


@kernel(Depth)
def _warp_depth(values: Array, warp: Warp) -> Array:
    warped = warp.nearest(values, np.nan)
    if warp.zoom != 1:
        warped *= 1 / warp.zoom
    return warped


@device_kernel(Depth)
def _warp_depths(values: Tensor, warps: Warps) -> Tensor:
    return warps.nearest(values, torch.nan) / warps.zoom


@kernel(InverseDepth)
def _warp_inverse_depth(values: Array, warp: Warp) -> Array:
    warped = warp.nearest(values, np.nan)
    if warp.zoom != 1:
        warped *= warp.zoom
    return warped


@device_kernel(InverseDepth)
def _warp_inverse_depths(values: Tensor, warps: Warps) -> Tensor:
    return warps.nearest(values, torch.nan) * warps.zoom


@kernel(Normals)
def _warp_normals(values: Array, warp: Warp) -> Array:
    warped = warp.nearest(values, np.nan)
    turn = warp.turn
    if turn[0, 1] == 0 and turn[1, 0] == 0:
        for axis in (0, 1):
            if turn[axis, axis] < 0:
                np.negative(warped[..., axis, :, :], out=warped[..., axis, :, :])
        return warped
    # An orthogonal turn keeps the length of the float32 vectors to one unit in the last place.
    x, y = warped[..., 0, :, :].copy(), warped[..., 1, :, :].copy()
    warped[..., 0, :, :] = turn[0, 0] * x + turn[0, 1] * y
    warped[..., 1, :, :] = turn[1, 0] * x + turn[1, 1] * y
    return warped


@device_kernel(Normals)
def _warp_many_normals(values: Tensor, warps: Warps) -> Tensor:
    x, y, z = warps.nearest(values, torch.nan).unbind(1)
    turn = warps.turn[..., None, None]
    return torch.stack(
        [turn[:, 0, 0] * x + turn[:, 0, 1] * y, turn[:, 1, 0] * x + turn[:, 1, 1] * y, z], dim=1
    )


@kernel(Mask)
def _warp_mask(values: Array, warp: Warp) -> Array:
    return warp.nearest(values, np.nan)


@device_kernel(Mask)
def _warp_masks(values: Tensor, warps: Warps) -> Tensor:
    return warps.nearest(values, torch.nan)


def warp_label(label: Label, warp: Warp) -> Label:
    """A label ``[C, H, W]`` after a warp, of the same type.

    Raises:
        TypeError: If nothing is registered for the label's own type: a subclass registers its own kernel.
    """
    label_type = type(label)
    if label_type not in KERNELS:
        raise TypeError(
            f"no kernel says how {label_type.__name__} behaves under geometry, and passing it through would "
            f"be wrong; register one with plait.data.transforms.kernel({label_type.__name__})"
        )
    warped = KERNELS[label_type](label.as_subclass(Tensor).numpy(), warp)
    return label_type(torch.from_numpy(warped))


def warp_sample(sample: Sample, warp: Warp, fill: Sequence[float] = FILL) -> Sample:
    """A sample after a warp; the image becomes float32 in [0, 1], in its geometry the warp is noted."""
    warp = _with_memory(warp, sample)
    image = warp.bilinear(_levels(sample), 255 * np.asarray(fill))
    image *= np.float32(1 / 255)
    return _rebuilt(sample, image, warp)


def _with_memory(warp: Warp, sample: Sample) -> Warp:
    """The warp with memory for all maps of a sample together."""
    pixel = 3 * 4 + sum(label.shape[0] * label.element_size() for label in sample.targets.values())
    return warp.into(Memory(pixel * warp.size[0] * warp.size[1] + 64 * len(sample.targets)))


def _levels(sample: Sample) -> Array:
    image = sample.image.as_subclass(Tensor)
    if image.dtype != torch.uint8:
        raise TypeError(
            f"expected a uint8 image, found {image.dtype}; geometry is applied once, before colour"
        )
    return image.numpy()


def _rebuilt(sample: Sample, image: Array, warp: Warp) -> Sample:
    targets = {name: warp_label(label, warp) for name, label in sample.targets.items()}
    return Sample(sample.id, torch.from_numpy(image), targets, warp_geometry(sample.geometry, warp))


def warp_geometry(geometry: Geometry, warp: Warp) -> Geometry:
    """Where the pixels of the original lie after a further warp."""
    return Geometry(geometry.size, torch.from_numpy(warp.matrix) @ geometry.matrix)


# --- training -------------------------------------------------------------------------------------------


def random_numbers(seed: int, epoch: int, sample_id: str, repeat: int = 0) -> np.random.Generator:
    """Random numbers that depend on these alone: not on workers, processes or resuming.

    ``repeat`` tells the views of a sample apart that comes more than once in an epoch.
    """
    time = f"{epoch}.{repeat}" if repeat else f"{epoch}"
    key = hashlib.blake2b(f"{seed}/{time}/{sample_id}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(key, dtype=np.uint64)))


@dataclass(frozen=True)
class Augmentation:
    """Random views of a sample for training, all of one size.

    Args:
        size: Height and width of the result.
        scale: The camera comes closer by a factor drawn uniformly from this range; depth is divided by it.
        scales: Instead, draw one of these factors (the survey on NYUD: 1.0, 1.2, 1.5).
        crop: Cut a random window of ``size`` from the picture at its own resolution; where the picture is
            smaller, the rest is unknown. Otherwise the whole picture is zoomed about its middle and
            resized to ``size``, its aspect ratio not kept.
        flip: Probability of changing left and right.
        rotation: Turned about its middle by up to so many degrees either way.
        colour: Brightness, contrast and saturation are each multiplied by a factor drawn from
            ``1 - colour`` to ``1 + colour``. One linear map in this order, cut to [0, 1] at its end.
        hue: Hue turns by up to this part of the colour circle, in the YIQ plane: luma stays.

    Raises:
        ConfigurationError: If a value is of the wrong type, or a range is empty or out of bounds.
    """

    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.5)
    scales: tuple[float, ...] = ()
    crop: bool = True
    flip: float = 0.5
    rotation: float = 0.0
    colour: float = 0.3
    hue: float = 0.0

    def __post_init__(self) -> None:
        for option, expected, holds in (
            (
                "size",
                "[height, width], whole numbers of at least 1",
                _all(self.size, lambda side: side >= 1, Integral) and len(self.size) == 2,
            ),
            (
                "scale",
                "[low, high] with 0 < low <= high",
                _all(self.scale, lambda factor: 0 < factor < np.inf)
                and len(self.scale) == 2
                and self.scale[0] <= self.scale[1],
            ),
            ("scales", "positive numbers", _all(self.scales, lambda factor: 0 < factor < np.inf)),
            ("crop", "true or false", isinstance(self.crop, bool)),
            ("flip", "a probability in [0, 1]", _all([self.flip], lambda share: 0 <= share <= 1)),
            ("colour", "a number in [0, 1)", _all([self.colour], lambda change: 0 <= change < 1)),
            ("hue", "a number in [0, 0.5]", _all([self.hue], lambda part: 0 <= part <= 0.5)),
            ("rotation", "degrees in [0, 180]", _all([self.rotation], lambda degrees: 0 <= degrees <= 180)),
        ):
            if not holds:
                raise ConfigurationError(
                    f"augmentation.{option} must be {expected}, got {getattr(self, option)!r}"
                )

    def warp(self, source: tuple[int, int], random: np.random.Generator) -> Warp:
        """Draws the geometry for a picture of size ``source``."""
        zoom, turn, down, right, mirror = random.random(5)
        if self.scales:
            factor = self.scales[int(zoom * len(self.scales))]
        else:
            factor = self.scale[0] + zoom * (self.scale[1] - self.scale[0])
        warp = Warp.identity(source)
        if mirror < self.flip:
            warp = warp.mirrored()
        if self.rotation:
            warp = warp.rotated(self.rotation * (2 * turn - 1))
        if factor != 1:
            warp = warp.scaled(factor)
        height, width = self.size
        if self.crop:
            # Whole pixels, so that an unscaled window is a copy. A smaller picture keeps to the middle.
            free = (warp.size[0] - height, warp.size[1] - width)
            top, left = (
                int(share * (room + 1)) if room > 0 else room // 2
                for share, room in zip((down, right), free, strict=True)
            )
            return warp.windowed(top, left, self.size)
        border = [(big - small) / 2 for big, small in zip(warp.size, source, strict=True)]
        return warp.windowed(border[0], border[1], source).resized(self.size)

    def colours(self, random: np.random.Generator) -> tuple[Array, float]:
        """Draws the colour change.

        Returns:
            ``matrix``, float64 ``[3, 3]``, and ``grey``: a colour becomes ``matrix @ colour + grey * m``,
            with ``m`` the picture's mean luma.
        """
        brightness, contrast, saturation = 1 + self.colour * (2 * random.random(3) - 1)
        chroma = saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), LUMA)
        angle = 2 * np.pi * self.hue * (2 * random.random() - 1)
        return _turned_hue(angle) @ chroma * brightness * contrast, brightness * (1 - contrast)

    def __call__(self, sample: Sample, random: np.random.Generator) -> Sample:
        """A random view: image float32 ``[3, h, w]`` in [0, 1], labels of the same size."""
        warp = _with_memory(self.warp((sample.image.shape[-2], sample.image.shape[-1]), random), sample)
        image = warp.bilinear(_levels(sample), 255 * np.asarray(FILL))
        matrix, grey = self.colours(random)
        if self.colour or self.hue:
            flat = image.reshape(3, -1)
            mean = float(LUMA @ flat.mean(1))
            # einsum stays on one thread; a product by BLAS would wake the others beside the network's step.
            image = np.einsum("ij,jn->in", (matrix / 255).astype(np.float32), flat).reshape(image.shape)
            image += np.float32(grey * mean / 255)
            np.clip(image, 0, 1, out=image)
        else:
            image *= np.float32(1 / 255)
        return _rebuilt(sample, image, warp)


def _all(values: object, holds: Callable[[Any], bool], kind: type = Real) -> bool:
    """Whether ``values`` is a sequence of numbers for each of which something holds."""
    return isinstance(values, Sequence) and all(
        isinstance(value, kind) and not isinstance(value, bool) and holds(value) for value in values
    )


def _turned_hue(angle: float) -> Array:
    if angle == 0:
        return np.eye(3)
    to_yiq = np.array([LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return np.asarray(np.linalg.inv(to_yiq) @ turn @ to_yiq)


# --- evaluation -----------------------------------------------------------------------------------------


def fitted(source: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a picture that fills one side of ``size`` and stays within the other.

    Whole pixels, at least 1 a side; halves are rounded up, in whole numbers, so that an exported network
    computes the same from sizes that are only known when it runs.

    >>> fitted((480, 640), (192, 256)), fitted((640, 480), (192, 256)), fitted((3, 8), (4, 4))
    ((192, 256), (192, 144), (2, 4))
    """
    (height, width), (rows, columns) = source, size
    down: Any = torch.sym_min(rows, (2 * height * columns + width) // (2 * width))
    across: Any = torch.sym_min(columns, (2 * width * rows + height) // (2 * height))
    sides: tuple[Any, Any] = torch.sym_max(1, down), torch.sym_max(1, across)
    return sides


@dataclass(frozen=True)
class EvaluationResize:
    """Brings a picture to the network's size, in a way that :func:`undo` takes back.

    Args:
        size: Height and width; None leaves pictures as they are.
        keep_aspect: Fit inside ``size`` and pad right and below; otherwise stretch.
    """

    size: tuple[int, int] | None = None
    keep_aspect: bool = True

    def warp(self, source: tuple[int, int]) -> Warp:
        """The geometry for a picture of size ``source``."""
        warp = Warp.identity(source)
        if self.size is None or source == tuple(self.size):
            return warp
        if not self.keep_aspect:
            return warp.resized(self.size)
        return warp.resized(fitted(source, self.size)).windowed(0, 0, self.size)

    def __call__(self, sample: Sample) -> Sample:
        """The sample at that size: image float32 in [0, 1], labels nearest, padding unknown."""
        return warp_sample(sample, self.warp((sample.image.shape[-2], sample.image.shape[-1])))


def undo(prediction: Tensor, geometry: Geometry) -> Tensor:
    """Brings an activated map back to the size of the image it belongs to.

    Args:
        prediction: ``[C, h, w]`` on the network's input, already activated (probabilities, metres,
            unit vectors): values that may be averaged.
        geometry: How that input came from the original; upright maps only (crop, pad, resize, flip).

    Returns:
        ``[C, H, W]``, interpolated bilinearly (smoothed where it shrinks); padding is cut away before.
        Directions are not mirrored here: a task's ``flip`` does that.

    Raises:
        DataError: If the geometry turns the image, or leaves nothing of it on the input.
    """
    (height, width), matrix = geometry.size, geometry.matrix.double()
    if matrix[0, 1] != 0 or matrix[1, 0] != 0:
        raise DataError("a prediction can only be brought back from an upright input; this one was rotated")
    corners = matrix @ torch.tensor([[0.0, width], [0.0, height], [1.0, 1.0]], dtype=torch.float64)
    mirrored = [axis for axis, name in ((-1, 0), (-2, 1)) if matrix[name, name] < 0]
    spans = [*sorted(corners[1].tolist()), *sorted(corners[0].tolist())]
    top, bottom, left, right = (round(edge) for edge in spans)
    whole = max(abs(edge - round(edge)) for edge in spans) < 1e-6
    if not whole or min(top, left) < 0 or bottom > prediction.shape[-2] or right > prediction.shape[-1]:
        raise DataError(
            f"a prediction of {tuple(prediction.shape[-2:])} does not hold the whole picture, which spans "
            f"rows {spans[0]:.2f} to {spans[1]:.2f} and columns {spans[2]:.2f} to {spans[3]:.2f} on it"
        )
    inside = prediction[..., top:bottom, left:right]
    if mirrored:
        inside = inside.flip(mirrored)
    if inside.shape[-2:] == (height, width):
        return inside
    if width == 1:  # torch 2.15 gives zeros where the last axis of a result has one pixel
        column = _interpolated(inside, (inside.shape[-2], 1))
        return _interpolated(column.expand(-1, -1, 2), (height, 2))[..., :1]
    return _interpolated(inside, (height, width))


def _interpolated(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return torch.nn.functional.interpolate(
        maps[None], size=size, mode="bilinear", align_corners=False, antialias=True
    )[0]


# --- torchvision ----------------------------------------------------------------------------------------


def _size_of(label: Tensor) -> tuple[int, int]:
    return (label.shape[-2], label.shape[-1])


def _flip_label(label: Label) -> Label:
    return warp_label(label, Warp.identity(_size_of(label)).mirrored())


def _vertical_flip_label(label: Label) -> Label:
    return warp_label(label, Warp.identity(_size_of(label)).mirrored(horizontally=False))


def _crop_label(label: Label, top: int, left: int, height: int, width: int) -> Label:
    return warp_label(label, Warp.identity(_size_of(label)).windowed(top, left, (height, width)))


def _center_crop_label(label: Label, output_size: Sequence[int] | int) -> Label:
    wanted = [output_size] * 2 if isinstance(output_size, int) else list(output_size) * (3 - len(output_size))
    height, width = _size_of(label)
    top, left = (round((extent - cut) / 2) for extent, cut in zip((height, width), wanted, strict=True))
    return _crop_label(label, top, left, wanted[0], wanted[1])


def _pad_label(
    label: Label, padding: Sequence[int] | int, fill: Any = None, padding_mode: str = "constant"
) -> Label:
    if padding_mode != "constant":
        raise TypeError(f"labels can only be padded with unknown (constant), not by {padding_mode!r}")
    around = [padding] if isinstance(padding, int) else list(padding)
    left, top, right, bottom = around * (4 // len(around))
    height, width = _size_of(label)
    return _crop_label(label, -top, -left, height + top + bottom, width + left + right)


def _resize_label(
    label: Label,
    size: Sequence[int] | int | None,
    interpolation: Any = None,
    max_size: int | None = None,
    **_: Any,
) -> Label:
    from torchvision.transforms.v2.functional._geometry import _compute_resized_output_size

    wanted = [size] if isinstance(size, int) else None if size is None else list(size)
    height, width = _compute_resized_output_size(_size_of(label), size=wanted, max_size=max_size)
    return warp_label(label, Warp.identity(_size_of(label)).resized((height, width)))


def _rotate_label(
    label: Label,
    angle: float,
    interpolation: Any = None,
    expand: bool = False,
    center: Sequence[float] | None = None,
    fill: Any = None,
) -> Label:
    if expand:
        raise TypeError("labels cannot be rotated with expand=True; pad before and crop after instead")
    middle = None if center is None else (float(center[0]), float(center[1]))
    return warp_label(label, Warp.identity(_size_of(label)).rotated(angle, middle))


def _affine_label(
    label: Label,
    angle: float,
    translate: Sequence[float],
    scale: float,
    shear: Sequence[float] | float,
    interpolation: Any = None,
    fill: Any = None,
    center: Sequence[float] | None = None,
) -> Label:
    if any([shear] if isinstance(shear, int | float) else shear):
        raise TypeError("labels cannot be sheared: no camera sees that, so depth and normals have no answer")
    height, width = _size_of(label)
    x, y = (width / 2, height / 2) if center is None else (float(center[0]), float(center[1]))
    # torchvision's affine turns clockwise; scaling is about the same centre and is a zoom.
    warp = Warp.identity((height, width)).rotated(-angle, (x, y))
    zoom = np.array([[scale, 0, (1 - scale) * x], [0, scale, (1 - scale) * y], [0, 0, 1]])
    warp = Warp(warp.source, warp.size, zoom @ warp.matrix, warp.turn, scale)
    return warp_label(label, warp.windowed(-translate[1], -translate[0], (height, width)))


def _refusal(name: str) -> Callable[..., Label]:
    def refuse(label: Label, *_: Any, **__: Any) -> Label:
        raise TypeError(
            f"{name} has no kernel for {type(label).__name__}: what it does to depth and normals is "
            f"undefined; use flips, crops, pads, resizes, rotations, affine maps or plait's Augmentation"
        )

    return refuse


for _functional, _kernel in {
    F.horizontal_flip: _flip_label,
    F.vertical_flip: _vertical_flip_label,
    F.crop: _crop_label,
    F.center_crop: _center_crop_label,
    F.pad: _pad_label,
    F.resize: _resize_label,
    F.rotate: _rotate_label,
    F.affine: _affine_label,
    **{
        functional: _refusal(functional.__name__)
        for functional in (F.perspective, F.elastic, F.resized_crop, F.five_crop, F.ten_crop, F.erase)
    },
}.items():
    F.register_kernel(_functional, Label)(_kernel)
