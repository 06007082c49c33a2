"""How the cost of every encoder and decoder grows with the number of tasks, measured in one run.

``python benchmarks/growth.py`` measures what ``benchmarks/growth.json`` does not hold yet and draws
``docs/images/cost_growth.svg`` from all of it; ``--fresh`` measures everything again.

Every encoder has the independent decoder with an FPN head a task, every decoder the shared encoder; options
are the defaults. The tasks are depth maps. A step is forward and backward of two images in float32 on one
thread; memory is the peak of the tensors alive in it. What would need more memory than the limit is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from pathlib import Path
from typing import Any

import torch

import plait
from plait import registry
from plait.models import MultiTaskNetwork
from plait.study.cost import measure

HERE = Path(__file__).parent
DATA, FIGURE = HERE / "growth.json", HERE.parent / "docs" / "images" / "cost_growth.svg"
TASKS = (2, 4, 8, 16)
BACKBONE, SIZE, BATCH = "tf_efficientnet_lite0", (96, 128), 2
MEASURES = {
    "parameters": ("parameters (M)", 1e6),
    "macs": ("multiply-accumulates an image (G)", 1e9),
    "step_seconds": ("training step (s)", 1.0),
    "step_memory": ("peak memory of the step (GB)", 1e9),
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7a5195", "#8a8a00",
           "#a04040", "#408080")  # fmt: skip


def network(axis: str, name: str, count: int) -> MultiTaskNetwork:
    """A network of ``count`` tasks with this encoder or decoder."""
    tasks = {f"task{number:02d}": {"kind": "depth"} for number in range(count)}
    options: dict[str, Any] = {}
    if name == "branched":  # half of the stages shared by all, half by pairs
        everybody, pairs = " ".join(tasks), list(tasks)
        couples = " | ".join(f"{one} {other}" for one, other in zip(pairs[::2], pairs[1::2], strict=True))
        options = {"encoder_options": {"tree": [everybody] * 3 + [couples]}}
    if axis == "encoder":
        options["decoder_options"] = {"head": "fpn"}
    torch.manual_seed(0)
    return plait.create_model(backbone=BACKBONE, tasks=tasks, **{axis: name}, **options)


def measured(axis: str, name: str, count: int) -> dict[str, float]:
    """Parameters, operations, seconds and bytes of one network."""
    with torch.device("meta"):
        model = network(axis, name, count)
    del model
    model = network(axis, name, count)
    cost = measure({"it": model}, SIZE, repeats=4, step_batch=BATCH)["it"]
    return {measure_: float(getattr(cost, measure_)) for measure_ in MEASURES}


def draw(found: dict[str, dict[str, dict[str, float]]]) -> None:
    """Four measures by tasks, encoders above and decoders below; each line is named at its end."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    style = {"svg.hashsalt": "plait", "svg.fonttype": "path", "font.size": 8}
    with mpl.rc_context(style):
        figure, axes = plt.subplots(2, 4, figsize=(15, 8), layout="constrained")
        for row, axis in zip(axes, ("encoder", "decoder"), strict=True):
            names = [key.partition(" ")[2] for key in found if key.startswith(axis)]
            for panel, (measure_, (title, unit)) in zip(row, MEASURES.items(), strict=True):
                ends = []
                for colour, name in zip(COLOURS, names, strict=False):
                    points = {int(t): v[measure_] / unit for t, v in found[f"{axis} {name}"].items()}
                    panel.plot(list(points), list(points.values()), color=colour, marker="o", ms=3, lw=1.5)
                    ends.append((max(points), points[max(points)], name, colour))
                panel.set(xscale="log", yscale="log", xlim=(1.8, 100), title=f"{axis}s: {title}")
                panel.set_xticks(TASKS, [str(count) for count in TASKS])
                panel.xaxis.set_minor_locator(mpl.ticker.NullLocator())
                panel.grid(alpha=0.3)
                low, high = panel.get_ylim()
                panel.set_ylim(low, high * (high / low) ** 0.15)  # room for names
                name_lines(panel, ends)
            row[0].set_ylabel("log scale")
            for panel in row:
                panel.set_xlabel("tasks")
        figure.savefig(FIGURE, metadata={"Date": None})


def name_lines(panel: Any, ends: list[tuple[int, float, str, str]]) -> None:
    """Writes each name beside its line's end, moved up until no two overlap."""
    low, high = panel.get_ylim()
    step, below = (high / low) ** (1 / 24), 0.0
    for x, y, name, colour in sorted(ends, key=lambda end: end[1]):
        below = max(y, below * step)
        panel.annotate(
            name, (x, y), (18, below), color=colour, va="center",
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.4},
        )  # fmt: skip


def main() -> None:
    """Measures and draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    parser.add_argument("--limit", type=float, default=14.0, metavar="GB", help="leave out what needs more")
    parsed = parser.parse_args()
    known = {} if parsed.fresh or not DATA.is_file() else json.loads(DATA.read_text())
    found: dict[str, dict[str, dict[str, float]]] = known.get("costs", {})
    for axis, names in (("encoder", registry.ENCODERS), ("decoder", registry.DECODERS)):
        for name in names:
            costs = found.setdefault(f"{axis} {name}", {})
            for count in TASKS:
                if str(count) in costs or expected_memory(costs, count) > parsed.limit * 1e9:
                    continue
                costs[str(count)] = measured(axis, name, count)
                print(axis, name, count, {k: f"{v:.3g}" for k, v in costs[str(count)].items()}, flush=True)
                about = {"backbone": BACKBONE, "size": SIZE, "batch": BATCH, "torch": torch.__version__}
                about |= {"machine": platform.machine(), "processor": processor(), "threads": 1}
                DATA.write_text(json.dumps({**about, "costs": found}, indent=1) + "\n")
    draw(found)


def expected_memory(costs: dict[str, dict[str, float]], count: int) -> float:
    """Bytes that so many tasks will need, judging by its growth so far."""
    before, earlier = (costs.get(str(count // part), {}).get("step_memory") for part in (2, 4))
    if count == TASKS[0]:
        return 0.0
    if before is None:
        return math.inf
    return before * (before / earlier if earlier else 4.0)


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


if __name__ == "__main__":
    main()
