"""Visitors' files: what is no picture, too large or elsewhere is refused in one sentence."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plait.demo import uploads
from plait.demo.uploads import fitted, inside, make_room, read_upload
from plait.errors import DataError


def saved(folder: Path, form: str, size: tuple[int, int] = (12, 8), **options: object) -> Path:
    path = folder / f"picture.{form.lower()}"
    Image.new("RGB", size, (200, 30, 40)).save(path, form, **options)
    return path


def png_of_claimed_size(width: int, height: int) -> bytes:
    """A PNG whose header says more than it holds."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_usual_pictures_are_read(tmp_path: Path, form: str) -> None:
    assert read_upload(saved(tmp_path, form), tmp_path).shape == (8, 12, 3)


def test_pictures_are_turned_as_the_camera_was(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    assert read_upload(saved(tmp_path, "JPEG", exif=exif), tmp_path).shape == (12, 8, 3)


@pytest.mark.parametrize("form", ["GIF", "BMP", "PPM", "PDF", "EPS"])
def test_other_formats_are_refused_whatever_they_are_called(tmp_path: Path, form: str) -> None:
    path = saved(tmp_path, form).rename(tmp_path / "picture.png")
    with pytest.raises(DataError, match="not a PNG, JPEG, WebP or TIFF"):
        read_upload(path, tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"no picture", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "it.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a PNG, JPEG, WebP or TIFF"):
        read_upload(path, tmp_path)


def test_half_a_picture_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, "PNG", (200, 200))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="damaged"):
        read_upload(path, tmp_path)


@pytest.mark.parametrize("size", [(4001, 4000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_by_the_header_alone(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_claimed_size(*size))
    with pytest.raises(DataError, match=r"more than 16 million pixels|not a PNG"):
        read_upload(path, tmp_path)


def test_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, "PNG")
    monkeypatch.setattr(uploads, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(DataError, match="choose a smaller one"):
        read_upload(path, tmp_path)


def test_nothing_elsewhere_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    picture = saved(tmp_path, "PNG")
    (folder / "link.png").symlink_to(picture)
    for path in (
        picture,
        folder / ".." / picture.name,
        folder / "link.png",
        folder,
        "http://127.0.0.1/a.png",
        "\0",
    ):
        assert inside(path, folder) is None
        with pytest.raises(DataError, match="not there any more"):
            read_upload(path, folder)


@pytest.mark.parametrize(
    ("size", "expected"), [((100, 50), (10, 20)), ((3000, 1), (1, 20)), ((20, 20), (20, 20))]
)
def test_pictures_are_shrunk_and_never_enlarged(size: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    assert fitted(picture, 20).shape[:2] == expected
    assert fitted(np.zeros((5, 7, 3), np.uint8), 20).shape == (5, 7, 3)


def test_the_oldest_files_make_room(tmp_path: Path) -> None:
    for number in range(4):
        path = tmp_path / f"{number}" / "it.png"
        path.parent.mkdir()
        path.write_bytes(bytes(10))
        os.utime(path, (number, number))
    make_room(tmp_path, room=15, kept=40)
    assert sorted(path.parent.name for path in tmp_path.rglob("*.png")) == ["2", "3"]
    make_room(tmp_path, room=15, kept=40)
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 5), 51400, np.uint16)).save(stream, "PNG")
    (tmp_path / "it.png").write_bytes(stream.getvalue())
    assert set(read_upload(tmp_path / "it.png", tmp_path).reshape(-1).tolist()) == {200}
