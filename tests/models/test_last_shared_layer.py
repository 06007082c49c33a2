"""Which layer is the last that tasks share, for each head, as the documentation says."""

from typing import Any

import pytest
from tests.balancing.tiny import tiny_network
from torch import nn

import plait
from plait.errors import ConfigurationError
from plait.models.network import MultiTaskNetwork
from plait.models.parameters import last_shared_layer

KINDS: dict[str, dict[str, Any]] = {"depth": {"kind": "depth"}, "semseg": {"kind": "semantic", "classes": 4}}


def names(model: MultiTaskNetwork) -> list[str]:
    known = {parameter: name for name, parameter in model.named_parameters()}
    return [known[parameter] for parameter in last_shared_layer(model)]


@pytest.mark.parametrize(
    ("head", "stages"), [("deeplab", [3]), ("fpn", [0, 1, 2, 3]), ("linear", [0, 1, 2, 3])]
)
def test_on_a_resnet(head: str, stages: list[int]) -> None:
    model = plait.create_model(backbone="resnet18", tasks=KINDS, decoder_options={"head": head})
    before = {name: value.clone() for name, value in model.named_buffers()}
    assert names(model) == [f"encoder.backbone.stages.{stage}.1.conv2.weight" for stage in stages]
    assert all(module.training for module in model.modules())
    assert all(bool((value == before[name]).all()) for name, value in model.named_buffers())


def test_of_levels_that_are_frozen_there_is_none() -> None:
    model = tiny_network()
    assert names(model) == ["encoder.stem.0.weight", "encoder.branches.first.weight"]
    stem = model.encoder.stem[0]  # type: ignore[index]
    assert isinstance(stem, nn.Conv2d)
    stem.weight.requires_grad_(False)
    assert names(model) == ["encoder.branches.first.weight"]
    model.encoder.requires_grad_(False)
    with pytest.raises(ConfigurationError, match="no layer that tasks share and that is trained"):
        last_shared_layer(model)
