"""MTI-Net: features of each scale, propagated to the next finer one, distilled and read together."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.models.published import FILES, compare, fill, waves
from torch import Tensor, nn

import plait
from plait.errors import ConfigurationError
from plait.models.decoders.mti_net import FeaturePropagation, MTINet
from plait.models.heads import FPNHead
from plait.tasks.base import Task
from plait.testing import reordered_state

CHANNELS, STRIDES = (6, 8, 10), (4, 8, 16)


def make_tasks(auxiliary: bool = True) -> tuple[Task, ...]:
    declared: dict[str, dict[str, Any]] = {
        "semseg": {"kind": "semantic", "classes": 40},
        "depth": {"kind": "depth"},
        "normals": {"kind": "normals", "auxiliary": True},
        "edge": {"kind": "edges", "auxiliary": True},
    }
    return plait.tasks.parse({n: d for n, d in declared.items() if auxiliary or not d.get("auxiliary")})


def make_decoder(groups: dict[str, str] | None = None, **options: Any) -> MTINet:
    tasks = make_tasks()
    torch.manual_seed(0)
    return (
        MTINet(
            tasks=tasks,
            channels={task.name: CHANNELS for task in tasks},
            strides={task.name: STRIDES for task in tasks},
            groups=groups,
            **options,
        )
        .double()
        .eval()
    )


def make_pyramids() -> dict[str, list[Tensor]]:
    random = torch.Generator().manual_seed(0)
    levels = [
        torch.randn(2, c, 32 // s, 64 // s, generator=random).double()
        for c, s in zip(CHANNELS, STRIDES, strict=True)
    ]
    return {task.name: levels for task in make_tasks()}


def make_features(*names: str) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, 4, 5, 5, generator=random).double() for name in names}


@pytest.mark.parametrize(
    ("file", "auxiliary", "parameters"),
    [("hrnet18_nyud_mti_net", False, 8_578_179), ("hrnet18_nyud_mti_net_aux", True, 14_838_121)],
)
def test_the_network_equals_the_published_one(file: str, auxiliary: bool, parameters: int) -> None:
    published = np.load(FILES / f"{file}.npz")
    network = plait.create_model(
        backbone="hrnet_w18_small_v2",
        decoder="mti_net",
        tasks=make_tasks(auxiliary),
        decoder_options={"reference": True},
    )
    network = network.double().eval()
    assert sum(p.numel() for p in network.parameters()) == published["parameters"] == parameters
    fill(network)
    made: dict[str, Tensor] = {}
    for scale, tasks in enumerate(network.decoder.scales):
        for task, module in tasks.items():
            key = f"deep_supervision__scale_{scale}__features_{task}"
            module.register_forward_hook(lambda module, given, out, key=key: made.update({key: out}))
    height, width, shift = published["input"]
    with torch.no_grad():
        out = network(waves(int(height), int(width), float(shift)))
    made.update(out.final)
    for scale, level in enumerate(out.intermediate):
        made.update({f"deep_supervision__scale_{scale}__{task}": map_ for task, map_ in level.items()})
    assert set(made) == set(published) - {"input", "parameters"}
    for key, map_ in made.items():
        assert compare(map_, published[key]) < 1e-9, key


@pytest.mark.parametrize("neck", ["fpn", "none"])
def test_every_scale_is_predicted_finest_first_at_its_own_size(neck: str) -> None:
    out = make_decoder(neck=neck, width=12)(make_pyramids(), (32, 64))
    sizes = [(32 // s, 64 // s) for s in STRIDES]
    for level, size in zip(out.intermediate, sizes, strict=True):
        assert {task: tuple(map_.shape) for task, map_ in level.items()} == {
            task.name: (2, task.channels, *size) for task in make_tasks()
        }


@pytest.mark.parametrize("moved", range(len(STRIDES)))
def test_each_scale_sees_itself_and_the_coarser_ones(moved: int) -> None:
    decoder, pyramids = make_decoder(), make_pyramids()
    levels = [level + (scale == moved) * level.abs() for scale, level in enumerate(pyramids["semseg"])]
    with torch.no_grad():
        before = decoder(pyramids, (32, 64)).intermediate
        after = decoder(dict.fromkeys(pyramids, levels), (32, 64)).intermediate
    for scale in range(len(STRIDES)):
        for task in pyramids:
            assert torch.equal(before[scale][task], after[scale][task]) == (scale > moved)


def test_propagation_weighs_each_channel_of_a_task_against_that_of_the_others() -> None:
    features = make_features("a", "b", "c")
    module = FeaturePropagation("abc", 4).double().eval()
    *_, last = module.mask
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    seen: list[Tensor] = []
    module.share.register_forward_hook(lambda module, given, made: seen.append(given[0]))
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([2.0, 5.0, 3.0]).log().repeat_interleave(4))
        handed = module(features)
        torch.testing.assert_close(
            seen[0], torch.cat([0.2 * features["a"], 0.5 * features["b"], 0.3 * features["c"]], 1)
        )
        shared = module.share(seen[0])
        for task, map_ in handed.items():
            torch.testing.assert_close(map_, features[task] + module.adapt[task](shared))


def test_the_reference_weighs_neighbouring_channels_against_each_other() -> None:
    features = make_features("a", "b")
    module = FeaturePropagation("ab", 4, reference=True).double().eval()
    *_, last = module.mask
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    seen: list[Tensor] = []
    module.share.register_forward_hook(lambda module, given, made: seen.append(given[0]))
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([1.0, 3.0]).log().repeat(4))
        module(features)
    weights = torch.tensor([0.25, 0.75, 0.25, 0.75]).double().view(4, 1, 1)
    torch.testing.assert_close(seen[0], torch.cat([features["a"] * weights, features["b"] * weights], 1))


@pytest.mark.parametrize("reference", [False, True])
def test_propagation_depends_on_the_order_of_tasks_in_the_reference_only(reference: bool) -> None:
    features = make_features("a", "b", "c")
    torch.manual_seed(0)
    module = FeaturePropagation("abc", 4, reference=reference).double().eval()
    turned = FeaturePropagation("bca", 4, reference=reference).double().eval()
    turned.load_state_dict(reordered_state(module, "abc", "bca"))
    with torch.no_grad():
        straight, reverse = module(features), turned(features)
    assert all(torch.allclose(reverse[task], straight[task]) != reference for task in features)


def test_a_task_that_is_alone_has_no_mask() -> None:
    module = FeaturePropagation("a", 4).double().eval()
    features = make_features("a")
    with torch.no_grad():
        expected = features["a"] + module.adapt["a"](module.share(features["a"]))
        torch.testing.assert_close(module(features)["a"], expected)
    assert list(module.mask.parameters()) == []


def test_one_neck_is_built_and_run_for_each_group() -> None:
    groups = {"semseg": "one", "depth": "other", "normals": "one", "edge": "one"}
    decoder, calls = make_decoder(groups, neck="fpn", width=12), []
    for group, module in decoder.necks.items():
        module.register_forward_hook(lambda module, given, made, group=group: calls.append(group))
    pyramids = make_pyramids()
    other = [level + 1 for level in pyramids["depth"]]
    with torch.no_grad():
        before = decoder(pyramids, (32, 64)).intermediate[-1]
        after = decoder(pyramids | {"depth": other}, (32, 64)).intermediate[-1]
    assert sorted(calls) == ["one", "one", "other", "other"]
    assert [task for task in before if not torch.equal(before[task], after[task])] == ["depth"]


@pytest.mark.parametrize(("default_head", "necks"), [("deeplab", 4), ("hrnet", 0), ("fpn", 0)])
def test_a_resnet_gets_a_neck(default_head: str, necks: int) -> None:
    assert len(make_decoder(default_head=default_head, width=12).necks) == necks


def test_the_head_is_an_option() -> None:
    decoder = make_decoder(head="fpn", head_options={"width": 5})
    assert isinstance(decoder.heads["depth"], FPNHead)
    assert list(decoder(make_pyramids(), (32, 64)).final) == list(decoder.heads) == ["semseg", "depth"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"neck": "fnp"}, "neck of decoder 'mti_net' must be 'fpn' or 'none', got 'fnp'"),
        ({"neck": ""}, "neck of decoder 'mti_net' must be 'fpn' or 'none', got ''"),
        ({"neck": "fpn", "width": 0}, "width of decoder 'mti_net' must be 1 or more, got 0"),
        ({"neck": "none", "width": -1}, "width of decoder 'mti_net' must be 1 or more, got -1"),
        ({"head": "deeplab"}, "head 'deeplab' reads the last one only: use hrnet, fpn or linear"),
    ],
)
def test_a_wrong_option_is_answered_in_a_sentence(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        make_decoder(**options)
