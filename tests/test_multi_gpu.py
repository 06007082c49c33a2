"""The page on several processes: its commands run in two of them, and a run goes on with another number."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import plait
from plait.config import dump, load_recipe
from plait.testing import write_tiny_rooms
from plait.training.checkpoint import read, read_tensors

PAGE = (Path(__file__).parents[1] / "docs" / "multi_gpu.md").read_text(encoding="utf-8")
TINY = (
    *("--model.backbone", "test_resnet", "--model.pretrained", "false", "--model.frozen_norm", "true"),
    *("--model.decoder.head", "linear"),
    *("--augmentation.size", "[32,32]", "--evaluation.size", "[32,40]", "--optimizer.name", "sgd"),
    *("--training.batch_size", "4", "--training.threads", "1", "--training.precision", "fp32"),
)


class StoppedError(Exception):
    """In place of a kill."""


def torchrun(arguments: list[str], folder: Path, *, processes: int = 2) -> str:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *arguments]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_page_s_commands_run_in_two_processes(tmp_path: Path) -> None:
    write_tiny_rooms(tmp_path / "rooms", images=(6, 3, 3), size=(32, 48))
    smaller = ["--data.root", "rooms", *TINY, "--training.steps", "2"]
    (block,) = re.findall(r"^```python\n# file: (mine.py\n.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    program = block.replace('["--training.steps", "500"]', repr(smaller))
    assert program != block
    (tmp_path / "mine.py").write_text(f"# {program}")
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    train, evaluate, mine = (shlex.split(line) for line in "".join(blocks).splitlines())
    for command in (train, evaluate, mine):
        assert command[:3] == ["torchrun", "--nproc-per-node", "2"]
    assert torchrun([*train[3:], *smaller], tmp_path).count("mIoU") == 1
    assert torchrun(evaluate[3:], tmp_path).count("mIoU") == 1
    printed = torchrun(mine[3:], tmp_path)
    one, other = (plait.load_run(tmp_path / "runs" / name) for name in ("two", "mine"))
    assert one.environment["processes"] == 2
    assert one.scores.json() == other.scores.json()
    assert float(printed.splitlines()[-1]) == other.scores["depth"]["rmse"]


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    root = write_tiny_rooms(tmp_path / "rooms", images=(12, 3, 3), size=(32, 48))
    options = [
        *TINY,
        "--training.steps",
        "12",
        "--training.checkpoint_every",
        "4",
        "--training.log_every",
        "1",
    ]
    recipe = load_recipe("rooms_shared", ["--data.root", str(root), *options, "--balancer", "upgrad"])
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    whole = plait.train(recipe, tmp_path / "whole", progress=False)

    def stop(step: int, *_: object) -> None:
        if step == 6:
            raise StoppedError

    with pytest.raises(StoppedError):
        plait.train(recipe, tmp_path / "parts", progress=stop)
    last = tmp_path / "parts" / "checkpoints" / "last"
    assert read(last, files=()).step == 4
    torchrun(["-m", "plait", "train", "recipe.yaml", "--out", "parts"], tmp_path, processes=2)
    assert read(last, files=()).step == 12
    found = read_tensors(last / "model.safetensors")
    for name, value in read_tensors(whole.path / "checkpoints" / "last" / "model.safetensors").items():
        if value.is_floating_point():
            largest = float(value.abs().max())
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4 * max(largest, 1e-6), msg=name)
