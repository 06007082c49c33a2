"""From run folders to affinities, and from affinities to a tree and a recipe that trains it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plait import config
from plait.config import Recipe
from plait.errors import ConfigurationError
from plait.models.encoders.trees import Tree
from plait.registry import nearest
from plait.study.branching.budget import Budget, PartCosts, part_costs
from plait.study.branching.drawing import render, short
from plait.study.branching.methods import JOINT, MAPS_NOTE, METHODS, Affinities, Findings, Question, measured
from plait.study.branching.networks import Progress, Subject, subjects
from plait.study.comparison import join
from plait.study.report import differences, find_runs, seen_size, write
from plait.training.run import RECIPE, Run, load_run

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 8
"""Trees in a table."""

FEWEST_IMAGES = 3
"""That have more than one pair, and can be hard for one task and easy for another."""


def affinity(
    folders: Sequence[Path],
    *,
    images: int = 100,
    out: Path = Path("affinity.html"),
    progress: Progress | None = None,
) -> tuple[Affinities, Path]:
    """Measures how alike the networks of tasks see images, after each stage, and draws it.

    Args:
        folders: A trained single-task run for each task, or one in which each has a backbone of its own; or
            folders that hold them.
        images: How many images of the validation split are looked at.
        out: The HTML page.
        progress: Told of images done and in all.

    Returns:
        The affinities and the page.

    Raises:
        ConfigurationError: If the runs do not fit together, or there are fewer than two tasks.
    """
    require_page(out)
    asked = subjects([load_run(folder) for folder in find_runs(folders)])
    require_two(asked)
    require_images(images)
    found = measured(asked, images, progress)
    page = render(
        title="Affinity of tasks",
        subtitle=about(asked[0].run.recipe, list(found.tasks)),
        notes=found.notes(),
        maps=found.maps(),
        maps_note=MAPS_NOTE,
    )
    write(out, page)
    return found, out


@dataclass(frozen=True)
class Branching:
    """A tree for some tasks, what else was considered, and a recipe that trains it.

    Attributes:
        findings: What was found.
        costs: Of the parts of the backbone.
        recipe: Trains the chosen tree.
        written: Where the recipe is.
        page: Where it is drawn.
    """

    findings: Findings
    costs: PartCosts
    recipe: Recipe
    written: Path
    page: Path

    @property
    def tree(self) -> Tree:
        """The chosen tree."""
        return self.findings.candidates[0].tree

    @property
    def notes(self) -> list[str]:
        """What must be known with the numbers."""
        return list(self.findings.notes)

    @property
    def heads(self) -> list[str]:
        """Columns of the table."""
        return ["tree", self.findings.score, "parameters (M)", "MACs (G)"]

    def rows(self) -> list[dict[str, Any]]:
        """The first trees: their text, and score and costs, with ratios to the shared network."""
        shown = []
        for found in self.findings.candidates[:SHOWN]:
            cells = [f"{found.score:.{self.findings.digits}f}" if np.isfinite(found.score) else "–"]
            for prices, unit in ((self.costs.parameters, 1e6), (self.costs.macs, 1e9)):
                cost = found.tree.cost(prices)
                cells.append(f"{cost / unit:.3g} ({cost / sum(prices):.2f}×)")
            shown.append({"tree": short(found.tree), "cells": cells})
        return shown

    def caption(self) -> str:
        """How to read the table."""
        found = len(self.findings.candidates)
        of = (
            "the only one"
            if found == 1
            else f"the first {min(found, SHOWN)} of {found}, the chosen one first"
        )
        return (
            f"Trees within the budget: {of}. ↓ low is good, ↑ high is good. Costs are of the backbone, MACs "
            f"(multiply-accumulates) of one image; × is to one backbone shared by all tasks."
        )

    def table(self) -> Table:
        """The first trees, for a terminal (rich)."""
        from rich.table import Table

        table = Table(caption=self.caption(), caption_justify="left")
        for place, head in enumerate(self.heads):
            table.add_column(head, justify="right" if place else "left", overflow="fold")
        for row in self.rows():
            table.add_row("\n".join(row["tree"]), *row["cells"])
            table.add_section()
        return table


def branch(
    folders: Sequence[Path],
    *,
    by: str = "rsa",
    budget: Budget | None = None,
    groups: int | None = None,
    images: int = 100,
    out: Path = Path("branched.yaml"),
    progress: Progress | None = None,
) -> Branching:
    """Finds a tree for tasks and writes a recipe that trains it, and a page that draws it beside the recipe.

    Args:
        folders: For ``rsa`` and ``fafs`` a trained single-task run for each task (``rsa`` also takes one in
            which each has a backbone of its own); for ``tag`` one joint run with
            ``training.affinity_every``; for ``learned`` one whose encoder learned a tree.
        by: ``rsa`` keeps apart whose networks see images differently, ``fafs`` who fail on different images,
            ``tag`` who do not help each other's losses; ``learned`` takes the tree that a run has learned.
        budget: What all copies of the backbone's parts may cost; None for 1.5 times the shared network's
            parameters (``rsa`` and ``fafs``), or for no limit.
        groups: How many branches the last stage must have; None for any number.
        images: How many images of the validation split are looked at (``rsa`` and ``fafs``).
        out: The recipe; the page has the same name and ends in ``.html``.
        progress: Told of images done and in all.

    Raises:
        ConfigurationError: If the runs do not fit together, there are fewer than two tasks, or no tree fits
            the budget or the number of groups.
    """
    if by not in METHODS:
        raise ConfigurationError(
            f"unknown search {by!r}{nearest(by, METHODS)}; known are {', '.join(METHODS)}"
        )
    if out.suffix.lower() not in (".yaml", ".yml"):
        raise ConfigurationError(f"a recipe is a YAML file: give --out a name that ends in .yaml, got {out}")
    if out.name == RECIPE and out.is_file():
        raise ConfigurationError(f"{out} is the recipe of a run: give --out another name")
    runs = [load_run(folder) for folder in find_runs(folders)]
    if by in JOINT and len(runs) > 1:
        raise ConfigurationError(
            f"--by {by} reads one run that trains the tasks together, got {len(runs)}: name that one"
        )
    asked = subjects(runs)
    require_two(asked)
    if groups is not None and not 1 <= groups <= len(asked):
        raise ConfigurationError(f"{len(asked)} tasks can be in 1 to {len(asked)} groups, got {groups}")
    if by not in JOINT:
        require_images(images)
    first = runs[0]
    size = seen_size(first, first.dataset(first.recipe.data.validation_split))
    costs = part_costs(first.recipe.model, size)
    if budget is None:
        budget = Budget() if by in JOINT else Budget(amount=1.5)
    shared = sum(costs.of(budget.unit))
    if shared > budget.limit(shared):
        raise ConfigurationError(
            f"no tree fits {budget}: the shared network alone needs {shared:,}; give more"
        )
    findings = METHODS[by](Question(runs, asked, costs, budget, groups, images, progress))
    recipe = branched_recipe(asked, findings.candidates[0].tree)
    notes = [*findings.notes, *recipe_notes(runs)]
    made = Branching(
        findings=dataclasses.replace(findings, notes=notes),
        costs=costs,
        recipe=recipe,
        written=out,
        page=out.with_suffix(".html"),
    )
    page = render(
        title="A tree for these tasks",
        subtitle=about(recipe, list(recipe.tasks)),
        notes=notes,
        maps=findings.maps,
        maps_note=findings.maps_note,
        tree=made.tree,
        heads=made.heads,
        rows=made.rows(),
        caption=made.caption(),
        recipe=config.dump(recipe),
    )
    write(out, config.dump(recipe))
    write(made.page, page)
    return made


def branched_recipe(asked: Sequence[Subject], tree: Tree) -> Recipe:
    """The recipe of the first run, for all tasks, with a tree.

    It starts from ImageNet weights or whatever the run's backbone did, not from the runs themselves.
    """
    return config.replace(
        asked[0].run.recipe,
        {
            "tasks": {s.task.name: dict(s.run.recipe.tasks[s.task.name]) for s in asked},
            "model.encoder": {"name": "branched", "tree": list(tree.text())},
            "model.init_from": None,
            "training.affinity_every": None,
        },
    )


def recipe_notes(runs: Sequence[Run]) -> list[str]:
    """What the recipe takes from the first run alone."""
    differing = list(dict.fromkeys(key for run in runs[1:] for key in differences(run, runs[0])))
    if not differing:
        return []
    return [f"The runs differ in {join(differing)}: the recipe has it from {runs[0].path}."]


def about(recipe: Recipe, tasks: Sequence[str]) -> str:
    """Backbone, data and tasks in a line."""
    return f"{recipe.model.backbone} on {recipe.data.name}: {join(tasks)}"


def require_two(asked: Sequence[Subject]) -> None:
    """Refuses one task alone, which shares with nobody."""
    if len(asked) < 2:
        raise ConfigurationError(
            f"sharing is between tasks, and {asked[0].run.path} knows only {asked[0].task.name}: give runs "
            f"that know at least two tasks"
        )


def require_images(images: int) -> None:
    """Refuses too few images to tell tasks apart by."""
    if images < FEWEST_IMAGES:
        raise ConfigurationError(
            f"affinity compares images and needs at least {FEWEST_IMAGES} of them, got {images}: "
            f"use more images"
        )


def require_page(out: Path) -> None:
    """Refuses a name that is none of an HTML page."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigurationError(f"this is an HTML page: give --out a name that ends in .html, got {out}")
