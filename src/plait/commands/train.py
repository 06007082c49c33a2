"""``plait train``: one run."""

from __future__ import annotations

import argparse
from pathlib import Path

from plait.commands.base import Commands, console, folder, say
from plait.recipes import recipe_path


def add(commands: Commands) -> None:
    """Declares the command."""
    train_ = commands.add(
        "train",
        train,
        help="train one network by a recipe; started again, it goes on where it stopped",
        epilog=(
            "Any key of the recipe can be overridden:\n"
            "  plait train rooms_shared --out runs/a --training.steps 500 --model.backbone resnet18\n"
            "`plait list recipes` names the built-in ones; `plait train RECIPE --print` shows all keys."
        ),
    )
    train_.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a built-in recipe")
    train_.add_argument("--out", type=folder, metavar="DIR", help="the run's folder (default: runs/RECIPE)")
    train_.add_argument(
        "--fresh", action="store_true", help="refuse to go on with a run that is already in DIR"
    )
    train_.add_argument(
        "--print", action="store_true", dest="show", help="print the resolved recipe and stop"
    )
    train_.set_defaults(
        takes_overrides="recipe",
        after_stop=["the same command, without --fresh, goes on from the last checkpoint, or from the start"],
    )


def train(parsed: argparse.Namespace) -> None:
    """One run."""
    from plait.config import dump, load_recipe

    path = recipe_path(parsed.recipe)
    recipe = load_recipe(path, parsed.overrides)
    if parsed.show:
        say(dump(recipe))
        return
    from plait.training.fit import train
    from plait.training.memory import keep_freed_memory
    from plait.training.processes import join, leave

    keep_freed_memory()
    out = parsed.out or Path("runs") / path.stem
    trained = train(recipe, out, resume=not parsed.fresh, progress=True)
    if join().is_main_process:
        console().print(trained.scores.table())
        say(f"the run is in {out}")
    leave()
