"""A process that saw no label takes part in the sum over processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.metrics.two_processes import maps

from plait.metrics import NormalsErrors

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_process_without_labels_changes_no_number(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.metrics.two_processes", str(rank), str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    for name in ("exact", "histogram"):
        alone = NormalsErrors(exact_median=name == "exact")
        alone.update(*maps())
        for rank in range(2):
            assert json.loads((tmp_path / f"{rank}.json").read_text())[name] == alone.compute()
