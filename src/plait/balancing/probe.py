"""Losses and gradients where parameters are moved for a moment, in a network that remembers nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from plait.balancing.gradients import widest
from plait.training.distributed import reduce_sum, reduce_sums

Evaluate = Callable[[], Iterable[Mapping[str, Tensor | None]]]
"""The losses ``{task: scalar}`` of each micro-batch of a batch, with the parameters as they are now."""


class RandomState:
    """The random numbers of the host and of a device, as they are now.

    Args:
        device: The device; the host's are always kept.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.host = torch.get_rng_state()
        self.there = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def restore(self) -> None:
        """Makes them go on from here again."""
        torch.set_rng_state(self.host)
        if self.there is not None:
            torch.cuda.set_rng_state(self.there, self.device)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """A forward pass that leaves no trace: running statistics and random numbers are then as before.

    A second pass inside it therefore draws the same dropout as the one before it would have.

    >>> norm = torch.nn.BatchNorm1d(2)
    >>> with untouched(norm):
    ...     _ = norm(torch.randn(4, 2))
    >>> norm.running_mean.tolist()
    [0.0, 0.0]
    """
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    devices = {tensor.device for tensor in model.parameters()} or {torch.device("cpu")}
    states = [RandomState(device) for device in devices]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for state in states:
            state.restore()


class Probe:
    """What a rule that looks ahead may ask of a network: losses and gradients, wherever its parameters are.

    Every evaluation has the same random numbers, leaves running statistics as they were and touches no
    ``.grad``; sums are over all micro-batches and processes.

    Args:
        model: The network.
        batches: For the step's own batch, and for each extra one, a function that evaluates its losses.
        tasks: Names of the tasks in declared order.
        optimizer: What will make the step: learning rate, weight decay and, of SGD, the momentum are read.
            Anything else is looked ahead of as plain gradient descent.
        scale: The loss scale of float16 training; gradients come out unscaled.

    Attributes:
        parameters: The trainable parameters of the network that the optimizer has.
        lr: Learning rate of each of them.
        weight_decay: Weight decay of each of them.
        momentum: SGD's momentum buffer of each of them, or None.
        momentum_factor: SGD's momentum.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Evaluate],
        tasks: Sequence[str],
        optimizer: torch.optim.Optimizer,
        *,
        scale: Tensor | float = 1.0,
    ) -> None:
        self.model = model
        self.batches = tuple(batches)
        self.tasks = tuple(tasks)
        self.scale = scale
        groups = {p: group for group in optimizer.param_groups for p in group["params"]}
        self.parameters = [p for p in model.parameters() if p.requires_grad and p in groups]
        self.lr = [float(groups[p]["lr"]) for p in self.parameters]
        self.weight_decay = [float(groups[p].get("weight_decay", 0.0)) for p in self.parameters]
        sgd = isinstance(optimizer, torch.optim.SGD)
        self.momentum_factor = float(optimizer.param_groups[0]["momentum"]) if sgd else 0.0
        self.momentum: list[Tensor | None] = [
            optimizer.state.get(p, {}).get("momentum_buffer") if sgd else None for p in self.parameters
        ]

    def losses(self, batch: int) -> Tensor:
        """The losses ``[T]`` of a batch, float64, zero for absent tasks; batch 0 is the step's own."""
        device = self.parameters[0].device
        total = torch.zeros(len(self.tasks), dtype=widest(device), device=device)
        with torch.no_grad(), untouched(self.model):
            for losses in self.batches[batch]():
                for place, task in enumerate(self.tasks):
                    loss = losses.get(task)
                    if loss is not None:
                        total[place] += loss
        return reduce_sum(total)

    def gradients(self, batch: int, weights: Tensor) -> list[Tensor]:
        """The gradient of a batch's weighted sum of losses, weights ``[T]``: a tensor a parameter."""
        total = [torch.zeros_like(parameter) for parameter in self.parameters]
        with torch.enable_grad(), untouched(self.model):
            for losses in self.batches[batch]():
                terms = [
                    (loss, torch.ones_like(loss) * weights[place].to(loss) * self.scale)
                    for place, task in enumerate(self.tasks)
                    if (loss := losses.get(task)) is not None and loss.requires_grad
                ]
                if not terms:
                    continue
                outputs, seeds = zip(*terms, strict=True)
                found = torch.autograd.grad(outputs, self.parameters, seeds, allow_unused=True)
                for sum_, gradient in zip(total, found, strict=True):
                    if gradient is not None:
                        sum_ += gradient / self.scale
        return reduce_sums(total)
