"""``plait`` alone: what to do next, by what lies in this folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import plait
from plait.commands.base import say

START = """\
plait {version}: one network for many dense prediction tasks, and what sharing is worth.

Start here
  plait quickstart                            the main job on rendered rooms, minutes on a laptop
  plait data check folder PICTURES            your own pictures and labels: what is there, and a recipe for it
  plait train rooms_shared --out runs/first   one network, from a recipe (plait list recipes)
  plait study run rooms/balancing             many networks compared, like with like
"""
THEN = """\
With a trained run
  plait predict RUN PHOTO.jpg --out maps      its maps of any picture, in metres, classes and angles
  plait demo RUN                              the same in a browser
  plait export RUN --to onnx                  for other runtimes, checked against the network
"""
MORE = """\
plait --help names all commands, plait COMMAND --help explains one, plait doctor tells what is installed."""


def welcome(place: Path | None = None) -> None:
    """Prints what to do next; with runs or studies in ``place`` (this folder by default), with those."""
    steps = list(next_steps(Path() if place is None else place))
    width = max((len(command) for command, _ in steps), default=0)
    here = ["In this folder", *(f"  {command:<{width}}   {what}" for command, what in steps), ""]
    say("\n".join([START.format(version=plait.__version__), *(here if steps else [THEN]), MORE]))


def next_steps(place: Path) -> Iterator[tuple[str, str]]:
    """Commands for the newest run and study at most two levels below a folder, and what they do."""
    if runs := newest(place, "recipe.yaml"):
        run = shlex.quote(str(runs[0]))
        if (runs[0] / "scores.json").is_file():
            yield f"plait evaluate {run}", "its scores again"
            yield f"plait predict {run} PHOTO.jpg --out maps", "its maps of any picture"
            yield f"plait demo {run}", "the same in a browser"
            yield f"plait export {run} --to onnx", "for other runtimes"
        else:
            again = shlex.quote(str(runs[0] / "recipe.yaml"))
            yield f"plait train {again} --out {run}", "goes on with it"
        if beside := [other for other in runs if other.parent == runs[0].parent][1:]:
            yield f"plait report {shlex.quote(str(runs[0].parent))}", f"{len(beside) + 1} runs side by side"
    for study in newest(place, "study.db")[:1]:
        yield f"plait study status {shlex.quote(str(study))}", "how the study stands"
        yield f"plait report {shlex.quote(str(study))}", "its report"


def newest(place: Path, file: str) -> Sequence[Path]:
    """The folders that hold a file of this name, the one changed last first."""
    try:
        found = [path for depth in (f"*/{file}", f"*/*/{file}") for path in place.glob(depth)]
        found = [path for path in found if not any(part.startswith(".") for part in path.parts)]
        changed = {path.parent: path.stat().st_mtime for path in found}
    except OSError:
        return []
    runs = [folder for folder in changed if file != "recipe.yaml" or is_run(folder)]
    return sorted(runs, key=lambda folder: (-changed[folder], str(folder)))


def is_run(folder: Path) -> bool:
    """Whether a folder with a recipe is a run, not one of recipes."""
    return (folder / "environment.json").is_file() or (folder / "scores.json").is_file()
