"""``plait diagnose``: what the tasks' gradients do to each other."""

from __future__ import annotations

import argparse
from pathlib import Path

from plait.commands.base import Commands, file, progress_bar, say


def add(commands: Commands) -> None:
    """Declares the command."""
    diagnose_ = commands.add(
        "diagnose",
        diagnose,
        help="what the tasks' gradients do to each other and to the update, over time and by stage: one page",
        epilog=(
            "A run trained with --training.diagnose_every 20, for instance, has measured while it trained.\n"
            "Of any other, gradients are taken now at its checkpoint: by stage, but not over time."
        ),
    )
    diagnose_.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    diagnose_.add_argument(
        "--out", type=file, metavar="FILE", help="the HTML file (default: diagnosis.html in the run's folder)"
    )
    diagnose_.add_argument(
        "--batches",
        type=int,
        default=8,
        metavar="N",
        help="training batches looked at if the run has measured nothing (default: 8)",
    )


def diagnose(parsed: argparse.Namespace) -> None:
    """What gradients say."""
    from plait.study.diagnosis.page import diagnose

    with progress_bar("taking gradients") as progress:
        found, page = diagnose(parsed.run, out=parsed.out, batches=parsed.batches, progress=progress)
    now = "this run measured no gradients while it trained: they were taken now, at its checkpoint"
    say("\n".join([*([] if found.trained else [now]), *found.sentences(), f"the page is {page}"]))
