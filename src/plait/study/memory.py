"""The most memory that this process has held."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def forget_peak_memory() -> None:
    """Counts the peak anew, on the processor and on the accelerator; outside Linux it goes on counting."""
    with suppress(OSError):
        CLEAR.write_text("5")
    device = initialised_accelerator()
    if device is not None:
        device.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """Bytes at the peak: ``processor`` (resident, the libraries included) and ``accelerator`` (allocated)."""
    found = {}
    try:
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                found["processor"] = int(line.split()[1]) * 1024
    except OSError:
        pass
    device = initialised_accelerator()
    if device is not None:
        found["accelerator"] = int(device.max_memory_allocated())
    return found


def initialised_accelerator() -> Any:
    """``torch.cuda`` if this process has used it; None otherwise, without importing or starting it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
