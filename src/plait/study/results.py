"""A study's finished runs, read: what a report is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait import config
from plait.config import Recipe
from plait.errors import ConfigurationError
from plait.study import plan
from plait.study.arms import with_training
from plait.study.plan import Role, Study
from plait.training.run import RECIPE, Run, load_run

if TYPE_CHECKING:
    from plait.metrics.relative_gain import Variant
    from plait.study.cost import Cost
    from plait.tasks.base import Measure, Task


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """One repetition of an arm: a run, or a single-task run for each task.

    Attributes:
        seed: Its training seed.
        runs: Finished runs.
    """

    seed: int
    runs: tuple[Run, ...]

    @cached_property
    def scores(self) -> Mapping[str, Mapping[str, float]]:
        """``{task: {measure: value}}`` on the test split: shares in [0, 1], metres, degrees."""
        return {task: numbers for run in self.runs for task, numbers in run.scores.items()}

    def run_of(self, task: str) -> Run:
        """The run that predicts a task."""
        return next(run for run in self.runs if task in run.scores)


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One arm with what came of it.

    Attributes:
        name: Its name in the study.
        role: ``arm``; or a reference: ``single-task`` networks, or ``larger single-task`` ones that need as
            many operations as an arm.
        recipe: What its runs have in common (of single-task networks: with all tasks).
        axes: Its ``backbone``, ``encoder``, ``decoder`` and ``balancer``, each in a word or two.
        seeds: The seeds all of whose runs are finished, in the study's order.
        cost: What it costs to train and to use, summed over its networks; None if it was not measured.
        reference: Name of the single-task arm that its relative gain refers to; None without one.
        larger: Name of the larger single-task arm that was made for it; None without one.
        tuned: ``{task or "": {dotted key: value}}``: settings that the search has chosen.
        differs: ``{dotted key: (here, in the study's recipe)}``: what differs beside encoder, decoder,
            balancer and tasks.
        failed: The error of each seed that failed.
        missing: Seeds that have not finished.
        steps: Updates of each of its runs.
        note: How larger single-task networks were made.
    """

    name: str
    role: Role
    recipe: Recipe
    axes: Mapping[str, str]
    seeds: tuple[SeedResult, ...]
    cost: Cost | None = None
    reference: str | None = None
    larger: str | None = None
    tuned: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    differs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)
    missing: tuple[int, ...] = ()
    steps: int = 0
    note: str = ""

    @property
    def networks(self) -> int:
        """How many networks it takes to predict all tasks."""
        return max((len(result.runs) for result in self.seeds), default=1)

    @property
    def runs(self) -> tuple[Run, ...]:
        """All its finished runs."""
        return tuple(run for result in self.seeds for run in result.runs)


@dataclass(frozen=True, kw_only=True)
class StudyResults:
    """Everything that a report of one study says comes from here.

    Attributes:
        folder: The study's folder.
        study: What was asked.
        tasks: The reported tasks by name, scored by the study's protocol.
        arms: Single-task references first, then arms in the study's order, then larger single-task networks.
        protocol: By whose rules all runs were scored.
        variant: How the relative gain is formed.
        facts: ``(what, value)``: data, steps, machine, versions, time, command.
        alike: Sentences: what was the same for all arms.
        unlike: Sentences: what differed beside what the study compares, what failed or is missing.
    """

    folder: Path
    study: Study
    tasks: Mapping[str, Task]
    arms: tuple[ArmResult, ...]
    protocol: str = "plain"
    variant: Variant = "survey"
    facts: tuple[tuple[str, str], ...] = ()
    alike: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The report's heading."""
        return self.study.title or self.study.name

    @property
    def measures(self) -> Mapping[str, tuple[Measure, ...]]:
        """The measures of each task, the headline measure first."""
        return {name: task.measures for name, task in self.tasks.items()}

    def arm(self, name: str) -> ArmResult:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)


def load_results(folder: Path) -> StudyResults:
    """Reads what has come of a study.

    Raises:
        DataError: If the folder holds no study.
        ConfigurationError: If nothing of it is finished.
    """
    from plait.study.conduct import STATE
    from plait.study.ledger import Ledger

    ledger = Ledger(folder / STATE, create=False)
    try:
        placed = ledger.places()
        rows = ledger.rows()  # after the places: a run is there before it has one
        arms, costs = ledger.fact("arms", []), ledger.fact("costs", {})
        facts = {name: ledger.fact(name) for name in ("study", "code", "command", "choices")}
    finally:
        ledger.close()
    if not arms:
        raise ConfigurationError(f"the study in {folder} has not begun: `plait study run` carries it out")
    study = plan.parse(facts["study"])
    where = {(at.arm, at.task, at.seed): (at, name) for at, name in placed if at.trial < 0}
    made = tuple(arm_result(arm, study, costs, where, rows, folder) for arm in arms)
    finished = [run for arm in made for run in arm.runs]
    if not finished:
        raise ConfigurationError(
            f"no run of the study in {folder} is finished yet: see `plait study status {folder}`"
        )
    by_role = sorted(made, key=lambda arm: ("single-task", "arm", "larger single-task").index(arm.role))
    from plait.study.fairness import alike, facts_of, unlike

    first = [run for arm in made for result in arm.seeds[:1] for run in result.runs]
    tasks = {task.name: task for run in first for task in run.tasks if not task.auxiliary}
    protocol = finished[0].recipe.evaluation.protocol
    from plait.metrics import PROTOCOLS

    order = [name for arm in made if arm.role == "arm" for name in arm.recipe.tasks if name in tasks]
    return StudyResults(
        folder=folder,
        study=study,
        tasks={name: tasks[name] for name in dict.fromkeys([*order, *tasks])},
        arms=tuple(by_role),
        protocol=protocol,
        variant=PROTOCOLS[protocol].variant,
        facts=tuple(facts_of(study, by_role, facts)),
        alike=tuple(alike(study, by_role)),
        unlike=tuple(unlike(study, by_role)),
    )


def arm_result(
    arm: Mapping[str, Any],
    study: Study,
    costs: Mapping[str, Mapping[str, Any]],
    where: Mapping[tuple[str, str, int], tuple[Any, str]],
    rows: Mapping[str, Any],
    folder: Path,
) -> ArmResult:
    """One arm, from how the ledger describes it."""
    from plait.study.cost import Cost

    networks = arm["networks"]
    recipes = [config.parse(network["recipe"]) for network in networks]
    seeds, failed, missing = [], {}, []
    tuned: dict[str, Mapping[str, Any]] = {}
    for seed in study.seeds:
        found = [where.get((arm["name"], network["task"], seed)) for network in networks]
        known = [rows[name] for _, name in filter(None, found)]
        if len(known) == len(networks) and all(row.state == "finished" for row in known):
            runs = tuple(
                read_run(folder / row.folder, with_training(recipe, seed=seed))
                for row, recipe in zip(known, recipes, strict=True)
            )
            seeds.append(SeedResult(seed=seed, runs=runs))
        elif wrong := [row.error for row in known if row.state == "failed"]:
            failed[seed] = wrong[0]
        else:
            missing.append(seed)
        for network, entry in zip(networks, found, strict=True):
            if entry is not None and entry[0].settings:
                tuned[network["task"]] = entry[0].settings
    tasks = {name: options for recipe in recipes for name, options in recipe.tasks.items()}
    cost = costs.get(arm["name"])
    return ArmResult(
        name=arm["name"],
        role=arm["role"],
        recipe=replace(recipes[0], tasks=tasks),
        axes=arm["axes"],
        seeds=tuple(seeds),
        cost=None if cost is None else Cost.of(cost),
        reference=arm["reference"],
        larger=arm["larger"],
        tuned=tuned,
        differs={key: (here, there) for key, (here, there) in arm["differs"].items()},
        failed=failed,
        missing=tuple(missing),
        steps=recipes[0].training.steps,
        note=arm["note"],
    )


def read_run(folder: Path, expected: Recipe) -> Run:
    """A run's folder; its recipe is parsed only if it is not the expected one, as after a search."""
    try:
        if (folder / RECIPE).read_text(encoding="utf-8") == config.dump(expected):
            return Run(folder, expected)
    except OSError:
        pass  # load_run says what is wrong
    return load_run(folder)
