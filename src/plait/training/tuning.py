"""Threads, precision and memory layout: what pays on this machine and network, measured once at the start.

The choice is kept in the run's folder, so that a resumed run computes what the first one did.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from plait.config import Training
from plait.study.cores import IdleCores, usable_cores
from plait.training.precision import Precision

logger = logging.getLogger(__name__)

WORTH_MEASURING = 100
"""Runs of fewer steps would spend more on measuring than they can gain."""
GAIN = 0.95
"""A less plain choice must take at most this part of the time."""
LOOK = 0.2
"""Seconds for which idle cores are counted."""


@dataclass(frozen=True)
class Choices:
    """How the steps of a run are computed.

    Attributes:
        threads: Threads of this process.
        precision: Type of the forward pass.
        channels_last: Whether images and weights lie in memory with their channels together.
    """

    threads: int = 1
    precision: Precision = "fp32"
    channels_last: bool = False

    def json(self) -> dict[str, Any]:
        """As a dictionary for JSON."""
        return asdict(self)


Trial = Callable[[Choices], None]
"""Computes one real step, forward and backward, on a copy of the network."""


def choose(training: Training, device: torch.device, trial: Trial, *, processes: int = 1) -> Choices:
    """Settles what the recipe leaves to ``auto``.

    On an accelerator nothing is measured: bfloat16 and channels-last where it has tensor cores for them. On
    processors a few real steps are timed: one thread against several (on a shared machine threads that
    wait for each other are many times slower than one), then channels-last, then bfloat16 where the
    processor has instructions for it. Runs of under 100 steps take all idle cores and float32 unmeasured.

    Args:
        training: The recipe's part; what it fixes stays.
        device: Where the run computes.
        trial: One step; called several times.
        processes: Processes of this run on this machine, which share its cores.
    """
    cores = max(1, usable_cores() // processes)
    if device.type != "cpu":
        modern = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return fixed(training, Choices(min(4, cores), "bf16" if modern else "fp32", modern))
    start = fixed(training, Choices())
    if training.steps < WORTH_MEASURING:
        return replace(start, threads=idle_threads(cores)) if training.threads == "auto" else start

    times: dict[Choices, float] = {}

    def better(now: Choices, **change: Any) -> Choices:
        other = replace(now, **change)
        for choices in (now, other):
            if choices not in times:
                times[choices] = seconds(trial, choices, give_up=min(times.values(), default=float("inf")))
                logger.info("%s: %.3f s a step", choices, times[choices])
        return other if times[other] < GAIN * times[now] else now

    best = start
    if training.threads == "auto":
        for threads in sorted({cores // 2, cores} - {0, 1}):
            best = better(best, threads=threads)
    if training.channels_last == "auto":
        best = better(best, channels_last=True)
    if training.precision == "auto" and has_bf16():
        best = better(best, precision="bf16")
    return best


def fixed(training: Training, otherwise: Choices) -> Choices:
    """What the recipe says, and ``otherwise`` where it says ``auto``."""
    asked = {
        name: getattr(training, name)
        for name in ("threads", "precision", "channels_last")
        if getattr(training, name) != "auto"
    }
    return replace(otherwise, **asked)


def seconds(trial: Trial, choices: Choices, *, give_up: float) -> float:
    """Wall time of a step: the shorter of two after one to warm up, or that one if it is hopeless."""
    with threads(choices.threads):
        first = timed(trial, choices)
        if first > 4 * give_up:
            return first
        return min(timed(trial, choices), timed(trial, choices))


def timed(trial: Trial, choices: Choices) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    trial(choices)
    return time.perf_counter() - start


def idle_threads(cores: int) -> int:
    """All cores if they are idle, else one."""
    look = IdleCores()
    time.sleep(LOOK)
    return cores if look.look() > cores - 0.5 else 1


def has_bf16() -> bool:
    """Whether the processor computes with bfloat16 without emulating it slowly."""
    supported: Any = torch.ops.mkldnn._is_mkldnn_bf16_supported
    return torch.backends.mkldnn.is_available() and bool(supported())  # type: ignore[no-untyped-call]


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Computes with so many threads inside the ``with``."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
