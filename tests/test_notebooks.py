"""The notebooks run from their first cell to their last, and what is committed of them can be shown."""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from plait.recipes import recipe_path

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
LONGER = ("first_network",)
"""Those that train a network: some 20 s."""


def slow(path: Path) -> Any:
    return pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in LONGER else ())


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(cell: Any) -> list[bytes]:
    found = [output.get("data", {}).get("image/png") for output in cell.outputs]
    return [base64.b64decode(picture) for picture in found if picture]


def printed(notebook: Any) -> str:
    """All text that its cells showed."""
    parts = []
    for cell in code(notebook):
        for output in cell.outputs:
            parts += [
                output.get("text", ""),
                *(v for v in output.get("data", {}).values() if isinstance(v, str)),
            ]
    return "\n".join(part for part in parts if len(part) < 10_000)


@pytest.mark.parametrize("path", [slow(path) for path in NOTEBOOKS])
def test_a_notebook_runs_and_shows_what_the_committed_one_shows(path: Path, tmp_path: Path) -> None:
    # In a process of its own: the clients of kernels leave sockets open.
    run = [sys.executable, str(DOCS / "run_notebooks.py"), str(path), "--out", str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    executed = nbformat.read(tmp_path / path.name, as_version=4)
    committed = nbformat.read(path, as_version=4)
    assert [cell.source for cell in executed.cells] == [cell.source for cell in committed.cells]
    for cell, before in zip(code(executed), code(committed), strict=True):
        told = [output.output_type for output in cell.outputs]
        assert "error" not in told
        assert told == [output.output_type for output in before.outputs], cell.source
        assert len(pictures(cell)) == len(pictures(before)), cell.source
    assert sum(len(pictures(cell)) for cell in code(executed)) >= 3


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_committed_notebook_is_valid_small_and_was_run_in_order(path: Path) -> None:
    raw = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(raw, as_version=4)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert len(raw) < 300_000
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    assert any(pictures(cell) for cell in code(notebook))
    for picture in (picture for cell in code(notebook) for picture in pictures(cell)):
        assert picture.startswith(b"\x89PNG")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_speaks_of_a_machine_or_warns(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not re.search(
        r"/(work|tmp|home|root|usr|Users)/|site-packages|Warning|0x[0-9a-f]{6}", printed(notebook)
    )
    for cell in code(notebook):
        assert all(output.get("name") != "stderr" for output in cell.outputs)
        assert "execution" not in cell.metadata  # times of day
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata["language_info"] == {"name": "python"}


def test_recipes_and_pages_that_notebooks_name_exist() -> None:
    for path in NOTEBOOKS:
        text = "\n".join(cell["source"] for cell in nbformat.read(path, as_version=4).cells)
        for recipe in re.findall(r"`plait (?:train|study run) ([\w/]+)", text):
            assert recipe_path(recipe).is_file()
        for page in re.findall(r"\]\((\.\./[\w/.]+)\)", text):
            assert (path.parent / page).is_file(), page


def test_the_site_shows_a_notebook_as_a_page(tmp_path: Path) -> None:
    picture = base64.b64encode(b"\x89PNG").decode()
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["\x1b[1m1\x1b[0m\n"]},
        {"output_type": "display_data", "data": {"image/png": picture, "text/plain": "<Figure>"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "Text, and [home](../index.md)."]},
        {"cell_type": "code", "source": "print(1)", "outputs": outputs},
    ]
    (tmp_path / "docs" / "notebooks").mkdir(parents=True)
    (tmp_path / "docs" / "notebooks" / "one.ipynb").write_text(json.dumps({"cells": cells}))
    (tmp_path / "docs" / "index.md").write_text("See [the notebook](notebooks/one.ipynb).")
    settings = {
        "site_name": "x",
        "hooks": [str(DOCS / "notebook_pages.py")],
        "markdown_extensions": ["attr_list", "fenced_code"],
        "nav": [{"Home": "index.md"}, {"One": "notebooks/one.md"}],
    }
    (tmp_path / "mkdocs.yml").write_text(json.dumps(settings))
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "notebooks" / "one" / "index.html").read_text()
    assert re.search(r'<code class="language-python">print\(1\)\s*</code>', page)
    assert re.search(r'<code class="language-text">1\s*</code>', page)
    assert 'src="../one-1-1.png"' in page
    assert re.search(r'<a [^>]*href="../one.ipynb"', page)
    assert (tmp_path / "site" / "notebooks" / "one-1-1.png").read_bytes() == b"\x89PNG"
    assert 'href="notebooks/one/"' in (tmp_path / "site" / "index.html").read_text()
