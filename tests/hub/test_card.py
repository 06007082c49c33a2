"""The model card: what the hub reads, what people read, and that no text of a recipe breaks it."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from tests.hub.conftest import recipe_of

import plait.tasks
from plait import config
from plait.config import Recipe
from plait.hub import card
from plait.study.cost import Cost
from plait.training.scores import Scores

COST = Cost(
    parameters=3_310_000, active_parameters=3_200_000, flops=1_940_000_000, latency=0.1, memory=24 * 2**20
)


def described(changes: dict[str, Any] | None = None, **about: Any) -> card.Described:
    """A network as if it were trained."""
    recipe: Recipe = config.replace(recipe_of("rooms"), {"data.root": None, **(changes or {})})
    tasks = tuple(task for task in plait.tasks.parse(recipe.tasks) if not task.auxiliary)
    values = {task.name: {measure.name: 0.5 for measure in task.measures} for task in tasks}
    made = card.Described(
        name="tiny", source="hf:org/tiny", recipe=recipe, tasks=tasks,
        scores=Scores.of(tasks, values, split="test", images=80),
        step=recipe.training.steps, cost=COST, size=(32, 40),
    )  # fmt: skip
    return replace(made, **about)


def read(text: str) -> tuple[dict[str, Any], str]:
    """What the hub reads, and what people read."""
    found = re.fullmatch(r"---\n(.*?\n)---\n\n(.*)", text, re.DOTALL)
    assert found is not None
    return yaml.safe_load(found[1]), found[2]


def test_the_hubs_own_reader_understands_it(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(card.write(described(licence="cc-by-4.0")))
    data = ModelCard.load(path).data
    assert data.license == "cc-by-4.0"
    assert data.library_name == "plait"
    assert data.pipeline_tag == "depth-estimation"
    assert data.datasets == ["rooms"]
    assert {"multi-task-learning", "image-segmentation", "normals"} <= set(data.tags or ())
    assert data.model_name == "tiny"
    results = {(result.task_name, result.metric_type): result for result in data.eval_results or ()}
    assert results["depth", "rmse"].metric_value == 0.5
    assert results["depth", "rmse"].metric_name == "RMSE (protocol plain)"
    assert results["semseg", "miou"].task_type == "image-segmentation"
    assert results["semseg", "miou"].dataset_split == "test"


@pytest.mark.parametrize(
    ("tasks", "tag"),
    [
        ({"a": {"kind": "normals"}, "b": {"kind": "depth"}}, "depth-estimation"),
        ({"a": {"kind": "saliency"}}, "image-segmentation"),
        ({"a": {"kind": "edges"}, "b": {"kind": "normals"}}, "image-to-image"),
    ],
)
def test_the_hub_knows_what_kind_of_network_it_is(tasks: dict[str, Any], tag: str) -> None:
    assert read(card.write(described({"tasks": tasks})))[0]["pipeline_tag"] == tag


def test_it_says_all_that_is_asked_of_a_card() -> None:
    text = read(card.write(described(licence="mit")))[1]
    heads = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert heads == [
        "Use", "What it predicts", "How good it is", "How it was trained", "What it costs", "Licences",
        "Limits", "Sources",
    ]  # fmt: skip
    for sentence in (
        'predict = plait.load("hf:org/tiny")',
        "plait predict hf:org/tiny photo.jpg --out predictions",
        'made["depth"].values  # float32 [H, W], m',
        "| depth | depth | metres along the optical axis | m | – |",
        "| depth | RMSE ↓ | plain | 0.500 m |",
        "Scored on 80 held-out pictures of rooms that plait rendered (split test)",
        "3.31 million parameters, 3.20 million of them in use when it predicts; 0.97 billion "
        "multiply-accumulates and 24 MiB for one picture of 32x40",
        "Backbone and weights: test_resnet, random weights",
        "Metres (depth) hold only for cameras like those",
        "Its training pictures are rendered",
        "shown to it fitted into 32x40",
        "These weights: mit, as chosen by who shared them.",
        "Caruana",
    ):
        assert sentence in text
    assert "left out" not in text
    assert "None" not in text


def test_classes_are_named() -> None:
    tasks = {"seg": {"kind": "semantic", "classes": ["sofa", "a|b", "<script>"]}}
    text = read(card.write(described({"tasks": tasks})))[1]
    assert r"Classes of seg by id: 0 sofa, 1 a\|b, 2 &lt;script>." in text
    assert 'made["seg"].values  # uint8 [H, W], a class id a pixel' in text


@pytest.mark.parametrize(
    ("model", "said", "never"),
    [
        ({"pretrained": True}, r"licence apache-2.0 \(timm", "No commercial use"),
        (
            {"backbone": "vit_base_patch16_224.mae", "pretrained": True},
            r"\*\*No commercial use\*\*",
            "apache-2.0",
        ),
        ({"weights": "mine.pth"}, "weights of mine.pth, licence not known to plait", "No commercial use"),
        ({}, "random weights", "started from: "),
    ],
)
def test_the_licence_of_the_backbones_weights_is_there(model: dict[str, Any], said: str, never: str) -> None:
    text = read(card.write(described({f"model.{key}": value for key, value in model.items()})))[1]
    assert re.search(said, text)
    assert never not in text


def test_without_a_licence_it_says_so() -> None:
    head, text = read(card.write(described()))
    assert "license" not in head
    assert "These weights: nobody has said." in text


def test_what_is_undefined_is_no_score_of_the_hub() -> None:
    made = described()
    assert made.scores is not None
    values = {task: dict(numbers) for task, numbers in made.scores.items()}
    values["depth"] = dict.fromkeys(values["depth"], float("nan"))
    head, text = read(card.write(replace(made, scores=replace(made.scores, by_task=values))))
    assert "depth" not in [result["task"]["name"] for result in head["model-index"][0]["results"]]
    assert "| depth | RMSE ↓ | plain | - |" in text


def test_auxiliary_tasks_are_not_among_its_predictions() -> None:
    text = read(card.write(described({"tasks": {
        "depth": {"kind": "depth"}, "edges": {"kind": "edges", "auxiliary": True},
    }})))[1]  # fmt: skip
    assert "| edges |" not in text
    assert "A dense prediction network: depth." in text


def test_labels_in_part_and_an_early_stop_are_told() -> None:
    changes = {"data.partial": {"keep": "one_label"}, "training.steps": 10, "training.keep": "best"}
    made = described(changes, step=7, scores=None)
    text = read(card.write(made))[1]
    assert "Labels: a part of them (one label)" in text
    assert "7 of 10 steps" in text
    assert "shared at step 7 of 10" in text
    assert "Its training had not finished" in text


def test_code_that_is_not_plaits_is_named() -> None:
    made = described()
    own = config.replace(
        made.recipe, {"model.encoder": "mine.parts:Encoder", "data.name": "mine.data:Cupboards"}
    )
    head, text = read(card.write(replace(made, recipe=own)))
    assert "It needs code that is not plait's and is not here: `mine.parts:Encoder`" in text
    assert 'plait.load("hf:org/tiny", own_parts=True)' in text
    assert "the data set mine.data:Cupboards" in text
    assert "datasets" not in head


@pytest.mark.parametrize("decoder", ["pad_net", "mti_net"])
def test_papers_are_named_as_their_docstrings_do(decoder: str) -> None:
    found = card.source_of("decoder", decoder)
    assert re.search(r"20\d\d", found)
    assert "\n" not in found
    assert card.source_of("decoder", "nothing_like_it") == ""
