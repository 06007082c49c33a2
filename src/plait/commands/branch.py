"""``plait affinity`` and ``plait branch``: how alike tasks are, and a tree for them."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from plait.commands.base import Commands, console, file, progress_bar, say


def add(commands: Commands) -> None:
    """Declares the command."""
    affinity_ = commands.add(
        "affinity", affinity, help="how alike tasks' networks see images, stage by stage: table and heat maps"
    )
    branch_ = commands.add(
        "branch",
        branch,
        help="find which tasks should share which stages, and write a recipe that trains that tree",
        epilog=(
            "--by rsa     keeps apart tasks whose single-task networks see images differently\n"
            "--by fafs    keeps apart tasks whose networks fail on different images\n"
            "--by tag     groups tasks whose steps help each other, from one joint run trained with\n"
            "             --training.affinity_every 10\n"
            "--by learned takes the tree that a run with encoder learned_branching or bmtas has learned"
        ),
    )
    for found in (affinity_, branch_):
        found.add_argument(
            "runs", type=Path, nargs="+", metavar="RUN", help="runs' folders, or one folder that holds them"
        )
        found.add_argument(
            "--images",
            type=int,
            default=100,
            metavar="K",
            help="how many images of the validation split are looked at (default: 100)",
        )
    affinity_.add_argument(
        "--out",
        type=file,
        default=Path("affinity.html"),
        metavar="FILE",
        help="the HTML page (default: affinity.html)",
    )
    branch_.add_argument(
        "--by",
        choices=("rsa", "fafs", "tag", "learned"),
        default="rsa",
        metavar="WAY",
        help="rsa, fafs, tag or learned (default: rsa)",
    )
    limit = branch_.add_mutually_exclusive_group()
    limit.add_argument(
        "--budget",
        metavar="N",
        help="most parameters of the backbone's copies, as a number or a multiple of the shared network "
        "(default: 1.5x for rsa and fafs)",
    )
    limit.add_argument("--parameters", dest="budget", metavar="N", help="the same as --budget")
    limit.add_argument("--macs", metavar="N", help="most multiply-accumulates of an image, likewise")
    branch_.add_argument(
        "--groups", type=int, metavar="N", help="how many branches the last stage has (default: any number)"
    )
    branch_.add_argument(
        "--out",
        type=file,
        default=Path("branched.yaml"),
        metavar="FILE",
        help="the recipe; a page of the same name draws it (default: branched.yaml)",
    )


def affinity(parsed: argparse.Namespace) -> None:
    """How alike tasks are."""
    from plait.study.branching.branch import affinity

    with progress_bar("looking at images") as progress:
        found, page = affinity(parsed.runs, images=parsed.images, out=parsed.out, progress=progress)
    console().print(found.table())
    say("\n".join([*found.notes(), f"the heat maps are {page}"]))


def branch(parsed: argparse.Namespace) -> None:
    """A tree for tasks."""
    from plait.study.branching.branch import branch
    from plait.study.branching.budget import Budget

    budget = None
    if parsed.macs is not None:
        budget = Budget.parse(parsed.macs, "macs")
    elif parsed.budget is not None:
        budget = Budget.parse(parsed.budget)
    with progress_bar("looking at images") as progress:
        found = branch(
            parsed.runs,
            by=parsed.by,
            budget=budget,
            groups=parsed.groups,
            images=parsed.images,
            out=parsed.out,
            progress=progress,
        )
    console().print(found.table())
    say("\n".join([*found.tree.lines(), *found.notes]))
    train_it = shlex.join(["plait", "train", str(found.written)])
    say(f"the recipe is {found.written} (`{train_it}` trains it), the drawing {found.page}")
