"""Kernels: plain loops over NumPy arrays, compiled by Numba where it is installed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

logger = logging.getLogger(__name__)


@cache
def numba() -> ModuleType | None:
    """Numba, imported when it is first needed; None where it cannot be, which is logged once."""
    try:
        import numba
    except ImportError as error:
        logger.warning(
            "Numba cannot be imported (%s): the boundary F takes the same counts in plain Python, "
            "some twenty times slower; pip install numba",
            error,
        )
        return None
    return numba


@cache
def compiled(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel as machine code that releases the interpreter's lock; itself without Numba.

    Machine code is kept beside the source or in the user's cache, and compiled anew in every process where
    neither can be written.
    """
    found = numba()
    if found is None:
        return kernel
    fast: Callable[..., Any]
    try:
        fast = found.njit(cache=True, nogil=True)(kernel)
    except RuntimeError:  # There is no place to keep the machine code.
        fast = found.njit(nogil=True)(kernel)
    return fast
