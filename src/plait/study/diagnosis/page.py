"""The gradients of a run, drawn over time and by stage: one HTML page, or a part for another one."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from plait import config
from plait.errors import ConfigurationError
from plait.study import pages
from plait.study.charts import Curve
from plait.study.diagnosis.findings import WHOLE, Findings, percent, text
from plait.study.diagnosis.measure import measure_now
from plait.study.diagnosis.parts import Chart, Map, Section, colours, drawn, reach, significant
from plait.study.report import write
from plait.training.run import Run, load_run

Progress = Callable[[int, int], None]

MOST_CURVES = 6
"""Of stages in one chart: there are no more colours."""

QUANTITIES = {
    "norm": "length of the gradient",
    "cosine": "cosine of two gradients",
    "conflicts": "conflicting pairs",
    "similarity": "magnitude similarity",
    "condition": "condition number",
    "update": "cosine with the update",
    "effective": "effective weight",
    "share": "part in the update",
    "explained": "update explained by the tasks",
    "moved": "cosine with the optimizer's step",
}
"""What is measured of the whole and of each stage, in words."""


def diagnose(
    folder: Path, *, out: Path | None = None, batches: int = 8, progress: Progress | None = None
) -> tuple[Findings, Path]:
    """Draws what the gradients of a run's tasks do to each other and to the update.

    Args:
        folder: The run's folder; it may be on the way.
        out: The HTML file; None for ``diagnosis.html`` in the folder.
        batches: If the run has measured nothing (``training.diagnose_every``), gradients are taken now at its
            checkpoint, on so many batches.
        progress: Told of batches done and in all.

    Returns:
        What was found, and the page.

    Raises:
        ConfigurationError: If there is no run, nothing to measure, tasks share no parameter, or ``out`` is no
            HTML file.
    """
    run, out = load_run(folder), out or Path(folder) / "diagnosis.html"
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigurationError(
            f"the diagnosis is an HTML page: give --out a name that ends in .html, got {out}"
        )
    found = findings(run, batches=batches, progress=progress)
    words = ["plait", "diagnose", os.path.relpath(run.path, out.resolve().parent), "--out", out.name]
    page = pages.render(
        "diagnosis/page.html.j2",
        title=f"Gradients of {run.path.resolve().name}",
        subtitle=subtitle(run),
        again=shlex.join(words if found.trained else [*words, "--batches", str(batches)]),
        **parts(run, found),
    )
    write(out, page)
    return found, out


def diagnosis_section(
    run: Run, *, prefix: str = "diagnosis", level: int = 2, batches: int = 8, progress: Progress | None = None
) -> Markup:
    """The same as a part of another page, whose style sheet must be ``style.css`` of this package's pages.

    Args:
        run: The run.
        prefix: What its ids begin with; another one for each run of a page.
        level: Of its headings.
        batches: As for :func:`diagnose`.
        progress: Likewise.

    Returns:
        Elements that can stand in ``<main>``.

    Raises:
        ConfigurationError: As :func:`diagnose`.
    """
    found = findings(run, batches=batches, progress=progress)
    made = pages.render("diagnosis/section.html.j2", **parts(run, found, prefix=prefix, level=level))
    return Markup(made)  # made by a template that escapes


def findings(run: Run, *, batches: int = 8, progress: Progress | None = None) -> Findings:
    """What a run's log says, or if it measured nothing, a look at its checkpoint now."""
    log = run.log
    lines = [line for line in log if "gradients" in line]
    return Findings(
        tasks=tuple(task.name for task in run.tasks),
        log=[line for line in log if "loss" in line],
        lines=lines or measure_now(run, batches, progress=progress),
        trained=bool(lines),
    )


def parts(run: Run, found: Findings, *, prefix: str = "diagnosis", level: int = 2) -> dict[str, Any]:
    """What the template of a section takes."""
    sections = [losses_and_weights(found), lengths(found), pairs(found), update(found), by_stage(found)]
    return {
        "prefix": prefix,
        "level": level,
        "sentences": found.sentences(),
        "notes": notes(run, found),
        "sections": [section.shown() for section in sections if section.charts or section.maps],
    }


def subtitle(run: Run) -> str:
    """What the run is."""
    encoder, decoder, balancer = (
        config.named(part)[0]
        for part in (run.recipe.model.encoder, run.recipe.model.decoder, run.recipe.balancer)
    )
    tasks = ", ".join(task.name for task in run.tasks)
    return (
        f"{run.recipe.model.backbone} on {run.recipe.data.name}: {tasks}; encoder {encoder}, decoder "
        f"{decoder}, balancer {balancer}"
    )


def notes(run: Run, found: Findings) -> list[str]:
    """What must be known with the numbers."""
    training = run.recipe.training
    steps = [int(line["step"]) for line in found.lines]
    count = "one measurement" if len(steps) == 1 else f"{len(steps)} measurements"
    images = f"{training.batch_size} images"
    if found.trained:
        told = [
            f"{count.capitalize()} while the run trained, from step {steps[0]} to step {steps[-1]}, each on "
            f"that step's own batch of {images}."
        ]
    else:
        told = [
            f"This run measured no gradients while it trained. They were taken now at the checkpoint of step "
            f"{steps[0]}, on {len(steps)} training batches of {images}: there is no time in them, and no "
            f"update. A run with training.diagnose_every has both."
        ]
    told += [
        "Gradients are those of each task's own loss, before any weight, with respect to the parameters of "
        "the encoder that tasks share; heads and decoders are not in them.",
        "Unrelated gradients of many parameters have a cosine near zero: there a sign alone says little.",
        f"One run, with seed {training.seed}: how much these numbers change from seed to seed was not "
        f"measured.",
    ]
    if found.has("update"):
        told.append(
            "The update is the gradient that the balancer made, before clipping and before the optimizer. "
            "Effective weights are the factors with which the tasks' gradients come nearest to it."
        )
        least = min(found.mean("explained").values(), default=1.0)
        if least < 0.99:
            told.append(
                f"On average {percent(least)} of the update's squared length is a weighted sum of the tasks' "
                f"gradients; the rest is in none of them (penalties, or a rule that acts on single elements)."
            )
    elif found.trained:
        told.append("Each task has an update of its own here, so there is no common update to compare with.")
    return told


# The parts of the page.


def losses_and_weights(found: Findings) -> Section:
    """What the balancer was given, what it said, and what it did."""
    styles = colours(found.tasks)
    charts = [
        Chart("Loss", "training loss", found.logged("loss"), styles, wide=True),
        Chart("Weight the balancer gave", "weight", found.logged("weight"), styles, wide=True),
    ]
    if found.trained:
        charts += [
            Chart(
                "Effective weight in the update",
                "effective weight",
                found.curves("effective"),
                styles,
                wide=True,
            ),
            Chart("Part in the update", "part", found.curves("share"), styles),
        ]
    return Section(
        name="weights",
        title="Losses and weights",
        note=(
            "Curves are smoothed over one twenty-fifth of the run. Effective weights are read off the update "
            "itself, at all layers that tasks share, whatever the balancer says of it. A task's part is its "
            "effective weight times the length of its gradient, over the sum of these magnitudes for all "
            "tasks; it is negative where the gradient was subtracted."
            if found.trained
            else "Curves are smoothed over one twenty-fifth of the run."
        ),
        key=found.tasks,
        charts=drawn(charts),
    )


def lengths(found: Findings) -> Section:
    """How long gradients are, and what that does to the problem."""
    styles = colours(found.tasks)
    if found.trained:
        similarity = {"mean": mean_curve(found.curves("similarity"))}
        charts = [
            Chart("Length of the gradient", "length", found.curves("norm"), styles, wide=True),
            Chart(
                "Magnitude similarity, mean over pairs",
                "similarity",
                similarity,
                span=(0, 1),
            ),
            Chart(
                "Condition number",
                "condition",
                found.curves("condition"),
                wide=True,
            ),
        ]
    else:
        charts = [
            Chart("Length of the gradient, where the balancer took it", "length",
                  found.logged("gradient_norm"), styles, wide=True)
        ]  # fmt: skip
    return Section(
        name="lengths",
        title="Lengths",
        note=(
            "Magnitude similarity of two gradients is 2ab / (a² + b²) of their lengths: 1 where they are "
            "equal. The condition number is the largest singular value of the Jacobian, with a row for each "
            "task, over the smallest: 1 for equally long orthogonal gradients, and a gap where they are "
            "linearly dependent."
            if found.trained
            else "Means of the log's lines, at the features or parameters that the balancer's scope names."
        ),
        key=found.tasks,
        charts=drawn(charts),
    )


def pairs(found: Findings) -> Section:
    """Where gradients point relative to each other, over time."""
    styles = colours(found.tasks)
    if found.trained:
        conflicts = found.curves("conflicts")
        curves = found.curves("cosine")
        far = max(map(abs, reach(curves)))
        if len(found.tasks) == 2:
            charts = [
                Chart(f"Cosine of {name}", "cosine", {name: curve}, span=(-far, far))
                for name, curve in curves.items()
            ]
        else:
            charts = [
                Chart(
                    f"Cosine with {task}",
                    "cosine",
                    {
                        other: curves[name]
                        for other in found.tasks
                        if other != task
                        for name in (f"{task} and {other}", f"{other} and {task}")
                        if name in curves
                    },
                    styles,
                    span=(-far, far),
                )
                for task in found.tasks
            ]
    else:
        conflicts, charts = found.logged("conflicts"), []
    charts.append(Chart("Share of conflicting pairs", "share", conflicts, span=(0, 1)))
    return Section(
        name="pairs",
        title="Agreement and conflict",
        note=(
            "Two tasks conflict where the cosine of their gradients is negative: a small enough step down "
            "one of them then raises the other's loss on this batch."
        ),
        key=found.tasks if len(charts) > 1 and len(found.tasks) > 2 else (),
        charts=drawn(charts),
    )


def update(found: Findings) -> Section:
    """What the update does for each task."""
    styles = colours(found.tasks)
    charts = [
        Chart("Cosine of the update", "cosine", found.curves("update"), styles),
        Chart("Cosine of the optimizer's step", "cosine", found.curves("moved"), styles),
    ]
    return Section(
        name="update",
        title="The update and each task",
        note=(
            "With each task's own gradient. The optimizer's step is what the parameters then moved by, "
            "downwards, with momentum, preconditioning and weight decay; below zero, a small step of that "
            "direction raises the task's loss on this batch."
        ),
        key=found.tasks,
        charts=drawn(charts) if found.trained else (),
    )


def by_stage(found: Findings) -> Section:
    """Which layers conflict."""
    places = {WHOLE: None, **{stage: stage for stage in found.stages}}
    cosine = {name: found.mean("cosine", place) for name, place in places.items()}
    strongest = max(
        (abs(v) for row in cosine.values() for v in row.values() if math.isfinite(v)), default=1.0
    )

    def table(
        title: str, names: Sequence[str], of: Callable[[str | None], Mapping[str, float]], **how: Any
    ) -> Map:
        rows = [(place, [of(stage).get(name, math.nan) for name in names]) for place, stage in places.items()]
        return Map(title, "stage", [("", names)], rows, **how)

    maps = [
        table(f"Mean cosine of two tasks' gradients; full colour at ±{text(strongest)}", found.pairs,
              lambda stage: found.mean("cosine", stage), strongest=strongest),
        table("Measurements in which they conflict", found.pairs, found.negative,
              strongest=1.0, bad=True, show=lambda value: percent(value) if math.isfinite(value) else "–"),
        table("Length of the gradient (geometric mean); full colour at the longest of a row", found.tasks,
              lambda stage: found.mean("norm", stage), strongest="row", show=significant),
    ]  # fmt: skip
    if found.has("update"):
        maps.append(
            table("Mean cosine of the update with each task's gradient; full colour at ±1", found.tasks,
                  lambda stage: found.mean("update", stage), strongest=1.0)
        )  # fmt: skip
    means = {place: {q: found.mean(q, stage) for q in QUANTITIES} for place, stage in places.items()}
    heads = {q: list(means[WHOLE][q]) for q in QUANTITIES if found.has(q)}
    everything = Map(
        title=(
            "All numbers by stage: means over the measurements (of lengths geometric; of condition numbers "
            "the median)"
        ),
        corner="stage",
        heads=[(QUANTITIES[q], ["" if name == q else name for name in names]) for q, names in heads.items()],
        rows=[
            (place, [of[q].get(name, math.nan) for q, names in heads.items() for name in names])
            for place, of in means.items()
        ],
        show=significant,
    )
    charts = []
    if found.trained and 1 < len(found.stages) <= MOST_CURVES:
        curves = {
            stage: curve for stage in found.stages for curve in found.curves("conflicts", stage).values()
        }
        charts = [
            Chart("Share of conflicting pairs by stage", "share", curves, colours(found.stages), span=(0, 1))
        ]
    return Section(
        name="stages",
        title="By stage",
        note=(
            "From the image to the heads. A dash stands where two tasks share no layer, or a number is not "
            "defined."
        ),
        key=found.stages,
        charts=drawn(charts),
        maps=maps,
        tables=[everything],
    )


def mean_curve(curves: Mapping[str, Curve]) -> Curve:
    """The mean of curves over the same steps, of those that have a value."""
    found = []
    for points in zip(*curves.values(), strict=True):
        known = [value for _, value in points if math.isfinite(value)]
        found.append((points[0][0], sum(known) / len(known) if known else math.nan))
    return found
