"""Auto-Lambda: exact values of its gradient where they are known, parameters bit for bit, and what rests."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from plait.balancing.auto_lambda import AutoLambda, auto_lambda_gradient
from plait.balancing.base import Observation
from plait.balancing.probe import Probe
from plait.errors import ConfigurationError


@dataclass
class Quadratics:
    """A probe of ``L_i = |A_i (theta - c_i)|^2 / 2``, in two parameters; another A and c for each batch."""

    tasks: tuple[str, ...] = ("a", "b", "c")
    absent: Sequence[set[int]] = (set(), set())
    lr: list[float] = field(default_factory=lambda: [0.1, 0.1])
    weight_decay: list[float] = field(default_factory=lambda: [0.0, 0.0])
    momentum: list[Tensor | None] = field(default_factory=lambda: [None, None])
    momentum_factor: float = 0.9
    dtype: torch.dtype = torch.float64
    logistic: bool = False
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(self.dtype)

        self.parameters = [nn.Parameter(draw(4)), nn.Parameter(draw(2, 2))]
        self.matrices, self.centres = draw(2, len(self.tasks), 8, 8), draw(2, len(self.tasks), 8)

    def _losses(self, batch: int, values: Sequence[Tensor]) -> Tensor:
        theta = torch.cat([value.flatten() for value in values])
        residual = (self.matrices[batch] @ (theta - self.centres[batch])[..., None])[..., 0]
        each = F.softplus(residual) if self.logistic else residual.square() / 2
        present = [float(place not in self.absent[batch]) for place in range(len(self.tasks))]
        return each.sum(1) * torch.tensor(present, dtype=self.dtype)

    def losses(self, batch: int) -> Tensor:
        self.calls.append(f"losses {batch}")
        return self._losses(batch, [p.detach() for p in self.parameters]).double()

    def gradients(self, batch: int, weights: Tensor) -> list[Tensor]:
        self.calls.append(f"gradients {batch}")
        total = (weights.to(self.dtype) * self._losses(batch, self.parameters)).sum()
        return list(torch.autograd.grad(total, self.parameters))

    def exact(self, weights: Tensor, outer: Tensor) -> Tensor:
        """The derivative of the outer loss through the step, with respect to its weights, by autograd."""
        weights = weights.clone().requires_grad_()
        total = (weights.to(self.dtype) * self._losses(0, self.parameters)).sum()
        ahead = []
        gradients = torch.autograd.grad(total, self.parameters, create_graph=True)
        for number, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            step = gradient + self.weight_decay[number] * parameter
            if self.momentum[number] is not None:
                step = step + self.momentum_factor * self.momentum[number]
            ahead.append(parameter - self.lr[number] * step)
        (found,) = torch.autograd.grad((outer.to(self.dtype) * self._losses(1, ahead)).sum(), weights)
        return found


def ones(size: int = 3) -> Tensor:
    return torch.ones(size, dtype=torch.float64)


PROBES: dict[str, dict[str, Any]] = {
    "plain": {},
    "decay": {"weight_decay": [0.3, 0.3]},
    "momentum": {"momentum": [torch.ones(4).double(), torch.eye(2).double()]},
    "groups": {"lr": [0.1, 0.002], "weight_decay": [0.0, 0.5], "momentum": [torch.ones(4).double(), None]},
}


@pytest.mark.parametrize("options", PROBES.values(), ids=PROBES)
def test_exact_on_quadratics(options: dict[str, Any]) -> None:
    """There a central difference has no error but rounding."""
    probe = Quadratics(**options)
    weights = torch.tensor([0.1, 0.5, -0.2], dtype=torch.float64)
    for outer in (ones(), torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)):
        found = auto_lambda_gradient(probe, weights, outer)  # type: ignore[arg-type]
        torch.testing.assert_close(found, probe.exact(weights, outer), rtol=1e-9, atol=1e-11)


def test_of_second_order_elsewhere_and_float32_is_enough() -> None:
    exact = (probe := Quadratics(logistic=True)).exact(0.1 * ones(), ones())
    found = auto_lambda_gradient(probe, 0.1 * ones(), ones())  # type: ignore[arg-type]
    assert found is not None
    assert float((found - exact).norm() / exact.norm()) < 1e-4
    single = auto_lambda_gradient(
        Quadratics(logistic=True, dtype=torch.float32),  # type: ignore[arg-type]
        0.1 * ones(),
        ones(),
    )
    assert single is not None
    assert float((single - exact).norm() / exact.norm()) < 1e-3


def test_without_groups_it_is_the_formula_of_the_paper() -> None:
    """``-lr <g_i(theta), v>`` with v at the virtual step."""
    probe, weights = Quadratics(), 0.1 * ones()
    start = [p.detach().clone() for p in probe.parameters]
    rows = torch.stack([torch.cat([g.flatten() for g in probe.gradients(0, row)]) for row in torch.eye(3)])
    step = probe.gradients(0, weights)
    with torch.no_grad():
        for parameter, gradient in zip(probe.parameters, step, strict=True):
            parameter -= 0.1 * gradient
    v = torch.cat([g.flatten() for g in probe.gradients(1, ones())])
    with torch.no_grad():
        for parameter, value in zip(probe.parameters, start, strict=True):
            parameter.copy_(value)
    found = auto_lambda_gradient(probe, weights, ones())  # type: ignore[arg-type]
    torch.testing.assert_close(found, -0.1 * rows @ v, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("fails", [None, "gradients 1", "losses 0"])
def test_parameters_come_back_bit_for_bit(fails: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Quadratics(dtype=torch.float32)
    before = [parameter.detach().clone() for parameter in probe.parameters]
    if fails is not None:

        def failing(batch: int, *rest: Tensor) -> Tensor:
            if batch == int(fails[-1]):
                raise RuntimeError("out of memory")
            return original(batch, *rest)

        original = getattr(probe, fails[:-2])
        monkeypatch.setattr(probe, fails[:-2], failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            AutoLambda().before_update(probe)  # type: ignore[arg-type]
    else:
        AutoLambda().before_update(probe)  # type: ignore[arg-type]
    for parameter, value in zip(probe.parameters, before, strict=True):
        assert parameter.equal(value)
        assert parameter.grad is None


def test_what_it_costs() -> None:
    probe = Quadratics()
    AutoLambda().before_update(probe)  # type: ignore[arg-type]
    assert probe.calls == ["gradients 0", "gradients 1", "losses 0", "losses 0"]


def test_weights_move_by_adam_before_they_are_used() -> None:
    rule, probe = AutoLambda(weight_lr=0.01), Quadratics()
    reference = (0.1 * ones()).requires_grad_()
    adam = torch.optim.Adam([reference], lr=0.01)
    for _ in range(10):
        reference.grad = auto_lambda_gradient(probe, reference.detach(), ones())  # type: ignore[arg-type]
        adam.step()
        rule.before_update(probe)  # type: ignore[arg-type]
        weights = rule.weights(Observation((0, 1, 2), 3))
        torch.testing.assert_close(weights, reference.detach())


def test_weights_lower_the_outer_loss() -> None:
    """Moved often at one point, they make a better and better step for the primary task."""
    rule, probe = AutoLambda(tasks="abc", primary=["b"], weight_lr=1e-3), Quadratics(lr=[1e-2, 1e-2])

    def outer_loss() -> float:
        weights = rule.weights(Observation((0, 1, 2), 3))
        ahead = [p - 1e-2 * g for p, g in zip(probe.parameters, probe.gradients(0, weights), strict=True)]
        return float(probe._losses(1, ahead)[1].detach())

    reached = []
    for _ in range(5):
        reached.append(outer_loss())
        for _ in range(20):
            rule.before_update(probe)  # type: ignore[arg-type]
    assert all(later < earlier for earlier, later in pairwise(reached))


def test_order_does_not_matter() -> None:
    one, other = Quadratics(), Quadratics()
    order = [2, 0, 1]
    other.matrices, other.centres = one.matrices[:, order], one.centres[:, order]
    first, second = AutoLambda(), AutoLambda()
    for _ in range(3):
        first.before_update(one)  # type: ignore[arg-type]
        second.before_update(other)  # type: ignore[arg-type]
    torch.testing.assert_close(second.task_weights, first.task_weights[order])


def test_a_harmful_task_may_get_a_negative_weight() -> None:
    """Task b pulls away from what the primary task a wants on the second batch."""
    for non_negative in (False, True):
        probe = Quadratics(tasks=("a", "b"))
        probe.matrices[:] = torch.eye(8, dtype=torch.float64)
        probe.centres[:] = 10.0
        probe.centres[:, 1] = -10.0
        rule = AutoLambda(tasks="ab", primary=["a"], weight_lr=0.05, non_negative=non_negative)
        for _ in range(5):
            rule.before_update(probe)  # type: ignore[arg-type]
        weights = rule.weights(Observation((0, 1), 2))
        assert weights[0] > 0.1
        assert weights[1] == 0 if non_negative else weights[1] < -0.1


def test_a_task_that_is_absent_keeps_its_weight_and_moments() -> None:
    rule = AutoLambda()
    rule.before_update(Quadratics())  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in rule.state_dict().items()}
    rule.before_update(Quadratics(absent=({1}, set())))  # type: ignore[arg-type]
    after = rule.state_dict()
    for name in ("task_weights", "adam.first", "adam.second", "adam.count"):
        assert (after[name] == before[name]).tolist() == [False, True, False], name
    assert rule.weights(Observation((0, 2), 3)).equal(after["task_weights"][[0, 2]])


def test_a_task_that_is_absent_in_the_second_batch_is_no_aim() -> None:
    probe = Quadratics(absent=(set(), {1}))
    found = auto_lambda_gradient(probe, 0.1 * ones(), ones())  # type: ignore[arg-type]
    only = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(found, auto_lambda_gradient(probe, 0.1 * ones(), only))  # type: ignore[arg-type]
    assert found is not None
    assert found[1] != 0


@pytest.mark.parametrize("why", ["no aim", "no step", "not finite"])
def test_no_weight_moves_without_a_reason(why: str) -> None:
    rule = AutoLambda(tasks="abc", primary=["a"])
    rule.before_update(Quadratics())  # type: ignore[arg-type]
    before = {name: value.clone() for name, value in rule.state_dict().items()}
    probe = Quadratics(absent=(set(), {0})) if why == "no aim" else Quadratics()
    if why == "no step":
        probe.lr = [0.0, 0.0]
    elif why == "not finite":
        probe.centres[1, 0] = torch.nan
    rule.before_update(probe)  # type: ignore[arg-type]
    assert all(value.equal(before[name]) for name, value in rule.state_dict().items())


def test_before_any_step_all_weights_are_the_first_ones() -> None:
    assert AutoLambda(initial=0.3).weights(Observation((0, 2), 3)).tolist() == [0.3, 0.3]


def test_a_restored_rule_goes_on_alike() -> None:
    rule, restored = AutoLambda(), AutoLambda()
    for _ in range(3):
        rule.before_update(Quadratics())  # type: ignore[arg-type]
    restored.load_state_dict(rule.state_dict())
    for _ in range(3):
        rule.before_update(Quadratics())  # type: ignore[arg-type]
        restored.before_update(Quadratics())  # type: ignore[arg-type]
    assert rule.task_weights.equal(restored.task_weights)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3))
        self.heads = nn.ModuleDict({task: nn.Linear(8, 1) for task in "ab"})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        z = self.trunk(x)
        return {task: head(z).square().mean() for task, head in self.heads.items()}


def test_on_a_network_with_norms_dropout_and_momentum() -> None:
    """As differentiating through a copy of the step; nothing of the network or its optimizer moves."""
    torch.manual_seed(0)
    net = Net().double()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    first, second = torch.randn(2, 16, 6, dtype=torch.float64)
    sum(net(first).values()).backward()
    optimizer.step()
    optimizer.zero_grad()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    rng = torch.get_rng_state()

    rule = AutoLambda(tasks="ab")
    rule.before_update(Probe(net, [lambda: [net(first)], lambda: [net(second)]], "ab", optimizer))
    assert torch.get_rng_state().equal(rng)
    assert all(value.equal(state[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())

    named = dict(net.named_parameters())
    weights = (0.1 * ones(2)).requires_grad_()

    def losses(values: dict[str, Tensor], batch: Tensor) -> dict[str, Tensor]:
        torch.set_rng_state(rng)
        buffers = {name: value.clone() for name, value in net.named_buffers()}
        found: dict[str, Tensor] = torch.func.functional_call(net, {**values, **buffers}, (batch,))
        return found

    inner = losses(named, first)
    total = weights[0] * inner["a"] + weights[1] * inner["b"]
    gradients = torch.autograd.grad(total, list(named.values()), create_graph=True)
    ahead = {
        name: p - 0.05 * (0.9 * optimizer.state[p]["momentum_buffer"] + g + 0.01 * p)
        for (name, p), g in zip(named.items(), gradients, strict=True)
    }
    (exact,) = torch.autograd.grad(sum(losses(ahead, second).values()), weights)
    torch.testing.assert_close(rule.adam.first / 0.1, exact, rtol=1e-3, atol=0)


def test_options_are_checked() -> None:
    assert AutoLambda(tasks="ab", primary=["a"]).primary == ("a",)
    with pytest.raises(ConfigurationError, match="weights must be positive, got weight_lr=0"):
        AutoLambda(weight_lr=0)
    with pytest.raises(ConfigurationError, match=r"given by name: make the balancer for tasks=\[...\] too"):
        AutoLambda(primary=["a"])
    with pytest.raises(ConfigurationError, match=r"'dept' is not known \(did you mean 'depth'\?\)"):
        AutoLambda(tasks=["depth", "normals"], primary=["dept"])
    with pytest.raises(ConfigurationError, match="name one, or pass primary=None for all"):
        AutoLambda(tasks="ab", primary=[])
