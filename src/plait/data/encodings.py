"""How a label is stored in a file, and the label in memory that it becomes.

Whatever a data set has on disk is converted here, once: units to metres, every mark of the unknown to NaN or
255, stored vectors to unit vectors in the camera's frame.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from plait.data import files
from plait.data.labels import UNKNOWN_CLASS, Depth, InverseDepth, Label, Mask, Normals, Semantic
from plait.data.matfiles import read_mat
from plait.errors import ConfigurationError, DataError

Array = NDArray[Any]

LabelKind = Literal["semantic", "depth", "inverse_depth", "normals", "mask"]
KINDS: Mapping[str, type[Label]] = {
    "semantic": Semantic,
    "depth": Depth,
    "inverse_depth": InverseDepth,
    "normals": Normals,
    "mask": Mask,
}

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
ARRAYS = (".npy", ".npz", ".mat")
SUFFIXES = (*PICTURES, *ARRAYS)
"""The endings of files that labels are read from."""


@dataclass(frozen=True)
class Encoding:
    """What the numbers of a stored label mean: ``value = scale * stored + offset``.

    Attributes:
        kind: ``semantic``, ``depth``, ``inverse_depth``, ``normals`` or ``mask``.
        scale: What a stored number is multiplied with, for instance 0.001 for depth in millimetres. None is
            1, and for a mask of whole numbers 1/255 (1 if the file's type is bool, or of fractions).
        offset: What is then added: -1 for class ids that begin at 1, and for normals stored as
            ``(n + 1) * 127.5`` (with scale 2/255).
        unknown: Stored numbers that mean unknown; for normals those that do so in all three channels. Class
            id 255, NaN, and a vector of length zero are unknown in any case.
        ids: For ``semantic``: stored number to class id; what is not in it is unknown. None keeps the ids.
        member: The variable in an ``.npz`` or ``.mat`` file; None where there is only one.
        axes: For ``normals``: what each stored channel is, of our x (right), y (down) and z (forward), with
            its sign: ``"+x+y+z"`` as ours; ``"+x-y-z"`` for x right, y up, z backward.

    Raises:
        ConfigurationError: If the kind or the axes do not exist; says which do.
    """

    kind: LabelKind
    scale: float | None = None
    offset: float = 0.0
    unknown: Sequence[float] = ()
    ids: Mapping[int, int] | None = field(default=None)
    member: str | None = None
    axes: str = "+x+y+z"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigurationError(f"a label's kind is one of {', '.join(KINDS)}; got {self.kind!r}")
        signs = re.fullmatch(r"[+-]([xyz])[+-]([xyz])[+-]([xyz])", self.axes)
        if signs is None or len(set(signs.groups())) < 3:
            raise ConfigurationError(
                f"axes say what each stored channel is, with its sign, as '+x+y+z' or '+x-y-z'; "
                f"got {self.axes!r}"
            )
        if self.scale is not None and not (np.isfinite(self.scale) and self.scale != 0):
            raise ConfigurationError(f"the scale of a label must be a number other than 0, got {self.scale}")
        if self.ids is not None and self.kind != "semantic":
            raise ConfigurationError(f"ids belong to labels of kind semantic, not {self.kind}")

    @property
    def label_type(self) -> type[Label]:
        """The type in memory."""
        return KINDS[self.kind]


def read_label(
    source: Path | bytes,
    encoding: Encoding,
    *,
    name: str = "",
    suffix: str = "",
    size: tuple[int, int] | None = None,
) -> Label:
    """Reads a stored label: PNG, JPEG, WebP, TIFF, ``.npy``, ``.npz`` or ``.mat``.

    Args:
        source: A file, or its content.
        encoding: What its numbers mean.
        name: What to call it in errors; the file's path by default.
        suffix: The ending that tells the format, as ``.png``; the file's own by default.
        size: Height and width that it must have.

    Raises:
        DataError: If the file is missing, damaged, of an unknown format, or its numbers cannot be such a
            label; names the file.
    """
    name = name or (str(source) if isinstance(source, Path) else f"a label of {len(source)} bytes")
    stored = read_numbers(source, encoding.member, name=name, suffix=suffix)
    label = decode(stored, encoding, name=name)
    found = tuple(label.shape[-2:])
    if size is not None and found != tuple(size):
        raise DataError(
            f"{name}: expected {size[0]}x{size[1]} (height x width), found {found[0]}x{found[1]}; "
            f"image and labels of a sample must have one size"
        )
    return label


def read_numbers(
    source: Path | bytes, member: str | None = None, *, name: str = "", suffix: str = ""
) -> Array:
    """The numbers of a stored map as they are: ``[H, W]`` or ``[H, W, C]``.

    Args:
        source: A file, or its content.
        member: The variable in an ``.npz`` or ``.mat`` file.
        name: What to call it in errors; the file's path by default.
        suffix: The ending that tells the format; the file's own by default.

    Raises:
        DataError: As :func:`read_label`.
    """
    name = name or (str(source) if isinstance(source, Path) else f"a label of {len(source)} bytes")
    suffix = (suffix or (source.suffix if isinstance(source, Path) else "")).lower()
    if suffix in PICTURES:
        return files.read_map(source, modes=("1", "L", "P", "I;16", "I;16B", "I", "F", "RGB"), name=name)
    if suffix == ".npy":
        return files.read_array(source, name=name)
    if suffix == ".npz":
        return files.read_array(source, member or _only_member(source, name), name=name)
    if suffix == ".mat":
        found = read_mat(source, member, name=name)
        if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
            raise DataError(
                f"{name}: expected an array of numbers in {member or 'it'}; is it the right file?"
            )
        return found
    raise DataError(f"{name}: expected a file ending in {', '.join(SUFFIXES)}, got {suffix or 'none'!r}")


def _only_member(source: Path | bytes, name: str) -> str:
    import io
    import zipfile

    try:
        with zipfile.ZipFile(source if isinstance(source, Path) else io.BytesIO(source)) as archive:
            held = [member.removesuffix(".npy") for member in archive.namelist()]
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file; is the folder complete?") from error
    except (OSError, *files.DAMAGED) as error:
        raise DataError(f"{name}: not an array file, or damaged ({error}); get it again") from error
    if len(held) != 1:
        raise DataError(f"{name}: holds {', '.join(held) or 'nothing'}; say which as the field's member")
    return held[0]


def decode(stored: Array, encoding: Encoding, *, name: str = "a label") -> Label:
    """Stored numbers ``[H, W]`` or ``[H, W, C]`` to the label in memory.

    Raises:
        DataError: If the shape or the numbers cannot be such a label.
    """
    label_type = encoding.label_type
    channels = label_type.channels
    if stored.ndim == 2:
        stored = stored[..., None]
    if stored.ndim != 3 or stored.shape[-1] != channels:
        raise DataError(
            f"{name}: expected {'[H, W]' if channels == 1 else f'[H, W, {channels}]'} for a label of kind "
            f"{encoding.kind}, found the shape {stored.shape[:-1] if stored.shape[-1] == 1 else stored.shape}"
        )
    maps = np.ascontiguousarray(stored.transpose(2, 0, 1))
    if label_type is Semantic:
        return Semantic(torch.from_numpy(_ids(maps, encoding, name)))
    unknown = np.zeros(maps.shape[1:], dtype=bool)
    for mark in encoding.unknown:
        unknown |= (maps == mark).all(0)
    scale = encoding.scale
    if scale is None:
        scale = 1 / 255 if label_type is Mask and maps.dtype.kind in "iu" else 1.0
    values = maps.astype(np.float32)
    if scale != 1:
        values *= np.float32(scale)
    if encoding.offset:
        values += np.float32(encoding.offset)
    if label_type is Normals:
        values = _unit_vectors(values, encoding.axes)
    values[:, unknown] = np.nan
    return label_type(torch.from_numpy(values))


def _ids(maps: Array, encoding: Encoding, name: str) -> Array:
    if maps.dtype.kind == "f":
        whole = np.isnan(maps) | ((maps == np.round(maps)) & (np.abs(maps) < 2**31))
        if not whole.all():
            raise DataError(f"{name}: expected whole class ids, found {maps[~whole][0]:g}")
        maps = np.where(np.isnan(maps), UNKNOWN_CLASS, maps)
    stored = maps.astype(np.int64)
    unknown = np.isin(stored, [*encoding.unknown, UNKNOWN_CLASS])
    if encoding.ids is not None:
        ids = np.full_like(stored, UNKNOWN_CLASS)
        for number, chosen in encoding.ids.items():
            ids[stored == int(number)] = chosen
    else:
        ids = stored + int(encoding.offset)
    ids[unknown] = UNKNOWN_CLASS
    wrong = (ids < 0) | (ids > UNKNOWN_CLASS)
    if wrong.any():
        raise DataError(
            f"{name}: expected class ids from 0 to {UNKNOWN_CLASS - 1}, found {stored[wrong][0]} stored; "
            f"declare it as unknown, or give an offset"
        )
    return ids


def _unit_vectors(stored: Array, axes: str) -> Array:
    """Vectors ``[3, H, W]`` of unit length in our axes, NaN where they have none."""
    vectors = np.empty_like(stored)
    for channel, (sign, axis) in enumerate(zip(axes[::2], axes[1::2], strict=True)):
        np.multiply(stored[channel], -1 if sign == "-" else 1, out=vectors["xyz".index(axis)])
    length = np.sqrt(np.einsum("chw,chw->hw", vectors, vectors))
    length[~(length > 1e-6)] = np.nan
    vectors /= length
    return vectors
