"""The networks of the recipes are the published ones: as many parameters, on torch's meta device."""

import fnmatch

import pytest
import torch
from tests.recipes.numbers import COUNTED, COUNTED_TOGETHER
from tests.recipes.papers import PAPERS

import plait.tasks
from plait.training.run import make_network


def parameters(name: str) -> float:
    """Millions of parameters of a recipe's network."""
    recipe = PAPERS[name]
    with torch.device("meta"):
        network = make_network(recipe, plait.tasks.parse(recipe.tasks), pretrained=False)
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


@pytest.mark.parametrize("name", COUNTED)
def test_a_network_has_the_parameters_of_the_published_code(name: str) -> None:
    assert parameters(name) == pytest.approx(COUNTED[name], abs=0.06)


@pytest.mark.parametrize(("pattern", "number"), COUNTED_TOGETHER)
def test_single_task_networks_together_have_those_of_the_published_code(pattern: str, number: int) -> None:
    names = fnmatch.filter(PAPERS, pattern)
    assert len(names) == number
    assert sum(map(parameters, names)) == pytest.approx(COUNTED_TOGETHER[pattern, number], abs=0.06)


@pytest.mark.parametrize("name", [name for name in PAPERS if name not in COUNTED and "single" not in name])
def test_a_network_without_such_a_number_can_be_built_and_is_no_larger_than_separate_ones(name: str) -> None:
    recipe = PAPERS[name]
    own = parameters(name)
    if recipe.model.backbone.startswith("hrnet"):
        assert 3.9 < own < 30
    elif recipe.model.backbone.startswith("resnet18"):
        assert own == pytest.approx(COUNTED["pascal_context/mtl_r18"], abs=0.06), "balancing adds no weights"
    else:
        assert 25 < own < 40 * len(recipe.tasks)
