"""The published networks give the same numbers, on parameters filled by a rule that sees only shapes."""

import numpy as np
import pytest
import torch
from tests.models.published import FILES, compare, fill, waves
from torch import nn

import plait


@pytest.mark.parametrize(
    ("file", "backbone", "parameters"),
    [("r18_nyud_mtl", "resnet18", 20_631_401), ("hrnet18_nyud_mtl", "hrnet_w18_small_v2", 4_019_251)],
)
def test_the_shared_baseline_equals_the_published_one(file: str, backbone: str, parameters: int) -> None:
    published = np.load(FILES / f"{file}.npz")
    tasks = plait.tasks.parse({"semseg": {"kind": "semantic", "classes": 40}, "depth": {"kind": "depth"}})
    network = plait.create_model(backbone=backbone, tasks=tasks).double().eval()
    assert sum(p.numel() for p in network.parameters()) == published["parameters"] == parameters
    fill(network)
    height, width, shift = published["input"]
    with torch.no_grad():
        final = network(waves(int(height), int(width), float(shift))).final
    for task, output in final.items():
        assert compare(output, published[task]) < 1e-9


@pytest.mark.parametrize("name", ["resnet18", "resnet26"])
def test_dilation_at_output_stride_8_is_the_published_scheme(name: str) -> None:
    backbone = plait.models.create_backbone(name)
    layer3, layer4 = backbone.stages[2:]
    for stage, first, others in [(layer3, 1, 2), (layer4, 2, 4)]:
        convolutions = [m for m in stage.modules() if isinstance(m, nn.Conv2d)]
        wide = [m for m in convolutions if m.kernel_size == (3, 3)]
        assert {m.stride for m in convolutions} == {(1, 1)}
        assert [m.dilation[0] for m in wide] == [first] + [others] * (len(wide) - 1)
        assert [m.padding for m in wide] == [m.dilation for m in wide]
        assert all(m.kernel_size == (1, 1) and m.dilation == (1, 1) for m in convolutions if m not in wide)
    assert backbone.strides == (4, 8, 8, 8)
