"""Draws the README's picture from a finished quickstart: ``python docs/quickstart_picture.py DIR OUT.png``.

Rows are held-out rooms spread evenly over the test split, chosen by position, not by result.
"""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt

import plait
from plait.study.qualitative import rows, spread
from plait.training.run import load_run

ROWS = 3


def main(folder: Path, out: Path) -> None:
    found = sorted(path.parent for path in folder.glob("runs/*/*/scores.json"))
    runs = {path.name: load_run(path) for path in found}
    several = runs["multi-task"]
    networks = {
        "single-task": [run.model() for name, run in runs.items() if name != "multi-task"],
        "multi-task": [several.model()],
    }
    data = several.recipe.data
    tasks = plait.tasks.parse(several.recipe.tasks)
    dataset = plait.data.create(data.name, split=data.test_split, labels=[task.label for task in tasks])
    columns = ["input", *(f"{task.name}: {what}" for task in tasks for what in ("label", *networks))]
    plt.rcParams.update({"font.size": 9, "font.family": "DejaVu Sans"})
    figure, axes = plt.subplots(ROWS, len(columns), figsize=(2.05 * len(columns), 1.6 * ROWS))
    places = spread(len(dataset), ROWS)
    drawn = rows(dataset, places, networks, evaluation=several.recipe.evaluation)
    for line, row in zip(axes, drawn, strict=True):
        pictures = [row.image]
        for task in tasks:
            pictures.append(row.targets[task.name])
            pictures.extend(row.predictions[task.name][arm].picture for arm in networks)
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture)
            axis.set_axis_off()
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title)
    figure.subplots_adjust(0.002, 0.005, 0.998, 0.95, 0.02, 0.02)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
