"""Maps as files that any software reads, and back.

What a map is stored as follows from its task alone:

- class ids: PNG of 8 bits whose palette shows the classes' colours; the pixel values are the ids, 255 none
- a quantity with a ``step``: PNG of 16 bits, ``value = step * number``; where the task says so, 0 is unknown
- all else, such as vectors: ``.npy``, float32 ``[H, W, C]``

In the format ``npy`` everything is an array: class ids uint8, all else float32.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from plait.data.files import read_array, read_map
from plait.data.labels import UNKNOWN_CLASS
from plait.errors import ConfigurationError, DataError
from plait.inference.pictures import Pixels
from plait.tasks.base import Task

Format = Literal["png", "npy"]
HIGHEST = 65535
"""The largest number of a 16-bit picture."""


@dataclass(frozen=True)
class Content:
    """A map as it is written.

    Attributes:
        content: The file.
        beyond: Pixels whose value a 16-bit picture cannot hold; they have the nearest one that it can.
        unknown: Pixels whose value is not finite, where the picture has no number for that; they have 0.
    """

    content: bytes
    beyond: int = 0
    unknown: int = 0


@dataclass(frozen=True)
class Stored:
    """How the maps of a task are stored.

    Attributes:
        task: Whose maps.
        format: ``png`` where the task allows it, or ``npy``.

    Raises:
        ConfigurationError: If there is no such format.
    """

    task: Task
    format: Format = "png"

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise ConfigurationError(f"the format is png or npy, got {self.format!r}")

    @property
    def step(self) -> float | None:
        """What one step of a 16-bit picture stands for; None if maps are stored otherwise."""
        return None if self.task.classes or self.format == "npy" else self.task.step

    @property
    def suffix(self) -> str:
        """How the names of files end."""
        pictured = self.format == "png" and (self.task.classes or self.task.step is not None)
        return ".png" if pictured else ".npy"

    @property
    def words(self) -> str:
        """What the numbers in a file mean."""
        if self.task.classes:
            kind = "palette picture of 8 bits" if self.suffix == ".png" else "array uint8 [H, W]"
            return f"{kind}; its numbers are class ids, {UNKNOWN_CLASS} is unknown"
        if self.step is not None:
            unit = f" {self.task.unit}" if self.task.unit else ""
            zero = ", 0 is unknown" if self.task.zero_is_unknown else ""
            return f"picture of 16 bits; value = {self.step!r}{unit} * number{zero}"
        shape = "[H, W]" if self.task.label_type.channels == 1 else f"[H, W, {self.task.label_type.channels}]"
        return f"array float32 {shape}; NaN is unknown"

    def described(self) -> dict[str, Any]:
        """The task and its files for whoever reads them, as JSON holds it."""
        legend = self.task.legend
        found: dict[str, Any] = {
            "kind": self.task.kind,
            "meaning": self.task.meaning,
            "unit": self.task.unit,
            "files": f"{self.task.name}/ID{self.suffix}",
            "numbers": self.words,
        }
        if self.step is not None:
            found["scale"] = self.step
            found["unknown"] = 0 if self.task.zero_is_unknown else None
        if self.task.classes:
            colours = dict(legend.entries)
            found["unknown"] = UNKNOWN_CLASS
            found["classes"] = [
                {"id": number, "name": name, "colour": _hexadecimal(colours.get(name))}
                for number, name in enumerate(self.task.classes)
            ]
        elif legend.entries:
            found["colours"] = {text: _hexadecimal(colour) for text, colour in legend.entries}
        if legend.bar is not None:
            found["bar"] = {"low": legend.low, "high": legend.high}
        return found

    def encoded(self, values: NDArray[Any]) -> Content:
        """The file of a map, ``values`` being those of :class:`plait.inference.PredictedMap`."""
        if self.suffix == ".npy":
            stream = io.BytesIO()
            np.save(stream, values, allow_pickle=False)
            return Content(stream.getvalue())
        if self.task.classes:
            picture = Image.fromarray(values)
            if palette := self._palette():
                picture.putpalette(palette)
            return Content(png(picture, self.words))
        assert self.step is not None
        finite = np.isfinite(values)
        numbers = np.rint(np.divide(values, np.float32(self.step), where=finite, out=np.zeros_like(values)))
        lowest = 1 if self.task.zero_is_unknown else 0
        beyond = finite & ((numbers > HIGHEST) | (numbers < lowest))
        known = np.where(finite, numbers.clip(lowest, HIGHEST), 0).astype(np.uint16)
        lost = 0 if self.task.zero_is_unknown else int((~finite).sum())
        words = f"{self.task.meaning}: {self.words}"
        return Content(png(Image.fromarray(known), words), int(beyond.sum()), lost)

    def read(self, path: Path) -> Tensor:
        """The decoded map ``[C, H, W]`` of a file that was stored in this way.

        Raises:
            DataError: If it is not there, damaged, or of another task or format.
        """
        numbers = read_array(path) if self.suffix == ".npy" else read_map(path, modes=("L", "P", "I;16"))
        whole = "uint8" if self.task.classes else "uint16"
        expected = np.dtype(whole if self.task.classes or self.step is not None else "float32")
        channels = self.task.label_type.channels
        if numbers.dtype != expected or numbers.shape[2:] != (() if channels == 1 else (channels,)):
            raise DataError(f"{path}: expected a map of {self.task.name!r}, a {self.words}; found another")
        if self.task.classes:
            return torch.from_numpy(numbers.astype(np.int64))[None]
        values = numbers.astype(np.float32)
        if self.step is not None:
            values *= np.float32(self.step)
            if self.task.zero_is_unknown:
                values[numbers == 0] = np.nan
        values = values[None] if channels == 1 else np.ascontiguousarray(np.moveaxis(values, -1, 0))
        return torch.from_numpy(values)

    def _palette(self) -> bytes:
        """256 colours; those that are no class are the legend's grey, or black."""
        colours: Mapping[str, tuple[int, int, int]] = dict(self.task.legend.entries)
        if not all(name in colours for name in self.task.classes):
            return b""
        rest = colours.get("unknown", (0, 0, 0))
        names = dict(enumerate(self.task.classes))
        return bytes(
            level for number in range(256) for level in (colours[names[number]] if number in names else rest)
        )


def png(picture: Image.Image | Pixels, description: str = "") -> bytes:
    """A picture as a PNG file, with a description in it for whoever opens it."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    stream, about = io.BytesIO(), PngInfo()
    if description:
        about.add_itxt("Description", description)
    image.save(stream, "PNG", compress_level=3, pnginfo=about)
    return stream.getvalue()


def _hexadecimal(colour: tuple[int, int, int] | None) -> str | None:
    return None if colour is None else "#{:02x}{:02x}{:02x}".format(*colour)
