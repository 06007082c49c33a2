"""A job, performed: its scores, or the sentence of what went wrong; in one process and in two."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.processes import run_both

from plait.config import dump, parse
from plait.errors import DiskFullError
from plait.study import perform as module
from plait.study.executors.base import Job, Outcome
from plait.study.perform import perform
from plait.testing import write_tiny_rooms
from plait.training import checkpoint, fit
from plait.training.run import load_run

MakeJob = Callable[..., Job]
PATIENCE = 120


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_rooms(tmp_path_factory.mktemp("rooms"), images=(6, 3, 3), size=(32, 48))


@pytest.fixture
def make_job(rooms: Path, tmp_path: Path) -> MakeJob:
    """A job that trains in a moment: ``make_job("run", steps=3, **{"decoder": "mti_net"})``."""

    def make(name: str, *, steps: int = 2, processes: int = 1, lr: float = 5e-4, **model: Any) -> Job:
        tree = {
            "data": {"root": str(rooms)},
            "tasks": {"semantic": {"kind": "semantic", "classes": 20}, "depth": {"kind": "depth"}},
            "model": {
                "backbone": "test_resnet",
                "pretrained": False,
                "frozen_norm": True,  # its statistics are of a process's share of the batch
                "decoder": {"name": "independent", "head": "linear"},
                **model,
            },
            "optimizer": {"lr": lr},
            "schedule": {"warmup_steps": 0},
            "augmentation": {"size": [32, 32]},
            "training": {
                "steps": steps,
                "batch_size": 4,
                "checkpoint_every": min(steps, 20),
                "log_every": 1,
                "threads": 1,
            },
        }
        folder = str(tmp_path / name)
        recipe = dump(parse(tree))
        return Job(
            identity=name,
            call="train",
            arguments={"recipe": recipe, "folder": folder},
            processes=processes,
        )

    return make


def scores(outcome: Outcome) -> Mapping[str, Mapping[str, float]]:
    assert outcome.state == "finished", outcome.error
    found: Mapping[str, Mapping[str, float]] = outcome.result["scores"]
    return found


def test_a_finished_job_has_scores_times_and_memory_as_json_holds_them(make_job: MakeJob) -> None:
    job = make_job("a")
    told = perform(job)
    assert (told.identity, told.state, told.error) == ("a", "finished", "")
    assert scores(told)["depth"]["rmse"] == load_run(job.arguments["folder"]).scores["depth"]["rmse"]
    assert told.seconds > told.result["train_seconds"] > 0
    assert told.result["peak_memory"]["processor"] > 2**20
    assert Outcome(**json.loads(json.dumps(asdict(told)))) == told


def test_a_finished_run_is_answered_again_without_training(make_job: MakeJob) -> None:
    first = perform(make_job("a"))
    before = Path(make_job("a").arguments["folder"], "log.jsonl").stat().st_mtime_ns
    again = perform(make_job("a"))
    assert scores(again) == scores(first)
    assert again.result["train_seconds"] == first.result["train_seconds"]
    assert Path(make_job("a").arguments["folder"], "log.jsonl").stat().st_mtime_ns == before


def test_what_the_recipe_gets_wrong_is_told_in_its_sentence(make_job: MakeJob) -> None:
    told = perform(make_job("a", backbone="resnet8"))
    assert told.state == "failed"
    assert "unknown backbone" in told.error
    assert "\n" not in told.error


def test_a_loss_that_becomes_nan_fails_the_run(make_job: MakeJob) -> None:
    told = perform(make_job("a", steps=8, lr=1e30, frozen_norm=False))
    assert told.state == "failed"
    assert "not finite" in told.error or "NaN" in told.error or "nan" in told.error


def test_a_full_disk_stops_the_study(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: Any) -> None:
        raise DiskFullError("the disk is full: the checkpoint needs 3 MB")

    monkeypatch.setattr(checkpoint, "write", write)
    told = perform(make_job("a"))
    assert (told.state, told.error) == ("stopped", "the disk is full: the checkpoint needs 3 MB")


@pytest.mark.parametrize(
    ("error", "state", "sentence"),
    [
        (KeyError("depth\nmap"), "failed", "KeyError: 'depth\\nmap'"),
        (ValueError("two\nlines"), "failed", "ValueError: two lines"),
        (MemoryError("8 GB"), "failed", "out of memory: 8 GB"),
        (RuntimeError("gloo/pair.cc:1] Connection closed by peer"), "lost", "Connection closed"),
    ],
)
def test_an_error_of_any_kind_is_an_outcome(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, error: Exception, state: str, sentence: str
) -> None:
    def train(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(fit, "train", train)
    told = perform(make_job("a"))
    assert told.state == state
    assert sentence in told.error


def test_a_job_of_a_call_that_is_not_known_fails(make_job: MakeJob) -> None:
    told = perform(Job(identity="a", call="os:system", arguments={}))  # type: ignore[arg-type]
    assert told.state == "failed"
    assert set(module.CALLS) == {"train", "measure"}


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = module.usable_cores()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    assert module.usable_cores() == before


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_processes_train_the_run_that_one_does(make_job: MakeJob) -> None:
    one = perform(make_job("one", steps=4))
    two = perform(make_job("two", steps=4, processes=2), cores=module.usable_cores())
    assert scores(two).keys() == scores(one).keys() == {"semantic", "depth"}
    for task, numbers in scores(one).items():
        assert scores(two)[task] == pytest.approx(numbers, rel=1e-3), task
    for name in ("one", "two"):
        run = load_run(Path(make_job(name).arguments["folder"]))
        assert run.environment["processes"] == {"one": 1, "two": 2}[name]
        for task, numbers in run.evaluate().items():
            assert run.scores[task] == pytest.approx(numbers, rel=1e-6), task


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_of_two_processes_the_one_that_fails_is_quoted(make_job: MakeJob) -> None:
    assert perform(make_job("a")).state == "finished"
    told = perform(make_job("a", steps=3, processes=2))
    assert told.state == "failed"
    assert "holds a run of another recipe" in told.error


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("rank", [0, 1])
def test_if_one_of_two_processes_is_killed_the_job_is_lost_and_goes_on_when_tried_again(
    make_job: MakeJob, rank: int, tmp_path: Path
) -> None:
    job = make_job("a", steps=60, processes=2)
    with subprocess.Popen(
        [sys.executable, "-c", PERFORM, json.dumps(asdict(job))], stdout=subprocess.PIPE, text=True
    ) as starter:
        found = wait_for_ranks(starter.pid, tmp_path / "a")
        os.kill(found[rank], signal.SIGKILL)
        answer, _ = starter.communicate(timeout=PATIENCE)
    told = Outcome(**json.loads(answer.splitlines()[-1]))
    assert told.state == "lost", told
    assert_gone(list(found.values()))
    assert len(scores(perform(job))) == 2
    log = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log if "loss" in row] == list(range(1, 61))


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_processes_end_with_the_one_that_started_them(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job("a", steps=10**6, processes=2)
    starter = subprocess.Popen([sys.executable, "-c", PERFORM, json.dumps(asdict(job))])
    found = wait_for_ranks(starter.pid, tmp_path / "a")
    starter.kill()
    starter.wait()
    assert_gone(list(found.values()))


PERFORM = """
import json, sys
from dataclasses import asdict
from plait.study.executors.base import Job
from plait.study.perform import perform
print(json.dumps(asdict(perform(Job(**json.loads(sys.argv[1]))))))
"""


def wait_for_ranks(pid: int, run: Path) -> dict[int, int]:
    """``{rank: process}`` of a job that a process has started, once it trains."""
    until = time.monotonic() + PATIENCE
    while not (run / "checkpoints" / "last").exists() and time.monotonic() < until:
        time.sleep(0.05)
    children = psutil.Process(pid).children(recursive=True)
    return {
        int(child.environ()["RANK"]): child.pid
        for child in children
        if "plait.study.perform" in child.cmdline() and "torch.distributed.run" not in child.cmdline()
    }


def assert_gone(pids: list[int]) -> None:
    """Processes have ended, or do so soon."""
    assert len(pids) == 2
    gone, left = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], PATIENCE)
    assert not left, gone


SLOW_DISK = """
import os, sys, time
os.environ.update(RANK=sys.argv[1], LOCAL_RANK=sys.argv[1], WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
os.environ["MASTER_PORT"] = open(sys.argv[2] + "/port").read()
from plait.config import load_recipe
from plait.training import checkpoint
from plait.training.fit import train
from plait.training.processes import leave

write = checkpoint.write

def write_slowly(*arguments):
    time.sleep(1)
    write(*arguments)

checkpoint.write = write_slowly
train(load_recipe(sys.argv[2] + "/recipe.yaml"), sys.argv[2] + "/run", progress=False)
leave()
"""


@pytest.mark.slow
def test_two_processes_score_the_weights_that_were_written_last(make_job: MakeJob, tmp_path: Path) -> None:
    """However long writing them takes the one that does."""
    from torch.distributed import TCPStore

    (tmp_path / "recipe.yaml").write_text(make_job("run", steps=22, frozen_norm=False).arguments["recipe"])
    probe = TCPStore("127.0.0.1", 0, is_master=True)
    (tmp_path / "port").write_text(str(probe.port))
    del probe
    run_both(["-c", SLOW_DISK], tmp_path)
    run = load_run(tmp_path / "run")
    for task, numbers in run.evaluate().items():
        assert run.scores[task] == pytest.approx(numbers, rel=1e-6), task
