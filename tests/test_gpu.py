"""On an NVIDIA GPU: the same steps as on the processor, and runs in every precision."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import GPUS

from plait.testing import write_tiny_rooms

pytestmark = pytest.mark.skipif(
    not Path("/dev/nvidiactl").exists() or GPUS == "", reason="there is no NVIDIA GPU here"
)

STEPS = """
import torch
from tests.balancing.tiny import tiny_batch, tiny_network, tiny_tasks
import plait.balancing
from plait.training.step import training_step

def step(device, name, options):
    torch.manual_seed(0)
    model = tiny_network(interacting=True, penalty=True).to(device)
    balancer = plait.balancing.create(name, tasks=tiny_tasks(), **options).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    training_step(model, [tiny_batch(absent={"depth": [0, 1]}).to(device)], balancer, optimizer)
    return {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}

for name, options in [("equal", {}), ("mgda", {"scope": "parameters"}), ("mgda", {"scope": "features"})]:
    expected, found = step("cpu", name, options), step("cuda", name, options)
    for parameter, value in expected.items():
        torch.testing.assert_close(found[parameter], value, rtol=1e-6, atol=1e-9)
"""


def run_on_gpu(*arguments: str) -> str:
    """What a command of this interpreter prints, with the GPU in sight."""
    environment = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    if GPUS is not None:
        environment["CUDA_VISIBLE_DEVICES"] = GPUS
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_step_is_that_of_the_processor() -> None:
    run_on_gpu("-c", STEPS)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("balancer", ["equal", "mgda"])
def test_runs_train_go_on_and_are_scored(precision: str, balancer: str, tmp_path: Path) -> None:
    root, run = write_tiny_rooms(tmp_path / "rooms", images=(6, 3, 3), size=(32, 48)), tmp_path / "run"
    command = [
        *("-m", "plait", "train", "rooms_shared", "--out", str(run), "--data.root", str(root)),
        *("--model.backbone", "test_resnet", "--model.pretrained", "false", "--augmentation.size", "[32,32]"),
        *("--training.steps", "6", "--training.batch_size", "4", "--training.checkpoint_every", "2"),
        *("--training.precision", precision, "--balancer", balancer),
    ]
    run_on_gpu(*command)
    told = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    assert told["accelerator"]
    assert told["choices"]["precision"] == precision
    (run / "scores.json").unlink()
    run_on_gpu(*command)  # from the last checkpoint: only the scores are missing
    run_on_gpu("-m", "plait", "evaluate", str(run))
