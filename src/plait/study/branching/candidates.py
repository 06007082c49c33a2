"""A tree that a search considered, and how it is ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plait.models.encoders.trees import Group, Tree
from plait.study.branching.partitions import Blocks


@dataclass(frozen=True)
class Candidate:
    """A tree with what it scores and what its parts cost.

    Attributes:
        tree: The tree.
        score: What the search minimises or maximises.
        cost: In the unit of the budget, over all copies of all parts.
    """

    tree: Tree
    score: float
    cost: float


def sorted_candidates(found: Sequence[Candidate], *, highest: bool = False) -> tuple[Candidate, ...]:
    """The best score first; of equal ones (to 12 digits) the cheaper, then the one first by its text."""
    sign = -1 if highest else 1
    return tuple(sorted(found, key=lambda c: (sign * round(c.score, 12), c.cost, c.tree.text())))


def tree_of(chain: Sequence[Blocks], tasks: Sequence[str]) -> Tree:
    """The tree of a partition a stage, the first stage first; the stem goes with the first stage."""

    def named(blocks: Blocks) -> tuple[Group, ...]:
        return tuple(tuple(tasks[place] for place in block) for block in blocks)

    stages = tuple(named(blocks) for blocks in chain)
    return Tree((stages[0], *stages))
