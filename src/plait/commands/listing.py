"""``plait list``: what there is, by name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import plait
from plait.commands.base import Commands, console, say
from plait.errors import ConfigurationError
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

BACKBONES = "backbones"
"""The one list that needs timm, and takes a second."""


def add(commands: Commands) -> None:
    """Declares the command."""
    known = (*LISTS, BACKBONES)
    list_ = commands.add("list", list_names, help=f"name what there is: {', '.join(known)}")
    list_.add_argument(
        "what",
        choices=known,
        nargs="?",
        metavar="WHAT",
        help=f"one of {', '.join(known)} (default: all but backbones)",
    )
    list_.add_argument(
        "pattern", nargs="?", metavar="PATTERN", help="backbones: only those with this in their name"
    )


def list_names(parsed: argparse.Namespace) -> None:
    """Names, one a line, or all lists."""
    if parsed.what == BACKBONES:
        list_backbones(parsed.pattern)
        return
    if parsed.pattern is not None:
        raise ConfigurationError(f"{parsed.what} has no pattern: that is for `plait list {BACKBONES}`")
    for title in [parsed.what] if parsed.what else LISTS:
        names = LISTS[title]()
        say("\n".join(names) if parsed.what else f"{title}: {', '.join(names)}")
    if not parsed.what:
        say(f"{BACKBONES}: hundreds, through timm; `plait list {BACKBONES} resnet` names some, with licences")


def list_backbones(pattern: str | None) -> None:
    """A table for a terminal; for a pipe a name, a tab and the licence of its weights on each line."""
    from plait.commands.backbones import names, table

    if console().is_terminal:
        console().print(table(pattern))
        return
    from plait.models.licences import timm_licence

    for name in names(pattern):
        published = "." in name
        licence = (timm_licence(name).identifier or "not stated") if published else "no weights"
        sys.stdout.write(f"{name}\t{licence}\n")
