"""The processes that train or score together."""

from __future__ import annotations

import torch
from accelerate import PartialState  # type: ignore[import-untyped]


def join() -> PartialState:
    """This process's device and place; the first call joins what ``torchrun`` started together.

    Without an accelerator they talk through gloo: accelerate, left to itself, would not join them at all.
    """
    return PartialState(cpu=not torch.accelerator.is_available())


def leave() -> None:
    """Parts from the other processes at the end of a program, if there were any."""
    PartialState().destroy_process_group()
