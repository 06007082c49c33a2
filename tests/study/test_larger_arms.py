"""Larger single-task networks: one arm for each arm that needs more operations than its plain ones."""

from typing import Any

import pytest

from plait.errors import ConfigurationError
from plait.study.arms import PlannedArm, arms_of
from plait.study.larger import total_macs
from plait.study.larger_arms import MORE, larger_arms
from plait.study.plan import parse

SIZE = (32, 32)


def planned(**arms: Any) -> dict[str, PlannedArm]:
    base = {
        "model.backbone": "test_resnet",
        "model.pretrained": False,
        "evaluation.size": list(SIZE),
        "augmentation.size": list(SIZE),
    }
    study = parse({"recipe": "rooms/mtl", "arms": arms, "overrides": base, "larger_single_task": "wider"})
    assert study.larger_single_task is not None
    return {arm.name: arm for arm in larger_arms(arms_of(study), study.larger_single_task)}


def macs(arm: PlannedArm) -> int:
    return total_macs([network.recipe for network in arm.networks], SIZE)


def test_only_arms_that_need_more_get_larger_networks_that_need_as_much() -> None:
    arms = planned(MTL=None, wide={"model.decoder": {"name": "pad_net", "width": 64}})
    assert list(arms) == ["single-task", "MTL", "wide", "single-task as large as wide"]
    assert arms["MTL"].larger is None
    assert macs(arms["MTL"]) <= MORE * macs(arms["single-task"])
    larger = arms["single-task as large as wide"]
    assert arms["wide"].larger == larger.name
    assert (larger.role, larger.reference) == ("larger single-task", "single-task")
    assert macs(larger) == pytest.approx(macs(arms["wide"]), rel=0.05)
    assert [network.task for network in larger.networks] == ["semantic", "depth", "normals"]
    assert "made for wide: heads of" in larger.note


def test_arms_that_need_the_same_share_them() -> None:
    decoder = {"model.decoder": {"name": "pad_net", "width": 64}}
    arms = planned(a=decoder, b={**decoder, "balancer": "dwa"})
    assert arms["a"].larger == arms["b"].larger == "single-task as large as a"


def test_an_arm_that_cannot_be_built_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"arm 'odd': .*widht"):
        planned(odd={"model.decoder": {"name": "pad_net", "widht": 8}})
