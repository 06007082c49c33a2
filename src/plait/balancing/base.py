"""The contract of every balancer: losses (or gradients) of several tasks to the update of one step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from plait.balancing.gradients import PENALTY, Cut, Rows, accumulate, feeding, widest
from plait.balancing.passes import Pass
from plait.errors import ConfigurationError
from plait.registry import nearest
from plait.training.distributed import anywhere, broadcast_, reduce_sum, reduce_sums, world_size

if TYPE_CHECKING:
    from plait.tasks.base import Task

Scope = Literal["parameters", "features"]
Heads = Literal["own", "weighted"]
Losses: TypeAlias = "Mapping[str, Tensor | None] | Sequence[Tensor | None] | Tensor"
Parameters: TypeAlias = "Mapping[tuple[str, ...], Sequence[nn.Parameter]] | Iterable[nn.Parameter]"
Present: TypeAlias = "Mapping[str, bool] | Sequence[bool] | Tensor"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a balancer asks of the training loop; the loop supplies that and never asks for its name.

    Attributes:
        quantity: What its rule is a function of: ``"nothing"`` (the weights are known before the losses),
            ``"losses"``, ``"gramian"`` (inner products of per-task gradients) or ``"jacobian"`` (the
            gradients themselves, because the rule is elementwise).
        closure: :meth:`Balancer.after_update` wants to evaluate the losses once more.
        extra_batches: Independent batches wanted beside the step's own.
        scores: :meth:`Balancer.see_scores` wants each task's metrics.
        epoch_end: :meth:`Balancer.end_epoch` wants to be called.
        parameters: It has parameters of its own, which belong in the optimizer, without weight decay.
            Their gradients are written by :meth:`Balancer.weights`, equally on every process.
    """

    quantity: Literal["nothing", "losses", "gramian", "jacobian"]
    closure: bool = False
    extra_batches: int = 0
    scores: bool = False
    epoch_end: bool = False
    parameters: bool = False

    @property
    def gradients(self) -> bool:
        """Whether per-task gradients are taken at all."""
        return self.quantity in ("gramian", "jacobian")


@dataclass(frozen=True)
class Observation:
    """What a rule sees of one step: the P tasks that are present, over all processes and micro-batches.

    Attributes:
        places: Which of the T declared tasks these are, ascending; state is kept by place.
        losses: Their values ``[P]``, detached, float64; None for rules that need nothing.
        gramian: Inner products of their gradients ``[P, P]``, float64; None for rules on losses.
    """

    places: tuple[int, ...]
    losses: Tensor | None = None
    gramian: Tensor | None = None


@dataclass(frozen=True)
class BalancerReport:
    """What a balancer did in one step, as tensors that nobody has waited for.

    Attributes:
        losses: ``[T]``, over all processes and micro-batches; zero for absent tasks.
        weights: ``[T]``, the factor of each task's gradient; zero for absent tasks. NaN for rules that
            give a direction instead of weights.
        gramian: ``[T, T]``, zero for absent tasks; None if no gradients were taken.
        present: Whether each task took part.
        reduced: Parameters whose gradient is already summed over processes; the rest is this process's
            share (see :func:`plait.training.distributed.reduce_gradients`).
    """

    losses: Tensor
    weights: Tensor
    gramian: Tensor | None
    present: tuple[bool, ...]
    reduced: tuple[nn.Parameter, ...]


@dataclass
class _Step:
    """What has been collected of a step so far."""

    present: tuple[bool, ...]
    losses: Tensor
    shared: Rows = field(default_factory=Rows)
    """Rows of the parameters that gradients are compared over; elsewhere of those they merely reach."""
    heads: Rows = field(default_factory=Rows)
    gramian: Tensor | None = None
    weights: Tensor | None = None
    scope: dict[nn.Parameter, tuple[int, ...]] = field(default_factory=dict)

    @property
    def places(self) -> tuple[int, ...]:
        return tuple(place for place, present in enumerate(self.present) if present)


class Balancer(nn.Module):
    """Combines the losses of T tasks into the gradients of one step.

    A subclass declares ``needs`` and writes one method: :meth:`weights` (or :meth:`combine`, if its rule is
    elementwise). Its state lives in buffers, so that ``.to(device)`` and checkpoints work. Everything else
    (taking gradients, leaving out absent tasks, summing over processes and micro-batches) is done here.

    It works in anybody's loop:

    >>> import torch, plait.balancing
    >>> trunk, heads = torch.nn.Linear(4, 8), torch.nn.ModuleDict({t: torch.nn.Linear(8, 1) for t in "ab"})
    >>> balancer = plait.balancing.create("mgda")
    >>> z = trunk(torch.ones(2, 4))
    >>> losses = {task: head(z).square().mean() for task, head in heads.items()}
    >>> report = balancer.backward(losses, parameters=trunk.parameters())
    >>> round(float(report.weights.sum()), 6), trunk.weight.grad is not None
    (1.0, True)

    Args:
        tasks: The tasks (or their names) in declared order; None takes the order of each step's losses,
            which is enough for rules without state.
        scope: Where per-task gradients are taken: over the ``"parameters"`` that tasks share, exactly, or
            at the ``"features"`` behind a cut, at the cost of little more than a plain step. None for
            rules that take none.
        heads: What parameters outside the scope get: the sum of the tasks' ``"own"`` gradients, or the
            ``"weighted"`` sum. Rules on losses are gradients of one objective: always ``"weighted"``;
            elementwise rules have no weights: always ``"own"``.

    Raises:
        ConfigurationError: For an unknown scope or convention, or one that the rule cannot have.
    """

    needs: Needs

    def __init__(
        self,
        *,
        tasks: Sequence[str | Task] | None = None,
        scope: Scope | None = None,
        heads: Heads = "weighted",
    ) -> None:
        super().__init__()
        known = ("parameters", "features") if self.needs.gradients else (None,)
        if scope not in known:
            raise ConfigurationError(
                f"the scope of {type(self).__name__} is {' or '.join(map(str, known))}, got {scope!r}"
            )
        conventions = {"gramian": ("own", "weighted"), "jacobian": ("own",)}.get(
            self.needs.quantity, ("weighted",)
        )
        if heads not in conventions:
            raise ConfigurationError(
                f"heads of {type(self).__name__} get {' or '.join(conventions)} gradients, got {heads!r}"
            )
        self.tasks = None if tasks is None else tuple(t if isinstance(t, str) else t.name for t in tasks)
        self.scope = scope
        self.heads = heads
        self._cut: Cut | None = None
        self._step: _Step | None = None

    # What a rule writes.

    def weights(self, seen: Observation) -> Tensor:
        """The factor of each present task's gradient, ``[P]``; where the rule states no other convention.

        Args:
            seen: What ``needs.quantity`` asked for.
        """
        raise NotImplementedError(f"{type(self).__name__} has no weights: it combines a Jacobian")

    def combine(self, jacobian: Tensor, seen: Observation) -> Tensor:
        """The update ``[D]`` from the present tasks' gradients ``[P, D]``; for elementwise rules only."""
        return self.weights(seen).to(jacobian) @ jacobian

    def after_update(self, losses: Any) -> None:
        """Called after the optimizer's step if ``needs.closure``.

        Args:
            losses: A function of no arguments that evaluates the losses ``[T]`` of the same batch again,
                without gradient and without touching running statistics.
        """

    def see_scores(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Called after each evaluation if ``needs.scores``, with ``{task: {measure: value}}``."""

    def end_epoch(self) -> None:
        """Called at the end of each epoch if ``needs.epoch_end``."""

    # What a user calls.

    def direction(self, jacobian: Tensor, losses: Tensor | None = None) -> Tensor:
        """The rule alone: per-task gradients ``[T, D]`` to the update ``[D]``.

        Args:
            jacobian: One gradient a row.
            losses: ``[T]``, for rules that look at them.

        Raises:
            ConfigurationError: If the rule needs losses and got none.
        """
        seen = Observation(
            places=tuple(range(len(jacobian))),
            losses=None if losses is None else losses.detach().double(),
            gramian=_gramian(jacobian) if self.needs.gradients else None,
        )
        if self.needs.quantity == "losses" and losses is None:
            raise ConfigurationError(f"{type(self).__name__} weighs by the losses: pass direction(J, losses)")
        return self.combine(jacobian, seen)

    @contextmanager
    def cut(self, features: Any) -> Iterator[Any]:
        """Hands features on as detached leaves, and leads :meth:`backward` through the cut.

        Heads run on what is given out, and :meth:`backward` is called inside the block. Gradients at the
        leaves are partial derivatives, also in a pyramid whose levels were computed from one another. Rules
        that take no gradients get the features themselves.

        Args:
            features: A tensor, or lists and dictionaries of them; one tensor in several places is one leaf.

        Yields:
            The leaves, in the same shape.
        """
        if not self.needs.gradients:
            yield features
            return
        self._cut = Cut(features)
        try:
            yield self._cut.structure
        finally:
            self._cut = None

    def backward(
        self,
        losses: Losses,
        *,
        parameters: Parameters | None = None,
        features: Tensor | Sequence[Tensor] | None = None,
        others: Iterable[nn.Parameter] | None = None,
        present: Present | None = None,
        penalty: Tensor | None = None,
        scale: Tensor | float | None = None,
    ) -> BalancerReport:
        """Adds the step's update to ``.grad``, in place of ``loss.backward()``.

        With several processes, losses are this process's shares: they add up to the global losses. Every
        process must take part in every call, also one that has no label of any task.

        Args:
            losses: A scalar a task: ``{task: loss}`` or a sequence (None where absent), or a tensor ``[T]``.
            parameters: What the tasks share, ``{tasks: [parameter]}`` or an iterable for all tasks. Not
                computed for tasks that do not use it. Needed for the scope ``"parameters"``; at
                ``"features"`` they are found if not given.
            features: Tensors inside the graph at which gradients are taken, if :meth:`cut` is not used;
                none may be computed from another.
            others: The remaining parameters; found in the graph if not given.
            present: Which tasks take part in this step *in any process*; tasks that it does not name, or all
                for None, are present if they have a loss in some process. A tensor is read, so the host
                waits for it: better a list.
            penalty: A scalar added to the objective outside the balancer.
            scale: The loss scale of float16 training; gradients are unscaled before the rule sees them.

        Returns:
            Weights, losses and Gramian of the step. Tasks that are absent are left out of the problem.

        Raises:
            ConfigurationError: If tasks, losses and parameters do not fit each other.
        """
        report = self._backward(losses, True, parameters, features, others, present, penalty, scale)
        assert report is not None
        return report

    def collect(
        self,
        losses: Losses,
        *,
        parameters: Parameters | None = None,
        features: Tensor | Sequence[Tensor] | None = None,
        others: Iterable[nn.Parameter] | None = None,
        present: Present | None = None,
        penalty: Tensor | None = None,
        scale: Tensor | float | None = None,
    ) -> None:
        """Takes a micro-batch of a step whose last one is given to :meth:`backward`; frees its graph.

        The losses of the micro-batches add up to the step's: the update is that of the whole batch. Rules
        that depend on the losses or on gradients keep each task's gradient of the shared parameters in the
        meantime, at the cost of one encoder backward a task.
        """
        self._backward(losses, False, parameters, features, others, present, penalty, scale)

    # How it is done.

    def _backward(
        self,
        losses: Losses,
        last: bool,
        parameters: Parameters | None,
        features: Tensor | Sequence[Tensor] | None,
        others: Iterable[nn.Parameter] | None,
        present: Present | None,
        penalty: Tensor | None,
        scale: Tensor | float | None,
    ) -> BalancerReport | None:
        step, self._step = self._step, None
        named, names, total = self._placed(losses)
        scope, reach = self._shared(parameters, total)
        if step is None:
            flags = self._flags(named, names, total, present)
            found = [*named.values(), *([] if penalty is None else [penalty]), *reach[:1]]
            device = found[0].device if found else torch.get_default_device()
            zeros = torch.zeros(total, dtype=widest(device), device=device)
            step = _Step(flags, zeros)
        terms = [(place, loss) for place, loss in named.items() if step.present[place]]
        for place, loss in terms:
            step.losses[place] += loss.detach()
        if penalty is not None:
            terms.append((PENALTY, penalty))
        terms = [(place, loss) for place, loss in terms if loss.requires_grad]
        graph = Pass(terms, scope, reach, None if others is None else list(others), scale)
        if last:
            step.losses = reduce_sum(step.losses)

        if self.needs.quantity == "nothing" and step.weights is None:
            step.weights = self._weigh(step)
        if not self.needs.gradients:
            if last and step.weights is None and not step.shared.blocks:
                step.weights = self._weigh(step)
            if step.weights is not None:
                graph.backward(step.weights)
            else:
                graph.rows_of_everything(step.shared)
                step.weights = self._weigh(step) if last else None
            reduced: tuple[nn.Parameter, ...] = ()
            if last and step.weights is not None:
                _write(step.shared, step.weights, step.places)
        elif self.scope == "parameters":
            cut = self._cut or self._uncut(features)
            if not scope and total > 1:
                raise ConfigurationError(
                    f"{type(self).__name__} compares gradients of parameters that tasks share and got none: "
                    f"pass parameters=, or use 'equal' where the encoder shares nothing"
                )
            step.scope |= scope
            graph.rows_of_parameters(step.shared, step.heads if self.heads == "weighted" else None, cut)
            reduced = self._update_parameters(step) if last else ()
        else:
            cut = self._cut or self._uncut(features)
            if cut is None:
                raise ConfigurationError(
                    f"{type(self).__name__} at features needs a cut, and this encoder has none (or "
                    f"'with balancer.cut(features) as leaves:' is missing): use scope='parameters'"
                )
            self._at_features(step, graph, cut, last)
            reduced = ()
        if not last:
            self._step = step
            return None
        assert step.weights is not None
        return BalancerReport(step.losses, step.weights, step.gramian, step.present, reduced)

    def _flags(
        self, named: Mapping[int, Tensor], names: Sequence[str], total: int, present: Present | None
    ) -> tuple[bool, ...]:
        """Which of the T tasks take part in this step."""
        if isinstance(present, Mapping):
            names = self._names(present, names)
            said = [present.get(name) for name in names]
        elif present is None:
            said = [None] * total
        else:
            said = list(present.tolist() if isinstance(present, Tensor) else present)
        if len(said) != total:
            raise ConfigurationError(f"expected the presence of {total} tasks, got {len(said)}")
        if None in said:
            found = anywhere([place in named for place in range(total)])
            said = [flag if told is None else told for told, flag in zip(said, found, strict=True)]
        return tuple(bool(flag) for flag in said)

    def _names(self, given: Mapping[str, Any], known: Sequence[str] | None) -> tuple[str, ...]:
        names = tuple(known or given)
        for name in given:
            if name not in names:
                raise ConfigurationError(
                    f"the balancer knows no task {name!r}{nearest(name, names)}; "
                    f"its tasks are {', '.join(names)}"
                )
        return names

    def _placed(self, losses: Losses) -> tuple[dict[int, Tensor], tuple[str, ...], int]:
        """The losses by place, the tasks' names as far as they are known, and T."""
        names = self.tasks or ()
        if isinstance(losses, Mapping):
            names = self._names(losses, names)
            given: Sequence[Tensor | None] = [losses.get(name) for name in names]
        else:
            given = losses.unbind() if isinstance(losses, Tensor) else losses
        if names and len(given) != len(names):
            raise ConfigurationError(f"expected {len(names)} losses ({', '.join(names)}), got {len(given)}")
        return {place: loss for place, loss in enumerate(given) if loss is not None}, names, len(given)

    def _shared(
        self, parameters: Parameters | None, total: int
    ) -> tuple[dict[nn.Parameter, tuple[int, ...]], list[nn.Parameter]]:
        """The parameters that several tasks share, with those tasks' places, and all that were given."""
        if parameters is None:
            return {}, []
        if isinstance(parameters, nn.Module):
            raise ConfigurationError(
                f"expected the parameters that tasks share, got a {type(parameters).__name__}: "
                f"pass module.parameters()"
            )
        everybody = tuple(range(total))
        if not isinstance(parameters, Mapping):
            shared = {p: everybody for p in parameters if p.requires_grad}
            return shared, list(shared)
        order = self.tasks
        if order is None:
            raise ConfigurationError("parameters are given by task: make the balancer for tasks=[...] too")
        scope: dict[nn.Parameter, tuple[int, ...]] = {}
        given: list[nn.Parameter] = []
        for names, group in parameters.items():
            places = tuple(sorted(order.index(name) for name in names))
            for parameter in group:
                if parameter.requires_grad:
                    given.append(parameter)
                    if len(places) > 1 or total == 1:
                        scope[parameter] = places
        return scope, given

    def _uncut(self, features: Tensor | Sequence[Tensor] | None) -> Cut | None:
        if features is None:
            return None
        tensors = [features] if isinstance(features, Tensor) else list(features)
        if feeding(tensors):
            raise ConfigurationError(
                "one of the features is computed from another, so gradients there are no partial "
                "derivatives: use 'with balancer.cut(features) as leaves:' and run the heads on the leaves"
            )
        return Cut.inside(tensors)

    def _weigh(self, step: _Step) -> Tensor:
        """The rule's weights, written into ``[T]``; equal on every process."""
        weights = torch.zeros_like(step.losses)
        if step.places:
            seen = Observation(step.places) if self.needs.quantity == "nothing" else _seen(step)
            weights[list(step.places)] = self.weights(seen).detach().to(weights)
        return broadcast_(weights)

    def _update_parameters(self, step: _Step) -> tuple[nn.Parameter, ...]:
        """Sums the rows over processes, asks the rule, and writes the update."""
        rows, places = step.shared, step.places
        blocks = [
            (parameter, place)
            for parameter, users in step.scope.items()
            for place in (*users, PENALTY)
            if place == PENALTY or step.present[place]
        ]
        if world_size() > 1:
            used = anywhere([place in rows.blocks.get(parameter, {}) for parameter, place in blocks])
            rows.replace([block for block, anyone in zip(blocks, used, strict=True) if anyone], reduce_sums)
        step.gramian = rows.gramian(len(step.present)).to(step.losses.device)
        if self.needs.quantity == "jacobian" and places and rows.blocks:
            self._update_elementwise(step)
        else:
            step.weights = self._weigh(step)
            _write(rows, step.weights, places)
        assert step.weights is not None
        _write(step.heads, step.weights, places)
        return tuple(step.scope)

    def _update_elementwise(self, step: _Step) -> None:
        """Writes the direction of a rule that has no weights."""
        step.weights = torch.full_like(step.losses, torch.nan)
        update = step.shared.split(self._combined(step, step.shared))
        for parameter, gradient in update.items():
            accumulate(parameter, gradient)
        _write(step.shared, step.weights, ())

    def _combined(self, step: _Step, rows: Rows, divisor: Tensor | float = 1.0) -> Tensor:
        return self.combine(rows.jacobian(step.places) / divisor, _seen(step))

    def _at_features(self, step: _Step, graph: Pass, cut: Cut, last: bool) -> None:
        """Gramian at the leaves; then one backward through the encoder if the weights are known."""
        rows = graph.rows_at(cut, step.heads if self.heads == "weighted" else None)
        gramian = rows.gramian(len(step.present)).to(step.losses.device) / graph.factor**2
        step.gramian = gramian if step.gramian is None else step.gramian + gramian
        if self.needs.quantity == "jacobian":
            if not last or step.shared.blocks:
                raise ConfigurationError(
                    f"{type(self).__name__} at features gives a direction, not weights, so it cannot "
                    f"accumulate gradients over micro-batches: use scope='parameters'"
                )
            step.gramian = reduce_sum(step.gramian)
            step.weights = torch.full_like(step.losses, torch.nan)
            if step.places and rows.blocks:
                at = rows.split(self._combined(step, rows, graph.factor) * graph.factor)
                for leaf, gradient in rows.combine(_by_place(step.weights, ())).items():
                    at[leaf] = at[leaf] + gradient
                graph.backward_from(cut, at)
            return
        if not last:
            graph.rows_behind(cut, rows, step.shared)
            return
        step.gramian = reduce_sum(step.gramian)
        step.weights = self._weigh(step)
        graph.backward_from(cut, rows.combine(_by_place(step.weights, step.places)))
        _write(step.shared, step.weights, step.places)
        _write(step.heads, step.weights, step.places)


def _seen(step: _Step) -> Observation:
    places = list(step.places)
    gramian = None if step.gramian is None else step.gramian[places][:, places]
    return Observation(step.places, step.losses[places], gramian)


def _by_place(weights: Tensor, places: Iterable[int]) -> dict[int, Tensor]:
    return {**{place: weights[place] for place in places}, PENALTY: weights.new_ones(())}


def _write(rows: Rows, weights: Tensor, places: Iterable[int]) -> None:
    """Adds the weighted sum of the rows, and the penalty's, to ``.grad``."""
    for tensor, gradient in rows.combine(_by_place(weights, places)).items():
        accumulate(tensor, gradient)


def _gramian(jacobian: Tensor) -> Tensor:
    rows = Rows()
    for place, row in enumerate(jacobian.detach()):
        rows.add(jacobian, place, row)
    return rows.gramian(len(jacobian))
