"""Two processes of one test, as accelerators would start them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_both(program: Sequence[str], folder: Path, seconds: float = 120) -> None:
    """Runs ``python PROGRAM RANK FOLDER`` twice side by side, as rank 0 and 1; both must end well in time.

    Args:
        program: Arguments of the interpreter: ``["-m", "tests.some_module"]``, or ``["-c", code]``.
        folder: Where they meet and leave what they found.
        seconds: How long both may take.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, *program, str(rank), str(folder)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=seconds)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)[-4000:]
