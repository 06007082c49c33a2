"""Two processes score the split that one process scores.

Also run once in each process: ``python -m tests.metrics.test_boundary_processes RANK FOLDER``, which
writes scores and curve to ``FOLDER/RANK.json``.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.processes import run_both
from torch import Tensor

from plait.metrics.boundary import BoundaryF


def maps() -> tuple[Tensor, Tensor]:
    """Predictions and targets ``[3, 1, 12, 16]``."""
    random = torch.Generator().manual_seed(0)
    prediction = torch.rand(3, 1, 12, 16, generator=random)
    return prediction, (torch.rand(3, 1, 12, 16, generator=random) < 0.2).float()


def found(metric: BoundaryF) -> dict[str, object]:
    """What a process reports; the curve before and after the scores."""
    before = metric.curve().precision.tolist()
    return {"scores": metric.compute(), "curves": [before, metric.curve().precision.tolist()]}


@pytest.mark.slow
def test_two_processes_score_what_one_scores(tmp_path: Path) -> None:
    run_both(["-m", "tests.metrics.test_boundary_processes"], tmp_path)
    alone = BoundaryF(max_distance=0.06)
    alone.update(*maps())
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == found(alone)


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        prediction, target = maps()
        metric = BoundaryF(max_distance=0.06)
        mine = slice(0, 1) if rank == 0 else slice(1, 3)
        metric.update(prediction[mine], target[mine])
        (folder / f"{rank}.json").write_text(json.dumps(found(metric)))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
