"""``plait predict``: maps of pictures, folders and videos, by a trained run."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

from plait.commands.base import Commands, folder, progress_bar, say
from plait.commands.networks import add_own_parts, add_sizing, device, sizing, unfinished
from plait.errors import ConfigurationError, DataError


def add(commands: Commands) -> None:
    """Declares the command."""
    parser = commands.add(
        "predict",
        predict,
        help="maps of pictures, folders and videos by a trained run: raw numbers with units, and pictures",
        epilog=(
            "  plait predict runs/shared photo.jpg --out predictions\n"
            "  plait predict runs/shared photos/ --out predictions --tasks depth normals\n"
            "  plait predict hf:org/name drive.mp4 --out predictions --every 5\n"
            "DIR/TASK/ID.png holds numbers, DIR/pictures/TASK/ID.png colours; DIR/predictions.json says\n"
            "what the numbers mean. The same command again does only what is not done."
        ),
    )
    parser.add_argument("run", metavar="RUN", help="a run's folder, or hf:org/name from the Hugging Face hub")
    parser.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="IMAGE|FOLDER|VIDEO",
        help="pictures (PNG, JPEG, WebP, TIFF), folders of them with all sub-folders, or videos",
    )
    parser.add_argument("--out", type=folder, required=True, metavar="DIR", help="where predictions go")
    parser.add_argument(
        "--tasks", nargs="+", metavar="TASK", help="which of the run's tasks (default: all of them)"
    )
    parser.add_argument(
        "--format",
        choices=("png", "npy"),
        default="png",
        metavar="FORMAT",
        help="png: 8 or 16 bits where a task allows it; npy: floating-point arrays (default: png)",
    )
    parser.add_argument(
        "--no-pictures",
        action="store_false",
        dest="pictures",
        help="write numbers only, no coloured pictures",
    )
    shown = parser.add_argument_group(
        "how pictures are brought to the network (default: as in its evaluation)"
    )
    add_sizing(shown)
    shown.add_argument(
        "--every", type=int, default=1, metavar="N", help="of videos, every Nth frame (default: 1)"
    )
    work = parser.add_argument_group("work")
    work.add_argument(
        "--batch", type=int, metavar="N", help="pictures at a time (default: as in the run's evaluation)"
    )
    work.add_argument(
        "--device",
        metavar="DEVICE",
        help="where to compute, as cpu or cuda:1 (default: an accelerator, else cpu)",
    )
    work.add_argument(
        "--overwrite", action="store_true", help="remove what is in DIR from an earlier call, and begin again"
    )
    add_own_parts(parser)
    parser.set_defaults(after_stop=["the same command goes on where it stopped"])


def predict(parsed: argparse.Namespace) -> None:
    """Predictions."""
    from dataclasses import replace

    import torch

    from plait.inference import load, predict_files
    from plait.study.cores import usable_cores
    from plait.training.memory import keep_freed_memory
    from plait.training.tuning import idle_threads, threads

    keep_freed_memory()
    predictor = load(
        parsed.run, tasks=parsed.tasks, flip=parsed.flip, device=device(parsed), own_parts=parsed.own_parts
    )
    predictor = replace(predictor, sizing=sizing(parsed, predictor.sizing))
    try:
        with (
            warnings.catch_warnings(),
            threads(idle_threads(usable_cores())),
            progress_bar("predicting") as progress,
        ):
            # Of photographs with odd EXIF data, Pillow warns in many words, and reads them all the same.
            warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
            summary = predict_files(
                predictor,
                parsed.inputs,
                parsed.out,
                format=parsed.format,
                pictures=parsed.pictures,
                batch=parsed.batch,
                every=parsed.every,
                overwrite=parsed.overwrite,
                progress=progress,
            )
    except (RuntimeError, MemoryError) as error:
        full = isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)
        if not full:  # torch says so in words, of the processor's memory
            raise
        raise ConfigurationError(
            f"{predictor.device} has too little memory for these pictures at this size: try --batch 1, "
            f"smaller tiles with --tile 512x512, or --size HxW"
        ) from error
    say("\n".join([*unfinished(predictor), *summary.sentences()]))
    if summary.failure:
        raise DataError(summary.failure)
