"""What a network costs: parameters, operations, time, memory and energy, of inference and of a training step.

Multiply-accumulates and floating-point operations are named apart: one multiply-accumulate is two operations.
Both come from torch's own counter, which counts matrix products and convolutions and nothing else.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from plait.balancing.gradients import reached
from plait.study.live_tensors import peak_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plait.study.energy import EnergyCounter

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one network, or of several that are needed together.

    Attributes:
        parameters: How many numbers are learned.
        flops: Floating-point operations of one image's forward pass, two for a multiply-accumulate.
        latency: Seconds for one image, the median of several.
        memory: Peak bytes of the tensors alive in inference on one image, parameters included.
        active_parameters: How many of the parameters take part in predicting all tasks, in evaluation: heads
            of auxiliary tasks, discriminators and branches that are not used do not. None if not counted.
        step_seconds: Seconds of one training step, the median; None if not measured.
        step_memory: Peak bytes of the tensors alive in that step, parameters included; None if not measured.
        energy: Joules for one image; None if not measured, or where the machine does not tell.
        step_energy: Joules for one training step, likewise.
    """

    parameters: int
    flops: int
    latency: float
    memory: int
    active_parameters: int | None = None
    step_seconds: float | None = None
    step_memory: int | None = None
    energy: float | None = None
    step_energy: float | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's forward pass: half the operations."""
        return self.flops // 2

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> Cost:
        """The cost among the numbers of a measurement, by the names of the attributes."""
        return cls(**{field.name: numbers[field.name] for field in dataclasses.fields(cls)})


def together(costs: Sequence[Cost]) -> Cost:
    """The cost of networks that are used one after the other: sums, but for memory.

    In inference all parameters stay in memory while one network runs, so its peak is counted on top of the
    others' parameters (4 bytes each). Each network is trained alone, so the hungriest one's step counts. What
    is not known of one network is not known of all.
    """
    everything = sum(cost.parameters for cost in costs)
    memory = known(costs, "step_memory")
    return Cost(
        parameters=everything,
        flops=sum(cost.flops for cost in costs),
        latency=sum(cost.latency for cost in costs),
        memory=max(cost.memory + 4 * (everything - cost.parameters) for cost in costs),
        step_memory=max(memory) if memory is not None else None,
        **{
            name: sum(values) if (values := known(costs, name)) is not None else None
            for name in ("active_parameters", "step_seconds", "energy", "step_energy")
        },
    )


def known(costs: Sequence[Cost], name: str) -> list[Any] | None:
    """A quantity of each cost; None unless all have it."""
    values = [getattr(cost, name) for cost in costs]
    return None if any(value is None for value in values) else values


def measure(
    models: Mapping[str, nn.Module],
    size: tuple[int, int],
    *,
    repeats: int = 7,
    threads: int | None = 1,
    step_batch: int | None = None,
    step_size: tuple[int, int] | None = None,
) -> dict[str, Cost]:
    """Measures networks beside each other: they take turns, so that a busy moment hits all of them alike.

    Args:
        models: Networks on one device, by name; called with images ``[B, 3, H, W]``. Their mode and
            gradients are left as they were.
        size: Height and width of the image.
        repeats: How often each is timed, after one run that is not counted.
        threads: Processor threads while measuring; None leaves them.
        step_batch: Images in a training step, forward and backward without losses; None measures none.
            :mod:`plait.study.measuring` measures whole steps.
        step_size: Their height and width; None for ``size``.

    Returns:
        A cost a network.
    """
    device = device_of(next(iter(models.values())))
    with using_threads(threads):
        costs = measure_inference(models, dict.fromkeys(models, size), repeats=repeats)
        if step_batch is None:
            return costs
        steps = {
            name: Step(training(model, step_batch, step_size or size), partial(held_by, model))
            for name, model in models.items()
        }
        for step in steps.values():
            step.run()
        measured = measure_steps(steps, device, repeats=max(1, repeats // 2))
    return {name: measured[name].added_to(cost) for name, cost in costs.items()}


def measure_inference(
    models: Mapping[Key, nn.Module],
    sizes: Mapping[Key, tuple[int, int]],
    *,
    repeats: int = 7,
    counter: EnergyCounter | None = None,
) -> dict[Key, Cost]:
    """What networks on one device cost in inference on one image each; see :func:`measure`.

    Args:
        models: The networks.
        sizes: Height and width of the image of each.
        repeats: How often each is timed.
        counter: What counts energy, if anything does.
    """
    forward = {key: inference(model, sizes[key]) for key, model in models.items()}
    flops, memory = {}, {}
    for key, run in forward.items():
        run()
        with FlopCounterMode(display=False) as operations:
            run()
        flops[key] = int(operations.get_total_flops())
        memory[key] = peak_memory(run, held_by(models[key]), device_of(models[key]))
    latency = {}
    if models:
        latency = taking_turns(forward, repeats, device_of(next(iter(models.values()))))
    return {
        key: Cost(
            parameters=sum(p.numel() for p in model.parameters()),
            active_parameters=active_parameters(model, sizes[key]),
            flops=flops[key],
            latency=latency[key],
            memory=memory[key],
            energy=None if counter is None else joules(forward[key], counter, device_of(model)),
        )
        for key, model in models.items()
    }


@dataclass(frozen=True)
class Step:
    """A training step that can be made again and again.

    Attributes:
        run: Makes one; gradients are freed when it returns.
        held: The tensors that are there before and after it.
    """

    run: Callable[[], object]
    held: Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class StepCost:
    """What a training step costs; see :class:`Cost`."""

    step_seconds: float
    step_memory: int
    step_energy: float | None = None

    def added_to(self, cost: Cost) -> Cost:
        """The cost with this step's."""
        return dataclasses.replace(cost, **vars(self))


def measure_steps(
    steps: Mapping[Key, Step], device: torch.device, *, repeats: int = 3, counter: EnergyCounter | None = None
) -> dict[Key, StepCost]:
    """What training steps on one device cost, taking turns; each was made once before.

    Memory is measured in a step of its own, which takes longer and is not timed.
    """
    memory = {key: peak_memory(step.run, step.held(), device) for key, step in steps.items()}
    seconds = taking_turns({key: step.run for key, step in steps.items()}, repeats, device)
    return {
        key: StepCost(
            seconds[key], memory[key], None if counter is None else joules(step.run, counter, device)
        )
        for key, step in steps.items()
    }


def joules(run: Callable[[], object], counter: EnergyCounter, device: torch.device) -> float | None:
    """Joules of one run."""
    return counter.joules(run, wait=lambda: synchronise(device))


def inference(model: nn.Module, size: tuple[int, int]) -> Callable[[], object]:
    """One image through the network, in evaluation mode and without gradients."""
    images = torch.zeros(1, 3, *size, device=device_of(model))

    def run() -> object:
        with evaluating(model), torch.no_grad():
            return model(images)

    return run


def active_parameters(model: nn.Module, size: tuple[int, int]) -> int:
    """How many parameters the final predictions of an image depend on in evaluation, frozen ones included.

    They are looked up in the graph that computed the predictions, so a weight counts whatever its value.
    """
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    images = torch.zeros(1, 3, *size, device=device_of(model))
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with evaluating(model), torch.enable_grad(), torch.compiler.set_stance("force_eager"):
            made = model(images)
        outputs = tree_leaves(getattr(made, "final", made))
        used = reached([leaf for leaf in outputs if isinstance(leaf, Tensor)])
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
    own = set(model.parameters())
    return sum(leaf.numel() for leaf in used if leaf in own)


def training(model: nn.Module, batch: int, size: tuple[int, int]) -> Callable[[], object]:
    """Forward and backward of a batch, with the sum of all predictions in the losses' place.

    BatchNorm statistics and gradients are restored, so the network stays what it was.
    """
    images = torch.zeros(batch, 3, *size, device=device_of(model))

    def run() -> None:
        mode = model.training
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        before = [parameter.grad for parameter in model.parameters()]
        model.train()
        try:
            outputs = [leaf for leaf in tree_leaves(tuple(model(images))) if isinstance(leaf, Tensor)]
            torch.stack([output.float().mean() for output in outputs]).sum().backward()  # type: ignore[no-untyped-call]
        finally:
            model.train(mode)
            for parameter, gradient in zip(model.parameters(), before, strict=True):
                parameter.grad = gradient
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(buffers[name])

    return run


def taking_turns(
    runs: Mapping[Key, Callable[[], object]], repeats: int, device: torch.device
) -> dict[Key, float]:
    """Median seconds of each, run one after the other ``repeats`` times."""
    seconds: dict[Key, list[float]] = {name: [] for name in runs}
    for _, (name, run) in itertools.product(range(repeats), runs.items()):
        synchronise(device)
        start = time.perf_counter()
        run()
        synchronise(device)
        seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}


def synchronise(device: torch.device) -> None:
    """Waits for the accelerator, if there is one."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_of(model: nn.Module) -> torch.device:
    """Where a network is."""
    return next(model.parameters()).device


def held_by(model: nn.Module) -> list[Tensor]:
    """A network's parameters and buffers."""
    return [*model.parameters(), *model.buffers()]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A network in evaluation mode; each of its parts is then in the mode that it was in before."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def using_threads(threads: int | None) -> Iterator[None]:
    """Sets torch's threads for a while."""
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
