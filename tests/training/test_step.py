"""One training step: the same update however the global batch is split, and none that is not finite."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.balancing.tiny import TASKS, part, tiny_batch, tiny_network, tiny_tasks
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import plait.balancing
from plait.balancing import Balancer
from plait.data.sample import Batch
from plait.errors import ConfigurationError, NonFiniteLossError
from plait.models.network import MultiTaskNetwork
from plait.tasks.objective import losses as task_losses
from plait.training.precision import LossScaler
from plait.training.step import NonFiniteWatch, StepReport, check_pair, step_if, training_step

BALANCERS: dict[str, dict[str, Any]] = {
    "equal": {},
    "fixed": {"weights": {"depth": 0.3}},
    "mgda parameters": {"scope": "parameters"},
    "mgda parameters weighted": {"scope": "parameters", "heads": "weighted"},
    "mgda features": {"scope": "features"},
    "mgda features weighted": {"scope": "features", "heads": "weighted", "normalisation": "loss+"},
}


def make(name: str, names: Sequence[str] = TASKS) -> Balancer:
    return plait.balancing.create(name.split()[0], tasks=tiny_tasks(names), **BALANCERS[name])


def step(
    balancer: Balancer | str,
    batches: Sequence[Batch],
    *,
    model: MultiTaskNetwork | None = None,
    lr: float = 1.0,
    **options: Any,
) -> tuple[dict[str, Tensor], StepReport]:
    """The gradients of one step, and its report."""
    model = model or tiny_network(interacting=True, penalty=True)
    balancer = make(balancer) if isinstance(balancer, str) else balancer
    check_pair(model, balancer)
    report = training_step(model, batches, balancer, torch.optim.SGD(model.parameters(), lr=lr), **options)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, report


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], rtol: float = 1e-9) -> None:
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=rtol, atol=rtol * float(gradient.abs().max()))


def test_equal_is_the_plain_sum() -> None:
    batch = tiny_batch()
    ours, report = step("equal", [batch])
    model = tiny_network(interacting=True, penalty=True)
    predictions = model(batch.images)
    losses = task_losses(model.tasks, predictions, batch.targets)
    (sum(losses.values()) + sum(predictions.penalties.values())).backward()  # type: ignore[union-attr]
    assert_same(ours, {name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert {task: float(loss) for task, loss in report.losses.items()} == pytest.approx(
        {task: float(loss.detach()) for task, loss in losses.items()}
    )
    assert report.weights.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", BALANCERS)
@pytest.mark.parametrize(
    "absent", [{}, {"depth": [0, 1]}, {"depth": [0, 1, 2, 3]}], ids=["all", "some", "none"]
)
def test_micro_batches_make_the_step_of_the_whole_batch(name: str, absent: dict[str, list[int]]) -> None:
    batch = tiny_batch(absent=absent)
    whole, report = step(name, [batch])
    # Depth is only known in the second half, or nowhere; the parts are of unequal size.
    parts, in_parts = step(name, [part(batch, [0]), part(batch, [1, 2, 3])])
    assert_same(parts, whole)
    torch.testing.assert_close(in_parts.weights, report.weights)
    torch.testing.assert_close(in_parts.losses, report.losses)
    assert report.present == (True, "depth" not in absent or len(absent["depth"]) < 4, True)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("name", BALANCERS)
def test_the_memory_layout_does_not_change_the_update(
    name: str, parts: int, optimizer: type[torch.optim.Optimizer]
) -> None:
    """torch's fused kernels pair the numbers of parameter and gradient by their places in memory."""
    batch = tiny_batch()
    after = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = tiny_network(interacting=True, penalty=True).to(memory_format=layout)
        images = batch.images.contiguous(memory_format=layout)
        whole = dataclasses.replace(batch, images=images)
        batches = [whole] if parts == 1 else [part(whole, [0, 1]), part(whole, [2, 3])]
        moves = optimizer(model.parameters(), lr=1e-2, fused=True)  # type: ignore[call-arg]
        for _ in range(2):
            training_step(model, batches, make(name), moves)
        after.append(dict(model.named_parameters()))
        assert all(p.grad.stride() == p.stride() for p in model.parameters() if p.grad is not None)
    for parameter, value in after[0].items():
        torch.testing.assert_close(after[1][parameter], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", BALANCERS)
def test_an_absent_task_might_as_well_not_have_been_declared(name: str) -> None:
    """Its parameters get no gradient at all; the others get what they would without it."""
    batch = tiny_batch(absent={"normals": range(4)})
    gradients, report = step(name, [batch], model=tiny_network())
    assert not any("normals" in parameter for parameter in gradients)
    assert report.present == (True, True, False)
    assert report.weights[2] == 0
    two = ("semseg", "depth")
    model = tiny_network()
    smaller = tiny_network(two)
    smaller.load_state_dict(
        {k: v for k, v in model.state_dict().items() if "normals" not in k and "second" not in k}
    )
    expected, _ = step(make(name, two), [batch], model=smaller)
    assert_same(gradients, expected)


@pytest.mark.parametrize("name", BALANCERS)
def test_a_batch_without_any_label_changes_nothing(name: str) -> None:
    batch = tiny_batch(absent=dict.fromkeys(TASKS, range(4)))
    model = tiny_network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    gradients, report = step(name, [batch], model=model)
    assert gradients == {}
    assert bool(report.finite.all())
    assert report.present == (False, False, False)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["mgda parameters", "mgda parameters weighted"])
def test_the_cut_changes_the_cost_and_not_the_update(name: str) -> None:
    batch = tiny_batch()
    with_cut, _ = step(name, [batch], model=tiny_network(interacting=True, penalty=True))
    without, _ = step(name, [batch], model=tiny_network(interacting=True, penalty=True, has_cut=False))
    assert_same(with_cut, without)


@pytest.mark.parametrize("name", BALANCERS)
def test_one_task_is_plain_training(name: str) -> None:
    batch = part(tiny_batch(names=("depth",)), range(4))
    balancer = plait.balancing.create(
        name.split()[0], tasks=("depth",), **{k: v for k, v in BALANCERS[name].items() if k != "weights"}
    )
    ours, _ = step(balancer, [batch], model=tiny_network(("depth",)))
    plain, _ = step(make("equal", ("depth",)), [batch], model=tiny_network(("depth",)))
    assert_same(ours, plain)


@pytest.mark.parametrize("name", BALANCERS)
def test_a_loss_scale_does_not_change_the_update(name: str) -> None:
    batch = tiny_batch()
    plain, _ = step(name, [batch])
    scaled, _ = step(name, [batch], scaler=LossScaler(2.0**16))
    assert_same(scaled, plain)
    in_parts, _ = step(name, [part(batch, [0, 1]), part(batch, [2, 3])], scaler=LossScaler(2.0**16))
    assert_same(in_parts, plain)


@pytest.mark.parametrize("name", BALANCERS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_comes_close_to_float32(name: str, precision: str) -> None:
    batch = tiny_batch(dtype=torch.float32)
    exact, _ = step(name, [batch], model=tiny_network(dtype=torch.float32))
    scaler = LossScaler(2.0**8) if precision == "fp16" else None
    mixed, report = step(
        name, [batch], model=tiny_network(dtype=torch.float32), precision=precision, scaler=scaler
    )
    assert bool(report.updated)
    flat = [torch.cat([gradients[key].flatten() for key in exact]) for gradients in (mixed, exact)]
    assert float(torch.cosine_similarity(*flat, dim=0)) > 0.99


def test_clipping_shortens_the_whole_gradient() -> None:
    gradients, report = step("equal", [tiny_batch()], clip_norm=0.01)
    length = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
    assert length == pytest.approx(0.01, rel=1e-4)
    assert float(report.grad_norm) > 0.01


@pytest.mark.parametrize("name", BALANCERS)
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_non_finite_loss_is_named_and_never_applied(name: str, policy: str) -> None:
    batch = tiny_batch()
    batch.targets["depth"][1] = torch.inf
    broken = dataclasses.replace(batch, images=batch.images.clone())
    broken.images[2, 0, 0, 0] = torch.nan
    model = tiny_network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    _, report = step(name, [broken], model=model)
    assert not bool(report.updated)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    watch = NonFiniteWatch(TASKS, policy=policy, every=3)  # type: ignore[arg-type]
    _, fine = step(name, [tiny_batch()])
    watch.observe(0, fine)
    watch.observe(1, report)
    if policy == "stop":
        with pytest.raises(
            NonFiniteLossError, match=r"semseg.* not finite at step 1 \(images image 0, image 1"
        ):
            watch.observe(2, fine)
    else:
        watch.observe(2, fine)
        assert watch.skipped == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["equal", "mgda parameters", "mgda features"])
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_network_makes_the_same_step(name: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    expected, _ = step(name, [tiny_batch()])
    model = tiny_network(interacting=True, penalty=True)
    model.encoder.compile()
    model.decoder.compile()
    compiled, _ = step(name, [tiny_batch()], model=model)
    assert_same(compiled, expected)
    torch.compiler.reset()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("make_optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_an_update_left_out_leaves_no_trace(make_optimizer: Any, fused: bool) -> None:
    """Also before the first one: the run is that of the good steps alone."""
    options = {"momentum": 0.9} if make_optimizer is torch.optim.SGD else {}
    results = []
    for applied in ([True, True], [False, True, False, False, True, False]):
        weight = torch.nn.Parameter(torch.ones(100))
        optimizer = make_optimizer([weight], lr=0.1, weight_decay=0.1, fused=fused, **options)
        for apply in applied:
            weight.grad = torch.full((100,), 0.5 if apply else torch.nan)
            step_if(torch.tensor(apply), optimizer)
        results.append([weight.detach(), *optimizer.state[weight].values()])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results, strict=True))


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_parameter_may_get_its_first_gradient_later_than_others(nesterov: bool) -> None:
    """Fused SGD then makes the steps of SGD that is not fused."""
    results = []
    for fused in (False, True):
        weights = [torch.nn.Parameter(torch.full((100,), start)) for start in (1.0, 2.0)]
        optimizer = torch.optim.SGD(
            weights, lr=0.1, weight_decay=0.1, momentum=0.9, nesterov=nesterov, fused=fused
        )
        for reached in ([0], [1], [0, 1], [0]):
            optimizer.zero_grad()
            for place in reached:
                weights[place].grad = torch.full((100,), 0.5)
            step_if(torch.tensor(True), optimizer)
        results.append([*weights, *(optimizer.state[weight]["momentum_buffer"] for weight in weights)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_fused_sgd_decides_on_the_device_from_the_first_step_on(momentum: float) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=momentum, fused=True)
    weight.grad = torch.ones(3)
    with Reads() as reads:
        step_if(torch.tensor(False), optimizer)
        step_if(torch.tensor(True), optimizer)
    assert reads.count == 0
    assert torch.equal(weight, torch.full((3,), 0.9))


def test_a_step_reads_nothing_back_from_the_device() -> None:
    """But for the decision of an optimizer that is not fused, which is read once, on the host."""
    model, balancer, batch = tiny_network(), make("equal"), tiny_batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Reads() as reads:
        training_step(model, [batch], balancer, optimizer)
    # Presence (a mask a task) and the number of images are on the host in any case.
    assert reads.count <= len(TASKS) + 2


class Reads(TorchDispatchMode):
    """Counts the values that are read from tensors."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*arguments, **(keywords or {}))


def test_the_loss_scale_halves_at_an_overflow_and_doubles_in_calm() -> None:
    scaler = LossScaler(8.0, growth_interval=2)
    scales = []
    for finite in (True, False, True, True, True):
        scaler.update(torch.tensor(finite))
        scales.append(float(scaler.scale))
    assert scales == [8, 4, 4, 8, 8]


def test_pairs_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"MGDA.*features.*TinyEncoder.*no place to cut"):
        check_pair(tiny_network(has_cut=False), make("mgda features"))
    with pytest.raises(ConfigurationError, match="made for depth, the network for semseg, depth, normals"):
        check_pair(tiny_network(), plait.balancing.create("equal", tasks=("depth",)))
    model = tiny_network(has_cut=False)
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(ConfigurationError, match="needs a cut"):
        training_step(model, [tiny_batch()], make("mgda features"), optimizer)


def test_a_closure_sees_the_losses_after_the_update() -> None:
    class Remembers(plait.balancing.Equal):
        needs = plait.balancing.Needs(quantity="nothing", closure=True)

        def after_update(self, losses: Any) -> None:
            self.after = losses()

    model, batch = tiny_network(), tiny_batch()
    balancer = Remembers(tasks=TASKS)
    _, report = step(balancer, [batch], model=model, lr=1e-3)
    again, _ = step("equal", [batch], model=model)
    assert again
    before = torch.stack(list(report.losses.values()))
    assert float(balancer.after.sum()) < float(before.sum())
