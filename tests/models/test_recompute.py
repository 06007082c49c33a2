"""Computing again in the backward pass: as often as gradients are asked for, and counted once."""

from typing import Any

import pytest
import torch
from tests.models.pyramids import make_tasks
from torch import Tensor, nn

import plait
from plait.models.recompute import recomputed
from plait.tasks.objective import losses
from plait.testing import tiny_backbone

DECODERS = ("pad_net", "mti_net", "pap_net", "jtrl", "psd")


def per_task_gradients(module: nn.Module, images: Tensor, checkpointing: bool) -> list[list[Tensor]]:
    """Of three losses of one forward pass, one backward pass after the other."""
    made = recomputed(module, images) if checkpointing else module(images)
    totals = made.square().mean((0, 2, 3))
    return [list(torch.autograd.grad(t, list(module.parameters()), retain_graph=True)) for t in totals]


def test_several_backward_passes_through_one_graph_recompute_it_each_time() -> None:
    def block() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU())

    images = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    plain, again = block(), block()
    expected, found = per_task_gradients(plain, images, False), per_task_gradients(again, images, True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(dict(again.named_buffers()), dict(plain.named_buffers()), rtol=0, atol=0)
    assert again[1].momentum == plain[1].momentum


@pytest.mark.parametrize("scope", ["features", "parameters"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_rules_on_gradients_work_with_checkpointing(decoder: str, scope: str) -> None:
    tasks = make_tasks("semseg", "depth", "edge", auxiliary=("edge",))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = {
        "semseg": torch.zeros(2, 1, 64, 64, dtype=torch.long),
        "depth": torch.ones(2, 1, 64, 64),
        "edge": images[:, :1].sigmoid(),
    }

    def update(checkpointing: bool) -> tuple[Tensor, dict[str, Tensor | None], dict[str, Tensor]]:
        torch.manual_seed(0)
        options: dict[str, Any] = {"gradient_checkpointing": checkpointing}
        if decoder != "mti_net":
            options["width"] = 8
        model = plait.create_model(
            backbone=tiny_backbone, decoder=decoder, decoder_options=options, tasks=tasks
        ).train()
        balancer = plait.balancing.create("mgda", scope=scope, tasks=tasks)
        with balancer.cut(model.encoder(images)) as leaves:
            report = balancer.backward(
                losses(tasks, model.decode(leaves, (64, 64)), labels),
                parameters=model.encoder.shared_parameters(),
                others=model.decoder.parameters(),
            )
        return (
            report.weights,
            {name: p.grad for name, p in model.named_parameters()},
            dict(model.named_buffers()),
        )

    weights, gradients, statistics = update(False)
    weights_again, gradients_again, statistics_again = update(True)
    torch.testing.assert_close(weights_again, weights, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(gradients_again, gradients, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(statistics_again, statistics, rtol=0, atol=0)
