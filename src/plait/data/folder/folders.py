"""One folder a field: pictures here, depth there, files of one stem belonging together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from plait.data.encodings import PICTURES, SUFFIXES
from plait.data.folder.source import SPLIT_NAMES, Files
from plait.data.folder.splits import refuse_outside
from plait.errors import ConfigurationError, DataError

KNOWN_SPLITS = {"train", "val", "test", *SPLIT_NAMES}


@dataclass(frozen=True)
class Pattern:
    """Where a field's files lie: ``depth`` (a folder), or ``all/*_depth.png`` with ``*`` for the sample.

    Attributes:
        folder: The folder, below the root.
        before: What a file's name begins with before the sample's own.
        after: What it ends with; where that is no known ending, any of them may follow.
    """

    folder: str
    before: str = ""
    after: str = ""

    @classmethod
    def parse(cls, text: str, what: str) -> Pattern:
        """A pattern from what the user wrote.

        Raises:
            ConfigurationError: If it leads outside, or has a star anywhere but once in the last part.
        """
        try:
            refuse_outside(text, what)
        except DataError as error:
            raise ConfigurationError(str(error)) from None
        if "*" not in text:
            return cls(str(PurePosixPath(text)))
        folder, _, name = text.rpartition("/")
        before, star, after = name.partition("*")
        if not star or "*" in folder or "*" in after:
            raise ConfigurationError(
                f"{what}: a pattern has one * in its last part, as in depth/*_depth.png; got {text!r}"
            )
        return cls(folder or ".", before, after)

    def stem(self, name: str, endings: tuple[str, ...]) -> str | None:
        """The sample's part of a file's name, None if the file is none of this field."""
        fixed = PurePosixPath(self.after).suffix.lower() in SUFFIXES
        if not fixed:
            name, dot, ending = name.rpartition(".")
            if not dot or f".{ending.lower()}" not in endings:
                return None
        if not (name.startswith(self.before) and name.endswith(self.after)):
            return None
        return name[len(self.before) : len(name) - len(self.after)] or None


def open_folders(root: Path, image: str, sources: Mapping[str, str]) -> Files:
    """The samples of a folder: the pictures, and for each the labels of the same name.

    Args:
        root: The folder. Below it are the folders of the fields, or folders of splits with those inside.
        image: Folder or pattern of the pictures.
        sources: Folder or pattern of each field.

    Raises:
        DataError: If a folder is not there, holds two files of one name, or no label belongs to a picture.
        ConfigurationError: If a pattern is none.
    """
    patterns = {"image": Pattern.parse(image, "image")} | {
        field: Pattern.parse(source, f"field {field!r}") for field, source in sources.items()
    }
    if not root.is_dir():
        raise DataError(
            f"{root}: expected a folder of data, found {'a file' if root.exists() else 'nothing'}"
        )
    above = split_folders(root, patterns["image"])
    found: dict[str, dict[str, str]] = {}
    for field, pattern in patterns.items():
        endings = PICTURES if field == "image" else SUFFIXES
        found[field] = {}
        for part in above or [""]:
            found[field].update(listed(root, part, pattern, endings))
        if not found[field]:
            raise DataError(nothing_found(root, above, pattern, field, endings))
    ids = sorted(found["image"])
    for field, paths in found.items():
        if not paths.keys() & found["image"].keys():
            raise DataError(
                f"{root / patterns[field].folder}: none of its {len(paths)} {field} files has the name of "
                f"a picture "
                f"(they are called {min(paths)!r}, pictures {ids[0]!r}); names must agree up to the "
                f"ending, or be told by a pattern such as {patterns[field].folder}/*_{field}"
            )
    splits = None
    if above or all(first_part(name) in KNOWN_SPLITS for name in ids):
        splits = [first_part(name) for name in ids]
    return Files(
        root, ids, {field: [paths.get(name) for name in ids] for field, paths in found.items()}, splits
    )


def first_part(name: str) -> str:
    """The first folder of a name, empty if it has none."""
    return name.partition("/")[0] if "/" in name else ""


def split_folders(root: Path, image: Pattern) -> list[str]:
    """The folders of splits that the fields' folders lie in; empty if these lie in the root itself."""
    if (root / image.folder).is_dir():
        return []
    return sorted(
        child.name
        for child in root.iterdir()
        if not child.name.startswith(".") and (child / image.folder).is_dir()
    )


def listed(root: Path, part: str, pattern: Pattern, endings: tuple[str, ...]) -> dict[str, str]:
    """``{sample: path below root}`` of the files of a field.

    Raises:
        DataError: If two files are of one sample.
    """
    top = root / part / pattern.folder
    found: dict[str, str] = {}
    if not top.is_dir():
        return found
    for parent, file in walk(top):
        stem = pattern.stem(file, endings)
        if stem is None:
            continue
        sample = "/".join(filter(None, (part, parent, stem)))
        path = "/".join(filter(None, (part, pattern.folder, parent, file)))
        if sample in found:
            raise DataError(
                f"{root / path}: {sample} has a second file, {root / found[sample]}; remove one, or tell "
                f"them apart by a pattern"
            )
        found[sample] = path
    return found


def walk(top: Path, below: str = "") -> Iterator[tuple[str, str]]:
    """The files under a folder: ``(folder below top, name)``; hidden ones and links to folders left out.

    Raises:
        DataError: If a folder cannot be read.
    """
    try:
        with os.scandir(top / below) as entries:
            here = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{top / below}: cannot be read ({error.strerror or error})") from error
    for entry in here:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from walk(top, f"{below}/{entry.name}" if below else entry.name)
        elif entry.is_file():
            yield below, entry.name


def nothing_found(
    root: Path, above: list[str], pattern: Pattern, field: str, endings: tuple[str, ...]
) -> str:
    """Why a field has no files."""
    folder = root / above[0] / pattern.folder if above else root / pattern.folder
    what = "pictures" if field == "image" else f"labels of the field {field}"
    option = "image" if field == "image" else f"the field's source (fields: {{{field}: {{source: FOLDER}}}})"
    if not folder.is_dir():
        here = ", ".join(sorted(entry.name for entry in root.iterdir())[:8]) or "nothing"
        return (
            f"{folder}: expected a folder of {what}, found none there; {root} holds {here}: name it with "
            f"{option}"
        )
    held = sorted({PurePosixPath(name).suffix or name for _, name in walk(folder)})[:8]
    wanted = f"{pattern.before}*{pattern.after}" if pattern.before or pattern.after else "files"
    return (
        f"{folder}: expected {what}, {wanted} ending in {', '.join(endings)}; found "
        f"{', '.join(held) if held else 'no files'}: name the right folder with {option}"
    )
