"""Energy as the machine's own counters tell it; machines without one have none."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

POWERCAP = Path("/sys/class/powercap")
"""Where Linux tells of the running average power limit (RAPL) of Intel's and AMD's processors."""
SECONDS = 0.5
"""How long is measured at least: an NVIDIA counter moves some ten times a second."""


@dataclass(frozen=True)
class Part:
    """One counter.

    Attributes:
        read: Joules since some moment.
        span: Joules after which it begins again at 0; infinite for never.
    """

    read: Callable[[], float]
    span: float = math.inf

    def between(self, before: float, after: float) -> float:
        """Joules from one reading to another, between which it began again once at most.

        >>> Part(read=float, span=10.0).between(9.0, 2.0)
        3.0
        """
        return after - before if after >= before else after - before + self.span


@dataclass(frozen=True)
class EnergyCounter:
    """What counts a device's energy.

    Attributes:
        of: What is counted, for a reader.
        parts: Counters that are added.
    """

    of: str
    parts: Sequence[Part]

    def joules(
        self, run: Callable[[], object], *, seconds: float = SECONDS, wait: Callable[[], object] | None = None
    ) -> float | None:
        """Joules of one ``run``: the mean over as many as take ``seconds``, one at least.

        Everything that the counted device does meanwhile is in it, and so is what it takes when idle.

        Args:
            run: What is measured.
            seconds: For how long.
            wait: Called after each, to wait for an accelerator.

        Returns:
            None if the counter cannot be read any longer, or did not move.
        """
        try:
            before = [part.read() for part in self.parts]
            begun, count = time.perf_counter(), 0
            while count == 0 or time.perf_counter() - begun < seconds:
                run()
                if wait is not None:
                    wait()
                count += 1
            after = [part.read() for part in self.parts]
        except CounterError:
            return None
        used = sum(p.between(b, a) for p, b, a in zip(self.parts, before, after, strict=True))
        return used / count if used > 0 else None


class CounterError(Exception):
    """A counter that could be read cannot be read any longer."""


def energy_counter(device: torch.device) -> EnergyCounter | None:
    """What counts the energy of a device; None if nothing does, or it may not be read."""
    if device.type == "cuda":
        return nvidia(device)
    return rapl() if device.type == "cpu" else None


def rapl(root: Path = POWERCAP) -> EnergyCounter | None:
    """The counters of all processor packages; None if there is none, or one may not be read.

    Since 2020 Linux lets only root read them. A package holds all its cores, caches and memory controllers,
    whoever uses them; memory itself is not in it. Packages are often told twice, by registers and by mapped
    memory: each counts once, by its register.

    Args:
        root: Where the counters are.
    """
    found: dict[str, Part] = {}
    try:
        for zone in sorted(root.glob("*"), key=lambda zone: ("mmio" in zone.name, zone.name)):
            if (zone / "name").is_file() and (zone / "energy_uj").exists():
                name = (zone / "name").read_text().strip()
                if name.startswith("package") and name not in found:
                    found[name] = rapl_part(zone)
        for part in found.values():
            part.read()
    except (OSError, ValueError, CounterError):
        return None
    if not found:
        return None
    whole = "the whole processor" if len(found) == 1 else f"all {len(found)} whole processors"
    told = f"{whole}, idle power and other programs included (RAPL)"
    return EnergyCounter(told, list(found.values()))


def rapl_part(zone: Path) -> Part:
    """The counter in a folder of Linux's."""
    span = float((zone / "max_energy_range_uj").read_text()) * 1e-6

    def read() -> float:
        try:
            return float((zone / "energy_uj").read_text()) * 1e-6
        except (OSError, ValueError) as error:
            raise CounterError from error

    return Part(read, span)


def nvidia(device: torch.device) -> EnergyCounter | None:
    """The counter of an NVIDIA GPU, of Volta or later; None without one, or without ``plait[energy]``.

    A part of a GPU (MIG) has none.
    """
    try:
        import pynvml
    except ImportError:
        return None
    import torch

    try:
        pynvml.nvmlInit()
        # By its identity: indices differ where only some GPUs are visible.
        identity = torch.cuda.get_device_properties(device).uuid
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{identity}")
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except (pynvml.NVMLError, AttributeError):
        return None

    def read() -> float:
        try:
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * 1e-3
        except pynvml.NVMLError as error:
            raise CounterError from error

    return EnergyCounter("the whole GPU, idle power included (NVML)", [Part(read)])
