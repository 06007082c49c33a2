"""Draws the README's picture from a finished quickstart: ``python docs/quickstart_picture.py DIR OUT.png``.

Blocks are held-out rooms spread evenly over the test split, chosen by position, not by result.
"""

import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt

import plait
from plait.study.qualitative import rows, spread
from plait.training.run import load_run

ROOMS = 2


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
    columns = ("label", *networks)
    plt.rcParams.update({"font.size": 10, "font.family": "DejaVu Sans"})
    width, height = len(columns) * ROOMS, 1 + len(tasks)
    figure, axes = plt.subplots(height, width, figsize=(2.05 * width, 1.6 * height), layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    places = spread(len(dataset), ROOMS)
    drawn = rows(dataset, places, networks, evaluation=several.recipe.evaluation)
    for room, row in enumerate(drawn):
        block = axes[:, room * len(columns) : (room + 1) * len(columns)]
        block[0, len(columns) // 2].imshow(row.image)
        for axis, title in zip(block[1], columns, strict=True):
            axis.set_title(title, pad=3)
        for line, task in zip(block[1:], tasks, strict=True):
            line[0].imshow(row.targets[task.name])
            for axis, arm in zip(line[1:], networks, strict=True):
                axis.imshow(row.predictions[task.name][arm].picture)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
