"""Reading files that may be damaged or hostile: every refusal is one sentence that names the file.

Sizes are checked before anything is decoded, arrays never unpickle, and archives are unpacked member by
member, by name, kind, number and the bytes that really come out.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from plait.errors import DataError

Array = NDArray[Any]

MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded."""

MAX_MEMBERS = 100_000
MAX_UNPACKED_BYTES = 64 * 2**30
MAX_EXPANSION = 200
"""Archives: most members, most bytes, and most bytes out per byte in (beyond the first 64 MiB)."""

DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    RuntimeError,  # an encrypted member, or a compression that this Python lacks
)
"""What reading an archive raises, besides ``OSError``, if its content is wrong."""

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF")
"""The only formats that images are decoded from, whatever a file is called; others may start programs."""

COLOUR_MODES = ("RGB", "L", "P", "RGBA", "LA")


def cache_folder() -> Path:
    """Where plait keeps what it can make again: ``$XDG_CACHE_HOME/plait`` or the system's own place."""
    import platformdirs

    chosen = os.environ.get("XDG_CACHE_HOME")
    return Path(chosen) / "plait" if chosen else Path(platformdirs.user_cache_dir("plait", appauthor=False))


# --- images ---------------------------------------------------------------------------------------------


def read_rgb(
    source: Path | bytes,
    *,
    name: str = "",
    size: tuple[int, int] | None = None,
    modes: tuple[str, ...] = COLOUR_MODES,
    upright: bool = False,
) -> Array:
    """Decodes a colour image: PNG, JPEG, WebP or TIFF.

    Args:
        source: A file, or its content.
        name: What to call it in errors; the file's path by default.
        size: Height and width that it must have.
        modes: Pillow modes that are acceptable.
        upright: Turn it as its EXIF orientation says: for photos to look at, not for images whose labels lie
            as the pixels do. Pictures of 16 bits are then brought to 8.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        DataError: If it is no image, damaged, of another mode or size, or beyond ``MAX_PIXELS``.
    """
    return _decode(source, name or _title(source), size, modes, convert="RGB", upright=upright)


def read_map(
    source: Path | bytes,
    *,
    modes: tuple[str, ...] = ("L", "P", "I;16"),
    name: str = "",
    size: tuple[int, int] | None = None,
) -> Array:
    """Decodes an image of numbers (formats as above) as they are stored: no palette, no colour conversion.

    Args:
        source: A file, or its content.
        modes: Pillow modes that are acceptable: ``L`` and ``P`` give uint8, ``I;16`` gives uint16, ``I``
            int32, ``RGB`` uint8 with three channels.
        name: What to call it in errors; the file's path by default.
        size: Height and width that it must have.

    Returns:
        ``[H, W]``, or ``[H, W, 3]`` for ``RGB``.

    Raises:
        DataError: As :func:`read_rgb`.
    """
    return _decode(source, name or _title(source), size, modes, convert=None)


def _title(source: Path | bytes) -> str:
    return str(source) if isinstance(source, Path) else f"an image of {len(source)} bytes"


def _decode(
    source: Path | bytes,
    name: str,
    size: tuple[int, int] | None,
    modes: tuple[str, ...],
    convert: str | None,
    upright: bool = False,
) -> Array:
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with Image.open(file, formats=FORMATS) as opened:
            image: Image.Image = opened
            found = (image.height, image.width)
            if found[0] * found[1] > MAX_PIXELS:
                raise DataError(
                    f"{name}: its header says {found[1]}x{found[0]} pixels, more than the limit of "
                    f"{MAX_PIXELS:,}; nothing was decoded: shrink it first"
                )
            if size is not None and found != tuple(size):
                raise DataError(
                    f"{name}: expected {size[0]}x{size[1]} (height x width), found {found[0]}x{found[1]}; "
                    f"image and labels of a sample must have one size"
                )
            if image.mode not in modes:
                raise DataError(
                    f"{name}: expected an image of mode {' or '.join(modes)}, found {image.mode}; "
                    f"convert it or point to the right file"
                )
            if upright:
                if image.mode == "I;16":
                    image = image.point(lambda level: level / 256).convert("L")
                image = turned(image)
            return np.asarray(image.convert(convert) if convert else image).copy()
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file; is the folder complete?") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{name}: its header claims far more pixels than the limit of {MAX_PIXELS:,}; nothing was decoded"
        ) from error
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise DataError(
            f"{name}: not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image, or damaged ({error}); "
            f"convert it or get the file again"
        ) from error


ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What an EXIF orientation asks for; any other number asks for nothing."""


def turned(image: Image.Image) -> Image.Image:
    """An image turned as its EXIF orientation says.

    Pillow's own function also writes the rest of the EXIF data anew, and fails where that is malformed.
    """
    image.load()  # a PNG may have them behind its pixels
    turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    return image if turn is None else image.transpose(turn)


# --- arrays ---------------------------------------------------------------------------------------------

_ONE_PARSER = threading.Lock()
"""NumPy reads headers with ``ast``, which fails now and then in Python 3.11 if two threads are in it."""


def read_array(source: Path | bytes, member: str | None = None, *, name: str = "") -> Array:
    """Reads a ``.npy`` file, or one array of an ``.npz`` archive, without ever unpickling.

    Args:
        source: A file, or its content.
        member: The array's name in an ``.npz``; None for ``.npy``.
        name: What to call it in errors; the file's path by default.

    Raises:
        DataError: If the file is missing, damaged, holds Python objects, lacks the array, or claims
            an array of more than ``MAX_PIXELS`` times 16 bytes.
    """
    path = name or (str(source) if isinstance(source, Path) else f"an array of {len(source)} bytes")
    try:
        if member is None:
            with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as stream:
                return _read_npy(stream, path)
        with zipfile.ZipFile(source if isinstance(source, Path) else io.BytesIO(source)) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if member not in names:
                raise DataError(f"{path}: holds no array {member!r}, only {', '.join(names) or 'nothing'}")
            info = archive.getinfo(f"{member}.npy")
            with archive.open(info) as stream:
                return _read_npy(stream, f"{path} [{member}]")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; is the folder complete?") from error
    except DataError:
        raise
    except (OSError, ValueError, KeyError, SyntaxError, *DAMAGED) as error:
        raise DataError(f"{path}: not an array file, or damaged ({error}); get it again") from error


def _read_npy(stream: IO[bytes], name: str) -> Array:
    version = npy.read_magic(stream)
    if version not in {(1, 0), (2, 0)}:
        raise DataError(f"{name}: unknown array format {version}; save it with numpy.save")
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    with _ONE_PARSER:
        shape, fortran, dtype = header(stream)
    if dtype.hasobject:
        raise DataError(
            f"{name}: holds pickled Python objects, which could run code when read; save plain numbers"
        )
    expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if min(shape, default=0) < 0 or expected > 16 * MAX_PIXELS:
        raise DataError(
            f"{name}: claims an array of shape {shape}, expected sides of zero or more and at most "
            f"{16 * MAX_PIXELS:,} bytes; nothing was read: save it again"
        )
    content = stream.read(expected + 1)
    if len(content) != expected:
        raise DataError(f"{name}: expected {expected} bytes of numbers, found {len(content)}; it is damaged")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C").copy()


# --- checksums ------------------------------------------------------------------------------------------


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def state(paths: Iterable[Path]) -> str:
    """A checksum of the files' names, sizes and times: another one if any of them was written again.

    Raises:
        DataError: If one is not there.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            found = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); is the folder complete?") from error
        digest.update(f"{path.resolve()} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def verify(path: Path, expected: str, folder: Path) -> None:
    """Checks a file against its SHA-256, once for each state of the file (size, time and inode).

    Args:
        path: The file.
        expected: Its checksum in hexadecimal.
        folder: Where it is remembered that a state was good; if that cannot be written, the file is
            simply checked again next time.

    Raises:
        DataError: If the file is missing or its content is not the expected one.
    """
    try:
        found_state = path.stat()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; is the folder complete?") from error
    place = str(path.resolve())
    seen = {
        "path": place,
        "bytes": found_state.st_size,
        "time": found_state.st_mtime_ns,
        "inode": found_state.st_ino,
        "sha256": expected,
    }
    note = folder / "verified" / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError):
        if json.loads(note.read_text(encoding="utf-8")) == seen:
            return
    found = sha256(path)
    if found != expected:
        raise DataError(
            f"{path}: expected SHA-256 {expected[:12]}..., found {found[:12]}...; "
            f"the file is damaged or was changed: get it again"
        )
    with contextlib.suppress(OSError):
        write_atomically(note, json.dumps(seen).encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file that other processes see either not at all or whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


# --- archives -------------------------------------------------------------------------------------------


def unpack(archive: Path, folder: Path) -> Path:
    """Unpacks a ``.zip`` or ``.tar`` (also compressed) into ``folder/<sha256 of the archive>``, once.

    Only regular files under relative names are taken; the folder appears whole or not at all.

    Raises:
        DataError: If the archive is damaged, or holds links, devices, absolute or climbing names, too
            many members, or expands beyond the limits above; nothing is kept then.
    """
    target = folder / sha256(archive)[:32]
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder, prefix=".unpacking."))
    try:
        budget = min(MAX_UNPACKED_BYTES, 64 * 2**20 + MAX_EXPANSION * archive.stat().st_size)
        with _members(archive) as members:
            for number, (name, stream) in enumerate(members):
                if number >= MAX_MEMBERS:
                    raise DataError(f"{archive}: more than {MAX_MEMBERS} members; nothing was kept")
                budget = _unpack_member(archive, name, stream, temporary, budget)
        with contextlib.suppress(OSError):  # another process may have unpacked it meanwhile: same content
            temporary.rename(target)
    except DAMAGED as error:
        raise DataError(f"{archive}: not an archive, or damaged ({error}); get it again") from error
    except OSError as error:
        raise DataError(
            f"{archive}: could not be unpacked into {folder} ({error.strerror or error})"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _unpack_member(archive: Path, name: str, stream: IO[bytes], folder: Path, budget: int) -> int:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith(("/", "\\")) or ".." in parts or "\\" in name or ":" in parts[0]:
        raise DataError(f"{archive}: member {name!r} would be written outside its folder; nothing was kept")
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as out:
        while chunk := stream.read(1 << 20):
            budget -= len(chunk)
            if budget < 0:
                raise DataError(
                    f"{archive}: expands beyond the limit, as an archive made to fill a disk would; "
                    f"nothing was kept"
                )
            out.write(chunk)
    return budget


@contextlib.contextmanager
def _members(archive: Path) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            yield _zip_members(archive, opened)
    else:
        with tarfile.open(archive) as opened_tar:
            yield _tar_members(archive, opened_tar)


def _zip_members(archive: Path, opened: zipfile.ZipFile) -> Iterator[tuple[str, IO[bytes]]]:
    for info in opened.infolist():
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
            raise DataError(f"{archive}: member {info.filename!r} is a link or a device; nothing was kept")
        if info.flag_bits & 1:
            raise DataError(f"{archive}: member {info.filename!r} is encrypted; nothing was kept")
        if not info.is_dir():
            with opened.open(info) as stream:
                yield info.filename, stream


def _tar_members(archive: Path, opened: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
    for info in opened:
        if info.isdir():
            continue
        stream = opened.extractfile(info) if info.isreg() else None
        if stream is None:
            raise DataError(f"{archive}: member {info.name!r} is a link or a device; nothing was kept")
        with stream:
            yield info.name, stream
