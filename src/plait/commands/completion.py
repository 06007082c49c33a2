"""``plait completion``: what a shell needs to complete commands, options and names."""

from __future__ import annotations

import argparse
from pathlib import Path

from plait.commands.base import Commands, Parser, file, folder
from plait.recipes import recipes, studies

SHELLS = ("bash", "zsh", "tcsh")
PREAMBLE = {
    "bash": """
_plait_recipes() {{ compgen -W "{recipes}" -- "$1"; compgen -f -- "$1"; }}
_plait_studies() {{ compgen -W "{studies}" -- "$1"; compgen -f -- "$1"; }}
""",
    "zsh": """
_plait_recipes() {{ compadd -- {recipes}; _files }}
_plait_studies() {{ compadd -- {studies}; _files }}
""",
    "tcsh": "",
}
NAMED = {"recipe": "recipes", "study": "studies"}
"""Arguments that take a built-in name as well as a file."""


def add(commands: Commands) -> None:
    """Declares the command."""
    parser = commands.add(
        "completion",
        completion,
        help="a script that lets the shell complete plait's commands, options and names",
        epilog=(
            'For this session of bash:       eval "$(plait completion bash)"\n'
            "For every later one:            plait completion bash >> ~/.bash_completion\n"
            "For zsh, in a folder of fpath:  plait completion zsh > _plait"
        ),
    )
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")


def completion(parsed: argparse.Namespace) -> None:
    """The script of one shell."""
    import sys

    from plait.cli import make_parser

    sys.stdout.write(script(make_parser(), parsed.shell))


def script(parser: Parser, shell: str) -> str:
    """What a shell reads to complete the words of a parser.

    Files and folders are completed where an argument names one, recipes and studies by their names too.
    """
    import shtab

    for action in actions(parser):
        if action.dest in NAMED and shell != "tcsh":
            action.complete = {shell: f"_plait_{NAMED[action.dest]}"}  # type: ignore[attr-defined]
        elif action.type in (Path, file):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.type is folder:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    names = {"recipes": " ".join(sorted(recipes())), "studies": " ".join(sorted(studies()))}
    made: str = shtab.complete(parser, shell=shell, preamble=PREAMBLE[shell].format(**names))
    return made if made.endswith("\n") else f"{made}\n"


def actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """All arguments of a parser and of its commands."""
    found: list[argparse.Action] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                found += actions(inner)
        else:
            found.append(action)
    return found
