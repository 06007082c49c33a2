"""``plait quickstart``: the main job."""

from __future__ import annotations

import argparse
from pathlib import Path

from plait.commands.base import Commands, console, folder


def add(commands: Commands) -> None:
    """Declares the command."""
    quick = commands.add(
        "quickstart",
        quickstart,
        help="single-task networks beside a multi-task one on rendered rooms: table and report",
    )
    quick.add_argument(
        "--minutes", type=float, default=5.0, metavar="M", help="scales the training steps; 5 by default"
    )
    quick.add_argument(
        "--out",
        type=folder,
        default=Path("quickstart"),
        metavar="DIR",
        help="where runs and the report go (default: quickstart)",
    )
    quick.set_defaults(
        after_stop=["the same command keeps finished runs and goes on from the others' last checkpoints"]
    )


def quickstart(parsed: argparse.Namespace) -> None:
    """The main job."""
    from plait.study.quickstart import quickstart

    comparison = quickstart(minutes=parsed.minutes, out=parsed.out, console=console())
    console().print(comparison.table())
