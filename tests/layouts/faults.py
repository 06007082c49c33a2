"""Ways in which a data set's folder can be broken, for the fixtures of single sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Fault:
    """A way in which a folder is broken.

    Attributes:
        sample: Which sample shows it.
        labels: The labels to read.
        file: The file that the error names, within the folder.
        says: A pattern in the error.
        break_it: Breaks the folder.
    """

    sample: str
    labels: tuple[str, ...]
    file: str
    says: str
    break_it: Callable[[Path], None]


def truncate(path: Path) -> None:
    """Keeps the first half of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
