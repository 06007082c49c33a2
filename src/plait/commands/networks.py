"""What commands that use a network share: where it computes, how it sees pictures, whose code may run."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from plait.commands.base import size
from plait.errors import ConfigurationError

if TYPE_CHECKING:
    from plait.inference import Predictor, Sizing

OWN = "own"


def add_own_parts(parser: argparse.ArgumentParser) -> None:
    """Declares ``--own-parts``."""
    parser.add_argument(
        "--own-parts",
        action="store_true",
        help="a network that was shared with you may run code that it names, where it is installed",
    )


def add_sizing(shown: argparse._ArgumentGroup) -> None:
    """Declares how pictures are brought to the network."""
    shown.add_argument(
        "--size", type=own_or_size, metavar="HxW", help="fit pictures into this size, or own: keep theirs"
    )
    shown.add_argument(
        "--tile",
        type=size,
        metavar="HxW",
        help="show them in tiles of this size; without --size, at their own",
    )
    shown.add_argument(
        "--overlap",
        type=float,
        metavar="P",
        help="what part of a tile its neighbour covers too (default: 0.25)",
    )
    shown.add_argument("--flip", action="store_true", default=None, help="average with the mirrored picture")


def own_or_size(text: str) -> tuple[int, int] | str:
    """Reads ``HxW``, or ``own``.

    >>> own_or_size("own"), own_or_size("192x256")
    ('own', (192, 256))
    """
    return OWN if text.lower() == OWN else size(text)


def device(parsed: argparse.Namespace) -> str | None:
    """Where to compute, as torch calls it.

    Raises:
        ConfigurationError: If torch knows no such device, or it is not there.
    """
    import torch

    if parsed.device is None:
        return None
    try:
        torch.empty(1, device=parsed.device).cpu()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigurationError(
            f"--device {parsed.device} cannot be used ({reason}): name another, such as cpu, or leave it out"
        ) from None
    return str(parsed.device)


def sizing(parsed: argparse.Namespace, own: Sizing) -> Sizing:
    """How pictures are shown: as the run's evaluation does, except for what is asked for.

    Raises:
        ConfigurationError: If there are no tiles that could overlap.
    """
    from dataclasses import replace

    changes: dict[str, object] = {}
    if parsed.size is not None or parsed.tile is not None:
        changes["size"] = None if parsed.size in (None, OWN) else parsed.size
        changes["tile"] = parsed.tile
        if own.tile is None:
            changes["overlap"] = 0.25
    if parsed.overlap is not None:
        changes["overlap"] = parsed.overlap
    made: Sizing = replace(own, **changes)  # type: ignore[arg-type]
    if parsed.overlap is not None and made.tile is None and made.size is not None:
        raise ConfigurationError("--overlap is for tiles: add --tile HxW, or leave it out")
    return made


def unfinished(predictor: Predictor) -> list[str]:
    """A sentence for a run that is still being trained."""
    if predictor.finished:
        return []
    return [
        f"this run is not finished: its network of step {predictor.step} of {predictor.recipe.training.steps}"
    ]
