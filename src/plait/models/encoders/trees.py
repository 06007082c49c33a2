"""Trees of tasks over the parts of a backbone: who shares what, how it is written, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from plait.errors import ConfigurationError

Group = tuple[str, ...]
Partition = tuple[Group, ...]
"""Tasks in groups; groups and their members in declared order."""


@dataclass(frozen=True)
class Tree:
    """Which tasks share each part of a backbone: a partition a part, each refining the one before.

    Attributes:
        partitions: The stem's first, then each stage's.

    >>> tree = Tree.parse(["a b c", "a | b c"], tasks=["a", "b", "c"], parts=4)
    >>> tree.partitions[0], tree.partitions[-1]
    ((('a', 'b', 'c'),), (('a',), ('b', 'c')))
    >>> tree.text()
    ('a b c', 'a | b c', 'a | b c', 'a | b c')
    """

    partitions: tuple[Partition, ...]

    @classmethod
    def parse(cls, text: Sequence[str], *, tasks: Sequence[str], parts: int) -> Tree:
        """A tree from a partition a part, as in ``"a b | c"``; the last one holds for the remaining parts.

        Raises:
            ConfigurationError: If there are more partitions than parts, a task is missing, unknown or
                twice in one, or tasks that were apart come together again.
        """
        if not 1 <= len(text) <= parts:
            raise ConfigurationError(
                f"a tree has from 1 to {parts} partitions (the stem and each stage), got {len(text)}"
            )
        partitions = [_partition(line, tasks) for line in text]
        partitions += partitions[-1:] * (parts - len(text))
        for place, (before, after) in enumerate(pairwise(partitions)):
            for group in after:
                if not any(set(group) <= set(parent) for parent in before):
                    raise ConfigurationError(
                        f"part {place + 1} of the tree joins {', '.join(group)}, which part {place} keeps "
                        f"apart: tasks that have branched off cannot come together again"
                    )
        return cls(tuple(partitions))

    def text(self) -> tuple[str, ...]:
        """The partitions as :meth:`parse` reads them."""
        return tuple(" | ".join(" ".join(group) for group in partition) for partition in self.partitions)

    @classmethod
    def shared(cls, tasks: Sequence[str], *, parts: int) -> Tree:
        """The tree in which all tasks share every part."""
        return cls(((tuple(tasks),),) * parts)

    def group(self, part: int, task: str) -> Group:
        """The tasks that share a part with a task, itself included."""
        return next(group for group in self.partitions[part] if task in group)

    def lines(self) -> list[str]:
        """The tree as a person draws it, a line a branch.

        >>> tree = Tree.parse(["a b c", "a | b c", "a | b | c"], tasks=["a", "b", "c"], parts=4)
        >>> for line in tree.lines():
        ...     print(line)
        stem: a b c
        ├─ stages 1 to 3: a
        └─ stage 1: b c
           ├─ stages 2 to 3: b
           └─ stages 2 to 3: c
        """
        drawn: list[str] = []

        def draw(groups: Sequence[Group], part: int, indent: str, *, root: bool) -> None:
            for number, group in enumerate(groups, start=1):
                end = part
                while end < len(self.partitions) and group in self.partitions[end]:
                    end += 1
                last = number == len(groups)
                fork, below = ("", "") if root else (("└─ ", "   ") if last else ("├─ ", "│  "))
                drawn.append(f"{indent}{fork}{part_names(part, end - 1)}: {' '.join(group)}")
                if end < len(self.partitions):
                    inside = [child for child in self.partitions[end] if set(child) < set(group)]
                    draw(inside, end, indent + below, root=False)

        draw(self.partitions[0], 0, "", root=True)
        return drawn

    def cost(self, parts: Sequence[float]) -> float:
        """The sum over parts of a part's cost times the number of its copies."""
        return sum(cost * len(partition) for cost, partition in zip(parts, self.partitions, strict=True))


def part_names(first: int, last: int) -> str:
    """Parts from ``first`` to ``last``, 0 being the stem, in words.

    >>> part_names(0, 0), part_names(0, 2), part_names(2, 2), part_names(1, 4)
    ('stem', 'stem to stage 2', 'stage 2', 'stages 1 to 4')
    """
    if first == last:
        return f"stage {first}" if first else "stem"
    return f"stages {first} to {last}" if first else f"stem to stage {last}"


def _partition(line: str, tasks: Sequence[str]) -> Partition:
    groups = [group.replace(",", " ").split() for group in line.split("|")]
    names = [name for group in groups for name in group]
    if sorted(names) != sorted(tasks) or not all(groups):
        raise ConfigurationError(
            f"expected a partition of {', '.join(tasks)} such as {' | '.join(tasks)!r}, got {line!r}: "
            f"name every task once"
        )
    return in_order([tuple(group) for group in groups], tasks)


def in_order(groups: Sequence[Sequence[str]], tasks: Sequence[str]) -> Partition:
    """The groups with members, and then themselves, in declared order."""
    place = {task: number for number, task in enumerate(tasks)}
    sorted_groups = (tuple(sorted(group, key=place.__getitem__)) for group in groups)
    return tuple(sorted(sorted_groups, key=lambda group: place[group[0]]))
