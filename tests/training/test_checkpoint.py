"""Checkpoints: whole or not there, and nothing but tensors and JSON."""

import contextlib
import errno
import io
import json
import pickle
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import plait.tasks
from plait.errors import CheckpointError, PlaitError
from plait.training import checkpoint

TASKS = plait.tasks.parse({"semantic": {"kind": "semantic", "classes": 4}, "depth": {"kind": "depth"}})
STATE = {"step": 3, "tasks": checkpoint.described_tasks(TASKS)}


def tensors(value: float = 1.0) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"weight": torch.full((3, 4), value), "count": torch.tensor(7)}, "training": {}}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    checkpoint.write(tmp_path / "last", tensors(), STATE)
    return tmp_path / "last"


def test_what_is_written_is_read_back_to_the_bit(tmp_path: Path) -> None:
    values = {
        "lasts": torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "nan": torch.tensor([float("nan"), -0.0, float("inf")]),
        "half": torch.rand(3).to(torch.bfloat16),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "scalar": torch.tensor(3),
    }
    checkpoint.write(tmp_path / "last", {"model": values}, STATE)
    found = checkpoint.read(tmp_path / "last", TASKS)
    assert found.step == 3
    for name, value in values.items():
        assert found.tensors["model"][name].dtype == value.dtype
        torch.testing.assert_close(found.tensors["model"][name], value, rtol=0, atol=0, equal_nan=True)


def test_shared_memory_is_written_twice(tmp_path: Path) -> None:
    shared = torch.ones(3)
    checkpoint.write(tmp_path / "last", {"model": {"a": shared, "b": shared}}, STATE)
    assert checkpoint.read(tmp_path / "last").tensors["model"].keys() == {"a", "b"}


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("moment", range(8))
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(
    place: Path, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """Before each of the operations that touch the disk; then training goes on and writes again."""
    calls = 0

    def counted(original):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        def call(*args, **kwargs):  # type: ignore[no-untyped-def]  # noqa: ANN002, ANN003, ANN202
            nonlocal calls
            calls += 1
            if calls > moment:
                raise Killed
            return original(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_durably", counted(checkpoint.write_durably))
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(checkpoint.shutil, "rmtree", counted(checkpoint.shutil.rmtree))
        with contextlib.suppress(Killed):
            checkpoint.write(place, tensors(2.0), {**STATE, "step": 4})
    found = checkpoint.read(place, TASKS)
    assert found.tensors["model"]["weight"][0, 0] == (1.0 if found.step == 3 else 2.0)
    checkpoint.write(place, tensors(3.0), {**STATE, "step": 5})
    assert checkpoint.read(place, TASKS).step == 5
    assert sorted(path.name for path in place.parent.iterdir()) == ["last"]


def test_a_half_written_file_is_never_used(place: Path) -> None:
    fresh = place.with_name("last.writing")
    fresh.mkdir()
    (fresh / "model.safetensors").write_bytes(b"half")
    assert checkpoint.read(place, TASKS).step == 3


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(
    place: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[: len(content) // 2])
        raise OSError(code, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_durably", full)
        with pytest.raises(PlaitError, match="the disk is full") as caught:
            checkpoint.write(place, tensors(2.0), {**STATE, "step": 4})
    assert "\n" not in str(caught.value)
    assert checkpoint.read(place, TASKS).step == 3
    assert sorted(path.name for path in place.parent.iterdir()) == ["last"]


def test_other_errors_of_the_disk_are_not_called_full(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, content: bytes) -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(checkpoint, "write_durably", denied)
    with pytest.raises(PermissionError):
        checkpoint.write(place, tensors(2.0), STATE)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code ran')",)


def bombs() -> dict[str, bytes]:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    return {"pickle": pickle.dumps(Bomb()), "old pickle": pickle.dumps(Bomb(), 2), "torch": stream.getvalue()}


@pytest.mark.parametrize("kind", bombs())
def test_a_pickle_posing_as_a_checkpoint_is_refused_and_not_run(place: Path, kind: str) -> None:
    (place / "model.safetensors").write_bytes(bombs()[kind])
    with pytest.raises(CheckpointError, match="is a pickle"):
        checkpoint.read(place, TASKS)
    with pytest.raises(CheckpointError, match="is a pickle"):
        checkpoint.read_tensors(place / "model.safetensors")


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 0x4B50])  # in memory: 80 02, ..., 80 05, "PK"
def test_a_length_that_looks_like_a_pickle_is_none(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    for padding in range(length):
        content = safetensors.torch.save({"weight": torch.ones(3)}, metadata={"pad": "-" * padding})
        if int.from_bytes(content[:8], "little") >= length:
            break
    assert int.from_bytes(content[:8], "little") == length
    path.write_bytes(content)
    assert checkpoint.read_tensors(path)["weight"].tolist() == [1, 1, 1]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_damage_is_noticed_wherever_it_is(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    place = tmp_path_factory.mktemp("run") / "last"
    checkpoint.write(place, tensors(), STATE)
    path = place / "model.safetensors"
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans(), label="truncated"):
        del content[at:]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        checkpoint.read(place, TASKS)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "{}", '{"format": 1}', '{"format": 99, "step": 1, "sha256": {}}'),
        *('{"format": 1, "step": null, "sha256": {}}', '{"format": 1, "step": 1, "sha256": []}'),
    ],
)
def test_a_damaged_state_is_named(place: Path, text: str) -> None:
    (place / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match="last"):
        checkpoint.read(place, TASKS)


def test_a_truncated_file_without_checksum_is_refused(place: Path) -> None:
    path = place / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="not a complete safetensors file"):
        checkpoint.read_tensors(path)


def test_missing_things_are_named(place: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        checkpoint.read(place.with_name("best"))
    (place / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot read"):
        checkpoint.read(place)


def test_foreign_tasks_are_refused(place: Path) -> None:
    for other in (
        {"depth": {"kind": "depth"}},
        {"depth": {"kind": "depth"}, "semantic": {"kind": "semantic", "classes": 4}},
    ):
        with pytest.raises(CheckpointError, match="is of the tasks semantic"):
            checkpoint.read(place, plait.tasks.parse(other))


def test_foreign_networks_are_refused() -> None:
    module = nn.Linear(2, 3)
    good = {name: value.clone() for name, value in module.state_dict().items()}
    for bad, sentence in (
        ({"weight": good["weight"]}, "lacks 'bias'"),
        ({**good, "more": good["bias"]}, "'more'"),
        ({**good, "bias": torch.zeros(4)}, r"'bias' is \[4\], expected \[3\]"),
    ):
        with pytest.raises(CheckpointError, match=sentence):
            checkpoint.restore(module, bad, "the file")


def test_foreign_optimizers_are_refused() -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 3).parameters(), lr=1, momentum=0.9)
    for name, value in (
        ("7.momentum_buffer", torch.zeros(3)),
        ("0.momentum_buffer", torch.zeros(9)),
        ("x", torch.ones(1)),
    ):
        with pytest.raises(CheckpointError):
            checkpoint.restore_optimizer(optimizer, {name: value}, "the file")


def test_state_is_json(place: Path) -> None:
    assert json.loads((place / "state.json").read_text())["step"] == 3
