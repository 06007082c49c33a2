"""The pool: jobs run on cores and devices of their own, deaths are noticed, nothing outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plait.errors import ConfigurationError
from plait.study.executors.base import Job, Outcome
from plait.study.executors.pool import Pool
from plait.study.perform import usable_cores

ROOT = Path(__file__).parents[3]
TOY = "tests.study.executors.toy_worker"
PATIENCE = 60
MakePool = Callable[..., Pool]


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[MakePool]:
    pools = []

    def make(slots: int, devices: tuple[str, ...] = (), cores: list[int] | None = None) -> Pool:
        cores = usable_cores() if cores is None else cores
        pools.append(Pool(slots, cores=cores, devices=devices, logs=tmp_path / "logs", worker=TOY))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def job(name: str, do: str = "tell", processes: int = 1, **arguments: Any) -> Job:
    return Job(identity=name, call="train", arguments={"do": do, **arguments}, processes=processes)


def outcomes(pool: Pool, number: int) -> dict[str, Outcome]:
    """So many outcomes, by the job's name."""
    found: dict[str, Outcome] = {}
    until = time.monotonic() + PATIENCE
    while len(found) < number and time.monotonic() < until:
        found |= {outcome.identity: outcome for outcome in pool.wait(1)}
    assert len(found) == number
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not yet asked for its code does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_ends(pid: int) -> None:
    until = time.monotonic() + PATIENCE
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.01)
    assert not alive(pid)


def test_a_process_computes_one_job_after_another(make_pool: MakePool) -> None:
    pool = make_pool(1)
    assert pool.wait(0) == []
    pids = set()
    for number in range(3):
        assert pool.has_room(job("a"))
        pool.submit(job(f"job {number}"))
        assert not pool.has_room(job("a"))
        told = outcomes(pool, 1)[f"job {number}"]
        assert told.state == "finished"
        pids.add(told.result["pid"])
    assert len(pids) == 1


def test_a_failure_is_answered_with_its_sentence_and_the_process_goes_on(make_pool: MakePool) -> None:
    pool = make_pool(1)
    pool.submit(job("a"))
    before = outcomes(pool, 1)["a"].result["pid"]
    pool.submit(job("b", "fail"))
    told = outcomes(pool, 1)["b"]
    assert (told.state, told.error) == ("failed", "expected two tasks, got one: add one")
    pool.submit(job("c"))
    assert outcomes(pool, 1)["c"].result["pid"] == before


@pytest.mark.parametrize(
    ("do", "how"),
    [("die", "ended by SIGKILL"), ("exit", "ended with code 3"), ("fork", "ended by SIGKILL")],
)
def test_a_process_that_ends_loses_its_job_and_is_replaced(make_pool: MakePool, do: str, how: str) -> None:
    pool = make_pool(1)
    pool.submit(job("a", do))
    told = outcomes(pool, 1)["a"]
    assert told.state == "lost"
    assert how in told.error
    assert pool.has_room(job("a"))
    pool.submit(job("a"))
    assert outcomes(pool, 1)["a"].state == "finished"


def test_a_process_that_ended_while_idle_is_replaced(make_pool: MakePool) -> None:
    pool = make_pool(1)
    pool.submit(job("a"))
    pid = outcomes(pool, 1)["a"].result["pid"]
    os.kill(pid, signal.SIGKILL)
    assert_ends(pid)
    assert pool.wait(0.1) == []
    pool.submit(job("b"))
    assert outcomes(pool, 1)["b"].result["pid"] != pid


def test_a_death_costs_the_other_processes_nothing(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(2)
    pool.submit(job("dies", "die"))
    pool.submit(job("works", until=str(tmp_path / "go")))
    assert outcomes(pool, 1)["dies"].state == "lost"
    (tmp_path / "go").touch()
    assert outcomes(pool, 1)["works"].state == "finished"


def test_what_libraries_print_goes_to_the_log(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool(1)
    pool.submit(job("a", "print"))
    assert outcomes(pool, 1)["a"].state == "finished"
    log = (tmp_path / "logs" / "worker-0.txt").read_text()
    assert {"a library prints", "and so does a program", "and complains"} <= set(log.splitlines())


def test_an_answer_longer_than_a_pipe_holds_arrives_whole(make_pool: MakePool) -> None:
    pool = make_pool(1)
    pool.submit(job("a", length=2**20))
    assert outcomes(pool, 1)["a"].result["padding"] == "x" * 2**20


@pytest.mark.skipif(len(usable_cores()) < 2, reason="needs two cores")
def test_processes_are_kept_to_cores_that_they_do_not_share(make_pool: MakePool) -> None:
    cores = usable_cores()
    pool = make_pool(2)
    pool.submit(job("a"))
    pool.submit(job("b"))
    told = outcomes(pool, 2)
    first, second = (told[name].result["affinity"] for name in "ab")
    assert sorted(first + second) == cores
    assert {told[name].result["threads"] for name in "ab"} <= {str(len(first)), str(len(second))}


@pytest.mark.skipif(len(usable_cores()) < 2, reason="needs two cores")
def test_a_job_of_two_processes_borrows_a_slot_with_its_cores(make_pool: MakePool) -> None:
    pool = make_pool(2)
    two = job("two", processes=2)
    pool.submit(job("one"))
    assert not pool.has_room(two)
    assert pool.has_room(job("another"))
    outcomes(pool, 1)
    assert pool.has_room(two)
    pool.submit(two)
    assert not pool.has_room(job("another"))
    assert outcomes(pool, 1)["two"].result["cores"] == usable_cores()
    pool.submit(job("another"))
    assert pool.has_room(job("one more"))
    assert outcomes(pool, 1)["another"].state == "finished"


def test_a_lost_job_of_two_processes_gives_the_slot_back(make_pool: MakePool) -> None:
    pool = make_pool(2)
    pool.submit(job("two", "die", processes=2))
    assert outcomes(pool, 1)["two"].state == "lost"
    assert pool.has_room(job("two", processes=2))


def test_slots_share_the_devices_and_a_job_of_two_processes_has_two_of_them(
    make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool(4, devices=("0", "1"))
    for name, until in zip("abcd", ("/", str(tmp_path / "go")) * 2, strict=True):
        pool.submit(job(name, until=until))
    told = outcomes(pool, 2)
    assert [told[name].result["visible"] for name in ("a", "c")] == ["0", "0"]
    two = job("two", processes=2)
    assert not pool.has_room(two)  # two slots are idle, but on the same device
    (tmp_path / "go").touch()
    assert {end.result["visible"] for end in outcomes(pool, 2).values()} == {"1"}
    assert pool.has_room(two)
    pool.submit(two)
    assert outcomes(pool, 1)["two"].result["devices"] == ["0", "1"]


def test_an_idle_device_comes_before_one_that_is_busy(make_pool: MakePool) -> None:
    pool = make_pool(4, devices=("0", "1"))
    for name, until in zip("abcd", ("/never", "/", "/", "/"), strict=True):
        pool.submit(job(name, until=until))
    outcomes(pool, 3)
    pool.submit(job("e"))
    assert outcomes(pool, 1)["e"].result["visible"] == "1"


def test_after_a_failure_on_an_accelerator_its_process_is_replaced(make_pool: MakePool) -> None:
    pool = make_pool(1, devices=("0",))
    pool.submit(job("a"))
    before = outcomes(pool, 1)["a"].result["pid"]
    pool.submit(job("b", "fail"))
    assert outcomes(pool, 1)["b"].state == "failed"
    assert not alive(before)
    pool.submit(job("c"))
    assert outcomes(pool, 1)["c"].state == "finished"


@pytest.mark.parametrize(
    ("slots", "devices", "sentence"),
    [(1, (), "needs as many slots, but there is 1: raise --jobs"), (2, ("0",), "a device for each")],
)
def test_a_job_that_never_fits_is_refused(
    make_pool: MakePool, slots: int, devices: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        make_pool(slots, devices).submit(job("two", processes=2))


def test_a_pool_without_slots_is_refused(make_pool: MakePool) -> None:
    with pytest.raises(ConfigurationError, match="at least 1, got 0"):
        make_pool(0)


def test_closing_ends_processes_at_once_idle_or_not(make_pool: MakePool) -> None:
    pool = make_pool(2)
    pool.submit(job("a"))
    pool.submit(job("b", until="/never"))
    idle = outcomes(pool, 1)["a"].result["pid"]
    busy = next(slot.process.pid for slot in pool.places if slot.process is not None and slot.job is not None)
    pool.close()
    assert not alive(idle)
    assert not alive(busy)
    pool.close()


PARENT = f"""
import sys, time
from pathlib import Path
from plait.study.executors.base import Job
from plait.study.executors.pool import Pool

pool = Pool(2, cores=[], devices=[], logs=Path(sys.argv[1]), worker="{TOY}")
pool.submit(Job(identity="a", call="train", arguments={{"do": "tell"}}))
pool.wait(60)
pool.submit(Job(identity="b", call="train", arguments={{"do": "tell", "until": "/never"}}))
pool.submit(Job(identity="c", call="train", arguments={{"do": "tell", "until": "/never"}}))
print(*[slot.process.pid for slot in pool.places], flush=True)
time.sleep(100)
"""


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(alive(pid) for pid in pids)
    parent.kill()
    parent.wait()
    for pid in pids:
        assert_ends(pid)
