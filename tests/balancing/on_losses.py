"""What the tests of rules on losses share: random losses, steps by hand, weights as a gradient."""

from collections.abc import Callable, Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from plait.balancing import Balancer, Observation


def random_losses(tasks: int, seed: int, spread: float = 4.0) -> Tensor:
    """``[tasks]``, float64, positive, over so many powers of ten."""
    generator = torch.Generator().manual_seed(seed)
    return 10 ** ((torch.rand(tasks, generator=generator, dtype=torch.float64) - 0.5) * spread)


positive = st.builds(random_losses, st.integers(1, 10), st.integers(0, 2**32))


def seen(losses: Tensor, places: Sequence[int] | None = None, total: int | None = None) -> Observation:
    """A step in which the tasks at ``places`` (by default all) have these losses."""
    chosen = tuple(range(len(losses)) if places is None else places)
    return Observation(chosen, total or len(losses), losses=losses.double())


def unknowing(places: Sequence[int], total: int) -> Observation:
    """What a rule that needs nothing sees."""
    return Observation(tuple(places), total)


def epochs(balancer: Balancer, *means: Sequence[float]) -> None:
    """Epochs of two steps with these mean losses; a NaN is an absent task."""
    for mean in means:
        known = [place for place, value in enumerate(mean) if value == value]
        for factor in (0.5, 1.5):
            losses = torch.tensor([factor * mean[place] for place in known], dtype=torch.float64)
            balancer.observe(seen(losses, known, len(mean)))
        balancer.end_epoch()


def gradient(objective: Callable[[Tensor], Tensor], losses: Tensor) -> Tensor:
    """The gradient of an objective by the losses: what the weights of its rule are."""
    leaf = losses.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(objective(leaf), leaf)
    return found


def shuffled(count: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))
