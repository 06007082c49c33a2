"""Pictures of any origin, understood alike."""

import contextlib
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plait.data.files import MAX_PIXELS
from plait.errors import DataError
from plait.inference import as_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)
TURNED = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.transpose(1, 0, 2),
    6: np.rot90(PIXELS, -1),
    7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(PIXELS),
}
"""What each EXIF orientation says of how the picture is to be seen."""


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("orientation", TURNED)
def test_files_are_turned_as_their_exif_says(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(PIXELS), exif=exif)
    (tmp_path / "photo.png").write_bytes(content)
    with Image.open(tmp_path / "photo.png") as opened:
        for source in (tmp_path / "photo.png", str(tmp_path / "photo.png"), content, opened):
            assert np.array_equal(as_picture(source), TURNED[orientation])


def test_every_way_to_hand_over_a_picture_is_the_same() -> None:
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    transparent = np.concatenate([PIXELS, np.zeros_like(PIXELS[..., :1])], -1)
    for given in (PIXELS, tensor, transparent, Image.fromarray(PIXELS), PIXELS[::-1][::-1]):
        assert np.array_equal(as_picture(given), PIXELS)
    grey = PIXELS[..., 0]
    assert np.array_equal(as_picture(grey), np.stack([grey] * 3, -1))


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "CMYK", "1"])
def test_colour_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(PIXELS).convert(mode)
    found = as_picture(encoded(image, "TIFF" if mode == "CMYK" else "PNG"))
    assert np.array_equal(found, np.asarray(image.convert("RGB")))
    assert np.array_equal(as_picture(image), found)


def test_a_palette_with_transparency_becomes_rgb() -> None:
    image = Image.fromarray(PIXELS).convert("P")
    found = as_picture(encoded(image, transparency=0))
    assert np.array_equal(found, np.asarray(image.convert("RGB")))


def test_sixteen_bits_become_eight() -> None:
    levels = np.arange(0, 65536, 2731, dtype=np.uint16)[:24].reshape(6, 4)
    image = Image.fromarray(levels)
    for source in (image, encoded(image)):
        assert np.array_equal(as_picture(source)[..., 1], levels // 256)
    found = as_picture(rgb16(levels))
    assert found.shape == (6, 4, 3)
    assert np.array_equal(found[..., 2], levels // 256)


def rgb16(levels: np.ndarray[Any, Any]) -> bytes:
    """A PNG of three channels of 16 bits, which Pillow does not write."""
    height, width = levels.shape
    rows = np.repeat(levels[..., None], 3, -1).astype(">u2").tobytes()
    size = len(rows) // height
    raw = b"".join(b"\0" + rows[row * size : (row + 1) * size] for row in range(height))
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([16, 2, 0, 0, 0])
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")
        for kind, body in parts
    )


WHOLE = encoded(Image.fromarray(PIXELS))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        WHOLE[:40],
        WHOLE[: len(WHOLE) // 2],
        b"GIF89a",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"\xff" * 99,
    ],
    ids=["nothing", "header", "half", "gif", "heic", "noise"],
)
def test_what_is_no_picture_is_refused_in_a_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "photo.heic").write_bytes(content)
    with pytest.raises(DataError, match=r"photo\.heic: not a PNG, JPEG, WEBP or TIFF image, or damaged"):
        as_picture(tmp_path / "photo.heic")
    with pytest.raises(DataError, match="not a PNG"):
        as_picture(content)


def test_a_picture_that_claims_to_be_huge_is_not_decoded() -> None:
    bomb = bytearray(WHOLE)
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    with pytest.raises(DataError, match="pixels"):
        as_picture(bytes(bomb))
    with pytest.raises(DataError, match=f"the limit of {MAX_PIXELS:,}"):
        as_picture(Image.new("1", (MAX_PIXELS // 1000 + 1, 1000)))


def test_a_pillow_image_of_a_damaged_file_is_refused(tmp_path: Path) -> None:
    large = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    (tmp_path / "half.png").write_bytes(encoded(Image.fromarray(large))[:6000])
    with Image.open(tmp_path / "half.png") as opened, pytest.raises(DataError, match="damaged"):
        as_picture(opened)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (PIXELS.astype(np.float32) / 255, "got 6x4x3 of float32"),
        (PIXELS[..., :2], "got 6x4x2 of uint8"),
        (torch.from_numpy(PIXELS), r"a tensor uint8 \[3, H, W\] .* got 6x4x3"),
        (np.zeros((0, 5, 3), np.uint8), "1 to 64,000,000 pixels, got 5x0"),
        (Image.new("F", (3, 3)), "found F"),
        (Path("nowhere.png"), "no such file"),
        (Path(__file__).parent, "is a folder: name a picture in it"),
        (torch.zeros(3, 4, 5, dtype=torch.bfloat16), "got 3x4x5 of torch.bfloat16"),
        (np.zeros((), np.uint8), "got a number of uint8"),
        (["a.png", "b.png"], "got list: convert it, or give several pictures to `batch`"),
        (io.BytesIO(), "got BytesIO"),
        (None, "got NoneType"),
    ],
)
def test_other_arrays_and_modes_are_refused_in_a_sentence(given: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        as_picture(given)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about EXIF data
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_damage_anywhere_is_a_picture_or_a_sentence(form: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "somebody", 72.0
    whole = encoded(Image.fromarray(PIXELS.repeat(3, 0).repeat(4, 1)), form, exif=exif)
    random = np.random.default_rng(0)
    for place in range(400):
        damaged = bytearray(whole)
        reach = len(whole) if place % 2 else min(200, len(whole))
        for where in random.integers(0, reach, 4):
            damaged[where] = random.integers(256)
        with contextlib.suppress(DataError):
            as_picture(bytes(damaged))
        bombs = (Image.DecompressionBombError, Image.DecompressionBombWarning)
        with (
            contextlib.suppress(DataError, OSError, *bombs),
            Image.open(io.BytesIO(bytes(damaged))) as opened,
        ):
            as_picture(opened)


def test_malformed_exif_data_do_not_hide_the_picture() -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "somebody"
    content = encoded(Image.fromarray(PIXELS), "TIFF", exif=exif)
    assert np.array_equal(as_picture(content), TURNED[6])
    entry = content.index((0x010F).to_bytes(2, "little") + b"\x02\x00")
    malformed = content[: entry + 2] + b"\x05\x00" + content[entry + 4 :]  # a fraction in place of a text
    assert np.array_equal(as_picture(malformed), TURNED[6])
