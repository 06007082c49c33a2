"""SLURM computes a study's jobs, one job of its own for each, through submitit."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from plait.config import scalar
from plait.errors import ConfigurationError, MissingExtraError, PlaitError
from plait.registry import nearest
from plait.study.executors.base import Job, Outcome
from plait.study.executors.node import Requests, compute

JOBS = 16
"""How many jobs are with SLURM at a time, running or waiting for a place, unless the user says otherwise."""
PAUSE = 1.0
"""Seconds between looks for answers on the shared storage."""
ASK = 60.0
"""Seconds between questions to SLURM, one for all jobs: which of them have ended without an answer?"""
GRACE = 20.0
"""Seconds that an answer may come late: storage is slow to show it, or SLURM queues a preempted job again."""
ENDED = frozenset(
    {
        *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
        *("PREEMPTED", "REVOKED", "TIMEOUT"),
        *("FINISHED", "INTERRUPTED"),  # of submitit's stand-in for SLURM
    }
)
OURS = ("cpus_per_task", "gpus_per_node", "timeout_min", "mem_gb")
"""Options that every cluster of submitit has, all of them numbers; the others are SLURM's."""
COMMANDS = ("setup", "teardown", "srun_args")
"""Options that are lists of commands."""
OPEN = "open"
"""A file in the folder of a scheduler's jobs: some of them may not have ended."""
FOREVER = 10**5
"""Minutes of a job of this machine: submitit would end it after two."""


@dataclass
class Submitted:
    """A job that SLURM has.

    Attributes:
        job: Which.
        handle: What submitit knows of it.
        begun: When it was submitted (monotonic seconds).
        gone: When it was first seen to have ended without an answer; None while it has not.
    """

    job: Job
    handle: Any
    begun: float
    gone: float | None = None


class SlurmExecutor:
    """An :class:`plait.study.executors.base.Executor` on SLURM.

    SLURM's own queue decides when a job starts. One that ends without an answer (its node failed, it was
    preempted or cancelled, or its time was up) is reported as lost, and goes on from its last checkpoint when
    it is submitted again. What a scheduler that was killed has left in the queue is cancelled by the next one
    of the same study and machine, so that no run is trained twice at a time.

    Args:
        logs: Folder for what jobs print and for submitit's files.
        folder: The study's folder; all nodes must see it under the same name.
        jobs: How many jobs SLURM has at a time; None for 16.
        options: ``timeout_min``, the most minutes that a run may take; ``cpus_per_task`` and
            ``gpus_per_node`` for each process of a run; ``mem_gb``; and any option of ``sbatch`` that
            submitit knows, such as ``partition``, ``account``, ``qos``, ``constraint``.
        cluster: ``slurm``, or ``local`` for processes of this machine, to try it out.

    Raises:
        MissingExtraError: If submitit is not installed.
        ConfigurationError: If there is no SLURM here, an option is unknown or wrong, or none says how long
            a run may take.
    """

    def __init__(
        self,
        logs: Path,
        *,
        folder: Path,
        jobs: int | None = None,
        options: Mapping[str, str] | None = None,
        cluster: Literal["slurm", "local"] = "slurm",
    ) -> None:
        submitit = import_submitit()
        check_options(submitit, options or {})
        self.options = {key: value_of(key, text) for key, text in (options or {}).items()}
        if jobs is not None and jobs < 1:
            raise ConfigurationError(f"--jobs must be at least 1, got {jobs}")
        if cluster == "slurm" and submitit.SlurmExecutor.affinity() < 0:
            raise ConfigurationError(
                "--slurm needs a machine that can submit to SLURM, but this one has no srun: log in to one"
            )
        if cluster == "slurm" and not {"time", "timeout_min"} & self.options.keys():
            raise ConfigurationError(
                "SLURM must know how long a run may take at most: add --slurm timeout_min=MINUTES"
            )
        self.submitit = submitit
        self.cluster = cluster
        self.requests = Requests(folder)
        self.slots = jobs or JOBS
        where = "SLURM" if cluster == "slurm" else "submitit's processes on this machine"
        self.name = f"{where}, {self.slots} job{'s' * (self.slots != 1)} at a time"
        self.submitted: dict[str, Submitted] = {}
        self.asked = self.looked = time.monotonic()
        if cluster == "slurm":
            cancel_left(logs / "slurm")
        # A folder of its own: on one machine the numbers of processes, which are those of jobs, come again.
        session = logs.resolve() / "slurm" / f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        session.mkdir(parents=True)
        self.open = session / OPEN
        self.open.touch()
        self.executor = submitit.AutoExecutor(folder=session / "%j", cluster=cluster)

    def has_room(self, job: Job) -> bool:
        """Whether another job may be submitted."""
        return len(self.submitted) < self.slots

    def submit(self, job: Job) -> None:
        """Submits a job; a run of several processes is one job with as many times the cores and devices.

        Raises:
            PlaitError: If SLURM refuses it.
        """
        cores = int(self.options.get("cpus_per_task", 1)) * job.processes
        gpus = int(self.options.get("gpus_per_node", 0)) * job.processes
        # Without srun, one of whose settings tells accelerate that every process is alone.
        asked: dict[str, Any] = {"slurm_use_srun": False} if self.knows("use_srun") else {}
        if self.cluster == "local":
            asked["timeout_min"] = FOREVER
        asked |= {key if key in OURS else f"slurm_{key}": value for key, value in self.options.items()}
        asked |= {"name": f"plait-{job.identity}", "cpus_per_task": cores, "gpus_per_node": gpus or None}
        self.executor.update_parameters(**asked)
        request = self.requests.make(job, cores=cores)
        try:
            handle = self.executor.submit(work, request)
        except self.submitit.core.utils.FailedJobError as error:
            told = " ".join(str(error).split())
            raise PlaitError(f"SLURM did not take the job: {told}; look at the options of --slurm") from error
        self.submitted[job.identity] = Submitted(job, handle, time.monotonic())

    def knows(self, option: str) -> bool:
        """Whether this version of submitit has an option."""
        return option in self.submitit.SlurmExecutor._valid_parameters()

    def wait(self, seconds: float) -> Sequence[Outcome]:
        """The jobs that ended since the last call; waits for one, at most so long."""
        until = time.monotonic() + seconds
        while True:
            outcomes = self.look() if time.monotonic() - self.looked >= PAUSE else []
            left = until - time.monotonic()
            if outcomes or left <= 0:
                return outcomes
            time.sleep(min(PAUSE, left))

    def look(self) -> list[Outcome]:
        """The jobs that have ended."""
        self.looked = time.monotonic()
        if self.submitted and self.looked - self.asked > ASK:
            self.ask()
        outcomes = [self.outcome(submitted) for submitted in list(self.submitted.values())]
        ended = [outcome for outcome in outcomes if outcome is not None]
        for outcome in ended:
            del self.submitted[outcome.identity]
        return ended

    def ask(self) -> None:
        """Asks SLURM about all jobs, also about those that submitit takes for ended: suspended ones, say."""
        self.asked = time.monotonic()
        handles = [submitted.handle for submitted in self.submitted.values()]
        for handle in handles:
            handle.watcher._finished.discard(handle.job_id)
        handles[0].get_info(mode="force")

    def outcome(self, submitted: Submitted) -> Outcome | None:
        """How a job ended; None if it has not."""
        handle, now = submitted.handle, time.monotonic()
        state = str(handle.state)
        with suppress(OSError):  # makes shared storage look again
            handle.paths.folder.chmod(handle.paths.folder.stat().st_mode)
        if handle.paths.result_pickle.exists():
            return self.answer(submitted)
        if state.split()[0].upper() not in ENDED:
            submitted.gone = None
            return None
        if submitted.gone is None:
            submitted.gone = now
            self.asked = now - ASK  # before it counts as lost: SLURM may have changed its mind
        if self.cluster == "slurm" and now - submitted.gone < GRACE:
            return None
        handle.cancel(check=False)  # lest SLURM change it later
        return self.lost(submitted, f"ended without an answer ({state.lower()})")

    def answer(self, submitted: Submitted) -> Outcome:
        """What a job has answered; an error out of it is its node's, because a run's own never come out."""
        try:
            return Outcome(**submitted.handle.result())
        except self.submitit.core.utils.FailedJobError as error:
            lines = [line for line in str(error).split("-" * 22)[1].splitlines() if line.strip()]
            how = f"a node of SLURM cannot compute for this study ({lines[-1]}): install plait there"
            return Outcome(identity=submitted.job.identity, state="stopped", error=how)
        except self.submitit.core.utils.UncompletedJobError:
            return self.lost(submitted, "left no answer that can be read")

    def lost(self, submitted: Submitted, how: str) -> Outcome:
        """A job that is lost."""
        return Outcome(
            identity=submitted.job.identity,
            state="lost",
            error=f"job {submitted.handle.job_id} of SLURM {how}",
            seconds=round(time.monotonic() - submitted.begun, 3),
        )

    def close(self) -> None:
        """Cancels what SLURM still has."""
        for submitted in self.submitted.values():
            with suppress(OSError):
                submitted.handle.cancel(check=False)
        self.submitted.clear()
        self.open.unlink(missing_ok=True)
        self.requests.close()


def work(request: Mapping[str, Any]) -> dict[str, Any]:
    """What runs on a node: a job, which SLURM's signals end.

    submitit would turn the one that announces the end of the job's time into an error of the run, and ignore
    the one that asks the job to end.
    """
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    return compute(request)


def cancel_left(folder: Path) -> None:
    """Cancels what schedulers of this machine have left in the queue; only one may run on it at a time."""
    for mark in folder.glob(f"{socket.gethostname()}-*/{OPEN}"):
        left = [job.name for job in mark.parent.iterdir() if job.is_dir() and job.name.isdecimal()]
        if left:
            subprocess.run(["scancel", *left], check=False, stderr=subprocess.DEVNULL)
        mark.unlink(missing_ok=True)


def import_submitit() -> Any:
    """The submitit package.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import submitit
        import submitit.core.utils
    except ImportError as error:
        raise MissingExtraError('--slurm needs submitit: pip install "plait[slurm]"') from error
    return submitit


def value_of(key: str, text: str) -> Any:
    """The value of an option; SLURM's own stay as they were typed.

    >>> value_of("timeout_min", "600"), value_of("time", "12:00:00"), value_of("exclusive", "true")
    (600, '12:00:00', True)

    Raises:
        ConfigurationError: If it must be a number and is not.
    """
    if key in COMMANDS:
        return [text]
    if key not in OURS:
        return {"true": True, "false": False}.get(text, text)
    value = scalar(f"slurm {key}", text)
    if isinstance(value, bool) or not isinstance(value, int if key != "mem_gb" else int | float) or value < 0:
        raise ConfigurationError(f"--slurm {key} must be a number, got {text!r}")
    return value


def check_options(submitit: Any, options: Mapping[str, Any]) -> None:
    """Refuses options that nobody knows.

    Raises:
        ConfigurationError: For the first such; names the nearest.
    """
    known = [*OURS, *sorted(submitit.SlurmExecutor._valid_parameters() - set(OURS))]
    for key in options:
        if key not in known:
            raise ConfigurationError(
                f"--slurm has no option {key!r}{nearest(key, known)}; known are {', '.join(known)}"
            )
