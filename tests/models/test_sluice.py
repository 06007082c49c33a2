"""Sluice networks: subspaces, their mix, the mix of stages, and the penalty on what makes them."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from plait.errors import ConfigurationError
from plait.models.backbones import create_backbone
from plait.models.encoders.sluice import Skips, Sluice, last_layer
from plait.testing import reordered_state, tiny_backbone

TASKS = ("semseg", "depth", "normals")


def make(**options: Any) -> Sluice:
    torch.manual_seed(0)
    return Sluice(make_backbone=tiny_backbone, tasks=options.pop("tasks", TASKS), **options).eval()


def images() -> Tensor:
    return torch.randn(2, 3, 33, 65, generator=torch.Generator().manual_seed(0))


def test_a_unit_multiplies_the_stacked_subspaces_by_alpha() -> None:
    unit = make().units[0]
    nn.init.normal_(unit.alpha)
    features = {task: torch.randn(2, 8, 3, 4) for task in TASKS}
    stacked = torch.stack([half for task in TASKS for half in features[task].chunk(2, 1)])
    expected = torch.einsum("ij,jbchw->ibchw", unit.alpha, stacked)
    mixed = unit(features, TASKS)
    for place, task in enumerate(TASKS):
        torch.testing.assert_close(mixed[task], torch.cat([expected[2 * place], expected[2 * place + 1]], 1))


def test_the_last_level_is_a_weighted_sum_of_the_projected_stages() -> None:
    skips = Skips((8, 12, 20), 0.8)
    assert skips.beta.tolist() == pytest.approx([0.1, 0.1, 0.8])
    levels = [torch.randn(2, 8, 12, 8), torch.randn(2, 12, 6, 4), torch.randn(2, 20, 3, 2)]
    expected = 0.8 * levels[-1]
    for project, level in zip(skips.project, levels, strict=False):
        projected = torch.nn.functional.interpolate(project(level), size=(3, 2), mode="bilinear")
        expected = expected + 0.1 * projected
    torch.testing.assert_close(skips(levels), expected)


def test_with_identity_weights_it_is_separate_networks() -> None:
    encoder = make(alpha=1.0, beta=1.0)
    pyramids = encoder(images())
    for task, column in encoder.columns().items():
        assert all(torch.equal(a, b) for a, b in zip(pyramids[task], column(images()), strict=True))


def test_it_starts_near_the_identity() -> None:
    encoder = make()
    for unit in encoder.units:
        alpha = unit.alpha.detach()
        torch.testing.assert_close(alpha.diag(), torch.full((6,), 0.9))
        torch.testing.assert_close(alpha.sum(1), torch.ones(6))
    for skips in encoder.skips.values():
        assert skips.beta[-1].item() == pytest.approx(0.9)
        assert skips.beta.sum().item() == pytest.approx(1)


def test_the_penalty_is_the_overlap_of_the_weights_that_make_the_two_halves() -> None:
    encoder = make(orthogonality=0.5)
    expected = 0.0
    for column in encoder.columns().values():
        for stage in column.stages:
            weight = stage[1][0].weight.flatten(1)
            half = len(weight) // 2
            for one in weight[:half]:
                for other in weight[half:]:
                    expected += 0.5 * (one @ other).item() ** 2
    (penalty,) = encoder.penalties().values()
    assert penalty.item() == pytest.approx(expected, rel=1e-4)
    assert make(orthogonality=0.0).penalties() == {}


def test_the_penalty_is_zero_for_orthogonal_halves_and_falls_along_its_gradient() -> None:
    encoder = make(orthogonality=1.0)
    before = encoder.penalties()["orthogonality"]
    before.backward()
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
    assert encoder.penalties()["orthogonality"] < before
    for column in encoder.columns().values():
        for number in range(1, 5):
            nn.init.orthogonal_(last_layer(column, number).weight)
    assert encoder.penalties()["orthogonality"].item() < 1e-8


@pytest.mark.parametrize(
    ("backbone", "layer"),
    [
        ("resnet18", "1.conv2"),
        ("seresnet50", "2.conv3"),
        ("tf_efficientnet_lite0", "1.conv_pwl"),
        ("swin_tiny_patch4_window7_224", "1.block.mlp.fc2"),
    ],
)
def test_the_weights_are_those_of_the_last_full_layer(backbone: str, layer: str) -> None:
    column = create_backbone(backbone)
    assert last_layer(column, 1) is column.stages[0].get_submodule(layer)


def test_the_order_of_tasks_does_not_matter_to_trained_weights() -> None:
    encoder, turned = make(), make(tasks=TASKS[::-1])
    for unit in encoder.units:
        nn.init.normal_(unit.alpha)
    turned.load_state_dict(reordered_state(encoder, TASKS, TASKS[::-1]))
    straight, reverse = encoder(images()), turned(images())
    for task in TASKS:
        torch.testing.assert_close(reverse[task], straight[task], rtol=1e-4, atol=1e-4)


def test_another_task_s_column_changes_each_level() -> None:
    encoder = make()
    before = encoder(images(), tasks=["depth"])["depth"]
    with torch.no_grad():
        encoder.columns()["normals"].stem.block[0].weight.mul_(1.5)
    after = encoder(images(), tasks=["depth"])["depth"]
    assert not any(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_one_task_mixes_its_own_subspaces_and_stages() -> None:
    encoder = make(tasks=["depth"]).train()
    sum(level.square().sum() for level in encoder(images())["depth"]).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []
    assert list(encoder.shared_parameters()) == [("depth",)]


def test_what_cannot_be_split_or_weighed_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="stage 2 of 'tiny' has 13: use a backbone with even"):
        Sluice(make_backbone=lambda: tiny_backbone((8, 13, 16, 20)), tasks=TASKS)
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigurationError, match=f"orthogonality of sluice must be .* got {wrong}"):
            make(orthogonality=wrong)
    for option in ("alpha", "beta"):
        with pytest.raises(ConfigurationError, match="must be finite, got nan"):
            make(**{option: math.nan})
