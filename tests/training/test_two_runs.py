"""A run in two processes scores as it does in one, and trains alike."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from plait.config import Evaluation, Recipe, dump
from plait.training.checkpoint import read_tensors
from plait.training.evaluate import evaluate
from plait.training.fit import train
from plait.training.run import load_run
from plait.training.scores import Scores

MakeRecipe = Callable[..., Recipe]

EVALUATE = """
import sys, torch
torch.set_num_threads(1)
from plait.training.processes import join, leave
from plait.config import Evaluation
from plait.training.evaluate import evaluate
from plait.training.run import load_run

state = join()
run = load_run(sys.argv[1])
scores = evaluate(run.model(), run.dataset("train"), evaluation=Evaluation(batch_size=2))
scores.save(f"{sys.argv[2]}/{state.process_index}.json")
leave()
"""
TRAIN = """
import sys, torch
torch.set_num_threads(1)
from plait.training.processes import join, leave
from plait.config import load_recipe
from plait.training.fit import train

state = join()
train(load_recipe(sys.argv[1]), sys.argv[2], progress=False)
leave()
"""


def in_processes(script: str, *arguments: Path, count: int = 2) -> None:
    """Runs a script as ``torchrun`` would, in some processes that know each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            env={**os.environ, **about, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * count, "\n".join(errors)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])  # six images: four processes have unequal shares
def test_processes_do_not_change_a_score(make_recipe: MakeRecipe, tmp_path: Path, count: int) -> None:
    run = train(make_recipe(**{"training.steps": 1}), tmp_path / "run", progress=False)
    in_processes(EVALUATE, run.path, tmp_path, count=count)
    alone = evaluate(run.model(), run.dataset("train"), evaluation=Evaluation(batch_size=2))
    for rank in range(count):
        together = Scores.load(tmp_path / f"{rank}.json")
        for task, numbers in alone.items():
            assert together[task] == pytest.approx(numbers, rel=1e-6, nan_ok=True)


def torchrun(*arguments: str) -> str:
    """What ``plait`` prints, started in two processes."""
    command = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "plait")
    done = subprocess.run(
        [sys.executable, *command, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_torchrun_starts_the_commands(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(**{"model.frozen_norm": True, "optimizer.name": "sgd"})
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    printed = torchrun("train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "two"))
    assert printed.count("mIoU") == 1
    two = load_run(tmp_path / "two")
    assert two.environment["processes"] == 2
    one = train(recipe, tmp_path / "one", progress=False)
    for task, numbers in one.scores.items():
        assert two.scores[task] == pytest.approx(numbers, rel=1e-3, nan_ok=True)
    printed = torchrun("evaluate", str(tmp_path / "two"), "--json", str(tmp_path / "new/scores.json"))
    assert printed.count("mIoU") == 1
    again = Scores.load(tmp_path / "new/scores.json")
    for task, numbers in two.scores.items():
        assert again[task] == pytest.approx(numbers, rel=1e-6, nan_ok=True)


@pytest.mark.slow
def test_processes_validate_the_network_that_is_kept(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Running statistics, and their averages, differ between processes until the first one's are taken."""
    recipe = make_recipe(**{"training.ema": 0.5, "training.keep": "best", "training.criterion": "depth.rmse"})
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    in_processes(TRAIN, tmp_path / "recipe.yaml", tmp_path / "two")
    run = load_run(tmp_path / "two")
    told = {row["step"]: row["validation"]["depth"]["rmse"] for row in run.log if "validation" in row}
    assert run.evaluate("val")["depth"]["rmse"] == pytest.approx(min(told.values()), rel=1e-6)


@pytest.mark.slow
def test_a_run_in_two_processes_is_that_in_one(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    changes = {
        "model.frozen_norm": True,
        "training.keep": "best",
        "balancer": "mgda",
        "optimizer.name": "sgd",
    }
    recipe = make_recipe(**changes)
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    in_processes(TRAIN, tmp_path / "recipe.yaml", tmp_path / "two")
    train(recipe, tmp_path / "one", progress=False)
    one, two = (
        read_tensors(tmp_path / name / "checkpoints/last/model.safetensors") for name in ("one", "two")
    )
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5, msg=name)
