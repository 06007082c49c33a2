"""Costs: exact where they can be, and measuring changes nothing."""

import copy
from collections.abc import Iterator
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import plait
from plait.models.parameters import freeze_batch_norm
from plait.study.cost import Cost, active_parameters, measure, together
from plait.study.live_tensors import LiveTensors, bytes_of, peak_memory


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


def test_parameters_that_no_prediction_needs_are_not_active() -> None:
    net = Net()
    used = sum(p.numel() for p in net.parameters())
    net.spare = nn.Linear(5, 5)
    cost = measure({"net": net}, (8, 8), repeats=1)["net"]
    assert cost.active_parameters == used
    assert cost.parameters == used + 30


def test_frozen_parameters_are_active_and_stay_frozen() -> None:
    net = Net().train()
    net.body[0].weight.requires_grad_(False)
    freeze_batch_norm(net)
    assert active_parameters(net, (8, 8)) == sum(p.numel() for p in net.parameters())
    assert [name for name, p in net.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    assert net.training
    assert not net.body[1].training
    assert all(p.grad is None for p in net.parameters())


def test_heads_of_auxiliary_tasks_are_not_active() -> None:
    tasks = {"depth": {"kind": "depth"}, "normals": {"kind": "normals"}}
    tasks["edges"] = {"kind": "edges", "auxiliary": True}
    model = plait.create_model(backbone="test_resnet", tasks=tasks, decoder="pad_net")
    unused = sum(p.numel() for p in model.decoder.initial.parameters())  # what supervises edges, and others
    assert active_parameters(model, (64, 64)) == sum(p.numel() for p in model.parameters()) - unused


def test_memory_that_is_held_counts_once_where_it_is_shared() -> None:
    whole = torch.zeros(100)
    assert bytes_of([whole, whole[:10], torch.zeros(5)]) == 420
    device = torch.device("cpu")
    made = peak_memory(lambda: torch.zeros(50) + 1, [whole, whole], device)
    assert made == 400 + 2 * 200


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
            parameters=parameters,
            active_parameters=parameters // 2,
            flops=flops,
            latency=0.5,
            memory=4 * parameters + memory,
            energy=0.25,
            step_energy=2.0,
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
    assert whole.active_parameters == sum(part.parameters // 2 for part in parts)
    assert whole.energy == pytest.approx(0.25 * len(parts))
    assert whole.step_energy == pytest.approx(2.0 * len(parts))
    assert whole.step_seconds is None
    assert Cost.of({**asdict(whole), "more": 1}) == whole
    if len(parts) == 1:
        assert whole == parts[0]


def test_what_is_not_known_of_one_network_is_not_known_of_all() -> None:
    one = Cost(parameters=1, flops=2, latency=3.0, memory=4, energy=5.0, step_memory=6, active_parameters=1)
    other = Cost(parameters=1, flops=2, latency=3.0, memory=4)
    whole = together([one, other])
    assert (whole.energy, whole.step_memory, whole.active_parameters) == (None, None, None)


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
