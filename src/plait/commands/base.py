"""What commands share: their parser, and how they speak to a person."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from plait import registry
from plait.errors import ConfigurationError

if TYPE_CHECKING:
    from rich.console import Console


class Parser(argparse.ArgumentParser):
    """An argument parser that answers an unknown word with the nearest known one, in one sentence."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        kwargs["allow_abbrev"] = False
        super().__init__(**kwargs)

    def error(self, message: str) -> NoReturn:
        raise ConfigurationError(f"{message} (see {self.prog} --help)")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            what = action.metavar or action.dest
            raise ConfigurationError(
                f"unknown {what} {value!r}{registry.nearest(str(value), known)}; known are {', '.join(known)}"
            )


class Commands:
    """The commands of a parser; each module of :mod:`plait.commands` adds its own."""

    def __init__(self, parser: Parser) -> None:
        self.made = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(self, name: str, command: Callable[[argparse.Namespace], None], **kwargs: Any) -> Parser:
        """Declares a command; ``help`` is its one line, other arguments are those of the parser."""
        made: Parser = self.made.add_parser(name, description=kwargs["help"], **kwargs)
        made.set_defaults(command=command, parser=made)
        return made


def console(*, stderr: bool = False) -> Console:
    """The terminal; text is printed as it is, and tables keep their width when the output is a file."""
    from rich.console import Console

    target = sys.stderr if stderr else sys.stdout
    width = None if target.isatty() else 120
    return Console(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


def say(text: str) -> None:
    """Prints text, each of its lines as one."""
    console().print(text, soft_wrap=True)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error; yields the function that is told what is done so far and in all.

    It appears when the function is first called, so that work that is refused shows none.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console(stderr=True))
    job = bar.add_task(what, total=None)

    def tell(done: int, total: int) -> None:
        bar.update(job, completed=done, total=total)
        bar.start()

    try:
        yield tell
    finally:
        if bar.live.is_started:
            bar.stop()


def size(text: str) -> tuple[int, int]:
    """Reads ``HxW``.

    >>> size("192x256")
    (192, 256)
    """
    height, cross, width = text.lower().partition("x")
    if not (cross and height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"a size is HEIGHTxWIDTH in pixels, as 192x256; got {text!r}")
    return int(height), int(width)


def folder(text: str) -> Path:
    """Reads a folder that is there or can be made."""
    path = Path(text)
    nearest = next(place for place in (path, *path.parents) if place.exists())
    if not nearest.is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, but {nearest} is a file: name another place")
    return path


def file(text: str) -> Path:
    """Reads the name of a file whose folder is there or can be made."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"expected a file's name, but {path} is a folder: name a file in it")
    folder(str(path.parent))
    return path
