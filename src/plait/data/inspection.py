"""Is this folder what its loader thinks it is? A report in lines, and a sheet of pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from plait import registry
from plait.data.labels import UNKNOWN_CLASS, Depth, InverseDepth, Label, Mask, Normals, Semantic
from plait.data.published import Layout, Part, first_few
from plait.data.sample import DataSet, Sample
from plait.errors import ConfigurationError, DataError, PlaitError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from plait.tasks.base import Legend, Task

SPLITS = ("train", "val", "test")
KIND_BY_TYPE: Mapping[type[Label], str] = {
    Depth: "depth",
    InverseDepth: "inverse_depth",
    Normals: "normals",
    Mask: "saliency",
}
"""The task that draws a label whose name is no kind of task."""


@dataclass
class Report:
    """What was found in a data set.

    Attributes:
        lines: For a person to read.
        problems: What is wrong, a sentence each; empty if the set can be used.
    """

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def problem(self, sentence: str) -> None:
        """Notes that something is wrong."""
        self.problems.append(sentence)
        self.lines.append(f"PROBLEM: {sentence}")


def check(
    name: str,
    root: Path | str | None = None,
    *,
    samples: int = 16,
    options: Mapping[str, Any] | None = None,
) -> Report:
    """Opens every split, verifies its files, and reads samples spread over it.

    Args:
        name: Of the data set, for instance ``"rooms"``.
        root: Its folder; the data set's own default if None.
        samples: How many samples a split are read; counts and checksums are of all.
        options: Further options of the data set.

    Returns:
        What is there and what is missing: for a published archive its variant, the counts beside the
        published ones and the files that are not there; for every set the value ranges of each label and
        the share of its pixels that is known.

    Raises:
        ConfigurationError: If there is no data set of this name, or an option is wrong.
    """
    kind: Any = registry.resolve("data set", name)
    options = dict(options or {})
    registry.check_options("data set", name, options)
    report = Report()
    try:
        root, options, proposed = _declared(kind, root, options)
        report.lines += proposed
        fields = fields_at(name, root, options)
    except DataError as error:
        report.problem(str(error))
        return report
    begin = len(report.lines)
    if hasattr(kind, "open_layout"):
        _check_archive(report, kind.open_layout(root, options.get("variant", "auto"), options))
    sets, errors = open_splits(name, tuple(fields), root, {**_as_it_lies(name), **options})
    for split, why in errors.items():
        report.problem(f"{split}: {why}")
    if sets:
        facts = getattr(next(iter(sets.values())), "facts", {})
        report.lines[begin:begin] = [f"{what}: {answer}" for what, answer in facts.items()]
    seen: dict[str, str] = {}
    for dataset in sets.values():
        _check_ids(report, dataset, seen)
        _check_samples(report, dataset, samples)
    return report


def open_splits(
    name: str,
    labels: Sequence[str],
    root: Path | str | None,
    options: Mapping[str, Any] | None = None,
) -> tuple[dict[str, DataSet], dict[str, PlaitError]]:
    """The splits that share no sample, by name, and why others could not be opened.

    What the class says of its splits may be less, or more, than what lies at ``root``: the first set that
    could be opened tells which there are.
    """
    kind: Any = registry.resolve("data set", name)
    sets: dict[str, DataSet] = {}
    errors: dict[str, PlaitError] = {}
    waiting = list(getattr(kind, "splits", SPLITS))
    while waiting:
        split = waiting.pop(0)
        try:
            sets[split] = opened(name, split, labels, root, options)
        except (DataError, ConfigurationError) as error:
            errors[split] = error
            continue
        if len(sets) == 1:
            there = getattr(sets[split], "splits", [*errors, split, *waiting])
            errors = {tried: why for tried, why in errors.items() if tried in there}
            waiting = [other for other in there if other not in (split, *errors)]
    return sets, errors


def _declared(
    kind: Any, root: Path | str | None, options: Mapping[str, Any]
) -> tuple[Path | str | None, dict[str, Any], list[str]]:
    """Root and options; of somebody's own data of which nothing is declared, what it looks like, in lines."""
    proposal = kind.proposal(root, **options) if hasattr(kind, "proposal") else None
    if proposal is None:
        return root, dict(options), []
    lines = [*proposal.lines, "", *proposal.yaml.splitlines(), ""]
    base = root if root is None or Path(root).is_dir() else Path(root).parent
    return base, {**proposal.options, **options}, lines


def fields_at(
    name: str, root: Path | str | None, options: Mapping[str, Any] | None = None
) -> Mapping[str, type[Label]]:
    """The label fields of a data set, as its files at ``root`` have them.

    Raises:
        ConfigurationError: If there is no such data set.
        DataError: If the files are not there, or not those of the data set.
    """
    kind: Any = registry.resolve("data set", name)
    found: Mapping[str, type[Label]]
    if hasattr(kind, "fields_at"):
        found = kind.fields_at(root, **(options or {}))
    else:
        found = getattr(kind, "fields", {})
    return found


def opened(
    name: str,
    split: str,
    labels: Sequence[str],
    root: Path | str | None,
    options: Mapping[str, Any] | None = None,
) -> DataSet:
    """A data set by its name, its own default root if that is None."""
    given = dict(options or {}) if root is None else {"root": root, **(options or {})}
    made: DataSet = registry.build("data set", name, given, split=split, labels=labels)
    return made


def _as_it_lies(name: str) -> dict[str, Any]:
    """Options by which a data set reads the files themselves, and goes on where some are missing."""
    options = {}
    for option, value in (("cache", "none"), ("missing", "allow")):
        try:
            registry.check_options("data set", name, {option: value})
            options[option] = value
        except ConfigurationError:
            pass
    return options


def _check_archive(report: Report, layout: Layout) -> None:
    """Counts beside the published ones, and the files that are missing, field by field."""
    parts: tuple[Part, ...] = ("train", "test")
    for part in parts:
        try:
            ids = layout.ids(part)
        except DataError as error:
            report.problem(f"{part} part: {error}")
            continue
        expected = layout.counts.get(part)
        if expected is not None and len(ids) != expected:
            report.problem(
                f"{part} part: the published archive has {expected} images, this one lists {len(ids)}: it is "
                f"incomplete, or of another variant"
            )
        for label in ("image", *layout.fields):
            absent = [name for name in ids if layout.path(label, name) is None]
            report.lines.append(f"  {part} {label}: {len(ids) - len(absent)} of {len(ids)} files are there")
            if absent:
                report.problem(
                    f"{part} part: {len(absent)} of {len(ids)} images have no {label} file "
                    f"({first_few(absent)}): complete the folder"
                )


def _check_ids(report: Report, dataset: DataSet, seen: dict[str, str]) -> None:
    for place in range(len(dataset)):
        sample = dataset.id(place)
        if sample in seen:
            report.problem(f"{dataset.split}: sample {sample} is already in {seen[sample]}")
        seen[sample] = dataset.split
    if len(dataset) == 0:
        report.problem(f"{dataset.split}: holds no samples")


def _check_samples(report: Report, dataset: DataSet, samples: int) -> None:
    places = np.unique(np.linspace(0, max(len(dataset) - 1, 0), min(samples, len(dataset))).astype(int))
    values: dict[str, list[Tensor]] = {}
    read = 0
    for place in places:
        try:
            sample = dataset[int(place)]
        except DataError as error:
            report.problem(str(error))
            continue
        read += 1
        for label, target in sample.targets.items():
            values.setdefault(label, []).append(target.as_subclass(Tensor))
    report.lines.append(f"{dataset.split}: {len(dataset)} samples, {read} of them read")
    for label, maps in values.items():
        label_type = dataset.fields[label]
        report.lines.append(f"  {label}: {len(maps)} of {read} have it, {_described(label_type, maps)}")
        wrong = _fault(label_type, maps, dataset.classes.get(label))
        if wrong:
            report.problem(f"{dataset.split}: {label}: {wrong}")


def _described(label_type: type[Label], maps: Sequence[Tensor]) -> str:
    masks = [label_type.known(target) for target in maps]
    share = sum(int(mask.sum()) for mask in masks) / max(1, sum(mask.numel() for mask in masks))
    known = torch.cat(
        [target.movedim(-3, -1)[mask.squeeze(-3)] for target, mask in zip(maps, masks, strict=True)]
    )
    if not len(known):
        return "nothing known"
    if issubclass(label_type, Semantic):
        ids = np.unique(known.numpy())
        text = f"{len(ids)} ids from {int(ids[0])} to {int(ids[-1])}"
    elif issubclass(label_type, Depth):
        text = f"{known.min():.2f} m to {known.max():.2f} m, median {known.median():.2f} m"
    elif issubclass(label_type, Normals):
        lengths = known.norm(dim=-1)
        text = f"lengths {lengths.min():.3f} to {lengths.max():.3f}"
        facing = float((known[:, 2] < 0).float().mean())
        text += f", {100 * facing:.0f} % face the camera (z < 0)"
        if facing < 0.5:
            text += ", so z seems to point the other way: see the set's option for the axes of normals"
    else:
        text = f"{known.min():.2f} to {known.max():.2f}, mean {known.mean():.3f}"
    return f"{text}; {100 * share:.1f} % of the pixels known"


def _fault(label_type: type[Label], maps: Sequence[Tensor], classes: Sequence[str] | None) -> str:
    for target in maps:
        known = target.movedim(-3, -1)[label_type.known(target).squeeze(-3)]
        if target.is_floating_point() and target.isinf().any():
            return "infinite values found; mark unknown pixels as the format says"
        if not len(known):
            continue
        if issubclass(label_type, Semantic):
            if classes is not None and not 0 <= int(known.min()) <= int(known.max()) < len(classes):
                return f"class ids up to {int(known.max())} found for {len(classes)} classes"
        elif issubclass(label_type, Depth):
            if known.min() <= 0:
                return f"depth {known.min():g} m found; it must be positive"
        elif issubclass(label_type, Normals):
            if (known.norm(dim=-1) - 1).abs().max() > 0.01:
                return "vectors found that are not of length 1"
        elif issubclass(label_type, InverseDepth):
            if known.min() < 0:
                return f"inverse depth {known.min():g} found; it must not be negative"
        elif known.min() < 0 or known.max() > 1:
            return f"values from {known.min():g} to {known.max():g} found, expected [0, 1]"
    return ""


def show(
    name: str,
    root: Path | str | None = None,
    *,
    split: str = "train",
    samples: int = 6,
    out: Path | str = "samples.png",
    tasks: Sequence[Task] = (),
    options: Mapping[str, Any] | None = None,
) -> Path:
    """Draws samples spread over a split, a row each, the image and every label; below, how to read each.

    Args:
        name: Of the data set.
        root: Its folder; the data set's own default if None.
        split: Which split.
        samples: How many rows, at least 1.
        out: The picture to write; its ending names the format, as in ``samples.png``.
        tasks: Whose labels to draw, in their order; by default one a label that the set has (ids without
            class names beside named ones, such as instances, are left out), the colours of depth reaching to
            the 99th percentile of the drawn samples.
        options: Further options of the data set.

    Returns:
        ``out``.

    Raises:
        ConfigurationError: If there is no such data set or split, no sample is asked for, or ``out`` has an
            ending that no format of pictures has.
        DataError: If the data cannot be read.
    """
    if samples < 1:
        raise ConfigurationError(f"expected at least 1 sample to draw, got {samples}: ask for more")
    _check_format(Path(out))
    options = dict(options or {})
    kind: Any = registry.resolve("data set", name)
    registry.check_options("data set", name, options)
    root, options, _ = _declared(kind, root, options)
    labels = tuple(task.label for task in tasks) or tuple(fields_at(name, root, options))
    dataset = opened(name, split, labels, root, {**_as_it_lies(name), **options})
    places = np.unique(np.linspace(0, max(len(dataset) - 1, 0), min(samples, len(dataset))).astype(int))
    shown = [dataset[int(place)] for place in places]
    figure = _sheet(shown, tuple(tasks) or default_tasks(dataset, shown))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)
    return Path(out)


def _check_format(out: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = FigureCanvasAgg.get_supported_filetypes()
    if out.suffix[1:].lower() not in known:
        raise ConfigurationError(
            f"expected the name of a picture such as samples.png, got {out}: "
            f"let it end in one of {', '.join(sorted(known))}"
        )


def default_tasks(dataset: DataSet, samples: Sequence[Sample] = ()) -> tuple[Task, ...]:
    """One task a label of a data set, named after it, for pictures.

    Ids without class names have none, unless the data set names no classes at all: then those of the samples
    are numbered. With samples, the colours of depth reach to their 99th percentile.
    """
    from plait.tasks import parse

    return parse(default_declaration(dataset, samples))


def default_declaration(dataset: DataSet, samples: Sequence[Sample] = ()) -> dict[str, dict[str, Any]]:
    """The declaration of :func:`default_tasks`, as the ``tasks`` of a recipe."""
    declaration: dict[str, dict[str, Any]] = {}
    for label, label_type in dataset.fields.items():
        if issubclass(label_type, Semantic):
            if label in dataset.classes:
                declaration[label] = {"kind": "semantic", "classes": list(dataset.classes[label])}
            elif not dataset.classes and (count := _classes(samples, label)):
                declaration[label] = {"kind": "semantic", "classes": count}
        elif label in registry.TASKS:
            declaration[label] = {"kind": label}
        else:
            declaration[label] = {"kind": KIND_BY_TYPE.get(label_type, "saliency")}
        if label in declaration:
            declaration[label]["label"] = label
            far = _far([sample.targets[label] for sample in samples if label in sample.targets])
            if declaration[label]["kind"] == "depth" and far > 0:
                declaration[label]["far"] = far
    return declaration


def _classes(samples: Sequence[Sample], label: str) -> int:
    """How many classes there are by the ids of samples, from 2 to 255; 0 if no id is known."""
    maps = [sample.targets[label].as_subclass(Tensor) for sample in samples if label in sample.targets]
    known = [ids[ids != UNKNOWN_CLASS] for ids in maps]
    highest = max((int(ids.max()) for ids in known if len(ids)), default=-1)
    return 0 if highest < 0 else min(max(highest + 1, 2), UNKNOWN_CLASS)


def _far(depths: Sequence[Tensor]) -> float:
    """The 99th percentile of known depths, to two digits; 0 if none is known."""
    known = np.concatenate([np.zeros(0), *(depth[depth.isfinite()].numpy() for depth in depths)])
    return float(f"{np.quantile(known, 0.99):.2g}") if len(known) else 0.0


def _sheet(samples: Sequence[Sample], tasks: Sequence[Task]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns, rows = 1 + len(tasks), max(1, len(samples))
    height, width = samples[0].image.shape[-2:] if samples else (3, 4)
    entries = max((len(task.legend.entries) for task in tasks), default=0)
    heights = [2.2 * height / width + 0.1] * rows + [0.4 + 0.13 * math.ceil(entries / 2)]
    figure = Figure(figsize=(2.2 * columns, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows + 1, columns, squeeze=False, height_ratios=heights)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, task in zip(axes[-1, 1:], tasks, strict=True):
        _draw_legend(axis, task.legend)
    for row, sample in zip(axes[:-1], samples, strict=False):
        row[0].imshow(sample.image.permute(1, 2, 0).numpy())
        row[0].set_title(sample.id, fontsize=7)
        for axis, task in zip(row[1:], tasks, strict=True):
            if task.label in sample.targets:
                axis.imshow(
                    task.picture(sample.targets[task.label].as_subclass(Tensor)), interpolation="nearest"
                )
                axis.set_title(task.name, fontsize=7)
            else:
                axis.set_title(f"no {task.name}", fontsize=7)
    return figure


def _draw_legend(axis: Axes, legend: Legend) -> None:
    """Swatches with their texts in two columns, or a bar between its two ends."""
    from matplotlib.patches import Patch

    if legend.entries:
        swatches = [
            Patch(color=(r / 255, g / 255, b / 255), label=text) for text, (r, g, b) in legend.entries
        ]
        axis.legend(
            handles=swatches, ncols=2, loc="upper center", frameon=False, fontsize=6, borderaxespad=0,
            handlelength=1, columnspacing=1, labelspacing=0.3,
        )  # fmt: skip
    if legend.bar is not None:
        bar = axis.inset_axes((0.2, 0.85, 0.6, 0.1))
        bar.imshow(np.asarray(legend.bar)[None], aspect="auto")
        bar.set_axis_off()
        axis.text(0.17, 0.9, legend.low, ha="right", va="center", fontsize=6)
        axis.text(0.83, 0.9, legend.high, ha="left", va="center", fontsize=6)
