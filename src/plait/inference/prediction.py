"""What a network says about one picture: a map a task, with units, classes and a picture."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from plait.errors import ConfigurationError
from plait.inference.pictures import Pixels
from plait.registry import nearest
from plait.tasks.base import Legend, Task

if TYPE_CHECKING:
    from plait.inference.stored import Format

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, repr=False)
class PredictedMap:
    """One task's map of one picture.

    Attributes:
        task: What it is of.
        decoded: The task's decoded map, ``[C, H, W]`` on the CPU: class ids int64, else float32.
    """

    task: Task
    decoded: Tensor

    def __repr__(self) -> str:
        height, width = self.decoded.shape[-2:]
        return f"<{self.told()}; {height}x{width}>"

    def told(self) -> str:
        """Its name, unit and meaning in a line."""
        classes = f", one of {len(self.classes)}" if self.classes else ""
        unit = f" [{self.unit}]" if self.unit else ""
        return f"{self.task.name}{unit}: {self.meaning or self.task.kind}{classes}"

    @cached_property
    def values(self) -> NDArray[Any]:
        """The numbers at the picture's size.

        Class ids ``uint8 [H, W]`` (255: none); metres, probabilities and other numbers ``float32 [H, W]``;
        vectors ``float32 [H, W, 3]`` (x right, y down, z forward).
        """
        array = self.decoded.numpy()
        array = array[0] if len(array) == 1 else np.ascontiguousarray(np.moveaxis(array, 0, -1))
        return array.astype(np.uint8 if self.task.classes else np.float32, copy=False)

    @property
    def unit(self) -> str:
        """Of the values: ``"m"``, or empty."""
        return self.task.unit

    @property
    def meaning(self) -> str:
        """What a value is, in a few words."""
        return self.task.meaning

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by id; empty where values are no class ids."""
        return self.task.classes

    @property
    def legend(self) -> Legend:
        """How to read the picture."""
        return self.task.legend

    @cached_property
    def picture(self) -> Pixels:
        """The map in colours, ``uint8 [H, W, 3]``."""
        drawn: Pixels = self.task.picture(self.decoded)
        return drawn

    def at(self, row: int, column: int) -> str:
        """One pixel in words, as ``"2.31 m"`` or ``"sofa"``."""
        return self.task.told(self.decoded[:, row, column])


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(Mapping[str, PredictedMap]):
    """The maps of one picture by task: ``prediction["depth"].values``.

    Attributes:
        image: The picture as it was understood, upright: ``uint8 [H, W, 3]``.
        maps: ``{task: map}``, in the tasks' order.
    """

    image: Pixels
    maps: Mapping[str, PredictedMap]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of picture and maps."""
        return self.image.shape[0], self.image.shape[1]

    def __getitem__(self, task: str) -> PredictedMap:
        if task not in self.maps:
            hint = nearest(str(task), self.maps)
            raise KeyError(f"no map of {task!r}{hint}; there are {', '.join(self.maps)}")
        return self.maps[task]

    def __iter__(self) -> Iterator[str]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    def __repr__(self) -> str:
        lines = [f"<Prediction of a picture of {self.size[0]}x{self.size[1]}"]
        lines += [f"  {found.told()}" for found in self.values()]
        return "\n".join(lines) + ">"

    def overview(self, *, width: int = 400, columns: int = 3) -> Pixels:
        """The picture and all its maps, each with its legend, on one sheet: ``uint8 [H, W, 3]``.

        Args:
            width: Of each of them, in pixels.
            columns: How many stand side by side.
        """
        from plait.inference.overview import overview

        return overview(self, width=width, columns=columns)

    def _repr_png_(self) -> bytes:
        """What a notebook shows."""
        from plait.inference.stored import png

        return png(self.overview())

    def save(
        self,
        folder: Path | str,
        name: str = "picture",
        *,
        format: Format = "png",  # noqa: A002  the option's name
        pictures: bool = True,
    ) -> None:
        """Writes the maps as ``plait predict`` does: ``FOLDER/TASK/NAME.png``, and pictures beside them.

        Files of the same name are replaced. What 16 bits cannot hold is logged as a warning.

        Args:
            folder: Where to; made if missing.
            name: The picture's name; may hold folders, as in ``city/frame``.
            format: ``png``, or ``npy`` for arrays alone.
            pictures: Whether maps are drawn in colours too.

        Raises:
            ConfigurationError: If the format does not exist, the name leads out of the folder, or the folder
                cannot be written.
        """
        from plait.inference.files import Output, lost
        from plait.inference.stored import Stored

        stored = tuple(Stored(found.task, format) for found in self.maps.values())
        line = Output(Path(folder), stored, pictures).write(name, self)
        for sentence in (sentence for one in stored for sentence in lost(one, [line])):
            logger.warning("%s: %s", folder, sentence)


def chosen(known: Mapping[str, Task], asked: tuple[str, ...] | None, whose: str) -> tuple[Task, ...]:
    """The tasks that are asked for, in their own order; all of them for None.

    Raises:
        ConfigurationError: If a network was not trained on one of them; says on which it was.
    """
    if asked is None:
        return tuple(known.values())
    for task in asked:
        if task not in known:
            raise ConfigurationError(
                f"{whose} was not trained on {task!r}{nearest(task, known)}; it predicts "
                f"{', '.join(known)}: ask for those, or train a network on {task!r}"
            )
    if not asked:
        raise ConfigurationError(f"expected at least one task of {', '.join(known)}, got none")
    return tuple(task for name, task in known.items() if name in asked)
