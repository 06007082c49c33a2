"""Every encoder with every decoder: builds, runs, learns, or is refused in a sentence that names both."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
from tests.contracts.test_models import decoder_options, encoder_options, images, make_tasks
from torch import Tensor

import plait
from plait import registry
from plait.errors import ConfigurationError
from plait.models import MultiTaskNetwork
from plait.tasks.base import Task
from plait.tasks.objective import losses
from plait.testing import tiny_backbone

PAIRS = list(product(registry.ENCODERS, registry.DECODERS))
FAMILIES = (
    "resnet18",
    "tf_efficientnet_lite0",
    "convnext_atto",
    "swin_tiny_patch4_window7_224",
    "hrnet_w18_small",
    "test_vit",
)
WITHOUT_STAGES = ("hrnet_w18_small", "test_vit")
FREE = ("shared", "separate")
"""Encoders that ask nothing of a backbone; any may, and then takes all families."""


def network(encoder: str, decoder: str, backbone: Any, tasks: Sequence[Task]) -> MultiTaskNetwork:
    torch.manual_seed(0)
    return plait.create_model(
        backbone=backbone,
        encoder=encoder,
        decoder=decoder,
        tasks=tasks,
        encoder_options=encoder_options(encoder, [task.name for task in tasks]),
        decoder_options=decoder_options(decoder, tasks),
    )


def targets(tasks: Sequence[Task]) -> dict[str, Tensor]:
    """Labels that a pixel's place decides, so that they can be learned."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    facing = torch.stack([rows - 0.5, columns - 0.5, -torch.ones(64, 64)])
    maps = {
        "semseg": ((rows > 0.5).long() + 2 * (columns > 0.5).long())[None],
        "depth": (1 + rows + columns)[None],
        "normals": torch.nn.functional.normalize(facing, dim=0),
    }
    return {task.name: maps[task.name].expand(2, -1, -1, -1) for task in tasks}


def objective(model: MultiTaskNetwork, batch: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The sum of the losses, and the same with the penalties."""
    predictions = model(batch)
    by_task = losses(model.tasks, predictions, labels)
    total = torch.stack(list(by_task.values())).sum()
    penalties = {**predictions.penalties, **model.decoder.loss_penalties(predictions, by_task)}
    return total, total + sum(penalties.values())


def trained(model: MultiTaskNetwork, steps: int, lr: float = 1e-2) -> list[float]:
    """The losses of a few steps on one batch."""
    batch, labels = images(), targets(model.tasks)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    seen = []
    for step in range(steps):
        model.train().at_step(step, steps)
        optimizer.zero_grad()
        total, whole = objective(model, batch, labels)
        whole.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        seen.append(total.item())
    return seen


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_every_pair_learns_one_batch(encoder: str, decoder: str) -> None:
    model = network(encoder, decoder, tiny_backbone, make_tasks())
    seen = trained(model, 16)
    assert min(seen[-4:]) < 0.8 * seen[0]
    model.eval()
    with torch.no_grad():
        again = model(images(33, 65)).final
    assert all(logits.shape[-2:] == (33, 65) and logits.isfinite().all() for logits in again.values())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_every_pair_learns_on_every_family_or_is_refused(encoder: str, decoder: str, family: str) -> None:
    tasks = make_tasks(("semseg", "depth"))
    try:
        model = network(encoder, decoder, family, tasks)
    except ConfigurationError as error:
        assert family in WITHOUT_STAGES
        assert encoder not in FREE
        assert repr(encoder) in str(error)  # noqa: PT017
        assert repr(family) in str(error)  # noqa: PT017
        return
    seen = trained(model, 5, lr=2e-3)
    assert min(seen[1:]) < seen[0]


def test_what_cannot_work_together_is_refused_with_both_names() -> None:
    tasks = {"semseg": {"kind": "semantic", "classes": 5}, "depth": {"kind": "depth"}}
    with pytest.raises(ConfigurationError, match=r"'cross_stitch'.*'hrnet_w18_small'"):
        plait.create_model(backbone="hrnet_w18_small", encoder="cross_stitch", tasks=tasks)
    with pytest.raises(ConfigurationError, match=r"'mtan'.*'resnet10t'"):
        plait.create_model(backbone="resnet10t", encoder="mtan", tasks=tasks)
    with pytest.raises(
        ConfigurationError, match=r"auxiliary.*encoder 'shared' on 'resnet10t', decoder 'independ"
    ):
        plait.create_model(
            backbone="resnet10t", tasks={**tasks, "edges": {"kind": "edges", "auxiliary": True}}
        )


ONCE = [(e, "independent") for e in registry.ENCODERS] + [("shared", d) for d in list(registry.DECODERS)[1:]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's own, after a graph break
@pytest.mark.parametrize(("encoder", "decoder"), ONCE)
def test_every_part_can_be_compiled(encoder: str, decoder: str) -> None:
    torch.compiler.reset()
    model = network(encoder, decoder, tiny_backbone, make_tasks()).eval()
    compiled = torch.compile(model, backend="aot_eager")  # traced and differentiated as by inductor
    expected, found = model(images()).final, compiled(images()).final
    for task, logits in expected.items():
        torch.testing.assert_close(found[task], logits, rtol=1e-4, atol=1e-5)
    torch.stack([logits.square().mean() for logits in found.values()]).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
