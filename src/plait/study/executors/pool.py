"""Processes of this machine that compute a study's jobs, each with cores, or a device, of its own."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
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

    Raises:
        ConfigurationError: If there are fewer slots than one.
    """

    def __init__(self, slots: int, *, cores: Sequence[int], devices: Sequence[str], logs: Path) -> None:
        if slots < 1:
            raise ConfigurationError(f"--jobs must be at least 1, got {slots}")
        self.slots = slots
        self.logs = logs
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
        """Whether as many slots are idle as the job has processes."""
        return sum(slot.idle for slot in self.places) >= job.processes

    def submit(self, job: Job) -> None:
        """Gives a job to the first idle slot, with the cores and devices of others if it needs several."""
        if job.processes > self.slots:
            raise ConfigurationError(
                f"a run of {job.processes} processes needs as many slots, but there "
                f"{'are' if self.slots > 1 else 'is'} {self.slots}: raise --jobs, or lower processes"
            )
        here, *others = [slot for slot in self.places if slot.idle][: job.processes]
        devices = list(dict.fromkeys(s.device for s in (here, *others) if s.device is not None))
        if devices and len(devices) < job.processes:
            raise ConfigurationError(
                f"a run of {job.processes} processes needs a device for each, but there are {len(devices)}: "
                f"lower processes"
            )
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
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass

    def start(self, slot: Slot) -> subprocess.Popen[bytes]:
        """Starts a slot's process."""
        self.logs.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **dict.fromkeys(THREADS, str(max(1, len(slot.cores))))}
        environment["PLAIT_CORES"] = ",".join(str(core) for core in slot.cores)
        environment["CUDA_VISIBLE_DEVICES"] = slot.device or ""
        with (self.logs / f"worker-{slot.number}.txt").open("ab") as log:
            slot.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "plait.study.executors.worker"],
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
        return outcomes

    def heard(self, slot: Slot) -> list[Outcome]:
        """What a slot's process has said; that it is lost, if it has ended."""
        assert slot.process is not None
        assert slot.process.stdout is not None
        said = slot.process.stdout.read()
        if said is None:
            return []
        if not said:
            return self.buried(slot)
        *lines, slot.answers = (slot.answers + said).split(b"\n")
        outcomes = [Outcome(**json.loads(line)) for line in lines]
        if outcomes:
            self.free(slot)
        return outcomes

    def buried(self, slot: Slot) -> list[Outcome]:
        """Takes a dead process away; its job is lost."""
        process, job = slot.process, slot.job
        assert process is not None
        self.selector.unregister(process.stdout)  # type: ignore[arg-type]
        how = in_words(process.wait())
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
                slot.process.wait()
                slot.process = None
        self.selector.close()


def in_words(code: int) -> str:
    """How a process ended.

    >>> in_words(-9), in_words(1)
    ('its process was ended by SIGKILL: out of memory, or by hand', 'its process ended with code 1')
    """
    if code < 0:
        name = signal.Signals(-code).name
        return f"its process was ended by {name}{': out of memory, or by hand' * (name == 'SIGKILL')}"
    return f"its process ended with code {code}"
