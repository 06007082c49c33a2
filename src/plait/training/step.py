"""One training step, from the batch to the updated parameters."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch._functorch import config as functorch_config

from plait.balancing.base import Balancer, BalancerReport
from plait.balancing.gradients import widest
from plait.balancing.probe import Probe, RandomState, untouched
from plait.data.sample import Batch
from plait.errors import ConfigurationError, NonFiniteLossError
from plait.models.network import MultiTaskNetwork
from plait.models.parameters import last_shared_layer
from plait.tasks.base import Task
from plait.tasks.objective import losses as task_losses
from plait.training.distributed import anywhere, gathered, reduce_gradients, reduce_sum
from plait.training.precision import LossScaler, Precision, autocast

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepReport:
    """What happened in one step, in tensors that nobody has waited for.

    A step that makes an update for each task in turn reports them together; each task's loss and weight are
    those of its own update.

    Attributes:
        losses: ``{task: scalar}``, over all processes and micro-batches; zero for absent tasks.
        weights: The balancer's, ``[T]``; see :class:`~plait.balancing.BalancerReport`.
        gramian: Inner products of the tasks' gradients ``[T, T]``, if the balancer took them.
        grad_norm: Length of the whole gradient before clipping, a scalar; of several updates the largest.
        present: Whether each task had a known pixel, ``[T]`` on the host.
        finite: Whether each task's loss (and gradient, if taken, except in float16) was finite, bool ``[T]``;
            for rules on losses, its weight as well.
        dropped: Whether each task was left out of the step because its loss or gradient was not finite.
        overflowed: Whether each task's gradient was not finite though its loss was, where gradients of tasks
            were taken; in float16 an overflow.
        updated: Whether the parameters were updated, bool scalar: not if the gradient was not finite; of
            several updates, whether all were made.
        scaled: Whether a loss scale was in use, so that an update left out now and then is no error.
        ids: Names of this process's images.
    """

    losses: Mapping[str, Tensor]
    weights: Tensor
    gramian: Tensor | None
    grad_norm: Tensor
    present: tuple[bool, ...]
    finite: Tensor
    dropped: tuple[bool, ...]
    overflowed: tuple[bool, ...]
    updated: Tensor
    scaled: bool
    ids: tuple[str, ...]


def training_step(
    model: MultiTaskNetwork,
    batches: Sequence[Batch],
    balancer: Balancer,
    optimizer: torch.optim.Optimizer,
    *,
    precision: Precision = "fp32",
    clip_norm: float | None = None,
    scaler: LossScaler | None = None,
    encode: Sequence[str] | None = None,
    extra: Sequence[Sequence[Batch]] = (),
    compared: Sequence[nn.Parameter] | None = None,
) -> StepReport:
    """Updates the parameters once.

    The global batch is all ``batches`` of all processes: losses are divided by its counts of known pixels,
    so the update is the same however it is split (but for batch statistics). An update whose gradient is
    not finite is never applied. Nothing here waits for the device, except that rules on gradients read
    their ``[T, T]`` Gramian, and that an optimizer which is not fused asks whether to step.

    Args:
        model: In training mode, on the device of the batches.
        batches: The micro-batches of this process, on the model's device.
        balancer: Made for ``model.tasks``.
        optimizer: Over the model's parameters and the balancer's own.
        precision: Of the forward pass.
        clip_norm: Largest length of the whole gradient of the model; None leaves it as it is.
        scaler: Keeps float16 gradients from underflowing.
        encode: The tasks whose features are computed, if labels of no other task are among the batches; None
            for all.
        extra: The micro-batches of each independent batch that the balancer wants beside the step's own.
        compared: Where the balancer compares gradients (see :func:`compared_parameters`), if that is known.

    Raises:
        ConfigurationError: If balancer and encoder cannot work together.
    """
    optimizer.zero_grad(set_to_none=True)
    balancer.discard()  # what a step that failed may have left
    device = batches[0].images.device
    counts = global_counts(model.tasks, batches)
    present = present_tasks(model.tasks, batches)
    images = int(reduce_sum(torch.tensor(sum(len(batch.images) for batch in batches))))
    if compared is None:
        compared = compared_parameters(model, balancer)
    beginning = RandomState(device) if balancer.needs.closure else None

    with kept_graphs():
        if not balancer.reuses(list(present.values())):
            look_elsewhere(model, [batches, *extra], balancer, optimizer, compared, precision, scaler)
        for number, batch in enumerate(batches, start=1):
            with autocast(device, precision):
                pyramids = model.encoder(batch.images, encode)
            with balancer.cut(pyramids) if model.encoder.has_cut else nullcontext(pyramids) as leaves:
                with autocast(device, precision):
                    predictions = model.decode(leaves, batch.images.shape[-2:])
                    losses = task_losses(model.tasks, predictions, batch.targets, counts)
                    known = {task: loss for task, loss in losses.items() if present[task]}
                    penalties = model.decoder.loss_penalties(predictions, known)
                take = balancer.backward if number == len(batches) else balancer.collect
                balanced = take(
                    losses,
                    parameters=model.shared_parameters(),
                    compared=compared,
                    others=model.decoder.parameters(),
                    present=present,
                    penalty=mean_penalty(
                        {**predictions.penalties, **penalties}, share=len(batch.images) / images
                    ),
                    scale=None if scaler is None else scaler.scale,
                )
    assert balanced is not None  # the last call was backward

    reduce_gradients(model.parameters(), but=balanced.reduced)
    grad_norm = clip(model, clip_norm)
    # float16 overflows as a matter of course: then only a loss is somebody's fault.
    finite = finite_tasks(balanced, gradients=scaler is None)
    updated = finite.all() & grad_norm.isfinite()
    step_if(updated, optimizer)
    if scaler is not None:
        fits = grad_norm.isfinite() | ~finite.all()
        scaler.update(fits & (not any(balanced.overflowed)))
    if beginning is not None:
        balancer.after_update(lambda: losses_again(model, batches, counts, precision, beginning))
    return StepReport(
        losses={task.name: loss for task, loss in zip(model.tasks, balanced.losses, strict=True)},
        weights=balanced.weights,
        gramian=balanced.gramian,
        grad_norm=grad_norm,
        present=balanced.present,
        finite=finite,
        dropped=balanced.dropped,
        overflowed=balanced.overflowed,
        updated=updated,
        scaled=scaler is not None,
        ids=tuple(name for batch in batches for name in batch.ids),
    )


def look_elsewhere(
    model: MultiTaskNetwork,
    batches: Sequence[Sequence[Batch]],
    balancer: Balancer,
    optimizer: torch.optim.Optimizer,
    compared: Sequence[nn.Parameter] | None,
    precision: Precision,
    scaler: LossScaler | None,
) -> None:
    """Lets the balancer see independent batches, or look ahead, before the step's own pass.

    Running statistics and random numbers are as before; nothing is learned from the extra batches.

    Args:
        model: As for :func:`training_step`, and so are the others.
        batches: The micro-batches of the step's own batch, then of each extra one.
        balancer: What asks for it.
        optimizer: What will make the step.
        compared: Where gradients are compared.
        precision: Of the forward passes.
        scaler: The loss scale, if there is one.
    """
    if len(batches) - 1 < balancer.needs.extra_batches:
        raise ConfigurationError(
            f"{type(balancer).__name__} wants {balancer.needs.extra_batches} batches beside the step's own, "
            f"got {len(batches) - 1}: pass extra=[...]"
        )
    scale = None if scaler is None else scaler.scale
    if balancer.needs.look_ahead:
        names = [task.name for task in model.tasks]
        evaluations = [partial(known_losses, model, parts, precision) for parts in batches]
        balancer.before_update(Probe(model, evaluations, names, optimizer, scale=scale or 1.0))
    for number, parts in enumerate(batches[1 : 1 + balancer.needs.samples]):
        present = present_tasks(model.tasks, parts)
        counts = global_counts(model.tasks, parts)
        device = parts[0].images.device
        with untouched(model):
            for batch in parts:
                with autocast(device, precision):
                    pyramids = model.encoder(batch.images)
                with balancer.cut(pyramids) if model.encoder.has_cut else nullcontext(pyramids) as leaves:
                    with autocast(device, precision):
                        predictions = model.decode(leaves, batch.images.shape[-2:])
                        losses = task_losses(model.tasks, predictions, batch.targets, counts)
                    balancer.sample(
                        number,
                        losses,
                        parameters=model.shared_parameters(),
                        compared=compared,
                        present=present,
                        scale=scale,
                    )


def known_losses(
    model: MultiTaskNetwork, batches: Sequence[Batch], precision: Precision
) -> Iterator[dict[str, Tensor]]:
    """The losses of each micro-batch, of the tasks that have a label somewhere in the global batch."""
    counts = global_counts(model.tasks, batches)
    present = present_tasks(model.tasks, batches)
    for batch in batches:
        with autocast(batch.images.device, precision):
            losses = task_losses(model.tasks, model(batch.images), batch.targets, counts)
        yield {task: loss for task, loss in losses.items() if present[task]}


def compared_parameters(model: MultiTaskNetwork, balancer: Balancer) -> list[nn.Parameter] | None:
    """The parameters over which a balancer compares gradients, if that is a part of what tasks share.

    Raises:
        ConfigurationError: If the network has no module that the balancer's scope names, or tasks share
            nothing of it that is trained.
    """
    if balancer.scope == "last_layer":
        return last_shared_layer(model)
    found = balancer.compared_in(model)
    if found is None:
        return None
    shared = {p for tasks, listed in model.shared_parameters().items() if len(tasks) > 1 for p in listed}
    if not any(parameter in shared and parameter.requires_grad for parameter in found):
        raise ConfigurationError(
            f"scope names {', '.join(balancer.module_names)}, of which tasks share no parameter that is "
            f"trained: name modules of the encoder"
        )
    return found


def alternating_step(
    model: MultiTaskNetwork,
    batches: Sequence[Batch],
    balancer: Balancer,
    optimizer: torch.optim.Optimizer,
    *,
    precision: Precision = "fp32",
    clip_norm: float | None = None,
    scaler: LossScaler | None = None,
) -> StepReport:
    """Updates the parameters once for each task in turn, in declared order, all from the same batch.

    Each update is a :func:`training_step` on the batch without the other tasks' labels: a forward pass for
    that task only (where tasks interact in the decoder, for all), the task's loss times its weight plus the
    penalties, and a step of the optimizer over the parameters that this reaches; the others have no gradient
    and stay, momentum and decay included. A task without a known pixel in the global batch has no turn.

    Batch norms that several passes go through count the batch in each. If one of the updates is not
    finite, it is left out and the others are made.

    Args:
        model: As for :func:`training_step`, and so are the others.
        batches: The micro-batches of this process.
        balancer: One whose weights are known before the losses (see :func:`check_pair`).
        optimizer: Over the model's parameters.
        precision: Of the forward passes.
        clip_norm: Largest length of the gradient of each update.
        scaler: Keeps float16 gradients from underflowing; adapts after each update.

    Source:
        Maninis, Radosavovic and Kokkinos, Attentive Single-Tasking of Multiple Tasks, CVPR 2019, section 5.
    """
    present = present_tasks(model.tasks, batches)
    turns = [task for task, known in present.items() if known]
    reports = {
        task: training_step(
            model,
            [labelled_for(task, batch) for batch in batches],
            balancer,
            optimizer,
            precision=precision,
            clip_norm=clip_norm,
            scaler=scaler,
            encode=None if model.decoder.interacts else [task],
        )
        for task in turns or [model.tasks[0].name]  # without any label, it reports that
    }
    updates = list(reports.values())
    # The gradient of an update is its one task's, so there is no doubt whose fault it is.
    finite = {
        task: report.finite.all() if report.scaled else report.updated for task, report in reports.items()
    }
    return StepReport(
        losses={
            task: reports[task].losses[task] if task in reports else torch.zeros_like(loss)
            for task, loss in updates[0].losses.items()
        },
        weights=torch.stack([report.weights for report in updates]).sum(0),
        gramian=None,
        grad_norm=torch.stack([report.grad_norm for report in updates]).amax(),
        present=tuple(present.values()),
        finite=torch.stack([finite.get(task, torch.ones_like(updates[0].updated)) for task in present]),
        dropped=any_of([report.dropped for report in updates]),
        overflowed=any_of([report.overflowed for report in updates]),
        updated=torch.stack([report.updated for report in updates]).all(),
        scaled=scaler is not None,
        ids=updates[0].ids,
    )


def any_of(flags: Sequence[Sequence[bool]]) -> tuple[bool, ...]:
    """Whether each flag is set in any of several lists of them."""
    return tuple(any(column) for column in zip(*flags, strict=True))


def labelled_for(task: str, batch: Batch) -> Batch:
    """The batch with the labels of one task only, if it has any."""
    return replace(batch, targets={name: t for name, t in batch.targets.items() if name == task})


def check_pair(
    model: MultiTaskNetwork, balancer: Balancer, *, alternate_tasks: bool = False, accumulate: int = 1
) -> None:
    """Refuses, in one sentence, a balancer that cannot work with a network.

    Args:
        model: The network.
        balancer: The balancer.
        alternate_tasks: Whether each task has an update of its own (:func:`alternating_step`).
        accumulate: In how many parts a batch is computed.

    Raises:
        ConfigurationError: If it was made for other tasks, wants features where the encoder has no cut (or
            all of them at once where a batch comes in parts), wants shared parameters where there are none,
            or compares losses or gradients, or divides a weight among the tasks, where each task has an
            update of its own.
    """
    rule, encoder = type(balancer).__name__, type(model.encoder).__name__
    names = tuple(task.name for task in model.tasks)
    if balancer.tasks != names:
        raise ConfigurationError(
            f"the balancer was made for {', '.join(balancer.tasks or ('no tasks',))}, the network for "
            f"{', '.join(names)}: make both for the same tasks in the same order"
        )
    looks = balancer.needs.closure or balancer.needs.extra_batches > 0
    divides = "mean" in (balancer.natural, balancer.reduction)  # a task alone would always get all of it
    if alternate_tasks and (balancer.needs.quantity != "nothing" or looks or divides):
        raise ConfigurationError(
            f"{rule} weighs the tasks of one update against each other, but training.alternate_tasks gives "
            f"each task an update of its own: use balancer 'equal' or 'fixed', or leave out alternate_tasks"
        )
    if balancer.scope == "features" and not model.encoder.has_cut:
        raise ConfigurationError(
            f"{rule} takes gradients at features, but encoder {encoder} has no place to cut, "
            f"because tasks exchange features all the way: use scope 'parameters'"
        )
    shares = any(len(tasks) > 1 for tasks in model.shared_parameters())
    if balancer.scope not in (None, "features") and not shares and len(names) > 1:
        raise ConfigurationError(
            f"{rule} compares gradients of shared parameters, but encoder {encoder} shares none: "
            f"use balancer 'equal' or another encoder"
        )
    if balancer.needs.quantity == "jacobian" and balancer.scope == "features" and accumulate > 1:
        raise ConfigurationError(
            f"{rule} at features looks at each feature of the batch, so a batch cannot come in "
            f"{accumulate} parts: use scope 'parameters', or training.accumulate 1"
        )


def global_counts(tasks: Sequence[Task], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """``{task: [K]}``: the denominators of each task's loss over all micro-batches and processes.

    A task without labels here still takes part in the sum, with a target on which nothing is known.
    """
    device = batches[0].images.device
    local: dict[str, Tensor] = {}
    for task in tasks:
        targets = [batch.targets[task.name] for batch in batches if task.name in batch.targets]
        if not targets:
            targets = [task.label_type.unknown_like(1, 1)[None].to(device)]
        local[task.name] = torch.stack([task.loss.counts(target) for target in targets]).sum(0)
    sizes = [len(count) for count in local.values()]
    return dict(zip(local, torch.split(reduce_sum(torch.cat(list(local.values()))), sizes), strict=True))


def present_tasks(tasks: Sequence[Task], batches: Sequence[Batch]) -> dict[str, bool]:
    """Whether any sample of the global batch has a known pixel of each task; read on the host."""
    names = [task.name for task in tasks]
    here = [
        any(name in batch.targets and bool(batch.present[name].any()) for batch in batches) for name in names
    ]
    return dict(zip(names, anywhere(here), strict=True))


def mean_penalty(penalties: Mapping[str, Tensor], *, share: float) -> Tensor | None:
    """The sum of the penalties, times this micro-batch's ``share`` of the images of the global batch."""
    return torch.stack(list(penalties.values())).sum() * share if penalties else None


def clip(model: MultiTaskNetwork, largest: float | None) -> Tensor:
    """Shortens the whole gradient to ``largest``; returns its length before, a scalar."""
    reached = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(
        [parameter.grad for parameter in reached if parameter.grad is not None]
    )
    if largest is not None:
        torch.nn.utils.clip_grads_with_norm_(reached, largest, norm)
    return norm


@contextmanager
def kept_graphs() -> Iterator[None]:
    """The context in which compiled networks run and are differentiated, once for each task.

    By default ``torch.compile`` lets a backward overwrite what the forward kept, and refuses a second one.
    That setting belongs to a thread, so the backward must stay in this one.
    """
    with functorch_config.patch(donated_buffer=False), torch.autograd.set_multithreading_enabled(False):
        yield


def finite_tasks(balanced: BalancerReport, *, gradients: bool = True) -> Tensor:
    """Whether each task's loss, and its gradient if taken (else its weight), was finite: bool ``[T]``."""
    finite = balanced.losses.isfinite()
    if balanced.gramian is None:
        return finite & balanced.weights.isfinite()
    if not gradients:
        return finite
    return finite & balanced.gramian.diagonal().isfinite()


def negative(report: StepReport, tasks: Sequence[str]) -> list[str]:
    """The tasks whose loss is below zero, of those without a finite weight."""
    return [task for task in tasks if report.gramian is None and bool(report.losses[task] < 0)]


def culprit(report: StepReport, tasks: Sequence[str]) -> str:
    """What of the tasks was not finite: a rule with a logarithm has no finite weight for a negative loss."""
    if report.gramian is None and all(bool(report.losses[task].isfinite()) for task in tasks):
        return "weight (its loss was finite; a rule with a logarithm needs positive losses)"
    return "loss or gradient"


def step_if(apply: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Steps if ``apply`` (bool scalar), else leaves parameters and the optimizer's state untouched.

    A fused optimizer decides on the device, through the flag that ``torch.amp.GradScaler`` sets as well; for
    any other the host reads ``apply``, which costs nothing where they are the same. So it does for the first
    step of a parameter, unless it is known how its state begins.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False) and begun(optimizer):
        flag = {"grad_scale": None, "found_inf": (~apply).float()}
        for name, value in flag.items():
            setattr(optimizer, name, value)
        try:
            optimizer.step()
        finally:
            for name in flag:
                delattr(optimizer, name)
    elif bool(apply):
        optimizer.step()


def begun(optimizer: torch.optim.Optimizer) -> bool:
    """Whether every parameter that a fused optimizer is about to move has the state that this takes.

    A momentum of SGD begins at zero here, from which the first step is the same. Torch's fused SGD fails
    where only some parameters of a group have one (a task's first labels come later than another's), and
    keeps one that it has not written where the first update is left out.
    """
    ready = True
    for group in optimizer.param_groups:
        sgd = isinstance(optimizer, torch.optim.SGD)
        if sgd and group["momentum"] == 0:
            continue  # without momentum it has no state
        for parameter in group["params"]:
            if parameter.grad is None or optimizer.state.get(parameter):
                continue
            if sgd and group["dampening"] == 0:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            else:
                ready = False
    return ready


@torch.no_grad()
def losses_again(
    model: MultiTaskNetwork,
    batches: Sequence[Batch],
    counts: Mapping[str, Tensor],
    precision: Precision,
    beginning: RandomState | None = None,
) -> Tensor:
    """The losses ``[T]`` of the global batch with the parameters as they are now.

    No gradient is taken; running statistics and random numbers are put back as they were. What is drawn is
    what comes next, or what came after ``beginning``.
    """
    device = batches[0].images.device
    total = torch.zeros(len(model.tasks), device=device, dtype=widest(device))
    with untouched(model):
        if beginning is not None:
            beginning.restore()
        for batch in batches:
            with autocast(device, precision):
                predictions = model(batch.images)
                losses = task_losses(model.tasks, predictions, batch.targets, counts)
            for place, task in enumerate(model.tasks):
                total[place] += losses.get(task.name, 0.0)
    return reduce_sum(total)


class NonFiniteWatch:
    """Names the task, the step and the images of a loss that is not finite, without waiting each step.

    Updates with such a loss are never applied, so the parameters are still good when the flags are read: a
    few steps late, or before a checkpoint is written (call :meth:`check` there).

    Args:
        tasks: Names of the tasks in declared order.
        policy: ``"stop"`` raises; ``"skip"`` logs a warning and goes on with the next step, and so does
            ``"drop"`` where the balancer has not left out the task at fault already.
        every: Flags are read each so many steps.

    Raises:
        ConfigurationError: For another policy.
    """

    def __init__(
        self, tasks: Sequence[str], *, policy: Literal["stop", "skip", "drop"] = "stop", every: int = 50
    ) -> None:
        if policy not in ("stop", "skip", "drop"):
            raise ConfigurationError(f"a non-finite loss can 'stop', 'skip' or 'drop', got {policy!r}")
        self.tasks = tuple(tasks)
        self.policy = policy
        self.every = every
        self.skipped = 0
        """Updates left out so far, as far as the flags have been read."""
        self._seen: list[tuple[int, Tensor, StepReport]] = []

    def observe(self, step: int, report: StepReport) -> None:
        """Takes note of a step; reads the flags if it is time to.

        Raises:
            NonFiniteLossError: If one was not finite and the policy is to stop.
        """
        self._seen.append((step, torch.cat([report.finite, report.updated[None]]), report))
        if len(self._seen) >= self.every:
            self.check()

    def check(self) -> None:
        """Reads the flags of the steps since the last time; all processes must call it.

        Raises:
            NonFiniteLossError: If one was not finite and the policy is to stop.
        """
        seen, self._seen = self._seen, []
        if not seen:
            return
        flags: list[list[bool]] = torch.stack([finite for _, finite, _ in seen]).tolist()
        for (step, _, report), (*finite, updated) in zip(seen, flags, strict=True):
            self.skipped += not updated
            self._tell_of_tasks(step, report)
            bad = [task for task, good in zip(self.tasks, finite, strict=True) if not good]
            if updated or (report.scaled and not bad):
                continue
            bad = negative(report, bad) or bad
            what = f"the {culprit(report, bad)} of {', '.join(bad)}" if bad else "the gradient of the sum"
            sentence = f"{what} was not finite at step {step} (images {', '.join(gathered(report.ids))})"
            if self.policy == "stop":
                raise NonFiniteLossError(
                    f"{sentence}: look at these labels, lower the learning rate or clip the gradient; "
                    f"the update was not applied"
                )
            logger.warning("%s; the update was skipped", sentence)

    def _tell_of_tasks(self, step: int, report: StepReport) -> None:
        """Names the tasks that were left out, and those whose gradient overflowed in float16."""
        images = ", ".join(gathered(report.ids)) if any(report.dropped) else ""
        if left := [task for task, out in zip(self.tasks, report.dropped, strict=True) if out]:
            logger.warning(
                "the loss or gradient of %s was not finite at step %d (images %s); the others go on",
                ", ".join(left), step, images,
            )  # fmt: skip
        over = [
            task for task, too in zip(self.tasks, report.overflowed, strict=True) if too and report.scaled
        ]
        if over and not left:
            logger.info(
                "the gradient of %s overflowed in float16 at step %d; the update was left out and the loss "
                "scale halved", ", ".join(over), step,
            )  # fmt: skip
