"""Every recipe learns from its data set: two steps on tiny folders in the exact layout."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from tests.contracts.datasets import WRITERS
from tests.recipes.papers import PAPERS

from plait.config import Recipe, replace
from plait.training.fit import micro_batches
from plait.training.run import Run, make_network
from plait.training.session import Session
from plait.training.step import StepReport, training_step
from plait.training.tuning import Choices

SIZE = [64, 64]
FAST = (
    "nyud/mti_net_en_hrnet18",
    "pascal_context/mtl_r18",
    "pascal_context/single_parts_r18",
    "cityscapes/three_mtl_r50_uncertainty",
)
"""Of each data set; with auxiliary tasks, with a balancer that learns weights, with images of people only."""


def layout(recipe: Recipe) -> str:
    """The archive that a recipe is for."""
    if recipe.data.name == "cityscapes":
        variant = recipe.data.options["variant"]
        return f"cityscapes/{variant}_all" if "classes" in recipe.data.options else f"cityscapes/{variant}"
    return {"nyud": "nyud/survey", "pascal_context": "pascal_context/pascal_mt"}[recipe.data.name]


def steps(recipe: Recipe, folder: Path, number: int) -> list[StepReport]:
    """The first steps of a run, as the loop makes them, without a checkpoint of some hundred megabytes."""
    run = Run(folder, recipe)
    torch.manual_seed(0)
    network = make_network(recipe, run.tasks, pretrained=False)
    session = Session(recipe, network, Choices(threads=1, channels_last=False, precision="fp32"))
    dataset = run.dataset(recipe.data.train_split)
    batches = micro_batches(run, dataset, network.normalisation, 0, session.batches)
    network.train()
    reports = []
    for _ in range(number):
        own, *extra = ([session.place(batch)] for batch in islice(batches, session.batches))
        session.begin_step()
        report = training_step(
            session.model, own, session.balancer, session.optimizer, extra=extra, compared=session.compared
        )
        session.end_step(len(dataset))
        reports.append(report)
    return reports


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in PAPERS]
)
def test_a_recipe_takes_steps_with_finite_losses(name: str, tmp_path: Path) -> None:
    written = WRITERS[layout(PAPERS[name])](tmp_path / "data")
    recipe = replace(
        PAPERS[name],
        {
            "data.root": str(written),
            "augmentation.size": SIZE,
            "training.batch_size": 2,
            "training.steps": 2,
            "training.checkpoint_every": 2,
            "evaluation.size": SIZE,
        },
    )
    before, after = steps(recipe, tmp_path / "run", 2)
    for report in (before, after):
        assert set(report.losses) == set(recipe.tasks)
        assert all(loss.isfinite() for loss in report.losses.values())
        assert bool(report.updated)
    assert any(float(loss) > 0 for loss in before.losses.values())
    assert any(float(after.losses[task]) != float(before.losses[task]) for task in recipe.tasks)
