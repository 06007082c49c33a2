"""The learning rate as one pure function of the step, so that a resumed run needs no stored schedule."""

from __future__ import annotations

import math

from plait.config import Schedule

ONE_CYCLE_START = 1 / 25
"""Where ``one_cycle`` begins, as a part of its peak (Smith and Topin, 2018, as in torch's ``OneCycleLR``)."""


def factor(schedule: Schedule, step: int, steps: int) -> float:
    """What the peak learning rate is multiplied by at an update.

    Linear warm-up first, from ``1 / warmup_steps`` to 1; then, over the rest of the run (``p`` from 0 to 1):

    ============= =================================================================
    ``poly``      ``(1 - p) ** power``
    ``cosine``    half a cosine wave, from 1 to 0
    ``one_cycle`` half a wave up from 1/25 until ``peak``, then half a wave down
    ``step``      times ``gamma`` at each milestone
    ``constant``  1
    ============= =================================================================

    The first three end at ``floor`` instead of 0 where one is given.

    Args:
        schedule: Its name and shape.
        step: The update, from 0.
        steps: Updates in all.

    Returns:
        A factor in ``[0, 1]``.

    >>> [factor(Schedule(name="poly", power=1, warmup_steps=2), step, 6) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    part = (step - schedule.warmup_steps) / max(1, steps - schedule.warmup_steps)

    def above_floor(value: float) -> float:
        return schedule.floor + (1 - schedule.floor) * value

    match schedule.name:
        case "poly":
            return above_floor((1 - min(part, 1)) ** schedule.power)
        case "cosine":
            return above_floor(half_wave(part))
        case "one_cycle":
            if part < schedule.peak:
                return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - half_wave(part / schedule.peak))
            return above_floor(half_wave((part - schedule.peak) / (1 - schedule.peak)))
        case "step":
            return schedule.gamma ** sum(part >= milestone for milestone in schedule.milestones)
        case "constant":
            return 1.0


def half_wave(part: float) -> float:
    """Half a cosine wave, from 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * min(part, 1)))
