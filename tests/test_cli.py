"""The command line answers in one sentence, and its help is complete."""

import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.layouts import nyud

from plait.cli import main, make_parser
from plait.testing import write_tiny_rooms
from plait.training.scores import Scores

RECIPE = """
tasks: {depth: {kind: depth}}
model: {backbone: test_resnet, pretrained: false, decoder: {name: independent, head: linear}}
augmentation: {size: [32, 32]}
training: {steps: 1, batch_size: 2, threads: 1}
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["lst"], "did you mean 'list'?"),
        (["list", "encoder"], "did you mean 'encoders'?"),
        (["list", "--verbos"], "unknown argument '--verbos'"),
        (["train"], "the following arguments are required: RECIPE"),
        (["train", "quikstart"], "did you mean 'quickstart'?"),
        (["train", "quickstart", "--training.stepz", "3"], "did you mean 'steps'?"),
        (["train", "quickstart", "--training.steps", "many"], "training.steps"),
        (["data", "check", "roms"], "did you mean 'rooms'?"),
        (["data", "check", "rooms", "/nonexistent"], "/nonexistent"),
        (["data", "build", "rooms", "--out", "x", "--size", "big"], "HEIGHTxWIDTH"),
        (["data", "check", "nyud"], "nyud needs a root"),
        (["data", "check", "rooms", "--cahce", "none"], "did you mean 'cache'?"),
        (["data", "pack", "rooms", "--out", "x", "--labels", "deph"], "did you mean 'depth'?"),
        (["data", "build", "folder", "--out", "x"], "rooms and nyud can"),
        (["data", "build", "nyud", "--out", "x"], "name the folder that holds them"),
        (["data", "build", "rooms", "--out", "x", "--depth", "raw"], "is built without 'depth'"),
        (["evaluate"], "name a run's folder, or maps on disk"),
        (["evaluate", "--predictions", "."], "need both --predictions and --targets"),
        (["evaluate", "runs/a", "--task", "edges=edges"], "--task is for maps on disk"),
        (["evaluate", "--predictions", ".", "--targets", "."], "expected at least one task to score"),
        (["evaluate", "--predictions", ".", "--targets", ".", "--task", "edges"], "a task as NAME=KIND"),
        (["evaluate", "--predictions", ".", "--targets", ".", "--task", "e=edge"], "did you mean 'edges'?"),
        (
            ["evaluate", "--predictions", ".", "--targets", ".", "--task", "e=edges", "--protocol", "serve"],
            "did you mean 'survey'?",
        ),
        (["evaluate", "/nonexistent"], "/nonexistent"),
        (["report", "/nonexistent"], "/nonexistent"),
        (["quickstart", "--minutes", "soon"], "invalid float value: 'soon'"),
        (["train", "quickstart", "--evaluation.size", "128"], "or null, got 128"),
        (["train", "--training.steps", "3"], "the following arguments are required: RECIPE"),
        (["train", "--training.steps", "3", "rooms_sharde"], "did you mean 'rooms_shared'?"),
        (["evaluate", "runs/a", "--evaluation.flip", "true"], "unknown argument '--evaluation.flip'"),
        (["data", "show", "rooms", "--samples", "-1"], "at least 1 sample to draw, got -1"),
        (["evaluate", "/runs/[bold]a/[/b]/:cat:"], "/runs/[bold]a/[/b]/:cat: is not a run"),
    ],
)
def test_wrong_input_is_answered_in_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out
    assert said in err
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "quickstart", "--out", "{file}/x"], "expected a folder, but {file} is a file"),
        (["quickstart", "--out", "{file}"], "expected a folder, but {file} is a file"),
        (["data", "build", "rooms", "--out", "{file}/x"], "expected a folder, but {file} is a file"),
        (["data", "show", "rooms", "--out", "{file}/x.png"], "expected a folder, but {file} is a file"),
        (["data", "show", "rooms", "--out", "{folder}/x.foo"], "such as samples.png, got {folder}/x.foo"),
        (["data", "show", "rooms", "--out", "{folder}/x"], "such as samples.png, got {folder}/x"),
        (["data", "show", "rooms", "--out", "{folder}"], "expected a file's name, but {folder} is a folder"),
        (["report", "runs", "--out", "{file}/x.html"], "expected a folder, but {file} is a file"),
        (["evaluate", "runs/a", "--json", "{file}/x"], "expected a folder, but {file} is a file"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_work_begins(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "afile").touch()
    places = {"file": file, "folder": tmp_path}
    assert main([argument.format_map(places) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert said.format_map(places) in err
    assert len(err.splitlines()) == 1


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "lst"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    parser = make_parser()
    subparsers = next(action for action in parser._actions if action.choices)
    assert isinstance(subparsers.choices, dict)
    for name in subparsers.choices:
        with pytest.raises(SystemExit) as left:
            main([name, "--help"])
        assert left.value.code == 0
        assert f"plait {name}" in capsys.readouterr().out


def test_lists_name_what_the_tables_hold(capsys: pytest.CaptureFixture[str]) -> None:
    import plait

    assert main(["list", "encoders"]) == 0
    assert capsys.readouterr().out.split() == plait.list_encoders()


def test_a_recipe_is_printed_resolved_and_can_be_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from plait.config import load_recipe

    assert main(["train", "quickstart", "--print", "--training.steps", "7"]) == 0
    written = tmp_path / "recipe.yaml"
    written.write_text(capsys.readouterr().out)
    assert load_recipe(written).training.steps == 7


def test_overrides_may_stand_before_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--training.steps", "7", "--balancer", "mgda", "quickstart", "--print"]) == 0
    printed = capsys.readouterr().out
    assert "steps: 7\n" in printed
    assert "balancer: mgda\n" in printed


@pytest.mark.parametrize(
    ("arguments", "command", "said"),
    [
        (["train", "quickstart", "--fresh"], "train.train", "without --fresh, goes on from the last"),
        (["quickstart"], "quickstart.quickstart", "goes on from the others' last checkpoints"),
        (["data", "build", "rooms", "--out", "x"], "data.data_build", "makes what is still missing"),
        (["evaluate", "runs/a"], "evaluate.evaluate", "plait: stopped\n"),
    ],
)
def test_a_stopped_command_says_what_comes_next(
    arguments: list[str],
    command: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(parsed: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"plait.commands.{command}", interrupted)
    assert main(arguments) == 130
    err = capsys.readouterr().err
    assert err.startswith("plait: stopped")
    assert said in err


@pytest.mark.parametrize("folder", ["[exp1]", "[/b]", ":cat:", "long" * 30])
def test_paths_are_printed_as_they_are(
    tmp_path: Path, folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rooms, picture = write_tiny_rooms(tmp_path / "rooms"), tmp_path / folder / "a.png"
    assert main(["data", "show", "rooms", str(rooms), "--samples", "1", "--out", str(picture)]) == 0
    assert capsys.readouterr().out == f"the picture is {picture}\n"


def test_a_run_is_trained_and_evaluated_with_a_bar_and_idle_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from plait.training import tuning
    from plait.training.evaluate import MultiTaskNetwork

    rooms = write_tiny_rooms(tmp_path / "rooms", images=(2, 1, 2), size=(32, 48))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    run, scores = tmp_path / "[/b]" / "[run]", tmp_path / "scores.json"
    recipe = str(tmp_path / "recipe.yaml")
    assert main(["train", "--data.root", str(rooms), recipe, "--out", str(run)]) == 0
    assert f"the run is in {run}\n" in capsys.readouterr().out

    used: set[int] = set()
    forward = MultiTaskNetwork.forward
    monkeypatch.setattr(
        MultiTaskNetwork, "forward", lambda *seen: (used.add(torch.get_num_threads()), forward(*seen))[1]
    )
    monkeypatch.setattr(tuning, "idle_threads", lambda cores: 2)
    assert main(["evaluate", str(run), "--json", str(scores)]) == 0
    out, err = capsys.readouterr()
    assert used == {2}
    assert torch.get_num_threads() == 1
    assert "rmse" in out.lower()
    assert "evaluating" in err
    assert "2/2" in err
    rmse, before = (
        json.loads(f.read_text())["scores"]["depth"]["rmse"] for f in (scores, run / "scores.json")
    )
    assert rmse == pytest.approx(before)

    assert "not finished" not in out
    (run / "scores.json").unlink()
    assert main(["evaluate", str(run)]) == 0
    assert "this run is not finished: scored at step 1 of 1\n" in capsys.readouterr().out

    for wrong in (["--split", "dev"], ["--scales", "0"]):
        assert main(["evaluate", str(run), *wrong]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1

    shutil.rmtree(run / "checkpoints")
    assert main(["evaluate", str(run)]) == 2
    again = shlex.join(["plait", "train", str(run / "recipe.yaml"), "--out", str(run)])
    said = f"{run} has no checkpoint yet: train it first with `{again}`"
    assert said in capsys.readouterr().err


def test_maps_of_any_software_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(0)
    for side in ("predicted", "true"):
        for task in ("semseg", "depth"):
            (tmp_path / side / task).mkdir(parents=True)
    for name in ("a", "b"):
        classes = random.integers(3, size=(20, 30)).astype(np.uint8)
        metres = random.uniform(1, 5, size=(20, 30)).astype(np.float32)
        for side in ("predicted", "true"):
            Image.fromarray(classes).save(tmp_path / side / "semseg" / f"{name}.png")
        np.save(tmp_path / "predicted" / "depth" / f"{name}.npy", metres + 0.5)
        Image.fromarray((1000 * metres).round().astype(np.uint16)).save(
            tmp_path / "true" / "depth" / f"{name}.png"
        )
    (tmp_path / "scoring.yaml").write_text(
        "tasks: {depth: {kind: depth}}\ntargets: {depth: {scale: 0.001, unknown: [0]}}\n"
    )
    words = ["--predictions", str(tmp_path / "predicted"), "--targets", str(tmp_path / "true")]
    words += ["--task", "semseg={kind: semantic, classes: 3}", "--scoring", str(tmp_path / "scoring.yaml")]
    assert main(["evaluate", *words, "--protocol", "survey", "--json", str(tmp_path / "scores.json")]) == 0
    assert "survey" in capsys.readouterr().out
    scores = Scores.load(tmp_path / "scores.json")
    assert scores["semseg"]["miou"] == 1
    assert scores["depth"]["rmse"] == pytest.approx(0.5, abs=1e-3)


def test_a_set_is_packed_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = write_tiny_rooms(tmp_path / "rooms", images=(3, 2, 2), size=(24, 32)), tmp_path / "pack"
    assert main(["data", "pack", "rooms", str(root), "--out", str(out), "--cache", "none"]) == 0
    assert f"data: {{name: packed, root: {out}}}" in capsys.readouterr().out
    assert main(["data", "check", "packed", str(out)]) == 0
    assert "packed from: rooms" in capsys.readouterr().out


def test_what_is_not_described_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in range(20):
        for folder in ("images", "depth"):
            (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), name, np.uint8)).save(tmp_path / "images" / f"{name}.png")
        Image.fromarray(np.full((20, 30), 1000 + name, np.uint16)).save(tmp_path / "depth" / f"{name}.png")
    assert main(["data", "check", "folder", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "name: folder" in printed
    assert "kind: depth, source: depth, scale: 0.001" in printed
    assert main(["data", "show", "folder", str(tmp_path), "--out", str(tmp_path / "s.png")]) == 0
    recipe = tmp_path / "recipes" / "mine.yaml"
    for _ in range(2):  # again, it writes the same
        assert main(["data", "check", "folder", str(tmp_path), "--recipe", str(recipe)]) == 0
    assert f"the recipe is {recipe}" in capsys.readouterr().out
    assert main(["train", str(recipe), "--print"]) == 0
    recipe.write_text("mine: 1\n")
    assert main(["data", "check", "folder", str(tmp_path), "--recipe", str(recipe)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert recipe.read_text() == "mine: 1\n"
    assert main(["data", "check", "rooms", "--recipe", str(recipe)]) == 2
    assert "--recipe is for folder" in capsys.readouterr().err


def test_nyud_is_built_from_its_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nyud.WRITERS["nyud/built"](tmp_path / "written")
    sources = tmp_path / "written" / "sources"
    words = [
        "data",
        "build",
        "nyud",
        str(sources),
        "--out",
        str(tmp_path / "out"),
        "--no-crop",
        "--depth",
        "raw",
    ]
    assert main([*words, "--processes", "1"]) == 0
    assert "the set is in" in capsys.readouterr().out
    assert main(["data", "check", "nyud", str(tmp_path / "out")]) == 2
    assert "variant: built" in capsys.readouterr().out
