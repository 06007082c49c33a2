"""From a study file to arms: their recipes, names, single-task references, and what differs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from plait.config import load_recipe, plain
from plait.errors import ConfigurationError
from plait.study.arms import PlannedArm, arms_of
from plait.study.plan import Study, load_study, parse


def study(**keys: Any) -> Study:
    return parse({"recipe": "rooms/mtl", "arms": {"mtl": None}, **keys})


def arms(**keys: Any) -> dict[str, PlannedArm]:
    return {arm.name: arm for arm in arms_of(study(**keys))}


def test_an_arm_is_the_study_s_recipe_with_its_changes() -> None:
    made = arms(arms={"stitched": {"model.encoder": "cross_stitch", "optimizer.lr": 0.1}})
    recipe, base = made["stitched"].recipe, load_recipe("rooms/mtl")
    assert recipe.model.encoder == "cross_stitch"
    assert recipe.optimizer.lr == 0.1
    assert recipe.tasks == base.tasks
    assert made["stitched"].differs == {"optimizer.lr": ("0.1", "0.004")}  # what is compared is no difference


def test_a_grid_has_every_combination_beside_the_listed_arms() -> None:
    made = arms(grid={"model.encoder": ["shared", "mtan"], "balancer": ["equal", {"name": "dwa"}]})
    names = [name for name, arm in made.items() if arm.role == "arm"]
    assert names == ["mtl", "shared, equal", "shared, dwa", "mtan, equal", "mtan, dwa"]
    assert made["mtan, dwa"].recipe.balancer == {"name": "dwa"}


def test_arms_that_only_share_in_other_ways_have_one_reference() -> None:
    made = arms(
        arms={
            "mtl": {"tasks.depth.weight": 3.0},
            "stitched": {"model.encoder": "cross_stitch"},
            "pad": {"model.decoder": {"name": "pad_net"}},
            "mgda": {"balancer": "mgda", "training.diagnose_every": 20},
        }
    )
    references = [arm for arm in made.values() if arm.role == "single-task"]
    assert [arm.name for arm in references] == ["single-task"]
    assert {arm.reference for arm in made.values() if arm.role == "arm"} == {"single-task"}
    assert [network.task for network in references[0].networks] == ["semantic", "depth", "normals"]
    for network in references[0].networks:
        recipe = network.recipe
        assert list(recipe.tasks) == [network.task]
        assert (recipe.model.encoder, recipe.balancer) == ("shared", "equal")
        assert recipe.model.decoder == {"name": "independent", "head": "fpn"}
        assert recipe.training == load_recipe("rooms/mtl").training


def test_other_backbones_and_settings_have_references_of_their_own() -> None:
    made = arms(
        arms={
            "small": None,
            "large": {"model.backbone": "resnet18", "model.pretrained": False},
            "slow": {"optimizer.lr": 1e-4},
        }
    )
    assert made["small"].reference == "single-task (for small)"
    assert made["large"].reference == "single-task (resnet18)"
    assert made["slow"].reference == "single-task (for slow)"
    assert made["single-task (for slow)"].recipe.optimizer.lr == 1e-4
    assert made["single-task (for slow)"].differs == {"optimizer.lr": ("0.0001", "0.004")}


def test_auxiliary_tasks_have_no_single_task_network() -> None:
    made = arms(
        arms={"with edges": {"model.decoder": "pad_net", "tasks.edges": {"kind": "edges", "auxiliary": True}}}
    )
    networks = made["single-task"].networks
    assert [network.task for network in networks] == ["semantic", "depth", "normals"]
    assert made["with edges"].tasks == ["semantic", "depth", "normals"]


def test_budgets_are_steps_for_every_recipe() -> None:
    of_steps = arms(budget={"steps": 7}, arms={"a": None, "b": {"training.batch_size": 4}})
    assert {arm.recipe.training.steps for arm in of_steps.values()} == {7}
    of_samples = arms(budget={"samples": 80}, arms={"a": None, "b": {"training.batch_size": 4}})
    assert of_samples["a"].recipe.training.steps == 10
    assert of_samples["b"].recipe.training.steps == 20


def test_measurements_stay_within_a_short_budget() -> None:
    made = arms(budget={"steps": 5}, arms={"a": {"training.diagnose_every": 20}})
    assert made["a"].recipe.training.diagnose_every == 5


def test_measurements_stay_within_steps_of_the_command_line() -> None:
    made = arms(overrides={"training.steps": 2}, arms={"a": {"training.diagnose_every": 20}})
    assert made["a"].recipe.training.diagnose_every == 2
    assert made["a"].recipe.training.steps == 2


def test_an_arm_may_start_from_another_recipe_beside_the_study_file(tmp_path: Path) -> None:
    own = plain(load_recipe("rooms/mtl")) | {"balancer": "dwa"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    (tmp_path / "some.yaml").write_text(yaml.safe_dump({"arms": {"a": {"recipe": "own.yaml"}}}))
    read = load_study(tmp_path / "some.yaml")
    assert read.name == "some"
    made = {arm.name: arm for arm in arms_of(read, tmp_path)}
    assert made["a"].recipe.balancer == "dwa"


def test_an_arm_that_starts_from_single_task_networks_says_so_and_needs_them() -> None:
    changes = {"model.encoder": "cross_stitch", "model.init_from": "single-task"}
    made = arms(arms={"stitched": changes})
    assert made["stitched"].starts_from_reference
    assert made["stitched"].recipe.model.init_from is None
    with pytest.raises(
        ConfigurationError, match="starts from single-task networks, but the study trains none"
    ):
        arms(arms={"stitched": changes}, single_task=False)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"arms": {"a": {"model.encodr": "mtan"}}}, r"arm 'a': unknown key 'model\.encodr' \(did you mean"),
        ({"arms": {"a": {"data.root": "/elsewhere"}, "b": None}}, "cannot be in one study: data.root is"),
        ({"arms": {"a": {"processes": 0}}}, "processes must be a whole number from 1, got 0"),
        ({"recipe": None}, "arm 'mtl' has no recipe, and neither has the study"),
        ({"recipe": {"data": {"name": "rooms"}}}, "arm 'mtl' has no tasks"),
        ({"recipe": "roms/mtl"}, "'roms/mtl' is no recipe and no study"),
        ({"arms": {"single-task": None}}, "an arm's name must be other than the study's own"),
        ({"arms": {}, "grid": {}}, "arms must be one or more"),
        ({"grid": {"balancer": []}}, r"grid\.balancer must be one or more values"),
        ({"seeds": [0, 0]}, "seeds must be each given once"),
        ({"budget": {"steps": 0}}, r"budget\.steps must be positive, got 0"),
        ({"budget": {"steps": 5, "minutes": 2}}, "budget must be one of steps, samples and minutes"),
        ({"tuning": {"trials": 2, "search": {"optimizer.lr": 3}}}, r"search\.optimizer\.lr must be a list"),
        ({"tuning": {"trials": 2, "search": {"optimizer.lr": {"low": 2, "high": 1}}}}, "low below high"),
        ({"arm": {}}, r"unknown key 'arm' \(did you mean 'arms'\?\)"),
        ({"arms": {"lr 0.1": None}, "grid": {"optimizer.lr": [0.1]}}, "name them apart"),
    ],
)  # fmt: skip
def test_wrong_studies_are_one_sentence(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        arms(**keys)
    assert "\n" not in str(caught.value)


def test_arms_that_report_other_tasks_are_refused() -> None:
    tasks = plain(load_recipe("rooms/mtl"))["tasks"]
    with pytest.raises(ConfigurationError, match="they report the tasks depth and semantic, depth, normals"):
        arms(arms={"all": None, "one": {"tasks": {"depth": tasks["depth"]}}})
