"""A study of networks that were trained for a few steps: runs with folders, checkpoints, logs and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.study.reporting.made_up import SINGLE, cost

import plait.tasks
from plait.config import Recipe, parse
from plait.config import replace as changed
from plait.study.plan import Study
from plait.study.results import ArmResult, SeedResult, StudyResults
from plait.testing import write_tiny_rooms
from plait.training.fit import train

TASKS: dict[str, dict[str, Any]] = {
    "semantic": {"kind": "semantic", "classes": 20},
    "depth": {"kind": "depth"},
    "normals": {"kind": "normals"},
}
ARMS: dict[str, dict[str, Any]] = {
    "shared": {"training.affinity_every": 2},
    "mgda": {"balancer": {"name": "mgda", "scope": "parameters"}, "training.diagnose_every": 1},
    "uncertainty <&> shared": {"balancer": "uncertainty"},
}
"""What arms change; one has a name that must be escaped."""


def recipe_of(rooms: dict[str, Any], steps: int = 4) -> Recipe:
    """What all arms start from."""
    return parse({
        "data": rooms,
        "tasks": TASKS,
        "model": {
            "backbone": "test_resnet", "pretrained": False,
            "decoder": {"name": "independent", "head": "linear"},
        },
        "schedule": {"name": "constant"},
        "augmentation": {"size": [32, 40]},
        "training": {
            "steps": steps, "batch_size": 4, "checkpoint_every": steps, "log_every": 1, "validate_every": 2,
            "threads": 1, "precision": "fp32", "channels_last": False,
        },
        "evaluation": {"size": [32, 40]},
    })  # fmt: skip


def trained(
    folder: Path, *, seeds: int = 2, names: Sequence[str] = tuple(ARMS), steps: int = 4
) -> StudyResults:
    """Trains arms and the single-task networks, for each seed, on a few tiny rooms.

    Args:
        folder: Where their folders go.
        seeds: How many.
        names: Which of :data:`ARMS`.
        steps: Updates of each run.
    """
    rooms = write_tiny_rooms(folder / "rooms", images=(6, 2, 5), size=(40, 56))
    recipe = recipe_of({"root": str(rooms)}, steps)

    def arm(name: str, changes: dict[str, Any], *, single: bool) -> ArmResult:
        own = changed(recipe, changes)
        found = []
        for seed in range(seeds):
            groups = [{task: TASKS[task]} for task in TASKS] if single else [TASKS]
            runs = []
            for place, tasks in enumerate(groups):
                wanted = replace(own, tasks=tasks, training=replace(own.training, seed=seed))
                path = folder / "runs" / f"{name[:6]}-{seed}-{place}"
                runs.append(train(wanted, path, progress=False))
            found.append(SeedResult(seed=seed, runs=tuple(runs)))
        balancer = own.balancer if isinstance(own.balancer, str) else own.balancer["name"]
        axes = {
            "backbone": "test_resnet",
            "encoder": "shared",
            "decoder": "independent",
            "balancer": balancer,
        }
        return ArmResult(
            name=name, role="single-task" if single else "arm", recipe=own, axes=axes, seeds=tuple(found),
            cost=cost(1.0 if single else 0.5 + 0.01 * len(name)),
            reference=None if single else SINGLE, steps=steps,
        )  # fmt: skip

    arms = [
        arm(SINGLE, {}, single=True),
        *(arm(name, ARMS[name], single=False) for name in names),
    ]
    tasks = {task.name: task.scored("plain") for task in plait.tasks.parse(TASKS)}
    return StudyResults(
        folder=folder,
        study=Study(
            name="tiny",
            title="Three ways & a <reference>",
            arms=dict.fromkeys(names),
            seeds=list(range(seeds)),
        ),
        tasks=tasks,
        arms=tuple(arms),
        facts=(("Command", "plait study run tiny.yaml"), ("Data", "rooms, scored on test")),
        alike=("All arms saw the same images in the same order.",),
        unlike=("uncertainty <&> shared has parameters of its own.",),
    )
