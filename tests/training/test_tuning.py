"""What is left to "auto" is measured, and what is fixed stays."""

import time
from typing import Any

import pytest
import torch

from plait.config import Training
from plait.training import tuning
from plait.training.tuning import Choices, choose, threads

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores, bfloat16 instructions, and a clock that only trials move."""
    now = [0.0]
    monkeypatch.setattr(tuning, "usable_cores", lambda: 4)
    monkeypatch.setattr(tuning, "has_bf16", lambda: True)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(tuning, "advance", lambda by: now.__setitem__(0, now[0] + by), raising=False)


def trial_of(cost: Any) -> tuning.Trial:
    def trial(choices: Choices) -> None:
        assert torch.get_num_threads() == choices.threads
        tuning.advance(cost(choices))  # type: ignore[attr-defined]

    return trial


def test_the_faster_is_taken() -> None:
    def cost(choices: Choices) -> float:
        seconds = 1 / choices.threads
        seconds *= 0.9 if choices.channels_last else 1
        return seconds * (0.5 if choices.precision == "bf16" else 1)

    assert choose(Training(), CPU, trial_of(cost)) == Choices(4, "bf16", True)
    assert choose(Training(), CPU, trial_of(cost), processes=2) == Choices(2, "bf16", True)


def test_the_plain_one_is_taken_where_the_others_do_not_pay() -> None:
    """Threads that wait for each other, a layout and a precision that gain two percent or nothing."""

    def cost(choices: Choices) -> float:
        seconds = 10.0 * choices.threads if choices.threads > 1 else 1.0
        return seconds * (0.98 if choices.channels_last else 1) * (3 if choices.precision == "bf16" else 1)

    assert choose(Training(), CPU, trial_of(cost)) == Choices(1, "fp32", False)


def test_hopeless_choices_are_given_up_after_one_step() -> None:
    tried: list[Choices] = []

    def cost(choices: Choices) -> float:
        tried.append(choices)
        return 100.0 if choices.threads > 1 else 1.0

    choose(Training(precision="fp32", channels_last=False), CPU, trial_of(cost))
    assert [choices.threads for choices in tried] == [1, 1, 1, 2, 4]


def test_what_the_recipe_fixes_stays() -> None:
    def never(choices: Choices) -> None:
        raise AssertionError(choices)

    asked = Training(threads=3, precision="fp16", channels_last=True)
    assert choose(asked, CPU, never) == Choices(3, "fp16", True)
    short = Training(steps=10, threads=1)
    assert choose(short, CPU, never) == Choices(1, "fp32", False)


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
