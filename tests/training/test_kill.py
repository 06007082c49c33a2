"""A run that is killed for real, again and again, ends as if it had not been."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from plait.config import Recipe, dump
from plait.training.checkpoint import read_tensors

MakeRecipe = Callable[..., Recipe]

TRAIN = """
import os, signal, sys, torch
torch.set_num_threads(1)
from plait.config import load_recipe
from plait.training import checkpoint
from plait.training.fit import train

writes, original = 0, checkpoint.write_durably

def write_durably(path, content):
    global writes
    writes += 1
    if writes == int(sys.argv[3]):
        path.write_bytes(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    original(path, content)

checkpoint.write_durably = write_durably
train(load_recipe(sys.argv[1]), sys.argv[2], progress=False)
"""


def start(recipe: Path, run: Path, *, kill_at_write: int = 0) -> subprocess.Popen[bytes]:
    """A process that trains; at its n-th write (recipe and environment are writes, too) it is killed."""
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(recipe), str(run), str(kill_at_write)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def contents(run: Path) -> dict[str, bytes]:
    files = [*(run / "checkpoints").rglob("*.safetensors"), run / "scores.json"]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_killed_again_and_again_a_run_ends_with_the_same_bits(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    changes = {
        "training.steps": 40,
        "training.checkpoint_every": 3,
        "training.ema": 0.9,
        "training.keep": "best",
        "training.validate_every": 9,
    }
    recipe.write_text(dump(make_recipe(**changes)))
    assert start(recipe, tmp_path / "whole").wait() == 0
    killed = tmp_path / "killed"

    for write in (1, 2, 4, 6, 11):  # in the middle of a write, of every kind of file
        process = start(recipe, killed, kill_at_write=write)
        assert process.wait() == -signal.SIGKILL
    for moment in random.Random(0).sample(range(40), 4):  # and at any moment in between
        process = start(recipe, killed)
        while process.poll() is None and steps(killed) < moment:
            time.sleep(0.005)
        process.kill()
        process.wait()
    assert start(recipe, killed).wait() == 0

    whole = contents(tmp_path / "whole")
    assert contents(killed) == whole
    assert len(whole) == 5
    assert read_tensors(killed / "checkpoints/last/model.safetensors")
    assert not list(killed.rglob("*.writing"))


def steps(run: Path) -> int:
    """The last step in a log that another process is writing."""
    try:
        return int(json.loads((run / "log.jsonl").read_text().splitlines()[-1])["step"])
    except (OSError, ValueError, IndexError):
        return 0
