"""The log survives kills, and averages lead."""

import errno
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from plait.errors import MissingExtraError, PlaitError
from plait.training import checkpoint, logs
from plait.training.averages import WeightAverage
from plait.training.logs import Log, make_trackers, read_log


def test_a_log_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    log = Log(tmp_path, ["step", "loss.depth"])
    for step in range(1, 6):
        log.add({"step": step, "loss": {"depth": step / 2}})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # the process was killed here
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3, 4, 5]
    log = Log(tmp_path, ["step", "loss.depth"], step=3)
    log.add({"step": 4, "loss": {"depth": None}})
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3, 4]
    assert (tmp_path / "log.csv").read_text() == "step,loss.depth\n1,0.5\n2,1.0\n3,1.5\n4,\n"
    Log(tmp_path, ["step"])
    assert read_log(tmp_path) == []


def test_a_disk_that_fills_up_leaves_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Log(tmp_path, ["step"]).add({"step": 1})

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_durably", full)
    with pytest.raises(PlaitError, match="the disk is full"):
        Log(tmp_path, ["step"], step=1)
    assert read_log(tmp_path) == [{"step": 1}]
    assert (tmp_path / "log.csv").read_text() == "step\n1\n"


def test_every_line_is_json(tmp_path: Path) -> None:
    Log(tmp_path, ["step"]).add({"step": 1, "loss": {"depth": 0.25}})
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"step": 1, "loss": {"depth": 0.25}}


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'plait\[wandb\]'"):
        make_trackers(["wandb"], tmp_path, {})


def test_the_average_of_weights_that_stay_is_these_weights() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, 0.99)
    for step in range(1, 5):
        average.update(model, step)
    for name, value in average.values.items():
        torch.testing.assert_close(value, model.state_dict()[name])
    assert "1.num_batches_tracked" not in average.values


def test_the_average_follows_its_formula_and_gives_way() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = WeightAverage(model, 0.5)
    expected = 0.0
    for step in range(1, 30):
        nn.init.constant_(model.weight, step)
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
        assert average.values["weight"].item() == pytest.approx(expected)
    with average.applied(model):
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 29
