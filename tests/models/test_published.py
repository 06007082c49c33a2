"""The published networks give the same numbers, on parameters filled by a rule that sees only shapes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import plait

FILES = Path(__file__).parents[1] / "data" / "models"


def fill(network: nn.Module) -> None:
    """Sets every parameter to a function of its shape, whatever its name is."""
    for parameter in network.parameters():
        size, shape = parameter.numel(), parameter.shape
        i = torch.arange(size, dtype=torch.float64)
        if parameter.dim() in (2, 4):
            values = (2 * shape[0] / size) ** 0.5 * torch.cos(0.7 * i + 0.1 * (i % 11))
        else:
            values = (0.4 + 0.1 * torch.cos(i[: shape[-1]])).repeat(size // shape[-1])
        parameter.data = values.view(shape)


def waves(height: int, width: int, shift: float) -> Tensor:
    """Two images of waves, float64."""
    image = torch.arange(2, dtype=torch.float64).view(2, 1, 1, 1)
    channel = torch.arange(3, dtype=torch.float64).view(1, 3, 1, 1)
    row = torch.arange(height, dtype=torch.float64).view(1, 1, height, 1)
    column = torch.arange(width, dtype=torch.float64).view(1, 1, 1, width)
    return torch.sin(0.05 * row + 0.07 * column * (channel + 1) + image + shift)


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
        step = max(1, output.shape[-1] // 8)
        expected = torch.from_numpy(published[task])
        error = (output[..., ::step, ::step] - expected).abs().max() / expected.abs().max()
        assert error < 1e-9


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
