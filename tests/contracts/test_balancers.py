"""What every balancer must do, run over one list: add a line to ``BALANCERS`` to have yours checked.

The properties of a rule are those that are offered to users for rules of their own
(:mod:`plait.testing.balancers`); what follows them here is about the machinery around the rules.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.contracts.balancers import BALANCERS, make
from torch import Tensor

from plait import registry
from plait.testing.balancers import CHECKS, NAMES, Make, Toy, Traits, updates

THREE = NAMES[:3]
every_balancer = pytest.mark.parametrize("name", BALANCERS)


def test_the_list_is_complete() -> None:
    assert {short for short, _, _ in BALANCERS.values()} == set(registry.BALANCERS)


@every_balancer
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_property(name: str, check: Callable[[Make, Traits], None]) -> None:
    check(lambda names: make(name, names), BALANCERS[name][2])


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for key, gradient in theirs.items():
        torch.testing.assert_close(ours[key], gradient, rtol=1e-9, atol=1e-9 * float(gradient.abs().max()))


@every_balancer
def test_heads_get_their_own_or_the_weighted_gradient_as_stated(name: str) -> None:
    model, balancer = Toy(), make(name, THREE)
    found, report = updates(balancer, model)
    if balancer.needs.direction and balancer.heads == "weighted":
        pytest.skip("its heads have weights of their own, which its own tests look at")
    model.zero_grad()
    torch.stack(list(model().values())).sum().backward()
    for place, (task, head) in enumerate(model.heads.items()):
        factor = report.weights[place] if balancer.heads == "weighted" else 1.0
        torch.testing.assert_close(found[f"heads.{task}.weight"], head.weight.grad * factor)


@every_balancer
def test_losses_come_as_mapping_sequence_or_tensor(name: str) -> None:
    expected, _ = updates(make(name, THREE), Toy())
    forms: list[Callable[[dict[str, Tensor]], Any]] = [
        lambda losses: dict(reversed(losses.items())),
        lambda losses: list(losses.values()),
        lambda losses: torch.stack(list(losses.values())),
    ]
    for form in forms:
        found, _ = updates(make(name, THREE), Toy(), change=form)
        assert_same(found, expected)


@every_balancer
def test_the_same_without_lists_of_parameters(name: str) -> None:
    """What is not given is found in the graph, and features inside a graph are as good as a cut."""
    balancer = make(name, THREE)
    if balancer.needs.samples or balancer.needs.look_ahead or balancer.needs.closure:
        pytest.skip("its loop gives more than losses")
    expected, _ = updates(balancer, Toy())
    model, balancer = Toy(), make(name, THREE)
    if balancer.scope == "parameters":
        balancer.backward(model(), parameters=model.trunk.parameters())
    else:
        with balancer.cut(model.features()) as leaves:
            balancer.backward(model.losses(leaves), compared=balancer.compared_in(model))
    assert_same({k: p.grad for k, p in model.named_parameters() if p.grad is not None}, expected)
    if BALANCERS[name][0] == "rotograd":
        return  # its heads read rotated features, which are not inside this graph
    model, balancer = Toy(), make(name, THREE)
    features = model.features()
    balancer.backward(
        model.losses(features),
        features=features["a"],
        parameters=model.trunk.parameters(),
        compared=balancer.compared_in(model),
    )
    assert_same({k: p.grad for k, p in model.named_parameters() if p.grad is not None}, expected)


@every_balancer
def test_a_penalty_is_added_and_changes_no_weight(name: str) -> None:
    balancer = make(name, THREE)
    if balancer.needs.samples or balancer.needs.look_ahead:
        pytest.skip("its loop gives more than losses")
    expected, report = updates(balancer, Toy())
    model, balancer = Toy(), make(name, THREE)
    with balancer.cut(model.features()) as leaves:
        again = balancer.backward(
            model.losses(leaves),
            parameters=model.trunk.parameters(),
            compared=balancer.compared_in(model),
            penalty=leaves["a"][0].square().mean(),
        )
    torch.testing.assert_close(again.weights, report.weights)
    given = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with make(name, THREE).cut(model.features()) as leaves:
        where = leaves["a"][0]
        features = model.trunk(model.images[0])
        penalty = torch.autograd.grad(where.square().mean(), where)[0]
    features.backward(penalty)
    for key, parameter in model.trunk.named_parameters():
        torch.testing.assert_close(given[f"trunk.{key}"], expected[f"trunk.{key}"] + parameter.grad)


@every_balancer
def test_weights_are_used_for_so_many_steps(name: str) -> None:
    """The steps in between take no gradients by task; trunk and heads get what the kept weights say."""
    balancer, model = make(name, THREE, every=3), Toy()
    first = updates(balancer, model)[1].weights
    for _ in range(2):
        found, report = updates(balancer, model)
        assert report.gramian is None
        assert torch.equal(report.weights, first)
        if BALANCERS[name][0] == "rotograd":
            continue  # the heads read features that have been rotated since
        weighted = torch.stack([w * v for w, v in zip(first, model().values(), strict=True)]).sum()
        expected = torch.autograd.grad(weighted, list(model.trunk.parameters()))
        for (key, _), gradient in zip(model.trunk.named_parameters(), expected, strict=True):
            torch.testing.assert_close(found[f"trunk.{key}"], gradient)
    fewer = updates(balancer, model, present={"a": True, "b": True, "c": False})[1].weights
    assert float(fewer[2]) == 0, "other tasks than before: the weights are computed again"
