"""A study's finished runs, read: what a report is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plait.config import Recipe
from plait.study.plan import Study
from plait.training.run import Run

if TYPE_CHECKING:
    from plait.metrics.relative_gain import Variant
    from plait.study.cost import Cost
    from plait.tasks.base import Measure, Task

Role = Literal["arm", "single-task", "larger single-task"]


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
