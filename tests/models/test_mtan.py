"""MTAN: the published numbers, masks on what is shared, and backbones of any shape."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.models.published import FILES, compare, fill, waves
from torch import Tensor, nn

import plait
from plait.errors import ConfigurationError
from plait.models.backbones import Backbone, create_backbone
from plait.models.blocks import Bottleneck
from plait.models.encoders.mtan import MTAN, inner_channels
from plait.testing import tiny_backbone

TASKS = ("semseg", "depth", "normals")
PASCAL = {
    "semseg": {"kind": "semantic", "classes": 21},
    "human_parts": {"kind": "semantic", "classes": 7},
    "sal": {"kind": "saliency"},
    "normals": {"kind": "normals"},
    "edge": {"kind": "edges"},
}


def images(height: int = 33, width: int = 65) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_it_equals_the_published_network() -> None:
    published = np.load(FILES / "r18_pascal_mtan.npz")
    network = plait.create_model(backbone="resnet18", encoder="mtan", tasks=PASCAL).double().eval()
    assert sum(p.numel() for p in network.parameters()) == published["parameters"] == 36_613_425
    fill(network)
    height, width, shift = published["input"]
    with torch.no_grad():
        final = network(waves(int(height), int(width), float(shift))).final
    assert all(compare(output, published[task]) < 1e-9 for task, output in final.items())


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_level_is_the_mask_times_what_the_stage_gives(value: float) -> None:
    encoder = MTAN(make_backbone=tiny_backbone, tasks=TASKS).eval()
    with torch.no_grad():
        for attention in encoder.attention["depth"]:
            attention[4].weight.zero_()  # the last batch norm: then the mask is the sigmoid of its shift
            attention[4].bias.fill_(100 * (2 * value - 1))
    expected, pyramid = encoder.backbone(images()), encoder(images())
    for level, whole in zip(pyramid["depth"], expected, strict=True):
        torch.testing.assert_close(level, value * whole)
    for level, whole in zip(pyramid["semseg"], expected, strict=True):
        assert (level.abs() <= whole.abs()).all()
        assert not torch.equal(level, whole)


def test_what_a_task_selects_is_refined_for_its_own_next_mask_only() -> None:
    encoder = MTAN(make_backbone=tiny_backbone, tasks=TASKS).train()  # batch norm keeps signals large
    before = encoder(images())
    with torch.no_grad():
        encoder.attention["depth"][1][0].weight.mul_(-2)
    after = encoder(images())
    same = [torch.equal(a, b) for a, b in zip(after["depth"], before["depth"], strict=True)]
    assert same == [True, False, False, False]
    for task in ("semseg", "normals"):
        assert all(torch.equal(a, b) for a, b in zip(after[task], before[task], strict=True))


def test_refinement_is_shared_and_pools_only_where_the_next_stage_is_coarser() -> None:
    encoder = MTAN(make_backbone=lambda: create_backbone("resnet18"), tasks=TASKS)
    layers = [[type(layer) for layer in refine] for refine in encoder.refine]
    assert layers == [[Bottleneck, nn.MaxPool2d], [Bottleneck], [Bottleneck]]
    pooled = MTAN(make_backbone=tiny_backbone, tasks=TASKS)
    assert [len(refine) for refine in pooled.refine] == [2, 2, 2]


FAMILIES: dict[str, dict[str, Any]] = {
    "resnet18": {"output_stride": 16},
    "tf_efficientnet_lite0": {},
    "mobilenetv2_050": {},
    "convnext_atto": {},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_it_takes_any_backbone_with_stages_and_any_size(family: str) -> None:
    encoder = MTAN(make_backbone=lambda: create_backbone(family, **FAMILIES[family]), tasks=["depth"]).eval()
    for size in ((33, 65), (64, 97)):
        with torch.no_grad():
            levels = encoder(images(*size))["depth"]
        shapes = [
            (2, c, -(-size[0] // s), -(-size[1] // s))
            for c, s in zip(encoder.channels["depth"], encoder.strides["depth"], strict=True)
        ]
        assert [tuple(level.shape) for level in levels] == shapes


def test_what_enters_the_last_block_of_a_stage_may_have_other_channels() -> None:
    backbone = create_backbone("tf_efficientnet_lite0").train()
    buffers = [buffer.clone() for buffer in backbone.buffers()]
    assert inner_channels(backbone) == [24, 40, 112, 192]
    assert backbone.channels == (24, 40, 112, 320)
    assert all(m.training for m in backbone.modules())
    assert all(torch.equal(a, b) for a, b in zip(backbone.buffers(), buffers, strict=True))


def test_recomputing_changes_no_gradient() -> None:
    def gradients(checkpointing: bool) -> list[Tensor]:
        torch.manual_seed(0)
        encoder = MTAN(
            make_backbone=lambda: create_backbone("resnet18", gradient_checkpointing=checkpointing),
            tasks=["a", "b"],
        ).train()
        sum(level.square().mean() for levels in encoder(images()).values() for level in levels).backward()
        return [p.grad for p in encoder.parameters() if p.grad is not None]

    torch.testing.assert_close(gradients(True), gradients(False), rtol=1e-4, atol=1e-6)


def test_a_stage_of_one_block_is_refused() -> None:
    def shallow() -> Backbone:
        backbone = tiny_backbone()
        del backbone.stages[2][0]
        return backbone

    with pytest.raises(ConfigurationError, match="two blocks in each, but stage 3 of 'tiny' has 1"):
        MTAN(make_backbone=shallow, tasks=TASKS)
