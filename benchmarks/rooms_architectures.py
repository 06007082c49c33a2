"""A short run of every encoder, every decoder and a few crossings on the packaged rooms, in one table.

``python benchmarks/rooms_architectures.py --out runs/architectures`` trains what is not finished there, two
runs at a time on one thread each, and writes ``docs/results/architectures.md``. It shows that everything
trains; it is no comparison: one seed, few steps, nothing tuned.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from growth import processor

import plait
from plait.config import Recipe, dump, load_recipe, replace
from plait.study.comparison import Comparison, Line
from plait.study.report import report
from plait.training.run import load_run

PAGE = Path(__file__).parents[1] / "docs" / "results" / "architectures.md"
TASKS = ("semantic", "depth", "normals")
NARROW = {"width": 64}
DECODERS: dict[str, dict[str, Any]] = {
    "independent": {"head": "fpn"},
    "pad_net": NARROW,
    "mti_net": {},
    "pap_net": NARROW,
    "jtrl": NARROW,
    "psd": NARROW,
    "astmt": {},
}
TREE = ["semantic depth normals"] * 3 + ["semantic | depth normals"]
ENCODERS: dict[str, dict[str, Any]] = {
    name: {"tree": TREE} if name == "branched" else {} for name in plait.list_encoders()
}
CROSSINGS = (
    ("cross_stitch", "pad_net"),
    ("mtan", "mti_net"),
    ("branched", "jtrl"),
    ("astmt", "astmt"),
    ("nddr_cnn", "pap_net"),
)


def arms(steps: int) -> dict[str, Recipe]:
    """A recipe an arm: that of the quickstart with fewer steps, another encoder and another decoder."""
    quick = replace(load_recipe("quickstart"), {"training.steps": steps})
    found = {f"single {task}": replace(quick, {"tasks": {task: quick.tasks[task]}}) for task in TASKS}

    def arm(encoder: str, decoder: str) -> Recipe:
        parts = {"encoder": {"name": encoder, **ENCODERS[encoder]}}
        parts["decoder"] = {"name": decoder, **DECODERS[decoder]}
        return replace(quick, {f"model.{part}": options for part, options in parts.items()})

    found |= {encoder: arm(encoder, "independent") for encoder in ENCODERS}
    found |= {decoder: arm("shared", decoder) for decoder in DECODERS if decoder != "independent"}
    found["astmt decoder"] = found.pop("astmt")
    found["astmt"] = arm("astmt", "independent")
    found |= {f"{encoder} + {decoder}": arm(encoder, decoder) for encoder, decoder in CROSSINGS}
    return found


def train(name: str, recipe: Recipe, out: Path) -> str:
    """Trains one arm in a process of its own; started again, it goes on where it stopped."""
    out.mkdir(parents=True, exist_ok=True)
    run = out / name.replace(" ", "_")
    if run.is_dir() and load_run(run).finished:
        return f"{name}: finished before"
    file = out / f"{run.name}.yaml"
    file.write_text(dump(recipe))
    begun = time.perf_counter()
    command = [sys.executable, "-m", "plait", "train", str(file), "--out", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return f"{name}: {time.perf_counter() - begun:.0f} s"


def table(comparison: Comparison) -> Iterator[str]:
    """A row an arm: the headline measure of each task, the mean relative gain and what it cost."""
    wanted = [line for line in comparison.lines() if line.headline]
    wanted += [line for line in comparison.cost_lines() if line.title.startswith(COSTS)]

    def head(line: Line) -> str:
        if line.section == "cost":
            return line.title
        arrow = {"higher": " ↑", "lower": " ↓"}[line.direction] if line.section in TASKS else ""
        return f"{line.section} {line.title}{arrow}"

    yield f"| network | {' | '.join(map(head, wanted))} |"
    yield f"|---|{'---:|' * len(wanted)}"
    for place, column in enumerate(comparison.columns):
        texts = [line.texts[place].partition(" (")[0] for line in wanted]
        yield f"| {column.replace('_', ' ').replace(' + ', ' with ')} | {' | '.join(texts)} |"


def compared(runs: Sequence[Path], steps: int) -> list[str]:
    """The table of finished runs, after a line about their scale; the full report lies beside the first."""
    comparison, _ = report(runs, out=runs[0] / "report.html", title="A short run on rooms")
    about = (
        f"{steps} steps of 8 images at 128x160, seed 0, single thread; {processor()}, "
        f"torch {torch.__version__}, plait {plait.__version__}."
    )
    return [about, "", *table(comparison)]


def replaced(page: str, name: str, lines: Sequence[str]) -> str:
    """A page with new lines between the two comments of that name."""
    begin, end = f"<!-- {name}: generated -->\n", f"<!-- {name}: end -->"
    before, _, rest = page.partition(begin)
    return "\n".join([before + begin, *lines, "", end + rest.partition(end)[2]])


COSTS = ("parameters", "multiply-accumulates", "training, processor")


def main() -> None:
    """Trains, compares, writes the page's table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/architectures"), metavar="DIR")
    parser.add_argument("--steps", type=int, default=120, metavar="N")
    parser.add_argument("--only", nargs="+", metavar="ARM", help="train only these and stop")
    parsed = parser.parse_args()
    parsed.out.mkdir(parents=True, exist_ok=True)
    chosen = {name: r for name, r in arms(parsed.steps).items() if not parsed.only or name in parsed.only}
    with ThreadPoolExecutor(2) as pool:
        for line in pool.map(lambda pair: train(*pair, parsed.out), chosen.items()):
            print(line, flush=True)
    if parsed.only:
        return
    PAGE.write_text(replaced(PAGE.read_text(), "table", compared([parsed.out], parsed.steps)))


if __name__ == "__main__":
    main()
