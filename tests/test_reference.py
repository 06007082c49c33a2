"""The reference has what a program calls, and docstrings are shown as they are meant."""

import importlib
import re
import runpy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from plait import registry

DOCS = Path(__file__).parents[1] / "docs"
PUBLIC = (
    "plait",
    "plait.balancing",
    "plait.data",
    "plait.demo",
    "plait.export",
    "plait.hub",
    "plait.inference",
    "plait.metrics",
    "plait.models",
    "plait.tasks",
)


def found(path: str) -> Any:
    """What a dotted path leads to."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        held: Any = module
        for part in parts[end:]:
            held = getattr(held, part)
        return held
    raise AssertionError(path)


@pytest.fixture(scope="module")
def described() -> list[Any]:
    """Everything that a page describes from its docstring; of a module, also what is in it."""
    things: list[Any] = []
    for page in DOCS.rglob("*.md"):
        for path in re.findall(r"^::: ([\w.]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            thing = found(path)
            things.append(thing)
            if isinstance(thing, ModuleType):
                things += [held for name, held in vars(thing).items() if not name.startswith("_")]
    return things


@pytest.mark.parametrize("package", PUBLIC)
def test_every_public_name_is_in_the_reference(package: str, described: list[Any]) -> None:
    module = importlib.import_module(package)
    for name in module.__all__:
        thing = getattr(module, name)
        if not isinstance(thing, ModuleType):
            assert any(thing is other for other in described), f"{package}.{name}"


@pytest.mark.parametrize("axis", list(registry.AXES))
def test_every_part_of_an_axis_is_in_the_reference(axis: str, described: list[Any]) -> None:
    for name in registry.AXES[axis]:
        part = registry.resolve(axis, name)
        assert any(part is other for other in described), name


def test_nothing_is_described_twice() -> None:
    paths = [
        path
        for page in DOCS.rglob("*.md")
        for path in re.findall(r"^::: ([\w.]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]
    assert len(paths) == len(set(paths))


def markdown(text: str) -> str:
    changed: str = runpy.run_path(str(DOCS / "docstrings.py"))["as_markdown"](text)
    return changed


def test_references_become_links_where_there_is_something_to_link_to() -> None:
    assert markdown("See :class:`~plait.tasks.Task` and :func:`parse`.") == (
        'See <autoref identifier="plait.tasks.Task" optional>`Task`</autoref> and '
        '<autoref identifier="parse" optional>`parse`</autoref>.'
    )


def test_examples_become_code_and_end_where_they_end() -> None:
    assert markdown("Words.\n\n>>> 1 + 1\n2\n\nMore.") == "Words.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nMore."
    assert markdown("Args:\n    x: One.\n\n    >>> 1\n    1") == (
        "Args:\n    x: One.\n\n    ```pycon\n    >>> 1\n    1\n    ```"
    )


def test_two_colons_before_an_indented_block_become_one() -> None:
    assert markdown("A folder::\n\n    state.json\n\n::\n\n    code") == (
        "A folder:\n\n    state.json\n\n\n\n    code"
    )


def test_ruled_tables_become_tables() -> None:
    rule = "===== ======="
    ruled = f"Of each:\n\n{rule}\nkeep  what\n{rule}\none   a | b\n      and c\ntwo   d\n{rule}\n\nEnd."
    assert markdown(ruled) == (
        "Of each:\n\n| keep | what |\n| --- | --- |\n| one | a \\| b and c |\n| two | d |\n\nEnd."
    )
    assert markdown("=== ===\na   b\n=== ===") == "|  |  |\n| --- | --- |\n| a | b |"
