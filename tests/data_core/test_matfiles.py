"""MATLAB files of both kinds give plain numbers, and hostile ones nothing."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse
from scipy.io import savemat

from plait.data import mat5
from plait.data.matfiles import read_mat
from plait.errors import DataError

VALUES = np.arange(6, dtype=np.float64).reshape(2, 3)


def write_new(path: Path, **variables: np.ndarray) -> Path:
    """As MATLAB writes version 7.3: HDF5 behind 512 bytes of text, axes in reverse."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, values in variables.items():
            file[name] = values.T
    content = bytearray(path.read_bytes())
    content[:19] = b"MATLAB 7.3 MAT-file"
    path.write_bytes(content)
    return path


def write_old(path: Path, **variables: object) -> Path:
    savemat(path, variables, do_compression=True)
    return path


@pytest.mark.parametrize("write", [write_old, write_new])
@pytest.mark.parametrize("from_bytes", [False, True])
def test_both_kinds_give_the_same_numbers(write: object, from_bytes: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mat", depth=VALUES)  # type: ignore[operator]
    source = path.read_bytes() if from_bytes else path
    np.testing.assert_array_equal(read_mat(source, "depth"), VALUES)
    np.testing.assert_array_equal(read_mat(source), VALUES)


@pytest.mark.parametrize("write", [write_old, write_new])
def test_a_variable_that_is_not_there_is_answered_with_those_that_are(write: object, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mat", depth=VALUES, labels=VALUES)  # type: ignore[operator]
    with pytest.raises(DataError, match=r"a\.mat: has no variable 'normals'; it has depth, labels"):
        read_mat(path, "normals")
    with pytest.raises(DataError, match="holds depth, labels; say which"):
        read_mat(path)


def test_structures_are_read_as_records(tmp_path: Path) -> None:
    path = write_old(tmp_path / "a.mat", anno={"objects": [{"class": "person"}, {"class": "cat"}]})
    anno = read_mat(path, "anno")
    assert [str(thing["class"]) for thing in anno["objects"][()]] == ["person", "cat"]


def test_structures_that_unpack_without_end_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_old(tmp_path / "a.mat", anno={"values": np.zeros((300, 300))})
    monkeypatch.setattr(mat5, "MAX_STRUCT_BYTES", 100_000)
    with pytest.raises(DataError, match="unpacks to more than 100,000 bytes; nothing was read"):
        read_mat(path, "anno")


def test_an_array_of_hostile_size_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file.create_dataset("depth", shape=(10**6, 10**6), dtype="f4", chunks=(64, 64))
    with pytest.raises(DataError, match="'depth' claims the shape"):
        read_mat(tmp_path / "a.mat", "depth")


def test_a_compressed_header_of_hostile_size_is_refused(tmp_path: Path) -> None:
    header = struct.pack("<II", 6, 8) + struct.pack("<II", 6, 0)  # flags of a double array
    header += struct.pack("<II", 5, 8) + struct.pack("<ii", 10**5, 10**5)
    header += struct.pack("<HH4s", 1, 1, b"a\0\0\0")
    packed = zlib.compress(struct.pack("<II", 14, len(header)) + header)
    text = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM")
    (tmp_path / "a.mat").write_bytes(text + struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(DataError, match=r"'a' claims the shape \(100000, 100000\)"):
        read_mat(tmp_path / "a.mat", "a")


def test_links_to_other_files_are_not_followed(tmp_path: Path) -> None:
    write_new(tmp_path / "secret.mat", depth=VALUES)
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["depth"] = h5py.ExternalLink(tmp_path / "secret.mat", "depth")
        layout = h5py.VirtualLayout(shape=(3, 2), dtype="f8")
        layout[:] = h5py.VirtualSource(tmp_path / "secret.mat", "depth", shape=(3, 2))
        file.create_virtual_dataset("normals", layout)
        file.create_dataset("raw", (3, 2), "f8", external=[(str(tmp_path / "secret.mat"), 0, 48)])
    for variable in ("depth", "normals", "raw"):
        with pytest.raises(DataError, match="which is not followed"):
            read_mat(tmp_path / "a.mat", variable)


def test_what_is_no_array_of_numbers_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file.create_group("depth")
        file["names"] = np.array([b"x"])
    for variable in ("depth", "names"):
        with pytest.raises(DataError, match="expected an array of numbers"):
            read_mat(tmp_path / "a.mat", variable)


@pytest.mark.parametrize("keep", [0, 10, 200, 700])
@pytest.mark.parametrize("write", [write_old, write_new])
def test_a_file_cut_short_is_one_sentence(write: object, keep: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.mat", depth=np.random.default_rng(0).random((40, 50)))  # type: ignore[operator]
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"a\.mat: not "):
        read_mat(path, "depth")


def test_flipped_bytes_of_a_structure_give_a_sentence_or_the_structure() -> None:
    """SciPy alone ends the process on some of these."""
    parts = [
        {"part_name": "head", "mask": np.ones((6, 6), np.uint8)},
        {"part_name": "torso", "mask": np.eye(6)},
    ]
    stream = io.BytesIO()
    savemat(
        stream, {"anno": {"objects": [{"class": "person", "parts": parts}, {"class": "cat", "parts": []}]}}
    )
    good, random, refused = stream.getvalue(), np.random.default_rng(0), 0
    for _ in range(1000):
        content = bytearray(good)
        for place in random.integers(116, len(good), size=int(random.integers(1, 4))):
            content[place] = random.choice([0, 1, 255, random.integers(256)])
        try:
            read_mat(bytes(content), "anno")
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
    assert 300 < refused < 900


def test_version_4_is_read(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"depth": VALUES}, format="4")
    np.testing.assert_array_equal(read_mat(tmp_path / "a.mat", "depth"), VALUES)
    with pytest.raises(DataError, match="has no variable 'normals'; it has depth"):
        read_mat(tmp_path / "a.mat", "normals")


@pytest.mark.parametrize("values", [VALUES + 1j, scipy.sparse.csc_array(VALUES)])
def test_what_no_map_can_be_is_refused(values: object, tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"depth": values})
    with pytest.raises(DataError, match="not a MATLAB file, or damaged"):
        read_mat(tmp_path / "a.mat", "depth")
