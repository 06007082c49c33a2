"""What the scheduler asks of a place where runs are computed.

A job is plain data, so that it can be sent anywhere; the place never sees the study's database, which only
the process that schedules writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

State = Literal["finished", "failed", "lost", "stopped"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One thing to compute; see :func:`plait.study.perform.perform`.

    Attributes:
        identity: Names it within its study.
        call: ``train`` a run, or ``measure`` what networks cost.
        arguments: Of that function, as JSON holds them.
        processes: How many processes it takes, each with a device (or a share of the cores) of its own.
    """

    identity: str
    call: Literal["train", "measure"]
    arguments: Mapping[str, Any]
    processes: int = 1


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended.

    Attributes:
        identity: Which job.
        state: ``finished``; ``failed`` by an error of its own, which a repetition would meet again; ``lost``,
            because its process or machine ended: it can be tried again; or ``stopped`` by something that
            the other jobs would meet too, such as a full disk.
        error: What happened, in a sentence; empty if finished.
        result: What it returned, as JSON holds it.
        seconds: Wall time that it took.
    """

    identity: str
    state: State
    error: str = ""
    result: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class Executor(Protocol):
    """Where jobs are computed. Not safe to use from several threads.

    Attributes:
        name: What a person calls it, for instance ``2 processes on this machine``.
        slots: How many jobs of one process it computes at a time.
    """

    name: str
    slots: int

    def has_room(self, job: Job) -> bool:
        """Whether a job would start at once."""
        ...

    def submit(self, job: Job) -> None:
        """Starts a job.

        Raises:
            ConfigurationError: If it can never run there, for instance for want of devices.
        """
        ...

    def wait(self, seconds: float) -> Sequence[Outcome]:
        """The jobs that ended since the last call; waits for one, at most so long."""
        ...

    def close(self) -> None:
        """Ends what still runs, at once; such jobs have no outcome. May be called twice."""
        ...
