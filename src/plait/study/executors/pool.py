"""Processes of this machine that compute a study's jobs, each with cores, or a device, of its own."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from plait.errors import ConfigurationError
from plait.study.executors.base import Job, Outcome

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass
class Slot:
    """Room for one process.

    Attributes:
        number: Its place among the slots.
        cores: The processor cores that are its own; empty where processes cannot be kept to cores.
        device: The accelerator that is its own, by index; None for the processor.
        process: Who works there; None before the first job, and after a death.
        job: What it works on.
        lent: Whether another slot's job of several processes has this one's cores and device.
    """

    number: int
    cores: Sequence[int]
    device: str | None
    process: subprocess.Popen[bytes] | None = None
    job: Job | None = None
    lent: bool = False
    borrowed: list[Slot] = field(default_factory=list)
    answers: bytes = b""
    begun: float = 0.0

    @property
    def idle(self) -> bool:
        """Whether a job could start here."""
        return self.job is None and not self.lent


class Pool:
    """An :class:`plait.study.executors.base.Executor` of processes on this machine.

    A process is started once and computes one job after another, because importing torch takes longer than a
    short run. Each is kept to its own cores, so that all together never use more than there are, whatever a
    library asks for. One that dies is replaced, and its job is reported as lost.

    Args:
        slots: How many.
        cores: The processor cores that they share.
        devices: Accelerators by index, which they share evenly; empty to compute on the processor.
        logs: Folder for what processes print.
        worker: The module that each of them runs.

    Raises:
        ConfigurationError: If there are fewer slots than one.
    """

    def __init__(
        self,
        slots: int,
        *,
        cores: Sequence[int],
        devices: Sequence[str],
        logs: Path,
        worker: str = "plait.study.executors.worker",
    ) -> None:
        if slots < 1:
            raise ConfigurationError(f"--jobs must be at least 1, got {slots}")
        self.slots = slots
        self.logs = logs
        self.worker = worker
        on = f"devices {', '.join(devices)}" if devices else "this machine's processor"
        self.name = f"{slots} process{'es' * (slots > 1)} on {on}"
        self.places = [
            Slot(
                number,
                list(cores[number::slots]) or list(cores),
                devices[number % len(devices)] if devices else None,
            )
            for number in range(slots)
        ]
        self.selector = selectors.DefaultSelector()

    def has_room(self, job: Job) -> bool:
        """Whether as many slots are idle as the job has processes, each with a device of its own."""
        return len(self.room(job)) == job.processes

    def room(self, job: Job) -> Sequence[Slot]:
        """Idle slots for a job, on different devices, the least busy first; too few if there are no more."""
        idle = [slot for slot in self.places if slot.idle]
        free = Counter(slot.device for slot in idle)
        idle.sort(key=lambda slot: -free[slot.device])
        places: dict[object, Slot] = {}
        for slot in idle:
            places.setdefault(slot.number if slot.device is None else slot.device, slot)
        return list(places.values())[: job.processes]

    def submit(self, job: Job) -> None:
        """Gives a job to the first idle slot, with the cores and devices of others if it needs several."""
        if job.processes > self.slots:
            raise ConfigurationError(
                f"a run of {job.processes} processes needs as many slots, but there "
                f"{'are' if self.slots > 1 else 'is'} {self.slots}: raise --jobs, or lower processes"
            )
        on = {slot.device for slot in self.places if slot.device is not None}
        if on and len(on) < job.processes:
            raise ConfigurationError(
                f"a run of {job.processes} processes needs a device for each, but there "
                f"{'are' if len(on) > 1 else 'is'} {len(on)}: name more in --device, or lower processes"
            )
        here, *others = self.room(job)
        devices = [slot.device for slot in (here, *others) if slot.device is not None]
        process = here.process or self.start(here)
        here.job, here.borrowed, here.begun = job, others, time.monotonic()
        for other in others:
            other.lent = True
        message = {
            "job": asdict(job),
            "devices": devices or None,
            "cores": sorted({core for slot in (here, *others) for core in slot.cores}),
        }
        self.tell(process, message)

    def tell(self, process: subprocess.Popen[bytes], message: object) -> None:
        """Sends a line; a process that has died is noticed where answers are awaited."""
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()

    def start(self, slot: Slot) -> subprocess.Popen[bytes]:
        """Starts a slot's process."""
        self.logs.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **dict.fromkeys(THREADS, str(max(1, len(slot.cores))))}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        environment["PLAIT_CORES"] = ",".join(str(core) for core in slot.cores)
        environment["CUDA_VISIBLE_DEVICES"] = slot.device or ""
        with (self.logs / f"worker-{slot.number}.txt").open("ab") as log:
            slot.process = subprocess.Popen(
                [sys.executable, "-P", "-m", self.worker],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # so that Ctrl-C in a terminal reaches the scheduler alone
            )
        assert slot.process.stdout is not None
        os.set_blocking(slot.process.stdout.fileno(), False)
        self.selector.register(slot.process.stdout, selectors.EVENT_READ, slot)
        self.tell(slot.process, {"job": None})
        return slot.process

    def wait(self, seconds: float) -> Sequence[Outcome]:
        """The jobs that ended since the last call; waits for one, at most so long."""
        if not self.selector.get_map():
            time.sleep(seconds)
            return []
        outcomes = []
        for key, _ in self.selector.select(seconds):
            slot: Slot = key.data
            outcomes += self.heard(slot)
        for slot in self.places:  # a process of its own may hold a dead one's standard output open
            if slot.process is not None and slot.process.poll() is not None:
                outcomes += self.heard(slot)
                outcomes += self.buried(slot)
        return outcomes

    def heard(self, slot: Slot) -> list[Outcome]:
        """What a slot's process has said; that it is lost, if it has ended."""
        assert slot.process is not None
        assert slot.process.stdout is not None
        try:
            said = os.read(slot.process.stdout.fileno(), 2**20)
        except BlockingIOError:
            return []
        if not said:
            return self.buried(slot)
        *lines, slot.answers = (slot.answers + said).split(b"\n")
        outcomes = [Outcome(**json.loads(line)) for line in lines]
        if outcomes:
            self.free(slot)
        if slot.device is not None and any(outcome.state == "failed" for outcome in outcomes):
            slot.process.kill()  # its accelerator may compute nothing more in this process
            self.buried(slot)
        return outcomes

    def buried(self, slot: Slot) -> list[Outcome]:
        """Takes a process that has ended away; its job is lost."""
        process, job = slot.process, slot.job
        if process is None:
            return []
        self.selector.unregister(process.stdout)  # type: ignore[arg-type]
        how = in_words(ended(process))
        slot.process, slot.answers = None, b""
        self.free(slot)
        if job is None:
            return []
        seconds = round(time.monotonic() - slot.begun, 3)
        return [Outcome(identity=job.identity, state="lost", error=how, seconds=seconds)]

    def free(self, slot: Slot) -> None:
        """Makes room again."""
        slot.job = None
        for other in slot.borrowed:
            other.lent = False
        slot.borrowed = []

    def close(self) -> None:
        """Ends all processes at once."""
        for slot in self.places:
            if slot.process is not None:
                slot.process.kill()
                ended(slot.process)
                slot.process = None
        self.selector.close()


def ended(process: subprocess.Popen[bytes]) -> int:
    """The exit code of a process that ends now; closes the pipes to it."""
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(BrokenPipeError):  # of a message that it has not read
            pipe.close()
    return process.wait()


def in_words(code: int) -> str:
    """How a process ended.

    >>> in_words(-9), in_words(1)
    ('its process was ended by SIGKILL: out of memory, or by hand', 'its process ended with code 1')
    """
    if code < 0:
        name = signal.Signals(-code).name
        return f"its process was ended by {name}{': out of memory, or by hand' * (name == 'SIGKILL')}"
    return f"its process ended with code {code}"
