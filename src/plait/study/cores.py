"""How many processes of one thread a machine has room for, now."""

from __future__ import annotations

import os
import time
from pathlib import Path

MEMORY_A_PROCESS = 2 * 2**30
STAT = Path("/proc/stat")


def usable_cores() -> int:
    """Cores this process may use: its affinity, and the quota of its container; at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = container_cores()
    return max(1, cores if quota is None else min(cores, int(quota)))


def most_processes() -> int:
    """How many training processes cores and memory allow, busy or not; at least one."""
    memory = available_memory()
    return max(1, usable_cores() if memory is None else min(usable_cores(), memory // MEMORY_A_PROCESS))


class IdleCores:
    """Measures idle cores from one look to the next.

    The load average would not do: it remembers the last minute, so that installing plait would slow down
    the run that follows it.
    """

    def __init__(self) -> None:
        self.last, self.idle = time.monotonic(), idle_seconds()

    def look(self) -> float:
        """Idle cores on average since the last look; all of them where the system does not say."""
        last, idle = self.last, self.idle
        self.last, self.idle = time.monotonic(), idle_seconds()
        if idle is None or self.idle is None or self.last <= last:
            return float(usable_cores())
        return (self.idle - idle) / (self.last - last)


def idle_seconds() -> float | None:
    """Seconds that the usable cores have been idle since the machine started; None if unknown."""
    try:
        lines = STAT.read_text().splitlines()
        tick = os.sysconf("SC_CLK_TCK")
        mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    except (OSError, AttributeError, ValueError):
        return None
    fields = [line.split() for line in lines]
    return sum(int(field[4]) + int(field[5]) for field in fields if field and field[0] in mine) / tick


def container_cores() -> float | None:
    """The processor time a container is allowed, in cores; None without a limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        return None


def available_memory() -> int | None:
    """Memory that can be had without swapping, in bytes; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return None
    return None
