"""Every data set in every layout that it is known in, written tiny by the functions here or in tests/layouts.

A new data set, or a new layout of one, adds the function that writes it. Keys are ``set/layout``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.layouts import cityscapes, folder, nyud, pascal_context

from plait.data.packed.pack import pack
from plait.testing import write_tiny_rooms


def write_rooms(root: Path) -> Path:
    """Rooms made of boxes."""
    return write_tiny_rooms(root, images=(5, 3, 3), size=(24, 32))


def write_pack(root: Path) -> Path:
    """The same rooms, packed."""
    return pack("rooms", write_rooms(root / "rooms"), root / "pack")


def write_joined(root: Path) -> Path:
    """Two sets of rooms in one folder."""
    for name, seed in (("first", 0), ("second", 1)):
        write_tiny_rooms(root / name, images=(3, 2, 2), size=(24, 32), seed=seed)
    return root


def joined_options(root: Path) -> dict[str, Any]:
    """Depth from one, the rest from the other."""
    return {
        "sets": {
            "first": {"name": "rooms", "root": "first", "labels": ["depth"]},
            "second": {"name": "rooms", "root": "second", "labels": ["semantic", "normals"]},
        }
    }


WRITERS: Mapping[str, Callable[[Path], Path]] = {
    "rooms/boxes": write_rooms,
    "packed/rooms": write_pack,
    "joined/rooms": write_joined,
    **nyud.WRITERS,
    **pascal_context.WRITERS,
    **cityscapes.WRITERS,
    **folder.WRITERS,
}
OPTIONS: Mapping[str, Callable[[Path], dict[str, Any]]] = {"joined/rooms": joined_options, **folder.OPTIONS}
"""What a recipe must say beside the root."""


@dataclass(frozen=True)
class Written:
    """A data set on disk: its name, its folder, and the options that it needs."""

    name: str
    root: Path
    options: Mapping[str, Any] = field(default_factory=dict)


def write(key: str, folder_for_it: Path) -> Written:
    """Writes one of them."""
    root = WRITERS[key](folder_for_it)
    return Written(key.partition("/")[0], root, OPTIONS.get(key, lambda _: {})(root))
