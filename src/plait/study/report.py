"""From run folders to a comparison: one HTML page that needs no network, and Markdown and CSV beside it."""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from markupsafe import Markup

from plait import config
from plait.errors import ConfigurationError
from plait.metrics import PROTOCOLS
from plait.models import licences
from plait.registry import resolve
from plait.study import pages
from plait.study.charts import learning_curves
from plait.study.comparison import Arm, Comparison, join
from plait.study.cores import usable_cores
from plait.study.cost import Cost, measure, together
from plait.study.qualitative import Prediction, Row, data_uri, rows, spread
from plait.training.evaluate import constant_scores
from plait.training.run import Run, load_run
from plait.training.tuning import idle_threads, threads

if TYPE_CHECKING:
    from plait.data.sample import DataSet
    from plait.models.network import MultiTaskNetwork
    from plait.tasks.base import Legend, Task

SINGLE_TASK = "single-task"
SHARING = ("model.encoder", "model.decoder", "balancer")
"""What may differ between a network and its single-task twins: the ways of sharing that are compared.

So may the set of tasks, and their ``weight``, which is the balancer's.
"""
LEARNING = ("loss", "class_weights", "positive_weight", "parametrisation", "weight", "auxiliary")
"""Options of a task that decide how it is learned, and not what its scores mean."""


@dataclass(frozen=True)
class Group:
    """The runs behind one arm.

    Attributes:
        name: The arm's name.
        runs: One run, or a single-task run for each task.
        comparable: Whether everything but the ways of sharing is as in the reference.
    """

    name: str
    runs: tuple[Run, ...]
    comparable: bool = True


def report(
    folders: Sequence[Path],
    *,
    out: Path | None = None,
    title: str = "Networks compared",
    command: str | None = None,
    images: int = 6,
) -> tuple[Comparison, Path]:
    """Compares finished runs: writes an HTML page, and Markdown, CSV and JSON of its table beside it.

    Single-task runs, one for each task of a multi-task run, become one arm: what it takes to predict all
    tasks without sharing. Relative gain and cost ratios refer to it.

    Args:
        folders: Runs' folders, or folders that hold them.
        out: The HTML file; None for ``report.html`` in the folder that holds the runs.
        title: The page's heading.
        command: The command that made the runs, if one did.
        images: How many images of the test split are shown.

    Returns:
        The comparison and the page.

    Raises:
        ConfigurationError: If there is no run, one is not finished, or they were scored on different data, by
            different protocols or by different rules.
    """
    runs = [load_run(folder) for folder in find_runs(folders)]
    check_one_split(runs)
    groups, notes = arms_of(runs)
    models = {run.path: run.model() for run in runs}
    dataset = whole_dataset(runs, runs[0].recipe.data.test_split)
    size = seen_size(runs[0], dataset)
    places = spread(len(dataset), images)
    networks = {group.name: [models[run.path] for run in group.runs] for group in groups}
    with threads(idle_threads(min(usable_cores(), torch.get_num_threads()))):
        costs = measure_costs(runs, models, size)
        comparison = compare(groups, costs, constant_column(runs), [*notes, *general_notes(runs, size)])
        pictures = list(rows(dataset, places, networks, evaluation=runs[0].recipe.evaluation))
    out = out or Path(os.path.commonpath([run.path.resolve().parent for run in runs])) / "report.html"
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigurationError(
            f"the report is an HTML page: give --out a name that ends in .html, got {out}"
        )
    page = render(comparison, groups, pictures, title=title, command=command, out=out)
    write(out, page)
    write(out.with_suffix(".md"), markdown(comparison, runs))
    write(out.with_suffix(".csv"), comparison.csv())
    write(out.with_suffix(".json"), comparison.to_json())
    return comparison, out


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The run folders among and below the given ones, each once.

    Raises:
        ConfigurationError: If a folder holds no run.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        inside = sorted(path.parent for path in Path(folder).rglob("recipe.yaml"))
        if not inside:
            raise ConfigurationError(
                f"{folder} holds no run: name folders that `plait train` or `plait study run` wrote"
            )
        found.update({path.resolve(): path for path in inside})
    return list(found.values())


def check_one_split(runs: Sequence[Run]) -> None:
    """Refuses runs that are not finished, or whose scores are of different images or measures."""
    for run in runs:
        if not run.finished:
            raise ConfigurationError(
                f"{run.path} is not finished: "
                f"`plait train {run.path / 'recipe.yaml'} --out {run.path}` goes on with it"
            )
    first = runs[0]
    for run in runs[1:]:
        for key in ("name", "root", "options", "test_split"):
            ours, theirs = getattr(run.recipe.data, key), getattr(first.recipe.data, key)
            require_same(run, first, f"data.{key}", ours, theirs)
        ours, theirs = (r.recipe.evaluation.protocol for r in (run, first))
        require_same(run, first, "evaluation.protocol", ours, theirs)
    having: dict[str, Run] = {}
    for run in runs:
        for task in run.recipe.tasks:
            other = having.setdefault(task, run)
            mine, others = options_of(run, task), options_of(other, task)
            for key in dict.fromkeys([*mine, *others]):
                if key not in LEARNING:
                    require_same(run, other, f"tasks.{task}.{key}", mine.get(key), others.get(key))
    scored: dict[str, Run] = {}
    for run in runs:
        for task in run.scores:
            other = scored.setdefault(task, run)
            require_same(run, other, f"measures of {task}", reported_by(run, task), reported_by(other, task))


def reported_by(run: Run, task: str) -> list[str]:
    """The measures of a task in a run's scores, with their protocols."""
    return [f"{measure.title}, {measure.protocol}" for measure in run.scores.measures[task]]


def require_same(run: Run, other: Run, key: str, ours: object, theirs: object) -> None:
    """Refuses two runs if what they have under a key differs."""
    if ours != theirs:
        raise ConfigurationError(
            f"{run.path} and {other.path} cannot be in one table: their {key} are {ours!r} and {theirs!r}"
        )


def options_of(run: Run, task: str) -> dict[str, Any]:
    """What a run's recipe says of a task, with its kind's defaults."""
    given = run.recipe.tasks[task]
    parameters = inspect.signature(resolve("task kind", given["kind"])).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {"kind": given["kind"], **defaults, **given}


def arms_of(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
    """The runs as arms, single-task runs together, and what must be said about it."""
    several = [run for run in runs if len(reported(run)) > 1]
    single = [run for run in runs if len(reported(run)) == 1]
    names = arm_names(runs)
    apart = [Group(names[run.path], (run,)) for run in runs]
    if not several or not single:
        return apart, []
    tasks = {name: None for run in several for name in reported(run)}
    by_task = {name: [run for run in single if reported(run) == [name]] for name in tasks}
    if any(len(found) != 1 for found in by_task.values()):
        counts = join([f"{len(found)} for {name}" for name, found in by_task.items()])
        return apart, [
            f"No relative gain: it needs one single-task run for each task, and there are {counts}."
        ]
    reference = tuple(found[0] for found in by_task.values())
    if any(differences(twin, reference[0]) for twin in reference):
        return apart, [
            "No relative gain: the single-task runs differ from each other in more than their task."
        ]
    groups, notes = [Group(SINGLE_TASK, reference)], []
    for run in several:
        differing = list(dict.fromkeys(key for twin in reference for key in differences(run, twin)))
        groups.append(Group(names[run.path], (run,), comparable=not differing))
        if differing:
            notes.append(
                f"No relative gain for {names[run.path]}: beside its way of sharing it differs from the "
                f"single-task networks in {join(differing)}."
            )
    return groups, notes


def reported(run: Run) -> list[str]:
    """Names of the tasks that a run reports scores of."""
    return [task.name for task in run.tasks if not task.auxiliary]


def arm_names(runs: Sequence[Run]) -> dict[Path, str]:
    """The folders' names, with the parent's where two are the same."""
    last = [run.path.resolve().name for run in runs]
    return {
        run.path: name if last.count(name) == 1 else f"{run.path.resolve().parent.name}/{name}"
        for run, name in zip(runs, last, strict=True)
    }


def differences(run: Run, other: Run) -> list[str]:
    """Dotted keys in which two recipes differ, the ways of sharing and tasks that only one has aside."""
    common = [task for task in run.recipe.tasks if task in other.recipe.tasks]
    ours, theirs = settings(run, common), settings(other, common)
    return [key for key in dict.fromkeys([*ours, *theirs]) if ours.get(key) != theirs.get(key)]


def settings(run: Run, tasks: Sequence[str]) -> dict[str, Any]:
    """What a recipe says beside its way of sharing, by dotted key, of its tasks only the given ones."""
    recipe = config.plain(run.recipe)
    del recipe["tasks"]
    found = {key: value for key, value in leaves(recipe) if not key.startswith(SHARING)}
    for task in tasks:
        options = options_of(run, task)
        found.update({f"tasks.{task}.{key}": options[key] for key in options if key != "weight"})
    return found


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values with dotted names."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def whole_dataset(runs: Sequence[Run], split: str) -> DataSet:
    """A split with the labels of all runs' tasks."""
    recipe = runs[0].recipe
    tasks = {name: options for run in runs for name, options in run.recipe.tasks.items()}
    every = config.replace(recipe, {"tasks": tasks})
    return Run(runs[0].path, every).dataset(split)


def constant_column(runs: Sequence[Run]) -> Mapping[str, Mapping[str, float]]:
    """Scores of the best constant prediction for all tasks of the runs."""
    tasks: dict[str, Task] = {task.name: task for run in runs for task in run.tasks if not task.auxiliary}
    data = runs[0].recipe.data
    train, test = (whole_dataset(runs, split) for split in (data.train_split, data.test_split))
    return constant_scores(train, test, tuple(tasks.values()), protocol=runs[0].recipe.evaluation.protocol)


def measure_costs(
    runs: Sequence[Run], models: Mapping[Path, MultiTaskNetwork], size: tuple[int, int]
) -> dict[Path, Cost]:
    """What each run's network costs, on one thread, the networks taking turns."""
    recipe = runs[0].recipe
    crop = recipe.augmentation.get("size") or size
    found = measure(
        {str(path): model for path, model in models.items()},
        size,
        step_batch=recipe.training.batch_size,
        step_size=(int(crop[0]), int(crop[1])),
    )
    return {Path(name): cost for name, cost in found.items()}


def compare(
    groups: Sequence[Group],
    costs: Mapping[Path, Cost],
    constant: Mapping[str, Mapping[str, float]] | None,
    notes: Sequence[str],
) -> Comparison:
    """The comparison of arms."""
    scores = {run.path: run.scores for group in groups for run in group.runs}
    tasks = {name: tuple(measures) for found in scores.values() for name, measures in found.measures.items()}
    made = [
        Arm(
            name=group.name,
            scores={task: numbers for run in group.runs for task, numbers in scores[run.path].items()},
            networks=len(group.runs),
            cost=together([costs[run.path] for run in group.runs]) if costs else None,
            train_seconds=sum(run.train_seconds for run in group.runs),
            train_cpu_seconds=sum(run.train_cpu_seconds for run in group.runs),
            comparable=group.comparable,
        )
        for group in groups
    ]
    reference = SINGLE_TASK if any(len(group.runs) > 1 for group in groups) else None
    return Comparison(
        tasks=tasks, arms=tuple(made), constant=constant, reference=reference, notes=tuple(notes)
    )


def seen_size(run: Run, dataset: DataSet) -> tuple[int, int]:
    """Height and width at which the network sees an image in evaluation."""
    height, width = run.recipe.evaluation.size or dataset[0].image.shape[-2:]
    return int(height), int(width)


def general_notes(runs: Sequence[Run], size: tuple[int, int]) -> list[str]:
    """What a reader must know with the numbers."""
    recipe = runs[0].recipe
    seeds = sorted({run.recipe.training.seed for run in runs})
    scores = runs[0].scores
    split = f"Scores are of {scores.images} held-out images ({recipe.data.name}, split {scores.split})"
    notes = []
    if len(seeds) == 1:
        notes.append(
            f"One seed ({seeds[0]}): how much these numbers change from seed to seed was not measured, so no "
            f"difference here is shown to be more than chance."
        )
    else:
        notes.append(f"Seeds {join([str(seed) for seed in seeds])}, one run each: they are not averaged.")
    notes.append(
        f"{split}, pooled over the split at label size; the last weights were scored, none selected."
    )
    if any(run.recipe.training.keep == "best" for run in runs):
        best = [
            name
            for name, run in zip(arm_names(runs).values(), runs, strict=True)
            if run.recipe.training.keep == "best"
        ]
        notes[-1] = (
            f"{split}, pooled over the split at label size; of {join(best)} the weights that were best on "
            f"{recipe.data.validation_split} were scored, of the others the last."
        )
    protocol = PROTOCOLS[recipe.evaluation.protocol]
    notes.append(f"Scored by the protocol {protocol.name} ({protocol.whose}); each measure names its own.")
    notes.append(
        f"The constant predicts the same at every pixel: the best value on the training images. Costs are "
        f"of one image of {size[0]}x{size[1]}, or of a training step of {recipe.training.batch_size} images, "
        f"on one thread; an arm's networks add up, and its memory is the most needed at a time."
    )
    return notes


def render(
    comparison: Comparison,
    groups: Sequence[Group],
    pictures: Sequence[Row],
    *,
    title: str,
    command: str | None,
    out: Path,
) -> str:
    """The page."""
    runs = [run for group in groups for run in group.runs]
    styles = {group.name: place for place, group in enumerate(groups)}
    tasks = {task.name: task for run in runs for task in run.tasks}
    backbones = join(sorted({run.recipe.model.backbone for run in runs}))
    said = comparison.sentences()
    return pages.render(
        "report.html.j2",
        title=title,
        subtitle=f"{backbones} on {runs[0].recipe.data.name}: {join(list(comparison.tasks))}",
        sentences=said
        or ["These runs have no single-task networks to be held against: the table only lists them."],
        notes=comparison.notes,
        caption=table_caption(comparison),
        heads=comparison.columns,
        sections=[
            {"title": name, "is_task": name in comparison.tasks, "lines": list(lines)}
            for name, lines in groupby(comparison.lines(), key=lambda line: line.section)
        ],
        curves=curves(groups, styles),
        curves_note=(
            "Training loss of each task by step, smoothed over one twenty-fifth of the run. It is the loss "
            "on augmented training images: it shows how the networks learn, not how they do on new images. "
            "First steps far above all others are drawn at the upper edge."
        ),
        arms=list(styles),
        columns=1 + 2 * min(2, len(groups)),
        rooms=[shown_row(row, tasks) for row in pictures],
        rooms_note=(
            f"{len(pictures)} images spread evenly over the held-out split, chosen by position, not by "
            f"result. Beside each prediction is its error, with the headline measure on that image alone "
            f"(protocol {comparison.protocol})."
        ),
        legends=[legend(task) for task in tasks.values()],
        facts=facts(runs, comparison, command),
        recipes=[
            {"name": names, "text": config.dump(run.recipe)}
            for run, names in zip(runs, arm_names(runs).values(), strict=True)
        ],
        again=shlex.join(
            ["plait", "report", *(os.path.relpath(run.path, out.parent) for run in runs), "--out", out.name]
        ),
    )


def markdown(comparison: Comparison, runs: Sequence[Run]) -> str:
    """The table and its notes in GitHub's Markdown, and what the networks started from."""
    started = licences.told(run.recipe.model for run in runs)
    return f"{comparison.markdown()}\nBackbone and weights: {started}.\n"


def table_caption(comparison: Comparison) -> str:
    """How to read the table."""
    read = (
        "Every measure on held-out images, with the protocol whose rules it follows; ↑ higher is better, "
        "↓ lower. Bold: each task's headline measure"
    )
    if comparison.reference is None:
        return f"{read}."
    entering = "which enters the relative gain"
    if comparison.variant == "libmtl":
        entering = "all measures of a task enter the relative gain"
    return (
        f"{read}, {entering} (variant {comparison.variant}); a positive gain is better. A ratio (×) is "
        f"to the {comparison.arm(comparison.reference).title} together."
    )


def curves(groups: Sequence[Group], styles: Mapping[str, int]) -> list[dict[str, str | Markup]]:
    """A chart a task."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for group in groups:
        for run in group.runs:
            for line in run.log:
                for task, value in line.get("loss", {}).items():
                    value = float("nan") if value is None else float(value)
                    found.setdefault(task, {}).setdefault(group.name, []).append((line["step"], value))
    return [
        {
            "title": task,
            "svg": Markup(  # its texts are escaped where it is drawn
                learning_curves(
                    by_arm, title=f"Training loss of {task} by step", quantity="training loss", styles=styles
                )
            ),
        }
        for task, by_arm in found.items()
    ]


def shown_row(row: Row, tasks: Mapping[str, Task]) -> dict[str, Any]:
    """One image as the template takes it."""
    return {
        "id": row.id,
        "image": data_uri(row.image, photo=True),
        "height": row.image.shape[0],
        "width": row.image.shape[1],
        "tasks": [
            {"name": name, "pictures": list(shown_pictures(row, name))}
            for name in tasks
            if name in row.predictions
        ],
    }


def shown_pictures(row: Row, task: str) -> Iterator[dict[str, Any]]:
    """Target, then prediction and error of each arm."""
    if task in row.targets:
        yield picture(row.targets[task], "target", f"The labelled {task} of {row.id}")
    for arm, found in row.predictions[task].items():
        yield picture(found.picture, arm, f"{task} of {row.id} as predicted by {arm}")
        if found.error is not None:
            yield picture(
                found.error, error_caption(found), f"Error of {arm} on {task} of {row.id}: {found.score}"
            )


def error_caption(found: Prediction) -> str:
    """What stands below an error map."""
    return f"its error: {found.score}" if found.score else "its error"


def picture(pixels: np.ndarray[Any, np.dtype[np.uint8]], caption: str, alt: str) -> dict[str, Any]:
    """A picture as the template takes it."""
    height, width = pixels.shape[:2]
    return {"image": data_uri(pixels), "caption": caption, "alt": alt, "width": width, "height": height}


def legend(task: Task) -> dict[str, Any]:
    """How to read a task's pictures and its errors."""
    parts = (("prediction", task.legend), ("error", task.error_legend))
    return {"title": task.name, "parts": [legend_part(task.name, what, found) for what, found in parts]}


def legend_part(task: str, what: str, found: Legend) -> dict[str, Any]:
    """One legend as the template takes it: swatches, or a colour bar between two texts."""
    bar = None
    if found.bar is not None:
        stops = np.asarray(found.bar, dtype=np.uint8)
        bar = {
            "image": data_uri(np.repeat(stops[None], 8, axis=0)),
            "alt": f"Colours of the {task} {what}, from {found.low} to {found.high}",
            "low": found.low,
            "high": found.high,
        }
    entries = [{"text": text, "colour": tuple(int(part) for part in rgb)} for text, rgb in found.entries]
    return {"what": what, "entries": entries, "bar": bar}


def facts(runs: Sequence[Run], comparison: Comparison, command: str | None) -> list[tuple[str, str]]:
    """How the runs were made."""
    recipe, environment = runs[0].recipe, runs[0].environment
    packages = environment.get("packages", {})
    wanted = ("plait", "torch", "torchvision", "timm", "torchmetrics", "numpy")
    steps = sorted({run.recipe.training.steps for run in runs})
    wall = sum(run.train_seconds for run in runs)
    processor = sum(run.train_cpu_seconds for run in runs)
    found = [("Command", command)] if command else []
    return [
        *found,
        (
            "Data",
            f"{recipe.data.name}, learned from {recipe.data.train_split}, scored on {recipe.data.test_split}",
        ),
        ("Protocol", f"{comparison.protocol}: {PROTOCOLS[comparison.protocol].whose}"),
        ("Backbone and weights", licences.told(run.recipe.model for run in runs)),
        (
            "Training",
            f"{join([str(s) for s in steps])} steps of {recipe.training.batch_size} images each network",
        ),
        ("Seed", join([str(seed) for seed in sorted({run.recipe.training.seed for run in runs})])),
        (
            "Time",
            f"{processor:.0f} processor-seconds of training over all networks ({wall:.0f} s added up)",
        ),
        (
            "Machine",
            "{processor}, {cores} cores, {platform}".format_map(environment),
        ),
        ("Accelerator", str(environment.get("accelerator") or "none")),
        ("Python", str(environment.get("python"))),
        ("Packages", ", ".join(f"{name} {packages[name]}" for name in wanted if packages.get(name))),
    ]


def write(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
