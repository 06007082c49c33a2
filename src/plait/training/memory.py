"""Memory that this process keeps between steps, rather than give it back and get it zeroed anew."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Names of glibc's settings, from its ``malloc.h``."""
LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""What glibc accepts at most on 64 bits."""


def keep_freed_memory() -> bool:
    """Tells glibc to keep what is freed for the next use. Commands call this, the library never does.

    By default blocks of many megabytes come from the system at each use and go back to it after each, and the
    system zeroes their pages every time: several percent of a training step on a processor. The process then
    stays as large as it ever was.

    Returns:
        Whether the C library took the settings: not, if it is another than glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    wanted = {TRIM_THRESHOLD: 2**31 - 1, TOP_PAD: 64 * 2**20, MMAP_THRESHOLD: LARGEST_MMAP_THRESHOLD}
    return all(mallopt(name, value) == 1 for name, value in wanted.items())
