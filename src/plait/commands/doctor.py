"""``plait doctor``: what is installed, and what is missing for what."""

from __future__ import annotations

import argparse

from plait.commands.base import Commands, say


def add(commands: Commands) -> None:
    """Declares the command."""
    commands.add(
        "doctor",
        doctor,
        help="versions, devices, caches, optional parts, and what is missing for each",
        epilog="What it prints belongs in a bug report. Nothing is fetched or written.",
    )


def doctor(parsed: argparse.Namespace) -> None:
    """What this installation can do."""
    from plait.doctor import examine

    say("\n".join(examine().lines()))
