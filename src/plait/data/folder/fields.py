"""What the user declares of a label field, and reading a label by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plait import registry
from plait.data import files
from plait.data.encodings import KINDS, Encoding, LabelKind, decode, read_numbers
from plait.data.folder.source import Stored
from plait.data.labels import Label, Semantic
from plait.errors import ConfigurationError, DataError

Array = NDArray[Any]

Vectors = Literal["auto", "rgb", "vectors"]
Orientation = Literal["refuse", "stored", "upright"]

KIND_OF_NAME: Mapping[str, LabelKind] = {
    "semantic": "semantic",
    "parts": "semantic",
    "instances": "semantic",
    "depth": "depth",
    "inverse_depth": "inverse_depth",
    "disparity": "inverse_depth",
    "normals": "normals",
    "edges": "mask",
    "saliency": "mask",
}
"""The kind of a field that does not say it."""

RGB_UNKNOWN = (0.0, 127.0, 128.0)
"""What pictures of normals hold where there is none: black, or the middle of the range, no direction."""

MAGIC: Sequence[tuple[bytes, str]] = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"RIFF", ".webp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
    (b"\x93NUMPY", ".npy"),
    (b"PK\x03\x04", ".npz"),
    (b"MATLAB", ".mat"),
)
"""The first bytes of the formats that labels are read from."""


@dataclass(frozen=True)
class Field:
    """A label field as declared.

    Attributes:
        name: For instance ``depth``.
        encoding: What its stored numbers mean.
        source: Where it is stored: a folder or pattern, a column, or a member's ending.
        unknown_given: Whether the marks of the unknown were declared.
        vectors: How normals are stored: ``rgb`` is ``(n + 1) / 2`` of the type's whole range, ``vectors`` are
            numbers as they are, ``auto`` the first for whole numbers and the second for fractions.
    """

    name: str
    encoding: Encoding
    source: str
    unknown_given: bool = False
    vectors: Vectors = "auto"

    def read(self, stored: Stored, size: tuple[int, int], classes: int | None = None) -> Label:
        """The label in memory.

        Args:
            stored: Where it is.
            size: Height and width of its image.
            classes: How many classes there are, if that is known.

        Raises:
            DataError: If it cannot be such a label; names the file.
        """
        if self.encoding.kind == "semantic":
            refuse_lossy(stored)
        name = stored.name
        suffix = stored.suffix or sniffed(stored.source)
        numbers = channels_last(
            read_numbers(stored.source, self.encoding.member, name=name, suffix=suffix),
            self.encoding.label_type.channels,
        )
        label = decode(numbers, self.settled(numbers, name), name=name)
        found = tuple(label.shape[-2:])
        if found != tuple(size):
            raise DataError(
                f"{name}: expected the image's size {size[0]}x{size[1]} (height x width), found "
                f"{found[0]}x{found[1]}; image and labels of a sample must have one size"
            )
        if label.is_floating_point() and label.isinf().any():
            raise DataError(
                f"{name}: holds infinite values; where they mean unknown, declare unknown: [.inf] for the "
                f"field {self.name}"
            )
        if classes is not None and isinstance(label, Semantic):
            known = label[Semantic.known(label)]
            if known.numel() and int(known.max()) >= classes:
                raise DataError(
                    f"{name}: class id {int(known.max())} found, expected 0 to {classes - 1} for {classes} "
                    f"classes, or 255 for unknown; declare it as unknown, map it with ids, or name more "
                    f"classes"
                )
        return label

    def settled(self, numbers: Array, name: str) -> Encoding:
        """The encoding, with what only the stored numbers' type tells.

        Raises:
            DataError: If whole numbers are to be depths and their unit was not declared.
        """
        encoding, whole = self.encoding, numbers.dtype.kind in "iu"
        if encoding.kind in ("depth", "inverse_depth"):
            if whole and encoding.scale is None:
                unit = "0.001 for millimetres" if encoding.kind == "depth" else "1/256 for KITTI's"
                raise DataError(
                    f"{name}: holds whole numbers up to {int(numbers.max(initial=0))} and no unit is "
                    f"declared; declare the scale of the field {self.name}, for instance {unit}"
                )
            if encoding.kind == "depth" and not self.unknown_given:
                encoding = dataclasses.replace(encoding, unknown=(0.0,))
        elif encoding.kind == "normals" and (self.vectors == "rgb" or (self.vectors == "auto" and whole)):
            highest = float(np.iinfo(numbers.dtype).max) if whole else 255.0
            unknown = encoding.unknown if self.unknown_given else RGB_UNKNOWN
            encoding = dataclasses.replace(encoding, scale=2 / highest, offset=-1.0, unknown=unknown)
        return encoding


def declare(
    name: str,
    *,
    kind: LabelKind | None = None,
    source: str | None = None,
    scale: float | None = None,
    offset: float | None = None,
    unknown: float | list[float] | None = None,
    ids: dict[int, int] | None = None,
    member: str | None = None,
    axes: str | None = None,
    encoding: Vectors | None = None,
) -> Field:
    """A field from what the user wrote of it.

    Args:
        name: Its name, which tasks refer to.
        kind: ``semantic``, ``depth``, ``inverse_depth``, ``normals`` or ``mask``; needed unless the name is
            one of ``semantic``, ``parts``, ``instances``, ``depth``, ``inverse_depth``, ``disparity``,
            ``normals``, ``edges`` and ``saliency``.
        source: Its folder (``depth``) or pattern (``all/*_depth.png``), its column in the manifest, or its
            members' ending in shards; the field's name by default.
        scale: What a stored number is multiplied with, for instance 0.001 for millimetres. Needed for depth
            stored as whole numbers.
        offset: What is then added.
        unknown: Stored numbers that mean unknown. By default 0 for depth, and for normals in whole numbers
            (0, 0, 0), (127, 127, 127) and (128, 128, 128).
        ids: Stored number to class id; what is not in it is unknown.
        member: The variable in an ``.npz`` or ``.mat`` file.
        axes: What each stored channel of normals is, ``+x+y+z`` by default: x right, y down, z forward.
        encoding: How normals are stored: ``rgb``, ``vectors``, or ``auto`` by the numbers' type.

    Raises:
        ConfigurationError: If kind or encoding do not exist, or do not belong together.
    """
    if kind is None and name not in KIND_OF_NAME:
        raise ConfigurationError(
            f"field {name!r} needs a kind{registry.nearest(name, KIND_OF_NAME)}: one of {', '.join(KINDS)}"
        )
    kind = kind or KIND_OF_NAME[name]
    if encoding is not None and encoding not in get_args(Vectors):
        raise ConfigurationError(
            f"encoding of field {name!r} must be {', '.join(get_args(Vectors))}, got {encoding!r}"
        )
    if kind != "normals" and (encoding is not None or axes is not None):
        raise ConfigurationError(f"field {name!r} is of kind {kind}: encoding and axes belong to normals")
    if encoding in ("rgb", "auto") and (scale is not None or offset is not None):
        raise ConfigurationError(
            f"field {name!r}: encoding {encoding} stands for a scale and an offset; give either it or them"
        )
    marks = () if unknown is None else (unknown,) if isinstance(unknown, int | float) else tuple(unknown)
    made = Encoding(
        kind,
        scale=scale,
        offset=offset or 0.0,
        unknown=marks,
        ids=ids,
        member=member,
        axes=axes or "+x+y+z",
    )
    plain = kind == "normals" and encoding is None and (scale is not None or offset is not None)
    return Field(
        name,
        made,
        source or name,
        unknown_given=unknown is not None,
        vectors=encoding or ("vectors" if plain else "auto"),
    )


def parse_fields(declared: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Field]:
    """The fields as the user wrote them: ``{"depth": {"scale": 0.001}, "normals": {}}``.

    Raises:
        ConfigurationError: If a field has an unknown option (names the nearest) or one of a wrong type.
    """
    parsed = {}
    for name, options in declared.items():
        if name == "image":
            raise ConfigurationError(
                "'image' cannot name a label field: the option image says where pictures are"
            )
        registry.check_arguments(f"field {name!r}", declare, options or {}, but=("name",))
        parsed[name] = declare(name, **(options or {}))
    return parsed


def channels_last(numbers: Array, channels: int) -> Array:
    """``[C, H, W]`` as ``[H, W, C]``, where the first axis alone can be the channels."""
    if numbers.ndim == 3 and numbers.shape[-1] != channels and numbers.shape[0] == channels:
        return np.moveaxis(numbers, 0, -1)
    return numbers


def first_bytes(source: Path | bytes, count: int = 16) -> bytes:
    """The beginning of a file; nothing if it cannot be read."""
    if isinstance(source, bytes):
        return source[:count]
    try:
        with source.open("rb") as stream:
            return stream.read(count)
    except OSError:
        return b""


def sniffed(source: Path | bytes) -> str:
    """The ending of a format, from the first bytes; empty if they are of none."""
    start = first_bytes(source)
    return next((suffix for magic, suffix in MAGIC if start.startswith(magic)), "")


def refuse_lossy(stored: Stored) -> None:
    """Raises :class:`DataError` for class ids in a format that changes them: JPEG and lossy WebP."""
    start = first_bytes(stored.source)
    if start.startswith(b"\xff\xd8\xff") or (start.startswith(b"RIFF") and start[12:16] == b"VP8 "):
        raise DataError(
            f"{stored.name}: class ids in {'JPEG' if start[:1] != b'R' else 'lossy WebP'}, which changes "
            f"them at every border between classes; make them again as PNG from their source"
        )


def read_picture(stored: Stored, orientation: Orientation) -> Array:
    """A sample's picture, uint8 ``[H, W, 3]``.

    Args:
        stored: Where it is.
        orientation: What is done with a picture whose EXIF says that viewers should turn it: ``refuse``, take
            its pixels as ``stored``, or turn it ``upright``.

    Raises:
        DataError: If it cannot be read, or is to be turned and that is refused; names the file.
    """
    pixels = files.read_rgb(stored.source, name=stored.name)
    if orientation == "stored":
        return pixels
    turn = exif_orientation(stored.source)
    if turn == 1:
        return pixels
    if orientation == "refuse":
        raise DataError(
            f"{stored.name}: its EXIF orientation is {turn}, so viewers turn it and other programs do "
            f"not; set "
            f"orientation: stored if labels lie on the pixels as stored, orientation: upright if on the "
            f"turned ones"
        )
    if turn in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if turn in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def exif_orientation(source: Path | bytes) -> int:
    """How viewers turn a picture: 1 (not at all) to 8; 1 if it does not say."""
    import io
    import struct

    try:
        with Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, formats=files.FORMATS
        ) as image:
            turn = image.getexif().get(0x0112, 1)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, EOFError, struct.error):
        return 1  # the picture itself was read: its EXIF is damaged, and viewers do not turn it either
    return turn if isinstance(turn, int) and 2 <= turn <= 8 else 1


def in_words(field: Field) -> str:
    """What is declared of a field, for a person to read."""
    encoding = field.encoding
    said = [encoding.kind, f"from {field.source}"]
    if encoding.scale is not None:
        said.append(f"times {encoding.scale:g}")
    if encoding.offset:
        said.append(f"plus {encoding.offset:g}")
    if encoding.kind == "normals":
        said.append(f"stored as {field.vectors}, axes {encoding.axes}")
    if encoding.unknown:
        said.append(f"unknown where {', '.join(f'{mark:g}' for mark in encoding.unknown)}")
    if encoding.ids is not None:
        said.append(f"{len(encoding.ids)} stored numbers mapped")
    return ", ".join(said)
