"""Pictures from visitors: limited before they are decoded, told what is wrong in one sentence."""

from __future__ import annotations

import io
import stat
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from plait.data.files import FORMATS
from plait.errors import DataError
from plait.inference import as_picture
from plait.inference.pictures import Pixels

MAX_BYTES = 20 * 2**20
"""Of one file."""

MAX_PIXELS = 16_000_000
"""Of one picture: as many as most phones take."""

MAX_KEPT = 200 * 2**20
"""Of all uploaded files together; the oldest are removed first."""

NOT_UPLOADED = "examples"
"""The folder, in that of the uploads, whose pictures are no uploads."""

NOT_A_PICTURE = (
    "This is not a PNG, JPEG, WebP or TIFF picture, or it is damaged: choose another file, or convert it."
)


def read_upload(path: str | Path, folder: Path) -> Pixels:
    """An uploaded picture, upright: ``uint8 [H, W, 3]``.

    Args:
        path: Where it was put.
        folder: Where uploads are; nothing else is read.

    Raises:
        DataError: If it lies elsewhere, is no picture, or is larger than the limits above, which its header
            tells before anything is decoded. The sentence is for the visitor and names no file.
    """
    found = inside(path, folder)
    if found is None:
        raise DataError("This picture is not there any more: choose it again.")
    with found.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise DataError(f"This file has more than {MAX_BYTES // 2**20} MB: choose a smaller one.")
    _check_header(content)
    try:
        return as_picture(content)
    except DataError as error:
        raise DataError(NOT_A_PICTURE) from error


def _check_header(content: bytes) -> None:
    too_large = f"This picture has more than {MAX_PIXELS // 10**6} million pixels: choose a smaller one."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as header:
                pixels = header.width * header.height
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(too_large) from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(NOT_A_PICTURE) from error
    if pixels > MAX_PIXELS:
        raise DataError(too_large)


def inside(path: str | Path, folder: Path) -> Path | None:
    """The file, with links followed, if it is one and lies in the folder; else None."""
    try:
        found = Path(path).resolve()
        return found if found.is_relative_to(folder.resolve()) and found.is_file() else None
    except (OSError, ValueError, RuntimeError):  # names with NUL, names too long, circles of links
        return None


def fitted(picture: Pixels, longest: int) -> Pixels:
    """A picture shrunk until neither of its sides is longer than ``longest`` pixels; never enlarged.

    >>> import numpy as np
    >>> fitted(np.zeros((300, 100, 3), np.uint8), 30).shape
    (30, 10, 3)
    """
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(
        Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    ).copy()


def make_room(folder: Path, room: int, kept: int = MAX_KEPT) -> None:
    """Removes the oldest uploads of a folder until they and ``room`` bytes together have at most ``kept``."""
    found = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # moved meanwhile, by the upload that it is of
            state = path.stat()
            if stat.S_ISREG(state.st_mode) and path.relative_to(folder).parts[0] != NOT_UPLOADED:
                found.append((state.st_mtime, state.st_size, path))
    total = room + sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= kept:
            break
        path.unlink(missing_ok=True)
        total -= size
