"""The command line: finds the command, and answers what is wrong in one sentence.

The commands themselves are in :mod:`plait.commands`. Nothing heavy is imported before a command needs it, so
help and lists answer at once.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields
from itertools import islice

import plait
from plait import registry
from plait.commands.base import Commands, Parser, console
from plait.errors import ConfigurationError, PlaitError

COMMANDS = (
    "quickstart", "data", "train", "evaluate", "predict", "export", "demo", "push", "study", "report",
    "diagnose", "branch", "listing", "doctor", "completion",
)  # fmt: skip
"""The modules of :mod:`plait.commands`, in the order of the help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns 0, or 2 for an error that the user can put right."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        return run(arguments)
    except PlaitError as error:
        return fail(str(error), debug, code=2)
    except KeyboardInterrupt as stop:
        return fail("; ".join(("stopped", *stop.args)), debug, code=130)
    except BrokenPipeError:  # `plait list ... | head` closes our output: not an error
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # noqa: BLE001  the last resort: a person gets a sentence, --debug the rest
        return fail(f"{type(error).__name__}: {error} (add --debug to see where)", debug, code=1)


def fail(sentence: str, debug: bool, *, code: int) -> int:
    """Prints one sentence to standard error (and the traceback with ``--debug``)."""
    if debug:
        traceback.print_exc()
    console(stderr=True).print(f"plait: {sentence}", style="bold red", soft_wrap=True)
    return code


def run(arguments: Sequence[str]) -> int:
    """Parses the arguments and calls the command."""
    from plait.config import Recipe

    parser = make_parser()
    own, overrides = without_overrides(arguments)
    parsed, rest = parser.parse_known_args(own)
    if "command" not in parsed:
        from plait.commands.welcome import welcome

        welcome()
        return 0
    takes = getattr(parsed, "takes_overrides", "none")
    if takes == "none":  # its own options may be called like keys of a recipe
        overrides, (parsed, rest) = [], parser.parse_known_args(arguments)
    unknown = {"none": overrides + rest, "recipe": rest, "any": []}[takes]
    rest = overrides + rest
    if unknown:
        options = [option for action in parsed.parser._actions for option in action.option_strings]
        if takes == "recipe":
            options += [f"--{part.name}" for part in fields(Recipe)]
        hint = registry.nearest(unknown[0], options)
        raise ConfigurationError(f"unknown argument {unknown[0]!r}{hint} (see {parsed.parser.prog} --help)")
    parsed.overrides = rest
    parsed.words = list(arguments)
    try:
        parsed.command(parsed)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(*getattr(parsed, "after_stop", ())) from stop
    return 0


def without_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """A command's own words, and the ``--dotted.key value`` of a recipe, which may stand before or after.

    >>> without_overrides(["train", "--training.steps", "3", "--balancer=mgda", "rooms_shared", "--fresh"])
    (['train', 'rooms_shared', '--fresh'], ['--training.steps', '3', '--balancer=mgda'])
    """
    from plait.config import Recipe

    known = {part.name for part in fields(Recipe)}
    own: list[str] = []
    overrides: list[str] = []
    rest = iter(words)
    for word in rest:
        key, equals, _ = word.removeprefix("--").partition("=")
        if word.startswith("--") and ("." in key or key in known):
            overrides += [word, *islice(rest, 0 if equals else 1)]
        else:
            own.append(word)
    return own, overrides


def make_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="plait",
        description="One network for many dense prediction tasks, and what sharing is worth.",
        epilog="Start with:  plait quickstart\nAny command with --debug shows the traceback of an error.",
    )
    parser.add_argument("--version", action="version", version=f"plait {plait.__version__}")
    commands = Commands(parser)
    for name in COMMANDS:
        importlib.import_module(f"plait.commands.{name}").add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
