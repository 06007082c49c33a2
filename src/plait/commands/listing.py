"""``plait list``: what there is, by name."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import plait
from plait.commands.base import Commands, say
from plait.recipes import recipes, studies

LISTS: dict[str, Callable[[], list[str]]] = {
    "encoders": plait.list_encoders,
    "decoders": plait.list_decoders,
    "heads": plait.list_heads,
    "balancers": plait.list_balancers,
    "datasets": plait.list_datasets,
    "tasks": plait.list_tasks,
    "recipes": lambda: sorted(recipes()),
    "studies": lambda: sorted(studies()),
}


def add(commands: Commands) -> None:
    """Declares the command."""
    list_ = commands.add("list", list_names, help=f"name what there is: {', '.join(LISTS)}")
    list_.add_argument(
        "what",
        choices=tuple(LISTS),
        nargs="?",
        metavar="WHAT",
        help=f"one of {', '.join(LISTS)} (default: all)",
    )


def list_names(parsed: argparse.Namespace) -> None:
    """Names, one a line, or all lists."""
    for title in [parsed.what] if parsed.what else LISTS:
        names = LISTS[title]()
        say("\n".join(names) if parsed.what else f"{title}: {', '.join(names)}")
