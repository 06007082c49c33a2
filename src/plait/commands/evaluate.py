"""``plait evaluate``: scores of a run, or of maps on disk."""

from __future__ import annotations

import argparse
import shlex
from contextlib import nullcontext
from pathlib import Path

from plait.commands.base import Commands, console, file, progress_bar, say, size
from plait.commands.networks import add_own_parts
from plait.errors import ConfigurationError


def add(commands: Commands) -> None:
    """Declares the command."""
    evaluate_ = commands.add(
        "evaluate",
        evaluate,
        help="score a trained run on a split, or maps on disk of any software: one row a measure",
        epilog=(
            "Maps on disk, in DIR/TASK/ID.png (or .npy, .npz, .mat; DIR/ID.png where there is one task):\n"
            "  plait evaluate --predictions DIR --targets DIR --task edges=edges --protocol survey\n"
            "  plait evaluate --predictions DIR --targets DIR --scoring scoring.yaml\n"
            "A task is NAME=KIND, or NAME={kind: semantic, classes: 21}. scoring.yaml holds `tasks` as a\n"
            "recipe does, and where maps are not stored in the usual way `predictions` and `targets`:\n"
            "  targets: {depth: {scale: 0.001}}"
        ),
    )
    evaluate_.add_argument("run", nargs="?", metavar="RUN", help="a run's folder, or hf:org/name")
    evaluate_.add_argument(
        "--protocol",
        metavar="PROTOCOL",
        help="by whose rules: plain, survey, invpt or mtan (default: as the run's recipe says, else plain)",
    )
    maps = evaluate_.add_argument_group("maps on disk")
    maps.add_argument("--predictions", type=Path, metavar="DIR", help="the maps to score")
    maps.add_argument("--targets", type=Path, metavar="DIR", help="the labels")
    maps.add_argument(
        "--task", action="append", default=[], metavar="NAME=KIND", help="a task to score; may be repeated"
    )
    maps.add_argument(
        "--scoring", type=Path, metavar="FILE", help="the tasks, and how maps are stored, in YAML"
    )
    maps.add_argument(
        "--max-distance",
        type=float,
        metavar="D",
        help="edges: how far a match may lie, as a part of the image's diagonal (default: 0.0075)",
    )
    maps.add_argument(
        "--resize", action="store_true", help="bring predictions of another size to their target's"
    )
    maps.add_argument(
        "--workers", type=int, metavar="N", help="threads (default: as many as there are cores, at most 8)"
    )
    evaluate_.add_argument("--split", metavar="SPLIT", help="which split (default: the recipe's test split)")
    evaluate_.add_argument(
        "--flip", action="store_true", default=None, help="average with the mirrored image"
    )
    evaluate_.add_argument(
        "--scales", type=float, nargs="+", metavar="S", help="average over image scales, e.g. 0.75 1 1.25"
    )
    evaluate_.add_argument(
        "--window", type=size, metavar="HxW", help="slide a window of this size over larger images"
    )
    evaluate_.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="where the data are on this machine (default: as the run's recipe says)",
    )
    add_own_parts(evaluate_)
    evaluate_.add_argument("--json", type=file, metavar="FILE", help="also write the scores there")


def evaluate(parsed: argparse.Namespace) -> None:
    """Scores of a run, or of maps on disk."""
    if parsed.predictions is not None or parsed.targets is not None:
        evaluate_maps(parsed)
        return
    if parsed.run is None:
        raise ConfigurationError("name a run's folder, or maps on disk with --predictions and --targets")
    for option in ("task", "scoring", "max_distance", "resize", "workers"):
        if getattr(parsed, option):
            raise ConfigurationError(
                f"--{option.replace('_', '-')} is for maps on disk, with --predictions and --targets; "
                f"a run has its own recipe"
            )
    from plait.inference.load import open_run
    from plait.study.cores import usable_cores
    from plait.training import checkpoint
    from plait.training.memory import keep_freed_memory
    from plait.training.processes import join, leave
    from plait.training.run import RECIPE
    from plait.training.tuning import idle_threads, threads

    keep_freed_memory()
    run = open_run(parsed.run, own_parts=parsed.own_parts)
    if parsed.data_root is not None:
        run = run.with_data(parsed.data_root)
    finished = run.finished
    if not finished and checkpoint.find(run.checkpoint) is None:
        again = shlex.join(["plait", "train", str(run.path / RECIPE), "--out", str(run.path)])
        raise ConfigurationError(f"{run.path} has no checkpoint yet: train it first with `{again}`")
    step, processes = checkpoint.read(run.checkpoint, files=()).step, join()
    cores = max(1, usable_cores() // processes.num_processes)
    bar = progress_bar("evaluating") if processes.is_main_process else nullcontext()
    with threads(idle_threads(cores)), bar as progress:
        scores = run.evaluate(
            parsed.split,
            protocol=parsed.protocol,
            flip=parsed.flip,
            scales=parsed.scales,
            window=parsed.window,
            progress=progress,
        )
    if processes.is_main_process:
        if not finished:
            say(f"this run is not finished: scored at step {step} of {run.recipe.training.steps}")
        console().print(scores.table())
        if parsed.json:
            scores.save(parsed.json)
    leave()


def evaluate_maps(parsed: argparse.Namespace) -> None:
    """Scores of maps that any software has written."""
    from plait.metrics.folders import read_scoring, score_folders

    for option in ("run", "split", "flip", "scales", "window", "data_root"):
        if getattr(parsed, option):
            raise ConfigurationError(
                f"{option.replace('_', '-')} is for runs: maps on disk are scored as they are"
            )
    if parsed.predictions is None or parsed.targets is None:
        raise ConfigurationError("maps on disk need both --predictions and --targets")
    scoring = read_scoring(parsed.scoring, parsed.task)
    if parsed.max_distance is not None:
        scoring["measuring"] = {**scoring.get("measuring", {}), "max_distance": parsed.max_distance}
    with progress_bar("scoring") as progress:
        scores = score_folders(
            parsed.predictions,
            parsed.targets,
            protocol=parsed.protocol or "plain",
            resize=parsed.resize,
            workers=parsed.workers,
            progress=progress,
            **scoring,
        )
    console().print(scores.table())
    if parsed.json:
        scores.save(parsed.json)
