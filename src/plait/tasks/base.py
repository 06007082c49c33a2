"""A task is a value: everything that differs between tasks lives in one frozen object."""

from __future__ import annotations

import keyword
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor, nn

from plait.errors import ConfigurationError

if TYPE_CHECKING:
    from torchmetrics import Metric

    from plait.data.labels import Label


Likelihood = Literal["gaussian", "laplace", "classification"]


def unchanged(activated: Tensor) -> Tensor:
    """The map itself; a function of a module, so that tasks can be sent to worker processes."""
    return activated


class Loss(Protocol):
    """A loss over known pixels whose denominators depend on the target alone.

    Because they do, they can be summed over processes and over accumulated micro-batches before the
    forward pass: a global batch then means the same on one process and on four.
    """

    def counts(self, target: Tensor) -> Tensor:
        """Additive statistics of a target ``[B, C, H, W]``: float64 ``[K]``; all zero if nothing is known."""
        ...

    def __call__(self, prediction: Tensor, target: Tensor, counts: Tensor | None = None) -> Tensor:
        """This batch's share of the loss: its sum over known pixels divided by the (global) ``counts``.

        ``counts`` defaults to ``self.counts(target)``. Shares add up to the loss of the whole batch. With
        nothing known it is zero, and so is its gradient.
        """
        ...


@dataclass(frozen=True)
class Measure:
    """One number a metric reports.

    Attributes:
        name: Key in the metric's result, for instance ``"rmse"``.
        title: What a table prints, for instance ``"RMSE"``.
        unit: ``"%"`` (already times 100 when shown), ``"m"``, ``"°"`` or ``""``.
        higher_is_better: Its direction, from which the relative gain takes its sign.
        protocol: By whose rules it is taken, of :data:`plait.metrics.PROTOCOLS`; numbers of two protocols
            cannot be compared.
    """

    name: str
    title: str
    unit: str
    higher_is_better: bool
    protocol: str = "plain"

    def under(self, protocol: str) -> Measure:
        """The same measure by the rules of another protocol."""
        return replace(self, protocol=protocol)


@dataclass(frozen=True)
class Scoring:
    """How one protocol scores a task.

    Attributes:
        metric: Makes a fresh metric.
        measures: Which of its numbers are reported, the headline measure first.
        kpi: As in :class:`Task`.
        takes: Arguments of ``metric`` that a data set decides where its ``measuring`` has them.
    """

    metric: Callable[..., Metric]
    measures: tuple[Measure, ...]
    kpi: str | None = None
    takes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Legend:
    """How to read a task's picture: named colours, or a colour bar with its ends in units.

    Attributes:
        entries: ``(text, (r, g, b))`` for class maps, empty for bars.
        bar: RGB stops from low to high, ``uint8 [N, 3]``, or None.
        low: Text at the low end of the bar.
        high: Text at the high end.
    """

    entries: tuple[tuple[str, tuple[int, int, int]], ...] = ()
    bar: np.ndarray | None = field(default=None, compare=False)
    low: str = ""
    high: str = ""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One dense prediction task, as the data, the model, the loop and the report see it.

    Attributes:
        name: The user's name for it; also a key in ``nn.ModuleDict`` and in tables.
        kind: ``semantic``, ``depth``, ``inverse_depth``, ``normals``, ``edges`` or ``saliency``.
        channels: Output channels of the network.
        label: The data set's field that supervises it, for instance ``"semantic"``.
        label_type: The tv_tensor class of that label; says how it is warped and what is unknown.
        loss: Logits ``[B, C, H, W]`` and target to a scalar; see :class:`Loss`.
        activate: Logits to what may be averaged over flips and scales: probabilities, metres or unit
            vectors, ``[B, channels, H, W]``.
        decide: The activated map to units: class ids int64 ``[B, 1, H, W]`` for ``semantic``, else the
            map itself (normals again of unit length).
        metric: Makes a fresh metric; ``update(decoded, target)``, ``compute() -> {measure: float}``.
        measures: Which of its numbers are reported, the headline measure first.
        picture: A decoded map ``[C, H, W]`` (or a label) to ``uint8 [H, W, 3]``; unknown is grey.
        error: Decoded map and label ``[C, H, W]`` to a map of errors ``uint8 [H, W, 3]``.
        legend: How to read the picture.
        error_legend: How to read the map of errors.
        flip: What a horizontal flip does to an activated map beside mirroring it (normals: x changes sign).
        weight: Fixed loss weight used by the ``fixed`` balancer.
        likelihood: Whose negative logarithm the loss is, for uncertainty weighting: ``"gaussian"`` for
            squared errors, ``"laplace"`` for absolute ones, ``"classification"`` for cross-entropies.
        kpi: The measure that says how well the task is done already, in [0, 1], higher being better, for
            dynamic task prioritisation; None if no measure does.
        auxiliary: Supervised only at intermediate predictions, and not reported.
        constant: From an iterable of labels ``[C, H, W]`` of the training split to the best constant
            decoded pixel, ``[C]``: the baseline of every table.
        scoring: How each protocol scores it; ``metric``, ``measures`` and ``kpi`` are those of the chosen one
            (see :meth:`scored`), at first ``plain``.
        several_targets: Whether its metric takes the labels of several annotators, ``[B, A, H, W]``.
        unit: Of decoded values: ``"m"``, or empty for class ids, vectors and probabilities.
        meaning: What a decoded value is, in a few words, for whoever reads predictions from a file.
        classes: Names of the classes in the order of their ids; empty for a task without.
        step: What one step of a 16-bit picture of it stands for, in its unit; None for what a picture of one
            channel cannot hold, and for class ids, which need no such step.
        zero_is_unknown: Whether 0 in such a picture means that nothing is known.
        tell: One decoded pixel ``[C]`` in words, as ``"2.31 m"``; None for its numbers with the unit.
    """

    name: str
    kind: str
    channels: int
    label: str
    label_type: type[Label]
    loss: Loss
    activate: Callable[[Tensor], Tensor]
    decide: Callable[[Tensor], Tensor]
    metric: Callable[[], Metric]
    measures: tuple[Measure, ...]
    picture: Callable[[Tensor], np.ndarray]
    error: Callable[[Tensor, Tensor], np.ndarray]
    legend: Legend
    constant: Callable[[Sequence[Tensor]], Tensor]
    error_legend: Legend = Legend()
    flip: Callable[[Tensor], Tensor] = unchanged
    weight: float = 1.0
    likelihood: Likelihood = "gaussian"
    kpi: str | None = None
    auxiliary: bool = False
    scoring: Mapping[str, Scoring] = field(default_factory=dict, compare=False)
    several_targets: bool = False
    unit: str = ""
    meaning: str = ""
    classes: tuple[str, ...] = ()
    step: float | None = None
    zero_is_unknown: bool = False
    tell: Callable[[Tensor], str] | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ConfigurationError(f"the weight of task {self.name!r} must be 0 or more, got {self.weight}")
        if self.likelihood not in get_args(Likelihood):
            raise ConfigurationError(
                f"the likelihood of task {self.name!r} must be one of {', '.join(get_args(Likelihood))}, "
                f"got {self.likelihood!r}"
            )
        shares = [m.name for m in self.measures if m.unit == "%" and m.higher_is_better]
        if self.kpi is not None and self.kpi not in shares:
            raise ConfigurationError(
                f"the kpi of task {self.name!r} must be a measure in % of which more is better "
                f"({', '.join(shares) or 'it has none'}), got {self.kpi!r}"
            )

    @property
    def headline(self) -> Measure:
        """The one measure that enters the relative gain."""
        return self.measures[0]

    def scored(self, protocol: str, measuring: Mapping[str, Any] | None = None) -> Task:
        """The task with the metric and the measures of a protocol.

        Args:
            protocol: One of :data:`plait.metrics.PROTOCOLS`. If its code does not score this kind of task, or
                the task declares no ``scoring``, the measures stay plain ones, and say so.
            measuring: What measures must know of the data: the data set's ``measuring``.

        Raises:
            ConfigurationError: If there is no such protocol.
        """
        from plait.metrics.protocols import protocol_named  # metrics import the label types

        chosen = self.scoring.get(protocol_named(protocol).name) or self.scoring.get("plain")
        if chosen is None:
            return self
        given = {name: value for name, value in (measuring or {}).items() if name in chosen.takes}
        metric = partial(chosen.metric, **given) if given else chosen.metric
        return replace(self, metric=metric, measures=chosen.measures, kpi=chosen.kpi)

    def decode(self, logits: Tensor) -> Tensor:
        """Logits ``[B, C, H, W]`` to units: class ids, metres, unit vectors or probabilities."""
        return self.decide(self.activate(logits))

    def told(self, pixel: Tensor) -> str:
        """One decoded pixel ``[C]`` in words; ``unknown`` where it is not finite."""
        if not pixel.isfinite().all():
            return "unknown"
        if self.tell is not None:
            return self.tell(pixel)
        return " ".join([*(f"{value:.3g}" for value in pixel.tolist()), *([self.unit] if self.unit else [])])


def check_name(name: str) -> None:
    """Raises :class:`ConfigurationError` if ``name`` cannot name a task.

    A name is a Python identifier that is not a keyword and that neither ``nn.Module`` nor
    ``nn.ModuleDict`` uses itself.
    """
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ConfigurationError(
            f"a task's name must be letters, digits and underscores, not starting with a digit; "
            f"got {name!r}: rename it"
        )
    if hasattr(nn.ModuleDict(), name) or name in nn.Module().__dict__:
        raise ConfigurationError(
            f"{name!r} cannot name a task, torch uses it itself; call it {name + '_map'!r}"
        )


def known_anywhere(target: Tensor, unknown: Callable[[Tensor], Tensor]) -> Tensor:
    """Whether each image of ``[B, C, H, W]`` has a known pixel: bool ``[B]``."""
    return torch.as_tensor(~unknown(target)).flatten(1).any(1)
