"""Costs: exact where they can be, and measuring changes nothing."""

import copy
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from plait.study.cost import Cost, LiveTensors, measure, together


class Net(nn.Module):
    """A convolution with a norm and a head; returns a tuple, as networks do."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.head = nn.Conv2d(width, 4, 1)

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.head(self.body(images)),)


def test_operations_and_parameters_are_counted_exactly() -> None:
    cost = measure({"net": Net()}, (16, 20), repeats=1)["net"]
    assert cost.macs == 16 * 20 * (27 * 8 + 8 * 4)
    assert cost.flops == 2 * cost.macs
    assert cost.parameters == 27 * 8 + 2 * 8 + 8 * 4 + 4
    assert cost.latency > 0
    assert cost.step_seconds is None
    assert cost.step_memory is None


def test_measuring_leaves_the_network_as_it_was() -> None:
    net = Net().train()
    net.head.weight.grad = torch.ones_like(net.head.weight)
    before = copy.deepcopy(net)
    cost = measure({"net": net}, (8, 8), repeats=1, step_batch=2)["net"]
    assert net.training
    for name, value in before.state_dict().items():
        assert torch.equal(value, net.state_dict()[name]), name
    assert torch.equal(net.head.weight.grad, torch.ones_like(net.head.weight))
    assert net.body[0].weight.grad is None
    assert cost.step_seconds is not None
    assert cost.step_memory is not None
    assert cost.step_memory > cost.memory


def test_memory_is_the_most_alive_at_once() -> None:
    with LiveTensors() as live:
        first = torch.ones(1000)
        second = first * 2
        del first
        third = second + 1
        view = third[:10]
        del second, third
        assert view.sum() == 30
    assert 8000 <= live.peak < 8100


def test_memory_grows_with_the_image() -> None:
    small, large = (measure({"net": Net()}, size, repeats=1)["net"].memory for size in ((8, 8), (16, 16)))
    assert small < large


def test_threads_are_as_before() -> None:
    before = torch.get_num_threads()
    measure({"net": Net()}, (8, 8), repeats=1, threads=1)
    assert torch.get_num_threads() == before


def costs() -> st.SearchStrategy[Cost]:
    counts = st.integers(1, 10**9)
    return st.builds(
        lambda parameters, flops, memory: Cost(
            parameters=parameters, flops=flops, latency=0.5, memory=4 * parameters + memory
        ),
        counts, counts, counts,
    )  # fmt: skip


@given(st.lists(costs(), min_size=1, max_size=4))
def test_together_is_a_sum_whose_memory_holds_all_parameters(parts: list[Cost]) -> None:
    whole = together(parts)
    assert whole.parameters == sum(part.parameters for part in parts)
    assert whole.flops == sum(part.flops for part in parts)
    assert whole.latency == pytest.approx(0.5 * len(parts))
    working = max(part.memory - 4 * part.parameters for part in parts)
    assert whole.memory == 4 * whole.parameters + working
    assert whole.step_seconds is None
    if len(parts) == 1:
        assert whole == parts[0]


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
