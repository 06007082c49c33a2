"""What every balancer must do, run over one list: add a line to ``BALANCERS`` to have yours checked."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import plait.balancing
from plait import registry
from plait.balancing import Balancer, BalancerReport

TASKS = ("semseg", "depth", "normals")
BALANCERS: dict[str, tuple[str, dict[str, Any]]] = {
    "equal": ("equal", {}),
    "fixed": ("fixed", {"weights": {"depth": 0.5}}),
    "mgda": ("mgda", {}),
    "mgda, weighted heads": ("mgda", {"heads": "weighted"}),
    "mgda, l2": ("mgda", {"normalisation": "l2"}),
    "mgda, loss": ("mgda", {"normalisation": "loss"}),
    "mgda, loss+": ("mgda", {"normalisation": "loss+"}),
    "mgda at features": ("mgda", {"scope": "features"}),
    "mgda at features, weighted heads": ("mgda", {"scope": "features", "heads": "weighted"}),
}
every_balancer = pytest.mark.parametrize("name", BALANCERS)


def test_the_list_is_complete() -> None:
    assert {short for short, _ in BALANCERS.values()} == set(registry.BALANCERS)


def make(name: str, tasks: tuple[str, ...] = TASKS) -> Balancer:
    short, options = BALANCERS[name]
    if "weights" in options:
        options = {"weights": {task: w for task, w in options["weights"].items() if task in tasks}}
    return plait.balancing.create(short, tasks=tasks, **options)


class Model(nn.Module):
    """A trunk of two layers, and a head a task; the depth loss is scaled up."""

    def __init__(self, tasks: tuple[str, ...] = TASKS) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5)).double()
        self.heads = nn.ModuleDict({task: nn.Linear(5, 2) for task in TASKS}).double()
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        self.images = torch.randn(6, 4, generator=generator, dtype=torch.float64)
        self.labels = torch.randn(3, 6, 2, generator=generator, dtype=torch.float64)
        self.heads = nn.ModuleDict({task: self.heads[task] for task in tasks})

    def losses(self, features: Tensor) -> dict[str, Tensor]:
        labels = dict(zip(TASKS, self.labels, strict=True))
        errors = {task: (head(features) - labels[task]).square().mean() for task, head in self.heads.items()}
        return {task: error * (1e3 if task == "depth" else 1.0) for task, error in errors.items()}


def update(
    name: str, model: Model, *, balancer: Balancer | None = None, **options: Any
) -> tuple[dict[str, Tensor], BalancerReport]:
    """Gradients and report of one step in a loop that knows nothing of plait's."""
    balancer = balancer or make(name, tuple(model.heads))
    model.zero_grad()
    with balancer.cut(model.trunk(model.images)) as features:
        losses = options.pop("losses", lambda losses: losses)(model.losses(features))
        report = balancer.backward(losses, parameters=model.trunk.parameters(), **options)
    return {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}, report


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient, rtol=1e-9, atol=1e-9 * float(gradient.abs().max()))


@every_balancer
def test_weights_are_finite_and_not_negative_and_every_parameter_gets_a_gradient(name: str) -> None:
    model = Model()
    gradients, report = update(name, model)
    assert gradients.keys() == dict(model.named_parameters()).keys()
    assert bool((report.weights >= 0).all())
    assert report.present == (True, True, True)
    assert report.reduced == () or set(report.reduced) == set(model.trunk.parameters())


@every_balancer
def test_the_trunk_gets_the_weighted_sum_of_the_gradients(name: str) -> None:
    model = Model()
    gradients, report = update(name, model)
    losses = model.losses(model.trunk(model.images))
    weighted = sum(float(w) * loss for w, loss in zip(report.weights, losses.values(), strict=True))
    expected = torch.autograd.grad(weighted, list(model.trunk.parameters()))  # type: ignore[arg-type]
    assert_same(
        {key: g for key, g in gradients.items() if "trunk" in key},
        {f"trunk.{key}": g for (key, _), g in zip(model.trunk.named_parameters(), expected, strict=True)},
    )


@every_balancer
def test_heads_get_their_own_or_the_weighted_gradient_as_stated(name: str) -> None:
    model = Model()
    gradients, report = update(name, model)
    model.zero_grad()
    torch.stack(list(model.losses(model.trunk(model.images)).values())).sum().backward()
    balancer = make(name)
    for place, (task, head) in enumerate(model.heads.items()):
        factor = report.weights[place] if balancer.heads == "weighted" else 1.0
        torch.testing.assert_close(gradients[f"heads.{task}.weight"], head.weight.grad * factor)


@every_balancer
def test_order_of_the_losses_does_not_matter(name: str) -> None:
    expected, report = update(name, Model())
    reordered, again = update(name, Model(), losses=lambda losses: dict(reversed(losses.items())))
    assert_same(reordered, expected)
    torch.testing.assert_close(again.weights, report.weights)


@every_balancer
def test_losses_come_as_mapping_sequence_or_tensor(name: str) -> None:
    expected, _ = update(name, Model())
    for form in (lambda losses: list(losses.values()), lambda losses: torch.stack(list(losses.values()))):
        given, _ = update(name, Model(), losses=form)
        assert_same(given, expected)


@every_balancer
@pytest.mark.parametrize("absent", TASKS)
def test_an_absent_task_is_left_out_and_the_rest_goes_on(name: str, absent: str) -> None:
    """Whether it is missing, None, or present with a loss that is NaN and said to be absent."""
    rest = tuple(task for task in TASKS if task != absent)
    expected, smaller = update(name, Model(rest))
    for options in (
        {"losses": lambda losses: {task: loss for task, loss in losses.items() if task != absent}},
        {"losses": lambda losses: [None if task == absent else loss for task, loss in losses.items()]},
        {
            "losses": lambda losses: {
                t: loss * (torch.nan if t == absent else 1) for t, loss in losses.items()
            },
            "present": {task: task != absent for task in TASKS},
        },
    ):
        gradients, report = update(name, Model(), **options)
        assert_same(gradients, expected)
        assert report.weights[TASKS.index(absent)] == 0
        torch.testing.assert_close(report.weights[[TASKS.index(task) for task in rest]], smaller.weights)


@every_balancer
def test_one_task_is_plain_training(name: str) -> None:
    gradients, _ = update(name, Model(("normals",)))
    model = Model(("normals",))
    model.losses(model.trunk(model.images))["normals"].backward()
    assert_same(gradients, {key: p.grad for key, p in model.named_parameters() if p.grad is not None})


@every_balancer
def test_gradients_are_added_to_those_that_are_there(name: str) -> None:
    expected, _ = update(name, Model())
    model, balancer = Model(), make(name)
    for _ in range(2):
        with balancer.cut(model.trunk(model.images)) as features:
            balancer.backward(model.losses(features), parameters=model.trunk.parameters())
    doubled = {key: p.grad / 2 for key, p in model.named_parameters() if p.grad is not None}
    assert_same(doubled, expected)


@every_balancer
def test_the_same_without_lists_of_parameters(name: str) -> None:
    """What is not given is found in the graph."""
    expected, _ = update(name, Model())
    model, balancer = Model(), make(name)
    if balancer.scope == "parameters":
        balancer.backward(model.losses(model.trunk(model.images)), parameters=model.trunk.parameters())
    else:
        with balancer.cut(model.trunk(model.images)) as features:
            balancer.backward(model.losses(features))
    assert_same({key: p.grad for key, p in model.named_parameters() if p.grad is not None}, expected)
    model.zero_grad()
    features = model.trunk(model.images)
    balancer.backward(model.losses(features), features=features, parameters=model.trunk.parameters())
    assert_same({key: p.grad for key, p in model.named_parameters() if p.grad is not None}, expected)


@every_balancer
def test_a_loss_scale_is_taken_out_before_the_rule_sees_gradients(name: str) -> None:
    expected, report = update(name, Model())
    scaled, again = update(name, Model(), scale=2.0**16)
    assert_same(scaled, expected)
    torch.testing.assert_close(again.weights, report.weights)


@every_balancer
def test_a_penalty_is_added_and_changes_no_weight(name: str) -> None:
    expected, report = update(name, Model())
    model, balancer = Model(), make(name)
    with balancer.cut(model.trunk(model.images)) as features:
        penalty = features.square().mean()
        again = balancer.backward(
            model.losses(features), parameters=model.trunk.parameters(), penalty=penalty
        )
    torch.testing.assert_close(again.weights, report.weights)
    given = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.trunk(model.images).square().mean().backward()
    for key, parameter in model.named_parameters():
        extra = 0 if parameter.grad is None else parameter.grad
        torch.testing.assert_close(given[key], expected[key] + extra)


@every_balancer
def test_state_round_trips_and_the_same_seed_gives_the_same(name: str) -> None:
    first, second = make(name), make(name)
    model = Model()
    for _ in range(2):
        update(name, model, balancer=first)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    ours, report = update(name, model, balancer=first)
    theirs, again = update(name, model, balancer=second)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert torch.equal(report.weights, again.weights)


@every_balancer
def test_the_rule_alone_is_homogeneous_and_works_in_both_precisions(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    jacobian = torch.randn(3, 20, generator=generator, dtype=torch.float64)
    losses = torch.rand(3, generator=generator, dtype=torch.float64)
    balancer = make(name)
    direction = balancer.direction(jacobian, losses)
    torch.testing.assert_close(balancer.direction(7 * jacobian, losses), 7 * direction)
    half = balancer.direction(jacobian.float(), losses.float())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), direction, rtol=1e-4, atol=1e-5)
