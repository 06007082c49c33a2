"""Networks that start from trained runs: what is copied, what is refused, and that a run does it once."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import plait
from plait.config import Recipe, parse, replace
from plait.errors import CheckpointError, ConfigurationError
from plait.models import MultiTaskNetwork
from plait.models.initialise import initialise_from
from plait.testing import write_tiny_rooms
from plait.training import fit
from plait.training.checkpoint import read_tensors
from plait.training.fit import train
from plait.training.run import load_run, make_network

TASKS = {"semantic": {"kind": "semantic", "classes": 20}, "depth": {"kind": "depth"}}
TREE = {
    "model": {
        "backbone": "test_efficientnet",
        "pretrained": False,
        "encoder": "separate",
        "decoder": {"name": "independent", "head": "linear"},
    },
    "augmentation": {"size": [32, 32]},
    "training": {"steps": 2, "batch_size": 2, "checkpoint_every": 1, "log_every": 1, "threads": 1},
}


def recipe(root: Path, tasks: Mapping[str, Any], changes: Mapping[str, Any]) -> Recipe:
    return replace(parse({**TREE, "data": {"root": str(root)}, "tasks": dict(tasks)}), changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny rooms, and trained runs beside them: one a task, and one of both tasks."""
    root = write_tiny_rooms(tmp_path_factory.mktemp("rooms"), images=(4, 2, 2), size=(32, 48))
    for name, changes in {"semantic": {}, "depth": {"model.encoder": "shared"}}.items():
        train(recipe(root, {name: TASKS[name]}, changes), root / "runs" / name, progress=False)
    for encoder in ("separate", "shared"):
        path = root / "runs" / f"both_{encoder}"
        train(recipe(root, TASKS, {"model.encoder": encoder}), path, progress=False)
    return root


def one_each(root: Path) -> dict[str, str]:
    return {task: str(root / "runs" / task) for task in TASKS}


def network(encoder: str = "cross_stitch", **options: Any) -> MultiTaskNetwork:
    torch.manual_seed(1)
    given: dict[str, Any] = {
        "backbone": "test_efficientnet",
        "tasks": TASKS,
        "decoder_options": {"head": "linear"},
        **options,
    }
    return plait.create_model(encoder=encoder, **given)


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("encoder", ["separate", "cross_stitch", "nddr_cnn", "sluice"])
def test_each_task_starts_from_its_own_run(root: Path, encoder: str) -> None:
    model, untouched = network(encoder), network(encoder)
    initialise_from(model, model.tasks, one_each(root))
    for task in TASKS:
        trained = load_run(root / "runs" / task).model()
        assert same(model.encoder.columns()[task], trained.encoder.columns()[task])
        assert same(model.decoder.heads[task], trained.decoder.heads[task])
    columns = {id(p) for column in model.encoder.columns().values() for p in column.parameters()}
    for (name, own), before in zip(
        model.encoder.named_parameters(), untouched.encoder.parameters(), strict=True
    ):
        assert id(own) in columns or torch.equal(own, before), name


@pytest.mark.parametrize(
    ("source", "encoder"),
    [("both_separate", "cross_stitch"), ("both_shared", "sluice"), ("both_shared", "shared")],
)
def test_one_run_of_all_tasks_is_taken(root: Path, source: str, encoder: str) -> None:
    model, run = network(encoder), root / "runs" / source
    initialise_from(model, model.tasks, run)
    trained = load_run(run).model()
    for task in TASKS:
        assert same(model.encoder.columns()[task], trained.encoder.columns()[task])
        assert same(model.decoder.heads[task], trained.decoder.heads[task])


def test_separate_networks_start_as_the_trained_ones(root: Path) -> None:
    model = network("separate").eval()
    initialise_from(model, model.tasks, one_each(root))
    images = torch.randn(2, 3, 32, 48)
    for task, logits in model(images).final.items():
        trained = load_run(root / "runs" / task).model()
        assert torch.equal(trained(images).final[task], logits)


def renamed(root: Path, tmp_path: Path, before: str, after: str) -> Path:
    """The run of depth with a change in its recipe."""
    copy = tmp_path / "changed"
    shutil.copytree(root / "runs" / "depth", copy)
    text = (copy / "recipe.yaml").read_text()
    assert before in text
    (copy / "recipe.yaml").write_text(text.replace(before, after))
    return copy


def unfinished(root: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "unfinished"
    shutil.copytree(root / "runs" / "depth", copy)
    (copy / "scores.json").unlink()
    return copy


REFUSED: dict[str, tuple[Callable[[Path, Path], Any], dict[str, Any], str]] = {
    "no run": (lambda root, tmp: {**one_each(root), "depth": str(tmp)}, {}, "is not a run's folder"),
    "unfinished": (
        lambda root, tmp: {**one_each(root), "depth": unfinished(root, tmp)},
        {},
        "is not finished: train it to its end",
    ),
    "other task": (
        lambda root, _: {**one_each(root), "depth": root / "runs" / "semantic"},
        {},
        "has no task 'depth'; it has semantic",
    ),
    "one run lacks a task": (lambda root, _: root / "runs" / "depth", {}, "has no task 'semantic'; it has"),
    "a task without a run": (
        lambda root, _: {"depth": root / "runs" / "depth"},
        {},
        "names no run for 'semantic'",
    ),
    "a run for no task": (
        lambda root, _: {**one_each(root), "dept": "x"},
        {},
        "a run for 'dept' .did you mean 'depth'",
    ),
    "other classes": (
        lambda root, _: one_each(root),
        {"tasks": {"semantic": {"kind": "semantic", "classes": 7}, "depth": {"kind": "depth"}}},
        "has kind semantic and 20 channels, expected semantic with 7",
    ),
    "other kind": (
        lambda root, _: one_each(root),
        {"tasks": {"semantic": TASKS["semantic"], "depth": {"kind": "edges"}}},
        "'depth' of the run in .* has kind depth and 1 channels, expected edges with 1",
    ),
    "other backbone": (
        lambda root, _: one_each(root),
        {"backbone": "test_resnet"},
        "is 'test_efficientnet', expected 'test_resnet'",
    ),
    "other head": (
        lambda root, _: one_each(root),
        {"decoder_options": {"head": "fpn"}},
        "the head of 'semantic' of .* is 'linear', expected 'fpn'",
    ),
    "no columns": (
        lambda root, _: one_each(root),
        {"encoder": "branched", "encoder_options": {"tree": ["depth semantic", "depth | semantic"]}},
        "encoder Branched has none for each task",
    ),
    "one column from two runs": (
        lambda root, _: one_each(root),
        {"encoder": "shared"},
        "'depth' shares one backbone with tasks that start from another",
    ),
    "one column from two of one run": (
        lambda root, _: root / "runs" / "both_separate",
        {"encoder": "shared"},
        "'depth' shares one backbone with tasks that start from another",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(root: Path, tmp_path: Path, case: str) -> None:
    runs, options, sentence = REFUSED[case]
    model = network(**options)
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        initialise_from(model, model.tasks, runs(root, tmp_path))
    assert "\n" not in str(caught.value)


def test_a_run_whose_encoder_has_no_columns_is_refused(root: Path, tmp_path: Path) -> None:
    tree = {"name": "branched", "tree": ["depth semantic", "depth | semantic"]}
    train(recipe(root, TASKS, {"model.encoder": tree, "training.steps": 1}), tmp_path / "run", progress=False)
    model = network()
    with pytest.raises(ConfigurationError, match=r"'branched' of .* has no backbone for 'semantic' alone"):
        initialise_from(model, model.tasks, tmp_path / "run")


def test_shapes_that_do_not_fit_are_refused(root: Path, tmp_path: Path) -> None:
    model = network(decoder_options={"head": "linear"})
    model.decoder.heads["depth"].last_layer = nn.Conv2d(3, 1, 1)
    with pytest.raises(CheckpointError, match=r"the head of 'depth' of .* is \[1, \d+, 1, 1\], expected"):
        initialise_from(model, model.tasks, one_each(root))


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def killed(step: int, total: int, losses: Mapping[str, float]) -> None:
    if step == 2:  # after the first checkpoint
        raise Killed


def test_a_run_starts_from_others_once_and_needs_nothing_else(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Pretrained weights would have to be fetched, and there is no network: nobody may ask for them.
    changes = {"model.encoder": "cross_stitch", "model.init_from": one_each(root), "model.pretrained": True}
    mixed = recipe(root, TASKS, changes)
    start = make_network(mixed, load_run(root / "runs" / "both_shared").tasks)
    for task, column in start.encoder.columns().items():
        assert same(column, load_run(root / "runs" / task).model().encoder.columns()[task])

    whole = train(mixed, tmp_path / "whole", progress=False)
    assert load_run(whole.path).recipe.model.init_from == one_each(root)

    started: list[dict[str, Tensor]] = []
    original = fit.settled

    def seen(run: Any, model: nn.Module, *others: Any) -> Any:
        started.append({name: value.clone() for name, value in model.state_dict().items()})
        return original(run, model, *others)

    monkeypatch.setattr(fit, "settled", seen)
    with pytest.raises(Killed):
        train(mixed, tmp_path / "killed", progress=killed)
    (begun,) = started
    assert all(torch.equal(begun[name], value) for name, value in start.state_dict().items())
    with monkeypatch.context() as patch:
        patch.setattr("plait.models.initialise.initialise_from", None)  # a resumed run does not read them
        train(mixed, tmp_path / "killed", progress=False)
    ended, again = (
        read_tensors(tmp_path / name / "checkpoints" / "last" / "model.safetensors")
        for name in ("whole", "killed")
    )
    assert all(torch.equal(ended[name], value) for name, value in again.items())
    stem = "encoder.backbones.depth.stem.conv_stem.weight"
    assert not torch.equal(ended[stem], begun[stem])


def test_a_refused_start_leaves_the_folder_free(root: Path, tmp_path: Path) -> None:
    wrong = recipe(root, TASKS, {"model.init_from": str(tmp_path / "nowhere")})
    with pytest.raises(ConfigurationError, match="nowhere is not a run's folder"):
        train(wrong, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "recipe.yaml").exists()
    both = recipe(root, TASKS, {"model.init_from": one_each(root), "model.weights": "x.safetensors"})
    with pytest.raises(ConfigurationError, match="starts from one of them: leave the other out"):
        train(both, tmp_path / "run", progress=False)
