"""Which sample is in which split: as the data says, as lists say, and by shares."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from plait.data.encodings import SUFFIXES
from plait.data.folder.source import split_name
from plait.errors import ConfigurationError, DataError
from plait.registry import nearest

LISTS = "splits"
"""The folder in which lists are looked for."""

DEFAULT_SHARES: Mapping[str, float] = {"val": 0.1, "test": 0.2}


def found_lists(root: Path) -> dict[str, Path]:
    """The lists in a folder's ``splits``: ``{split: file}``."""
    folder = root / LISTS
    return {path.stem: path for path in sorted(folder.glob("*.txt"))} if folder.is_dir() else {}


def by_lists(lists: Mapping[str, Path], ids: Sequence[str]) -> list[str]:
    """The split of each sample by lists of names; empty for those in no list.

    A line holds a sample's name, with or without the ending of its picture.

    Raises:
        DataError: If a list cannot be read, or names what is not there or already listed; says the line.
    """
    place_of = {name: place for place, name in enumerate(ids)}
    splits = [""] * len(ids)
    for split, path in lists.items():
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}: expected a list of names, one a line, but it cannot be read ({error})"
            ) from error
        for number, line in enumerate(lines, 1):
            name = line.strip()
            if not name:
                continue
            refuse_outside(name, f"{path} line {number}")
            bare = name if name in place_of else without_ending(name)
            if bare not in place_of:
                raise DataError(
                    f"{path} line {number}: no picture is called {name!r}{nearest(bare, place_of)}; a "
                    f"line is a picture's path in its folder, with or without the ending"
                )
            place = place_of[bare]
            if splits[place]:
                raise DataError(f"{path} line {number}: {name!r} is already in {splits[place]}; list it once")
            splits[place] = split
    return splits


def refuse_outside(name: str, where: str) -> None:
    """Raises :class:`DataError` for a path that is no plain path below its folder."""
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0] or "\0" in name:
        raise DataError(f"{where}: {name!r} leads outside the folder; name a path below it")


def without_ending(name: str) -> str:
    """A name without the ending of a picture or an array.

    >>> without_ending("a/0001.JPG"), without_ending("v1.2")
    ('a/0001', 'v1.2')
    """
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in SUFFIXES else name


def shares_beside(stated: Sequence[str]) -> Mapping[str, float]:
    """The shares that are cut from ``train`` where the user gives none."""
    if list(stated) == ["train"]:
        return DEFAULT_SHARES
    if {"train", "test"} <= set(stated) and "val" not in stated:
        return {"val": DEFAULT_SHARES["val"]}
    return {}


def check_shares(shares: Mapping[str, float], stated: Sequence[str]) -> None:
    """Raises :class:`ConfigurationError` if shares cannot be cut from ``train``."""
    for split, share in shares.items():
        if split in ("train", *stated):
            raise ConfigurationError(
                f"splits: {split!r} is "
                f"{'what shares are cut from' if split == 'train' else 'there already'}; "
                f"give shares of train to splits with other names"
            )
        if not 0 < share < 1:
            raise ConfigurationError(f"splits: the share of {split!r} must be between 0 and 1, got {share}")
    if shares and sum(shares.values()) >= 1:
        raise ConfigurationError(
            f"splits: the shares add up to {sum(shares.values()):g} and leave nothing for train"
        )
    if shares and "train" not in stated:
        raise ConfigurationError(
            f"splits: there is no train to cut {', '.join(shares)} from, only {', '.join(stated)}"
        )


def by_share(group: str, shares: Mapping[str, float]) -> str:
    """The split of a group of samples, which depends on its name and the shares alone.

    Adding samples therefore moves none.
    """
    digest = hashlib.blake2b(group.encode(), digest_size=8).digest()
    drawn = int.from_bytes(digest, "big") / 2**64
    for split, share in shares.items():
        if drawn < share:
            return split
        drawn -= share
    return "train"


def group_of(name: str, separator: str | None) -> str:
    """A sample's group: its name up to the last ``separator``.

    >>> group_of("walk_07_0001", "_"), group_of("walk/0001", "/"), group_of("0001", None)
    ('walk_07', 'walk', '0001')
    """
    if not separator or separator not in name:
        return name
    return name.rpartition(separator)[0]


def divided(
    ids: Sequence[str],
    stated: Sequence[str] | None,
    groups: Sequence[str] | None,
    shares: Mapping[str, float],
    separator: str | None,
) -> list[str]:
    """The split of each sample: as stated, and those of ``train`` divided by shares."""
    splits = []
    for place, name in enumerate(ids):
        split = split_name(stated[place]) if stated is not None else "train"
        if split == "train" and shares:
            split = by_share(groups[place] if groups is not None else group_of(name, separator), shares)
        splits.append(split)
    return splits
