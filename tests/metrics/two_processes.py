"""Run once in each process: ``python -m tests.metrics.two_processes RANK FOLDER``.

Only the first process sees labels. Writes both medians to ``FOLDER/RANK.json``.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from plait.metrics import NormalsErrors


def maps() -> tuple[Tensor, Tensor]:
    """Predicted and true vectors of two images ``[2, 3, 4, 5]``."""
    predicted, true = torch.randn(2, 2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).unbind()
    return predicted, true


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        metrics = {
            name: NormalsErrors(exact_median=name == "exact").to("cpu") for name in ("exact", "histogram")
        }
        if rank == 0:
            for metric in metrics.values():
                metric.update(*maps())
        found = {name: metric.compute() for name, metric in metrics.items()}
        (folder / f"{rank}.json").write_text(json.dumps(found))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
