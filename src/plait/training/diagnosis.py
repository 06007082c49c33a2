"""What the tasks' gradients say to each other and to the update, measured while the tasks train together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from plait.balancing.gradients import Rows, gradients_of
from plait.balancing.probe import untouched
from plait.data.sample import Batch
from plait.errors import ConfigurationError
from plait.models.backbones import Backbone, ViT
from plait.models.encoders.trees import part_names
from plait.models.network import MultiTaskNetwork
from plait.tasks.objective import losses as task_losses
from plait.training.distributed import reduce_sums, world_size
from plait.training.precision import Precision, autocast
from plait.training.step import StepReport, global_counts, kept_graphs, present_tasks

Array = NDArray[np.float64]

SAME = 1e-12
"""The squared sine below which directions count as one: what float32 gradients leave of a right one."""
DIGITS = 6
"""Significant digits in the log."""


# Functions of a Gramian [T, T] alone; nan stands for what is not defined.


def norms(gramian: Array) -> Array:
    """The lengths of the tasks' gradients, ``[T]``.

    >>> norms(np.array([[4.0, 0.0], [0.0, 9.0]])).tolist()
    [2.0, 3.0]
    """
    length: Array = np.sqrt(np.maximum(gramian.diagonal(), 0))
    return length


def cosines(gramian: Array) -> Array:
    """The cosine of each two gradients, ``[T, T]`` in [-1, 1]; ``nan`` with one that is zero.

    >>> cosines(np.array([[4.0, -3.0], [-3.0, 9.0]])).tolist()
    [[1.0, -0.5], [-0.5, 1.0]]
    """
    return _divided(gramian, np.outer(norms(gramian), norms(gramian))).clip(-1, 1)


def conflicts(cosine: Array) -> float:
    """The share of pairs of tasks with a negative cosine, of those that have one; ``nan`` if none has.

    Source:
        Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, definition 1.
    """
    pairs = cosine[np.triu_indices(len(cosine), 1)]
    pairs = pairs[np.isfinite(pairs)]
    return float((pairs < 0).mean()) if len(pairs) else np.nan


def magnitude_similarity(gramian: Array) -> Array:
    """``2 n_i n_j / (n_i^2 + n_j^2)`` of the lengths of each two gradients, ``[T, T]`` in [0, 1].

    1 where they are equally long, 0 where one is zero, ``nan`` where both are.

    Source:
        Yu et al., Gradient Surgery for Multi-Task Learning, NeurIPS 2020, definition 2.

    >>> magnitude_similarity(np.array([[1.0, 0.0], [0.0, 9.0]]))[0].tolist()
    [1.0, 0.6]
    """
    length = norms(gramian)
    return _divided(2 * np.outer(length, length), np.add.outer(length**2, length**2))


def condition_number(gramian: Array) -> float:
    """Largest over smallest singular value of the Jacobian whose rows are the gradients, as they are.

    ``inf`` where the rows depend on each other, to rounding. It grows with both what balancing works against:
    rows of different length, and rows of nearly the same or of opposite direction.

    Source:
        Senushkin et al., Independent Component Alignment for Multi-Task Learning, CVPR 2023.

    >>> condition_number(np.array([[1.0, 0.0], [0.0, 16.0]]))
    4.0
    """
    if len(gramian) == 0 or not np.isfinite(gramian).all():
        return np.nan
    values = np.linalg.eigvalsh(gramian)
    if values[0] <= len(values) * np.finfo(np.float64).eps * values[-1]:
        return np.inf
    return float(np.sqrt(values[-1] / values[0]))


def effective_weights(gramian: Array, products: Array) -> Array:
    """The factors ``[T]`` with which the sum of the gradients comes nearest to the update.

    They are what a rule has done, whatever it says of itself: for an update that is a weighted sum of
    independent gradients, its weights. Of several that come as near (parallel gradients), the smallest after
    all gradients are brought to one length; 0 for a gradient that is zero.

    Args:
        gramian: Inner products of the gradients ``[T, T]``.
        products: Inner products of each gradient with the update, ``[T]``.

    >>> effective_weights(np.array([[4.0, 0.0], [0.0, 9.0]]), np.array([2.0, 27.0])).tolist()
    [0.5, 3.0]
    """
    if not (np.isfinite(gramian).all() and np.isfinite(products).all()):
        return np.full(len(gramian), np.nan)
    inverse = np.divide(1, norms(gramian), out=np.zeros(len(gramian)), where=gramian.diagonal() > 0)
    unit = gramian * np.outer(inverse, inverse)
    found: Array = inverse * (np.linalg.pinv(unit, rcond=SAME, hermitian=True) @ (inverse * products))
    return found


def shares(weights: Array, gramian: Array) -> Array:
    """Each task's part in the update, ``w_i n_i`` over the sum of their magnitudes: ``[T]``.

    Negative where the task's gradient was subtracted; the magnitudes sum to 1. ``nan`` if all are zero.
    """
    part = weights * norms(gramian)
    return _divided(part, np.abs(part).sum())


def update_cosines(gramian: Array, products: Array, squared: float) -> Array:
    """The cosine of an update of squared length ``squared`` with each gradient: ``[T]`` in [-1, 1]."""
    return _divided(products, norms(gramian) * np.sqrt(max(squared, 0.0))).clip(-1, 1)


def explained(weights: Array, products: Array, squared: float) -> float:
    """The part of the update's squared length that :func:`effective_weights` account for: 1 for all of it.

    The rest is in no task's gradient: penalties, noise, or a rule that treats each element on its own.
    """
    return float(_divided(weights @ products, squared).clip(0, 1))


def _divided(one: Array, other: Array | float) -> Array:
    """The quotient, ``nan`` where it is divided by zero or by no number."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.asarray(other) > 0, np.asarray(one) / other, np.nan)


def numbers(
    gramian: Array,
    shared: NDArray[np.bool_],
    tasks: Sequence[str],
    *,
    update: tuple[Array, float] | None = None,
    moved: tuple[Array, float] | None = None,
) -> dict[str, Any]:
    """All of the above by name, ready for JSON: six digits, None for what is not defined.

    A gradient that is not finite has no number; the others are held against each other without it.

    Args:
        gramian: Inner products of the tasks' gradients ``[T, T]``.
        shared: Whether two tasks (a task, on the diagonal) are both present and use a parameter in common,
            bool ``[T, T]``; where they do not there is no number.
        tasks: Their names.
        update: Inner products of the update with each gradient ``[T]``, and its squared length.
        moved: The same of what the parameters moved by, downwards.

    Returns:
        ``norm``, and with an update ``update`` (cosine), ``effective`` (weight) and ``share``, and ``moved``
        (cosine): ``{task: number}``; ``cosine`` and ``similarity``: ``{task: {later task: number}}``;
        ``conflicts``, ``condition``, and with an update ``explained``: a number.
    """
    here = np.flatnonzero(shared.diagonal() & np.isfinite(gramian.diagonal()))
    inside = gramian[np.ix_(here, here)]
    apart = ~shared[np.ix_(here, here)]
    cosine, similarity = (np.where(apart, np.nan, of(inside)) for of in (cosines, magnitude_similarity))

    def by_task(values: Array) -> dict[str, float | None]:
        full = np.full(len(tasks), np.nan)
        full[here] = values
        return {task: number(value) for task, value in zip(tasks, full, strict=True)}

    def by_pair(values: Array) -> dict[str, dict[str, float | None]]:
        full = np.full((len(tasks), len(tasks)), np.nan)
        full[np.ix_(here, here)] = values
        return {
            task: {other: number(full[i, j]) for j, other in enumerate(tasks) if j > i}
            for i, task in enumerate(tasks[:-1])
        }

    found: dict[str, Any] = {
        "norm": by_task(norms(inside)),
        "cosine": by_pair(cosine),
        "conflicts": number(conflicts(cosine)),
        "similarity": by_pair(similarity),
        "condition": number(condition_number(inside)),
    }
    if update is not None:
        products, squared = update[0][here], update[1]
        weights = effective_weights(inside, products)
        found |= {
            "update": by_task(update_cosines(inside, products, squared)),
            "effective": by_task(weights),
            "share": by_task(shares(weights, inside)),
            "explained": number(explained(weights, products, squared)),
        }
    if moved is not None:
        found["moved"] = by_task(update_cosines(inside, moved[0][here], moved[1]))
    return found


def number(value: float) -> float | None:
    """A number for the log, or None for what JSON has none for.

    >>> number(1 / 3), number(float("inf"))
    (0.333333, None)
    """
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None


# Which parameters, and where they are.


def users_of(model: MultiTaskNetwork) -> dict[nn.Parameter, tuple[int, ...]]:
    """Each trained parameter of the encoder that tasks share, and the places of those tasks.

    Raises:
        ConfigurationError: If there is none.
    """
    place = {task.name: number for number, task in enumerate(model.tasks)}
    users = {
        parameter: tuple(sorted(place[name] for name in names))
        for names, listed in model.shared_parameters().items()
        if len(names) > 1
        for parameter in listed
        if parameter.requires_grad
    }
    if not users:
        raise ConfigurationError(
            f"gradients are compared at parameters that tasks share, but encoder "
            f"{type(model.encoder).__name__} for {', '.join(place)} shares none that is trained: use encoder "
            f"'shared' and at least two tasks"
        )
    return users


def stages_of(model: MultiTaskNetwork) -> dict[str, list[nn.Parameter]]:
    """The shared parameters in groups from the image on: ``stem``, ``stage 1``, ...

    The same part of all backbones of an encoder is one group (``block k`` in a vision transformer). What is
    in no backbone follows, a group for each of the encoder's modules (``stem``) or, where that is a list, for
    each of its entries (``units.0``); one module that holds everything is opened first.
    """
    users, encoder = users_of(model), model.encoder
    inside = dict(_in_backbones(encoder))
    names = {p: name.split(".") for name, p in encoder.named_parameters() if p in users}
    rest = [name for parameter, name in names.items() if parameter not in inside]
    depth = next((d for d in (1, 2, 3) if len({tuple(name[:d]) for name in rest}) > 1), 1)
    groups: dict[tuple[int, str], list[nn.Parameter]] = {}
    for parameter, name in names.items():
        key = inside.get(parameter)
        if key is None:
            first = ".".join(name[: min(depth, len(name) - 1)])
            listed = isinstance(encoder.get_submodule(first), nn.ModuleList)
            key = len(names), ".".join(name[: depth + listed])
        groups.setdefault(key, []).append(parameter)
    return {name: groups[rank, name] for rank, name in sorted(groups, key=lambda key: key[0])}


def _in_backbones(encoder: nn.Module) -> Iterator[tuple[nn.Parameter, tuple[int, str]]]:
    """Each parameter of a backbone, with the number and the name of its part."""
    for backbone in encoder.modules():
        if not isinstance(backbone, Backbone):
            continue
        parts = backbone.parts()
        part_of = {
            parameter: part
            for part, modules in enumerate(parts)
            for module in modules
            for parameter in module.parameters()
        }
        depths = backbone.depths()
        for name, parameter in backbone.named_parameters():
            before = 0 if depths[name] == len(parts) - 1 else None  # tokens, which no part holds
            part = part_of.get(parameter, before)
            if part is None:
                yield parameter, (len(parts), name.partition(".")[0])
            else:
                called = f"block {part}" if part and isinstance(backbone, ViT) else part_names(part, part)
                yield parameter, (part, called)


# Around a step.


@dataclass(frozen=True)
class Measurement:
    """Each task's gradient of the shared parameters, on the batch of a step that is about to be made.

    Attributes:
        tasks: Names of the tasks.
        present: Which of them have a known pixel in the global batch.
        users: Each shared parameter, and the places of the tasks that use it.
        stages: The same parameters in groups.
        rows: The gradients.
        before: The parameters as they were.
    """

    tasks: tuple[str, ...]
    present: tuple[bool, ...]
    users: Mapping[nn.Parameter, tuple[int, ...]]
    stages: Mapping[str, Sequence[nn.Parameter]]
    rows: Rows
    before: Mapping[nn.Parameter, Tensor]

    @classmethod
    def take(
        cls,
        model: MultiTaskNetwork,
        batches: Sequence[Batch],
        *,
        precision: Precision = "fp32",
        scale: Tensor | None = None,
    ) -> Measurement:
        """Takes the gradients, exactly, whatever the balancer will look at.

        They are those of the step: the same batch, random numbers and precision. Afterwards gradients,
        running statistics and random numbers are what they were, to the bit: training goes on as if nothing
        had been measured. It costs a forward pass, a backward pass through the encoder for each task, and the
        memory of as many copies of the shared parameters, and one more.

        Args:
            model: In training mode, on the device of the batches.
            batches: The micro-batches of this process; all processes must call it.
            precision: Of the forward pass.
            scale: The loss scale of float16 training.

        Raises:
            ConfigurationError: If no parameter of the encoder is shared.
        """
        users, names = users_of(model), tuple(task.name for task in model.tasks)
        counts = global_counts(model.tasks, batches)
        present = tuple(present_tasks(model.tasks, batches).values())
        rows, device = Rows(), batches[0].images.device
        with untouched(model), kept_graphs():
            for batch in batches:
                with autocast(device, precision):
                    predictions = model(batch.images)
                    losses = task_losses(model.tasks, predictions, batch.targets, counts)
                for place, name in enumerate(names):
                    inputs = [p for p, places in users.items() if place in places]
                    if not (present[place] and name in losses and losses[name].requires_grad):
                        continue
                    loss = losses[name] if scale is None else losses[name] * scale
                    gradients = gradients_of([loss], inputs, keep=True)
                    for parameter, gradient in zip(inputs, gradients, strict=True):
                        if gradient is not None:
                            rows.add(parameter, place, gradient if scale is None else gradient / scale)
        if world_size() > 1:
            blocks = [(p, place) for p, places in users.items() for place in places if present[place]]
            rows.replace(blocks, reduce_sums)
        before = {parameter: parameter.detach().clone() for parameter in users}
        return cls(names, present, users, stages_of(model), rows, before)

    def numbers(self) -> dict[str, Any]:
        """What the gradients alone say: :func:`numbers` of the ``whole`` and of each of the ``stages``."""
        return self._described({})

    def after(
        self, report: StepReport, *, clip_norm: float | None, one_update: bool = True
    ) -> dict[str, Any]:
        """What they say beside the step that was then made, while its gradient is still there.

        The update is what the balancer has made, before clipping (which scales it) and before the optimizer;
        ``moved`` is what the optimizer then did, momentum, preconditioning and weight decay included.

        Args:
            report: Of the step.
            clip_norm: What the whole gradient was clipped to.
            one_update: Whether the step made one update; of one for each task there is only ``moved``.

        Returns:
            A part of a line of the log: ``loss`` and ``weight`` by task, and :func:`numbers` of the ``whole``
            and of each of the ``stages``.
        """
        vectors: dict[str, dict[nn.Parameter, Tensor]] = {
            "moved": {parameter: old - parameter.detach() for parameter, old in self.before.items()}
        }
        if one_update:
            clipped = 1.0 if clip_norm is None else (clip_norm / (report.grad_norm + 1e-6)).clamp(max=1.0)
            vectors["update"] = {
                parameter: parameter.grad / clipped for parameter in self.users if parameter.grad is not None
            }
        said = {"loss": [report.losses[task] for task in self.tasks], "weight": list(report.weights)}
        found: dict[str, Any] = {
            name: {
                task: number(float(value)) if present else None
                for task, value, present in zip(self.tasks, values, self.present, strict=True)
            }
            for name, values in said.items()
        }
        return found | self._described(vectors)

    def _described(self, vectors: Mapping[str, Mapping[nn.Parameter, Tensor]]) -> dict[str, Any]:
        """Numbers of all stages and of the whole, with vectors to hold against the gradients."""
        total = len(self.tasks)
        found: dict[str, Any] = {"whole": {}, "stages": {}}
        whole = np.zeros((total + len(vectors),) * 2)
        together = np.zeros((total, total), dtype=bool)
        for stage, parameters in self.stages.items():
            rows = self.rows.only(parameters)
            rows.blocks = {parameter: dict(row) for parameter, row in rows.blocks.items()}
            for place, vector in enumerate(vectors.values(), start=total):
                for parameter in parameters:
                    if parameter in vector:
                        rows.add(parameter, place, vector[parameter])
            gramian = rows.gramian(len(whole)).cpu().numpy()
            shared = self._shared(parameters)
            found["stages"][stage] = self._of(gramian, shared, tuple(vectors))
            whole, together = whole + gramian, together | shared
        found["whole"] = self._of(whole, together, tuple(vectors))
        return found

    def _of(self, gramian: Array, shared: NDArray[np.bool_], vectors: Sequence[str]) -> dict[str, Any]:
        total = len(self.tasks)
        beside = {
            name: (gramian[:total, place], float(gramian[place, place]))
            for place, name in enumerate(vectors, start=total)
        }
        return numbers(gramian[:total, :total], shared, self.tasks, **beside)

    def _shared(self, parameters: Sequence[nn.Parameter]) -> NDArray[np.bool_]:
        """Which present tasks use one of the parameters in common, bool ``[T, T]``."""
        found = np.zeros((len(self.tasks),) * 2, dtype=bool)
        for places in {self.users[parameter] for parameter in parameters}:
            here = [place for place in places if self.present[place]]
            found[np.ix_(here, here)] = True
        return found
