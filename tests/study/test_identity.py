"""Two runs have one identity if and only if they come out alike."""

import ast
from pathlib import Path

import pytest

from plait.config import load_recipe, replace
from plait.study import identity as identities
from plait.study.identity import identity, import_paths, meaning


def test_it_is_the_same_for_the_same_and_another_for_what_decides() -> None:
    recipe = load_recipe("rooms/mtl")
    first = identity(recipe)
    assert first == identity(load_recipe("rooms/mtl"))
    assert len(first) == 16
    others = [
        identity(replace(recipe, {"training.seed": 1})),
        identity(replace(recipe, {"training.steps": 201})),
        identity(replace(recipe, {"balancer": "dwa"})),
        identity(replace(recipe, {"data.root": "/elsewhere"})),
        identity(recipe, split="val"),
        identity(recipe, processes=2),
        identity(recipe, starts_from={"depth": "abc"}),
        identity(recipe, starts_from={"depth": "abd"}),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_what_decides_nothing_has_no_part_in_it() -> None:
    recipe = load_recipe("rooms/mtl")
    for change in (
        {"training.workers": 2},
        {"training.trackers": ["tensorboard"]},
        {"published": {"source": "a paper"}},
        {"training.log_every": 7},
    ):
        assert identity(replace(recipe, change)) == identity(recipe), change


def test_the_order_of_tasks_decides() -> None:
    recipe = load_recipe("rooms/mtl")
    turned = replace(recipe, {"tasks": dict(reversed(list(recipe.tasks.items())))})
    assert turned.tasks == recipe.tasks
    assert identity(turned) != identity(recipe)


def test_where_the_runs_it_starts_from_lie_does_not_decide() -> None:
    recipe = load_recipe("rooms/mtl")
    here, there = (replace(recipe, {"model.init_from": {"depth": path}}) for path in ("/a", "/b"))
    starts = {"depth": "0123"}
    assert identity(here, starts_from=starts) == identity(there, starts_from=starts)
    assert identity(here) != identity(there)  # nothing else says what is in them


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ('def f(x):\n    """Another text."""\n    # a comment\n    return x + 1\n', True),
        ("def f( x ):\n    return (x + 1)\n", True),
        ("def f(x):\n    return x + 2\n", False),
        ("def f(y):\n    return y + 1\n", False),
    ],
)
def test_only_what_code_does_counts(tmp_path: Path, text: str, same: bool) -> None:
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text('def f(x):\n    """A text."""\n    return x + 1\n')
    second.write_text(text)
    assert (meaning(first) == meaning(second)) is same


def test_the_code_of_one_s_own_parts_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "own_balancers.py"
    monkeypatch.syspath_prepend(tmp_path)
    recipe = replace(load_recipe("rooms/mtl"), {"balancer": "own_balancers:Mine"})
    module.write_text("class Mine:\n    power = 1\n")
    before = identity(recipe)
    module.write_text("class Mine:\n    power = 2\n")
    assert identity(recipe) != before
    assert list(import_paths({"balancer": {"name": "own_balancers:Mine"}, "x": ["a: b", "c"]})) == [
        "own_balancers:Mine"
    ]


def test_reports_and_the_command_line_do_not_decide_a_run() -> None:
    assert {"study", "cli.py"}.isdisjoint(identities.DECIDING)
    root = Path(identities.__file__).parent.parent
    for part in identities.DECIDING:
        assert (root / part).exists()
    ast.parse((root / "config.py").read_text())
