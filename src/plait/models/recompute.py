"""Less memory for more time: what a module keeps for the backward pass, computed again there."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, *given: Any) -> Any:
    """Runs a module and keeps only its inputs for the backward pass.

    Gradients are the same, of any number of backward passes, and so are running statistics: each batch is
    counted once.
    """

    def run(*given: Any) -> Any:
        return module(*(list(each) if isinstance(each, list) else each for each in given))

    if torch.compiler.is_compiling():  # the compiler recomputes values only, never the update of a buffer
        return checkpoint(run, *given, use_reentrant=False)
    return checkpoint(
        run, *given, use_reentrant=False, context_fn=lambda: (nullcontext(), _StatisticsKept(module))
    )


class _StatisticsKept:
    """While it lasts, batch norms compute as ever but do not count the batch a second time.

    Not made from a generator, because it is entered once for each backward pass through the same graph.
    """

    def __init__(self, module: nn.Module) -> None:
        self.norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.kept: list[tuple[float | None, torch.Tensor | None]] = []

    def __enter__(self) -> None:
        self.kept = [(norm.momentum, norm.num_batches_tracked) for norm in self.norms]
        for norm in self.norms:
            norm.momentum, norm.num_batches_tracked = 0.0, None

    def __exit__(self, *error: object) -> None:
        for norm, (momentum, counter) in zip(self.norms, self.kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter
