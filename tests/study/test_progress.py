"""What a person sees while a study runs: what is done, what runs, and how long it will take."""

import io
import json
from pathlib import Path

from rich.console import Console

from plait.study.executors.base import Job
from plait.study.ledger import Place, Row, State
from plait.study.progress import Display, picture, remaining, table
from plait.study.schedule import Planned, Snapshot


def snapshot(folder: Path, states: dict[str, State], *, seconds: float | None = None) -> Snapshot:
    planned, rows = {}, {}
    for number, (name, state) in enumerate(states.items()):
        place = Place(
            arm="MTL" if number % 2 else "single-task", task="" if number % 2 else "depth", seed=number
        )
        planned[name] = Planned(
            job=Job(identity=name, call="train", arguments={}), kind="run", place=place, folder=folder / name
        )
        rows[name] = Row(
            identity=name,
            kind="run",
            folder=name,
            state=state,
            owner=None,
            heartbeat=None,
            attempts=1,
            error="",
            seconds=seconds if state == "finished" else None,
            result={},
        )
    return Snapshot(planned=planned, rows=rows, expected=len(planned), running={})


def printed(made: object) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(made)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_each_arm_has_a_line_with_what_is_done_failed_and_running(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "log.jsonl").write_text(json.dumps({"step": 40}) + "\n")
    states: dict[str, State] = {"a": "finished", "b": "failed", "c": "running", "d": "waiting"}
    text = printed(table(snapshot(tmp_path, states)))
    single, shared = text.splitlines()[1:3]
    assert single.startswith("single-task")
    assert "1/2" in single
    assert "seed 2 depth: step 40" in single
    assert "0/2, 1 failed" in shared


def test_time_left_is_the_measured_one_corrected_by_what_runs_took(tmp_path: Path) -> None:
    states: dict[str, State] = {"a": "finished", "b": "waiting", "c": "waiting", "d": "waiting"}
    seconds = dict.fromkeys(states, 60.0)
    assert remaining(snapshot(tmp_path, states, seconds=60.0), seconds, slots=1) == 180.0
    assert remaining(snapshot(tmp_path, states, seconds=120.0), seconds, slots=2) == 180.0
    done = snapshot(tmp_path, dict.fromkeys(states, "finished"), seconds=60.0)
    assert remaining(done, seconds, slots=2) == 0.0


def test_trials_that_are_not_known_yet_take_time_too(tmp_path: Path) -> None:
    found = snapshot(tmp_path, {"a": "finished", "b": "waiting"}, seconds=10.0)
    more = Snapshot(planned=found.planned, rows=found.rows, expected=6, running={})
    assert remaining(more, {"a": 10.0, "b": 10.0}, slots=1) == 50.0


def test_the_line_below_says_how_much_is_left(tmp_path: Path) -> None:
    found = snapshot(tmp_path, {"a": "finished", "b": "waiting"}, seconds=600.0)
    assert "1 of 2 runs, about 10 min left" in printed(picture(found, {"a": 600.0, "b": 600.0}, 1))


def test_without_a_terminal_each_run_that_ends_is_a_line(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=80)
    with Display(console) as display:
        display.update(snapshot(tmp_path, {"a": "running"}))
        display.say("MTL, seed 0 finished in 3 s")
    file = console.file
    assert isinstance(file, io.StringIO)
    assert file.getvalue() == "MTL, seed 0 finished in 3 s\n"
