"""The contract of every balancer: losses (or gradients) of several tasks to the update of one step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypedDict, Unpack

import torch
from torch import Tensor, nn

from plait.balancing.draws import Draws
from plait.balancing.gradients import Cut, Rows, feeding, widest
from plait.errors import ConfigurationError
from plait.registry import nearest

if TYPE_CHECKING:
    from plait.balancing.probe import Probe
    from plait.tasks.base import Task

Scope = Literal["parameters", "features", "last_layer", "modules"]
Heads = Literal["own", "weighted"]
Reduction = Literal["sum", "mean"]
Losses: TypeAlias = "Mapping[str, Tensor | None] | Sequence[Tensor | None] | Tensor"
Parameters: TypeAlias = "Mapping[tuple[str, ...], Sequence[nn.Parameter]] | Iterable[nn.Parameter]"
Present: TypeAlias = "Mapping[str, bool] | Sequence[bool] | Tensor"
Preference: TypeAlias = "Mapping[str, float] | Sequence[float]"

GRADIENTS: tuple[Scope, ...] = ("parameters", "features", "last_layer", "modules")


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a balancer asks of the training loop; the loop supplies that and never asks for its name.

    Attributes:
        quantity: What its rule is a function of: ``"nothing"`` (the weights are known before the losses),
            ``"losses"``, ``"gramian"`` (inner products of per-task gradients) or ``"jacobian"`` (the
            gradients themselves, because the rule is elementwise or averages them over steps).
        direction: It gives a direction, in :meth:`Balancer.combine`, in place of weights.
        closure: :meth:`Balancer.after_update` wants to evaluate the losses once more.
        extra_batches: Independent batches wanted beside the step's own, for :meth:`Balancer.sample` or, with
            ``look_ahead``, for the probe.
        look_ahead: :meth:`Balancer.before_update` wants a :class:`~plait.balancing.Probe`.
        scores: :meth:`Balancer.see_scores` wants each task's metrics.
        epoch_end: :meth:`Balancer.end_epoch` wants to be called.
        parameters: It has parameters of its own, which belong in the optimizer, without weight decay.
            Their gradients are written by :meth:`Balancer.weights`, equally on every process.
    """

    quantity: Literal["nothing", "losses", "gramian", "jacobian"]
    direction: bool = False
    closure: bool = False
    extra_batches: int = 0
    look_ahead: bool = False
    scores: bool = False
    epoch_end: bool = False
    parameters: bool = False

    @property
    def gradients(self) -> bool:
        """Whether per-task gradients are taken at all."""
        return self.quantity in ("gramian", "jacobian")

    @property
    def samples(self) -> int:
        """Extra batches whose gradients are taken."""
        return 0 if self.look_ahead else self.extra_batches


@dataclass(frozen=True)
class Observation:
    """What a rule sees of one step: the P tasks that are present, over all processes and micro-batches.

    Attributes:
        places: Which of the T declared tasks these are, ascending; state is kept by place.
        total: T.
        losses: Their values ``[P]``, detached, float64; None where the rule needs nothing.
        gramian: Inner products of their gradients ``[P, P]``, float64; None for rules on losses.
        jacobian: Their gradients ``[P, D]``, for rules that need it.
        cross: Inner products ``[P, P]`` of their gradients on two independent batches, for rules that
            need it: rows of the first, columns of the second.
        shapes: Of the tensors that the columns of ``jacobian`` are about, in order; at features the first
            axis is the batch.
        values: The features themselves ``[D]``, where gradients are taken at features.
        tensors: What the columns of ``jacobian`` are about, in order: parameters, or the leaves of the cut.
    """

    places: tuple[int, ...]
    total: int
    losses: Tensor | None = None
    gramian: Tensor | None = None
    jacobian: Tensor | None = None
    cross: Tensor | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    values: Tensor | None = None
    tensors: tuple[Tensor, ...] = ()

    def heard(self) -> Observation:
        """The same for the tasks whose gradient is not exactly zero: the others have nothing to say."""
        if self.gramian is None:
            return self
        loud = (self.gramian.diagonal() != 0).tolist()
        if all(loud):
            return self
        rows = [row for row, flag in enumerate(loud) if flag]
        return replace(
            self,
            places=tuple(self.places[row] for row in rows),
            losses=None if self.losses is None else self.losses[rows],
            gramian=self.gramian[rows][:, rows],
            jacobian=None if self.jacobian is None else self.jacobian[rows],
            cross=None if self.cross is None else self.cross[rows][:, rows],
        )

    def of(self, state: Tensor) -> Tensor:
        """The entries ``[P]`` of a state ``[T]``; itself if every task is present, so that nothing waits."""
        return state if len(self.places) == self.total else state[list(self.places)]


@dataclass(frozen=True)
class BalancerReport:
    """What a balancer did in one step, as tensors that nobody has waited for.

    Attributes:
        losses: ``[T]``, over all processes and micro-batches; zero for absent tasks.
        weights: ``[T]``, the factor of each task's gradient; zero for absent tasks. Of a rule that gives a
            direction, the factors whose combination of the gradients is nearest to it.
        gramian: ``[T, T]``, zero for absent tasks; None if no gradients were taken.
        present: Whether each task took part.
        dropped: Whether each task was left out because its loss or gradient was not finite.
        overflowed: Whether each task's gradient was not finite though its loss was, if gradients were taken.
        reduced: Parameters whose gradient is already summed over processes; the rest is this process's
            share (see :func:`plait.training.distributed.reduce_gradients`).
    """

    losses: Tensor
    weights: Tensor
    gramian: Tensor | None
    present: tuple[bool, ...]
    dropped: tuple[bool, ...]
    overflowed: tuple[bool, ...]
    reduced: tuple[nn.Parameter, ...]


class Common(TypedDict, total=False):
    """The options that every balancer takes.

    Attributes:
        tasks: The tasks (or their names) in declared order; None takes the order of each step's losses,
            which is enough for rules without state.
        scope: Where per-task gradients are taken: over all ``"parameters"`` that tasks share, exactly; at
            the ``"features"`` behind a cut, at the cost of little more than a plain step; over the
            ``"last_layer"`` that tasks share; or over the parameters of modules, by a list of their names.
            What is shared and not compared gets the weighted gradient. None takes the rule's usual scope;
            rules on losses have none.
        heads: What parameters that tasks do not share get: the sum of the tasks' ``"own"`` gradients, or the
            ``"weighted"`` sum. None takes the rule's usual convention: ``"own"`` for most rules on gradients,
            so that a head keeps learning while its task's weight is zero. Rules on losses are gradients of
            one objective: always ``"weighted"``.
        reduction: What equal gradients g of T tasks give: T g (``"sum"``) or g (``"mean"``), so that a
            learning rate means the same for all rules. None leaves the rule as its paper has it
            (``natural``).
        every: Steps for which weights are used before they are computed again; a change in which tasks are
            present computes them at once. Steps in between cost what a weighted sum costs. Of a rule that
            gives a direction, those of the nearest combination are used again.
    """

    tasks: Sequence[str | Task] | None
    scope: Scope | Sequence[str] | None
    heads: Heads | None
    reduction: Reduction | None
    every: int


class Balancer(nn.Module):
    """Combines the losses of T tasks into the gradients of one step.

    A subclass declares ``needs`` and writes one method: :meth:`weights` (or :meth:`combine`, if its rule
    gives a direction). Its state lives in buffers, so that ``.to(device)`` and checkpoints work. Everything
    else (taking gradients, leaving out absent tasks, summing over processes and micro-batches) is done here.

    With one declared task there is nothing to balance: its weight is 1, and no rule is asked.

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
        common: See :class:`Common`.

    Raises:
        ConfigurationError: For an unknown scope or convention, or one that the rule cannot have.
    """

    needs: Needs
    kept_weights: Tensor
    kept_heads: Tensor
    kept_present: Tensor
    natural: ClassVar[Reduction] = "sum"
    scopes: ClassVar[tuple[Scope, ...]] = GRADIENTS
    default_scope: ClassVar[Scope] = "parameters"
    default_heads: ClassVar[Heads] = "own"

    def __init__(self, **common: Unpack[Common]) -> None:
        super().__init__()
        for option in common:
            if option not in Common.__annotations__:
                raise ConfigurationError(
                    f"{type(self).__name__} has no option {option!r}{nearest(option, Common.__annotations__)}"
                )
        tasks, scope = common.get("tasks"), common.get("scope")
        self.tasks = None if tasks is None else tuple(t if isinstance(t, str) else t.name for t in tasks)
        if self.tasks is not None and len(set(self.tasks)) < max(len(self.tasks), 1):
            raise ConfigurationError(
                f"tasks are named once each, and there is at least one; got {self.tasks}"
            )
        self.scope, self.module_names = self._checked_scope(scope)
        self.heads = self._checked_heads(common.get("heads"))
        self.reduction = common.get("reduction")
        if self.reduction not in (None, "sum", "mean"):
            raise ConfigurationError(f"reduction is sum, mean or null, got {self.reduction!r}")
        self.every = common.get("every", 1)
        if self.every < 1:
            raise ConfigurationError(f"every is 1 or more steps, got {self.every}")
        self.drops = False
        """Whether a task whose loss or gradient is not finite is left out of the step (see
        :attr:`BalancerReport.dropped`); otherwise the whole update is not finite. To find whose gradient it
        is, rules on losses then take each task's whole gradient."""
        self._declared: dict[str, float] = {}
        self._preference: Preference | None = None
        self._cut: Cut | None = None
        self._step: Any = None
        self._samples: dict[int, Rows] = {}
        self.age = 0
        """Steps since the weights were computed."""
        if self.every > 1:
            for name in ("kept_weights", "kept_heads", "kept_present"):
                self.declare_state(name)

    # What a rule writes.

    def weights(self, seen: Observation) -> Tensor:
        """The factor of each present task's gradient, ``[P]``.

        Args:
            seen: What ``needs.quantity`` asked for.
        """
        raise NotImplementedError(f"{type(self).__name__} has no weights: it gives a direction")

    def combine(self, jacobian: Tensor, seen: Observation) -> Tensor:
        """The update ``[D]`` from the present tasks' gradients ``[P, D]``, if ``needs.direction``."""
        raise NotImplementedError(f"{type(self).__name__} has no direction: it gives weights")

    def head_weights(self, seen: Observation) -> Tensor:
        """The factor of each present task's head ``[P]``, if a rule that gives a direction has any."""
        raise NotImplementedError(f"{type(self).__name__} has no weights for heads")

    def observe(self, seen: Observation) -> None:
        """Called at the end of every step, with the losses (and the Gramian, if gradients were taken)."""

    def before_update(self, probe: Probe) -> None:
        """Called before the step's own forward pass if ``needs.look_ahead``."""

    def after_update(self, losses: Any) -> None:
        """Called after the optimizer's step if ``needs.closure``.

        Args:
            losses: A function of no arguments that evaluates the losses ``[T]`` of the same batch again,
                without gradient and without touching running statistics (see
                :func:`~plait.balancing.untouched`); zero for absent tasks.
        """

    def at_cut(self, channels: Mapping[str, Sequence[int]]) -> nn.Module | None:
        """What the rule puts between encoder and decoder, in training and ever after; None for most.

        It becomes ``at_cut`` of the network (see :func:`plait.create_model`) and maps pyramids by task to
        pyramids of the same shapes.

        Args:
            channels: Channels of each level of each task's pyramid.
        """
        return None

    def attach(self, model: nn.Module) -> None:
        """Called once with the network that will be trained, before its first step.

        Raises:
            ConfigurationError: If the rule cannot work with it.
        """

    def see_scores(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Called after each evaluation if ``needs.scores``, with ``{task: {measure: value}}``."""

    def end_epoch(self) -> None:
        """Called at the end of each epoch if ``needs.epoch_end``."""

    # What a rule may use.

    def declare_state(self, name: str) -> None:
        """A buffer whose size is known at the first step only; :meth:`state` makes it."""
        self._declared[name] = 0.0
        self.register_buffer(name, torch.empty(0))

    def state(
        self,
        name: str,
        *shape: int,
        fill: float = 0.0,
        dtype: torch.dtype = torch.float64,
        like: Tensor | None = None,
    ) -> Tensor:
        """The declared buffer of a name, made now if it is not there yet.

        Args:
            name: As it was declared.
            shape: Its shape.
            fill: Its values at first.
            dtype: Its type.
            like: A tensor on the device where it belongs; None for the default device.

        Raises:
            ConfigurationError: If it is there with another shape: tasks or parameters have changed.
        """
        found: Tensor = getattr(self, name)
        if found.numel() and like is not None and found.device != like.device:
            found = found.to(like.device)
            setattr(self, name, found)
        if found.numel() == 0:
            device = None if like is None else like.device
            found = torch.full(
                shape, fill, dtype=dtype if device is None else fitting(dtype, device), device=device
            )
            self._declared[name] = fill
            setattr(self, name, found)
        if found.shape != shape:
            raise ConfigurationError(
                f"the state {name!r} of {type(self).__name__} is {list(found.shape)}, but this step asks for "
                f"{list(shape)}: use one balancer for one set of tasks and parameters"
            )
        return found

    def reseed(self, seed: int) -> None:
        """Makes its random numbers those of a run's seed."""
        for part in self.modules():
            if isinstance(part, Draws):
                part.reseed(seed)

    def set_preference(self, preference: Preference | None) -> None:
        """Keeps the preference of a rule that has one, a number a task, by name or in declared order.

        Raises:
            ConfigurationError: If a task is unknown, a number negative or not finite, or none is positive; or
                if there are more or fewer numbers than tasks.
        """
        self._preference = preference
        if preference is None:
            return
        named = isinstance(preference, Mapping)
        if named and self.tasks is None:
            raise ConfigurationError(
                "a preference by name needs tasks: pass tasks=[...] or a list of numbers"
            )
        if named:
            for name in preference:
                if name not in (self.tasks or ()):
                    raise ConfigurationError(
                        f"a preference is given for {name!r}{nearest(str(name), self.tasks or ())}; "
                        f"the tasks are {', '.join(self.tasks or ())}"
                    )
        values = list(preference.values()) if isinstance(preference, Mapping) else list(preference)
        if not (all(math.isfinite(v) and v >= 0 for v in values) and any(v > 0 for v in values)):
            raise ConfigurationError(
                f"a preference is finite, not negative, and positive for some task; got {values}"
            )
        if not named and self.tasks is not None and len(values) != len(self.tasks):
            raise ConfigurationError(
                f"a preference is given for {len(values)} tasks, but there are {len(self.tasks)}: "
                f"one number each"
            )

    def preference_of(self, seen: Observation) -> Tensor | None:
        """The preference of the present tasks ``[P]``, float64, with sum 1; None if none was given.

        Tasks that a mapping does not name have preference 0; where no present task has any, all are equal.

        Raises:
            ConfigurationError: If it is given for another number of tasks.
        """
        given = self._preference
        if given is None:
            return None
        if isinstance(given, Mapping):
            values = [float(given.get(name, 0.0)) for name in self.tasks or ()]
        else:
            values = [float(value) for value in given]
        if len(values) != seen.total:
            raise ConfigurationError(
                f"a preference is given for {len(values)} tasks, but there are {seen.total}: one number each"
            )
        present = torch.tensor([values[place] for place in seen.places], dtype=torch.float64)
        total = present.sum()
        return present / total if total > 0 else torch.full_like(present, 1 / len(present))

    def losses_of(self, seen: Observation) -> Tensor:
        """The losses ``[P]``.

        Raises:
            ConfigurationError: If :meth:`direction` was not given any.
        """
        if seen.losses is None:
            raise ConfigurationError(f"{type(self).__name__} looks at the losses: pass direction(J, losses)")
        return seen.losses

    # What a user calls.

    def direction(self, jacobian: Tensor, losses: Tensor | None = None) -> Tensor:
        """The rule alone: per-task gradients ``[T, D]`` to the update ``[D]``.

        Args:
            jacobian: One gradient a row.
            losses: ``[T]``, for rules that look at them.

        Raises:
            ConfigurationError: If the rule needs losses and got none, or the shapes are others.
        """
        if jacobian.ndim != 2 or not len(jacobian) or not jacobian.is_floating_point():
            raise ConfigurationError(
                f"direction takes gradients [T, D], floating point; "
                f"got {list(jacobian.shape)}, {jacobian.dtype}"
            )
        if losses is not None and losses.shape != jacobian.shape[:1]:
            raise ConfigurationError(
                f"direction takes a loss for each of {len(jacobian)} gradients, got {list(losses.shape)}"
            )
        if self.needs.quantity == "losses" and losses is None:
            raise ConfigurationError(f"{type(self).__name__} weighs by the losses: pass direction(J, losses)")
        if len(jacobian) == 1:
            return jacobian[0].detach().clone()
        places = tuple(range(len(jacobian)))
        gramian = _gramian(jacobian) if self.needs.gradients else None
        seen = Observation(
            places=places,
            total=len(jacobian),
            losses=None if losses is None else losses.detach().double(),
            gramian=gramian,
            jacobian=jacobian.detach() if self.needs.quantity == "jacobian" else None,
            shapes=(tuple(jacobian.shape[1:]),) if self.needs.quantity == "jacobian" else (),
        )
        seen = seen.heard()
        if not seen.places:
            return torch.zeros_like(jacobian[0])
        factor = self.factor(seen)
        if self.needs.direction:
            assert seen.jacobian is not None
            return self.combine(seen.jacobian, seen) * factor
        # In float64: gradients may all but cancel, and rounded weights would be left.
        weights, rows = (self.weights(seen) * factor).detach(), jacobian.detach()[list(seen.places)]
        wide = widest(jacobian.device)
        return (weights.to(jacobian.device, wide) @ rows.to(wide)).to(jacobian.dtype)

    def factor(self, seen: Observation) -> float:
        """What the rule's result is multiplied by to follow ``reduction``."""
        if self.reduction in (None, self.natural):
            return 1.0
        count = len(seen.places)
        return float(count) if self.reduction == "sum" else 1 / count

    def reuses(self, present: Sequence[bool]) -> bool:
        """Whether a step in which these of all tasks are present will use weights that are there already.

        Then it needs no independent batches and no look ahead.
        """
        from plait.balancing.steps import reusable

        return not self.drops and reusable(self, present, torch.zeros(len(present))) is not None

    def compared_in(self, model: nn.Module) -> list[nn.Parameter] | None:
        """The parameters of the modules that ``scope`` names; None if it names none.

        Raises:
            ConfigurationError: If the model has no such module, or the module no parameter.
        """
        if self.scope != "modules" or not self.module_names:
            return None
        parts = dict(model.named_modules())
        found: dict[nn.Parameter, None] = {}
        for name in self.module_names:
            if name not in parts or not any(True for _ in parts[name].parameters()):
                raise ConfigurationError(
                    f"scope names the module {name!r}, which the network has not or which has no "
                    f"parameters{nearest(name, list(parts))}"
                )
            found |= dict.fromkeys(parts[name].parameters())
        return list(found)

    @contextmanager
    def cut(self, features: Any) -> Iterator[Any]:
        """Hands features on as detached leaves, and leads :meth:`backward` through the cut.

        Heads run on what is given out, and :meth:`backward` is called inside the block. Gradients at the
        leaves are partial derivatives, also in a pyramid whose levels were computed from one another. Losses
        may reach the encoder through them only. Rules that take no gradients get the features themselves.

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
        compared: Iterable[nn.Parameter] | None = None,
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
                computed for tasks that do not use it. Needed for the scope ``"parameters"``; elsewhere they
                are found if not given.
            features: Tensors inside the graph at which gradients are taken, if :meth:`cut` is not used;
                none may be computed from another.
            compared: The parameters over which gradients are compared, for the scopes ``"last_layer"``
                (found behind the cut if not given) and modules (see :meth:`compared_in`).
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
        from plait.balancing.steps import Inputs, take

        given = Inputs(losses, parameters, features, compared, others, present, penalty, scale)
        report = take(self, given, last=True)
        assert report is not None
        return report

    def collect(
        self,
        losses: Losses,
        *,
        parameters: Parameters | None = None,
        features: Tensor | Sequence[Tensor] | None = None,
        compared: Iterable[nn.Parameter] | None = None,
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
        from plait.balancing.steps import Inputs, take

        take(
            self, Inputs(losses, parameters, features, compared, others, present, penalty, scale), last=False
        )

    def sample(
        self,
        number: int,
        losses: Losses,
        *,
        parameters: Parameters | None = None,
        compared: Iterable[nn.Parameter] | None = None,
        present: Present | None = None,
        scale: Tensor | float | None = None,
    ) -> None:
        """Takes the gradients of an independent batch, of which the rule wants ``needs.extra_batches``.

        To be called for each of them (and each of their micro-batches) before the step's own
        :meth:`backward`. No ``.grad`` is touched.

        Args:
            number: Which of the independent batches this is, from 0.
            losses: As for :meth:`backward`, and so are the others.
            parameters: What the tasks share.
            compared: Where gradients are compared over a part of it.
            present: Which tasks have labels in it.
            scale: The loss scale.

        Raises:
            ConfigurationError: If the rule does not want so many.
        """
        from plait.balancing.steps import Inputs, take_sample

        if not 0 <= number < self.needs.samples:
            raise ConfigurationError(
                f"{type(self).__name__} wants {self.needs.samples} independent batches, got number {number}"
            )
        take_sample(self, number, Inputs(losses, parameters, None, compared, None, present, None, scale))

    def discard(self) -> None:
        """Forgets the micro-batches and independent batches of a step that will not be finished.

        For a loop that goes on after an error (out of memory, say) between :meth:`collect` or
        :meth:`sample` and :meth:`backward`; without it they would count in the next step.
        """
        self._step = None
        self._samples = {}

    # How it is done; the rest is in :mod:`plait.balancing.steps`.

    def _checked_scope(self, scope: Scope | Sequence[str] | None) -> tuple[Scope | None, tuple[str, ...]]:
        rule = type(self).__name__
        if not self.needs.gradients:
            if scope is not None:
                raise ConfigurationError(f"{rule} takes no gradients, so it has no scope, got {scope!r}")
            return None, ()
        allowed = [s for s in self.scopes if s in ("parameters", "features") or not self.needs.direction]
        if scope is None:
            return self.default_scope, ()
        if not isinstance(scope, str):
            if "modules" not in allowed or not scope:
                raise ConfigurationError(
                    f"{rule} takes gradients over {' or '.join(allowed)}, got the modules {list(scope)!r}"
                )
            return "modules", tuple(scope)
        if scope not in allowed or (scope == "modules" and self.needs.direction):
            raise ConfigurationError(
                f"the scope of {rule} is {' or '.join(s for s in allowed if s != 'modules')}"
                f"{', or a list of names of modules' if 'modules' in allowed else ''}, got {scope!r}"
            )
        return scope, ()

    def _checked_heads(self, heads: Heads | None) -> Heads:
        if not self.needs.gradients:
            known: tuple[Heads, ...] = ("weighted",)
        elif self.needs.direction and type(self).head_weights is Balancer.head_weights:
            known = ("own",)
        else:
            known = ("own", "weighted")
        if heads is None:
            return self.default_heads if self.default_heads in known else known[0]
        if heads not in known:
            raise ConfigurationError(
                f"heads of {type(self).__name__} get {' or '.join(known)} gradients, got {heads!r}"
            )
        return heads

    def get_extra_state(self) -> Tensor:
        """How many steps the kept weights have been used for."""
        return torch.tensor([self.age])

    def set_extra_state(self, state: Tensor) -> None:
        """Takes back what was saved."""
        self.age = int(state[0])

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Makes room for state whose size a fresh balancer does not know yet."""
        for name in self._declared:
            saved = state_dict.get(prefix + name)
            if isinstance(saved, Tensor) and saved.shape != getattr(self, name).shape:
                setattr(self, name, torch.empty_like(saved, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _names(self, given: Mapping[str, Any], known: Sequence[str] | None) -> tuple[str, ...]:
        names = tuple(known or given)
        for name in given:
            if name not in names:
                raise ConfigurationError(
                    f"the balancer knows no task {name!r}{nearest(name, names)}; "
                    f"its tasks are {', '.join(names)}"
                )
        return names

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


def fitting(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """A type, or the widest that the device has."""
    return widest(device) if dtype == torch.float64 else dtype


def _gramian(jacobian: Tensor) -> Tensor:
    rows = Rows()
    for place, row in enumerate(jacobian.detach()):
        rows.add(jacobian, place, row)
    return rows.gramian(len(jacobian))
