"""The machinery around the rules: cuts, scopes, elementwise rules, rules on losses, refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import plait.balancing
from plait.balancing import Balancer, Needs, Observation
from plait.balancing.gradients import Rows, feeding, reached
from plait.errors import ConfigurationError


class GeometricMean(Balancer):
    """A rule on losses: the gradient of their geometric mean."""

    needs = Needs(quantity="losses")

    def weights(self, seen: Observation) -> Tensor:
        assert seen.losses is not None
        return seen.losses.log().mean().exp() / (len(seen.losses) * seen.losses)


class Uncertainty(Balancer):
    """A rule with parameters of its own, whose gradient it writes itself."""

    needs = Needs(quantity="losses", parameters=True)

    def __init__(self, tasks: tuple[str, ...]) -> None:
        super().__init__(tasks=tasks)
        self.log_variance = nn.Parameter(torch.zeros(len(tasks)))

    def weights(self, seen: Observation) -> Tensor:
        assert seen.losses is not None
        with torch.enable_grad():
            losses = seen.losses.detach().requires_grad_()
            s = self.log_variance[list(seen.places)]
            objective = (losses * (-s).exp() / 2 + s / 2).sum()
            weights, self.log_variance.grad = torch.autograd.grad(objective, [losses, self.log_variance])
        return weights


class Largest(Balancer):
    """An elementwise rule: of each entry, the task's that is largest in size."""

    needs = Needs(quantity="jacobian", direction=True)

    def __init__(self, scope: str) -> None:
        super().__init__(scope=scope, heads="own")  # type: ignore[arg-type]

    def combine(self, jacobian: Tensor, seen: Observation) -> Tensor:
        return jacobian.gather(0, jacobian.abs().argmax(0, keepdim=True))[0]


def problem() -> tuple[nn.Linear, nn.ModuleDict, Tensor]:
    generator = torch.Generator().manual_seed(0)
    trunk, heads = nn.Linear(3, 4).double(), nn.ModuleDict({t: nn.Linear(4, 1) for t in "abc"}).double()
    for parameter in [*trunk.parameters(), *heads.parameters()]:
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return trunk, heads, torch.randn(5, 3, generator=generator, dtype=torch.float64)


def losses_of(heads: nn.ModuleDict, features: Tensor, images: slice = slice(None)) -> dict[str, Tensor]:
    """Shares of losses over five images."""
    return {task: (head(features)[:, 0] - 1).square().sum() / 5 for task, head in heads.items()}


def test_a_rule_on_losses_is_the_gradient_of_its_objective_also_in_parts() -> None:
    trunk, heads, images = problem()
    objective = torch.stack(list(losses_of(heads, trunk(images)).values())).log().mean().exp()
    parameters = [*trunk.parameters(), *heads.parameters()]
    expected = torch.autograd.grad(objective, parameters)
    balancer = GeometricMean(tasks="abc")
    for parts in ([images], [images[:2], images[2:]], [images[:1], images[1:2], images[2:]]):
        trunk.zero_grad()
        heads.zero_grad()
        for part in parts[:-1]:
            balancer.collect(losses_of(heads, trunk(part)))
        balancer.backward(losses_of(heads, trunk(parts[-1])))
        for parameter, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)


def test_parameters_of_its_own_are_trained_by_the_rule() -> None:
    trunk, heads, images = problem()
    balancer = Uncertainty(tuple("abc"))
    losses = losses_of(heads, trunk(images))
    report = balancer.backward({task: losses[task] for task in "ac"})
    assert report.weights.tolist() == [0.5, 0.0, 0.5]
    expected = [0.5 - 0.5 * float(losses[task].detach()) if task != "b" else 0.0 for task in "abc"]
    assert balancer.log_variance.grad is not None
    assert balancer.log_variance.grad.tolist() == pytest.approx(expected)


def test_an_elementwise_rule_sees_the_jacobian() -> None:
    trunk, heads, images = problem()
    rows = []
    for task in "abc":
        loss = losses_of(heads, trunk(images))[task]
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(trunk.parameters()))]))
    expected = Largest("parameters").direction(torch.stack(rows))
    Largest("parameters").backward(losses_of(heads, trunk(images)), parameters=trunk.parameters())
    given = torch.cat([p.grad.flatten() for p in trunk.parameters() if p.grad is not None])
    torch.testing.assert_close(given, expected)


def test_an_elementwise_rule_at_features_gives_one_direction_there() -> None:
    trunk, heads, images = problem()
    features = trunk(images)
    rows = [
        torch.autograd.grad(loss, features, retain_graph=True)[0]
        for loss in losses_of(heads, features).values()
    ]
    direction = Largest("features").direction(torch.stack(rows).flatten(1)).view_as(features)
    expected = torch.autograd.grad(features, list(trunk.parameters()), direction)
    balancer = Largest("features")
    with balancer.cut(trunk(images)) as leaves:
        balancer.backward(losses_of(heads, leaves), scale=8.0)
    for parameter, gradient in zip(trunk.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_gradients_at_a_pyramid_are_partial_derivatives() -> None:
    """A level computed from another takes its own part only, or the encoder would see it twice."""
    trunk, heads, images = problem()
    again = nn.Linear(4, 4).double()

    def losses(fine: Tensor, coarse: Tensor) -> dict[str, Tensor]:
        return losses_of(heads, fine + coarse)

    fine = trunk(images)
    coarse = again(fine).tanh()
    balancer = plait.balancing.create("mgda", scope="features", heads="weighted")
    with balancer.cut({"a": [fine, coarse], "b": [fine, coarse]}) as leaves:
        assert leaves["a"][0] is leaves["b"][0]
        report = balancer.backward(losses(*leaves["a"]))
    given = [p.grad for p in [*trunk.parameters(), *again.parameters(), *heads.parameters()]]
    fine = trunk(images)
    whole = losses(fine, again(fine).tanh())
    weighted = torch.stack([w * loss for w, loss in zip(report.weights, whole.values(), strict=True)]).sum()
    expected = torch.autograd.grad(weighted, [*trunk.parameters(), *again.parameters(), *heads.parameters()])
    for ours, theirs in zip(given, expected, strict=True):
        torch.testing.assert_close(ours, theirs)

    fine = trunk(images)
    coarse = again(fine).tanh()
    assert feeding([fine, coarse])
    with pytest.raises(ConfigurationError, match="no partial derivatives: use 'with balancer"):
        balancer.backward(losses(fine, coarse), features=[fine, coarse])


def test_blocks_that_are_zero_are_not_computed() -> None:
    """A parameter that one task does not use is never differentiated by that task's loss."""
    trunk, heads, images = problem()
    only_a = nn.Linear(4, 4).double()
    asked: list[str] = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, tensor: Tensor) -> Tensor:
            return tensor.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            asked.append("branch")
            return gradient

    features = trunk(images)
    losses = losses_of(heads, features)
    losses["a"] = Watched.apply(heads["a"](only_a(features))).square().mean()
    balancer = plait.balancing.create("mgda", tasks=tuple("abc"))
    balancer.backward(
        losses,
        parameters={tuple("abc"): list(trunk.parameters()), ("a",): list(only_a.parameters())},
        others=heads.parameters(),
    )
    assert asked == ["branch"]
    assert only_a.weight.grad is not None


def test_rows_without_blocks_count_as_zero() -> None:
    rows = Rows()
    a, b = torch.zeros(2), torch.zeros(3)
    rows.add(a, 0, torch.tensor([1.0, 2.0]))
    rows.add(b, 0, torch.ones(3))
    rows.add(b, 2, torch.tensor([1.0, 0.0, -3.0]))
    rows.add(b, 2, torch.tensor([0.0, 0.0, 1.0]))
    assert rows.gramian(3).tolist() == [[8, 0, -1], [0, 0, 0], [-1, 0, 5]]
    assert rows.jacobian([0, 2]).tolist() == [[1, 2, 1, 1, 1], [0, 0, 1, 0, -2]]
    combined = rows.combine({0: torch.tensor(2.0), 2: torch.tensor(1.0)})
    assert combined[a].tolist() == [2, 4]
    assert combined[b].tolist() == [3, 2, 0]


def test_leaves_of_a_graph_are_found() -> None:
    trunk, heads, images = problem()
    found = reached([heads["a"](trunk(images)).sum()])
    assert set(found) == {*trunk.parameters(), *heads["a"].parameters()}


def test_an_error_leaves_no_half_collected_step() -> None:
    trunk, heads, images = problem()
    balancer = plait.balancing.create("mgda", tasks=tuple("abc"))
    with pytest.raises(ConfigurationError, match="got none: pass parameters="):
        balancer.collect(losses_of(heads, trunk(images)))
    report = balancer.backward(losses_of(heads, trunk(images)), parameters=trunk.parameters())
    assert float(report.weights.sum()) == pytest.approx(1)


@pytest.mark.parametrize("name", ["equal", "fixed", "mgda"])
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("absent", ["missing", "none", "said", "all said"])
def test_a_task_is_absent_if_it_has_no_loss_or_is_said_to_be(name: str, declared: bool, absent: str) -> None:
    options: dict[str, Any] = {"weights": dict.fromkeys("abc", 1.0)} if name == "fixed" else {}
    if absent == "missing" and not declared and name != "fixed":
        pytest.skip("nobody can know that it is missing")
    trunk, heads, images = problem()
    losses: dict[str, Tensor | None] = dict(losses_of(heads, trunk(images)))
    present = {"said": {"b": False}, "all said": {"a": True, "b": False, "c": True}}.get(absent)
    if absent == "none":
        losses["b"] = None
    elif absent == "missing":
        del losses["b"]
    balancer = plait.balancing.create(name, tasks=tuple("abc") if declared else None, **options)
    report = balancer.backward(losses, parameters=trunk.parameters(), present=present)
    assert report.present == (True, False, True)
    assert report.weights[[0, 2]].sum() == pytest.approx(1.0 if name == "mgda" else 2.0)
    with pytest.raises(ConfigurationError, match=r"knows no task 'd'.*its tasks are a, b, c"):
        balancer.backward(dict.fromkeys("abc"), parameters=trunk.parameters(), present={"d": False})


def test_what_does_not_fit_is_refused_in_a_sentence() -> None:
    trunk, heads, images = problem()
    losses = losses_of(heads, trunk(images))
    with pytest.raises(ConfigurationError, match=r"no task 'c'; its tasks are a, b"):
        plait.balancing.create("equal", tasks=("a", "b")).backward(losses)
    with pytest.raises(ConfigurationError, match=r"expected 2 losses \(a, b\), got 3"):
        plait.balancing.create("equal", tasks=("a", "b")).backward(list(losses.values()))
    with pytest.raises(ConfigurationError, match="presence of 3 tasks, got 2"):
        plait.balancing.create("equal").backward(losses, present=[True, False])
    with pytest.raises(ConfigurationError, match=r"got a Linear: pass module\.parameters\(\)"):
        plait.balancing.create("mgda").backward(losses, parameters=trunk)  # type: ignore[arg-type]
    for got, unfit in {r"a tensor \[2\]": torch.ones(2), "0.0": 0.0}.items():
        with pytest.raises(ConfigurationError, match=f"scalar tensor as the loss of each task .*got {got}"):
            plait.balancing.create("equal").backward({**losses, "a": unfit})  # type: ignore[dict-item]
    with pytest.raises(ConfigurationError, match=r"got one scalar: pass {task: loss}"):
        plait.balancing.create("equal").backward(sum(losses.values(), torch.zeros(())))
    for tasks in (["a", "a"], []):
        with pytest.raises(ConfigurationError, match="named once each, and there is at least one; got"):
            plait.balancing.create("equal", tasks=tasks)
    with pytest.raises(ConfigurationError, match=r"gradients \[T, D\], floating point; got \[3\]"):
        plait.balancing.create("mgda").direction(torch.ones(3))
    with pytest.raises(ConfigurationError, match=r"a loss for each of 2 gradients, got \[3\]"):
        plait.balancing.create("gls").direction(torch.eye(2), torch.ones(3))
    with pytest.raises(ConfigurationError, match="did you mean 'mgda'"):
        plait.balancing.create("mdga")
    with pytest.raises(ConfigurationError, match="did you mean 'cagrad'"):
        plait.balancing.create("CAGrad")
    with pytest.raises(ConfigurationError, match=r"no option 'scoope'.*did you mean 'scope'"):
        plait.balancing.create("mgda", scoope="features")
    with pytest.raises(ConfigurationError, match=r"features needs a cut.*scope='parameters'"):
        plait.balancing.create("mgda", scope="features").backward(losses)
    with pytest.raises(ConfigurationError, match="heads of GeometricMean get weighted gradients, got 'own'"):
        GeometricMean(heads="own")
    with pytest.raises(ConfigurationError, match="weight of 'a' must be finite and not negative, got -1"):
        plait.balancing.create("fixed", weights={"a": -1.0})
    with pytest.raises(ConfigurationError, match=r"weight is given for 'dept'.*'depth'"):
        plait.balancing.create("fixed", tasks=("depth",), weights={"dept": 1.0})
    with pytest.raises(ConfigurationError, match="fixed weights belong to tasks"):
        plait.balancing.create("fixed")
    with pytest.raises(ConfigurationError, match=r"must be {name: a number} or null, got \[1, 2\]"):
        plait.balancing.create("fixed", weights=[1, 2])


def test_losses_without_a_graph_are_refused() -> None:
    """As ``loss.backward()`` does; one that is a constant beside others is no error."""
    trunk, heads, images = problem()
    losses = losses_of(heads, trunk(images))
    for name in ("equal", "mgda"):
        balancer = plait.balancing.create(name)
        with pytest.raises(ConfigurationError, match="no loss requires a gradient"):
            balancer.backward([loss.detach() for loss in losses.values()], parameters=trunk.parameters())
    mixed = [losses["a"], losses["b"].detach(), losses["c"]]
    report = plait.balancing.create("equal").backward(mixed, parameters=trunk.parameters())
    assert report.weights.tolist() == [1, 1, 1]
