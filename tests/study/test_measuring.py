"""Arms measured alike: true steps, nothing written, and one arm's error is its own."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from plait.config import Recipe, assign, dump, parse, plain, replace
from plait.study import measuring
from plait.study.cost import Cost, StepCost
from plait.study.measuring import First, Network, measure_arms
from plait.testing import write_tiny_rooms
from plait.training.session import Session

CPU = torch.device("cpu")
Measure = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = write_tiny_rooms(tmp_path_factory.mktemp("rooms"), images=(6, 3, 3), size=(32, 48))
    return parse(
        {
            "data": {"root": str(root)},
            "tasks": {"semantic": {"kind": "semantic", "classes": 20}, "depth": {"kind": "depth"}},
            "model": {
                "backbone": "test_resnet",
                "decoder": {"name": "independent", "head": "linear"},
            },
            "augmentation": {"size": [32, 32]},
            "training": {"steps": 6, "batch_size": 4},
        }
    )


def text(recipe: Recipe, changes: Mapping[str, Any]) -> str:
    """The YAML of a recipe with dotted keys changed, whether or not it is valid."""
    tree = plain(recipe)
    for key, value in changes.items():
        assign(tree, key, value)
    return yaml.safe_dump(tree)


@pytest.fixture
def measure(recipe: Recipe) -> Measure:
    """Measures arms that change something: ``measure(arm={"training.accumulate": 2})``."""

    def run(**changes: Mapping[str, Any]) -> dict[str, Any]:
        arms = {arm: {"recipe": text(recipe, changed)} for arm, changed in changes.items()}
        return dict(measure_arms(arms, repeats=1, device="cpu")["arms"])

    return run


def alone(recipe: Recipe) -> list[str]:
    """Single-task recipes."""
    return [text(recipe, {"tasks": {name: told}}) for name, told in recipe.tasks.items()]


def test_an_arms_numbers_are_a_cost_as_json_holds_it(recipe: Recipe) -> None:
    found = measure_arms({"arm": {"recipe": dump(recipe)}}, repeats=1, device="cpu")
    assert json.loads(json.dumps(found)) == found
    arm = found["arms"]["arm"]
    cost = Cost.of(arm)
    assert cost.active_parameters == cost.parameters
    assert cost.step_memory is not None
    assert cost.step_memory > cost.memory > 4 * cost.parameters
    assert arm["macs"] == cost.macs
    assert arm["test_images"] == 3
    for name in ("latency", "step_seconds", "start_seconds", "load_seconds", "evaluate_seconds"):
        assert arm[name] > 0, name
    assert (found["device"], found["threads"]) == ("cpu", 1)


def test_networks_of_an_arm_are_measured_apart_and_added(recipe: Recipe) -> None:
    arms = {"single-task": {"recipes": alone(recipe)}, "shared": {"recipe": dump(recipe)}}
    found = measure_arms(arms, repeats=1, device="cpu")["arms"]
    single, shared = found["single-task"], found["shared"]
    assert len(single["networks"]) == 2
    for name in ("parameters", "macs", "latency", "step_seconds", "start_seconds", "evaluate_seconds"):
        assert single[name] == pytest.approx(sum(one[name] for one in single["networks"])), name
    assert single["step_memory"] == max(one["step_memory"] for one in single["networks"])
    assert single["test_images"] == shared["test_images"]
    assert single["macs"] > shared["macs"]


def test_the_steps_are_true_ones(measure: Measure, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, set[tuple[int, int, int]]] = {}
    update = Session.update

    def watched(self: Session, micro: Any, extra: Any = ()) -> Any:
        sizes = (len(micro), len(micro[0].images), len(extra))
        seen.setdefault(str(self.recipe.balancer), set()).add(sizes)
        assert self.step == 3  # the middle
        assert self.model.training
        return update(self, micro, extra)

    monkeypatch.setattr(Session, "update", watched)
    arms = {
        "plain": {"balancer": "equal"},
        "gradients": {"balancer": "mgda"},
        "parts": {"balancer": "dwa", "training.accumulate": 2},
        "batches": {"balancer": "sdmgrad"},
    }
    found = measure(**arms)
    assert seen == {"equal": {(1, 4, 0)}, "mgda": {(1, 4, 0)}, "dwa": {(2, 2, 0)}, "sdmgrad": {(1, 4, 2)}}
    assert found["gradients"]["step_memory"] > found["plain"]["step_memory"]


def test_an_update_for_each_task_and_an_average_are_in_the_step(measure: Measure) -> None:
    found = measure(
        plain={},
        average={"training.ema": 0.9},
        sgd={"optimizer": {"name": "sgd", "momentum": 0.0, "lr": 0.1}},
        turns={"training.alternate_tasks": True},
    )
    bytes_of_weights = 4 * found["plain"]["parameters"]
    assert found["average"]["step_memory"] >= found["plain"]["step_memory"] + bytes_of_weights
    assert found["sgd"]["step_memory"] <= found["plain"]["step_memory"] - 2 * bytes_of_weights
    assert found["turns"]["step_memory"] != found["plain"]["step_memory"]


def test_weights_that_are_used_again_count_as_often(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    again = text(recipe, {"balancer": {"name": "mgda", "every": 4}})

    def made_up(steps: Mapping[Any, Any], *_: Any, **__: Any) -> dict[Any, Any]:
        return {(key, kind): StepCost({"anew": 5.0, "again": 1.0}[kind], 7, None) for key, kind in steps}

    monkeypatch.setattr(measuring, "measure_steps", made_up)
    found = measure_arms({"arm": {"recipe": again}}, repeats=1, device="cpu")["arms"]["arm"]
    assert found["step_seconds"] == pytest.approx((5.0 + 3 * 1.0) / 4)


def test_a_step_with_weights_used_again_takes_no_gradients_of_tasks(recipe: Recipe) -> None:
    changed = replace(recipe, {"balancer": {"name": "mgda", "every": 3}})
    rehearsal = Network.start(changed, CPU).rehearsal()
    reports = []
    update = rehearsal.session.update
    rehearsal.session.update = lambda *given: reports.append(update(*given))  # type: ignore[method-assign]
    for step in rehearsal.kinds().values():
        step.run()
        step.run()
    assert [report.gramian is not None for report in reports] == [True, True, False, False]


def test_gradients_are_freed_after_a_step(recipe: Recipe) -> None:
    rehearsal = Network.start(recipe, CPU).rehearsal()
    assert all(p.grad is None for p in rehearsal.session.model.parameters())


def test_an_arm_that_cannot_be_measured_says_why_and_the_others_are(recipe: Recipe, measure: Measure) -> None:
    found = measure(
        e={"model.encoder": "no such encoder"},
        pair={"balancer": {"name": "mgda", "scope": "features"}, "model.encoder": "cross_stitch"},
        equal={},
    )
    assert "no such encoder" in found["e"]["error"]
    assert "has no place to cut" in found["pair"]["error"]
    assert found["equal"]["step_seconds"] > 0
    texts = [*alone(recipe), "model: {backbone: none such}"]
    both = measure_arms({"half": {"recipes": texts}, "none": {}}, repeats=1, device="cpu")["arms"]
    assert set(both["half"]) == {"error"}
    assert "expected a recipe" in both["none"]["error"]


def test_arms_that_do_not_fit_together_are_measured_alone(
    recipe: Recipe, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = measuring.measure_inference

    def small(models: Mapping[Any, Any], *given: Any, **options: Any) -> Any:
        if len(models) > 1:
            raise torch.OutOfMemoryError("the accelerator is full")
        return real(models, *given, **options)

    monkeypatch.setattr(measuring, "measure_inference", small)
    found = measure(one={}, other={"balancer": "dwa"})
    assert {arm: told["step_seconds"] > 0 for arm, told in found.items()} == {"one": True, "other": True}
    arms = {"one": {"recipe": dump(recipe)}, "single-task": {"recipes": alone(recipe)}}
    found = measure_arms(arms, repeats=1, device="cpu")["arms"]
    assert found["single-task"] == {"error": "the accelerator is full"}
    assert found["one"]["step_seconds"] > 0


def test_nothing_is_written_and_random_numbers_go_on(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = sorted(Path(recipe.data.root or "").rglob("*"))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    measure_arms({"arm": {"recipe": dump(recipe)}}, repeats=1, device="cpu", threads=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert os.listdir(tmp_path) == []  # noqa: PTH208
    assert sorted(Path(recipe.data.root or "").rglob("*")) == files


def test_images_have_the_size_that_evaluation_has(measure: Measure) -> None:
    found = measure(
        own={},
        size={"evaluation.size": [64, 96]},
        window={"evaluation.window": [32, 24]},
    )
    assert found["size"]["macs"] == pytest.approx(4 * found["own"]["macs"], rel=0.1)
    assert found["window"]["macs"] == pytest.approx(found["own"]["macs"] / 2, rel=0.4)


def test_the_first_samples_of_a_data_set_are_a_data_set(recipe: Recipe) -> None:
    network = Network.start(recipe, CPU)
    first = First(network.dataset, 2)
    assert len(first) == 2
    assert len(First(network.dataset, 100)) == len(network.dataset)
    assert first.id(1) == network.dataset.id(1)
    assert first.present(0) == network.dataset.present(0)  # type: ignore[attr-defined]
