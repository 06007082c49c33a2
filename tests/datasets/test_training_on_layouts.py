"""Every data set, in every layout: a training step with all its labels, and an evaluation."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tests.contracts.datasets import WRITERS, write

from plait.config import parse, plain
from plait.data.inspection import default_declaration, fields_at
from plait.data.inspection import opened as open_dataset
from plait.training.fit import train


@pytest.mark.parametrize("key", WRITERS)
def test_a_step_and_an_evaluation(key: str, tmp_path: Path) -> None:
    written = write(key, tmp_path / "data")
    fields = tuple(fields_at(written.name, written.root, written.options))
    tasks = default_declaration(open_dataset(written.name, "train", fields, written.root, written.options))
    recipe = parse(
        {
            "data": {"name": written.name, "root": str(written.root), "options": plain(written.options)},
            "tasks": tasks,
            "model": {
                "backbone": "test_resnet",
                "pretrained": False,
                "decoder": {"name": "independent", "head": "linear"},
            },
            "augmentation": {"size": [32, 32], "crop": False},
            "training": {"steps": 2, "batch_size": 2, "threads": 1, "precision": "fp32", "log_every": 1},
            "evaluation": {"size": [32, 32], "batch_size": 2},
        }
    )
    run = train(recipe, tmp_path / "run", progress=False)
    assert set(run.scores) == set(tasks)
    for task, numbers in run.scores.items():
        assert any(math.isfinite(value) for value in numbers.values()), (task, numbers)
    losses = [line["loss"] for line in run.log if "loss" in line]
    assert losses, run.log
    assert all(math.isfinite(value) for line in losses for value in line.values() if value is not None)
