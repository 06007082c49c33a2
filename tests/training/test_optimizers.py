"""Which parameter learns how fast."""

from typing import Any, Literal

import pytest
import torch
from torch import nn

from plait.config import Group, Optimizer
from plait.errors import ConfigurationError
from plait.models import create_backbone
from plait.training.optimizers import make_optimizer, parameter_groups, set_learning_rate


class Weighed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(2, 2))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def setting(groups: list[dict[str, Any]], key: str) -> dict[str, float]:
    return {name: group[key] for group in groups for name in group["names"]}


def test_norms_biases_and_the_balancer_do_not_decay() -> None:
    decay = setting(parameter_groups(network(), Weighed(), Optimizer(weight_decay=0.1)), "weight_decay")
    assert decay == {
        "0.weight": 0.1, "2.weight": 0.1,
        "0.bias": 0, "1.weight": 0, "1.bias": 0, "2.bias": 0, "balancer.scale": 0,
    }  # fmt: skip
    everywhere = Optimizer(weight_decay=0.1, no_decay_on_norms=False)
    assert set(setting(parameter_groups(network(), Weighed(), everywhere), "weight_decay").values()) == {0.1}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_multipliers_take_effect_at_every_step(name: Literal["sgd", "adam", "adamw"]) -> None:
    def moved(multiplier: float) -> list[torch.Tensor]:
        model = network()
        recipe = Optimizer(
            name=name, weight_decay=0, groups=[Group(pattern=r"^2\.", lr_multiplier=multiplier)]
        )
        optimizer = make_optimizer(model, nn.Module(), recipe)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        for lr in (0.1, 0.01):
            set_learning_rate(optimizer, lr)
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        return [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]

    plain, tenfold = moved(1), moved(10)
    for place, (one, other) in enumerate(zip(plain, tenfold, strict=True)):
        torch.testing.assert_close(other, 10 * one if place >= 4 else one)


def test_frozen_parameters_do_not_train() -> None:
    model = network()
    groups = parameter_groups(
        model, nn.Module(), Optimizer(groups=[Group(pattern="^0", freeze=True), Group(pattern=".")])
    )
    assert not any(name.startswith("0.") for name in setting(groups, "multiplier"))
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True, True, True]


def test_the_first_matching_pattern_counts() -> None:
    groups = [Group(pattern="weight", lr_multiplier=2), Group(pattern="2", lr_multiplier=3, weight_decay=0.5)]
    found = parameter_groups(network(), nn.Module(), Optimizer(groups=groups))
    assert setting(found, "multiplier")["2.weight"] == 2
    assert setting(found, "multiplier")["2.bias"] == 3
    assert setting(found, "weight_decay")["2.bias"] == 0.5


def test_layer_decay_slows_early_stages() -> None:
    backbone = create_backbone("test_resnet")
    model = nn.ModuleDict({"backbone": backbone, "head": nn.Conv2d(4, 2, 1)})
    rates = setting(parameter_groups(model, nn.Module(), Optimizer(layer_decay=0.5)), "multiplier")
    assert rates["head.weight"] == 1
    stages = [rates[next(n for n in rates if f"stages.{s}." in n)] for s in range(len(backbone.stages))]
    assert stages == [0.5 ** (len(stages) - 1 - place) for place in range(len(stages))]
    assert rates[next(n for n in rates if "stem" in n)] == 0.5 * stages[0]


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ([Group(pattern="nothing_like_it")], "matches no parameter"),
        ([Group(pattern="(")], "not a regular expression"),
        ([Group(pattern="", freeze=True)], "nothing to train"),
    ],
)
def test_patterns_that_cannot_work_are_refused(groups: list[Group], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        make_optimizer(network(), nn.Module(), Optimizer(groups=groups))
