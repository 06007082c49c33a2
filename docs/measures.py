"""Writes the tables of docs/results/measures.md: our numbers beside the published evaluators'.

``python docs/measures.py``. The maps, and what the evaluators made of them, are in ``tests/data``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plait.metrics import BoundaryF, relative_gain
from plait.metrics.boundary import scores as boundary_scores
from plait.tasks import Measure, Task, parse

PAGE = Path(__file__).parent / "results" / "measures.md"
STORED = Path(__file__).parents[1] / "tests" / "data"
EDGES = ("p01_small_clean", "p03_warp_mid", "p05_full_typical")
Arrays = Mapping[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Row:
    """One measure by a published evaluator and by us.

    Attributes:
        what: The measure, with its unit.
        theirs: The evaluator's number.
        whose: Which evaluator.
        protocol: By which protocol ours is taken.
        ours: Our number.
        why: Why they differ, if they do.
    """

    what: str
    theirs: float
    whose: str
    protocol: str
    ours: float
    why: str = ""

    def cells(self) -> str:
        """The row in Markdown."""
        digits = 4 if abs(self.theirs) < 1 else 3
        theirs, ours = (f"{value:.{digits}f}" for value in (self.theirs, self.ours))
        off = abs(self.ours - self.theirs)
        difference = "none" if off < 1e-9 else "below 1e-4" if off < 1e-4 else f"{off:.0e}"
        why = "" if difference == "none" else self.why or "rounding"
        cells = (self.what, self.whose, theirs, f"`{self.protocol}`", ours, difference, why)
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| measure | evaluator | its number | protocol | ours | difference | why |",
    "|---|---|---:|---|---:|---|---|",
)


def stored(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a file."""
    with np.load(STORED / f"{name}.npz") as arrays:
        return dict(arrays)


def scored(task: Task, protocol: str, prediction: Tensor, target: Tensor) -> dict[str, float]:
    """Everything that a protocol's metric computes."""
    metric = task.scored(protocol).metric()
    metric.update(prediction, target)
    return dict(metric.compute())


def semantic() -> Iterator[Row]:
    """Class maps: 21 classes, of which three occur nowhere, and 40 classes."""
    arrays = stored("metrics/semseg")
    for split, classes in (("voc", 21), ("nyu", 40)):
        (task,) = parse({"semantic": {"kind": "semantic", "classes": classes}})
        prediction, target = (
            torch.from_numpy(arrays[f"in__{split}_{part}"])[:, None] for part in ("pred", "gt")
        )
        ours = {p: scored(task, p, prediction, target)["miou"] for p in ("plain", "survey", "invpt")}
        named = f"mIoU, {classes} classes"
        for whose, mode, protocol in (
            ("survey", "folder", "survey"),
            ("survey", "folder", "plain"),
            ("invpt", "meter", "invpt"),
        ):
            theirs = arrays[f"{whose}__semseg_{split}_{mode}__mIoU"].item()
            why = "classes that occur nowhere are left out of the mean"
            yield Row(named, theirs, f"{whose}, {mode}", protocol, ours[protocol], why)


def normals() -> Iterator[Row]:
    """Normals: the folder evaluators see 8-bit pictures, the meters floating-point vectors."""
    arrays = stored("metrics/normals")
    (task,) = parse({"normals": {"kind": "normals", "exact_median": True}})
    target = torch.from_numpy(arrays["in__norm_gt"]).movedim(-1, 1)
    target = target.masked_fill(~target.any(1, keepdim=True), torch.nan)
    prediction = torch.from_numpy(arrays["in__norm_pred"]).movedim(-1, 1)
    ours = {p: scored(task, p, prediction, target) for p in ("plain", "survey", "invpt")}
    names = {"mean": "mean", "median": "median", "rmse": "RMS", "11.25": "within 11.25°", "30": "within 30°"}
    for key, title in names.items():
        share = not key.isalpha()
        measure = f"within_{key.replace('.', '_')}" if share else key
        unit = "%" if share else "°"
        theirs = arrays[f"survey__normals_folder__{key}"].item()
        for protocol in ("survey", "plain"):
            value = ours[protocol][measure] * (100 if share else 1)
            why = "" if protocol == "survey" else "8 bits, truncated, against none"
            yield Row(f"{title} ({unit})", theirs, "survey, folder", protocol, value, why)
    for whose, protocol in (("survey", "plain"), ("invpt", "invpt")):
        theirs = arrays[f"{whose}__normals_meter__mean"].item()
        yield Row("mean (°)", theirs, f"{whose}, meter", protocol, ours[protocol]["mean"], "single precision")
    theirs = arrays["survey__normals_meter__rmse"].item()
    why = "the meter reports the mean under this name"
    yield Row("RMS (°)", theirs, "survey, meter", "plain", ours["plain"]["rmse"], why)


def edges() -> Iterator[Row]:
    """Edges: the counts of the original matcher, which differ from run to run, made scores by our code."""
    maps = {name: stored(f"edges/{name}") for name in EDGES}
    for setting, protocol, whose, why in (
        ("bsds_d0075", "survey", "without suppression", "its matcher drops pairs at random"),
        ("nms_d0075", "invpt", "with suppression", "the same, and ties in the suppression of flat areas"),
    ):
        found = boundary(maps.values(), "seism" if protocol == "invpt" else "survey")
        for name, title in (("ods", "odsF"), ("ois", "oisF"), ("ap", "AP")):
            runs = list(reference_scores(maps.values(), setting, name))
            theirs = float(np.mean(runs))
            text = f"C++ matcher, {whose}, mean of {len(runs)} runs ({min(runs):.4f} to {max(runs):.4f})"
            yield Row(title, theirs, text, protocol, found[name], why)


def boundary(maps: Any, rules: Any) -> dict[str, float]:
    """Our scores of a set."""
    metric = BoundaryF(protocol=rules, max_distance=0.0075)
    for arrays in maps:
        prediction = torch.from_numpy(arrays["pred_u8"])[None, None]
        metric.update(prediction, torch.from_numpy(arrays["gt"])[None].float())
    computed: dict[str, float] = metric.compute()
    return computed


def reference_scores(maps: Any, setting: str, measure: str) -> Iterator[float]:
    """A score of the set from each repetition of the reference's counts."""
    repeated = [arrays[f"{setting}__counts_reps"].astype(np.int64) for arrays in maps]
    for repetition in range(min(map(len, repeated))):
        counts = [reps[repetition] for reps in repeated]
        if measure == "ois":
            best = [boundary_scores.best_of_image(image, interpolate=False) for image in counts]
            yield boundary_scores.ois(np.sum(best, 0), interpolate=False)
        else:
            function: Callable[..., float] = {
                "ods": boundary_scores.ods,
                "ap": boundary_scores.average_precision,
            }[measure]
            yield function(np.sum(counts, 0), interpolate=False)


def gain() -> Iterator[Row]:
    """The relative gain."""
    arrays = stored("metrics/delta_mtl")
    names = [str(task) for task in arrays["tasks"]]
    measures = {
        task: Measure("m", "m", "", higher_is_better=not lower)
        for task, lower in zip(names, arrays["lower_is_better"], strict=True)
    }
    multi, single = (
        {task: {"m": float(value)} for task, value in zip(names, arrays[which], strict=True)}
        for which in ("multi", "single")
    )
    ours = relative_gain(multi, single, measures).mean
    yield Row("Δ of six tasks (%)", 100 * arrays["delta"].item(), "survey", "variant survey", 100 * ours)


def table(*parts: Callable[[], Iterator[Row]]) -> list[str]:
    """Lines of Markdown."""
    return [*HEAD, *(row.cells() for part in parts for row in part())]


TABLES: Mapping[str, Sequence[Callable[[], Iterator[Row]]]] = {
    "maps": (semantic, normals, gain),
    "edges": (edges,),
}


def written(page: str) -> str:
    """The page with its generated parts made anew; they stand between two comments each."""
    for name, parts in TABLES.items():
        begin, end = f"<!-- {name}: generated -->\n", f"<!-- {name}: end -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n" + "\n".join(table(*parts)) + f"\n\n{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    PAGE.write_text(written(PAGE.read_text()))
