"""Pictures of any origin as RGB: files with their orientation applied, Pillow images, arrays, tensors."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from plait.data.files import COLOUR_MODES, MAX_PIXELS, read_rgb, turned
from plait.errors import DataError

Pixels = NDArray[np.uint8]
Picture = Path | str | bytes | Image.Image | NDArray[Any] | Tensor
"""What a picture may come as."""

MODES = (*COLOUR_MODES, "CMYK", "YCbCr", "1", "I;16")


def as_picture(image: Picture) -> Pixels:
    """A picture as ``uint8 [H, W, 3]``, RGB and upright.

    Args:
        image: A file (PNG, JPEG, WebP or TIFF) by its path or as its content, turned as its EXIF orientation
            says; a Pillow image, likewise; an array ``uint8 [H, W, 3]``, ``[H, W, 4]`` (the transparency is
            dropped) or ``[H, W]``; or a tensor ``uint8 [3, H, W]``.

    Raises:
        DataError: If it is none of these, damaged, empty, or has more pixels than
            :data:`plait.data.files.MAX_PIXELS`.
    """
    if isinstance(image, Path | str | bytes):
        source = Path(image) if isinstance(image, str) else image
        if isinstance(source, Path) and source.is_dir():
            raise DataError(f"{source} is a folder: name a picture in it, or predict it with `plait predict`")
        return read_rgb(source, modes=MODES, upright=True)
    if isinstance(image, Image.Image):
        if image.width * image.height > MAX_PIXELS:
            raise DataError(
                f"the picture has {image.width}x{image.height} pixels, more than the limit of "
                f"{MAX_PIXELS:,}: shrink it first"
            )
        return _upright(image)
    if isinstance(image, np.ndarray | Tensor):
        return _checked(image)
    raise DataError(
        f"expected a picture as a path, bytes, a Pillow image, an array or a tensor, got "
        f"{type(image).__name__}: convert it, or give several pictures to `batch`"
    )


def _upright(image: Image.Image) -> Pixels:
    """A Pillow image as :func:`plait.data.files.read_rgb` reads one from a file."""
    if image.mode not in MODES:
        raise DataError(
            f"expected a picture of mode {' or '.join(MODES)}, found {image.mode}: convert it, as to RGB"
        )
    if not image.width * image.height:
        raise DataError(f"a picture needs 1 or more pixels, got {image.width}x{image.height}: make it larger")
    try:
        image = turned(image)
        if image.mode == "I;16":
            image = image.point(lambda level: level / 256).convert("L")
        return np.asarray(image.convert("RGB")).copy()
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        struct.error,
    ) as error:  # a file that is only read now
        raise DataError(f"the picture is damaged ({error}): get it again") from error


def _checked(image: NDArray[Any] | Tensor) -> Pixels:
    if isinstance(image, Tensor):
        expected = "a tensor uint8 [3, H, W]"
        fits = image.ndim == 3 and image.shape[0] == 3 and image.dtype == torch.uint8
    else:
        expected = "an array uint8 [H, W, 3], [H, W, 4] or [H, W]"
        fits = image.ndim == 2 or (image.ndim == 3 and image.shape[-1] in (3, 4))
        fits = fits and image.dtype == np.uint8
    if not fits:
        shape = "x".join(map(str, image.shape)) or "a number"
        raise DataError(f"expected {expected} with values 0 to 255, got {shape} of {image.dtype}: convert it")
    array: NDArray[Any] = (
        image.detach().cpu().numpy().transpose(1, 2, 0) if isinstance(image, Tensor) else image
    )
    array = np.repeat(array[..., None], 3, -1) if array.ndim == 2 else array[..., :3]
    if not array.size or array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise DataError(
            f"a picture needs 1 to {MAX_PIXELS:,} pixels, got {array.shape[1]}x{array.shape[0]}: resize it"
        )
    return np.ascontiguousarray(array)
