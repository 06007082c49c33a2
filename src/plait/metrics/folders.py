"""Scoring maps on disk: predictions of any software beside targets, by the rules of a protocol.

::

    PREDICTIONS/TASK/ID.EXT     or PREDICTIONS/ID.EXT where there is one task
    TARGETS/TASK/ID.EXT         likewise; an ID may hold folders, as in city/frame
    TARGETS/TASK/ANNOTATOR/ID.EXT   for a task with several annotators (edges), one folder each, if no
                                prediction is called ANNOTATOR/ID; or one array [A, H, W] in an .npy,
                                .npz or .mat file

Files are PNG, TIFF, ``.npy``, ``.npz`` or ``.mat`` (or JPEG and WebP, which change numbers). What their
numbers mean, unless an encoding says otherwise:

- class ids; 255 is unknown in a target, and no class in a prediction
- depth in metres, 0 or NaN unknown; a picture of depth needs a declared scale
- inverse depth in the data's unit, NaN unknown
- normals as floating-point vectors in our axes, or as 8-bit RGB, ``(n + 1) 255 / 2``
- edges and saliency as 8-bit fractions of 255, or as fractions; positive from one half

A prediction in 8 bits is scored as it is: no protocol quantises it again, unless it had to be resized.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from plait.errors import ConfigurationError, DataError
from plait.metrics.counts import as_probability
from plait.metrics.normals import from_eight_bit
from plait.registry import check_arguments, nearest
from plait.training.scores import Scores

if TYPE_CHECKING:
    from torchmetrics import Metric

    from plait.data.encodings import Array, Encoding
    from plait.tasks.base import Task

Missing = Literal["refuse", "skip"]
Encodings = Mapping[str, Mapping[str, Any]]
T = TypeVar("T")
TOLERANCE = 1e-3
"""By how much a probability may leave [0, 1], as rounding makes it."""


def score_folders(
    predictions: Path | str,
    targets: Path | str,
    tasks: Sequence[Task],
    *,
    protocol: str = "plain",
    measuring: Mapping[str, Any] | None = None,
    prediction_encodings: Encodings | None = None,
    target_encodings: Encodings | None = None,
    missing: Missing = "refuse",
    resize: bool = False,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Scores:
    """Scores maps on disk, as an evaluation of a network with the same predictions would.

    Args:
        predictions: Their folder; see :mod:`plait.metrics.folders`. Predictions without a target are left
            alone.
        targets: The folder of the labels.
        tasks: What is scored, as :func:`plait.tasks.parse` makes them; auxiliary ones are not.
        protocol: By whose rules, of :data:`plait.metrics.PROTOCOLS`.
        measuring: What measures must know of the data, for instance ``{"max_distance": 0.011}``; what no
            task would take by any protocol is refused.
        prediction_encodings: ``{task: {option: value}}`` where predictions are not stored as above; the
            options are those of :class:`plait.data.encodings.Encoding`, such as ``scale`` or ``axes``.
        target_encodings: The same of the targets, for instance ``{"depth": {"scale": 0.001}}``.
        missing: A target without a prediction is refused, or left out of all measures with ``"skip"``. One
            on which nothing counts needs none.
        resize: Bring a prediction of another size to its target's, class ids by their nearest neighbour,
            everything else bilinearly; without it, another size is refused.
        workers: Threads; None for as many as there are cores, at most 8. It changes no number.
        progress: Told of maps done and in all.

    Returns:
        The measures of each task; ``images`` is the number of targets that were scored for some task.

    Raises:
        ConfigurationError: If a protocol or an option does not exist, or nothing is to be scored.
        DataError: If a folder or a prediction is missing, or a file is not what its task expects; names it.
    """
    if missing not in get_args(Missing):
        raise ConfigurationError(f"missing is 'refuse' or 'skip', got {missing!r}")
    if workers is not None and workers < 1:
        raise ConfigurationError(f"workers must be 1 or more, got {workers}")
    scored = [task.scored(protocol, measuring) for task in tasks if not task.auxiliary]
    if not scored:
        raise ConfigurationError("expected at least one task that is not auxiliary to score, got none")
    _check_measuring(tasks, measuring or {})
    ours = _side(Path(predictions), scored, prediction_encodings, "predictions")
    theirs = _side(Path(targets), scored, target_encodings, "targets", beside=ours)
    pairs = [pair for task in scored for pair in _pairs(task, ours[task.name], theirs[task.name], missing)]
    metrics: dict[str, Metric] = {}
    images = set()
    work = (lambda pair=pair: pair.scored(resize) for pair in pairs)
    for done, (pair, metric) in enumerate(zip(pairs, _in_order(work, workers), strict=True), start=1):
        images.add(pair.id)
        if pair.task.name in metrics:
            metrics[pair.task.name].merge_state(metric)  # in the order of ids: sums never depend on threads
        else:
            metrics[pair.task.name] = metric
        if progress is not None:
            progress(done, len(pairs))
    values = {name: {m: float(v) for m, v in metric.compute().items()} for name, metric in metrics.items()}
    return Scores.of(scored, values, images=len(images))


SCORING = {
    "tasks": "tasks",
    "predictions": "prediction_encodings",
    "targets": "target_encodings",
    "measuring": "measuring",
    "missing": "missing",
}
"""Keys of a file that says how maps are scored, and the arguments of :func:`score_folders` they become."""


def read_scoring(file: Path | str | None = None, words: Sequence[str] = ()) -> dict[str, Any]:
    """Arguments of :func:`score_folders` as a YAML file and a command line give them.

    ::

        tasks: {semseg: {kind: semantic, classes: 21}, depth: {kind: depth}}    # as in a recipe
        targets: {depth: {scale: 0.001}}        # and predictions: encodings
        measuring: {max_distance: 0.011}
        missing: skip

    Args:
        file: The file, if there is one.
        words: Further tasks: ``name=kind``, or ``name={kind: semantic, classes: 21}``.

    Raises:
        ConfigurationError: If the file cannot be read, a key or a word is not as above, or there is no task.
    """
    from plait.config import read_yaml, scalar
    from plait.tasks import parse

    tree = {} if file is None else read_yaml(Path(file))
    for key, value in tree.items():
        if key not in SCORING:
            raise ConfigurationError(
                f"{file}: unknown key {key!r}{nearest(str(key), SCORING)}; known are {', '.join(SCORING)}"
            )
        mappings = [value, *value.values()] if isinstance(value, Mapping) and key != "measuring" else [value]
        if key != "missing" and not all(isinstance(found, Mapping) for found in mappings):
            raise ConfigurationError(f"{file}: {key} must hold 'key: value' lines, got {value!r}")
    declared = dict(tree.get("tasks", {}))
    for word in words:
        name, equals, text = word.partition("=")
        if not equals:
            raise ConfigurationError(f"expected a task as NAME=KIND, for instance depth=depth, got {word!r}")
        value = scalar("task", text)
        declared[name] = value if isinstance(value, dict) else {"kind": value}
    if not declared:
        raise ConfigurationError(
            "expected at least one task to score, got none: give --task NAME=KIND, or tasks in a YAML file"
        )
    return {**{SCORING[key]: value for key, value in tree.items()}, "tasks": parse(declared)}


@dataclass(frozen=True)
class _Files:
    """The maps of one task on one side: ``{id: files}``, several where there are several annotators."""

    folder: Path
    by_id: Mapping[str, tuple[Path, ...]]
    encoding: Encoding
    declared: frozenset[str]


@dataclass(frozen=True)
class _Pair:
    """A prediction and its target."""

    id: str
    task: Task
    prediction: Path
    targets: tuple[Path, ...]
    sides: tuple[_Files, _Files]

    def scored(self, resize: bool) -> Metric:
        """A metric that has seen this pair alone."""
        target = _target(self.task, self.targets, self.sides[1])
        prediction = _prediction(self.task, self.prediction, self.sides[0])
        if prediction.shape[-2:] != target.shape[-2:]:
            if not resize:
                found, expected = (f"{m.shape[-2]}x{m.shape[-1]}" for m in (prediction, target))
                raise DataError(
                    f"{self.prediction}: expected the size of its target, {expected} (height x width), found "
                    f"{found}: write predictions at the label's size, or ask for resize"
                )
            prediction = _resized(prediction, target.shape[-2:])
        metric = self.task.metric()
        if metric.full_state_update is not False:
            raise ConfigurationError(
                f"the metric of task {self.task.name!r} cannot be computed in parts: "
                f"set full_state_update = False in {type(metric).__name__}"
            )
        metric.update(prediction[None], target[None])
        return metric


def _check_measuring(tasks: Sequence[Task], measuring: Mapping[str, Any]) -> None:
    """Refuses what no protocol's measures of the tasks would take."""
    taken = {name: None for task in tasks for scoring in task.scoring.values() for name in scoring.takes}
    for name in measuring:
        if name not in taken:
            raise ConfigurationError(
                f"measuring has {name!r}, which no task takes{nearest(str(name), taken)}; "
                f"they take {', '.join(taken) or 'nothing'}"
            )


def _side(
    folder: Path,
    tasks: Sequence[Task],
    given: Encodings | None,
    side: str,
    beside: Mapping[str, _Files] | None = None,
) -> dict[str, _Files]:
    """The files of every task in a folder of predictions or, ``beside`` those, of targets."""
    given = given or {}
    for name in given:
        if name not in (names := [task.name for task in tasks]):
            raise ConfigurationError(
                f"an encoding of {side} is given for {name!r}{nearest(name, names)}; "
                f"the tasks are {', '.join(names)}"
            )
    if not folder.is_dir():
        raise DataError(f"{folder}: expected a folder of {side}, found none there")
    found = {}
    for task in tasks:
        own = folder / task.name
        if not own.is_dir():
            if len(tasks) > 1:
                raise DataError(f"{own}: expected a folder with the {side} of task {task.name!r}, found none")
            own = folder
        options = given.get(task.name, {})
        encoding = _encoding(task, options, is_target=beside is not None)
        predicted = beside[task.name].by_id if beside is not None and task.several_targets else None
        found[task.name] = _Files(own, _listed(own, predicted), encoding, frozenset(options))
    return found


def _encoding(task: Task, given: Mapping[str, Any], *, is_target: bool) -> Encoding:
    """The encoding of a task's maps: what its labels usually have on disk, with what is given instead."""
    from plait.data.encodings import KINDS, Encoding
    from plait.data.labels import Depth

    check_arguments(f"the encoding of task {task.name!r}", Encoding, given, but=("kind",))
    kind = next((kind for kind, label_type in KINDS.items() if task.label_type is label_type), None)
    if kind is None:
        raise ConfigurationError(
            f"labels of type {task.label_type.__name__}, of task {task.name!r}, cannot be read from files; "
            f"only {', '.join(label_type.__name__ for label_type in KINDS.values())} can"
        )
    usual = {"unknown": (0.0,)} if is_target and task.label_type is Depth else {}
    options: dict[str, Any] = {"kind": kind, **usual, **given}
    return Encoding(**options)


def _listed(folder: Path, predicted: Collection[str] | None = None) -> dict[str, tuple[Path, ...]]:
    """``{id: files}`` in the order of ids.

    Beside ids that are ``predicted`` the first folders may be annotators: they are, if no id with them is.
    """
    from plait.data.encodings import SUFFIXES

    def maps(place: Path, paths: Iterable[Path]) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for path in sorted(paths):
            name = path.relative_to(place).with_suffix("").as_posix()
            if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
                continue
            if name in found:
                raise DataError(f"{path}: {found[name].name} has the same id; keep one of the two")
            found[name] = path
        return found

    every = maps(folder, folder.rglob("*"))
    if predicted is None or any("/" not in name or name in predicted for name in every):
        return {name: (path,) for name, path in sorted(every.items())}
    annotators = [maps(place, place.rglob("*")) for place in sorted(folder.iterdir()) if place.is_dir()]
    ids = sorted({name for annotator in annotators for name in annotator})
    return {name: tuple(a[name] for a in annotators if name in a) for name in ids}


def _pairs(task: Task, predictions: _Files, targets: _Files, missing: Missing) -> list[_Pair]:
    """The targets of a task with their predictions."""
    if not targets.by_id:
        raise DataError(f"{targets.folder}: expected targets of task {task.name!r}, found no map there")
    absent = [name for name in targets.by_id if name not in predictions.by_id]
    if missing == "refuse":
        # Evaluations that write files leave out images on which nothing is labelled.
        counted = (name for name in absent if _counts(task, _target(task, targets.by_id[name], targets)))
        if (first := next(counted, None)) is not None:
            raise DataError(
                f"{predictions.folder}: expected a prediction of task {task.name!r} for {first!r}, found "
                f"none; {len(absent)} of {len(targets.by_id)} targets have no prediction: add them, or score "
                f"the others alone with missing: skip"
            )
    pairs = [
        _Pair(name, task, predictions.by_id[name][0], files, (predictions, targets))
        for name, files in targets.by_id.items()
        if name in predictions.by_id
    ]
    if not pairs:
        raise DataError(
            f"{predictions.folder}: no prediction of task {task.name!r} has the name of a target in "
            f"{targets.folder}, such as {next(iter(targets.by_id))!r}"
        )
    _check_fullness(task, predictions, pairs)
    return pairs


def _check_fullness(task: Task, predictions: _Files, pairs: Sequence[_Pair]) -> None:
    """Refuses 8-bit masks of which none goes beyond 1, where 255 is full; most end this at the first file."""
    from plait.data.labels import Mask

    if not issubclass(task.label_type, Mask) or predictions.declared:
        return
    first = None
    for pair in pairs:
        stored = _numbers(task, pair.prediction, predictions)
        if stored.dtype.kind not in "iu" or (stored > 1).any():
            return
        first = first or (pair.prediction if stored.any() else None)
    if first is not None:
        raise DataError(
            f"{first}: no prediction of task {task.name!r} goes beyond 1, where 1 would mean 1/255: declare "
            f"the scale of predictions, 1 if 1 is full"
        )


def _counts(task: Task, target: Tensor) -> bool:
    """Whether anything on a target counts; the maps of several annotators are looked at one by one."""
    maps = target[:, None] if task.several_targets else target[None]
    return bool(task.loss.counts(maps).any())


def _target(task: Task, paths: Sequence[Path], side: _Files) -> Tensor:
    """A label ``[C, H, W]``, or ``[A, H, W]`` of several annotators; checked."""
    from plait.data.encodings import ARRAYS, decode
    from plait.data.labels import Mask
    from plait.tasks.check import check_label

    maps = []
    for path in paths:
        stored = _numbers(task, path, side)
        several = task.several_targets and stored.ndim == 3 and path.suffix.lower() in ARRAYS
        for one in stored if several and stored.shape[-1] != 1 else [stored]:
            if issubclass(task.label_type, Mask) and not side.declared and _counts_to_one(one):
                raise DataError(
                    f"{path}: holds whole numbers up to 1, where 1 would mean 1/255: declare the scale, 1 if "
                    f"1 is full, and 255 as unknown if it is"
                )
            label = decode(one, _meaning(side, one, is_target=True), name=str(path)).as_subclass(Tensor)
            check_label(task, label, str(path))
            maps.append(label)
    sizes = {tuple(label.shape[-2:]) for label in maps}
    if len(sizes) > 1:
        raise DataError(f"{paths[0]}: its annotators' maps differ in size: {sorted(sizes)}")
    return torch.cat(maps)


def _counts_to_one(stored: Array) -> bool:
    """Whether 1 seems to be full: there are ones, and nothing else but 0 and, as of the unknown, 255."""
    return stored.dtype.kind in "iu" and bool((stored == 1).any() and np.isin(stored, (0, 1, 255)).all())


def _prediction(task: Task, path: Path, side: _Files) -> Tensor:
    """A prediction ``[C, H, W]`` as its metric takes it: 8 bits stay 8 bits."""
    from plait.data.encodings import decode
    from plait.data.labels import Mask, Normals

    stored = _numbers(task, path, side)
    if stored.dtype == np.uint8 and not side.declared & {"scale", "offset", "unknown"}:
        if task.label_type is Mask and stored.ndim == 2:
            return torch.from_numpy(stored)[None]
        if task.label_type is Normals and stored.ndim == 3:
            return torch.from_numpy(_turned(stored, side.encoding.axes, path))
    label = decode(stored, _meaning(side, stored, is_target=False), name=str(path)).as_subclass(Tensor)
    if task.label_type is Normals:
        # A vector without length is a prediction all the same: 90 degrees from everything.
        given = torch.from_numpy(np.isfinite(stored).all(-1))
        label = label.where(label.isfinite() | ~given, 0.0)
    if task.label_type is Mask:
        outside = label[label.isfinite() & ((label < -TOLERANCE) | (label > 1 + TOLERANCE))]
        if len(outside):
            raise DataError(
                f"{path}: expected probabilities from 0 to 1 for task {task.name!r}, got {outside[0]:g}: "
                f"declare the scale of predictions, or write probabilities"
            )
    return torch.as_tensor(label)


def _numbers(task: Task, path: Path, side: _Files) -> Array:
    from plait.data.encodings import read_numbers
    from plait.data.labels import Depth

    stored = read_numbers(path, side.encoding.member)
    if task.label_type is Depth and stored.dtype.kind in "iu" and "scale" not in side.declared:
        raise DataError(
            f"{path}: holds whole numbers, so its unit of depth is not known: declare the metres of one as "
            f"the scale, for instance 0.001"
        )
    return stored


def _meaning(side: _Files, stored: Array, *, is_target: bool) -> Encoding:
    """The encoding of what was read: 8-bit normals are a picture, black or grey where it shows none."""
    from plait.data.labels import Normals

    encoding = side.encoding
    if (
        encoding.label_type is Normals
        and stored.dtype == np.uint8
        and not side.declared & {"scale", "offset"}
    ):
        encoding = dataclasses.replace(encoding, scale=2 / 255, offset=-1.0)
        if is_target and "unknown" not in side.declared:
            encoding = dataclasses.replace(encoding, unknown=(0.0, 127.0, 128.0))
    return encoding


def _turned(stored: Array, axes: str, path: Path) -> Array:
    """8-bit vectors ``[H, W, 3]`` in our axes ``[3, H, W]``; the negative of a stored v is 255 - v."""
    if stored.shape[-1] != 3:
        raise DataError(f"{path}: expected [H, W, 3] for normals, found the shape {stored.shape}")
    turned = np.empty((3, *stored.shape[:2]), np.uint8)
    for channel, (sign, axis) in enumerate(zip(axes[::2], axes[1::2], strict=True)):
        turned["xyz".index(axis)] = 255 - stored[..., channel] if sign == "-" else stored[..., channel]
    return turned


def _resized(prediction: Tensor, size: Sequence[int]) -> Tensor:
    """A prediction ``[C, h, w]`` at its target's size; 8-bit maps become fractions or vectors first."""
    if prediction.dtype == torch.int64:
        return F.interpolate(prediction[None].float(), tuple(size), mode="nearest")[0].long()
    if prediction.dtype == torch.uint8:
        prediction = as_probability(prediction) if len(prediction) == 1 else from_eight_bit(prediction)
    return F.interpolate(prediction[None].float(), tuple(size), mode="bilinear", align_corners=False)[0]


def _in_order(work: Iterator[Callable[[], T]], workers: int | None) -> Iterator[T]:
    """Results in the order of the work, a few of it done ahead by threads."""
    from plait.study.cores import usable_cores
    from plait.training.tuning import threads

    workers = workers or min(8, usable_cores())
    yield from (make() for make in islice(work, None if workers == 1 else 1))  # what compiles, compiles once
    waiting: deque[Future[T]] = deque()
    with threads(1), ThreadPoolExecutor(workers) as pool:
        try:
            for make in work:
                waiting.append(pool.submit(make))
                if len(waiting) >= 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
