"""Two processes make the step that one makes on the doubled batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.training.two_processes import CASES, gradients

from plait.training.distributed import anywhere, rank, reduce_gradients, reduce_sum, reduce_sums, world_size

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[dict[str, tuple[dict[str, torch.Tensor], torch.Tensor]]]:
    """What each process wrote, for every case, from one start."""
    folder = tmp_path_factory.mktemp("processes")
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.training.two_processes", str(place), str(folder)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in range(2)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"{place}.pt") for place in range(2)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_processes_make_the_step_of_the_doubled_batch(
    case: tuple[str, str, bool, int],
    both: list[dict[str, tuple[dict[str, torch.Tensor], torch.Tensor]]],
) -> None:
    """Gradients, updated parameters and weights, to rounding; and the processes agree to the last bit."""
    expected, weights = gradients(case, 0, 8)
    (first, first_weights), (second, second_weights) = (results[str(case)] for results in both)
    assert first.keys() == second.keys() == expected.keys()
    torch.testing.assert_close(first_weights, weights, rtol=1e-9, atol=1e-12)
    assert torch.equal(first_weights, second_weights)
    for name, tensor in expected.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], tensor, rtol=1e-9, atol=1e-12)


def test_one_process_is_its_own_sum() -> None:
    tensor = torch.arange(3.0)
    assert (world_size(), rank()) == (1, 0)
    assert reduce_sum(tensor) is tensor
    assert reduce_sums([tensor])[0] is tensor
    assert anywhere([True, False]) == [True, False]
    weight = torch.nn.Parameter(tensor)
    reduce_gradients([weight])
    assert weight.grad is None
