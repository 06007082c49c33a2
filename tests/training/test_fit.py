"""Training runs: resumed to the bit, refused when foreign, honest about trouble."""

import dataclasses
import errno
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plait.config import Recipe, load_recipe
from plait.errors import CheckpointError, ConfigurationError, DataError, NonFiniteLossError, PlaitError
from plait.recipes import recipes
from plait.training import checkpoint, fit
from plait.training import session as sessions
from plait.training.checkpoint import read_tensors
from plait.training.evaluate import evaluate
from plait.training.fit import train
from plait.training.logs import read_log
from plait.training.run import load_run

MakeRecipe = Callable[..., Recipe]

HARD = {
    "training.ema": 0.9,
    "training.accumulate": 2,
    "training.clip_norm": 1.0,
    "training.keep": "best",
    "model.backbone_options": {},
    "schedule.warmup_steps": 2,
    "optimizer.layer_decay": 0.9,
}


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def killed_after(steps: int) -> Callable[..., None]:
    def told(step: int, total: int, losses: Mapping[str, float]) -> None:
        if step >= steps:
            raise Killed

    return told


def bits(run: Path) -> dict[str, Tensor]:
    """All that a run ends with."""
    return {
        f"{name}/{file}/{key}": value
        for name in ("last", "best")
        for file in ("model", "training")
        if (run / "checkpoints" / name).exists()
        for key, value in read_tensors(run / "checkpoints" / name / f"{file}.safetensors").items()
    }


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = bits(one), bits(other)
    assert first.keys() == second.keys()
    different = [name for name, value in first.items() if not torch.equal(value, second[name])]
    assert different == []
    assert (one / "scores.json").read_text() == (other / "scores.json").read_text()


@pytest.mark.parametrize("changes", [{}, HARD, {"optimizer.name": "sgd", "balancer": "mgda"}])
def test_a_resumed_run_ends_with_the_same_bits(
    make_recipe: MakeRecipe, tmp_path: Path, changes: dict[str, Any]
) -> None:
    recipe = make_recipe(**changes)
    train(recipe, tmp_path / "whole", progress=False)
    for steps in (1, 3, 5):  # before the first checkpoint, between two, and again
        with pytest.raises(Killed):
            train(recipe, tmp_path / "killed", progress=killed_after(steps))
        torch.rand(17)  # whatever else the process does in between
    train(recipe, tmp_path / "killed", progress=False)
    assert_same_bits(tmp_path / "whole", tmp_path / "killed")

    def timeless(run: Path) -> list[dict[str, Any]]:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
            for row in read_log(run)
        ]

    assert timeless(tmp_path / "whole") == timeless(tmp_path / "killed")


def test_dropout_is_resumed_too(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = fit.make_network

    def with_dropout(*args: Any, **kwargs: Any) -> Any:
        model = original(*args, **kwargs)
        model.encoder.register_forward_hook(
            lambda module, _, out: {
                task: [torch.nn.functional.dropout(level, 0.5, module.training) for level in levels]
                for task, levels in out.items()
            }
        )
        return model

    monkeypatch.setattr(fit, "make_network", with_dropout)
    recipe = make_recipe()
    train(recipe, tmp_path / "whole", progress=False)
    with pytest.raises(Killed):
        train(recipe, tmp_path / "killed", progress=killed_after(3))
    train(recipe, tmp_path / "killed", progress=False)
    assert_same_bits(tmp_path / "whole", tmp_path / "killed")
    monkeypatch.undo()
    train(recipe, tmp_path / "without", progress=False)
    with pytest.raises(AssertionError):
        assert_same_bits(tmp_path / "whole", tmp_path / "without")


def test_a_finished_run_is_not_trained_again(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    run = train(make_recipe(**{"training.steps": 2}), tmp_path / "run", progress=False)
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    again = train(run.recipe, run.path, progress=killed_after(0))
    assert again.scores == run.scores
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == before


def test_a_run_can_be_read_and_scored_again(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(**{"training.steps": 2, "training.ema": 0.5})
    train(recipe, tmp_path / "run", progress=False)
    run = load_run(tmp_path / "run")
    assert run.recipe == recipe
    assert run.evaluate() == run.scores
    assert run.evaluate("val", flip=True).split == "val"
    assert run.state["step"] == 2
    assert run.train_seconds > 0
    assert not run.model().training
    assert run.environment["choices"]["threads"] == 1
    header, *lines = (run.path / "log.csv").read_text().splitlines()
    assert header.startswith("step,lr,")
    assert len(lines) == len(run.log) == 2


def test_training_leaves_the_callers_random_numbers_and_threads_alone(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(make_recipe(**{"training.steps": 1}), tmp_path / "run", progress=False)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == 1


def test_accumulation_sees_the_samples_of_the_whole_batch(make_recipe: MakeRecipe) -> None:
    def ids(accumulate: int) -> list[list[str]]:
        recipe = make_recipe(**{"training.accumulate": accumulate})
        run = sessions_run(recipe)
        batches = fit.micro_batches(run, run.dataset("train"), ((0.5,) * 3, (0.25,) * 3), 1)
        return [[name for _ in range(accumulate) for name in next(batches).ids] for _ in range(3)]

    assert ids(1) == ids(2) == ids(4)


def sessions_run(recipe: Recipe) -> Any:
    from plait.training.run import Run

    return Run(Path("nowhere"), recipe)


def test_a_folder_of_another_recipe_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(**{"training.steps": 1})
    train(recipe, tmp_path / "run", progress=False)
    with pytest.raises(ConfigurationError, match=r"another recipe \(training.seed is 0 there and 1 here\)"):
        train(make_recipe(**{"training.steps": 1, "training.seed": 1}), tmp_path / "run")
    other = make_recipe(**{"training.steps": 1, "model.encoder": {"name": "mtan"}})
    with pytest.raises(ConfigurationError, match=r"encoder is 'shared' there and {'name': 'mtan'} here"):
        train(other, tmp_path / "run")
    with pytest.raises(ConfigurationError, match="already holds a run"):
        train(recipe, tmp_path / "run", resume=False)
    train(make_recipe(**{"training.steps": 1, "evaluation.batch_size": 1}), tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"balancer": "mdga"}, "did you mean 'mgda'"),
        ({"balancer": {"name": "mgda", "scop": "features"}}, "did you mean 'scope'"),
        ({"augmentation": {"size": [32, 32], "flp": 1}}, "did you mean 'flip'"),
        ({"augmentation": {}}, "size"),
        ({"model.backbone": "resnet8"}, "unknown backbone"),
        ({"model.encoder": {"name": "shared", "width": 3}}, "width"),
        ({"training.criterion": "depth.rms"}, "did you mean 'depth.rmse'"),
        ({"training.batch_size": 4, "model.encoder": "separate", "balancer": "mgda"}, "shares none"),
        ({"data.options": {"nothing": 1}}, "nothing"),
    ],
)
def test_parts_that_do_not_exist_or_fit_are_refused(
    make_recipe: MakeRecipe, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        train(make_recipe(**changes), tmp_path / "run", progress=False)
    assert "\n" not in str(caught.value)


def test_a_pickle_in_the_place_of_a_checkpoint_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe()
    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", progress=killed_after(3))
    torch.save({"weight": 1}, tmp_path / "run/checkpoints/last/model.safetensors")
    with pytest.raises(CheckpointError, match="is a pickle"):
        train(recipe, tmp_path / "run", progress=False)


def test_an_unreadable_image_loses_nothing(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(**{"training.checkpoint_every": 100})
    train(recipe, tmp_path / "whole", progress=False)
    original = fit.micro_batches

    def broken(*args: Any, **kwargs: Any) -> Any:
        batches = original(*args, **kwargs)
        for _ in range(3):
            yield next(batches)
        raise DataError("room 7: the image is truncated")

    with monkeypatch.context() as patch:
        patch.setattr(fit, "micro_batches", broken)
        with pytest.raises(DataError, match="room 7"):
            train(recipe, tmp_path / "run", progress=False)
    assert checkpoint.read(tmp_path / "run/checkpoints/last").step == 3
    train(recipe, tmp_path / "run", progress=False)
    assert_same_bits(tmp_path / "whole", tmp_path / "run")


def test_an_unreadable_validation_image_loses_nothing(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(
        **{"training.checkpoint_every": 100, "training.validate_every": 2, "training.keep": "best"}
    )
    train(recipe, tmp_path / "whole", progress=False)
    seen: list[int] = []

    def broken(*args: Any, **kwargs: Any) -> Any:
        seen.append(1)
        if len(seen) == 2:
            raise DataError("room 9: the image is truncated")
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(fit, "evaluate", broken)
    with pytest.raises(DataError, match="room 9"):
        train(recipe, tmp_path / "run", progress=False)
    assert checkpoint.read(tmp_path / "run/checkpoints/last").step == 4
    train(recipe, tmp_path / "run", progress=False)
    assert_same_bits(tmp_path / "whole", tmp_path / "run")
    whole, run = ([r for r in read_log(tmp_path / n) if "validation" in r] for n in ("whole", "run"))
    assert [row["step"] for row in run] == [2, 4, 6]
    assert run == whole


def test_an_undefined_criterion_is_refused_each_time(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(**{"training.keep": "best", "training.criterion": "depth.rmse"})

    def undefined(*args: Any, **kwargs: Any) -> Any:
        scores = evaluate(*args, **kwargs)
        return {**scores, "depth": dict.fromkeys(scores["depth"], float("nan"))}

    monkeypatch.setattr(fit, "evaluate", undefined)
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"'depth\.rmse' is undefined"):
            train(recipe, tmp_path / "run", progress=False)


def test_means_in_the_log_are_over_the_steps_that_had_the_task(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = sessions.Session.place

    def without_depth(self: sessions.Session, batch: Any) -> Any:
        placed = original(self, batch)
        if self.step % 2:
            targets = {name: target for name, target in placed.targets.items() if name != "depth"}
            present = {**placed.present, "depth": torch.zeros(4, dtype=torch.bool)}
            placed = dataclasses.replace(placed, targets=targets, present=present)
        return placed

    monkeypatch.setattr(sessions.Session, "place", without_depth)
    every = train(make_recipe(), tmp_path / "every", progress=False).log
    losses = [row["loss"]["depth"] for row in every]
    assert [loss is None for loss in losses] == [False, True] * 3
    assert [row["weight"]["depth"] for row in every] == [1.0, None] * 3
    recipe = make_recipe(**{"training.log_every": 6, "training.checkpoint_every": 6})
    (row,) = train(recipe, tmp_path / "one", progress=False).log
    assert row["loss"]["depth"] == pytest.approx(sum(losses[::2]) / 3)
    assert row["weight"] == {"semantic": 1.0, "depth": 1.0}


@pytest.mark.parametrize("damage", ["", "[]", '{"choices": 3}'])
def test_a_damaged_environment_is_named(make_recipe: MakeRecipe, tmp_path: Path, damage: str) -> None:
    recipe = make_recipe()
    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", progress=killed_after(3))
    (tmp_path / "run/environment.json").write_text(damage)
    with pytest.raises(DataError, match=r"environment\.json, but it cannot be read"):
        train(recipe, tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"augmentation": {}},
        {"balancer": {"name": "mgda", "normal": "l2"}},
        {"training.batch_size": 1},
        {"data.root": "nowhere"},
        {"tasks.semantic.classes": 2},
        {"training.trackers": ["mlflow"]},
    ],
)
def test_a_recipe_that_cannot_work_leaves_its_folder_to_a_mended_one(
    make_recipe: MakeRecipe, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    head = {"model.decoder": {"name": "independent", "head": "deeplab"}}
    with pytest.raises(PlaitError):
        train(make_recipe(**head, **wrong), tmp_path / "run", progress=False)
    train(make_recipe(**{"training.steps": 1}), tmp_path / "run", progress=False)


def test_recipes_are_found_by_name(tmp_path: Path) -> None:
    assert load_recipe("rooms_shared") == load_recipe(recipes()["rooms_shared"])
    with pytest.raises(
        ConfigurationError, match=r"'rooms_sharde' is no recipe .* \(did you mean 'rooms_shared'\?\)"
    ):
        train("rooms_sharde", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_in_the_folders_place_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ConfigurationError, match="is a file: choose another"):
        train(make_recipe(), tmp_path / "run", progress=False)


@pytest.mark.parametrize("change", [{"selection": {}}, {"seconds": None}, {"sha256": {}}])
def test_a_damaged_state_of_a_run_is_named(
    make_recipe: MakeRecipe, tmp_path: Path, change: dict[str, Any]
) -> None:
    recipe = make_recipe()
    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", progress=killed_after(3))
    path = tmp_path / "run/checkpoints/last/state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=r"state\.json is damaged"):
        train(recipe, tmp_path / "run", progress=False)


def test_a_full_disk_loses_nothing_that_was_saved(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe()
    train(recipe, tmp_path / "whole", progress=False)
    writes = 0
    original = checkpoint.write_durably

    def full(path: Path, content: bytes) -> None:
        nonlocal writes
        writes += path.suffix == ".safetensors"
        if writes > 3:  # in the middle of the second checkpoint
            path.write_bytes(content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        original(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_durably", full)
        with pytest.raises(PlaitError, match=r"the disk is full.*start the same command again"):
            train(recipe, tmp_path / "run", progress=False)
    assert checkpoint.read(tmp_path / "run/checkpoints/last").step == 2
    train(recipe, tmp_path / "run", progress=False)
    assert_same_bits(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_loss_that_is_not_finite(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    """Neither weights nor running statistics are touched by a step that is not applied."""
    original = sessions.Session.place

    def poisoned(self: sessions.Session, batch: Any) -> Any:
        placed = original(self, batch)
        if self.step == 3:
            placed.images.fill_(float("nan"))
        return placed

    monkeypatch.setattr(sessions.Session, "place", poisoned)
    recipe = make_recipe(**{"training.non_finite": policy})
    if policy == "stop":
        with pytest.raises(NonFiniteLossError, match=r"depth.*step 4"):
            train(recipe, tmp_path / "run", progress=False)
        assert checkpoint.read(tmp_path / "run/checkpoints/last").step == 2
    else:
        run = train(recipe, tmp_path / "run", progress=False)
        assert all(value.isfinite().all() for value in run.model().state_dict().values())
        assert [json.dumps(row["loss"]["depth"]) == "null" for row in run.log] == [False] * 3 + [True] + [
            False
        ] * 2


def test_best_is_what_validation_said(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(**{"training.keep": "best", "training.criterion": "depth.rmse"})
    run = train(recipe, tmp_path / "run", progress=False)
    validations = {row["step"]: row["validation"]["depth"]["rmse"] for row in run.log if "validation" in row}
    assert sorted(validations) == [2, 4, 6]
    best = checkpoint.read(run.path / "checkpoints" / "best")
    assert best.step == min(validations, key=lambda step: validations[step])
    assert run.evaluate("val")["depth"]["rmse"] == pytest.approx(validations[best.step])


def test_a_frozen_encoder_stays_as_it_was(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    groups = [{"pattern": "^encoder", "freeze": True}]
    recipe = make_recipe(**{"optimizer.groups": groups, "model.frozen_norm": True})
    trained = train(recipe, tmp_path / "run", progress=False).model().state_dict()
    one = make_recipe(**{"optimizer.groups": groups, "model.frozen_norm": True, "training.steps": 1})
    early = train(one, tmp_path / "one", progress=False).model().state_dict()
    moved = {name for name, value in trained.items() if not torch.equal(value, early[name])}
    assert moved
    assert not any(name.startswith("encoder") for name in moved)


@pytest.mark.parametrize(
    "changes",
    [
        {"training.precision": "bf16", "training.channels_last": True},
        {"model.gradient_checkpointing": True},
        {"optimizer.name": "adam", "schedule.name": "one_cycle", "training.workers": 0},
        {"balancer": {"name": "mgda", "scope": "features"}, "training.accumulate": 2},
    ],
)
def test_options_train(make_recipe: MakeRecipe, tmp_path: Path, changes: dict[str, Any]) -> None:
    run = train(make_recipe(**{"training.steps": 2, **changes}), tmp_path / "run", progress=False)
    assert all(value is not None for row in run.log for value in row["loss"].values())


# The compiler looks at .grad of the pyramids that encoder and decoder, compiled apart, pass on.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.slow
def test_compiled_it_trains_to_the_same_weights(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """To rounding; and a checkpoint of a compiled run fits the plain network."""
    changes = {"training.steps": 2, "optimizer.name": "sgd"}
    eager = train(make_recipe(**changes), tmp_path / "eager", progress=False)
    compiled = train(
        make_recipe(**changes, **{"training.compile": True}), tmp_path / "compiled", progress=False
    )
    expected = eager.model().state_dict()
    for name, value in compiled.model().state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4, msg=name)
