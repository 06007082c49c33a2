"""One step of a balancer: gradients of all micro-batches and processes, the rule, and what it writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, BalancerReport, Losses, Observation, Parameters, Present
from plait.balancing.gradients import (
    PENALTY,
    Cut,
    Rows,
    accumulate,
    last_weight,
    reached,
    sharded,
    widened,
    widest,
)
from plait.balancing.passes import Pass
from plait.errors import ConfigurationError
from plait.training.distributed import anywhere, broadcast_, reduce_sum, reduce_sums, world_size

if TYPE_CHECKING:
    Users = Mapping[nn.Parameter, tuple[int, ...]]


@dataclass(frozen=True)
class Inputs:
    """What a caller gave for one micro-batch; see :meth:`Balancer.backward`."""

    losses: Losses
    parameters: Parameters | None
    features: Tensor | Sequence[Tensor] | None
    compared: Iterable[nn.Parameter] | None
    others: Iterable[nn.Parameter] | None
    present: Present | None
    penalty: Tensor | None
    scale: Tensor | float | None


@dataclass
class Step:
    """What has been collected of a step so far."""

    present: tuple[bool, ...]
    losses: Tensor
    shared: Rows = field(default_factory=Rows)
    """Rows of what tasks share, as far as they are kept."""
    heads: Rows = field(default_factory=Rows)
    """Rows of the rest, if they are kept and not added to ``.grad`` at once."""
    compared: Rows = field(default_factory=Rows)
    """Rows of the parameters over which gradients are compared, if that is a part of what is shared."""
    scope: dict[nn.Parameter, tuple[int, ...]] = field(default_factory=dict)
    over: dict[nn.Parameter, tuple[int, ...]] = field(default_factory=dict)
    """The parameters of ``compared`` and their users."""
    gramian: Tensor | None = None
    weights: Tensor | None = None
    head_weights: Tensor | None = None
    direction: dict[Tensor, Tensor] | None = None
    dropped: tuple[bool, ...] = ()
    overflowed: tuple[bool, ...] = ()

    @property
    def places(self) -> tuple[int, ...]:
        return tuple(place for place, present in enumerate(self.present) if present)

    def by_place(self, weights: Tensor) -> dict[int, Tensor]:
        """The weights of the present tasks, and of the penalty."""
        return {**{place: weights[place] for place in self.places}, PENALTY: weights.new_ones(())}


@contextmanager
def full_precision() -> Iterator[None]:
    """No autocast: what is computed from gradients keeps their precision, wherever it is asked for."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@full_precision()
def take(balancer: Balancer, given: Inputs, *, last: bool) -> BalancerReport | None:
    """Takes a micro-batch; after the last one, writes the update and reports."""
    step, balancer._step = balancer._step, None
    named, names, total = placed(balancer, given.losses)
    scope, reach = shared(balancer, given.parameters, total)
    if step is None:
        step = begun(balancer, given, named, names, total, reach)
    else:
        refuse_late(balancer, step, named, said(balancer, names, total, given.present))
    step.scope |= scope
    terms = [(place, loss) for place, loss in named.items() if step.present[place]]
    for place, loss in terms:
        step.losses[place] += loss.detach()
    if given.penalty is not None:
        terms.append((PENALTY, given.penalty))
    if terms and world_size() == 1 and not any(loss.requires_grad for _, loss in terms):
        raise ConfigurationError(
            "no loss requires a gradient: pass losses with their graph, neither detached nor under no_grad"
        )
    terms = [(place, loss) for place, loss in terms if loss.requires_grad]
    others = None if given.others is None else list(given.others)
    graph = Pass(terms, scope, reach, others, given.scale)
    refuse_past_cut(balancer, graph)
    if last:
        step.losses = reduce_sum(step.losses)

    if balancer.needs.gradients or balancer.drops:
        refuse_sharded(balancer, graph)
    reduced: tuple[nn.Parameter, ...] = ()
    if step.weights is None and balancer.needs.quantity == "nothing" and not balancer.drops:
        ask(balancer, step, Observation(step.places, total))
    if step.weights is not None:
        backward_with(balancer, step, graph, given)
    elif not balancer.needs.gradients:
        backward_from_losses(balancer, step, graph, last=last)
    else:
        cut = balancer._cut or balancer._uncut(given.features)
        if balancer.scope == "parameters" or (cut is None and balancer.scope != "features"):
            backward_over_parameters(balancer, step, graph, cut, given, last=last)
            reduced = tuple(step.scope)
        else:
            backward_at_cut(balancer, step, graph, cut, given, last=last)
    if not last:
        balancer._step = step
        return None
    assert step.weights is not None
    finished(balancer, step, total)
    nobody = (False,) * total
    return BalancerReport(
        step.losses,
        step.weights,
        step.gramian,
        step.present,
        step.dropped or nobody,
        step.overflowed or nobody,
        reduced,
    )


@full_precision()
def take_sample(balancer: Balancer, number: int, given: Inputs) -> None:
    """Adds the gradients of an independent batch to those that the rule will compare."""
    named, names, total = placed(balancer, given.losses)
    scope, reach = shared(balancer, given.parameters, total)
    flags = presence(balancer, named, names, total, given.present)
    terms = [(place, loss) for place, loss in named.items() if flags[place] and loss.requires_grad]
    graph = Pass(terms, scope, reach, None, given.scale)
    refuse_past_cut(balancer, graph)
    refuse_sharded(balancer, graph)
    over: Mapping[nn.Parameter, tuple[int, ...]] = scope
    if balancer.scope != "parameters":
        over = among(given.compared, scope, total)
    if not over:
        raise ConfigurationError(
            f"{type(balancer).__name__} compares gradients of independent batches over parameters that tasks "
            f"share and got none: pass parameters= (and compared= for scope {balancer.scope!r}) to sample()"
        )
    graph.rows_over(over, balancer._cut, balancer._samples.setdefault(number, Rows()))


def backward_with(balancer: Balancer, step: Step, graph: Pass, given: Inputs) -> None:
    """One backward with weights that are known already."""
    assert step.weights is not None
    cut = balancer._cut or (balancer._uncut(given.features) if balancer.needs.gradients else None)
    heads = torch.ones_like(step.weights) if balancer.heads == "own" else step.head_weights
    if cut is not None:
        graph.backward_through(cut, step.weights, heads, scoped=balancer.scope == "parameters")
    elif heads is not None:
        graph.backward_apart(step.weights, heads)
    else:
        graph.backward(step.weights)


def backward_from_losses(balancer: Balancer, step: Step, graph: Pass, *, last: bool) -> None:
    """Rules on losses: one backward, or rows of everything where the weights come after several."""
    if last and not step.shared.blocks and not balancer.drops:
        ask(balancer, step, seen_of(balancer, step))
        assert step.weights is not None
        graph.backward(step.weights)
        return
    graph.rows_of_everything(step.shared)
    if last:
        if balancer.drops:
            drop(step, step.shared.gramian(len(step.present)))
        ask(balancer, step, seen_of(balancer, step))
        assert step.weights is not None
        write(step.shared, step.by_place(step.weights))


def backward_over_parameters(
    balancer: Balancer, step: Step, graph: Pass, cut: Cut | None, given: Inputs, *, last: bool
) -> None:
    """Rows of everything that tasks share; after the last micro-batch their sums, and the rule."""
    rule, total = type(balancer).__name__, len(step.present)
    if not step.scope and total > 1:
        raise ConfigurationError(
            f"{rule} compares gradients of parameters that tasks share and got none: "
            f"pass parameters=, or use 'equal' where the encoder shares nothing"
        )
    if balancer.scope != "parameters":
        step.over |= among(given.compared, step.scope, total)
        if not step.over:
            raise ConfigurationError(
                f"{rule} compares gradients over {balancer.scope}, but got none that tasks share: pass "
                f"compared=[...] among parameters=, run the heads in 'with balancer.cut(features)', or use "
                f"scope='parameters'"
            )
    kept = balancer.heads == "weighted" or balancer.drops
    graph.rows_of_parameters(step.shared, step.heads if kept else None, cut)
    if not last:
        return
    rows = step.shared
    blocks = [
        (parameter, place)
        for parameter, users in step.scope.items()
        for place in (*users, PENALTY)
        if place == PENALTY or step.present[place]
    ]
    add_over_processes(rows, blocks)
    compared = rows.laid_out(step.over or step.scope)
    step.gramian = compared.gramian(total).to(step.losses.device)
    if balancer.drops:
        drop(step, step.gramian)
    ask(balancer, step, seen_of(balancer, step, compared), compared)
    assert step.weights is not None
    if step.direction is None:
        write(rows, step.by_place(step.weights))
    else:
        for parameter, gradient in step.direction.items():
            accumulate(parameter, gradient)
        write(rows, {PENALTY: step.weights.new_ones(())})
    write_heads(balancer, step)


def backward_at_cut(
    balancer: Balancer, step: Step, graph: Pass, cut: Cut | None, given: Inputs, *, last: bool
) -> None:
    """Rows at the features, carried to the compared parameters if asked; one backward through the encoder."""
    rule, total = type(balancer).__name__, len(step.present)
    if cut is None:
        raise ConfigurationError(
            f"{rule} at features needs a cut, and this encoder has none (or "
            f"'with balancer.cut(features) as leaves:' is missing)"
            f"{': use scope=' + repr('parameters') if 'parameters' in balancer.scopes else ''}"
        )
    kept = balancer.heads == "weighted" or balancer.drops
    rows = graph.rows_at(cut, step.heads if kept else None)
    if balancer.scope == "features":
        gramian = rows.gramian(total).to(step.losses.device) / graph.factor**2
        step.gramian = gramian if step.gramian is None else step.gramian + gramian
        if balancer.needs.quantity == "jacobian" and (not last or step.shared.blocks):
            raise ConfigurationError(
                f"{rule} at features looks at each feature of the batch, so it cannot accumulate gradients "
                f"over micro-batches: use scope='parameters'"
            )
    else:
        if not step.over:
            step.over = compared_behind(balancer, step, cut, rows, given)
        graph.carried(cut, rows, step.over, step.compared, keep=True)
    if not last:
        graph.rows_behind(cut, rows, step.shared)
        return
    if balancer.scope == "features":
        assert step.gramian is not None
        step.gramian = reduce_sum(step.gramian)
        read = anywhere([leaf in rows.blocks for leaf in cut.leaves])
        compared = rows.laid_out(leaf for leaf, anyone in zip(cut.leaves, read, strict=True) if anyone)
    else:
        blocks = [(p, place) for p, users in step.over.items() for place in users if step.present[place]]
        add_over_processes(step.compared, blocks)
        compared = step.compared.laid_out(step.over)
        step.gramian = compared.gramian(total).to(step.losses.device)
    if balancer.drops:
        drop(step, step.gramian)
    divisor = graph.factor if balancer.scope == "features" else 1.0
    ask(balancer, step, seen_of(balancer, step, compared, divisor, cut), compared, divisor)
    assert step.weights is not None
    at = rows.combine(step.by_place(step.weights))
    if step.direction is not None:
        at = rows.combine({PENALTY: step.weights.new_ones(())})
        for leaf, gradient in step.direction.items():
            scaled = gradient * graph.factor
            at[leaf] = at[leaf] + scaled if leaf in at else scaled
    graph.backward_from(cut, at)
    write(step.shared, step.by_place(step.weights))
    write_heads(balancer, step)


def seen_of(
    balancer: Balancer,
    step: Step,
    rows: Rows | None = None,
    divisor: Tensor | float = 1.0,
    cut: Cut | None = None,
) -> Observation:
    """What the rule is shown of a step whose rows are complete."""
    places, total = list(step.places), len(step.present)
    jacobian, values = None, None
    tensors: tuple[Tensor, ...] = ()
    if rows is not None and balancer.needs.quantity == "jacobian" and places and rows.blocks:
        jacobian = widened(rows.jacobian(places))
        if isinstance(divisor, Tensor) or divisor != 1.0:
            jacobian /= divisor
        tensors = tuple(rows.blocks)
        if cut is not None and balancer.scope == "features":
            values = torch.cat([tensor.detach().reshape(-1) for tensor in rows.blocks])
    return Observation(
        places=step.places,
        total=total,
        losses=step.losses[places],
        gramian=None if step.gramian is None else step.gramian[places][:, places],
        jacobian=jacobian,
        cross=crossed(balancer, step),
        shapes=tuple(tuple(tensor.shape) for tensor in tensors),
        values=values,
        tensors=tensors,
    )


def ask(
    balancer: Balancer,
    step: Step,
    seen: Observation,
    rows: Rows | None = None,
    divisor: Tensor | float = 1.0,
) -> None:
    """Asks the rule for its weights (or direction), ``[T]``, equal on every process."""
    if balancer.drops:
        reuse(balancer, step)
        if step.weights is not None:
            return
    step.weights = torch.zeros_like(step.losses)
    if not step.places:
        return
    if len(step.present) == 1:
        step.weights[0] = 1.0
        return
    places = list(step.places)
    if balancer.needs.gradients:
        assert seen.gramian is not None
        assert seen.losses is not None
        known = [seen.gramian, seen.losses, *([] if seen.cross is None else [seen.cross])]
        if not all(bool(tensor.isfinite().all()) for tensor in known):
            step.weights[places] = torch.nan
            step.overflowed = overflowed(step, step.gramian)
            return
        seen = seen.heard()
        places = list(seen.places)
        if not places:
            return
    with unless_finite(balancer, seen.losses):
        factor = balancer.factor(seen)
        if not balancer.needs.direction:
            step.weights[places] = (balancer.weights(seen).detach() * factor).to(step.weights)
        elif rows is not None and seen.jacobian is not None:
            vector = balancer.combine(seen.jacobian, seen).detach() * factor
            step.direction = rows.split(vector)
            along = rows.times(step.direction, len(step.present)).to(step.losses) / divisor
            if balancer.scope == "features":
                along = reduce_sum(along)
            assert seen.gramian is not None
            inverse = torch.linalg.pinv(seen.gramian, hermitian=True)
            step.weights[places] = (inverse @ along[places].to(inverse)).to(step.weights)
            if balancer.heads == "weighted":
                step.head_weights = torch.zeros_like(step.losses)
                step.head_weights[places] = (balancer.head_weights(seen).detach() * factor).to(step.losses)
    broadcast_(step.weights)
    keep(balancer, step)


class unless_finite:  # noqa: N801 - reads as a statement
    """Puts a rule's buffers back as they were if the losses of the step were not finite, without waiting.

    A rule on gradients is not asked then in the first place: the host has read its Gramian.
    """

    def __init__(self, balancer: Balancer, losses: Tensor | None) -> None:
        self.balancer = balancer
        self.good = None if losses is None or balancer.needs.gradients else losses.isfinite().all()

    def __enter__(self) -> None:
        kept = self.balancer.named_buffers() if self.good is not None else ()
        self.before = {name: buffer.clone() for name, buffer in kept if buffer.numel()}

    def __exit__(self, *_: object) -> None:
        if self.good is None:
            return
        with torch.no_grad():
            for name, buffer in self.balancer.named_buffers():
                fill = self.balancer._declared.get(name, 0.0)
                before = self.before.get(name, torch.full_like(buffer, fill))
                buffer.copy_(torch.where(self.good.to(buffer.device), buffer, before))


def reusable(balancer: Balancer, present: Sequence[bool], like: Tensor) -> Tensor | None:
    """The kept weights, if they were computed less than ``every`` steps ago for the same tasks."""
    if balancer.every == 1 or balancer.age >= balancer.every:
        return None
    kept, flags = balancer.kept_weights, balancer.kept_present
    if kept.numel() == 0 or flags.tolist() != [float(flag) for flag in present]:
        return None
    return kept.to(like, copy=True) if bool(kept.isfinite().all()) else None


def keep(balancer: Balancer, step: Step) -> None:
    """Keeps the weights for the steps to come, if they are to be used again."""
    if balancer.every > 1 and step.weights is not None:
        total = len(step.present)
        balancer.state("kept_weights", total, like=step.weights).copy_(step.weights)
        balancer.state("kept_present", total).copy_(torch.tensor(step.present))
        if step.head_weights is not None:
            balancer.state("kept_heads", total, like=step.weights).copy_(step.head_weights)
        balancer.age = 0


def finished(balancer: Balancer, step: Step, total: int) -> None:
    """Lets the rule observe the step."""
    balancer._samples = {}
    balancer.age += 1
    places = list(step.places)
    assert step.weights is not None
    if not places or total == 1 or type(balancer).observe is Balancer.observe:
        return
    if balancer.needs.gradients and not bool(torch.cat([step.losses, step.weights]).isfinite().all()):
        return
    gramian = None if step.gramian is None else step.gramian[places][:, places]
    seen = Observation(step.places, total, losses=step.losses[places], gramian=gramian)
    with unless_finite(balancer, seen.losses):
        balancer.observe(seen)


def drop(step: Step, gramian: Tensor) -> None:
    """Takes the tasks whose loss or gradient is not finite out of the step."""
    good = (step.losses.isfinite() & gramian.diagonal().isfinite().to(step.losses.device)).tolist()
    # Rows may still be this process's share: what overflowed anywhere is dropped everywhere.
    bad = anywhere([present and not fine for present, fine in zip(step.present, good, strict=True)])
    step.dropped = tuple(bad)
    step.overflowed = tuple(anywhere(overflowed(step, gramian)))
    step.present = tuple(present and not flag for present, flag in zip(step.present, bad, strict=True))
    zero = torch.zeros((), dtype=step.losses.dtype, device=step.losses.device)
    lost = torch.tensor(bad, device=step.losses.device)
    step.losses = torch.where(lost, zero, step.losses)
    if step.gramian is not None:
        either = lost[:, None] | lost
        step.gramian = torch.where(either, torch.zeros_like(step.gramian), step.gramian)


def overflowed(step: Step, gramian: Tensor | None) -> tuple[bool, ...]:
    """Whose gradient was not finite, though the loss was."""
    if gramian is None:
        return ()
    bad = ~gramian.diagonal().isfinite().to(step.losses.device) & step.losses.isfinite()
    return tuple(bool(flag) for flag in bad.tolist())


def crossed(balancer: Balancer, step: Step) -> Tensor | None:
    """Inner products of the gradients on two independent batches ``[P, P]``, if the rule wants them."""
    if not balancer.needs.samples:
        return None
    if len(balancer._samples) != balancer.needs.samples:
        raise ConfigurationError(
            f"{type(balancer).__name__} wants the gradients of {balancer.needs.samples} independent batches, "
            f"got {len(balancer._samples)}: give each to balancer.sample(number, losses, parameters=...)"
        )
    first, second = (balancer._samples[number] for number in (0, 1))
    over = step.over or step.scope
    for rows in (first, second):
        add_over_processes(rows, [(p, place) for p, users in over.items() for place in users])
    places = list(step.places)
    return first.products(second, len(step.present)).to(step.losses.device)[places][:, places]


def add_over_processes(rows: Rows, blocks: Sequence[tuple[Tensor, int]]) -> None:
    """Replaces rows by their sums over processes; a block that no process has is left out."""
    if world_size() == 1:
        return
    used = anywhere([place in rows.blocks.get(tensor, {}) for tensor, place in blocks])
    rows.replace([block for block, anyone in zip(blocks, used, strict=True) if anyone], reduce_sums)


def compared_behind(
    balancer: Balancer, step: Step, cut: Cut, rows: Rows, given: Inputs
) -> dict[nn.Parameter, tuple[int, ...]]:
    """The parameters over which gradients are compared: as given, or the last layer before the features."""
    total = len(step.present)
    if not any(anywhere([bool(rows.blocks)])):
        return {}  # without any label in any process
    if given.compared is not None:
        found = among(given.compared, step.scope, total)
    elif balancer.scope == "last_layer":
        read = anywhere([leaf in rows.blocks for leaf in cut.leaves])
        known = set(step.scope) or None
        last = [last_weight(f, known) for f, anyone in zip(cut.features, read, strict=True) if anyone]
        found = among([w for w in last if isinstance(w, nn.Parameter)], step.scope, total)
    else:
        found = {}
    if not found:
        raise ConfigurationError(
            f"{type(balancer).__name__} compares gradients over {balancer.scope}, but none of them is shared "
            f"by tasks: pass compared=[...], or use scope='parameters' or 'features'"
        )
    return found


def among(
    compared: Iterable[nn.Parameter] | None, scope: Users, total: int
) -> dict[nn.Parameter, tuple[int, ...]]:
    """The compared parameters that tasks share, and which tasks these are; all tasks if nobody said."""
    everybody = tuple(range(total))
    return {
        p: scope.get(p, everybody)
        for p in dict.fromkeys(compared or ())
        if p.requires_grad and (not scope or p in scope)
    }


def write(rows: Rows, weights: Mapping[int, Tensor]) -> None:
    """Adds the weighted sum of the rows to ``.grad``."""
    for tensor, gradient in rows.combine(weights).items():
        accumulate(tensor, gradient)


def write_heads(balancer: Balancer, step: Step) -> None:
    """Adds what was kept of the parameters that tasks do not share."""
    assert step.weights is not None
    weights = step.weights if step.head_weights is None else step.head_weights
    if balancer.heads == "own":
        weights = torch.ones_like(weights)
    write(step.heads, step.by_place(weights))


def begun(
    balancer: Balancer,
    given: Inputs,
    named: Mapping[int, Tensor],
    names: Sequence[str],
    total: int,
    reach: Sequence[nn.Parameter],
) -> Step:
    """A step of which nothing is known but who takes part."""
    flags = presence(balancer, named, names, total, given.present)
    found = [*named.values(), *([] if given.penalty is None else [given.penalty]), *reach[:1]]
    device = found[0].device if found else torch.get_default_device()
    step = Step(flags, torch.zeros(total, dtype=widest(device), device=device))
    if not balancer.drops:  # else rows are taken first, to see which tasks are left
        reuse(balancer, step)
    return step


def reuse(balancer: Balancer, step: Step) -> None:
    """Gives a step the kept weights, if they are of its tasks and young enough."""
    step.weights = reusable(balancer, step.present, step.losses)
    if step.weights is not None and balancer.kept_heads.numel():
        step.head_weights = balancer.kept_heads.to(step.losses, copy=True)


def presence(
    balancer: Balancer,
    named: Mapping[int, Tensor],
    names: Sequence[str],
    total: int,
    present: Present | None,
) -> tuple[bool, ...]:
    """Which of the T tasks take part in this step."""
    told = said(balancer, names, total, present)
    if None in told:
        found = anywhere([place in named for place in range(total)])
        told = [there if flag is None else flag for flag, there in zip(told, found, strict=True)]
    return tuple(bool(flag) for flag in told)


def said(balancer: Balancer, names: Sequence[str], total: int, present: Present | None) -> list[bool | None]:
    """What the caller says of each task's presence, ``[T]``; None where that is nothing."""
    told: list[bool | None]
    if isinstance(present, Mapping):
        told = [present.get(name) for name in balancer._names(present, names)]
    elif present is None:
        told = [None] * total
    else:
        told = list(present.tolist() if isinstance(present, Tensor) else present)
    if len(told) != total:
        raise ConfigurationError(f"expected the presence of {total} tasks, got {len(told)}")
    return told


def refuse_late(
    balancer: Balancer, step: Step, named: Mapping[int, Tensor], told: Sequence[bool | None]
) -> None:
    """Refuses a loss of a task that had none in the step's first micro-batch, unless it is said to be absent.

    Raises:
        ConfigurationError: If there is one: it would be left out without a word.
    """
    late = [place for place in named if not step.present[place] and (told[place] is None or told[place])]
    if late:
        names = balancer.tasks or tuple(f"task {place}" for place in range(len(told)))
        raise ConfigurationError(
            f"{', '.join(names[place] for place in late)} had no loss in the step's first micro-batch, but "
            f"has one in a later: pass each present={{task: whether any of them in any process has a label}}"
        )


def placed(balancer: Balancer, losses: Losses) -> tuple[dict[int, Tensor], tuple[str, ...], int]:
    """The losses by place, the tasks' names as far as they are known, and T."""
    names = balancer.tasks or ()
    if isinstance(losses, Mapping):
        names = balancer._names(losses, names)
        given: Sequence[Tensor | None] = [losses.get(name) for name in names]
    elif isinstance(losses, Tensor) and losses.ndim == 0:
        raise ConfigurationError("expected a scalar loss for each task, got one scalar: pass {task: loss}")
    else:
        given = losses.unbind() if isinstance(losses, Tensor) else losses
    if names and len(given) != len(names):
        raise ConfigurationError(f"expected {len(names)} losses ({', '.join(names)}), got {len(given)}")
    for loss in given:
        if loss is not None and not (isinstance(loss, Tensor) and loss.ndim == 0):
            got = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise ConfigurationError(
                f"expected a scalar tensor as the loss of each task (or None), got {got}"
            )
    return {place: loss for place, loss in enumerate(given) if loss is not None}, names, len(given)


def shared(
    balancer: Balancer, parameters: Parameters | None, total: int
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
        found = {p: everybody for p in parameters if p.requires_grad}
        return found, list(found)
    order = balancer.tasks
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


def refuse_past_cut(balancer: Balancer, graph: Pass) -> None:
    """Refuses a cut past which a loss or the penalty reaches what should lie behind it.

    Raises:
        ConfigurationError: If one does: that part of its gradient would be lost.
    """
    if balancer._cut is None:
        return
    if graph.others is not None:
        behind = set[Tensor](graph.reach)
    else:
        behind = {*reached(balancer._cut.features), *(graph.scope if balancer.scope == "parameters" else ())}
    direct = [tensor for tensor in reached([loss for _, loss in graph.terms]) if tensor in behind]
    if direct:
        shapes = ", ".join(str(list(tensor.shape)) for tensor in direct[:3])
        raise ConfigurationError(
            f"a loss or the penalty depends on {len(direct)} parameters of the encoder past the cut (of "
            f"shapes {shapes}): hand every tensor that heads read to balancer.cut(...), and pass as "
            f"parameters= only what features are computed from"
        )


def refuse_sharded(balancer: Balancer, graph: Pass) -> None:
    """Refuses parameters of which each process holds a part.

    Raises:
        ConfigurationError: If there are any.
    """
    features = [] if balancer._cut is None else balancer._cut.features
    if sharded(chain(graph.reach, graph.others or ()), [*(loss for _, loss in graph.terms), *features]):
        what = "leaves out tasks that overflow" if balancer.drops else "takes each task's gradient"
        raise ConfigurationError(
            f"{type(balancer).__name__} {what}, but FSDP holds a part of each parameter here: use a rule "
            f"on losses (such as 'uncertainty' or 'dwa'), or train without FSDP"
        )
