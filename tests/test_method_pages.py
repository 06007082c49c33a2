"""Every name of every axis has a page that says what it is, and the site leads to it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from plait import registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PLACES: Mapping[str, str] = {
    "encoder": "methods/*.md",
    "decoder": "methods/*.md",
    "head": "methods/*.md",
    "balancer": "methods/*.md",
    "data set": "**/*.md",
    "task kind": "tasks.md",
}
"""Where the page of a part of each axis is."""


def paths(node: Any) -> Iterator[str]:
    """All files that a part of the navigation names."""
    if isinstance(node, str):
        yield node
    else:
        for inner in node.values() if isinstance(node, dict) else node:
            yield from paths(inner)


def navigation() -> set[str]:
    return set(paths(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))


@pytest.mark.parametrize(
    ("axis", "name"), [(axis, name) for axis, table in registry.AXES.items() for name in table]
)
def test_every_name_has_a_page_that_the_site_leads_to(axis: str, name: str) -> None:
    pages = [page for page in DOCS.glob(PLACES[axis]) if f"`{name}`" in page.read_text(encoding="utf-8")]
    assert {page.relative_to(DOCS).as_posix() for page in pages} & navigation(), pages


@pytest.mark.parametrize(
    ("axis", "name"),
    [(axis, name) for axis in ("encoder", "decoder", "balancer") for name in registry.AXES[axis]],
)
def test_every_method_s_page_names_it_before_anything_else(axis: str, name: str) -> None:
    said = [page.read_text(encoding="utf-8").split("\n## ")[0] for page in (DOCS / "methods").glob("*.md")]
    assert any(re.search(rf"{axis}s? .*`{name}`", text, flags=re.IGNORECASE | re.DOTALL) for text in said)


@pytest.mark.parametrize("page", sorted((DOCS / "methods").glob("*.md")), ids=lambda page: page.stem)
def test_a_method_s_page_says_what_it_computes_from_where_and_how_ours_differs(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert page.relative_to(DOCS).as_posix() in navigation()
    assert "## What" in text
    assert re.search(r"^(## )?Source", text, flags=re.MULTILINE)
    assert "differ" in text
    assert "```python" in text


def test_every_page_and_notebook_is_in_the_navigation() -> None:
    found = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    found |= {path.relative_to(DOCS).with_suffix(".md").as_posix() for path in DOCS.rglob("*.ipynb")}
    assert found == {path for path in navigation() if not path.startswith("http")}
