"""What a step does around the rule: micro-batches that disagree, a cut that leaks, steps that fail, drops."""

from typing import Any

import pytest
import torch
from tests.balancing.tiny import TASKS, tiny_batch, tiny_network, tiny_tasks
from torch import Tensor, nn

import plait.balancing
from plait.balancing import Balancer
from plait.balancing.mgda import MGDA
from plait.errors import ConfigurationError
from plait.tasks.objective import losses as task_losses
from plait.training.step import check_pair, compared_parameters, global_counts, training_step

AB = ("a", "b")


def problem() -> tuple[nn.Linear, nn.ModuleDict, Tensor]:
    generator = torch.Generator().manual_seed(0)
    trunk, heads = nn.Linear(3, 4).double(), nn.ModuleDict({task: nn.Linear(4, 1) for task in AB}).double()
    for parameter in [*trunk.parameters(), *heads.parameters()]:
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return trunk, heads, torch.randn(4, 3, generator=generator, dtype=torch.float64)


def losses_of(heads: nn.ModuleDict, features: Tensor) -> dict[str, Tensor]:
    return {task: (head(features) - 1).square().mean() for task, head in heads.items()}


@pytest.mark.parametrize("name", ["equal", "gls", "mgda"])
def test_a_task_that_comes_late_is_not_left_out_without_a_word(name: str) -> None:
    trunk, heads, images = problem()
    balancer = plait.balancing.create(name, tasks=AB)

    def first_half(present: dict[str, bool] | None = None) -> dict[str, Tensor]:
        found = losses_of(heads, trunk(images))
        balancer.collect({"a": found["a"]}, parameters=trunk.parameters(), present=present)
        return losses_of(heads, trunk(images))

    with pytest.raises(ConfigurationError, match="b had no loss in the step's first micro-batch"):
        balancer.backward(first_half(), parameters=trunk.parameters())
    for flag in (False, True):
        present = {"a": True, "b": flag}
        report = balancer.backward(first_half(present), parameters=trunk.parameters(), present=present)
        assert report.present == (True, flag)


@pytest.mark.parametrize("scope", ["parameters", "features"])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("leak", ["features", "a layer", "the penalty"])
def test_a_cut_with_a_leak_is_refused(scope: str, listed: bool, leak: str) -> None:
    """Heads that read what was not cut would lose a part of the encoder's gradient."""
    trunk, heads, images = problem()
    balancer = plait.balancing.create("mgda", tasks=AB, scope=scope)
    features = trunk(images)
    with balancer.cut(features.tanh()) as leaves:
        other = {"features": features, "a layer": trunk(images)}.get(leak, 0.0)
        penalty = trunk.weight.square().sum() if leak == "the penalty" else None
        with pytest.raises(ConfigurationError, match=r"depends on \d parameters of the encoder past the cut"):
            balancer.backward(
                losses_of(heads, leaves + other),
                parameters=trunk.parameters(),
                others=heads.parameters() if listed else None,
                penalty=penalty,
            )


def test_shared_parameters_on_the_heads_side_of_a_cut_are_refused() -> None:
    """Over parameters they would count as heads; without a cut they are compared like the others."""
    trunk, heads, images = problem()
    neck = nn.Linear(4, 4).double()
    balancer = plait.balancing.create("mgda", tasks=AB)
    shared = [*trunk.parameters(), *neck.parameters()]
    with (
        balancer.cut(trunk(images)) as leaves,
        pytest.raises(ConfigurationError, match="pass as parameters= only what features are computed from"),
    ):
        balancer.backward(losses_of(heads, neck(leaves)), parameters=shared)


def test_what_a_failed_step_collected_can_be_discarded() -> None:
    trunk, heads, images = problem()
    reports = []
    for fails in (True, False):
        balancer = plait.balancing.create("modo", tasks=AB)
        shared = list(trunk.parameters())
        if fails:
            balancer.sample(0, losses_of(heads, trunk(images[:1])), parameters=shared)
            balancer.collect(losses_of(heads, trunk(images[:1])), parameters=shared)
            balancer.discard()
        for number in (0, 1):
            balancer.sample(number, losses_of(heads, trunk(images[number:])), parameters=shared)
        reports.append(balancer.backward(losses_of(heads, trunk(images)), parameters=shared))
    assert torch.equal(reports[0].losses, reports[1].losses)
    assert torch.equal(reports[0].weights, reports[1].weights)


def test_a_step_after_one_that_failed_is_as_if_it_had_not_been() -> None:
    results = []
    for fails in (True, False):
        balancer, model = plait.balancing.create("mgda", tasks=tiny_tasks()), tiny_network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        passes: list[int] = []

        def out_of_memory(*_: object, passes: list[int] = passes) -> None:
            passes.append(1)
            if len(passes) == 2:
                raise MemoryError

        if fails:
            handle = model.decoder.register_forward_pre_hook(out_of_memory)
            with pytest.raises(MemoryError):
                training_step(model, [tiny_batch(2), tiny_batch(2)], balancer, optimizer)
            handle.remove()
        report = training_step(model, [tiny_batch(4, seed=2)], balancer, optimizer)
        results.append((report.losses, report.weights))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize("name", ["equal", "gls", "mgda", "db_mtl"])
def test_a_task_is_dropped_also_where_weights_are_used_again(name: str) -> None:
    trunk, heads, images = problem()
    balancer = plait.balancing.create(name, tasks=AB, every=3)
    balancer.drops = True

    def step(factor: float = 1.0) -> plait.balancing.BalancerReport:
        trunk.zero_grad()
        found = losses_of(heads, trunk(images))
        found["b"] = found["b"] * factor
        return balancer.backward(found, parameters=trunk.parameters())

    first, again = step(), step()
    assert torch.equal(first.weights, again.weights)
    report = step(torch.nan)
    assert report.dropped == (False, True)
    assert trunk.weight.grad is not None
    assert bool(trunk.weight.grad.isfinite().all())
    assert step().present == (True, True)


def test_an_option_that_there_is_not_is_refused_also_by_the_class() -> None:
    with pytest.raises(ConfigurationError, match=r"MGDA has no option 'scop' \(did you mean 'scope'"):
        MGDA(scop="features")  # type: ignore[call-arg]


@pytest.mark.parametrize("has_cut", [True, False])
def test_where_tasks_interact_in_the_decoder_all_of_them_use_the_encoder(has_cut: bool) -> None:
    """Also a branch that the encoder has for two of three tasks: no part of the gradient is left out."""
    model, batch = tiny_network(has_cut=has_cut, interacting=True), tiny_batch(4)
    assert list(model.encoder.shared_parameters()) != [TASKS]
    assert list(model.shared_parameters()) == [TASKS]
    balancer: Balancer = plait.balancing.create("upgrad", tasks=tiny_tasks())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    report = training_step(model, [batch], balancer, optimizer)
    losses = task_losses(model.tasks, model(batch.images), batch.targets, global_counts(model.tasks, [batch]))
    weighted = torch.stack([w * loss for w, loss in zip(report.weights, losses.values(), strict=True)]).sum()
    parameters = list(model.encoder.parameters())
    for parameter, expected in zip(parameters, torch.autograd.grad(weighted, parameters), strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_modules_of_which_tasks_share_nothing_are_refused() -> None:
    model = tiny_network()
    for name, frozen in (("decoder", False), ("encoder.branches.second", False), ("encoder.stem", True)):
        model.encoder.stem.requires_grad_(not frozen)
        balancer = plait.balancing.create("mgda", tasks=tiny_tasks(), scope=[name])
        with pytest.raises(ConfigurationError, match=f"scope names {name}, of which tasks share no"):
            compared_parameters(model, balancer)


@pytest.mark.parametrize(("name", "options"), [("rlw", {}), ("equal", {"reduction": "mean"})])
def test_a_weight_that_tasks_divide_is_refused_where_they_alternate(name: str, options: Any) -> None:
    """Each task alone would have weight 1: the rule would be the plain sum without a word."""
    balancer = plait.balancing.create(name, tasks=tiny_tasks(), **options)
    with pytest.raises(ConfigurationError, match="gives each task an update of its own"):
        check_pair(tiny_network(), balancer, alternate_tasks=True)
