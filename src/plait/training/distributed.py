"""Sums over processes; in one process every function here is the identity.

There is no DistributedDataParallel wrapper. Losses are divided by global counts, so each process holds its
share of the loss and gradients are *summed*, once, after the backward pass. Gradient rules reduce their
per-task gradients themselves, which a wrapper that hooks into ``backward`` could not do.

``torch.distributed`` must be initialised: :func:`plait.training.processes.join` does it where ``torchrun``
started the processes. Tensors on the processor travel through gloo, those on a device through its backend.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 4 * 2**20
"""Elements that travel together: large enough to hide latency, small enough to be no second copy."""


def world_size() -> int:
    """How many processes train together; 1 if ``torch.distributed`` is not initialised."""
    return dist.get_world_size() if _running() else 1


def rank() -> int:
    """This process's place among them, from 0."""
    return dist.get_rank() if _running() else 0


def reduce_sum(tensor: Tensor) -> Tensor:
    """The elementwise sum over processes, as a new tensor; the same tensor in one process.

    Every process must call it with the same shape and type. Nothing waits for the device.
    """
    if world_size() == 1:
        return tensor
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=_group(total))
    return total


def reduce_sums(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The sum over processes of each tensor, many in one message; the same tensors in one process.

    Every process must call it with the same shapes and types in the same order.
    """
    if world_size() == 1:
        return list(tensors)
    sums: list[Tensor] = []
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
        dist.all_reduce(flat, group=_group(flat))
        parts = torch.split(flat, [tensor.numel() for tensor in bucket])
        sums += [part.view(tensor.shape) for part, tensor in zip(parts, bucket, strict=True)]
    return sums


def anywhere(flags: Sequence[bool]) -> list[bool]:
    """For each flag, whether it is set in any process. Travels between the hosts, not the devices."""
    if world_size() == 1:
        return list(flags)
    found: list[int] = reduce_sum(torch.tensor(flags, dtype=torch.int32)).tolist()
    return [count > 0 for count in found]


def gathered(names: Sequence[str]) -> list[str]:
    """The names that all processes give, in the order of processes. It waits."""
    if world_size() == 1:
        return list(names)
    lists: list[Any] = [None] * world_size()
    dist.all_gather_object(lists, list(names), group=_group(torch.empty(0)))
    return [name for part in lists for name in part]


def reduce_gradients(parameters: Iterable[nn.Parameter], *, but: Collection[nn.Parameter] = ()) -> None:
    """Sums the gradients of ``parameters`` over processes, in place.

    A gradient that only some processes have counts as zero in the others; one that none has stays None.

    Args:
        parameters: In the same order in every process.
        but: Those whose gradient is already summed (``BalancerReport.reduced``).
    """
    if world_size() == 1:
        return
    done = {id(parameter) for parameter in but}
    local = [parameter for parameter in parameters if parameter.requires_grad and id(parameter) not in done]
    used = anywhere([parameter.grad is not None for parameter in local])
    reached = [parameter for parameter, anyone in zip(local, used, strict=True) if anyone]
    shares = [torch.zeros_like(p) if p.grad is None else p.grad for p in reached]
    for parameter, share, total in zip(reached, shares, reduce_sums(shares), strict=True):
        parameter.grad = share.copy_(total)  # keeps the memory layout that the optimizer expects


def broadcast_(tensor: Tensor) -> Tensor:
    """Gives every process the first one's values, in place, and returns the tensor."""
    if world_size() > 1:
        dist.broadcast(tensor, src=0, group=_group(tensor))
    return tensor


def broadcast_buffers(model: nn.Module) -> None:
    """Gives every process the first one's buffers: running statistics differ after a step of their own."""
    for buffer in model.buffers():
        broadcast_(buffer)


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of one type and device, at most ``BUCKET`` elements together (or one large tensor)."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        alike = not bucket or (bucket[0].dtype, bucket[0].device) == (tensor.dtype, tensor.device)
        if bucket and (not alike or size + tensor.numel() > BUCKET):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel()
    if bucket:
        yield bucket


def _group(tensor: Tensor) -> dist.ProcessGroup | None:
    """None for the default group, or one over gloo for tensors in main memory that it cannot carry."""
    if tensor.device.type != "cpu" or "gloo" in dist.get_backend():
        return None
    return _host_group()


@functools.cache
def _host_group() -> dist.ProcessGroup:
    """One gloo group beside the default one: kept, because making it is collective and slow."""
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    return group
