"""The recipes of papers and the studies of them: readable, found by name, and with the papers' settings."""

import fnmatch
import math
from pathlib import Path

import pytest
from tests.recipes.numbers import FIRST_RELEASE, PRINTED, SETTINGS
from tests.recipes.papers import PAPERS, STUDIES

import plait.tasks
from plait.config import Recipe, replace
from plait.data.cityscapes.classes import NAMES, PARTS
from plait.data.nyud.classes import CLASSES_40
from plait.data.pascal_context.dataset import VOC_CLASSES
from plait.data.pascal_context.human_parts import CLASSES
from plait.errors import ConfigurationError
from plait.recipes import recipe_path, recipes, studies
from plait.study.arms import PlannedArm, arms_of
from plait.study.plan import load_study

IMAGES = {"nyud": 795, "pascal_context": 4998, "cityscapes": 2975}
WITH_PEOPLE = 1716
CLASSES_OF = {
    "nyud": {"semantic": [CLASSES_40]},
    "pascal_context": {"semantic": [VOC_CLASSES], "parts": [CLASSES]},
    "cityscapes": {"semantic": [NAMES[7], NAMES[19]], "parts": [PARTS]},
}


def of(*names: str) -> dict[str, Recipe]:
    """The recipes of some data sets."""
    return {name: recipe for name, recipe in PAPERS.items() if name.partition("/")[0] in names}


# --- files and names --------------------------------------------------------------------------------------


def test_a_file_is_a_recipe_or_a_study_and_both_are_read() -> None:
    assert not set(recipes()) & set(studies())
    for name in STUDIES:
        assert load_study(name).arms
    for recipe in PAPERS.values():
        assert plait.tasks.parse(recipe.tasks)


@pytest.mark.parametrize(
    "name", ["nyud/mtl_r50", "recipes/nyud/mtl_r50.yaml", Path("recipes/nyud/mtl_r50.yaml")]
)
def test_a_recipe_is_found_without_the_repository(
    name: Path | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe_path(name) == recipes()["nyud/mtl_r50"]


def test_a_study_is_found_in_the_same_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert recipe_path("recipes/nyud/balancing.yaml") == studies()["nyud/balancing"]


def test_a_file_that_is_there_comes_before_a_built_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "recipes" / "nyud" / "mtl_r50.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("tasks: {}\n")
    monkeypatch.chdir(tmp_path)
    assert recipe_path("recipes/nyud/mtl_r50.yaml").resolve() == mine.resolve()


def test_a_name_that_is_nearly_one_is_answered_with_it() -> None:
    with pytest.raises(ConfigurationError, match=r"no recipe .*did you mean 'nyud/mtl_r50'"):
        recipe_path("recipes/nyud/mtl_r5.yaml")


def test_the_command_in_a_recipe_names_it() -> None:
    for name in PAPERS:
        assert f"#   plait train {name} --data.root DIR" in recipes()[name].read_text(), name
    for name in STUDIES:
        assert f"#   plait study run {name} --data.root DIR" in studies()[name].read_text(), name


# --- what they say ----------------------------------------------------------------------------------------


def test_classes_are_those_of_the_data_set() -> None:
    seven = {"two_mtl_r50", "two_mtan_r50", "two_cross_stitch_r50"}
    for name, recipe in PAPERS.items():
        if name.startswith("cityscapes/"):
            assert (len(recipe.tasks["semantic"]["classes"]) == 7) == name.startswith(
                tuple(f"cityscapes/{stem}" for stem in seven)
            )
        for task, options in recipe.tasks.items():
            if options["kind"] == "semantic":
                assert tuple(options["classes"]) in CLASSES_OF[recipe.data.name][task], (name, task)


def settings_of(name: str) -> tuple[str, float, int, int]:
    """Optimizer, learning rate, batch size and epochs that the survey, or a code, names for a recipe."""
    text = [settings for pattern, settings in SETTINGS.items() if fnmatch.fnmatch(name, pattern)][-1]
    optimizer, lr, batch, epochs = text.split()
    return optimizer, float(lr), int(batch), int(epochs)


@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_trains_by_the_settings_of_its_paper(name: str) -> None:
    recipe = PAPERS[name]
    optimizer, lr, batch, epochs = settings_of(name)
    assert (recipe.optimizer.name, recipe.optimizer.lr, recipe.training.batch_size) == (optimizer, lr, batch)
    assert recipe.optimizer.momentum == 0.9
    assert not recipe.optimizer.nesterov
    images = WITH_PEOPLE if recipe.data.options.get("people_only") else IMAGES[recipe.data.name]
    batches = math.ceil(images / batch) if "three" in name else images // batch
    assert recipe.training.steps == epochs * batches
    assert recipe.data.train_split == "trainval"
    assert recipe.training.keep == "last", "nothing may be selected where no part is held out"


def test_the_survey_s_recipes_share_what_the_survey_s_runs_share() -> None:
    for name, recipe in of("nyud", "pascal_context").items():
        assert recipe.evaluation.protocol == "survey", name
        assert (recipe.schedule.name, recipe.schedule.power) == ("poly", 0.9), name
        assert (recipe.optimizer.weight_decay, recipe.optimizer.no_decay_on_norms) == (1e-4, False), name
        assert recipe.training.precision == "fp32", name
        for task in recipe.tasks.values():
            assert task.get("positive_weight", 0.95) == 0.95, name


def test_augmentation_is_the_survey_s() -> None:
    for recipe in of("nyud").values():
        assert recipe.augmentation == {
            "size": [480, 640], "scales": [1.0, 1.2, 1.5], "crop": False, "colour": 0.0,
        }  # fmt: skip
    for recipe in of("pascal_context").values():
        assert recipe.augmentation == {
            "size": [512, 512], "scale": [0.75, 1.25], "rotation": 20.0, "crop": False, "colour": 0.0,
        }  # fmt: skip


def test_weights_of_losses_are_the_survey_s() -> None:
    pascal = {"semantic": 1, "parts": 2, "saliency": 5, "edges": 50, "normals": 10}
    nyud = {"semantic": 1, "depth": 1, "normals": 10, "edges": 50}
    for name, recipe in of("nyud", "pascal_context").items():
        found = {task.name: task.weight for task in plait.tasks.parse(recipe.tasks)}
        if "single" in name:
            assert recipe.balancer == "equal"
            assert set(found.values()) == {1}
        else:
            known = nyud if recipe.data.name == "nyud" else pascal
            assert found == {task: known[task] for task in found}, name


def test_only_edges_and_normals_on_nyud_are_auxiliary() -> None:
    for name, recipe in PAPERS.items():
        auxiliary = {task for task, options in recipe.tasks.items() if options.get("auxiliary")}
        assert auxiliary == ({"normals", "edges"} if "_en_" in name else set()), name


# --- published numbers ------------------------------------------------------------------------------------


def test_every_recipe_of_a_printed_row_carries_it_and_no_other_does() -> None:
    assert {name for name, recipe in PAPERS.items() if recipe.published is not None} == set(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_published_numbers_are_as_printed(name: str) -> None:
    found, printed = PAPERS[name].published, PRINTED[name]
    assert found is not None
    scores = {
        f"{task} {measure}": value
        for task, values in found.scores.items()
        for measure, value in values.items()
    }
    assert scores == printed.scores
    assert (found.relative_gain, found.parameters, found.flops) == (
        printed.gain, printed.parameters, printed.flops,
    )  # fmt: skip
    assert found.copied == printed.copied
    assert (found.uncertain is not None) == printed.doubted
    assert found.source
    first = FIRST_RELEASE.get(name)
    assert ("first release of its code reports" in (found.note or "")) == (first is not None)
    if first is not None:
        assert f"reports {first}" in (found.note or "")


@pytest.mark.parametrize("name", PRINTED)
def test_published_scores_are_of_headline_measures_that_the_recipe_reports(name: str) -> None:
    recipe = PAPERS[name]
    assert recipe.published is not None
    headlines = {
        task.name: task.scored(recipe.evaluation.protocol).headline.name
        for task in plait.tasks.parse(recipe.tasks)
        if not task.auxiliary
    }
    for task, values in recipe.published.scores.items():
        assert list(values) == [headlines[task]]


def test_a_gain_agrees_with_the_scores_it_was_taken_from() -> None:
    """To 0.12 points, or 0.5 where first releases print one digit: the columns are rounded."""
    lower = ("depth rmse", "normals mean")
    references = {
        "nyud/*_r50": {"semantic miou": 43.9, "depth rmse": 0.585},
        "pascal_context/*_r18*": dict(zip(("semantic miou", "parts miou", "normals mean", "saliency miou",
                                          "edges ods"), (66.2, 59.9, 13.9, 66.3, 68.8), strict=True)),
    }  # fmt: skip
    checked = 0
    for name, printed in PRINTED.items():
        single = next((values for p, values in references.items() if fnmatch.fnmatch(name, p)), None)
        if single is None or printed.gain is None or set(printed.scores) != set(single):
            continue
        gains = [(-1 if key in lower else 1) * (printed.scores[key] / single[key] - 1) for key in single]
        assert 100 * sum(gains) / len(gains) == pytest.approx(printed.gain, abs=0.12), name
        checked += 1
    assert checked == 15


# --- studies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_s_arms_are_built_in_recipes_and_can_be_compared(name: str) -> None:
    study = load_study(name)
    assert study.seeds == [0, 1, 2]
    assert study.title
    for changes in study.arms.values():
        assert changes is not None
        assert changes["recipe"] in PAPERS
        starts = changes.get("model.init_from") == "single-task"
        sets_out = "cross_stitch" in changes["recipe"] or "nddr" in changes["recipe"]
        assert starts == (sets_out and not name.startswith("cityscapes"))
    arms = arms_of(study)
    assert all(arm.reference is not None for arm in arms if arm.role == "arm")


def test_a_study_says_how_many_runs_it_makes() -> None:
    for name in STUDIES:
        study = load_study(name)
        runs = len(study.seeds) * sum(len(arm.networks) for arm in arms_of(study))
        assert f"3 seeds: {runs} runs" in studies()[name].read_text(), name


def reference_of(study: str, arm: str) -> PlannedArm:
    """The single-task arm that an arm is held against."""
    arms = {planned.name: planned for planned in arms_of(load_study(study))}
    reference = arms[arm].reference
    assert reference is not None
    return arms[reference]


@pytest.mark.parametrize(
    ("study", "arm", "single"),
    [
        ("nyud/architectures", "MTL, ResNet-50", "nyud/single_{}_r50"),
        ("nyud/architectures", "PAD-Net, ResNet-50", "nyud/single_{}_r50"),
        ("nyud/architectures", "MTI-Net with edges and normals, HRNet-W18", "nyud/single_{}_hrnet18"),
        ("nyud/balancing", "MGDA", "nyud/single_{}_r50"),
    ],
)
def test_on_nyud_a_study_s_references_are_the_survey_s_single_task_recipes(
    study: str, arm: str, single: str
) -> None:
    for network in reference_of(study, arm).networks:
        recipe = PAPERS[single.format(network.task)]
        same = replace(recipe, {"published": None, "model.decoder": {"name": "independent"}})
        assert network.recipe == same


def test_on_pascal_context_the_survey_s_single_task_recipes_train_otherwise() -> None:
    for network in reference_of("pascal_context/architectures", "MTL, ResNet-18").networks:
        recipe = PAPERS[f"pascal_context/single_{network.task}_r18"]
        assert network.recipe.training.batch_size == 6
        assert recipe.training.batch_size == 12
        assert network.recipe.tasks == recipe.tasks
