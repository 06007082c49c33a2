"""A Ray cluster that computes a study's jobs; nodes may join it and die while it does."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plait.errors import ConfigurationError, MissingExtraError
from plait.study.cores import usable_cores
from plait.study.executors.base import Job, Outcome
from plait.study.executors.node import Requests, compute

LEAST_OBJECTS = 80 * 2**20
"""Bytes for Ray's store of objects, the fewest it accepts: what we send is a recipe and its scores."""

PATIENCE = 10
"""Seconds that the head of a cluster has to take a connection."""

HOW = {
    "NodeDiedError": "its node died",
    "WorkerCrashedError": "its process ended",
    "LocalRayletDiedError": "its node died",
    "OutOfMemoryError": "Ray ended its process, because its node had no memory left",
    "TaskCancelledError": "it was cancelled",
}


@dataclass(frozen=True)
class Running:
    """A job on the cluster, and when it was submitted (monotonic seconds)."""

    job: Job
    begun: float


class RayExecutor:
    """An :class:`plait.study.executors.base.Executor` on a Ray cluster.

    A job is a task that is never retried by Ray: the scheduler does it, which counts how often. Jobs of one
    process after another share a process of Ray's, so that torch is imported once; on GPUs Ray starts one for
    each, to be sure of their memory. A job of several processes runs on one node.

    Args:
        address: ``auto``, ``HOST:PORT`` of the cluster's head, ``ray://HOST:PORT`` of its client server, or
            ``local`` to start a cluster of this machine.
        folder: The study's folder; all nodes must see it under the same name.
        logs: Folder in it for what jobs print.
        jobs: How many processes at most compute at a time; None for as many as the cluster has room for.
        cores: Processor cores of each process; None for one, or for a GPU's share of its node's.
        accelerators: Whether to compute on GPUs; None for yes if the cluster has any.

    Raises:
        MissingExtraError: If Ray is not installed.
        ConfigurationError: If no cluster answers at the address.
    """

    def __init__(
        self,
        address: str,
        *,
        folder: Path,
        logs: Path,
        jobs: int | None = None,
        cores: int | None = None,
        accelerators: bool | None = None,
    ) -> None:
        self.ray = import_ray()
        self.started = connect(self.ray, address)
        self.requests = Requests(folder)
        self.most = jobs
        self.nodes: list[Mapping[str, float]] = []
        self.largest = 0
        self.running: dict[Any, Running] = {}
        alive = self.alive()
        with_gpus = [node for node in alive if node.get("GPU", 0) >= 1]
        self.gpus = int(bool(with_gpus) if accelerators is None else accelerators)
        if self.gpus and not with_gpus:
            self.close()
            raise ConfigurationError(f"the Ray cluster at {address} has no GPU: use --device cpu")
        share = min((int(node.get("CPU", 1) // node["GPU"]) for node in with_gpus), default=1)
        self.cores = cores or max(1, share if self.gpus else 1)
        self.logs = logs.resolve()
        self.logs.mkdir(parents=True, exist_ok=True)
        self.task = self.ray.remote(max_retries=0)(work)
        self.look()
        self.name = f"a Ray cluster of {len(self.nodes)} node{'s' * (len(self.nodes) != 1)}"

    def alive(self) -> list[Mapping[str, float]]:
        """What each node that is alive has, by ``CPU`` and ``GPU``."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def room_on(self, node: Mapping[str, float]) -> int:
        """How many processes a node has room for, if it has nothing else to do."""
        room = int(node.get("CPU", 0) // self.cores)
        return min(room, int(node.get("GPU", 0))) if self.gpus else room

    def look(self) -> None:
        """Sees which nodes there are now."""
        self.nodes = [node for node in self.alive() if self.room_on(node) > 0]
        rooms = [self.room_on(node) for node in self.nodes]
        self.slots = sum(rooms) if self.most is None else min(self.most, sum(rooms))
        self.largest = max([self.largest, *rooms])

    def has_room(self, job: Job) -> bool:
        """Whether a job would start at once; or nothing runs, so that it can wait for a node to come."""
        self.look()
        taken = sum(running.job.processes for running in self.running.values())
        return not self.running or taken + job.processes <= self.slots

    def submit(self, job: Job) -> None:
        """Hands a job to the cluster."""
        if job.processes > self.largest > 0:
            raise ConfigurationError(
                f"a run of {job.processes} processes needs a node with room for all of them, but the largest "
                f"of the Ray cluster has room for {self.largest}: lower processes, or add a larger node"
            )
        cores, gpus = job.processes * self.cores, job.processes * self.gpus
        request = self.requests.make(job, cores=cores, hide_accelerators=not gpus)
        task = self.task.options(num_cpus=cores, num_gpus=gpus, name=f"plait {job.identity}")
        self.running[task.remote(request, str(self.logs))] = Running(job, time.monotonic())

    def wait(self, seconds: float) -> Sequence[Outcome]:
        """The jobs that ended since the last call; waits for one, at most so long."""
        if not self.running:
            time.sleep(seconds)
            return []
        tasks = list(self.running)
        ended, _ = self.ray.wait(tasks, num_returns=1, timeout=seconds)
        if ended:
            ended, _ = self.ray.wait(tasks, num_returns=len(tasks), timeout=0)
        return [self.ended(task) for task in ended]

    def ended(self, task: Any) -> Outcome:
        """How a task ended; an error out of it is the cluster's, because a job's own never come out."""
        running = self.running.pop(task)
        errors, identity = self.ray.exceptions, running.job.identity
        seconds = round(time.monotonic() - running.begun, 3)
        try:
            return Outcome(**self.ray.get(task))
        except errors.RayTaskError as error:
            told = " ".join(f"{type(error.cause).__name__}: {error.cause}".split())
            how = f"a node of the Ray cluster cannot compute for this study ({told}): install plait there"
            return Outcome(identity=identity, state="stopped", error=how, seconds=seconds)
        except errors.RayError as error:
            kind = type(error).__name__
            how = f"on the Ray cluster, {HOW.get(kind, f'Ray reported {kind}')}"
            return Outcome(identity=identity, state="lost", error=how, seconds=seconds)

    def close(self) -> None:
        """Cancels what still runs, and disconnects; a cluster that was started here ends."""
        for task in self.running:
            with suppress(self.ray.exceptions.RayError, ConnectionError):
                self.ray.cancel(task, force=True)
        self.running.clear()
        self.requests.close()
        if self.started:
            self.ray.shutdown()
            self.started = False


def import_ray() -> Any:
    """Ray, told to send nothing to its makers.

    Raises:
        MissingExtraError: If it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise MissingExtraError('--ray needs Ray: pip install "plait[ray]"') from error
    return ray


def connect(ray: Any, address: str) -> bool:
    """Connects to a cluster; False if this process was connected already, to one that is then used.

    Raises:
        ConfigurationError: If no cluster answers at the address.
    """
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        cores = usable_cores()
        options |= {"num_cpus": cores, "object_store_memory": LEAST_OBJECTS, "include_dashboard": False}
    try:
        reach(address)
        ray.init(address=address, **options)
    except (OSError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigurationError(
            f"no Ray cluster answers at {address!r} ({first}): start one with `ray start --head` and give "
            f"the address that it prints, or use --ray local"
        ) from error
    # At the death of a node Ray prints pages of its log, whatever it was told of logs.
    ray._private.worker._worker_logs_enabled = False
    return True


def reach(address: str) -> None:
    """Tries to connect to ``HOST:PORT`` or ``ray://HOST:PORT``: Ray itself would try for many minutes.

    Raises:
        OSError: If nobody listens there.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()


def work(request: Mapping[str, Any], logs: str) -> dict[str, Any]:
    """What runs on a node: a job, whose prints go to a file of this process."""
    with suppress(OSError):  # if the folder is not there, compute() says so
        log = os.open(
            f"{logs}/{socket.gethostname()}-{os.getpid()}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND
        )
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    return compute(request)
