"""Processes are counted so that a small or shared machine does not thrash."""

from pathlib import Path

import pytest

from plait.study import cores


def test_there_is_always_room_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "available_memory", lambda: 10)
    assert cores.most_processes() == 1


def test_a_container_s_quota_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "container_cores", lambda: 1.5)
    assert cores.usable_cores() == 1
    monkeypatch.setattr(cores, "container_cores", lambda: 0.2)
    assert cores.usable_cores() == 1


def test_memory_bounds_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: 64)
    monkeypatch.setattr(cores, "available_memory", lambda: 7 * 2**30)
    assert cores.most_processes() == 3


def test_without_a_proc_file_system_all_cores_count_as_idle(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cores, "STAT", tmp_path / "none")
    assert cores.IdleCores().look() == cores.usable_cores()


def test_idle_cores_are_measured_between_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, idle = iter([10.0, 12.0, 14.0]), iter([100.0, 103.0, 103.0])
    monkeypatch.setattr(cores.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(cores, "idle_seconds", lambda: next(idle))
    meter = cores.IdleCores()
    assert (meter.look(), meter.look()) == (1.5, 0.0)
