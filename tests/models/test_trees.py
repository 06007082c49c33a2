"""Trees: written, read, refused, drawn and priced."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.errors import ConfigurationError
from plait.models.encoders.trees import Tree

TASKS = ("semantic", "depth", "normals", "edges")


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A tree of up to six tasks over up to five parts, from the last part backwards."""
    tasks = [f"t{place}" for place in range(draw(st.integers(1, 6)))]
    partitions = [[[task] for task in tasks]]
    for _ in range(draw(st.integers(1, 5))):
        below = partitions[0]
        place = draw(st.lists(st.integers(0, 3), min_size=len(below), max_size=len(below)))
        merged: dict[int, list[str]] = {}
        for group, number in zip(below, place, strict=True):
            merged.setdefault(number, []).extend(group)
        partitions.insert(0, list(merged.values()))
    lines = [" | ".join(" ".join(group) for group in partition) for partition in partitions]
    return Tree.parse(lines, tasks=tasks, parts=len(lines))


@given(trees())
def test_a_tree_is_read_as_it_was_written(tree: Tree) -> None:
    tasks = [task for group in tree.partitions[0] for task in group]
    declared = sorted(tasks)
    assert Tree.parse(tree.text(), tasks=declared, parts=len(tree.partitions)) == tree


@given(trees())
def test_the_price_is_that_of_every_copy(tree: Tree) -> None:
    parts = [10.0**place for place in range(len(tree.partitions))]
    assert tree.cost(parts) == sum(
        price for price, groups in zip(parts, tree.partitions, strict=True) for _ in groups
    )


@given(trees())
def test_the_drawing_names_every_group_once_where_it_begins(tree: Tree) -> None:
    drawn = tree.lines()
    groups = {" ".join(group) for partition in tree.partitions for group in partition}
    assert len(drawn) == len(groups)
    assert {line.split(": ")[1] for line in drawn} == groups


def test_groups_and_members_stand_in_declared_order() -> None:
    tree = Tree.parse(["normals depth | edges semantic"], tasks=TASKS, parts=2)
    assert tree.text() == ("semantic edges | depth normals",) * 2
    assert tree.group(1, "edges") == ("semantic", "edges")


def test_the_shared_tree_has_one_group() -> None:
    assert Tree.shared(TASKS, parts=3).text() == ("semantic depth normals edges",) * 3


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "from 1 to 3 partitions (the stem and each stage), got 0"),
        (["semantic depth normals edges"] * 4, "from 1 to 3 partitions (the stem and each stage), got 4"),
        (["semantic depth | normals"], "expected a partition of semantic, depth, normals, edges"),
        (["semantic depth | normals edges dpeth"], "got 'semantic depth | normals edges dpeth'"),
        (["semantic depth | depth normals edges"], "name every task once"),
        (["semantic depth | normals edges |"], "name every task once"),
        (
            ["semantic depth | normals edges", "semantic depth normals edges"],
            "part 1 of the tree joins semantic, depth, normals, edges, which part 0 keeps apart",
        ),
    ],
)
def test_what_is_no_tree_is_answered_in_one_sentence(lines: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Tree.parse(lines, tasks=TASKS, parts=3)
    assert said in str(caught.value)
