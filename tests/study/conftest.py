"""Run folders as training leaves them, without training: recipe, environment, log and scores."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import plait.tasks
from plait.config import Recipe, dump, load_recipe, replace
from plait.study.qualitative import Prediction, Row
from plait.training.run import Run
from plait.training.scores import Scores

MakeRun = Callable[..., Run]


@pytest.fixture
def recipe(recipes: Path) -> Recipe:
    """The quickstart's recipe, with few steps."""
    return replace(load_recipe(recipes / "quickstart.yaml"), {"training.steps": 60})


@pytest.fixture
def make_run(tmp_path: Path, recipe: Recipe) -> MakeRun:
    """Makes a finished run of some tasks, with changes to the recipe; more ``skill`` gives better scores."""

    def make(name: str, tasks: list[str], skill: float = 0.5, **changes: object) -> Run:
        tree = {
            "tasks": {task: dict(recipe.tasks[task]) for task in tasks},
            **{k.replace("__", "."): v for k, v in changes.items()},
        }
        run = Run(tmp_path / name, replace(recipe, tree))
        run.path.mkdir(parents=True)
        (run.path / "recipe.yaml").write_text(dump(run.recipe))
        environment = {
            "command": ["plait"], "python": "3.11", "packages": {"plait": "0.1.0", "torch": "2.15.0"},
            "platform": "Linux", "processor": "a <made-up> processor", "accelerator": None, "cores": 2,
            "choices": {"threads": 1, "precision": "fp32", "channels_last": True},
        }  # fmt: skip
        (run.path / "environment.json").write_text(json.dumps(environment))
        rows = [
            {"step": step, "loss": {task: 2 * math.exp(-skill * step / 20) + 0.2 for task in tasks}}
            for step in range(1, 61)
        ]
        (run.path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        values = {
            task.name: {m.name: skill if m.higher_is_better else 1 - skill for m in task.measures}
            for task in run.tasks
        }
        Scores.of(run.tasks, values, split="test", images=4).save(run.path / "scores.json")
        return run

    return make


@pytest.fixture
def picture_rows(recipe: Recipe) -> list[Row]:
    """Two images with targets, predictions and errors of two arms for every task."""
    tasks = plait.tasks.parse(recipe.tasks)
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(2):
        targets, predictions = {}, {}
        for task in tasks:
            label, decoded = (
                task.decode(torch.randn(1, task.channels, 24, 32, generator=generator))[0] for _ in range(2)
            )
            targets[task.name] = task.picture(label)
            found = Prediction(task.picture(decoded), task.error(decoded, label), f"{task.headline.title} 1")
            predictions[task.name] = {"single-task": found, "multi-task": found}
        image = np.random.default_rng(number).integers(0, 255, (24, 32, 3), dtype=np.uint8)
        made.append(Row(f"room {number}", image, targets, predictions))
    return made
