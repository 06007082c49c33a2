"""Run once in each process: ``python -m tests.training.balancing_processes RANK WORLD FOLDER``.

Writes what every balancer did in every case to ``FOLDER/RANK.pt``, as ``{case: {name: tensor}}``.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.balancing.tiny import TASKS, part, tiny_batch, tiny_network, tiny_tasks
from tests.contracts.balancers import BALANCERS
from torch import Tensor

import plait.balancing
from plait.balancing import Balancer
from plait.models.network import MultiTaskNetwork
from plait.training.step import training_step

# Which of the eight images have no label of a task: the first two are the first of four processes'.
LABELS: dict[str, dict[str, range]] = {
    "every label": {},
    "one task a process": {"depth": range(6), "semseg": range(2, 8), "normals": range(4)},
    "one process without labels": dict.fromkeys(TASKS, range(6, 8)),
}
CASES = [(name, labels) for name in BALANCERS for labels in LABELS]
IMAGES = 8


def of_tiny_tasks(name: str, dtype: torch.dtype = torch.float64) -> tuple[Balancer, MultiTaskNetwork]:
    """The balancer of a line of the list, and the tiny network with whatever the balancer has in it."""
    short, options, _ = BALANCERS[name]
    options = dict(options)
    if "weights" in options:
        options["weights"] = {"depth": 0.5}
    if isinstance(options.get("scope"), list):
        options["scope"] = ["encoder.stem"]
    balancer = plait.balancing.create(short, tasks=tiny_tasks(), **options)
    model = tiny_network(dtype=dtype)
    install(balancer, model)
    return balancer, model


def install(balancer: Balancer, model: MultiTaskNetwork) -> None:
    """Gives a network what a balancer keeps in it."""
    if (between := balancer.at_cut(model.encoder.channels)) is not None:
        model.at_cut = between.to(next(model.parameters()))
    balancer.attach(model)


def steps(name: str, labels: str, places: range) -> dict[str, Tensor]:
    """Three steps and an epoch's end on the images at ``places``: weights, parameters and state."""
    torch.manual_seed(0)
    balancer, model = of_tiny_tasks(name)
    optimizer = torch.optim.SGD([*model.parameters(), *balancer.parameters()], lr=0.05)
    found: dict[str, Tensor] = {}
    for number in range(3):
        batches = [
            [part(tiny_batch(IMAGES, absent=LABELS[labels], seed=10 * number + extra), list(places))]
            for extra in range(1 + balancer.needs.extra_batches)
        ]
        report = training_step(model, batches[0], balancer, optimizer, extra=batches[1:], clip_norm=5.0)
        found[f"weights {number}"] = report.weights
        if number == 1:
            balancer.end_epoch()
            balancer.see_scores(dict.fromkeys(TASKS[:2], SCORES))
    found |= {f"after {key}": value.detach().clone() for key, value in model.state_dict().items()}
    state: dict[str, Any] = balancer.state_dict()
    return found | {f"state {key}": value.clone() for key, value in state.items()}


SCORES = {"score": 0.5, "miou": 0.4, "delta1": 0.3, "within_11_25": 0.2, "within_30": 0.6}


def main() -> None:
    torch.set_num_threads(1)
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    share = IMAGES // world
    try:
        own = range(share * rank, share * rank + share)
        results = {str(case): steps(*case, own) for case in CASES}
        torch.save(results, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
