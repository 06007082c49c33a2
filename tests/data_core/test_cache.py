"""The decoded cache: built once, safe to share, rebuilt when damaged, honest when it cannot be written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from plait.data import cache
from plait.data.cache import DecodedField
from plait.errors import DataError

VALUES = np.random.default_rng(0).integers(0, 2**16, (5, 1, 6, 8), dtype=np.uint16)


@pytest.fixture
def decoded(tmp_path: Path) -> DecodedField:
    return DecodedField(tmp_path / "rooms-abc-v1", "depth", VALUES.shape, np.uint16)


def never() -> Iterator[np.ndarray]:
    pytest.fail("decoded again")
    yield VALUES[0]


def test_a_field_is_decoded_once(decoded: DecodedField) -> None:
    np.testing.assert_array_equal(decoded.open(VALUES), VALUES)
    again = decoded.open(never())
    np.testing.assert_array_equal(again, VALUES)
    assert isinstance(again, np.memmap)
    assert not again.flags.writeable
    assert not list(decoded.folder.glob(".*")), "no temporary file stays"


def damage_bytes(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-7] ^= 0xFF
    path.write_bytes(content)
    os.utime(path, ns=(5, 5))  # a clock too coarse to tell must not hide it


@pytest.mark.parametrize(
    "damage",
    [
        damage_bytes,
        lambda path: path.write_bytes(path.read_bytes()[:-2]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x93NUMPY" + b"\xff" * 300),
        lambda path: path.unlink(),
        lambda path: np.save(path, VALUES[:3]),
        lambda path: np.save(path, VALUES.astype(np.int16)),
        lambda path: path.with_suffix(".json").unlink(),
        lambda path: path.with_suffix(".json").write_text("{"),
        lambda path: path.with_suffix(".json").write_text("[]"),
    ],
)
def test_what_is_damaged_is_built_again(decoded: DecodedField, damage: object) -> None:
    decoded.open(VALUES)
    damage(decoded.path)  # type: ignore[operator]
    np.testing.assert_array_equal(decoded.open(VALUES), VALUES)
    np.testing.assert_array_equal(decoded.open(never()), VALUES)


def test_a_copied_cache_is_summed_and_kept(decoded: DecodedField) -> None:
    decoded.open(VALUES)
    os.utime(decoded.path, ns=(7, 7))
    np.testing.assert_array_equal(decoded.open(never()), VALUES)


def test_a_failed_build_leaves_nothing(decoded: DecodedField) -> None:
    def damaged() -> Iterator[np.ndarray]:
        yield VALUES[0]
        raise DataError("room 1 is damaged")

    with pytest.raises(DataError, match="room 1"):
        decoded.open(damaged())
    assert {path.name for path in decoded.folder.iterdir()} <= {"lock"}
    np.testing.assert_array_equal(decoded.open(VALUES), VALUES)


def test_a_full_disk_is_one_sentence(decoded: DecodedField, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.raises(DataError, match=r"disk is full: .*depth\.npy needs .* cache: none"):
        decoded.open(VALUES)
    assert {path.name for path in decoded.folder.iterdir()} <= {"lock"}


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written .*cache_dir"):
        DecodedField(tmp_path / "file" / "x", "depth", VALUES.shape, np.uint16).open(VALUES)


@pytest.mark.slow
def test_several_processes_build_one_cache(tmp_path: Path) -> None:
    """All start at once on an empty folder; all read the same, and one field is decoded by one of them."""
    program = f"""
import numpy as np, sys, time
from pathlib import Path
from plait.data.cache import DecodedField
def slowly():
    Path({str(tmp_path)!r}, "decoded by " + sys.argv[1]).touch()
    for value in range(20):
        time.sleep(0.01)
        yield np.full((1, 4, 4), value, np.uint8)
values = DecodedField(Path({str(tmp_path)!r}) / "c", "semantic", (20, 1, 4, 4), np.uint8).open(slowly())
assert (values[:, 0, 0, 0] == np.arange(20)).all()
"""
    running = [subprocess.Popen([sys.executable, "-c", program, str(number)]) for number in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    if os.name == "posix":
        assert len(list(tmp_path.glob("decoded by *"))) == 1
