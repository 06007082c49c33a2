"""Scores: pooled over the split, whatever the batching; views averaged as they should be."""

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor, nn

import plait.tasks
from plait.config import Evaluation, Recipe
from plait.data import create
from plait.data.sample import DataSet
from plait.errors import ConfigurationError, DataError
from plait.models.predictions import Predictions
from plait.training.evaluate import activated, constant_scores, evaluate, scored_tasks, starts
from plait.training.run import Run, make_network
from plait.training.scores import Scores
from plait.training.selection import Selection, split_loss

MakeRecipe = Callable[..., Recipe]
TASKS = plait.tasks.parse(
    {
        "semantic": {"kind": "semantic", "classes": 20},
        "depth": {"kind": "depth"},
        "normals": {"kind": "normals"},
    }
)


@pytest.fixture
def dataset(rooms: Path) -> DataSet:
    return create("rooms", split="train", labels=["semantic", "depth", "normals"], root=str(rooms))


@pytest.fixture
def network(make_recipe: MakeRecipe) -> Any:
    torch.manual_seed(0)
    tasks = {t.name: {"kind": t.kind, **({"classes": 20} if t.kind == "semantic" else {})} for t in TASKS}
    return make_network(make_recipe(tasks=tasks), TASKS)


class Pointwise(nn.Module):
    """A network that sees one pixel at a time: every way of looking at an image agrees on it."""

    normalisation = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))

    def __init__(self) -> None:
        super().__init__()
        self.tasks = TASKS
        self.heads = nn.ModuleDict({task.name: nn.Conv2d(3, task.channels, 1) for task in TASKS})

    def forward(self, images: Tensor) -> Predictions:
        return Predictions({name: head(images) for name, head in self.heads.items()})


def assert_close(one: Scores, other: Scores) -> None:
    for task, numbers in one.items():
        assert other[task] == pytest.approx(numbers, rel=1e-4, nan_ok=True)


@pytest.mark.parametrize("size", [None, (48, 48)])
def test_batching_does_not_change_a_score(
    network: Any, dataset: DataSet, size: tuple[int, int] | None
) -> None:
    one, several = (
        evaluate(network, dataset, evaluation=Evaluation(batch_size=b, size=size)) for b in (1, 4)
    )
    assert one.images == 6
    assert set(one) == {"semantic", "depth", "normals"}
    assert_close(one, several)


def test_the_network_is_left_as_it_was(network: Any, dataset: DataSet) -> None:
    network.train()
    network.encoder.eval()
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    evaluate(network, dataset)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "evaluation",
    [
        Evaluation(flip=True),
        Evaluation(window=(16, 16)),
        Evaluation(window=(13, 20), stride=(5, 7)),
        Evaluation(window=(999, 999), flip=True),
    ],
)
def test_views_of_a_pointwise_network_agree(evaluation: Evaluation) -> None:
    torch.manual_seed(0)
    model: Any = Pointwise()
    model.heads["normals"].weight.data[0] = 0  # a constant x, which a mirror turns round
    model.heads["normals"].bias.data[0] = 0
    images = torch.randn(2, 3, 24, 32)
    with torch.no_grad():
        plain = activated(model, images, TASKS, Evaluation())
        viewed = activated(model, images, TASKS, evaluation)
    for name in plain:
        torch.testing.assert_close(viewed[name], plain[name], rtol=1e-4, atol=1e-5)


def test_a_mirror_turns_normals_round() -> None:
    """A network that answers (1, 0, 0) everywhere has, averaged with its mirror image, no sideways part."""
    model: Any = Pointwise()
    nn.init.zeros_(model.heads["normals"].weight)
    model.heads["normals"].bias.data = torch.tensor([1.0, 0.0, 0.0])
    with torch.no_grad():
        viewed = activated(model, torch.randn(1, 3, 8, 8), TASKS, Evaluation(flip=True))
    assert viewed["normals"].abs().max() < 1e-6


def test_scales_average_what_may_be_averaged() -> None:
    model: Any = Pointwise()
    images = torch.randn(1, 3, 1, 1).expand(1, 3, 16, 16)
    with torch.no_grad():
        viewed = activated(model, images, TASKS, Evaluation(scales=[0.5, 1.0, 1.5]))
        plain = activated(model, images, TASKS, Evaluation())
    for name in plain:
        torch.testing.assert_close(viewed[name], plain[name], rtol=1e-4, atol=1e-5)


@settings(max_examples=50)
@given(length=st.integers(1, 300), window=st.integers(1, 300), stride=st.integers(1, 300))
def test_windows_cover_everything_and_stay_inside(length: int, window: int, stride: int) -> None:
    window, stride = min(window, length), min(stride, window)
    places = starts(length, window, stride)
    assert set().union(*(range(p, p + window) for p in places)) == set(range(length))


def test_the_constant_is_as_good_as_constants_get(dataset: DataSet) -> None:
    scores = constant_scores(dataset, dataset, TASKS)
    assert 0 < scores["semantic"]["miou"] < 0.2
    depths = torch.cat([dataset[i].targets["depth"].flatten() for i in range(len(dataset))])
    for constant in (depths.median(), depths.mean(), torch.tensor(2.0)):
        rmse = (depths - constant).square().mean().sqrt()
        assert scores["depth"]["rmse"] <= rmse + 0.2


def test_scores_are_written_and_read_back(tmp_path: Path) -> None:
    scores = Scores.of(
        TASKS,
        {"semantic": {"miou": 0.25, "pixel_accuracy": math.nan}, "depth": {"rmse": 0.5}},
        split="val",
        images=3,
    )
    scores.save(tmp_path / "scores.json")
    again = Scores.load(tmp_path / "scores.json")
    assert again.measures == scores.measures
    assert (again.split, again.images, again["depth"]) == ("val", 3, {"rmse": 0.5})
    assert math.isnan(again["semantic"]["pixel_accuracy"])
    rows = again.table().row_count
    assert rows == 3


def test_an_infinite_score_can_be_written_and_shown(tmp_path: Path) -> None:
    scores = Scores.of(TASKS, {"depth": {"rmse": math.inf}}, split="val", images=3)
    scores.save(tmp_path / "scores.json")
    assert math.isnan(Scores.load(tmp_path / "scores.json")["depth"]["rmse"])
    assert scores.table().row_count == 1


def test_a_table_says_how_many_images_were_scored() -> None:
    for split, images, title in (("val", 3, "val, 3 images"), ("", 1, "1 image"), ("", 0, None)):
        assert Scores.of(TASKS, {}, split=split, images=images).table().title == title


def test_scores_say_their_protocol_wherever_they_are_shown(tmp_path: Path) -> None:
    task = TASKS[1].scored("survey")
    scores = Scores.of([task], {"depth": {"rmse": 0.5, "delta1": 0.9, "abs_rel": 0.1}}, split="val", images=3)
    assert scores["depth"] == {"rmse": 0.5, "delta1": 0.9}, "what a protocol does not report is left out"
    console = Console(record=True, file=io.StringIO())
    console.print(scores.table())
    assert re.search(r"RMSE ↓ +│ survey +│ 0.500 m", console.export_text())
    assert '"protocol": "survey"' in scores.json()


def test_scores_written_before_there_were_protocols_are_plain(tmp_path: Path) -> None:
    scores = Scores.of(TASKS, {"depth": {"rmse": 0.5}}, split="val", images=3)
    tree = json.loads(scores.json())
    for measure in tree["measures"]["depth"]:
        del measure["protocol"]
    (tmp_path / "scores.json").write_text(json.dumps(tree))
    assert Scores.load(tmp_path / "scores.json") == scores


def test_the_recipe_s_protocol_decides_all_measures(network: Any, dataset: DataSet) -> None:
    scores = evaluate(network, dataset, evaluation=Evaluation(protocol="mtan"))
    assert {task: list(numbers) for task, numbers in scores.items()} == {
        "semantic": ["miou", "pixel_accuracy"],
        "depth": ["abs_err", "rel_err"],
        "normals": ["mean", "median", "within_11_25", "within_22_5", "within_30"],
    }
    assert {m.protocol for measures in scores.measures.values() for m in measures} == {"mtan"}
    constant = constant_scores(dataset, dataset, TASKS, protocol="mtan")
    assert constant.measures == scores.measures


def test_measures_are_told_what_the_data_says(dataset: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = plait.tasks.parse({"edges": {"kind": "edges"}})
    monkeypatch.setattr(type(dataset), "measuring", {"max_distance": 0.011, "outline": True}, raising=False)
    (scored,) = scored_tasks([task], "invpt", dataset)
    metric: Any = scored.metric()
    assert (metric.max_distance, metric.protocol.outline) == (0.011, True)


def test_a_run_s_tasks_have_the_measures_of_its_protocol(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = Run(tmp_path, make_recipe(**{"evaluation.protocol": "mtan"}))
    assert [task.headline.name for task in run.tasks] == ["miou", "abs_err"]
    with pytest.raises(ConfigurationError, match=r"criterion 'depth\.rmse' is unknown"):
        Selection(run.tasks, "depth.rmse")


@pytest.mark.parametrize("text", ["", "[]", '{"scores": 3}'])
def test_what_are_no_scores_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(DataError, match=r"scores\.json"):
        Scores.load(tmp_path / "scores.json")


def test_the_loss_of_a_split_does_not_depend_on_batching(network: Any, dataset: DataSet) -> None:
    one, several = (
        split_loss(network, dataset, size=(32, 48), batch_size=b, device=torch.device("cpu")) for b in (1, 4)
    )
    assert one == pytest.approx(several, rel=1e-4)


def numbers(miou: float, rmse: float) -> dict[str, dict[str, float]]:
    return {"semantic": {"miou": miou}, "depth": {"rmse": rmse}, "normals": {TASKS[2].headline.name: 30.0}}


def test_selection_keeps_to_its_criterion() -> None:
    by_depth = Selection(TASKS, "depth.rmse")
    steps = [
        numbers(0.1, 1.0),
        numbers(0.2, 1.2),
        numbers(0.1, 0.9),
        numbers(0.9, 0.9),
        numbers(0.1, math.nan),
    ]
    assert [by_depth.improved(k, n) for k, n in enumerate(steps)] == [True, False, True, False, False]
    assert by_depth.step == 2
    relative = Selection(TASKS, "relative")
    assert relative.improved(0, numbers(0.1, 1.0))
    assert relative.improved(1, numbers(0.2, 1.5))  # twice the mIoU for half more RMSE
    assert not relative.improved(2, numbers(0.1, 0.9))
    assert relative.best == pytest.approx((1.0 - 0.5 + 0) / 3)
    again = Selection(TASKS, "relative")
    again.restore(relative.state())
    assert again == relative
    loss = Selection(TASKS, "loss")
    assert [loss.improved(k, steps[0], value) for k, value in enumerate((3.0, 2.0, 2.5))] == [
        True,
        True,
        False,
    ]


def test_selection_begins_anywhere_but_with_nothing() -> None:
    from_zero = Selection(TASKS, "relative")
    assert from_zero.improved(0, numbers(0.0, 9.0))
    assert from_zero.improved(1, numbers(0.009, 0.5))
    assert not from_zero.improved(2, numbers(0.01, 9.0)), "a thousandth from 0 outweighs no metres"
    for criterion in ("relative", "depth.rmse"):
        with pytest.raises(ConfigurationError, match=f"'{criterion}' is undefined on the validation split"):
            Selection(TASKS, criterion).improved(0, numbers(0.1, math.nan))
