"""Less memory for more time: what a module keeps for the backward pass, computed again there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recomputed(module: nn.Module, *given: Any) -> Any:
    """Runs a module and keeps only its inputs for the backward pass.

    Gradients are the same, and so are running statistics: each batch is counted once.
    """

    def run(*given: Any) -> Any:
        return module(*(list(each) if isinstance(each, list) else each for each in given))

    if torch.compiler.is_compiling():  # the compiler recomputes values only, never the update of a buffer
        return checkpoint(run, *given, use_reentrant=False)
    return checkpoint(
        run, *given, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(module))
    )


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """While it lasts, batch norms compute as ever but do not count the batch a second time."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, counter in kept:
            norm.momentum, norm.num_batches_tracked = momentum, counter
