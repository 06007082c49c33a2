"""Branched networks: shared at one end of the range of trees, separate at the other, and exact between."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import plait
from plait.errors import ConfigurationError
from plait.models.backbones import Backbone, create_backbone
from plait.models.encoders.base import Encoder
from plait.models.encoders.branched import Branched
from plait.models.encoders.separate import Separate
from plait.models.encoders.shared import Shared
from plait.testing import tiny_backbone

NAMES = ("semantic", "depth", "normals")
TREE = ["semantic depth normals", "semantic depth normals", "semantic | depth normals"]
SPREAD = [*TREE, "semantic | depth normals", "semantic | depth | normals"]


def branched(tree: Sequence[str], tasks: Sequence[str] = NAMES) -> Branched:
    torch.manual_seed(0)
    return Branched(make_backbone=tiny_backbone, tasks=tasks, tree=tree)


def images(height: int = 33, width: int = 65) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def assert_same(one: Encoder, other: Encoder) -> None:
    for training in (False, True):
        ours, theirs = (encoder.train(training)(images()) for encoder in (one, other))
        for task in NAMES:
            assert all(torch.equal(a, b) for a, b in zip(ours[task], theirs[task], strict=True))


def test_one_group_is_the_shared_network_to_the_bit() -> None:
    one, shared = branched([" ".join(NAMES)]), Shared(make_backbone=tiny_backbone, tasks=NAMES)
    state = one.state_dict()
    shared.load_state_dict({f"backbone.{key.split('.', 2)[2]}": value for key, value in state.items()})
    assert_same(one, shared)
    assert one.has_cut
    assert set(one.groups.values()) == {"depth"}
    assert set(one.columns()) == set(NAMES)
    assert len(set(one.columns().values())) == 1


def test_every_task_alone_is_the_separate_network_to_the_bit() -> None:
    apart, separate = branched([" | ".join(NAMES)]), Separate(make_backbone=tiny_backbone, tasks=NAMES)
    separate.load_state_dict(apart.state_dict())
    assert_same(apart, separate)
    assert not apart.has_cut
    assert apart.groups == separate.groups
    assert list(apart.columns().values()) == [apart.backbones[name] for name in NAMES]


@pytest.mark.parametrize("tree", [TREE, SPREAD])
def test_a_task_sees_what_its_own_path_alone_would_show_it(tree: list[str]) -> None:
    encoder = branched(tree).eval()
    pyramids = encoder(images())
    for task in NAMES:
        path = tiny_backbone().eval()
        for part, copy in enumerate(encoder.copies[task]):
            source = encoder.backbones[copy]
            assert isinstance(source, Backbone)
            if part:
                path.stages[part - 1].load_state_dict(source.stages[part - 1].state_dict())
            else:
                path.stem.load_state_dict(source.stem.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(pyramids[task], path(images()), strict=True))


def test_tasks_share_the_very_tensors_up_to_their_branch() -> None:
    pyramids = branched(SPREAD)(images())
    same = {
        pair: [a is b for a, b in zip(pyramids[pair[0]], pyramids[pair[1]], strict=True)]
        for pair in (("semantic", "depth"), ("depth", "normals"))
    }
    assert same["semantic", "depth"] == [True, False, False, False]
    assert same["depth", "normals"] == [True, True, True, False]


def test_parameters_are_listed_under_those_who_use_them() -> None:
    encoder, whole = branched(TREE), tiny_backbone()
    counted = {
        tasks: sum(p.numel() for p in parameters) for tasks, parameters in encoder.shared_parameters().items()
    }
    prices = [sum(p.numel() for p in part.parameters()) for part in (whole.stem, *whole.stages)]
    assert counted == {
        NAMES: sum(prices[:2]),
        ("semantic",): sum(prices[2:]),
        ("depth", "normals"): sum(prices[2:]),
    }
    assert sum(counted.values()) == sum(p.numel() for p in encoder.parameters())
    assert sum(counted.values()) == encoder.tree.cost(prices)


def test_the_order_of_tasks_does_not_matter() -> None:
    encoder, turned = branched(SPREAD).eval(), branched(SPREAD, NAMES[::-1]).eval()
    turned.load_state_dict(encoder.state_dict())
    straight, reverse = encoder(images()), turned(images())
    assert list(reverse) == list(NAMES[::-1])
    for task in NAMES:
        assert all(torch.equal(a, b) for a, b in zip(straight[task], reverse[task], strict=True))


def test_a_subset_runs_only_its_path() -> None:
    encoder = branched(TREE).eval()
    ran: list[torch.nn.Module] = []
    for leader in ("semantic", "depth"):
        backbone = encoder.backbones[leader]
        assert isinstance(backbone, Backbone)
        for stage in backbone.stages:
            stage.register_forward_hook(lambda module, given, made: ran.append(module))
    some, everything = encoder(images(), tasks=["normals"]), len(ran)
    assert everything == 4
    encoder(images())
    assert len(ran) - everything == 7
    assert list(some) == ["normals"]
    assert encoder(images(), tasks=[]) == {}


def test_a_tree_of_one_task_is_a_plain_network() -> None:
    encoder = branched(["depth"], ["depth"]).eval()
    backbone = encoder.columns()["depth"]
    for level, plain in zip(encoder(images())["depth"], backbone(images()), strict=True):
        assert torch.equal(level, plain)


@pytest.mark.parametrize("tree", [[" ".join(NAMES)], SPREAD])
def test_it_compiles_in_one_graph(tree: list[str]) -> None:
    encoder = branched(tree).eval()
    expected = encoder(images())
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")
    with torch.no_grad():
        found = compiled(images())
    for task in NAMES:
        assert all(torch.equal(a, b) for a, b in zip(found[task], expected[task], strict=True))
        assert [a is b for a, b in zip(found[task], found["depth"], strict=True)] == [
            a is b for a, b in zip(expected[task], expected["depth"], strict=True)
        ]


def test_a_network_of_it_trains() -> None:
    model = plait.create_model(
        backbone="test_resnet",
        encoder="branched",
        encoder_options={"tree": TREE},
        decoder_options={"head": "linear"},
        tasks={
            "semantic": {"kind": "semantic", "classes": 5},
            "depth": {"kind": "depth"},
            "normals": {"kind": "normals"},
        },
    )
    sum(map_.square().mean() for map_ in model(images(64, 64)).final.values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_a_backbone_without_stages_and_a_tree_of_other_tasks_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="encoder 'branched' acts between the stages"):
        Branched(make_backbone=lambda: create_backbone("test_vit"), tasks=NAMES, tree=TREE)
    with pytest.raises(ConfigurationError, match="expected a partition of semantic, depth, normals"):
        branched(["semantic depth"])
    with pytest.raises(ConfigurationError, match="from 1 to 5 partitions"):
        branched([" ".join(NAMES)] * 6)
