"""Where the files of the user's samples are, whichever way they lie: in folders, in a manifest, in shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from plait.data import files

SPLIT_NAMES = {"training": "train", "validation": "val", "valid": "val", "testing": "test"}
"""Other words for the three splits."""


def split_name(word: str) -> str:
    """What a split is called here.

    >>> split_name("validation"), split_name("train"), split_name("night")
    ('val', 'train', 'night')
    """
    return SPLIT_NAMES.get(word, word)


@dataclass(frozen=True)
class Stored:
    """An image or a label as it is stored.

    Attributes:
        source: A file, or its content.
        name: What to call it in errors.
        suffix: The ending that tells its format, as ``.png``; empty where the content must tell.
    """

    source: Path | bytes
    name: str
    suffix: str


class Source(Protocol):
    """The samples of a set, or some of them."""

    @property
    def ids(self) -> Sequence[str]:
        """Their names, each once."""

    @property
    def splits(self) -> Sequence[str] | None:
        """The split that each is said to be of, empty for none; None if nothing is said."""

    @property
    def groups(self) -> Sequence[str] | None:
        """What must stay together in one split, a name a sample; None if nothing is said."""

    def has(self, field: str, place: int) -> bool:
        """Whether a sample has a field (``image`` too)."""

    def read(self, place: int, fields: Sequence[str]) -> dict[str, Stored]:
        """Fields that a sample has."""

    def take(self, places: Sequence[int]) -> Source:
        """Only the samples at some places."""

    def state(self) -> str:
        """A checksum that is another one if any of their files was written again."""


@dataclass(frozen=True)
class Files:
    """Samples whose image and labels are files below a folder.

    Attributes:
        root: The folder.
        ids: As :class:`Source`.
        paths: For ``image`` and each field, a path below ``root`` for each sample, None where it has none.
        splits: As :class:`Source`.
        groups: As :class:`Source`.
    """

    root: Path
    ids: Sequence[str]
    paths: Mapping[str, Sequence[str | None]]
    splits: Sequence[str] | None = None
    groups: Sequence[str] | None = None

    def has(self, field: str, place: int) -> bool:
        return self.paths[field][place] is not None

    def read(self, place: int, fields: Sequence[str]) -> dict[str, Stored]:
        found = {}
        for field in fields:
            below = self.paths[field][place]
            if below is not None:
                path = self.root / below
                found[field] = Stored(path, str(path), path.suffix.lower())
        return found

    def state(self) -> str:
        found = (paths[place] for place in range(len(self.ids)) for paths in self.paths.values())
        return files.state(self.root / path for path in found if path is not None)

    def take(self, places: Sequence[int]) -> Files:
        return replace(
            self,
            ids=[self.ids[place] for place in places],
            paths={field: [paths[place] for place in places] for field, paths in self.paths.items()},
            splits=None if self.splits is None else [self.splits[place] for place in places],
            groups=None if self.groups is None else [self.groups[place] for place in places],
        )
