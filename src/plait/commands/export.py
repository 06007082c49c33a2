"""``plait export``: a trained run as one file for another runtime."""

from __future__ import annotations

import argparse
from pathlib import Path

from plait.commands.base import Commands, console, file, progress_bar, say, size
from plait.commands.networks import add_own_parts, add_sizing, sizing, unfinished


def add(commands: Commands) -> None:
    """Declares the command."""
    parser = commands.add(
        "export",
        export,
        help="write a trained run as one ONNX or pt2 file, checked against the network on real pictures",
        epilog=(
            "The file takes uint8 pictures [batch, height, width, 3], RGB, and gives a named map a task in\n"
            "its unit; resizing, normalising and decoding are inside. NAME.onnx.json, which is inside it as\n"
            "well, says what is what. Nothing is written if the maps differ from the network's.\n"
            "  plait export runs/shared --to onnx --dynamic\n"
            "  plait export runs/shared --to onnx --input 480x640 --int8"
        ),
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, or hf:org/name")
    parser.add_argument(
        "--to", required=True, choices=("onnx", "pt2"), metavar="FORMAT", help="onnx or pt2 (torch.export)"
    )
    parser.add_argument(
        "--out", type=file, metavar="FILE", help="the model's file (default: the run's name, here)"
    )
    parser.add_argument(
        "--dynamic", action="store_true", help="any number of pictures of any size (default: --input)"
    )
    parser.add_argument(
        "--input",
        type=size,
        metavar="HxW",
        help="the size of the pictures it takes (default: the network's size, else that of the run's data)",
    )
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N", help="how many pictures it takes at a time (default: 1)"
    )
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="only these tasks (default: all of them)")
    parser.add_argument(
        "--probabilities", action="store_true", help="also give the probability of every class"
    )
    parser.add_argument(
        "--pictures",
        type=Path,
        metavar="DIR",
        help="compare, and calibrate, on these pictures (default: rooms that come with plait)",
    )
    parser.add_argument(
        "--int8", action="store_true", help="onnx: also write NAME.int8.onnx for CPUs, and score both"
    )
    shown = parser.add_argument_group(
        "how pictures are brought to the network, inside (default: as in its evaluation)"
    )
    add_sizing(shown)
    add_own_parts(parser)


def export(parsed: argparse.Namespace) -> None:
    """A trained run as one file for another runtime."""
    from dataclasses import replace

    from plait.export import export as export_predictor
    from plait.export.parity import table
    from plait.inference import load
    from plait.study.cores import usable_cores
    from plait.training.memory import keep_freed_memory
    from plait.training.tuning import idle_threads, threads

    keep_freed_memory()
    predictor = load(
        parsed.run, tasks=parsed.tasks, flip=parsed.flip, device="cpu", own_parts=parsed.own_parts
    )
    predictor = replace(predictor, sizing=sizing(parsed, predictor.sizing))
    for sentence in unfinished(predictor):
        say(sentence)
    with threads(idle_threads(usable_cores())), progress_bar("scoring") as progress:
        made = export_predictor(
            predictor,
            parsed.to,
            out=parsed.out,
            dynamic=parsed.dynamic,
            input_size=parsed.input,
            batch=parsed.batch,
            probabilities=parsed.probabilities,
            pictures=parsed.pictures,
            int8=parsed.int8,
            tell=say,
            progress=progress,
        )
    console().print(table(made.comparisons, title="maximum error, on real pictures"))
    if made.int8 is not None:
        reduced = made.int8.quantised
        console().print(table(reduced.comparisons, title="maximum error of 8 bits", judged=False))
        if reduced.before is not None:
            console().print(reduced.table())
        else:
            say(f"what 8 bits cost could not be scored: {reduced.missing}")
    say(f"wrote {made.model} ({megabytes(made.model)}) and {made.description}")
    if made.int8 is not None:
        say(f"wrote {made.int8.model} ({megabytes(made.int8.model)}) and {made.int8.description}")


def megabytes(path: Path) -> str:
    """The size of a file."""
    return f"{path.stat().st_size / 1e6:.1f} MB"
