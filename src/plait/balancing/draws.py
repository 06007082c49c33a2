"""Random numbers of a rule: equal on every process and every device, and saved with its state."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Draws(nn.Module):
    """One generator a step, a function of two seeds and of how many there were.

    Nobody else's random numbers move, and a restored rule draws what an uninterrupted one would have.

    Args:
        seed: The rule's own; a run adds its seed with :meth:`reseed`.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.run_seed = 0
        self.count = 0

    def reseed(self, run_seed: int) -> None:
        """Starts the sequence of a run's seed."""
        self.run_seed, self.count = run_seed, 0

    def next(self) -> torch.Generator:
        """The next step's generator, on the CPU."""
        words = np.random.SeedSequence([self.seed % 2**63, self.run_seed % 2**63, self.count])
        self.count += 1
        return torch.Generator().manual_seed(int(words.generate_state(1, np.uint64)[0]))

    def get_extra_state(self) -> Tensor:
        """What is saved: both seeds and the count."""
        return torch.tensor([self.seed, self.run_seed, self.count])

    def set_extra_state(self, state: Tensor) -> None:
        """Takes back what was saved."""
        self.seed, self.run_seed, self.count = state.tolist()
