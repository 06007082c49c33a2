"""Memory kept between steps, seen from outside: how often the system has to hand out pages."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from plait.training.memory import keep_freed_memory

taken = keep_freed_memory() if sys.argv[1] == "keep" else True
def use():
    blocks = [np.ones(2**21, dtype=np.float64) for _ in range(8)]  # 16 MiB each
    blocks.reverse()
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(taken, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are of glibc")
def test_memory_that_is_kept_is_not_asked_for_again() -> None:
    faults = {}
    for mode in ("keep", "give back"):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True
        )
        taken, number = done.stdout.split()
        assert taken == "True"
        faults[mode] = int(number)
    assert faults["give back"] > 10 * (faults["keep"] + 1)
