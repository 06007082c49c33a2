"""Everything that changes while a run trains, and how it is saved and brought back."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

import plait.balancing
from plait import config
from plait.config import Recipe
from plait.data.device import DrawnBatch
from plait.data.sample import Batch
from plait.errors import CheckpointError
from plait.models.network import MultiTaskNetwork
from plait.tasks.objective import losses as task_losses
from plait.training import checkpoint
from plait.training.averages import WeightAverage
from plait.training.distributed import broadcast_, broadcast_buffers, rank
from plait.training.optimizers import make_optimizer, set_learning_rate
from plait.training.precision import LossScaler, autocast
from plait.training.schedules import factor
from plait.training.selection import Selection
from plait.training.step import (
    StepReport,
    alternating_step,
    check_pair,
    compared_parameters,
    training_step,
)
from plait.training.tuning import Choices, Trial


class Session:
    """Network, balancer, optimizer and whatever else a step changes.

    There is no state of the random numbers in it: those of step ``k`` are a function of the seed, ``k`` and
    the process, as the batch is.

    Attributes:
        step: Updates made so far.
        validated: How many there were at the last validation.
        lr: Learning rate of the last of them.
        seconds: Wall time of training so far, over all sessions.
        cpu_seconds: Processor time of it, of this process.
    """

    def __init__(self, recipe: Recipe, model: MultiTaskNetwork, choices: Choices) -> None:
        layout = torch.channels_last if choices.channels_last else torch.contiguous_format
        self.recipe = recipe
        self.choices = choices
        self.device = next(model.parameters()).device
        self.model = model.to(memory_format=layout)
        self.layout = layout
        name, options = config.named(recipe.balancer)
        training = recipe.training
        self.balancer = plait.balancing.create(name, tasks=model.tasks, **options).to(self.device)
        check_pair(
            model,
            self.balancer,
            alternate_tasks=training.alternate_tasks,
            accumulate=training.accumulate,
        )
        self.balancer.attach(model)
        self.balancer.reseed(training.seed)
        self.balancer.drops = training.non_finite == "drop"
        self.optimizer = make_optimizer(model, self.balancer, recipe.optimizer)  # freezes what is frozen
        self.compared = compared_parameters(model, self.balancer)
        self.scaler = LossScaler().to(self.device) if choices.precision == "fp16" else None
        ema = recipe.training.ema
        self.average = None if ema is None else WeightAverage(model, ema)
        reported = [task for task in model.tasks if not task.auxiliary]
        self.selection = Selection(reported, recipe.training.criterion)
        self.step = 0
        self.validated = 0
        self.lr = 0.0
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        if recipe.training.compile:
            # Dropout draws what it draws uncompiled, and faster than inductor's own generator on a processor.
            for part in (model.encoder, model.decoder):
                part.compile(options={"fallback_random": True})

    @property
    def batches(self) -> int:
        """Batches that a step sees: its own and those that the balancer wants beside it."""
        return 1 + self.balancer.needs.extra_batches

    def begin_step(self) -> None:
        """Sets random numbers and learning rate of the next step."""
        words = np.random.SeedSequence([self.recipe.training.seed % 2**64, self.step, rank()])
        torch.manual_seed(int(words.generate_state(1, np.uint64)[0]))
        part = factor(self.recipe.schedule, self.step, self.recipe.training.steps)
        self.lr = self.recipe.optimizer.lr * part
        set_learning_rate(self.optimizer, self.lr)
        self.model.at_step(self.step, self.recipe.training.steps)

    def update(self, micro: Sequence[Batch], extra: Sequence[Sequence[Batch]] = ()) -> StepReport:
        """Makes the step's update, or one for each task in turn; one that does not count leaves no trace.

        Args:
            micro: The parts of the step's batch, placed.
            extra: Those of each further batch that the balancer wants, placed.
        """
        training = self.recipe.training
        # Running statistics are only kept where a step may turn out not to count.
        keeps = training.non_finite != "stop" or self.scaler is not None
        before = [buffer.clone() for buffer in self.model.buffers()] if keeps else []
        make_step = (
            alternating_step
            if training.alternate_tasks
            else partial(training_step, extra=extra, compared=self.compared)
        )
        report = make_step(
            self.model,
            micro,
            self.balancer,
            self.optimizer,
            precision=self.choices.precision,
            clip_norm=training.clip_norm,
            scaler=self.scaler,
        )
        for buffer, old in zip(self.model.buffers(), before, strict=False):
            buffer.copy_(torch.where(report.updated, buffer, old))  # without waiting for the device
        return report

    def end_step(self, samples: int) -> None:
        """Counts a step, moves the average, and tells the balancer when an epoch of so many samples ends."""
        batch = self.recipe.training.batch_size * self.batches
        before, after = (step * batch // samples for step in (self.step, self.step + 1))
        if self.balancer.needs.epoch_end and after > before:
            self.balancer.end_epoch()
        self.step += 1
        if self.average is not None:
            self.average.update(self.model, self.step)

    def place(self, batch: Batch | DrawnBatch) -> Batch:
        """A batch where the network is, in its memory layout; made there, if its views were only drawn."""
        placed = batch.to(self.device)
        return replace(placed, images=placed.images.contiguous(memory_format=self.layout))

    def weights_to_use(self) -> AbstractContextManager[None]:
        """The network with the weights that count: their average, where the run keeps one."""
        return nullcontext() if self.average is None else self.average.applied(self.model)

    def agree(self) -> None:
        """Gives all processes the running statistics of the first, and their average."""
        broadcast_buffers(self.model)
        if self.average is not None:
            for name, _ in self.model.named_buffers():
                if name in self.average.values:
                    broadcast_(self.average.values[name])

    def save(self, place: Path) -> None:
        """Writes a checkpoint (the first process does); all processes must call it."""
        self.agree()
        if rank() != 0:
            return
        training = {
            **checkpoint.prefixed("optimizer", checkpoint.optimizer_tensors(self.optimizer)),
            **checkpoint.prefixed("balancer", tensors_of(self.balancer)),
        }
        if self.scaler is not None:
            training |= checkpoint.prefixed("scaler", tensors_of(self.scaler))
        weights = tensors_of(self.model)
        if self.average is not None:
            training |= checkpoint.prefixed("weights", weights)
            weights = {**weights, **self.average.values}
        checkpoint.write(
            place,
            {"model": weights, "training": training},
            {
                "step": self.step,
                "validated": self.validated,
                "tasks": checkpoint.described_tasks(self.model.tasks),
                "seconds": self.seconds,
                "cpu_seconds": self.cpu_seconds,
                "selection": self.selection.state(),
            },
        )

    def restore(self, place: Path) -> bool:
        """Goes on from a checkpoint, if there is one.

        Raises:
            CheckpointError: If it is damaged or of another network.
        """
        if checkpoint.find(place) is None:
            return False
        found = checkpoint.read(place, self.model.tasks)
        model_file, training_file = (str(found.place / f"{n}.safetensors") for n in ("model", "training"))
        if missing := {"model", "training"} - found.tensors.keys():
            raise CheckpointError(
                f"{found.place / checkpoint.STATE} is damaged: it names no {', '.join(sorted(missing))} "
                f"file; remove the folder to start again"
            )
        weights, training = found.tensors["model"], found.tensors["training"]
        if self.average is not None:
            for name, value in self.average.values.items():
                value.copy_(weights[name])
            weights = checkpoint.under("weights", training)
        checkpoint.restore(self.model, weights, model_file)
        checkpoint.load_state(self.balancer, checkpoint.under("balancer", training), training_file)
        if self.scaler is not None:
            checkpoint.restore(self.scaler, checkpoint.under("scaler", training), training_file)
        checkpoint.restore_optimizer(self.optimizer, checkpoint.under("optimizer", training), training_file)
        self.step = found.step
        try:
            self.validated = int(found.state["validated"])
            self.seconds = float(found.state["seconds"])
            self.cpu_seconds = float(found.state["cpu_seconds"])
            self.selection.restore(found.state["selection"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{found.place / checkpoint.STATE} is damaged ({error!r}); remove the folder to start again"
            ) from None
        return True


class Stopwatch:
    """Adds the time spent inside its ``with`` to a session."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __enter__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.session.seconds += time.perf_counter() - self.start[0]
        self.session.cpu_seconds += time.process_time() - self.start[1]


def tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of a module's state."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}


def make_trial(model: MultiTaskNetwork, batch: Batch, device: torch.device) -> Trial:
    """One forward and backward pass of a copy of the network, for :func:`plait.training.tuning.choose`."""

    def trial(choices: Choices) -> None:
        layout = torch.channels_last if choices.channels_last else torch.contiguous_format
        network = copy.deepcopy(model).to(device=device, memory_format=layout).train()  # type: ignore[call-overload]
        with autocast(device, choices.precision):
            predictions = network(batch.images.to(device, memory_format=layout))
            losses = task_losses(model.tasks, predictions, batch.to(device).targets)
        torch.autograd.backward(list(losses.values()))

    return trial
