"""SLURM, through submitit's stand-in for it on this machine, and through commands that answer like its."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from tests.study.executors import fake_slurm

from plait.errors import ConfigurationError, MissingExtraError, PlaitError
from plait.study.executors import slurm
from plait.study.executors.base import Job, Outcome
from plait.study.executors.slurm import SlurmExecutor

pytest.importorskip("submitit")

PATIENCE = 60
MakeExecutor = Callable[..., SlurmExecutor]


def bad_job(name: str, processes: int = 1) -> Job:
    """A job that fails by itself at once, before it imports torch."""
    return Job(identity=name, call="dance", arguments={}, processes=processes)  # type: ignore[arg-type]


def wait_for_one(executor: SlurmExecutor) -> Outcome:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if found := list(executor.wait(1)):
            (outcome,) = found
            return outcome
    raise AssertionError("no job ended")


@pytest.fixture
def local(tmp_path: Path) -> Iterator[SlurmExecutor]:
    made = SlurmExecutor(tmp_path / "logs", folder=tmp_path, jobs=2, cluster="local")
    yield made
    made.close()


@pytest.mark.slow
def test_a_job_s_own_error_comes_back_as_its_sentence(local: SlurmExecutor) -> None:
    local.submit(bad_job("a"))
    outcome = wait_for_one(local)
    assert (outcome.identity, outcome.state, outcome.error) == ("a", "failed", "KeyError: 'dance'")
    assert local.has_room(bad_job("b"))


@pytest.mark.slow
def test_a_job_whose_process_is_killed_is_lost(local: SlurmExecutor) -> None:
    local.submit(bad_job("a"))
    handle = local.submitted["a"].handle
    for process in [*psutil.Process(handle._process.pid).children(recursive=True), handle._process]:
        process.kill()
    outcome = wait_for_one(local)
    assert (outcome.identity, outcome.state) == ("a", "lost")
    assert "ended without an answer" in outcome.error


@pytest.mark.slow
def test_close_cancels_what_runs(local: SlurmExecutor) -> None:
    local.submit(bad_job("a"))
    local.submit(bad_job("b"))
    assert not local.has_room(bad_job("c"))
    processes = [submitted.handle._process for submitted in local.submitted.values()]
    local.close()
    for process in processes:
        process.wait(timeout=60)
    assert local.submitted == {}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a fake SLURM, whose commands are found first."""
    folder = tmp_path / "slurm"
    monkeypatch.setenv("PATH", f"{fake_slurm.install(folder)}:{os.environ['PATH']}")
    from submitit.slurm.slurm import SlurmInfoWatcher, SlurmJob

    monkeypatch.setattr(SlurmJob, "watcher", SlurmInfoWatcher(delay_s=600))  # numbers of jobs come again here
    monkeypatch.setattr(slurm, "PAUSE", 0.05)
    monkeypatch.setattr(slurm, "ASK", 0.2)
    monkeypatch.setattr(slurm, "GRACE", 0.5)
    return folder


@pytest.fixture
def make(tmp_path: Path, cluster: Path) -> Iterator[MakeExecutor]:
    made: list[SlurmExecutor] = []

    def make(**options: str) -> SlurmExecutor:
        options = {"timeout_min": "600", **options}
        study = tmp_path / "study"
        made.append(SlurmExecutor(study / "logs", folder=study, jobs=2, options=options))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


def test_slurm_computes_a_job_with_the_options_given(make: MakeExecutor, cluster: Path) -> None:
    executor = make(
        partition="gpu", cpus_per_task="4", gpus_per_node="1", time="1-00:00:00", exclusive="true"
    )
    executor.submit(bad_job("a"))
    assert wait_for_one(executor).error == "KeyError: 'dance'"
    script = (cluster / "1.sh").read_text()
    for line in ("partition=gpu", "cpus-per-task=4", "gpus-per-node=1", "time=1-00:00:00", "exclusive"):
        assert f"#SBATCH --{line}\n" in script
    assert "#SBATCH --job-name=plait-a\n" in script
    assert not [line for line in script.splitlines() if line.startswith("srun")]


def test_a_run_of_two_processes_is_one_job_with_twice_the_cores_and_devices(
    make: MakeExecutor, cluster: Path
) -> None:
    (cluster / "hold").touch()
    executor = make(cpus_per_task="4", gpus_per_node="1")
    executor.submit(bad_job("a", processes=2))
    script = (cluster / "1.sh").read_text()
    assert "#SBATCH --cpus-per-task=8\n" in script
    assert "#SBATCH --gpus-per-node=2\n" in script
    assert executor.has_room(bad_job("b"))
    executor.submit(bad_job("b"))
    assert not executor.has_room(bad_job("c"))


@pytest.mark.parametrize("state", ["NODE_FAIL", "TIMEOUT", "PREEMPTED", "CANCELLED by 0"])
def test_a_job_that_slurm_ends_is_lost(make: MakeExecutor, cluster: Path, state: str) -> None:
    (cluster / "hold").touch()
    executor = make()
    executor.submit(bad_job("a"))
    assert executor.wait(0.3) == []
    fake_slurm.set_state(cluster, "1", state)
    outcome = wait_for_one(executor)
    assert (outcome.identity, outcome.state) == ("a", "lost")
    assert outcome.error == f"job 1 of SLURM ended without an answer ({state.lower()})"
    assert executor.has_room(bad_job("b"))


@pytest.mark.parametrize("state", ["SUSPENDED", "REQUEUED"])
def test_a_job_that_may_go_on_is_waited_for(make: MakeExecutor, cluster: Path, state: str) -> None:
    (cluster / "hold").touch()
    executor = make()
    executor.submit(bad_job("a"))
    fake_slurm.set_state(cluster, "1", state)
    assert executor.wait(1) == []
    fake_slurm.set_state(cluster, "1", "FAILED")
    assert wait_for_one(executor).state == "lost"


@pytest.mark.parametrize("state", ["PREEMPTED", "NODE_FAIL"])
def test_a_job_that_slurm_queues_again_is_waited_for(
    make: MakeExecutor, cluster: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr(slurm, "GRACE", 10 * PATIENCE)
    (cluster / "hold").touch()
    executor = make()
    executor.submit(bad_job("a"))
    fake_slurm.set_state(cluster, "1", state)
    until = time.monotonic() + PATIENCE
    while executor.submitted["a"].gone is None and time.monotonic() < until:
        assert executor.wait(0.1) == []
    fake_slurm.set_state(cluster, "1", "PENDING")
    while executor.submitted["a"].gone is not None and time.monotonic() < until:
        assert executor.wait(0.1) == []
    assert executor.submitted["a"].gone is None


def test_slurm_is_asked_about_all_jobs_at_once(make: MakeExecutor, cluster: Path) -> None:
    (cluster / "hold").touch()
    executor = make()
    executor.submit(bad_job("a"))
    executor.submit(bad_job("b"))
    executor.wait(1)
    assert {*(cluster / "asked").read_text().splitlines()[-1].split()} >= {"1", "2"}


def test_a_node_that_cannot_compute_stops_the_study(
    make: MakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = make()
    monkeypatch.setattr(executor.requests, "make", lambda *_, **__: {})
    executor.submit(bad_job("a"))
    outcome = wait_for_one(executor)
    assert outcome.state == "stopped"
    assert (
        outcome.error
        == "a node of SLURM cannot compute for this study (KeyError: 'job'): install plait there"
    )


def test_a_job_that_slurm_refuses_is_told_in_its_words(make: MakeExecutor, cluster: Path) -> None:
    (cluster / "refuse").touch()
    executor = make()
    with pytest.raises(PlaitError, match=r"invalid partition specified: moon.* options of --slurm"):
        executor.submit(bad_job("a"))


def test_closing_cancels_what_slurm_still_has(make: MakeExecutor, cluster: Path) -> None:
    (cluster / "hold").touch()
    executor = make()
    executor.submit(bad_job("a"))
    executor.close()
    assert fake_slurm.state(cluster, "1") == "CANCELLED by 0"
    executor.close()


def test_what_a_killed_scheduler_left_is_cancelled_by_the_next(make: MakeExecutor, cluster: Path) -> None:
    """Else a run would be trained by two jobs at a time."""
    (cluster / "hold").touch()
    killed = make()
    killed.submit(bad_job("a"))
    closed = make()  # it would find the first one's, too
    assert fake_slurm.state(cluster, "1") == "CANCELLED by 0"
    closed.submit(bad_job("a"))
    closed.close()
    fake_slurm.set_state(cluster, "2", "PENDING")
    make()
    assert fake_slurm.state(cluster, "2") == "PENDING"  # nobody's any more


def test_signals_end_a_job_instead_of_becoming_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    found: list[object] = []
    monkeypatch.setattr(slurm, "compute", lambda _: found.extend(map(signal.getsignal, numbers)) or {})
    try:
        slurm.work({})
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert found == [signal.SIG_DFL] * 3


@pytest.mark.parametrize(
    ("options", "jobs", "said"),
    [
        ({"partitoin": "gpu"}, None, r"no option 'partitoin' \(did you mean 'partition'\?\)"),
        ({"timeout_min": "long"}, None, "timeout_min must be a number, got 'long'"),
        ({"gpus_per_node": "1.5"}, None, "gpus_per_node must be a number, got '1.5'"),
        ({}, 0, "--jobs must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_refused(
    tmp_path: Path, options: dict[str, str], jobs: int | None, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        SlurmExecutor(tmp_path / "logs", folder=tmp_path, jobs=jobs, options=options, cluster="local")


@pytest.mark.usefixtures("cluster")
def test_slurm_must_know_how_long_a_run_may_take(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="add --slurm timeout_min=MINUTES"):
        SlurmExecutor(tmp_path / "logs", folder=tmp_path, options={"partition": "gpu"})


def test_a_machine_without_slurm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigurationError, match="this one has no srun"):
        SlurmExecutor(tmp_path / "logs", folder=tmp_path)


def test_without_submitit_the_command_that_installs_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MissingExtraError, match=r'pip install "plait\[slurm\]"'):
        SlurmExecutor(tmp_path / "logs", folder=tmp_path)
