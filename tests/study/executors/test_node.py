"""What a machine of a cluster checks before it computes, and that jobs on it do not share cores."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from plait.study.executors import node
from plait.study.executors.base import Job
from plait.study.executors.node import Requests, compute, own_cores
from plait.study.perform import usable_cores

ROOT = Path(__file__).parents[3]
JOB = Job(identity="a", call="train", arguments={"recipe": "model: {backbone: 3}", "folder": "run"})
TWO_CORES = pytest.mark.skipif(len(usable_cores()) < 2, reason="needs two cores")


@pytest.fixture(autouse=True)
def _own_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests, and studies, of this machine take cores too."""
    monkeypatch.setattr(node.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in (*node.THREADS, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


def test_a_job_is_computed_where_the_folder_is_seen(tmp_path: Path) -> None:
    requests = Requests(tmp_path / "study")
    told = compute(requests.make(JOB, cores=1))
    assert (told["identity"], told["state"]) == ("a", "failed")
    assert "backbone" in told["error"]  # so it has been tried
    assert os.environ["OMP_NUM_THREADS"] == "1"
    requests.close()
    assert list((tmp_path / "study").iterdir()) == []


def test_accelerators_can_be_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Requests(tmp_path / "study")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    compute(requests.make(JOB, cores=1))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    compute(requests.make(JOB, cores=1, hide_accelerators=True))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mark": "/nowhere/study/.seen-1"}, "does not see /nowhere/study as the one that schedules does"),
        ({"version": "0.0.1"}, "and the one that schedules has 0.0.1: install the same"),
    ],
)
def test_a_machine_that_cannot_work_for_the_study_stops_it(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    told = compute({**Requests(tmp_path / "study").make(JOB, cores=1), **changes})
    assert told["state"] == "stopped"
    assert f"the machine {socket.gethostname()}" in told["error"]
    assert sentence in told["error"]


def test_two_schedulers_of_one_study_do_not_disturb_each_other(tmp_path: Path) -> None:
    first, second = Requests(tmp_path), Requests(tmp_path)
    second.close()
    assert compute(first.make(JOB, cores=1))["state"] == "failed"


@TWO_CORES
def test_jobs_at_the_same_time_have_cores_of_their_own() -> None:
    everything = usable_cores()
    with own_cores(1) as first:
        assert usable_cores() == first == everything[:1]
        os.sched_setaffinity(0, everything)  # another process would start with all of them
        with own_cores(1) as second:
            assert usable_cores() == second == everything[1:2]
        os.sched_setaffinity(0, everything)
        with own_cores(len(everything)) as rest:  # more than are free
            assert usable_cores() == rest == everything
    assert usable_cores() == everything
    with own_cores(len(everything)) as now:
        assert now == everything


@TWO_CORES
def test_threads_that_libraries_have_started_move_too() -> None:
    go, ready = threading.Event(), threading.Event()

    def wait() -> None:
        ready.set()
        go.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait()
    assert thread.native_id is not None
    try:
        with own_cores(1) as cores:
            assert sorted(os.sched_getaffinity(thread.native_id)) == cores
        assert sorted(os.sched_getaffinity(thread.native_id)) == usable_cores()
    finally:
        go.set()
        thread.join()


def test_cores_are_free_again_when_their_process_has_been_killed(tmp_path: Path) -> None:
    code = (
        "import sys, tempfile; tempfile.gettempdir = lambda: sys.argv[1]\n"
        "from plait.study.executors.node import own_cores\n"
        "with own_cores(1) as cores:\n"
        "    print(*cores, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = [int(core) for core in other.stdout.readline().split()]
        with own_cores(1) as cores:
            assert cores != theirs or len(usable_cores()) == 1
        other.kill()
        other.wait()
        with own_cores(1) as cores:
            assert cores == theirs
