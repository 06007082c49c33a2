"""The ways to find a tree: what each looks at, and which trees it considers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plait import config
from plait.errors import ConfigurationError
from plait.models.encoders.trees import Tree
from plait.study.branching import tag
from plait.study.branching.affinity import Array, error_affinity, representation_affinity
from plait.study.branching.budget import Budget, PartCosts
from plait.study.branching.candidates import Candidate, sorted_candidates
from plait.study.branching.drawing import HeatMap
from plait.study.branching.fafs import fafs, tree_separation
from plait.study.branching.networks import Progress, Subject, dissimilarities, margins
from plait.study.branching.search import EXHAUSTIVE, search
from plait.study.comparison import join
from plait.training.run import Run

if TYPE_CHECKING:
    from rich.table import Table

ALPHAS = [0.0, *(2.0 ** (half / 2) for half in range(25))]
"""How strongly unlike tasks are pulled apart, in branches of the last stage; every tree on the way counts."""


@dataclass(frozen=True)
class Affinities:
    """How alike tasks are after each stage.

    Attributes:
        tasks: Their names.
        values: ``[D, T, T]``, the first stage first.
        images: Images they were measured on.
        split: Where these are from.
    """

    tasks: tuple[str, ...]
    values: Array
    images: int
    split: str

    def table(self) -> Table:
        """A row a pair of tasks, a column a stage, for a terminal (rich)."""
        from rich.table import Table

        table = Table(title="Affinity of the tasks' networks after each stage", title_justify="left")
        table.add_column("", no_wrap=True)
        for stage in range(1, len(self.values) + 1):
            table.add_column(f"stage {stage}", justify="right")
        for one, other in zip(*np.triu_indices(len(self.tasks), 1), strict=True):
            texts = [f"{value:.3f}" for value in self.values[:, one, other]]
            table.add_row(f"{self.tasks[one]} – {self.tasks[other]}", *texts)
        return table

    def maps(self) -> list[HeatMap]:
        """To be drawn, one a stage."""
        # Affinities are often all high: colour begins below the lowest, the same in every map.
        weakest = min(max(0.0, math.floor(10 * float(self.values.min())) / 10), 0.9)
        return [
            HeatMap(f"After stage {stage}", self.tasks, values, weakest=weakest)
            for stage, values in enumerate(self.values, start=1)
        ]

    def notes(self) -> list[str]:
        """What must be known with the numbers."""
        return [
            f"Measured on {self.images} images spread evenly over split {self.split}; the test split is not "
            f"looked at."
        ]


MAPS_NOTE = (
    "Spearman's rank correlation between the dissimilarities that two networks see among the images: 1 where "
    "both order the pairs of images alike, 0 where the orders have nothing to do with each other. The deeper "
    "the colour, the more alike."
)


def measured(asked: Sequence[Subject], images: int, progress: Progress | None) -> Affinities:
    """The affinities of tasks by their representations."""
    names = tuple(subject.task.name for subject in asked)
    matrices = dissimilarities(asked, images=images, progress=progress)
    return Affinities(
        tasks=names,
        values=representation_affinity(matrices, names),
        images=matrices.shape[-1],
        split=asked[0].run.recipe.data.validation_split,
    )


@dataclass(frozen=True)
class Findings:
    """What one way of looking found.

    Attributes:
        candidates: Trees, the chosen one first.
        score: What their scores are, and which ones are good.
        maps: Affinities to draw, with how to read them.
        maps_note: How to read them.
        notes: What must be known with the numbers.
        digits: Decimals of the scores.
    """

    candidates: tuple[Candidate, ...]
    score: str
    maps: Sequence[HeatMap] = ()
    maps_note: str = ""
    notes: Sequence[str] = ()
    digits: int = 3


@dataclass(frozen=True)
class Question:
    """What a search is asked.

    Attributes:
        runs: The runs, one for a way that reads a joint one.
        asked: Their tasks.
        costs: Of the backbone's parts.
        budget: What a tree may cost, at least what the shared network does.
        groups: Branches of the last stage, or None.
        images: Images to look at.
        progress: Told of images done and in all.
    """

    runs: Sequence[Run]
    asked: Sequence[Subject]
    costs: PartCosts
    budget: Budget
    groups: int | None
    images: int
    progress: Progress | None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks."""
        return tuple(subject.task.name for subject in self.asked)

    @property
    def parts(self) -> tuple[int, ...]:
        """What each part costs in the budget's unit."""
        return self.costs.of(self.budget.unit)

    @property
    def limit(self) -> float:
        """The budget in its unit."""
        return self.budget.limit(sum(self.parts))

    def with_groups(self, found: Sequence[Candidate]) -> list[Candidate]:
        """Those with the asked number of branches in the last stage.

        Raises:
            ConfigurationError: If there is none.
        """
        wanted = self.groups
        kept = [c for c in found if wanted is None or len(c.tree.partitions[-1]) == wanted]
        if not kept:
            have = [str(n) for n in sorted({len(c.tree.partitions[-1]) for c in found})]
            limited = math.isfinite(self.budget.amount)
            within, way = (f" within {self.budget}", ", or give more") if limited else ("", "")
            raise ConfigurationError(
                f"no tree that was found{within} has {wanted} branches in the last stage, only {join(have)}: "
                f"leave --groups out{way}"
            )
        return kept


def by_rsa(question: Question) -> Findings:
    """Trees by representation similarity."""
    found = measured(question.asked, question.images, question.progress)
    trees = search(
        found.values,
        tasks=question.tasks,
        parts=question.parts,
        limit=question.limit,
        groups=question.groups,
    )
    way = "Every tree was looked at" if len(question.tasks) <= EXHAUSTIVE else "Found by beam search"
    return Findings(
        trees,
        "dissimilarity ↓",
        found.maps(),
        MAPS_NOTE,
        [*found.notes(), f"{way}, within {question.budget}.", *only_shared(question)],
    )


def only_shared(question: Question) -> list[str]:
    """A sentence about the least that branching costs, where nothing but the shared tree fits."""
    shared, branch = sum(question.parts), question.parts[-1]
    if shared + branch <= question.limit:
        return []
    least = 1 + branch / shared
    return [
        f"Only the shared tree fits: one branch more in the last stage costs {least:.2f}× the shared one."
    ]


def by_fafs(question: Question) -> Findings:
    """Trees by which images tasks find hard."""
    errors = margins(question.asked, images=question.images, progress=question.progress)
    alike = error_affinity(errors, question.tasks)
    strides = strides_of(question.runs[0])
    found: dict[Tree, Candidate] = {}
    for alpha in ALPHAS:
        tree = fafs(alike, tasks=question.tasks, strides=strides, alpha=alpha)
        score = tree_separation(alike, tree, question.tasks)
        found[tree] = Candidate(tree, score, tree.cost(question.parts))
    fitting = [candidate for candidate in found.values() if candidate.cost <= question.limit]
    split = question.runs[0].recipe.data.validation_split
    return Findings(
        sorted_candidates(question.with_groups(fitting)),
        "separation ↓",
        [HeatMap("All stages", question.tasks, alike)],
        "The part of the images that two tasks both find hard or both find easy: 1 where they always agree, "
        "0.5 where by chance. The stronger the colour, the more alike.",
        [
            f"Errors of {len(errors)} images spread evenly over split {split}; the test split is not looked "
            f"at. An image is hard if its loss is at least the task's mean.",
            f"Trees of {len(ALPHAS)} trade-offs between branches and separation, within {question.budget}.",
            *only_shared(question),
        ],
    )


def by_tag(question: Question) -> Findings:
    """Groups by what steps on tasks do to each other's losses."""
    run = question.runs[0]
    alike = tag.mean_affinity(run.log, question.tasks)
    found = tag.groupings(alike, tasks=question.tasks, parts=question.parts, limit=question.limit)
    count = sum("affinity" in line for line in run.log)
    return Findings(
        sorted_candidates(question.with_groups(found), highest=True),
        "mean affinity ↑",
        [HeatMap("From row onto column", question.tasks, alike, strongest=None, digits=4)],
        "By which part of itself the loss of the column's task falls after a step on the row's task alone, "
        "averaged over training. Blue helps; orange, underlined, harms. On the diagonal a task's own step.",
        [
            f"Measured at {count} steps of {run.path}. For each number of groups the best grouping, within "
            f"{question.budget}; each group is a network of its own.",
        ],
        digits=5,
    )


def by_learned(question: Question) -> Findings:
    """The tree that a run's encoder has learned."""
    run = question.runs[0]
    encoder = run.model().encoder
    learned: Callable[[], Tree] | None = getattr(encoder, "tree", None)
    if not callable(learned):
        name = config.named(run.recipe.model.encoder)[0]
        raise ConfigurationError(
            f"{run.path} has encoder {name!r}, which learns no tree: train with learned_branching or bmtas"
        )
    tree: Tree = learned()
    cost = tree.cost(question.parts)
    if cost > question.limit:
        raise ConfigurationError(
            f"the tree that {run.path} has learned costs {cost:,.0f}, more than {question.budget}: "
            f"give more, or train it again with a stronger penalty on its size"
        )
    found = question.with_groups([Candidate(tree, float("nan"), cost)])
    return Findings(
        tuple(found),
        "score",
        notes=[f"The tree that the encoder of {run.path} holds most likely at the end of training."],
    )


METHODS: dict[str, Callable[[Question], Findings]] = {
    "rsa": by_rsa,
    "fafs": by_fafs,
    "tag": by_tag,
    "learned": by_learned,
}

JOINT = ("tag", "learned")
"""Those that read one run that trains the tasks together."""


def strides_of(run: Run) -> tuple[int, ...]:
    """Strides of the stages of a run's backbone."""
    import torch

    from plait.models.backbones import create_backbone

    model = run.recipe.model
    with torch.device("meta"):
        return create_backbone(model.backbone, **model.backbone_options).strides
