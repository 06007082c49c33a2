"""PAD-Net: one map, an initial prediction of every task, messages, a final prediction of the main ones."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.models.published import FILES, compare, fill, waves
from torch import Tensor, nn

import plait
from plait.errors import ConfigurationError
from plait.models.decoders.base import resized
from plait.models.decoders.pad_net import BottleneckHead, ConcatenatedLevels, PADNet
from plait.models.heads import FPNHead
from plait.tasks.base import Task

CHANNELS, STRIDES = (6, 8, 10), (4, 8, 16)


def make_tasks(auxiliary: bool = True) -> tuple[Task, ...]:
    declared: dict[str, dict[str, Any]] = {
        "semseg": {"kind": "semantic", "classes": 40},
        "depth": {"kind": "depth"},
        "normals": {"kind": "normals", "auxiliary": True},
        "edge": {"kind": "edges", "auxiliary": True},
    }
    return plait.tasks.parse({n: d for n, d in declared.items() if auxiliary or not d.get("auxiliary")})


def make_decoder(groups: dict[str, str] | None = None, **options: Any) -> PADNet:
    tasks = make_tasks()
    torch.manual_seed(0)
    return (
        PADNet(
            tasks=tasks,
            channels={task.name: CHANNELS for task in tasks},
            strides={task.name: STRIDES for task in tasks},
            groups=groups,
            **{"width": 8} | options,
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


@pytest.mark.parametrize(
    ("file", "auxiliary", "parameters"),
    [("hrnet18_nyud_pad_net", False, 7_019_056), ("hrnet18_nyud_pad_net_aux", True, 12_161_332)],
)
def test_the_network_equals_the_published_one(file: str, auxiliary: bool, parameters: int) -> None:
    published = np.load(FILES / f"{file}.npz")
    network = plait.create_model(
        backbone="hrnet_w18_small_v2", decoder="pad_net", tasks=make_tasks(auxiliary)
    )
    network = network.double().eval()
    assert sum(p.numel() for p in network.parameters()) == published["parameters"] == parameters
    fill(network)
    height, width, shift = published["input"]
    with torch.no_grad():
        final, (initial,), *_ = network(waves(int(height), int(width), float(shift)))
    for task in final:
        assert compare(final[task], published[task]) < 1e-9
    for task in initial:
        assert compare(initial[task], published[f"initial_{task}"]) < 1e-9
    assert len(final) + len(initial) == sum(key not in ("input", "parameters") for key in published)


def test_with_closed_gates_it_is_independent_heads_on_the_initial_features() -> None:
    decoder, pyramids = make_decoder(), make_pyramids()
    for name, module in decoder.named_modules():
        if name.endswith(".gate"):
            module.register_forward_hook(lambda module, given, made: torch.full_like(made, -1e9))
    with torch.no_grad():
        out = decoder(pyramids, (32, 64))
        for task, final in out.final.items():
            features = decoder.refine[task](decoder.maps[task](pyramids[task]))
            assert torch.equal(out.intermediate[0][task], decoder.initial[task](features))
            assert torch.equal(final, resized(decoder.heads[task]([features]), (32, 64)))


def test_one_map_is_computed_for_each_group() -> None:
    groups = {"semseg": "one", "depth": "other", "normals": "one", "edge": "one"}
    decoder, pyramids, calls = make_decoder(groups), make_pyramids(), []
    for group, module in decoder.maps.items():
        module.register_forward_hook(lambda module, given, made, group=group: calls.append(group))
    other = [level + 1 for level in pyramids["depth"]]
    with torch.no_grad():
        before = decoder(pyramids, (32, 64)).intermediate[0]
        after = decoder(pyramids | {"depth": other}, (32, 64)).intermediate[0]
    assert sorted(calls) == ["one", "one", "other", "other"]
    assert [task for task in before if not torch.equal(before[task], after[task])] == ["depth"]


@pytest.mark.parametrize(
    ("features", "channels", "size"),
    [("concat", sum(CHANNELS), (8, 16)), ("fpn", 8, (8, 16)), ("last", CHANNELS[-1], (2, 4))],
)
def test_the_map_has_the_stated_channels_and_size(
    features: str, channels: int, size: tuple[int, int]
) -> None:
    decoder = make_decoder(features=features)
    made = decoder.maps["depth"](make_pyramids()["depth"])
    assert made.shape == (2, channels, *size)
    final, (initial,), *_ = decoder(make_pyramids(), (32, 64))
    assert all(map_.shape[-2:] == size for map_ in initial.values())
    assert all(map_.shape[-2:] == (32, 64) for map_ in final.values())


@pytest.mark.parametrize(
    ("default_head", "concatenates"), [("hrnet", True), ("deeplab", False), ("fpn", False)]
)
def test_levels_are_concatenated_on_hrnet_only(default_head: str, concatenates: bool) -> None:
    decoder = make_decoder(default_head=default_head)
    assert isinstance(decoder.maps["depth"], ConcatenatedLevels) == concatenates


def test_the_head_is_an_option() -> None:
    assert isinstance(make_decoder().heads["depth"], BottleneckHead)
    decoder = make_decoder(head="fpn", head_options={"width": 5})
    head = decoder.heads["depth"]
    assert isinstance(head, FPNHead)
    assert isinstance(head.laterals[0], nn.Conv2d)
    assert head.laterals[0].weight.shape == (5, 8, 1, 1)
    assert list(decoder(make_pyramids(), (32, 64)).final) == list(decoder.heads) == ["semseg", "depth"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"width": 0}, "width of decoder 'pad_net' must be 1 or more, got 0"),
        ({"features": "conact"}, r"'conact' of decoder 'pad_net' \(did you mean 'concat'\?\); known are"),
        ({"features": ""}, "unknown features '' of decoder 'pad_net'; known are"),
        ({"head": ""}, "unknown head ''; known are"),
        ({"head_options": {"width": 3}}, "has no option 'width'; it takes none"),
    ],
)
def test_a_wrong_option_is_answered_in_a_sentence(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        make_decoder(**options)
