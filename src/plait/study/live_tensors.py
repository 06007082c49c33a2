"""Bytes of the tensors that are alive while something runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory(run: Callable[[], object], held: Iterable[Tensor], device: torch.device) -> int:
    """Peak bytes of the tensors alive while ``run`` runs: those that it makes, on top of those held for it.

    On an accelerator this is the allocator's own peak. On a processor it counts the tensors that operators
    return, which takes longer: memory that a kernel takes and gives back inside one operator is not seen, and
    what is compiled runs uncompiled.

    Args:
        run: What is measured; what it frees must not be among what is held.
        held: Tensors that are there before and after, such as parameters; counted once where they share
            memory.
        device: Where they are.
    """
    there = bytes_of(held)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        base = torch.cuda.memory_allocated(device)
        run()
        return int(torch.cuda.max_memory_allocated(device)) - int(base) + there
    live = LiveTensors()
    with torch.compiler.set_stance("force_eager"), live:
        run()
    return live.peak + there


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of the memory that tensors lie in, each part of it once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


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
