"""Run once in each of two processes: ``python -m tests.balancing.fsdp_processes RANK FOLDER``.

Writes what rules did with a network whose parameters FSDP shards to ``FOLDER/RANK.pt``.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import plait.balancing
from plait.errors import ConfigurationError

IMAGES = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
ON_LOSSES = ("equal", "uncertainty", "gls", "dwa", "rlw")


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5))
        self.heads = nn.ModuleDict({task: nn.Linear(5, 1) for task in "ab"})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.trunk(images)
        return {task: head(features) for task, head in self.heads.items()}


def losses(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Shares of losses over eight images."""
    return {task: output.square().sum() / len(IMAGES) for task, output in model(images).items()}


def sharded_network(*, heads: bool = True) -> Network:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, mesh = Network(), init_device_mesh("cpu", (dist.get_world_size(),))
    parts = [model.trunk[0], model.trunk[2], model.trunk]
    for part in [*parts, model] if heads else parts:
        fully_shard(part, mesh=mesh)
        part.set_force_sum_reduction_for_comms(True)  # losses are shares, so gradients are summed
        part.set_gradient_divide_factor(1.0)
    return model


def refusals(images: Tensor) -> list[str]:
    """What rules on gradients say, over parameters and at features, and what dropping tasks says."""
    said = []
    cases: list[tuple[str, dict[str, Any]]] = [("mgda", {}), ("mgda", {"scope": "features"}), ("equal", {})]
    for name, options in cases:
        model = sharded_network(heads=False)
        balancer = plait.balancing.create(name, tasks=["a", "b"], **options)
        balancer.drops = name == "equal"
        try:
            with balancer.cut(model.trunk(images)) as features:
                found = {task: head(features).square().sum() for task, head in model.heads.items()}
                given = model.trunk.parameters() if balancer.scope == "parameters" else None
                balancer.backward(found, parameters=given)
        except ConfigurationError as error:
            said.append(str(error))
    return said


def main() -> None:
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    found: dict[str, Any] = {}
    try:
        own = IMAGES[4 * rank : 4 * rank + 4]
        for name in ON_LOSSES:
            model = sharded_network()
            plait.balancing.create(name, tasks=["a", "b"]).backward(losses(model, own))
            found[name] = {key: p.grad.full_tensor() for key, p in model.named_parameters()}  # type: ignore[union-attr]
        found["refusals"] = refusals(own)
        torch.save(found, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
