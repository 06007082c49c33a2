"""What is settled before a study's first run, and what is told of how it stands: nothing is trained here."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.study.tiny_study import write_study

from plait.errors import ConfigurationError, MissingExtraError
from plait.study import conduct
from plait.study.arms import arms_of
from plait.study.conduct import Where, check_room, devices_of, run_study, settled_steps
from plait.study.executors.base import Job
from plait.study.ledger import Kind, Ledger, Place, Row, State
from plait.study.plan import load_study
from plait.study.progress import remaining
from plait.study.schedule import Planned, Scheduler, Snapshot
from plait.study.status import read_status


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[Scheduler]:
    """The schedulers that would have carried studies out."""
    found: list[Scheduler] = []

    def kept(scheduler: Scheduler, *_: object) -> Snapshot:
        check_room(scheduler)
        found.append(scheduler)
        return Snapshot(planned={}, rows={}, expected=0, running={})

    monkeypatch.setattr(conduct, "carried_out", kept)
    return found


def run(tmp_path: Path, where: Where | None = None, words: tuple[str, ...] = (), **keys: Any) -> None:
    where = where or Where(jobs=1, device="cpu")
    run_study(write_study(tmp_path, **keys), out=tmp_path / "out", where=where, overrides=words)


def test_the_file_s_overrides_hold_and_those_of_the_command_line_come_after(
    tmp_path: Path, planned: list[Scheduler]
) -> None:
    overrides = {"optimizer.lr": 0.5, "optimizer.weight_decay": 0.25}
    run(tmp_path, words=("--optimizer.lr", "0.125"), overrides=overrides)
    for arm in planned[0].arms:
        assert (arm.recipe.optimizer.lr, arm.recipe.optimizer.weight_decay) == (0.125, 0.25)


def test_a_folder_without_runs_cannot_be_reused(tmp_path: Path, planned: list[Scheduler]) -> None:
    with pytest.raises(ConfigurationError, match="nowhere: expected a study's folder"):
        run_study(write_study(tmp_path), out=tmp_path / "out", reuse=[tmp_path / "nowhere"])
    assert not planned


def test_no_processes_are_too_few(tmp_path: Path, planned: list[Scheduler]) -> None:
    with pytest.raises(ConfigurationError, match="--jobs must be at least 1, got 0"):
        run(tmp_path, Where(jobs=0, device="cpu"))


def test_an_arm_of_more_processes_than_there_are_is_refused_at_once(
    tmp_path: Path, planned: list[Scheduler]
) -> None:
    with pytest.raises(ConfigurationError, match=r"arm 'MTL' trains in 2 processes, .*raise --jobs"):
        run(tmp_path, arms={"MTL": {"processes": 2}}, single_task=False)


def test_a_search_without_optuna_is_refused_at_once(
    tmp_path: Path, planned: list[Scheduler], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    search = {"trials": 2, "search": {"optimizer.lr": [0.1, 0.2]}}
    with pytest.raises(MissingExtraError, match="needs Optuna"):
        run(tmp_path, tuning=search)
    run(tmp_path, tuning={**search, "trials": 1})


def test_devices_are_those_among_the_visible_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices_of(Where()) == ["0", "1"]
    assert devices_of(Where(device="cuda:1")) == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 3")
    assert devices_of(Where()) == ["5", "3"]
    assert devices_of(Where(device="cuda:1")) == ["3"]
    with pytest.raises(ConfigurationError, match="there are cuda:0, cuda:1"):
        devices_of(Where(device="cuda:3"))


def test_minutes_are_steps_of_a_network_whatever_its_arm_is_called(tmp_path: Path) -> None:
    ledger, study = Ledger(tmp_path / "study.db"), load_study(write_study(tmp_path))
    arms = arms_of(study)

    def steps(seconds: float, minutes: float = 1.0) -> list[list[int]]:
        cost = {"step_seconds": seconds, "load_seconds": 0.0}
        costs = {arm.name: {"networks": [cost] * len(arm.networks)} for arm in arms}
        return list(settled_steps(arms, costs, minutes, ledger).values())

    first = steps(0.5)
    assert first == [[120, 120, 120], [120], [120]]
    arms = tuple(replace(arm, name=f"another {arm.name}") for arm in arms)
    assert steps(0.1) == first  # measured again, under other names
    assert steps(0.5, minutes=2.0) == [[240, 240, 240], [240], [240]]
    arms = arms_of(load_study(write_study(tmp_path, overrides={"optimizer.lr": 0.5})))
    assert steps(1.0) == [[60, 60, 60], [60], [60]]
    ledger.close()


def row(name: str, state: State, **keys: Any) -> Row:
    usual: dict[str, Any] = {
        "kind": "run", "folder": name, "owner": None, "heartbeat": None, "attempts": 1, "error": "",
        "seconds": None, "result": {},
    }  # fmt: skip
    return Row(identity=name, state=state, **{**usual, **keys})


def snapshot(*rows: Row) -> Snapshot:
    runs = {
        r.identity: Planned(
            job=Job(identity=r.identity, call="train", arguments={}),
            kind="run",
            place=Place(arm=r.identity),
            folder=Path(),
        )
        for r in rows
    }
    return Snapshot(planned=runs, rows={r.identity: r for r in rows}, expected=len(rows), running={})


def test_the_time_left_is_at_least_that_of_the_longest_run() -> None:
    few = snapshot(row("a", "waiting"), row("b", "waiting"))
    assert remaining(few, {"a": 100.0, "b": 20.0}, slots=8) == 100.0
    assert remaining(few, {"a": 100.0, "b": 20.0}, slots=1) == 120.0


def test_the_rest_of_an_interrupted_run_says_nothing_of_how_long_runs_take() -> None:
    rest = row("a", "finished", seconds=5.0, result={"train_seconds": 180.0})
    assert remaining(snapshot(rest, row("b", "waiting")), {"a": 100.0, "b": 100.0}, slots=1) == 100.0
    whole = row("a", "finished", seconds=200.0, result={"train_seconds": 180.0})
    assert remaining(snapshot(whole, row("b", "waiting")), {"a": 100.0, "b": 100.0}, slots=1) == 200.0


def test_status_says_that_costs_are_being_measured(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "study.db")
    kind: Kind = "measurement"
    ledger.add([("measurement-1", kind, ".", None)], finished=set())
    assert ledger.claim("measurement-1")
    _, said = read_status(tmp_path)
    assert "what arms cost is being measured" in said
    assert any(sentence.startswith("carried out by process") for sentence in said)
    assert not any("nobody" in sentence for sentence in said)
    ledger.close()


def test_a_scheduler_never_takes_its_own_runs_for_those_of_a_dead_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("plait.study.ledger.is_dead", lambda *_: True)  # as after a leap of the clock
    ledger, other = Ledger(tmp_path / "study.db"), Ledger(tmp_path / "study.db")
    ledger.add([("run", "run", "runs/a", Place(arm="a"))], finished=set())
    assert ledger.claim("run")
    assert ledger.recover() == []
    assert other.recover() == ["run"]
    ledger.close()
    other.close()
