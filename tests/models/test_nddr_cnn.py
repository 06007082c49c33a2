"""NDDR-CNN: the published numbers, and what a unit is at its start."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.published import FILES, compare, fill, waves
from torch import Tensor, nn

import plait
from plait.errors import ConfigurationError
from plait.models.encoders.nddr_cnn import NDDRCNN
from plait.testing import reordered_state, tiny_backbone

TASKS = ("semseg", "depth", "normals")


def make(**options: Any) -> NDDRCNN:
    torch.manual_seed(0)
    return NDDRCNN(make_backbone=tiny_backbone, tasks=options.pop("tasks", TASKS), **options).eval()


def images() -> Tensor:
    return torch.randn(2, 3, 33, 65, generator=torch.Generator().manual_seed(0))


def test_it_equals_the_published_network() -> None:
    published = np.load(FILES / "r18_nyud_nddr_cnn.npz")
    tasks = {"semseg": {"kind": "semantic", "classes": 40}, "depth": {"kind": "depth"}}
    network = plait.create_model(backbone="resnet18", encoder="nddr_cnn", tasks=tasks).double().eval()
    assert sum(p.numel() for p in network.parameters()) == published["parameters"] == 33_221_033
    fill(network)
    height, width, shift = published["input"]
    with torch.no_grad():
        final = network(waves(int(height), int(width), float(shift))).final
    assert all(compare(output, published[task]) < 1e-9 for task, output in final.items())


@pytest.mark.parametrize(
    ("options", "own", "other"),
    [({}, 0.9, 0.05), ({"alpha": 0.8}, 0.8, 0.1), ({"alpha": 0.8, "beta": 0.3}, 0.8, 0.3)],
)
def test_units_start_by_mixing_tasks_with_alpha_and_beta_before_they_normalise(
    options: dict[str, float], own: float, other: float
) -> None:
    features = {task: torch.randn(2, 12, 3, 4) for task in TASKS}
    unit = make(**options).units[2]
    for receiver in TASKS:
        mixed = unit[receiver].reduce(torch.cat(list(features.values()), 1))
        parts = [(own if task == receiver else other) * features[task] for task in TASKS]
        torch.testing.assert_close(mixed, torch.stack(parts).sum(0))


def test_a_unit_normalises_with_momentum_0_05_and_keeps_what_is_positive() -> None:
    encoder = make()
    assert len(encoder.units) == 1 + 4
    norms = [m for m in encoder.units.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [norm.momentum for norm in norms] == [0.05] * 5 * len(TASKS)
    unit, features = encoder.units[1]["depth"].train(), torch.randn(2, 24, 3, 4)
    reduced = unit.reduce(features)
    mean, var = reduced.mean((0, 2, 3), keepdim=True), reduced.var((0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(unit(features), ((reduced - mean) / (var + 1e-5).sqrt()).relu())


def test_shortcuts_start_as_the_network_without_them_and_see_every_level() -> None:
    plain, encoder = make(), make(shortcut=True)
    encoder.load_state_dict(plain.state_dict(), strict=False)
    before, after = plain(images())["depth"], encoder(images())["depth"]
    torch.testing.assert_close(after, before)
    project = encoder.shortcuts["depth"].project
    assert project.weight.shape == (20, 8 + 12 + 16 + 20, 1, 1)
    for start, stop in ((0, 8), (8, 20), (20, 36)):
        nn.init.zeros_(project.weight)
        with torch.no_grad():
            project.weight[:, start:stop] = 0.1
        assert encoder(images())["depth"][-1].abs().max() > 0
    torch.testing.assert_close(encoder(images())["depth"][:-1], before[:-1])


@pytest.mark.parametrize("shortcut", [False, True])
def test_every_parameter_takes_part(shortcut: bool) -> None:
    encoder = make(shortcut=shortcut).train()
    sum(level.square().sum() for levels in encoder(images()).values() for level in levels).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_the_order_of_tasks_does_not_matter_with_shortcuts_either() -> None:
    encoder, turned = make(shortcut=True), make(shortcut=True, tasks=TASKS[::-1])
    for parameter in encoder.units.parameters():
        nn.init.normal_(parameter)
    turned.load_state_dict(reordered_state(encoder, TASKS, TASKS[::-1]))
    straight, reverse = encoder(images()), turned(images())
    for task in TASKS:
        torch.testing.assert_close(reverse[task], straight[task], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shortcut", [False, True])
def test_shared_parameters_say_whose_the_last_units_are(shortcut: bool) -> None:
    encoder = make(shortcut=shortcut)
    shared = encoder.shared_parameters()
    listed = [id(p) for parameters in shared.values() for p in parameters]
    assert sorted(listed) == sorted(id(p) for p in encoder.parameters())
    assert {users: len(parameters) for users, parameters in shared.items() if len(users) == 1} == {
        (task,): 3 + shortcut for task in TASKS
    }


def test_one_task_alone_is_its_backbone() -> None:
    encoder = make(tasks=["depth"])
    expected = encoder.columns()["depth"](images())
    assert all(torch.equal(a, b) for a, b in zip(encoder(images())["depth"], expected, strict=True))


def test_another_task_s_column_changes_each_level() -> None:
    encoder = make()
    before = encoder(images(), tasks=["depth"])["depth"]
    with torch.no_grad():
        encoder.columns()["normals"].stem.block[0].weight.mul_(1.5)
    after = encoder(images(), tasks=["depth"])["depth"]
    assert not any(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_making_it_leaves_the_statistics_of_its_backbones_alone() -> None:
    encoder = make()
    for column in encoder.columns().values():
        assert all(buffer.abs().max() in (0, 1) for buffer in column.buffers())


def test_the_multiplier_is_that_of_units_and_shortcuts() -> None:
    encoder = make(lr_multiplier=100.0, shortcut=True)
    own = {id(p) for p in encoder.parameters()} - {id(p) for p in encoder.backbones.parameters()}
    assert {id(p): factor for p, factor in encoder.lr_multipliers().items()} == dict.fromkeys(own, 100.0)
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigurationError, match=f"lr_multiplier of nddr_cnn must .* got {wrong}"):
            make(lr_multiplier=wrong)
