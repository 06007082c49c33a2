"""Hostile and damaged files: each is refused in one sentence that names it, before harm is done."""

from __future__ import annotations

import io
import os
import pickle
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from plait.data import files
from plait.errors import DataError


def png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises any number of pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


PICTURE = np.arange(24 * 32 * 3, dtype=np.uint8).reshape(24, 32, 3)


def test_images_are_read_as_stored(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(PICTURE))
    np.testing.assert_array_equal(files.read_rgb(path, size=(24, 32)), PICTURE)
    depth = np.arange(600, 600 + 12, dtype=np.uint16).reshape(3, 4)
    read = files.read_map(png(depth), modes=("I;16",))
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, depth)
    grey = files.read_rgb(png(PICTURE[..., 0]))
    np.testing.assert_array_equal(grey, np.repeat(PICTURE[..., :1], 3, 2))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an image",
        png(PICTURE)[:40],
        png(PICTURE)[:-30],
        png(PICTURE).replace(b"IDAT", b"XDAT"),
        b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
        pickle.dumps({"weights": 1}),
    ],
    ids=["empty", "text", "cut in header", "cut", "no data", "zeros", "pickle"],
)
def test_damaged_images_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kitchen.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"kitchen\.png.*damaged"):
        files.read_rgb(path)


@pytest.mark.parametrize("kind", ["EPS", "GIF", "TGA"])
def test_only_plain_formats_are_decoded_whatever_the_name(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs: list[object] = []
    monkeypatch.setattr("subprocess.check_call", lambda *told, **_: programs.append(told))
    monkeypatch.setattr("PIL.EpsImagePlugin.has_ghostscript", lambda: True)
    Image.fromarray(PICTURE).save(tmp_path / "kitchen.png", kind)
    with pytest.raises(DataError, match=r"kitchen\.png: not a PNG, JPEG, WEBP or TIFF image"):
        files.read_rgb(tmp_path / "kitchen.png")
    assert not programs


@pytest.mark.parametrize("kind", files.FORMATS)
def test_every_format_is_read(tmp_path: Path, kind: str) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "kitchen", kind)
    assert files.read_rgb(tmp_path / "kitchen").shape == PICTURE.shape


@pytest.mark.parametrize("extent", [(60000, 60000), (9000, 9000), (20000, 6000)])
def test_a_header_that_claims_too_much_is_refused_unread(extent: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"huge: its header .*nothing was decoded"):
        files.read_rgb(png_claiming(*extent), name="huge")


def test_wrong_size_mode_and_place_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b: expected 24x30 .* found 24x32"):
        files.read_rgb(png(PICTURE), name="b", size=(24, 30))
    with pytest.raises(DataError, match=r"b: expected an image of mode L or P or I;16, found RGB"):
        files.read_map(png(PICTURE), name="b")
    with pytest.raises(DataError, match="no such file"):
        files.read_rgb(tmp_path / "absent.png")


# --- arrays ---------------------------------------------------------------------------------------------


class Explosive:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (os.mkdir, (str(self.trace),))


def test_arrays_are_read(tmp_path: Path) -> None:
    values = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "a.npy", values)
    np.savez_compressed(tmp_path / "a.npz", depth=values, other=np.asfortranarray(values))
    np.testing.assert_array_equal(files.read_array(tmp_path / "a.npy"), values)
    np.testing.assert_array_equal(files.read_array(tmp_path / "a.npz", "depth"), values)
    np.testing.assert_array_equal(files.read_array(tmp_path / "a.npz", "other"), values)
    with pytest.raises(DataError, match=r"no array 'normals', only depth, other"):
        files.read_array(tmp_path / "a.npz", "normals")


def test_pickles_in_arrays_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "exploded"
    objects = np.array([Explosive(trace)], dtype=object)
    np.save(tmp_path / "bad.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "bad.npz", depth=objects)
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Explosive(trace)))
    for path, member in (("bad.npy", None), ("bad.npz", "depth"), ("pickle.npy", None)):
        with pytest.raises(DataError, match=path):
            files.read_array(tmp_path / path, member)
    assert not trace.exists()


def test_arrays_that_claim_too_much_or_hold_too_little_are_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
    )
    (tmp_path / "claim.npy").write_bytes(header.getvalue() + b"\0" * 64)
    np.save(tmp_path / "cut.npy", np.zeros(100))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:-9])
    for name in ("claim.npy", "cut.npy"):
        with pytest.raises(DataError, match=name):
            files.read_array(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", header.getvalue() + b"\0" * 10**6)
    with pytest.raises(DataError, match="nothing was read"):
        files.read_array(tmp_path / "bomb.npz", "depth")


@pytest.mark.parametrize("shape", [(-3,), (-1, -8), (4, -1), (-1, 0)])
def test_arrays_of_a_negative_size_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    (tmp_path / "negative.npy").write_bytes(header.getvalue() + b"\0" * 8)
    with pytest.raises(DataError, match=r"negative\.npy: claims an array of shape"):
        files.read_array(tmp_path / "negative.npy")


def test_an_array_in_a_damaged_lzma_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.npz: not an array file, or damaged"):
        files.read_array(lzma_zip(tmp_path / "a.npz", "depth.npy"), "depth")


# --- checksums ------------------------------------------------------------------------------------------


def test_a_file_is_summed_once_for_each_of_its_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "train.parquet"
    path.write_bytes(b"content")
    expected = files.sha256(path)
    sums: list[Path] = []
    real = files.sha256
    monkeypatch.setattr(files, "sha256", lambda p: (sums.append(p), real(p))[1])
    files.verify(path, expected, tmp_path / "cache")
    files.verify(path, expected, tmp_path / "cache")
    assert len(sums) == 1
    os.utime(path, ns=(1, 1))
    files.verify(path, expected, tmp_path / "cache")
    assert len(sums) == 2
    path.write_bytes(b"changed")
    with pytest.raises(DataError, match=r"train\.parquet.*damaged or was changed"):
        files.verify(path, expected, tmp_path / "cache")
    with pytest.raises(DataError, match="no such file"):
        files.verify(tmp_path / "absent", expected, tmp_path / "cache")


def test_a_checksum_is_still_checked_where_nothing_can_be_remembered(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    (tmp_path / "cache").write_bytes(b"a file, no folder")
    files.verify(path, files.sha256(path), tmp_path / "cache")


# --- archives -------------------------------------------------------------------------------------------


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return path


def tarred(path: Path, members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "/etc/passwd"
            archive.addfile(info, io.BytesIO(content))
    return path


def lzma_zip(path: Path, member: str) -> Path:
    """A zip whose one member, compressed by LZMA, is damaged in its middle."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive, archive.open(member, "w") as stream:
        np.save(stream, np.random.default_rng(0).random(10_000))
    return damaged(path)


def lzma_tar(path: Path, member: str) -> Path:
    """A tar compressed by xz, damaged in its middle."""
    content = np.random.default_rng(0).bytes(100_000)
    with tarfile.open(path, "w:xz") as archive:
        info = tarfile.TarInfo(member)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return damaged(path)


def damaged(path: Path) -> Path:
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = b"\xff" * 4000
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("pack", [lzma_zip, lzma_tar])
def test_damaged_lzma_is_one_sentence(tmp_path: Path, pack: Callable[[Path, str], Path]) -> None:
    archive = pack(tmp_path / "rooms.archive", "rooms/train.parquet")
    with pytest.raises(DataError, match=r"rooms\.archive: not an archive, or damaged .*; get it again"):
        files.unpack(archive, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_archives_are_unpacked_once(tmp_path: Path, pack: Callable[[Path, dict[str, bytes]], Path]) -> None:
    archive = pack(tmp_path / "set.archive", {"set/manifest.json": b"{}", "set/deep/er/a.txt": b"abc"})
    folder = files.unpack(archive, tmp_path / "cache")
    assert (folder / "set/deep/er/a.txt").read_bytes() == b"abc"
    (folder / "set/kept").touch()
    assert files.unpack(archive, tmp_path / "cache") == folder
    assert (folder / "set/kept").exists()


@pytest.mark.parametrize("pack", [zipped, tarred])
@pytest.mark.parametrize(
    "name", ["../outside", "a/../../outside", "/tmp/outside", "..\\outside", "C:\\outside", "a\\..\\b"]
)
def test_names_that_leave_the_folder_are_refused(
    tmp_path: Path, pack: Callable[[Path, dict[str, bytes]], Path], name: str
) -> None:
    archive = pack(tmp_path / "evil.archive", {"fine": b"1", name: b"2"})
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"evil\.archive: member .* outside its folder"):
        files.unpack(archive, tmp_path / "cache" / "deep")
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "cache"])
    assert not any(path.is_file() for path in (tmp_path / "cache").rglob("*")), "nothing is kept"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    archive = tarred(tmp_path / "evil.tar.gz", {"link": b""}, kind)
    with pytest.raises(DataError, match="link or a device"):
        files.unpack(archive, tmp_path / "cache")


def test_links_in_zips_are_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="link or a device"):
        files.unpack(tmp_path / "evil.zip", tmp_path / "cache")


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_bombs_and_crowds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    monkeypatch.setattr(files, "MAX_UNPACKED_BYTES", 10**6)
    archive = pack(tmp_path / "bomb", {"zeros": b"\0" * (10**6 + 1)})
    assert archive.stat().st_size < 10_000
    with pytest.raises(DataError, match="expands beyond the limit"):
        files.unpack(archive, tmp_path / "cache")
    monkeypatch.setattr(files, "MAX_MEMBERS", 10)
    archive = pack(tmp_path / "crowd", {f"{number}": b"" for number in range(11)})
    with pytest.raises(DataError, match="more than 10 members"):
        files.unpack(archive, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut"])
def test_what_is_no_archive_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rooms.zip"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rooms\.zip"):
        files.unpack(path, tmp_path / "cache")


def test_a_write_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(tmp_path / "note.json", b"1")
    assert not list(tmp_path.iterdir())


def test_many_threads_read_arrays(tmp_path: Path) -> None:
    """Python 3.11 fails now and then if several threads parse headers at once."""
    np.save(tmp_path / "a.npy", np.arange(6))
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda _: files.read_array(tmp_path / "a.npy").sum(), range(3000)))
    assert set(read) == {15}
