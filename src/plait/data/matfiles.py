"""MATLAB files, both kinds, read as plain numbers: up to version 7.2 by SciPy, version 7.3 (HDF5) by h5py.

Nothing is followed out of the file, no object is made that could run code, and a variable's size is known
before it is read.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plait.data import mat5
from plait.data.files import MAX_PIXELS
from plait.errors import DataError

if TYPE_CHECKING:
    import h5py

Array = NDArray[Any]

HDF5 = b"\x89HDF\r\n\x1a\n"
DAMAGED = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    NameError,  # SciPy's own, of a variable that an unknown kind of element left unset
    MemoryError,  # a damaged size
    NotImplementedError,
    struct.error,
    zlib.error,
)
"""What SciPy and h5py raise if a file's content is wrong."""


def read_mat(source: Path | bytes, variable: str | None = None, *, name: str = "") -> Any:
    """One variable of a MATLAB file of either kind, with MATLAB's order of axes.

    Args:
        source: A file, or its content.
        variable: Its name; None where the file holds only one.
        name: What to call the file in errors; its path by default.

    Returns:
        An array of numbers; of version 7.2 and earlier also structures and cells, as ``scipy.io.loadmat``
        gives them with ``struct_as_record=True, squeeze_me=True``.

    Raises:
        DataError: If the file is missing, damaged, too large, or lacks the variable; names what it holds.
    """
    name = name or (str(source) if isinstance(source, Path) else f"a .mat file of {len(source)} bytes")
    try:
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as stream:
            if _is_hdf5(stream):
                with opened_hdf5(source, name) as file:
                    return _hdf5_array(file, _chosen(variable, _numbers_in(file), name), name)
            return _read_old(stream, variable, name)
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file; is the folder complete?") from error
    except DataError:
        raise
    except DAMAGED as error:
        raise DataError(f"{name}: not a MATLAB file, or damaged ({error}); get it again") from error


@contextmanager
def opened_hdf5(source: Path | bytes, name: str = "") -> Iterator[h5py.File]:
    """An HDF5 file (also a .mat of version 7.3), open for reading.

    Raises:
        DataError: If it is missing or is not one.
    """
    import h5py

    name = name or str(source)
    try:
        file = h5py.File(source if isinstance(source, Path) else io.BytesIO(source), "r")
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file; is the folder complete?") from error
    except OSError as error:
        raise DataError(f"{name}: not an HDF5 file (.mat of version 7.3), or damaged ({error})") from error
    with file:
        yield file


def hdf5_dataset(file: h5py.File, variable: str, name: str) -> h5py.Dataset:
    """A variable of an open HDF5 file, unread.

    Raises:
        DataError: If it is not there, no array of numbers, or lies in another file.
    """
    import h5py

    link = file.get(variable, getlink=True)
    if link is None:
        raise DataError(f"{name}: has no variable {variable!r}; it has {', '.join(sorted(file)) or 'none'}")
    if not isinstance(link, h5py.HardLink):
        raise DataError(f"{name}: {variable!r} is a link to elsewhere, which is not followed")
    found = file[variable]
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "biuf":
        raise DataError(f"{name}: expected an array of numbers in {variable!r}; is it the right file?")
    if found.external or found.is_virtual:
        raise DataError(f"{name}: the numbers of {variable!r} lie in another file, which is not followed")
    return found


def _is_hdf5(stream: Any) -> bool:
    for place in (0, 512):  # MATLAB writes a text of 512 bytes before it
        stream.seek(place)
        if stream.read(8) == HDF5:
            return True
    stream.seek(0)
    return False


def _numbers_in(file: h5py.File) -> list[str]:
    return sorted(variable for variable in file if not variable.startswith("#"))


def _hdf5_array(file: h5py.File, variable: str, name: str) -> Array:
    found = hdf5_dataset(file, variable, name)
    _check_size(found.shape, found.dtype.itemsize, variable, name)
    return np.asarray(found[()]).T  # HDF5 is written with the axes in reverse


def _read_old(stream: Any, variable: str | None, name: str) -> Any:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    content = stream.read(16 * MAX_PIXELS + 1)
    if len(content) > 16 * MAX_PIXELS:
        raise DataError(f"{name}: has more than {16 * MAX_PIXELS:,} bytes; save it as version 7.3")
    try:
        if 0 in content[:4]:  # version 4, which holds no structures and no compressed arrays
            return _read_version_4(content, variable, name)
        held = {found.name: found for found in mat5.variables(content, name)}
        chosen = held[_chosen(variable, list(held), name)]
        read = loadmat(io.BytesIO(chosen.content), squeeze_me=chosen.holds_others)
        return read[chosen.name]
    except MatReadError as error:
        raise DataError(f"{name}: not a MATLAB file, or damaged ({error}); get it again") from error


def _read_version_4(content: bytes, variable: str | None, name: str) -> Any:
    from scipy.io import loadmat, whosmat

    shapes = {found: shape for found, shape, _ in whosmat(io.BytesIO(content))}
    variable = _chosen(variable, list(shapes), name)
    _check_size(shapes[variable], 8, variable, name)
    return loadmat(io.BytesIO(content), variable_names=[variable])[variable]


def _chosen(variable: str | None, held: list[str], name: str) -> str:
    if variable is None and len(held) == 1:
        return held[0]
    if variable is None:
        raise DataError(f"{name}: holds {', '.join(held) or 'nothing'}; say which as the field's member")
    if variable not in held:
        raise DataError(f"{name}: has no variable {variable!r}; it has {', '.join(held) or 'none'}")
    return variable


def _check_size(shape: tuple[int, ...], itemsize: int, variable: str, name: str) -> None:
    if math.prod(shape) * itemsize > 16 * MAX_PIXELS:
        raise DataError(
            f"{name}: {variable!r} claims the shape {tuple(shape)}, more than {16 * MAX_PIXELS:,} bytes; "
            f"nothing was read"
        )
