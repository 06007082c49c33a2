"""Run once in each process: ``python -m tests.training.two_processes RANK FOLDER``.

Writes the gradients of every case to ``FOLDER/RANK.pt``, as ``{case: {parameter: gradient}}``.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.balancing.tiny import TASKS, part, tiny_batch, tiny_network, tiny_tasks
from torch import Tensor

import plait.balancing
from plait.data.sample import Batch
from plait.training.step import training_step

BALANCERS: dict[str, dict[str, Any]] = {
    "equal": {},
    "fixed": {"weights": {"depth": 0.3}},
    "mgda": {"scope": "parameters"},
    "mgda features": {"scope": "features"},
    "mgda weighted": {"scope": "parameters", "heads": "weighted", "normalisation": "loss+"},
    "mgda features weighted": {"scope": "features", "heads": "weighted", "normalisation": "l2"},
}
# Which of the eight images have no label of a task: the first four are the first process's.
LABELS: dict[str, dict[str, range]] = {
    "every label": {},
    "depth in one process": {"depth": range(4, 8)},
    "one task a process": {"depth": range(4), "semseg": range(4, 8), "normals": range(4)},
    "one process without labels": dict.fromkeys(TASKS, range(4, 8)),
    "no depth": {"depth": range(8)},
}
CASES = [
    (balancer, labels, cut, parts)
    for balancer in BALANCERS
    for labels in LABELS
    for cut in (True, False)
    for parts in (1, 2)
    if cut or "features" not in balancer
]


def gradients(case: tuple[str, str, bool, int], first: int, last: int) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients and weights of a step on the images from ``first`` to ``last``, in so many parts."""
    balancer, labels, cut, parts = case
    made = plait.balancing.create(balancer.split()[0], tasks=tiny_tasks(), **BALANCERS[balancer])
    model = tiny_network(has_cut=cut, interacting=cut, penalty=True)
    batch = tiny_batch(8, absent=LABELS[labels])
    places = list(range(first, last))
    size = len(places) // parts
    batches: list[Batch] = [part(batch, places[at : at + size]) for at in range(0, len(places), size)]
    report = training_step(
        model, batches, made, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1), clip_norm=0.5
    )
    result = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    result |= {f"after {name}": p.detach() for name, p in model.named_parameters()}
    return result, report.weights


def main() -> None:
    torch.set_num_threads(1)
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        results = {str(case): gradients(case, 4 * rank, 4 * rank + 4) for case in CASES}
        torch.save(results, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
