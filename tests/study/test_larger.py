"""Larger single-task networks: as many operations as an arm, by stated changes only."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from plait.config import Recipe, parse, plain
from plait.errors import ConfigurationError
from plait.study.cost import measure
from plait.study.larger import STEP, larger_recipe, total_macs, with_width
from plait.training.run import Run, make_network

SIZE = (48, 64)


def single(head: str | None = "fpn", backbone: str = "test_resnet", **options: int) -> tuple[Recipe, ...]:
    """Two single-task networks."""
    tasks = {"semantic": {"kind": "semantic", "classes": 20}, "depth": {"kind": "depth"}}
    decoder = {"name": "independent", "head": head, "head_options": options}
    model = {"backbone": backbone, "pretrained": False, "decoder": decoder}
    return tuple(parse({"tasks": {name: told}, "model": model}) for name, told in tasks.items())


def with_model(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with another part of its network."""
    return replace(recipe, model=replace(recipe.model, **changes))


@pytest.fixture(scope="module")
def fpn() -> tuple[Recipe, ...]:
    return single(width=16)


def test_operations_counted_without_computing_are_those_of_a_real_image(fpn: tuple[Recipe, ...]) -> None:
    real = 0
    for recipe in fpn:
        network = make_network(recipe, Run(Path(), recipe).tasks)
        real += measure({"net": network}, SIZE, repeats=1)["net"].macs
    assert total_macs(fpn, SIZE) == real


@pytest.mark.parametrize("encoder", ["sluice", "adashare"])
def test_paths_that_depend_on_weights_are_counted_too(fpn: tuple[Recipe, ...], encoder: str) -> None:
    both = replace(fpn[0], tasks={name: told for recipe in fpn for name, told in recipe.tasks.items()})
    recipe = with_model(both, encoder=encoder)
    network = make_network(recipe, Run(Path(), recipe).tasks)
    before = torch.get_rng_state()
    assert total_macs([recipe], SIZE) == measure({"net": network}, SIZE, repeats=1)["net"].macs
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("head", "factor"), [("fpn", 1.06), ("fpn", 5.0), ("deeplab", 1.7)])
def test_wider_heads_come_as_near_as_steps_of_eight_channels_can(head: str, factor: float) -> None:
    recipes = single(head, width=16)
    target = int(factor * total_macs(recipes, SIZE))
    found = larger_recipe(recipes, target, "wider", SIZE)
    assert found.macs == total_macs(found.recipes, SIZE)
    assert found.ratio == pytest.approx(found.macs / target)
    widths = {recipe.model.decoder["head_options"]["width"] for recipe in found.recipes}  # type: ignore[index]
    (width,) = widths
    assert found.changed == f"heads of {width} channels instead of 16"
    for other in (width - STEP, width + STEP):
        if other >= 16:
            near = [with_model(recipe, decoder=with_width(recipe, other)) for recipe in recipes]
            assert abs(total_macs(near, SIZE) / target - 1) >= abs(found.ratio - 1) * 0.9


def test_nothing_but_the_width_changes(fpn: tuple[Recipe, ...]) -> None:
    found = larger_recipe(fpn, 2 * total_macs(fpn, SIZE), "wider", SIZE)
    for before, after in zip(fpn, found.recipes, strict=True):
        width = after.model.decoder["head_options"]["width"]  # type: ignore[index]
        tree = plain(before)
        tree["model"]["decoder"]["head_options"]["width"] = width
        assert plain(after) == tree


def test_a_head_that_the_recipe_does_not_name_is_the_backbones(fpn: tuple[Recipe, ...]) -> None:
    recipes = tuple(with_model(recipe, decoder="independent") for recipe in fpn)
    found = larger_recipe(recipes, int(1.5 * total_macs(recipes, SIZE)), "wider", SIZE)
    assert found.ratio == pytest.approx(1, abs=0.05)


def test_heads_never_become_narrower(fpn: tuple[Recipe, ...]) -> None:
    found = larger_recipe(fpn, total_macs(fpn, SIZE) // 3, "wider", SIZE)
    assert found.ratio > 1
    assert (found.recipes, found.changed) == (fpn, "nothing")


@pytest.mark.parametrize("head", ["linear", "hrnet"])
def test_a_head_without_a_width_says_so(head: str) -> None:
    recipes = single(head)
    with pytest.raises(ConfigurationError, match=f"head '{head}' has no option 'width'"):
        larger_recipe(recipes, 10**9, "wider", SIZE)


def test_a_target_that_no_head_reaches_says_so(fpn: tuple[Recipe, ...]) -> None:
    with pytest.raises(ConfigurationError, match="still need less than"):
        larger_recipe(fpn, 10**15, "wider", SIZE)


def test_of_backbones_the_nearest_is_taken_and_its_heads_fill_what_lacks() -> None:
    recipes = single("fpn", "resnet10t", width=16)
    listed = ["resnet14t", "resnet18"]
    needed = {
        name: total_macs([with_model(recipe, backbone=name) for recipe in recipes], SIZE) for name in listed
    }
    below, above = (int(factor * needed["resnet18"]) for factor in (0.97, 1.1))
    found = larger_recipe(recipes, below, listed, SIZE)
    assert (found.changed, found.macs) == ("backbone resnet18", needed["resnet18"])
    wider = larger_recipe(recipes, above, listed, SIZE)
    assert wider.changed.startswith("backbone resnet18, heads of ")
    assert {recipe.model.backbone for recipe in wider.recipes} == {"resnet18"}
    assert abs(wider.ratio - 1) < abs(needed["resnet18"] / above - 1)


def test_a_backbone_whose_head_has_no_width_is_taken_as_it_is() -> None:
    recipes = single("linear", "test_resnet")
    found = larger_recipe(recipes, 10**9, ["resnet10t"], SIZE)
    assert found.changed == "backbone resnet10t"


def test_weights_of_one_backbone_are_not_given_to_another(fpn: tuple[Recipe, ...]) -> None:
    recipes = tuple(with_model(recipe, weights="mine.safetensors") for recipe in fpn)
    with pytest.raises(ConfigurationError, match=r"cannot start from mine\.safetensors"):
        larger_recipe(recipes, 10**9, ["resnet18"], SIZE)
    with pytest.raises(ConfigurationError, match="expected one backbone or more"):
        larger_recipe(fpn, 10**9, [], SIZE)
