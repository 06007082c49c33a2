"""Every balancer in the training step: micro-batches, mixed precision, clipping, compiling, resuming."""

import copy
import logging
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from tests.balancing.tiny import TASKS, part, tiny_batch, tiny_network, tiny_tasks
from tests.contracts.balancers import BALANCERS
from tests.training.balancing_processes import of_tiny_tasks, steps
from torch import Tensor, nn

import plait.balancing
from plait.balancing import Balancer
from plait.data.sample import Batch
from plait.errors import ConfigurationError
from plait.models.network import MultiTaskNetwork
from plait.training.precision import LossScaler
from plait.training.step import NonFiniteWatch, StepReport, check_pair, training_step

every_balancer = pytest.mark.parametrize("name", BALANCERS)


def step(
    balancer: Balancer, model: MultiTaskNetwork, batches: list[Batch], seed: int = 0, **options: Any
) -> StepReport:
    """One step of plain gradient descent; what the balancer wants beside the batch is drawn by ``seed``."""
    optimizer = options.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.1)
    dtype = batches[0].images.dtype
    extra = [[tiny_batch(4, seed=seed + k + 50, dtype=dtype)] for k in range(balancer.needs.extra_batches)]
    return training_step(model, batches, balancer, optimizer, extra=extra, **options)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@every_balancer
def test_a_batch_in_parts_is_the_whole_batch(name: str) -> None:
    batch = tiny_batch(6, absent={"depth": [0, 1, 2]})
    parts = [part(batch, [0, 1]), part(batch, [2, 3, 4]), part(batch, [5])]
    balancer, model = of_tiny_tasks(name)
    if balancer.needs.quantity == "jacobian" and balancer.scope == "features":
        with pytest.raises(ConfigurationError, match="batch cannot come in 3 parts"):
            check_pair(model, balancer, accumulate=3)
        with pytest.raises(ConfigurationError, match="cannot accumulate gradients over micro-batches"):
            step(balancer, model, parts)
        return
    check_pair(model, balancer, accumulate=3)
    report = step(balancer, model, parts)
    other, expected = of_tiny_tasks(name)
    again = step(other, expected, [batch])
    torch.testing.assert_close(report.weights, again.weights, rtol=1e-7, atol=1e-10)
    theirs = gradients(expected)
    for key, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, theirs[key], rtol=1e-7, atol=1e-10)


@every_balancer
def test_bfloat16_with_batch_norm(name: str) -> None:
    """Autocast and batch norms do not get in the way of gradients by task."""
    balancer, model = of_tiny_tasks(name, torch.float32)
    model.encoder.stem[1] = nn.BatchNorm2d(4)  # type: ignore[operator, index]
    model.train()
    batch = tiny_batch(4, dtype=torch.float32)
    before = model.encoder.stem[1].running_mean.clone()  # type: ignore[operator, index]
    report = step(balancer, model, [batch], precision="bf16")
    assert bool(report.updated)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(model).values())
    norm = model.encoder.stem[1]  # type: ignore[operator, index]
    assert int(norm.num_batches_tracked) == 1, "only the step's own pass counts"
    assert not torch.equal(norm.running_mean, before)


@every_balancer
def test_backward_may_be_called_under_autocast(name: str) -> None:
    """As frameworks do that run the whole step under it; what follows the gradients is not autocast."""
    made = []
    for outside in (True, False):
        balancer, model = of_tiny_tasks(name, torch.float32)
        around = torch.autocast("cpu", dtype=torch.bfloat16) if outside else nullcontext()
        with around:
            step(balancer, model, [tiny_batch(4, dtype=torch.float32)], precision="bf16")
        made.append(gradients(model))
    for key, gradient in made[1].items():
        torch.testing.assert_close(made[0][key], gradient, rtol=1e-5, atol=1e-6)


@every_balancer
def test_loss_scaling_changes_nothing(name: str) -> None:
    """With a scale of 2^16 the update is that without one: rules see unscaled gradients."""
    results = []
    for scaler in (None, LossScaler(2.0**16).double()):
        balancer, model = of_tiny_tasks(name)
        report = step(balancer, model, [tiny_batch(4)], scaler=scaler)
        results.append((report.weights, gradients(model)))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-7, atol=1e-12)
    for key, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][key], gradient, rtol=1e-7, atol=1e-12)


@every_balancer
def test_clipping_shortens_what_the_balancer_made(name: str) -> None:
    balancer, model = of_tiny_tasks(name)
    report = step(balancer, model, [tiny_batch(4)], clip_norm=1e-3)
    other, expected = of_tiny_tasks(name)
    step(other, expected, [tiny_batch(4)])
    theirs = gradients(expected)
    for key, gradient in gradients(model).items():
        clipped = theirs[key] * (1e-3 / float(report.grad_norm))
        torch.testing.assert_close(gradient, clipped, rtol=1e-4, atol=1e-10)


@every_balancer
def test_dropping_a_task_that_overflows(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Its loss is finite and its gradient is not: the others make the step, and the log names it."""

    class Explodes(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
            return gradient * torch.inf

    balancer, model = of_tiny_tasks(name)
    if balancer.needs.look_ahead or balancer.needs.samples:
        pytest.skip("its other batches overflow as well, and the step is left out")
    balancer.drops = True
    handle = model.decoder.heads["depth"].register_forward_hook(lambda *a: Explodes.apply(a[2]))  # type: ignore[index]
    report = step(balancer, model, [tiny_batch(4)], scaler=LossScaler().double())
    handle.remove()
    assert report.dropped == (False, True, False)
    assert report.overflowed == (False, True, False)
    assert report.present == (True, False, True)
    assert bool(report.updated)
    with caplog.at_level(logging.WARNING):
        NonFiniteWatch(TASKS, policy="drop", every=1).observe(3, report)
    assert "gradient of depth was not finite at step 3" in caplog.text
    if BALANCERS[name][2].random or balancer.needs.closure:
        return
    other, expected = of_tiny_tasks(name)
    other.drops = True
    step(other, expected, [tiny_batch(4, absent={"depth": range(4)})])
    for key, gradient in gradients(expected).items():
        torch.testing.assert_close(gradients(model)[key], gradient, rtol=1e-7, atol=1e-10)


def test_an_overflow_is_named_where_gradients_of_tasks_are_taken(caplog: pytest.LogCaptureFixture) -> None:
    balancer, model = of_tiny_tasks("mgda")
    huge = LossScaler(2.0**1000).double()
    report = step(balancer, model, [tiny_batch(4)], scaler=huge)
    assert not bool(report.updated)
    assert any(report.overflowed)
    assert float(huge.scale) < 2.0**1000
    with caplog.at_level(logging.INFO):
        NonFiniteWatch(TASKS, every=1).observe(3, report)
    assert "overflowed in float16 at step 3" in caplog.text


@every_balancer
def test_the_step_leaves_nothing_behind(name: str) -> None:
    """Dropout draws and running statistics are those of one pass, however many a rule makes."""
    states = []
    for rule in ("equal", name):
        balancer, model = of_tiny_tasks(rule)
        model.encoder.stem.append(nn.Dropout(0.5))  # type: ignore[operator, union-attr]
        model.encoder.stem.append(nn.BatchNorm2d(4, momentum=0.5).double())  # type: ignore[operator, union-attr]
        model.train()
        torch.manual_seed(3)
        step(balancer, model, [tiny_batch(4)])
        norm = model.encoder.stem[-1]  # type: ignore[operator, index]
        states.append((norm.running_mean.clone(), torch.get_rng_state()))
    torch.testing.assert_close(states[0][0], states[1][0])
    assert torch.equal(states[0][1], states[1][1])


@every_balancer
def test_restored_in_the_middle_it_trains_on_bit_by_bit(name: str) -> None:
    """Network, optimizer and balancer are saved after two steps and an epoch, and two more are made."""
    balancer, model = of_tiny_tasks(name)
    parameters = [*model.parameters(), *balancer.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2)

    def go_on(b: Balancer, m: MultiTaskNetwork, o: torch.optim.Optimizer, first: int) -> list[Tensor]:
        seen = []
        for number in range(first, first + 2):
            absent = {"depth": range(4)} if number == 1 else {}
            report = step(b, m, [tiny_batch(4, seed=number, absent=absent)], seed=10 * number, optimizer=o)
            seen.append(report.weights)
        return [*seen, *(p.detach().clone() for p in m.state_dict().values())]

    go_on(balancer, model, optimizer, 0)
    balancer.end_epoch()
    saved = {key: value.clone() for key, value in balancer.state_dict().items()}
    states = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    ours = go_on(balancer, model, optimizer, 2)
    other, network = of_tiny_tasks(name)
    again = torch.optim.Adam([*network.parameters(), *other.parameters()], lr=1e-2)
    network.load_state_dict(states[0])
    other.load_state_dict(saved)
    again.load_state_dict(states[1])
    for one, two in zip(ours, go_on(other, network, again, 2), strict=True):
        assert torch.equal(one, two)


def test_steps_do_not_depend_on_what_ran_before() -> None:
    """Nothing is kept outside the objects of a run."""
    first, second = (steps("pcgrad", "every label", range(8)) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo looks at it
@every_balancer
def test_compiled_networks(name: str) -> None:
    """Gradients by task of a compiled encoder and decoder are those of the eager ones."""
    balancer, model = of_tiny_tasks(name)
    model.encoder.compile(backend="aot_eager")
    model.decoder.compile(backend="aot_eager")
    step(balancer, model, [tiny_batch(4)])
    other, expected = of_tiny_tasks(name)
    step(other, expected, [tiny_batch(4)])
    theirs = gradients(expected)
    for key, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, theirs[key], rtol=1e-7, atol=1e-10)


def test_batches_that_a_rule_wants_must_be_there() -> None:
    balancer, model = of_tiny_tasks("modo")
    with pytest.raises(ConfigurationError, match="MoDo wants 2 batches beside the step's own, got 0"):
        training_step(model, [tiny_batch(4)], balancer, torch.optim.SGD(model.parameters(), lr=0.1))


def test_what_cannot_work_together_is_refused_when_it_is_built() -> None:
    model = tiny_network()
    made = plait.balancing.create("mgda", tasks=tiny_tasks(), scope=["encoder.stemm"])
    with pytest.raises(ConfigurationError, match=r"module 'encoder.stemm'.*did you mean 'encoder.stem'"):
        step(made, model, [tiny_batch(2)])
    looks = plait.balancing.create("famo", tasks=tiny_tasks())
    with pytest.raises(ConfigurationError, match="each task an update of its own"):
        check_pair(model, looks, alternate_tasks=True)
