"""Which weights are kept: the last ones, or the best on the validation split by a stated criterion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from plait.data.loader import evaluation_batches
from plait.data.sample import DataSet
from plait.errors import ConfigurationError
from plait.models.network import MultiTaskNetwork
from plait.registry import nearest
from plait.tasks.base import Task
from plait.tasks.objective import losses as task_losses
from plait.training.distributed import rank, reduce_sum, world_size
from plait.training.precision import Precision, autocast

Numbers = Mapping[str, Mapping[str, float]]


@dataclass
class Selection:
    """Remembers the best validation so far.

    Criteria: ``loss`` is the sum of the tasks' losses over the split; ``task.measure`` is one number of it;
    ``relative`` is the mean over tasks of how much the headline measure has improved on the first
    validation, in its own direction, relative to its size there (to 1 where that was 0).

    Attributes:
        tasks: The tasks that are reported.
        criterion: One of the above.
        first: The headline measures of the first validation.
        best: The criterion's best value so far, larger being better; None before the first.
        step: The step it was reached at.
    """

    tasks: Sequence[Task]
    criterion: str
    first: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        known = ["relative", "loss", *(f"{t.name}.{m.name}" for t in self.tasks for m in t.measures)]
        if self.criterion not in known:
            raise ConfigurationError(
                f"training.criterion {self.criterion!r} is unknown{nearest(self.criterion, known)}; "
                f"it can be {', '.join(known)}"
            )

    def improved(self, step: int, scores: Numbers, loss: float | None = None) -> bool:
        """Takes note of a validation; whether it is the best so far. Undefined (NaN) numbers never are.

        Raises:
            ConfigurationError: If the first validation leaves the criterion undefined: then all would.
        """
        begins = not self.first
        if not self.first:
            self.first = {task.name: scores[task.name][task.headline.name] for task in self.tasks}
        value = self.value(scores, loss)
        if math.isnan(value) and begins:
            self.first = {}
            raise ConfigurationError(
                f"training.criterion {self.criterion!r} is undefined on the validation split, where a task "
                f"has no known label: choose another criterion, or training.keep: last"
            )
        if math.isnan(value) or (self.best is not None and value <= self.best):
            return False
        self.best, self.step = value, step
        return True

    def value(self, scores: Numbers, loss: float | None = None) -> float:
        """The criterion's value, larger being better."""
        if self.criterion == "loss":
            return math.nan if loss is None else -loss
        if self.criterion == "relative":
            return sum(self.gain(task, scores) for task in self.tasks) / len(self.tasks)
        name, _, measure = self.criterion.partition(".")
        task = next(task for task in self.tasks if task.name == name)
        return sign(task, measure) * scores[name][measure]

    def gain(self, task: Task, scores: Numbers) -> float:
        """How much better than at first a task's headline measure is, relative to its size then."""
        first, now = self.first[task.name], scores[task.name][task.headline.name]
        return sign(task, task.headline.name) * (now - first) / (abs(first) or 1.0)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"first": self.first, "best": self.best, "step": self.step}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from :meth:`state`."""
        self.first, self.best, self.step = dict(state["first"]), state["best"], state["step"]


def sign(task: Task, measure: str) -> int:
    """1 for a measure that should grow, -1 for one that should fall."""
    return 1 if next(m for m in task.measures if m.name == measure).higher_is_better else -1


@torch.no_grad()
def split_loss(
    model: MultiTaskNetwork,
    dataset: DataSet,
    *,
    size: tuple[int, int] | None,
    batch_size: int,
    device: torch.device,
    precision: Precision = "fp32",
) -> dict[str, float]:
    """Each task's loss over a whole split, as if it were one batch: neither batching nor processes change it.

    The denominators are counted in a first pass over the labels, so that the shares of the second add up.
    """

    def batches() -> Any:
        return evaluation_batches(
            dataset, model.tasks, size, model.normalisation, batch_size, rank(), world_size()
        )

    tasks = model.tasks
    counts = {t.name: torch.zeros_like(t.loss.counts(t.label_type.unknown_like(1, 1)[None])) for t in tasks}
    for batch in batches():
        for task in tasks:
            if task.name in batch.targets:
                counts[task.name] += task.loss.counts(batch.targets[task.name])
    counts = {name: reduce_sum(count).to(device) for name, count in counts.items()}
    totals: dict[str, Tensor] = {t.name: torch.zeros((), dtype=torch.float64, device=device) for t in tasks}
    was_training = model.training
    model.eval()
    for batch in batches():
        here = batch.to(device)
        with autocast(device, precision):
            shares = task_losses(tasks, model(here.images), here.targets, counts)
        for name, share in shares.items():
            totals[name] += share
    model.train(was_training)
    return {name: float(reduce_sum(total)) for name, total in totals.items()}
