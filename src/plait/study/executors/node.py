"""What a machine of a cluster does for a study: computes a job on cores of its own, answers in plain data."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import plait
from plait.errors import ConfigurationError
from plait.study.executors.base import Job, Outcome
from plait.study.executors.pool import THREADS
from plait.study.perform import perform, usable_cores

THREADS_OF_PROCESS = Path("/proc/self/task")


class Requests:
    """What a scheduler sends to machines that must see the study's folder under the same name.

    Args:
        folder: Made if missing; a file in it proves to a machine that it sees the same folder.
    """

    def __init__(self, folder: Path) -> None:
        self.mark = folder.resolve() / f".seen-{uuid.uuid4().hex}"
        self.mark.parent.mkdir(parents=True, exist_ok=True)
        self.mark.touch()

    def make(self, job: Job, *, cores: int, hide_accelerators: bool = False) -> dict[str, Any]:
        """A request that :func:`compute` understands, for a job of so many cores."""
        return {
            "job": asdict(job),
            "cores": cores,
            "hide_accelerators": hide_accelerators,
            "mark": str(self.mark),
            "version": plait.__version__,
            "folder": str(Path.cwd()),
            "path": [path for path in sys.path if path],
        }

    def close(self) -> None:
        """No more requests will be made."""
        self.mark.unlink(missing_ok=True)


def compute(request: Mapping[str, Any]) -> dict[str, Any]:
    """Computes a job, in the scheduler's working folder if it is there, and says how it ended.

    A machine that does not see the study's folder, or has another plait, answers with ``stopped``: it would
    do so to every job.
    """
    job = Job(**request["job"])
    try:
        check(request)
    except ConfigurationError as error:
        return asdict(Outcome(identity=job.identity, state="stopped", error=str(error)))
    with suppress(OSError):
        os.chdir(request["folder"])
    sys.path += [path for path in request["path"] if path not in sys.path]
    threads = max(1, request["cores"] // job.processes)
    os.environ.update(dict.fromkeys(THREADS, str(threads)))  # read when torch is imported, at the first job
    if request["hide_accelerators"]:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    with own_cores(request["cores"]):
        return asdict(perform(job))


def check(request: Mapping[str, Any]) -> None:
    """Whether this machine can work for the study.

    Raises:
        ConfigurationError: If it cannot; the text names it.
    """
    here, mark = socket.gethostname(), Path(request["mark"])
    if not mark.exists():
        raise ConfigurationError(
            f"the machine {here} does not see {mark.parent} as the one that schedules does: put the study's "
            f"folder on storage that all machines share, under the same name"
        )
    if plait.__version__ != request["version"]:
        raise ConfigurationError(
            f"the machine {here} has plait {plait.__version__}, and the one that schedules has "
            f"{request['version']}: install the same on both"
        )


@contextmanager
def own_cores(number: int) -> Iterator[list[int]]:
    """Keeps this process to so many cores that no other job of the same user has on this machine.

    Clusters count cores, but not all of them keep a process to those that it was given; a library that
    starts a thread for every core it sees would then slow all others down. Cores are taken by locking a file
    for each, which the system frees however a process ends. Where there are not enough, nothing is done.
    """
    before = usable_cores()
    with ExitStack() as locks:
        cores: list[int] = []
        for core in before:
            if len(cores) < number and taken(core, locks):
                cores.append(core)
        if not cores or len(cores) < number:
            locks.close()
            yield before
            return
        keep_to(cores)
        try:
            yield cores
        finally:
            keep_to(before)


def taken(core: int, locks: ExitStack) -> bool:
    """Takes a core until ``locks`` is closed; False if somebody has it."""
    import fcntl

    folder = Path(tempfile.gettempdir()) / f"plait-cores-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():  # somebody else's: it may hold links to files of ours
        return False
    file = (folder / str(core)).open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return False
    locks.enter_context(file)
    return True


def keep_to(cores: list[int]) -> None:
    """Keeps all threads of this process to some cores, those that libraries have started included."""
    for thread in THREADS_OF_PROCESS.iterdir():
        with suppress(OSError):  # it has ended meanwhile
            os.sched_setaffinity(int(thread.name), cores)
