"""What the pages say is true: their commands and their Python run, and the site builds without a warning."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from plait.cli import make_parser
from plait.recipes import recipe_path

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
SMALLER = {
    "quickstart": "--minutes 0.01",
    "train": "--training.steps 2 --training.batch_size 2 --training.precision fp32 --training.threads 1"
    " --training.channels_last false",
    "study run": "--seeds 0 --training.steps 2 --training.batch_size 2 --augmentation.size [32,40]"
    " --evaluation.size [32,40]",
    "data build": "--images 4 --size 48x64 --quality draft",
}
"""What a test adds to a command so that it takes seconds; later options win."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language on a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    """The shell commands of a page; a backslash joins lines, comments are dropped."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", " ")
    lines = (shlex.join(shlex.split(line, comments=True)) for line in text.splitlines())
    return [line for line in lines if line]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_is_one_that_exists(page: Path) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    for command in commands(page):
        program, *arguments = shlex.split(command)
        if program == "plait":
            parsed = make_parser().parse_known_args(arguments)[0]
            if arguments[0] == "train":
                assert recipe_path(parsed.recipe).is_file()
            if arguments[:2] == ["study", "run"]:
                assert recipe_path(parsed.study).is_file()
        elif program == "make":
            assert arguments[0] in targets, command
        elif program in ("python", ".venv/bin/python"):
            assert (ROOT / arguments[0]).is_file() or arguments[0] == "-m", command
        else:
            assert program in ("pip", "git", "cd", "torchrun"), f"no test runs {command!r}"


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_on_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        if block.startswith("# file: "):
            (tmp_path / block.splitlines()[0].removeprefix("# file: ")).write_text(block)
        exec(compile(block, name_of(page), "exec"), names)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name_of)
def test_the_page_s_commands_run_in_order(page: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    for number, block in enumerate(blocks(page, "python")):
        first = block.splitlines()[0]
        (
            tmp_path / (first.removeprefix("# file: ") if "# file: " in first else f"block{number}.py")
        ).write_text(block)
    for command in commands(page):
        if not command.startswith("plait "):
            continue
        smaller = next((more for start, more in SMALLER.items() if command.startswith(f"plait {start}")), "")
        done = subprocess.run(
            f"{command} {'' if '--help' in command else smaller}",
            shell=True,
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


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
