"""Which files are predicted, and under which names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from plait.data.encodings import PICTURES
from plait.errors import DataError
from plait.inference.ledger import check_name

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
"""Endings of files that are read as videos."""


@dataclass(frozen=True)
class Input:
    """A picture or a video.

    Attributes:
        id: Its name in the folder of predictions; holds ``/`` where it lay in a folder.
        path: The file.
        bytes: Its length.
        modified: When it was last written, in nanoseconds.
    """

    id: str
    path: Path
    bytes: int
    modified: int

    @classmethod
    def at(cls, path: Path, name: str) -> Input:
        """The file as it is now.

        Raises:
            DataError: If it cannot be reached.
        """
        try:
            found = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); is it still there?") from error
        return cls(name, path, found.st_size, found.st_mtime_ns)

    @property
    def state(self) -> dict[str, int]:
        """What is another one if the file was written again."""
        return {"bytes": self.bytes, "modified": self.modified}


@dataclass(frozen=True)
class Inputs:
    """What was found.

    Attributes:
        pictures: In the order in which they were named, those of a folder in the order of their names.
        videos: Likewise; those in folders are left alone.
        ignored: Files in folders that are no pictures, by their endings.
        outside: Links that lead out of their folder, which are not followed.
    """

    pictures: tuple[Input, ...]
    videos: tuple[Input, ...]
    ignored: Counter[str] = field(default_factory=Counter)
    outside: int = 0

    @property
    def left_alone(self) -> str:
        """The files in folders that are not predicted, in words; empty if there are none."""
        told = []
        if self.ignored:
            kinds = [
                f"{count} {ending or 'without ending'}" for ending, count in sorted(self.ignored.items())
            ]
            told.append(f"{counted(self.ignored.total(), 'file')} of another kind ({', '.join(kinds)})")
        if self.outside:
            told.append(f"{counted(self.outside, 'link')} to folders or out of the folder")
        return " and ".join(told)


def find(named: Sequence[Path | str], *, out: Path) -> Inputs:
    """The pictures and videos behind what a person named: files, and folders with all that is in them.

    A file that is named itself is a video if it ends like one, else a picture, whatever it ends in. Of a
    folder the pictures are taken (PNG, JPEG, WebP, TIFF, by their endings), sub-folders included, hidden ones
    and ``out`` left out; links that lead out of it are not followed.

    Args:
        named: Files and folders.
        out: Where predictions go.

    Raises:
        DataError: If something is not there, a folder holds no picture, or two files would be written under
            one name.
        ConfigurationError: If a file has a name that predictions cannot have.
    """
    pictures: list[Input] = []
    videos: list[Input] = []
    ignored: Counter[str] = Counter()
    outside = 0
    for path in map(Path, named):
        if path.is_dir():
            if path.resolve() == out.resolve():
                raise DataError(
                    f"{path} holds the pictures, so predictions go elsewhere: name another folder"
                )
            found = sorted(_walked(path, out))
            pictures += [Input.at(file, _name(file, path)) for file, kind in found if kind == "picture"]
            ignored.update(file.suffix.lower() for file, kind in found if kind == "other")
            outside += sum(kind == "outside" for _, kind in found)
            if not any(kind == "picture" for _, kind in found):
                raise DataError(
                    f"{path}: expected pictures ({', '.join(PICTURES)}) in this folder, found none; "
                    f"name another folder, or videos one by one"
                )
        elif not path.exists():
            raise DataError(f"{path}: nothing is there; expected a picture, a video or a folder of pictures")
        elif is_video(path):
            videos.append(Input.at(path, path.stem))
        else:
            pictures.append(Input.at(path, path.stem))
    _check_names(pictures, videos)
    return Inputs(tuple(pictures), tuple(videos), ignored, outside)


def _walked(folder: Path, out: Path) -> Iterator[tuple[Path, str]]:
    """The files of a folder, each a ``picture``, something ``other``, or a link ``outside``."""
    real, left_out = folder.resolve(), out.resolve()
    for place, folders, files in os.walk(folder):
        here = Path(place)
        shown = [here / name for name in folders if not name.startswith(".")]
        yield from ((other, "outside") for other in shown if other.is_symlink())
        folders[:] = [o.name for o in shown if not o.is_symlink() and o.resolve() != left_out]
        for file in (here / name for name in files if not name.startswith(".")):
            if file.is_symlink() and not file.resolve().is_relative_to(real):
                yield file, "outside"
            else:
                yield file, "picture" if file.suffix.lower() in PICTURES and file.is_file() else "other"


def _check_names(pictures: Sequence[Input], videos: Sequence[Input]) -> None:
    """Refuses files that would be written over one another, or elsewhere."""
    seen: dict[str, Path] = {}
    for one in (*pictures, *videos):
        check_name(one.id)
        if one.id in seen:
            raise DataError(
                f"{seen[one.id]} and {one.path} would both be written as {one.id!r}: predict them into two "
                f"folders, rename one, or name a folder that holds both in sub-folders"
            )
        seen[one.id] = one.path
    for video in videos:
        for picture in pictures:
            if picture.id.startswith(f"{video.id}/"):
                raise DataError(
                    f"the frames of {video.path} and {picture.path} would both be written into a folder "
                    f"{video.id!r}: predict them into two folders"
                )


def _name(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def is_video(file: Path) -> bool:
    """Whether a file is read as a video, by its name."""
    return file.suffix.lower() in VIDEOS


def counted(count: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "picture"), counted(1200, "frame")
    ('1 picture', '1,200 frames')
    """
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
