"""Two processes, and four, train with every balancer as one does on the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.training.balancing_processes import CASES, IMAGES, steps
from torch import Tensor

ROOT = Path(__file__).parents[2]
Results = dict[str, dict[str, Tensor]]


@pytest.fixture(
    scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)], ids="{} processes".format
)
def processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """What each process wrote, for every case, from one start."""
    folder, world = tmp_path_factory.mktemp("processes"), request.param
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.balancing_processes", str(rank), str(world), str(folder)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * world, "\n".join(errors)[-4000:]
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def alone() -> Results:
    """What one process makes of the whole batch."""
    return {str(case): steps(*case, range(IMAGES)) for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_processes_train_as_one(case: tuple[str, str], processes: list[Results], alone: Results) -> None:
    """Weights, parameters and state to rounding; and the processes agree to the last bit."""
    expected, (first, *others) = alone[str(case)], (results[str(case)] for results in processes)
    assert first.keys() == expected.keys()
    for key, value in expected.items():
        for other in others:
            assert torch.equal(first[key], other[key]), f"{key} differs between processes"
        torch.testing.assert_close(
            first[key], value, rtol=1e-7, atol=1e-9, msg=lambda m, key=key: f"{key}: {m}"
        )
