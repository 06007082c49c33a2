"""What the pages say is true: their commands and their Python run, and the site builds without a warning."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.pages import ROOT, blocks, commands, follow, run, smaller

from plait.cli import make_parser
from plait.recipes import recipe_path

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
FOLLOWED = ("tutorial.md",)
"""Pages whose Python needs what their commands made: `make tutorial` does them whole, in order."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_is_one_that_exists(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    written = {block.file for block in blocks(page)}
    for command in commands(page):
        program, *arguments = shlex.split(command)
        if program == "plait":
            parsed = make_parser().parse_known_args(arguments)[0]
            made = page.name in FOLLOWED  # by a command before it
            if arguments[0] == "train" and not made:
                assert recipe_path(parsed.recipe).is_file()
            if arguments[:2] == ["study", "run"] and parsed.study not in written:
                assert recipe_path(parsed.study).is_file()
        elif program == "make":
            assert arguments[0] in targets, command
        elif program in ("python", ".venv/bin/python"):
            known = (ROOT / arguments[0]).is_file() or arguments[0] in ("-m", *written)
            assert known, command
        else:
            assert program in ("pip", "git", "cd", "torchrun"), f"no test runs {command!r}"


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page, "python") and page.name not in FOLLOWED],
    ids=name_of,
)
def test_python_on_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        if block.file is not None:
            (tmp_path / block.file).write_text(block.text)
        exec(compile(block.text, name_of(page), "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if commands(page) and page.name not in FOLLOWED], ids=name_of
)
def test_the_page_s_commands_run_in_order(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page)):
        if block.language == "python" or block.file is not None:
            (tmp_path / (block.file or f"block{number}.py")).write_text(block.text)
    for command in commands(page):
        if command.startswith("plait "):
            done = run(smaller(command), tmp_path)
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_a_page_is_followed_in_order_until_something_fails(tmp_path: Path) -> None:
    (page := tmp_path / "page.md").write_text(
        "```python\n# file: two.py\nprint(1 + 1)\n```\n"
        "```bash\npython two.py  # comment\n```\n"
        "```python\nx = 3\n```\nand\n```python\nprint(x)\n```\n"
        "```bash\nplait trian\n```\n"
    )
    steps = follow(page, tmp_path)
    done = [next(steps)[:2] for _ in range(4)]
    assert done == [
        ("write two.py", ""),
        ("python two.py", "2\n"),
        ("python page.py", ""),
        ("python page.py", "3\n"),
    ]
    with pytest.raises(AssertionError, match="did you mean 'train'"):
        next(steps)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "add" / "task" / "index.html").is_file()


def test_pages_speak_of_the_project_only() -> None:
    for page in PAGES:
        assert not re.search(r"/work/|\.\./shared|/home/|/tmp/", page.read_text()), page
