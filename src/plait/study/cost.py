"""What a network costs: parameters, operations, time and memory, of inference and of a training step.

Multiply-accumulates and floating-point operations are named apart: one multiply-accumulate is two operations.
Both come from torch's own counter, which counts matrix products and convolutions and nothing else.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The cost of one network, or of several that are needed together.

    Attributes:
        parameters: How many numbers are learned.
        flops: Floating-point operations of one image's forward pass, two for a multiply-accumulate.
        latency: Seconds for one image, the median of several.
        memory: Peak bytes of the tensors alive in inference on one image, parameters included.
        step_seconds: Seconds of one training step (forward and backward), the median; None if not measured.
        step_memory: Peak bytes of the tensors alive in that step, parameters included; None if not measured.
    """

    parameters: int
    flops: int
    latency: float
    memory: int
    step_seconds: float | None = None
    step_memory: int | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's forward pass: half the operations."""
        return self.flops // 2


def together(costs: Sequence[Cost]) -> Cost:
    """The cost of networks that are used one after the other: sums, but for memory.

    In inference all parameters stay in memory while one network runs, so its peak is counted on top of the
    others' parameters (4 bytes each). Each network is trained alone, so the hungriest one's step counts.
    """
    everything = sum(cost.parameters for cost in costs)
    seconds = [cost.step_seconds for cost in costs if cost.step_seconds is not None]
    memory = [cost.step_memory for cost in costs if cost.step_memory is not None]
    return Cost(
        parameters=everything,
        flops=sum(cost.flops for cost in costs),
        latency=sum(cost.latency for cost in costs),
        memory=max(cost.memory + 4 * (everything - cost.parameters) for cost in costs),
        step_seconds=sum(seconds) if len(seconds) == len(costs) else None,
        step_memory=max(memory) if len(memory) == len(costs) else None,
    )


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
        step_batch: Images in a training step; None measures no training step.
        step_size: Their height and width; None for ``size``.

    Returns:
        A cost a network.
    """
    with using_threads(threads):
        forward: dict[str, Callable[[], object]] = {
            name: inference(model, size) for name, model in models.items()
        }
        flops, memory = {}, {}
        for name, run in forward.items():
            run()
            with FlopCounterMode(display=False) as counter:
                run()
            flops[name] = int(counter.get_total_flops())
            memory[name] = peak_memory(run, models[name])
        latency = taking_turns(forward, repeats, device_of(models))
        step_seconds: dict[str, float] = {}
        step_memory: dict[str, int] = {}
        if step_batch is not None:
            train = {name: training(model, step_batch, step_size or size) for name, model in models.items()}
            for name, run in train.items():
                run()
                step_memory[name] = peak_memory(run, models[name])
            step_seconds = taking_turns(train, max(1, repeats // 2), device_of(models))
    return {
        name: Cost(
            parameters=sum(p.numel() for p in model.parameters()),
            flops=flops[name],
            latency=latency[name],
            memory=memory[name],
            step_seconds=step_seconds.get(name),
            step_memory=step_memory.get(name),
        )
        for name, model in models.items()
    }


def inference(model: nn.Module, size: tuple[int, int]) -> Callable[[], object]:
    """One image through the network, in evaluation mode and without gradients."""
    images = torch.zeros(1, 3, *size, device=next(model.parameters()).device)

    def run() -> object:
        mode = model.training
        model.eval()
        try:
            with torch.no_grad():
                return model(images)
        finally:
            model.train(mode)

    return run


def training(model: nn.Module, batch: int, size: tuple[int, int]) -> Callable[[], object]:
    """Forward and backward of a batch, with the sum of all predictions in the losses' place.

    BatchNorm statistics and gradients are restored, so the network stays what it was.
    """
    images = torch.zeros(batch, 3, *size, device=next(model.parameters()).device)

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
    runs: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of each, run one after the other ``repeats`` times."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
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


def device_of(models: Mapping[str, nn.Module]) -> torch.device:
    """Where the networks are."""
    return next(next(iter(models.values())).parameters()).device


def peak_memory(run: Callable[[], object], model: nn.Module) -> int:
    """Peak bytes of the tensors alive while ``run`` runs, parameters and buffers included.

    On an accelerator this is the allocator's own peak. On a processor it counts the tensors that operators
    return: memory that a kernel takes and gives back inside one operator is not seen.
    """
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        base = torch.cuda.memory_allocated(device)
        run()
        peak = int(torch.cuda.max_memory_allocated(device))
        return peak - int(base) + resident(model)
    live = LiveTensors()
    with live:
        run()
    return live.peak + resident(model)


def resident(model: nn.Module) -> int:
    """Bytes of a network's parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in itertools.chain(model.parameters(), model.buffers()))


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operators make and that are still alive.

    Attributes:
        peak: The most bytes alive after any operator; where more than ``exact`` tensors are alive, to within
            one percent below.
    """

    def __init__(self, exact: int = 2000) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.exact = exact
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.total = 0
        """Bytes of ``alive``, of which some may have been freed since it was last looked through."""
        self.peak = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in given and storage._cdata not in self.alive:
                    reference = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
                    self.alive[storage._cdata] = (reference, storage.nbytes())
                    self.total += storage.nbytes()
        # What was freed lowers the total, so it only has to be looked for where the total is a new peak. A
        # reference keeps its address from being given to another tensor.
        if self.total > self.peak * (1.0 if len(self.alive) < self.exact else 1.01):
            self.alive = {key: (ref, size) for key, (ref, size) in self.alive.items() if not ref.expired()}  # type: ignore[no-untyped-call]
            self.total = sum(size for _, size in self.alive.values())
            self.peak = max(self.peak, self.total)
        return result


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
