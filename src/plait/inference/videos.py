"""Frames of videos, and pictures as a video; needs the extra ``plait[video]``.

Only files are opened, and of them only those that begin as MP4, QuickTime, AVI, Matroska or WebM do: a video
library would also open addresses, cameras and lists of further files by a name or a text.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from plait.data.files import MAX_PIXELS
from plait.errors import DataError, MissingExtraError
from plait.inference.pictures import Pixels

SLACK = 0.01
"""By what part the number of frames in a header may be too high; some formats only estimate it."""


def library() -> Any:
    """OpenCV.

    Raises:
        MissingExtraError: If it is not installed.
    """
    # FFmpeg tells standard error what it thinks of damaged files; ours is one sentence.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError:
        raise MissingExtraError("videos need the package opencv: pip install 'plait[video]'") from None
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    return cv2


def looks_like_video(path: Path) -> bool:
    """Whether a file begins as one of the formats that are read."""
    with path.open("rb") as stream:
        start = stream.read(16)
    moving = start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
    return moving or start[:4] == b"\x1aE\xdf\xa3" or (start[:4] == b"RIFF" and start[8:12] == b"AVI ")


@dataclass
class Video:
    """A video that is read from its first frame to its last.

    Attributes:
        path: Its file.
        rate: Frames a second.
        announced: How many frames its header says it has; 0 if it does not say.
        read: How many frames were passed so far.
    """

    path: Path
    rate: float
    announced: int
    capture: Any = field(repr=False)
    read: int = 0

    def take(self, count: int, every: int, wanted: Callable[[int], bool]) -> list[tuple[int, Pixels | None]]:
        """The next few frames of those that are a multiple of ``every``.

        Args:
            count: How many at most.
            every: Which.
            wanted: Whether a frame must be decoded; the others are passed over, which is faster.

        Returns:
            Each frame's number, counted from 0, and its picture, or None for one that was not wanted; fewer
            than ``count`` at the end.

        Raises:
            DataError: If a frame has more than ``MAX_PIXELS`` pixels.
        """
        taken: list[tuple[int, Pixels | None]] = []
        while len(taken) < count and self.capture.grab():
            number = self.read
            self.read += 1
            if number % every:
                continue
            if not wanted(number):
                taken.append((number, None))
                continue
            found, frame = self.capture.retrieve()
            if not found or frame is None:
                self.read = number
                break
            if frame.ndim != 3 or frame.shape[0] * frame.shape[1] > MAX_PIXELS:
                raise DataError(
                    f"{self.path}: frame {number} has the shape {frame.shape}: shrink the video first"
                )
            taken.append((number, np.ascontiguousarray(frame[..., ::-1])))
        return taken

    @property
    def complete(self) -> bool:
        """Whether as many frames came as the header says."""
        return self.read >= self.announced * (1 - SLACK) - 1


@contextmanager
def opened(path: Path) -> Iterator[Video]:
    """A video, ready for its first frame.

    Raises:
        DataError: If it is none, damaged, or too large.
        MissingExtraError: If OpenCV is not installed.
    """
    cv2 = library()
    refusal = DataError(
        f"{path}: not an MP4, QuickTime, AVI, Matroska or WebM video, or damaged; convert it or get it again"
    )
    try:
        if not looks_like_video(path):
            raise refusal
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); is it still there?") from error
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise refusal
        height, width = (
            _whole(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH)
        )
        if height * width > MAX_PIXELS:
            raise DataError(
                f"{path}: its header says {width}x{height} pixels, more than the limit of {MAX_PIXELS:,}; "
                f"nothing was decoded: shrink it first"
            )
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        rate = rate if 0.01 <= rate <= 1000 else 25.0
        yield Video(path, rate, _whole(capture.get(cv2.CAP_PROP_FRAME_COUNT)), capture)
    finally:
        capture.release()


def write(path: Path, pictures: Iterable[Pixels], rate: float) -> None:
    """Writes pictures of one size as an MP4 video (MPEG-4 part 2), which is there whole or not at all.

    Args:
        path: The file, ending in ``.mp4``.
        pictures: ``uint8 [H, W, 3]``; a last row or column that makes a side odd is left out.
        rate: Pictures a second.

    Raises:
        DataError: If such a video cannot be written, as of very large pictures.
        MissingExtraError: If OpenCV is not installed.
    """
    cv2 = library()
    fresh = path.with_name(f"{path.stem}.writing.mp4")
    writer = None
    try:
        for picture in pictures:
            height, width = (side - side % 2 for side in picture.shape[:2])
            if writer is None:
                code = cv2.VideoWriter.fourcc(*"mp4v")
                writer = cv2.VideoWriter(str(fresh.absolute()), cv2.CAP_FFMPEG, code, rate, (width, height))
                if not writer.isOpened():
                    raise DataError(
                        f"{path}: pictures of {width}x{height} cannot be written as a video; the single maps "
                        f"are there, and --no-pictures leaves the video out"
                    )
            writer.write(np.ascontiguousarray(picture[:height, :width, ::-1]))
    except BaseException:
        if writer is not None:
            writer.release()
        fresh.unlink(missing_ok=True)
        raise
    if writer is not None:
        writer.release()
        fresh.replace(path)


def _whole(number: float) -> int:
    return int(number) if 0 < number < 2**40 else 0
