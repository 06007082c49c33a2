"""Decoded once: the maps of a split as memory-mapped arrays in the user's cache folder.

One ``.npy`` a field and, beside it, a small JSON note with its checksum. A field is written into a
temporary file that is renamed when it is whole, and one process at a time builds (a file lock), so any
number of processes may open the same cache. What is damaged is built again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike, NDArray

from plait.data.files import write_atomically
from plait.errors import DataError

Array = NDArray[Any]

VERSION = 1
"""Part of every key: raise it when what is stored changes."""


@dataclass(frozen=True)
class DecodedField:
    """One field of a split in the cache.

    Attributes:
        folder: The split's folder in the cache, named by the content's checksum and ``VERSION``.
        field: For instance ``"depth"``.
        shape: ``[N, ...]``.
        dtype: As stored.
    """

    folder: Path
    field: str
    shape: tuple[int, ...]
    dtype: DTypeLike

    @property
    def path(self) -> Path:
        """Where the array lies."""
        return self.folder / f"{self.field}.npy"

    @property
    def note(self) -> Path:
        """Where its checksum lies."""
        return self.folder / f"{self.field}.json"

    def open(self, decode: Iterable[Array]) -> Array:
        """The field as a read-only memory map, built from ``decode`` (the N entries) where necessary.

        Raises:
            DataError: If the cache cannot be written: disk full, no permission.
        """
        found = self._sound()
        if found is not None:
            return found
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / "lock"):
                found = self._sound()
                if found is None:
                    self._build(decode)
                    found = self._sound()
        except OSError as error:
            raise DataError(self._cannot_write(error)) from error
        if found is None:
            raise DataError(f"{self.path}: changed while it was built; is another program writing there?")
        return found

    def _sound(self) -> Array | None:
        """The array if it is whole. Unchanged size and time are trusted, else the content is summed."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            state = self.path.stat()
            array: Array = np.load(self.path, mmap_mode="r", allow_pickle=False)
            if array.shape != self.shape or array.dtype != np.dtype(self.dtype):
                return None
            if state.st_size != note["bytes"]:
                return None
            if state.st_mtime_ns != note["time"]:
                if _checksum(self.path) != note["crc32"]:
                    return None
                with contextlib.suppress(OSError):
                    self._write_note(note["crc32"])
        except (OSError, ValueError, KeyError, TypeError, EOFError):
            return None
        return array

    def _build(self, decode: Iterable[Array]) -> None:
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=f".{self.field}.", suffix=".partial")
        try:
            # Written, not mapped: a full disk is then an error and not a signal that kills the process.
            with os.fdopen(handle, "wb") as stream:
                header = {
                    "descr": npy.dtype_to_descr(np.dtype(self.dtype)),
                    "fortran_order": False,
                    "shape": self.shape,
                }
                npy.write_array_header_1_0(stream, header)
                for entry in decode:
                    stream.write(np.ascontiguousarray(entry, dtype=self.dtype).data)
                stream.flush()
                os.fsync(stream.fileno())
            checksum = _checksum(Path(name))
            Path(name).replace(self.path)
            self._write_note(checksum)
        finally:
            Path(name).unlink(missing_ok=True)

    def _write_note(self, checksum: int) -> None:
        state = self.path.stat()
        note = {"bytes": state.st_size, "time": state.st_mtime_ns, "crc32": checksum}
        write_atomically(self.note, json.dumps(note).encode())

    def _cannot_write(self, error: OSError) -> str:
        needed = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize / 1e6
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            with contextlib.suppress(OSError):
                free = shutil.disk_usage(self.folder).free / 1e6
                return (
                    f"the disk is full: {self.path} needs {needed:.0f} MB and {free:.0f} MB are free; make "
                    f"room, choose another folder with cache_dir, or decode each time with cache: none"
                )
        return (
            f"{self.path}: the decoded cache ({needed:.0f} MB) cannot be written "
            f"({error.strerror or error}); choose another folder with cache_dir, or decode each time with "
            f"cache: none"
        )


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            checksum = zlib.crc32(chunk, checksum)
    return checksum


@contextlib.contextmanager
def full_disk(folder: Path) -> Iterator[None]:
    """Says in one sentence that a folder cannot be written.

    Raises:
        DataError: In place of the ``OSError``.
    """
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DataError(f"the disk of {folder} is full; make room and start again: it goes on") from error
        raise DataError(
            f"{folder} cannot be written ({error.strerror or error}); choose another folder"
        ) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds a file's lock: of all processes that ask for it, one goes on at a time."""
    try:
        import fcntl
    except ImportError:  # Windows: several processes may build at once; the last rename wins, all are equal
        yield
        return
    with path.open("wb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
