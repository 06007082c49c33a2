"""What a page of the docs tells its reader to do, done: files written, commands and Python run, in order.

``python -m tests.pages docs/tutorial.md`` does a page in an empty folder, with small numbers; ``--whole``
keeps the page's own.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```([a-z]+)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
SMALLER = {
    "quickstart": "--minutes 0.01",
    "train": "--training.steps 2 --training.batch_size 2 --training.precision fp32 --training.threads 1"
    " --training.channels_last false",
    "study run": "--seeds 0 --training.steps 2 --training.batch_size 2 --augmentation.size [32,40]"
    " --evaluation.size [32,40]",
    "data build": "--images 4 --size 48x64 --quality draft",
}
"""What is added to a command so that it takes seconds; later options win."""

FILE = "# file: "


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        language: As ``bash`` or ``python``.
        text: What is in it.
    """

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that a reader saves it as, by its first line."""
        first = self.text.partition("\n")[0]
        return first.removeprefix(FILE) if first.startswith(FILE) else None

    @property
    def commands(self) -> list[str]:
        """The shell commands in it; a backslash joins lines, comments are dropped."""
        if self.language != "bash":
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        commands = (shlex.join(shlex.split(line, comments=True)) for line in lines)
        return [command for command in commands if command]


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The fenced blocks of a page, of one language or all, in order."""
    found = [Block(*match) for match in BLOCK.findall(page.read_text(encoding="utf-8"))]
    return [block for block in found if language in (None, block.language)]


def commands(page: Path) -> list[str]:
    """The shell commands of a page."""
    return [command for block in blocks(page) for command in block.commands]


def smaller(command: str) -> str:
    """A command of plait with less work."""
    if "--help" in command or "--print" in command:
        return command
    more = next((more for start, more in SMALLER.items() if command.startswith(f"plait {start} ")), "")
    more = more or (SMALLER["quickstart"] if command == "plait quickstart" else "")
    return f"{command} {more}".strip()


def environment(folder: Path) -> Mapping[str, str]:
    """Where the page's commands find this interpreter's programs and the page's modules."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(folder),
    }


def run(command: str, folder: Path, *, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """A command as a reader's shell runs it."""
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def follow(page: Path, folder: Path, *, whole: bool = False) -> Iterator[tuple[str, str, float]]:
    """Does what a page says, in order; yields what was done, what it printed and how many seconds it took.

    Files are written (``# file: name`` is their first line), commands of plait and Python are run. Other
    Python runs as one script that grows: each block sees the names of those before it.

    Raises:
        AssertionError: If something ends with an error; holds what it said.
    """
    script = ""
    for block in blocks(page):
        if block.file is not None:
            (folder / block.file).write_text(block.text, encoding="utf-8")
            yield f"write {block.file}", "", 0.0
        elif block.language == "python":
            script += block.text
            (folder / "page.py").write_text(script, encoding="utf-8")
            yield done("python page.py", folder)
        for command in block.commands:
            if command.startswith("plait "):
                yield done(command if whole else smaller(command), folder)
            elif command.startswith("python "):
                yield done(command, folder)


def done(command: str, folder: Path) -> tuple[str, str, float]:
    """A command, what it printed and its seconds.

    Raises:
        AssertionError: If it failed.
    """
    begin = time.monotonic()
    ended = run(command, folder)
    said = f"{ended.stdout}{ended.stderr}"
    assert ended.returncode == 0, f"{command}\n{said}"
    assert "Traceback" not in said, f"{command}\n{said}"
    return command, said, time.monotonic() - begin


def main() -> None:
    """Follows the pages that are named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--whole", action="store_true", help="with the page's own numbers")
    arguments = parser.parse_args()
    for page in arguments.pages:
        begin = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            for command, said, seconds in follow(page, Path(folder), whole=arguments.whole):
                print(f"{seconds:7.1f} s  {command}\n{said}", flush=True)
        print(f"{time.monotonic() - begin:7.1f} s  {page}: all done")


if __name__ == "__main__":
    main()
