"""The learning rate as a function of the step."""

from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plait.config import Schedule
from plait.training.schedules import factor

NAMES = get_args(get_type_hints(Schedule)["name"])


@given(
    name=st.sampled_from(NAMES),
    steps=st.integers(1, 300),
    warmup=st.integers(0, 50),
    floor=st.floats(0, 1),
)
def test_factors_are_in_range_and_warm_up_rises_to_one(
    name: str, steps: int, warmup: int, floor: float
) -> None:
    schedule = Schedule(name=name, warmup_steps=warmup, floor=floor)  # type: ignore[arg-type]
    factors = [factor(schedule, step, steps) for step in range(steps)]
    assert all(0 <= value <= 1 for value in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    if 0 < warmup <= steps:
        assert factors[warmup - 1] == 1


@pytest.mark.parametrize("name", [name for name in NAMES if name != "one_cycle"])
def test_after_warm_up_the_rate_never_rises(name: str) -> None:
    schedule = Schedule(name=name, warmup_steps=10)  # type: ignore[arg-type]
    factors = [factor(schedule, step, 100) for step in range(10, 101)]
    assert factors[0] == 1
    assert factors == sorted(factors, reverse=True)


def test_exact_values() -> None:
    assert factor(Schedule(name="poly", power=0.9), 50, 100) == pytest.approx(0.5**0.9)
    assert factor(Schedule(name="cosine"), 50, 100) == pytest.approx(0.5)
    assert factor(Schedule(name="one_cycle", peak=0.25), 0, 100) == pytest.approx(1 / 25)
    assert factor(Schedule(name="one_cycle", peak=0.25), 25, 100) == pytest.approx(1)
    steps = Schedule(name="step", milestones=[0.5, 0.75], gamma=0.1)
    assert [factor(steps, step, 100) for step in (49, 50, 75)] == pytest.approx([1, 0.1, 0.01])
    assert factor(Schedule(name="poly", floor=0.2), 100, 100) == pytest.approx(0.2)
