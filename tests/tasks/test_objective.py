"""Declarations become tasks; predictions and targets become one loss a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import plait.tasks
from plait.errors import ConfigurationError
from plait.models.predictions import Predictions
from plait.registry import TASKS as TASK_KINDS
from plait.registry import mismatch, returned
from plait.tasks import Task, losses, parse
from plait.tasks.depth import depth

TASKS = parse(
    {
        "semseg": {"kind": "semantic", "classes": 4},
        "depth": {"kind": "depth", "loss": {"l1": 1.0, "sobel": 0.5}},
        "normals": {"kind": "normals", "auxiliary": True, "weight": 10.0},
    }
)
TARGETS = {
    "semseg": torch.randint(4, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0)),
    "depth": torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)) + 1,
    "normals": torch.tensor([0.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(2, 3, 8, 8),
}


def predictions() -> Predictions:
    random = torch.Generator().manual_seed(2)

    def level(size: int, *names: str) -> dict[str, torch.Tensor]:
        channels = {task.name: task.channels for task in TASKS}
        return {
            n: torch.randn(2, channels[n], size, size, generator=random, requires_grad=True) for n in names
        }

    return Predictions(
        level(8, "semseg", "depth"), [level(4, "semseg", "depth", "normals"), level(2, "depth")]
    )


def test_the_declared_order_and_options_are_kept() -> None:
    assert [(t.name, t.kind, t.channels, t.weight, t.auxiliary) for t in TASKS] == [
        ("semseg", "semantic", 4, 1.0, False),
        ("depth", "depth", 1, 1.0, False),
        ("normals", "normals", 3, 10.0, True),
    ]
    assert parse({"near": {"kind": "depth", "label": "depth_left"}})[0].label == "depth_left"


def test_a_kind_may_be_an_import_path() -> None:
    (task,) = parse({"z": {"kind": "plait.tasks.depth:depth"}})
    assert task.kind == depth("z").kind


def test_a_name_and_a_kind_are_looked_at_before_the_kind_is_called(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    for name, kind, text in (
        (f"touch {trace}", "os:system", "letters, digits and underscores"),
        (f"touch {trace}", "plait.tasks.depth:depth", "letters, digits and underscores"),
        ("touch", "os:system", "task kind 'os:system' must be a function annotated '-> Task', got system"),
        ("touch", "os:mkdir", "must be a function annotated '-> Task', got mkdir"),
        ("touch", "plait.tasks.depth:linear", "must be a function annotated '-> Task', got linear"),
        ("touch", "plait.tasks.base:check_name", "must be a function annotated '-> Task', got check_name"),
        ("touch", "pathlib:Path", "must be a subclass of plait.tasks.base.Task, got Path"),
        ("touch", "no_such_module:task", "cannot be imported: .* or start `python -m plait` in its folder"),
        ("touch", "plait.tasks.depth:no_such_task", "cannot be imported: .*'no_such_task'$"),
        ("touch", ".relative:task", "unknown task kind '.relative:task'"),
        ("touch", ":task", "unknown task kind ':task'"),
        ("touch", 3, "needs a kind"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            parse({name: {"kind": kind}})
    assert not trace.exists()


class Ours(Task):
    """A task of one's own."""


def ours(name: str) -> Ours: ...  # type: ignore[empty-body]


def of_a_module(name: str) -> plait.tasks.Task: ...  # type: ignore[empty-body]


def of_nothing_known(name: str) -> Elsewhere: ...  # type: ignore[name-defined] # noqa: F821


def test_a_kind_says_that_it_returns_a_task() -> None:
    assert returned(depth) is returned(of_a_module) is Task
    assert returned(ours) is Ours
    assert returned(of_nothing_known) is None
    assert mismatch("task kind", ours) == mismatch("task kind", Ours) == ""


@pytest.mark.parametrize(
    ("declaration", "text"),
    [
        ({}, "at least one task"),
        ({"depth": {}}, "needs a kind"),
        ({"depth": {"kind": "dept"}}, "did you mean 'depth'"),
        ({"depth": {"kind": "depth", "los": "l1"}}, "did you mean 'loss'"),
        ({"depth": {"kind": "depth", "name": "z"}}, "named by its key"),
        ({"depth": {"kind": "depth", "loss": "l3"}}, "unknown loss term 'l3'"),
        ({"depth": {"kind": "depth", "parametrisation": "log"}}, "linear, softplus, exp"),
        ({"depth": {"kind": "depth", "far": 0.0}}, "above 0 m"),
        ({"depth": {"kind": "depth", "protocol": "survey"}}, "no option 'protocol'"),
        ({"d": {"kind": "inverse_depth", "near": 0.0}}, "near end of task 'd'.*above 0"),
        ({"d": {"kind": "inverse_depth", "parametrisation": "exq"}}, "did you mean 'exp'"),
        ({"e": {"kind": "edges", "max_distance": -0.1}}, "max_distance"),
        ({"depth": {"kind": "depth", "auxiliary": True}}, "every task is auxiliary"),
        ({"depth": {"kind": "depth", "weight": -1.0}}, "weight of task 'depth'"),
        (["depth"], r"expected tasks by name, as in .*, got \['depth'\]"),
        ({3: {"kind": "depth"}}, "letters, digits and underscores.*got 3"),
        ({"s": {"kind": "semantic"}}, "needs the option 'classes': a whole number or a list"),
        ({"s": {"kind": "semantic", "classes": "20"}}, "whole number or a list .each text., got '20'"),
        ({"s": {"kind": "semantic", "classes": "wall"}}, "'classes' of task kind 'semantic' must be"),
        ({"s": {"kind": "semantic", "classes": [1, 2]}}, r"got \[1, 2\]"),
        ({"s": {"kind": "semantic", "classes": True}}, "got True"),
        ({"s": {"kind": "semantic", "classes": 3, "skip_empty": "no"}}, "true or false, got 'no'"),
        (
            {"s": {"kind": "semantic", "classes": 3, "ignore": 1}},
            "must be a list .* or null, got 1",
        ),
        ({"s": {"kind": "semantic", "classes": 3, "absent": 1}}, "'skip' or 'zero' or 'present', got 1"),
        ({"s": {"kind": "semantic", "classes": 3, "class_weights": {1: "x"}}}, "got {1: 'x'}"),
        ({"n": {"kind": "normals", "exact_median": "no"}}, "true or false, got 'no'"),
        ({"n": {"kind": "normals", "label": 3}}, "'label' of task kind 'normals' must be text, got 3"),
        ({"n": {"kind": "normals", "weight": "1e-3"}}, "must be a number, got '1e-3'"),
        ({"n": {"kind": "normals", "auxiliary": 1}}, "true or false, got 1"),
        ({"z": {"kind": "depth", "loss": ["l1", "sobel"]}}, "text or {name: a number}, got"),
        (
            {"z": {"kind": "depth", "colour": 1}},
            "it takes loss, parametrisation, far, label",
        ),
        ({"s": {"kind": "semantic", "classes": 1}}, "2 to 255 classes"),
        ({"s": {"kind": "semantic", "classes": 256}}, "2 to 255 classes"),
        ({"s": {"kind": "semantic", "classes": ["a", "b", "a"]}}, "'a' more than once"),
        ({"s": {"kind": "semantic", "classes": 3, "class_weights": [1.0]}}, "3 classes, got 1"),
        ({"s": {"kind": "semantic", "classes": 2, "class_weights": [1.0, -1.0]}}, "must be 0 or more"),
        ({"s": {"kind": "semantic", "classes": ["wall", "door"], "ignore": ["dor"]}}, "did you mean 'door'"),
        ({"s": {"kind": "semantic", "classes": 3, "ignore": [3]}}, "classes 0 to 2, got 3"),
        ({"s": {"kind": "semantic", "classes": 3, "absent": "mean"}}, "absent must be one of"),
        ({"e": {"kind": "edges", "positive_weight": 2.0}}, "from 0 to 1"),
        ({"a.b": {"kind": "depth"}}, "letters, digits and underscores"),
    ],
)
def test_a_wrong_declaration_is_answered_in_a_sentence(declaration: Any, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text) as caught:
        parse(declaration)
    assert "\n" not in str(caught.value)


def test_class_weights_may_be_given_by_name() -> None:
    (by_name,) = parse({"s": {"kind": "semantic", "classes": ["a", "b"], "class_weights": {"b": 3.0}}})
    (in_order,) = parse({"s": {"kind": "semantic", "classes": ["a", "b"], "class_weights": [1, 3]}})
    assert by_name.loss == in_order.loss


def test_every_level_counts_and_is_resized_to_the_target() -> None:
    made = predictions()
    result = losses(TASKS, made, TARGETS)
    assert list(result) == ["semseg", "depth", "normals"]
    for task in TASKS:
        levels = [level[task.name] for level in (made.final, *made.intermediate) if task.name in level]
        expected = sum(
            task.loss(F.interpolate(p, (8, 8), mode="bilinear", align_corners=False), TARGETS[task.name])
            for p in levels
        )
        torch.testing.assert_close(result[task.name], torch.as_tensor(expected))


def test_micro_batches_with_common_counts_add_up() -> None:
    made = predictions()
    whole = losses(TASKS, made, TARGETS)
    counts = {task.name: task.loss.counts(TARGETS[task.name]) for task in TASKS}
    parts = [
        losses(
            TASKS,
            Predictions(
                {n: p[k] for n, p in made.final.items()},
                [{n: p[k] for n, p in i.items()} for i in made.intermediate],
            ),
            {n: t[k] for n, t in TARGETS.items()},
            counts,
        )
        for k in (slice(0, 1), slice(1, 2))
    ]
    for name, loss in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], loss)


def test_a_task_without_labels_is_left_out_and_one_without_known_pixels_is_zero() -> None:
    made = predictions()
    result = losses(TASKS, made, {"depth": torch.full((2, 1, 8, 8), torch.nan)})
    assert list(result) == ["depth"]
    assert result["depth"] == 0
    result["depth"].backward()  # type: ignore[no-untyped-call]
    gradient = made.final["depth"].grad
    assert gradient is not None
    assert not gradient.any()


def test_an_auxiliary_task_that_nobody_predicts_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"'normals' has labels but .* intermediate predictions"):
        losses(TASKS, Predictions(predictions().final), TARGETS)


def test_a_label_of_an_unknown_task_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"no task 'semsg' \(did you mean 'semseg'\?\)"):
        losses(TASKS, predictions(), {"semsg": TARGETS["semseg"], "depth": TARGETS["depth"]})


@pytest.mark.parametrize("kind", list(TASK_KINDS))
@pytest.mark.parametrize("shape", [(2, 4, 8), (2, 16, 16), (1, 8, 8), (3, 8, 8)])
def test_a_label_of_another_size_is_refused_for_every_kind(kind: str, shape: tuple[int, int, int]) -> None:
    images, height, width = shape
    options = {"classes": 4} if kind == "semantic" else {}
    (task,) = parse({"it": {"kind": kind, **options}})
    made = Predictions({"it": torch.zeros(2, task.channels, 8, 8)})
    label = torch.stack([task.label_type.unknown_like(height, width)] * images)
    with pytest.raises(ConfigurationError, match=r"expected a label of shape \[2, \d, 8, 8\] for task 'it'"):
        losses([task], made, {"it": label})


def test_a_label_without_its_channel_and_one_of_an_auxiliary_task_are_refused_too() -> None:
    with pytest.raises(ConfigurationError, match=r"\[2, 1, 8, 8\] for task 'semseg', .* got \[2, 8, 8\]"):
        losses(TASKS, predictions(), {"semseg": TARGETS["semseg"][:, 0]})
    with pytest.raises(ConfigurationError, match=r"\[2, 3, 8, 8\] for task 'normals', .* got \[2, 3, 4, 4\]"):
        losses(TASKS, predictions(), {"normals": TARGETS["normals"][..., :4, :4]})
