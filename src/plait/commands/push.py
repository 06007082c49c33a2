"""``plait push``: a trained run to the Hugging Face hub, or to a folder as it would lie there."""

from __future__ import annotations

import argparse
from pathlib import Path

from plait.commands.base import Commands, say
from plait.commands.networks import add_own_parts


def add(commands: Commands) -> None:
    """Declares the command."""
    parser = commands.add(
        "push",
        push,
        help="share a trained run on the Hugging Face hub, or in a folder: weights, recipe, scores, card",
        epilog=(
            "  plait push runs/shared shared-network              look at it first, in a folder\n"
            "  plait push runs/shared hf:org/name --licence cc-by-4.0\n"
            "Others open it with plait.load('hf:org/name'). Folders of this machine, logs and command lines\n"
            "are not shared."
        ),
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder")
    parser.add_argument(
        "destination", metavar="DESTINATION", help="hf:ORGANISATION/NAME, or a folder that is new or empty"
    )
    parser.add_argument(
        "--licence",
        metavar="NAME",
        help="of the weights, as the hub writes it, for instance cc-by-4.0 (default: none is named)",
    )
    parser.add_argument("--private", action="store_true", help="only the repository's owners can read it")
    parser.add_argument("--message", metavar="TEXT", help="of the commit")
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="a picture to show on the card, with its maps; it becomes as public as the network",
    )
    parser.add_argument(
        "--unfinished", action="store_true", help="share a run that is not finished, without scores"
    )
    add_own_parts(parser)
    parser.set_defaults(after_stop=["nothing half is left: the same command begins again"])


def push(parsed: argparse.Namespace) -> None:
    """A network, shared."""
    from plait.hub import push

    made = push(
        parsed.run,
        parsed.destination,
        licence=parsed.licence,
        private=parsed.private,
        message=parsed.message,
        unfinished=parsed.unfinished,
        picture=parsed.picture,
        own_parts=parsed.own_parts,
    )
    say("\n".join([*made.notes, f"the network is {made.place}; plait.load({made.source!r}) opens it"]))
