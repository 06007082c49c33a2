"""A short run of every balancing strategy on the packaged rooms: one table, and the weights over time.

``python benchmarks/rooms_balancers.py --out runs/balancers`` trains what is not finished there, two runs at a
time on one thread each, and writes ``docs/results/balancers.md`` and its figure. It shows that everything
trains; it is no comparison: one seed, few steps, nothing tuned.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rooms_architectures import TASKS, compared, replaced, train

import plait
from plait.config import Recipe, load_recipe, replace
from plait.training.run import Run, load_run

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "results" / "balancers.md"
FIGURE = DOCS / "images" / "balancer_weights.svg"
OPTIONS: dict[str, dict[str, Any]] = {
    "fixed": {"weights": {"semantic": 0.5, "depth": 1.0, "normals": 2.0}},
    "stch": {"warm_up_epochs": 0},  # the run has fewer epochs than the authors warm up for
}
KEYS: dict[str, dict[str, Any]] = {"dtp": {"training.validate_every": 20}}  # its weights follow the scores
COLOURS = {"semantic": "#0072b2", "depth": "#d55e00", "normals": "#009e73"}


def arms(steps: int) -> dict[str, Recipe]:
    """A recipe a strategy: that of the quickstart with fewer steps and another balancer."""
    quick = replace(load_recipe("quickstart"), {"training.steps": steps, "training.log_every": 5})
    found = {f"single {task}": replace(quick, {"tasks": {task: quick.tasks[task]}}) for task in TASKS}
    for name in plait.list_balancers():
        balancer = {"name": name, "reduction": "sum", **OPTIONS.get(name, {})}
        found[name] = replace(quick, {"balancer": balancer, **KEYS.get(name, {})})
    return found


def shares(run: Run) -> dict[str, list[tuple[int, float]]]:
    """``{task: [(step, weight over the sum of all sizes)]}``, from the run's log."""
    found: dict[str, list[tuple[int, float]]] = {task: [] for task in TASKS}
    for row in run.log:
        weights: Mapping[str, float | None] | None = row.get("weight")
        if not weights or any(weights.get(task) is None for task in TASKS):
            continue
        total = sum(abs(weights[task] or 0.0) for task in TASKS)
        for task in TASKS:
            found[task].append((row["step"], (weights[task] or 0.0) / max(total, 1e-30)))
    return found


def draw(out: Path) -> None:
    """One panel a strategy: each task's share of the weights over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [name for name in plait.list_balancers() if (out / name).is_dir()]
    columns = 6
    rows = -(-len(names) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(12, 1.65 * rows), sharex=True, sharey=True)
    for axis, name in zip(axes.flat, names, strict=False):
        for task, points in shares(load_run(out / name)).items():
            axis.plot([step for step, _ in points], [share for _, share in points], COLOURS[task], label=task)
        axis.set_title(name, fontsize=9)
        axis.axhline(1 / len(TASKS), color="0.8", linewidth=0.8, zorder=0)
        axis.tick_params(labelsize=7)
        axis.set_ylim(-0.35, 1.05)
    for axis in list(axes.flat)[len(names) :]:
        axis.set_axis_off()
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower right", ncols=len(TASKS), frameon=False)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel("share of the weights", fontsize=9)
    figure.tight_layout()
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Trains, compares, writes the page's table and its figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/balancers"), metavar="DIR")
    parser.add_argument("--steps", type=int, default=120, metavar="N")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="train only these and stop")
    parsed = parser.parse_args()
    parsed.out.mkdir(parents=True, exist_ok=True)
    chosen = {name: r for name, r in arms(parsed.steps).items() if not parsed.only or name in parsed.only}
    with ThreadPoolExecutor(2) as pool:
        for line in pool.map(lambda pair: train(*pair, parsed.out), chosen.items()):
            print(line, flush=True)
    if parsed.only:
        return
    draw(parsed.out)
    PAGE.write_text(replaced(PAGE.read_text(), "table", compared([parsed.out], parsed.steps)))


if __name__ == "__main__":
    main()
