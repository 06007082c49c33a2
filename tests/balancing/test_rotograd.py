"""RotoGrad: a common length, rotations that make gradients agree, and the same in every loop."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.balancing.problems import jacobian
from tests.balancing.tiny import tiny_network
from tests.processes import run_both
from torch import Tensor, nn

import plait.balancing
from plait.balancing.rotograd import (
    Rotation,
    Rotations,
    RotoGrad,
    SkewAdam,
    rotation_slope,
    rotograd_weights,
)
from plait.errors import ConfigurationError

TASKS = ("a", "b", "c")
lengths = st.lists(st.floats(1e-4, 1e4), min_size=2, max_size=10)


def vector(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def skew(size: int, seed: int) -> Tensor:
    """A skew matrix at random."""
    matrix = random(size, size, seed=seed)
    return matrix - matrix.T


# The common length.


@given(lengths, st.integers(0, 100))
def test_all_gradients_get_the_length_of_the_paper(norms: list[float], seed: int) -> None:
    """Against the paper's formula, written out task by task."""
    initial = (torch.rand(len(norms), generator=torch.Generator().manual_seed(seed)) + 0.1).double()
    ratios = [now / then for now, then in zip(norms, initial.tolist(), strict=True)]
    common = sum(ratio / sum(ratios) * norm for ratio, norm in zip(ratios, norms, strict=True))
    weights = rotograd_weights(vector(norms), initial)
    torch.testing.assert_close(weights * vector(norms), torch.full_like(initial, common), rtol=1e-12, atol=0)
    assert min(norms) * (1 - 1e-9) <= common <= max(norms) * (1 + 1e-9)


@given(lengths, st.integers(0, 100), st.sampled_from([1e-100, 1e-8, 1e8, 1e100]))
def test_order_and_scale_do_not_matter(norms: list[float], seed: int, factor: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    initial = (torch.rand(len(norms), generator=generator) + 0.1).double()
    order = torch.randperm(len(norms), generator=generator)
    weights = rotograd_weights(vector(norms), initial)
    torch.testing.assert_close(rotograd_weights(vector(norms)[order], initial[order]), weights[order])
    torch.testing.assert_close(rotograd_weights(factor * vector(norms), initial), weights)
    torch.testing.assert_close(rotograd_weights(vector(norms), factor * initial), weights)


def test_two_tasks_at_the_start_get_the_mean_length() -> None:
    torch.testing.assert_close(rotograd_weights(vector([3, 1]), vector([3, 1])), vector([2 / 3, 2]))


def test_a_task_without_gradient_is_left_out() -> None:
    weights = rotograd_weights(vector([3, 0, 1]), vector([2, 0, 5]))
    assert weights[1] == 0
    torch.testing.assert_close(weights[[0, 2]], rotograd_weights(vector([3, 1]), vector([2, 5])))
    assert rotograd_weights(torch.zeros(2), torch.ones(2)).tolist() == [0, 0]


def test_what_is_not_finite_stays_visible() -> None:
    assert rotograd_weights(vector([1, torch.nan]), vector([1, 1])).isnan().all()
    assert rotograd_weights(vector([1, torch.inf]), vector([1, 1])).isnan().any()


@settings(max_examples=30)
@given(st.integers(2, 10), st.integers(0, 2**32), st.sampled_from(["rotograd", "none"]))
def test_the_rule_alone(tasks: int, seed: int, scale: Any) -> None:
    """Orthogonal maps of the space change nothing; float32 agrees; equal gradients g give T g."""
    rows, names = jacobian("scaled", tasks, seed), [str(place) for place in range(tasks)]

    def apply(given: Tensor, **options: Any) -> Tensor:
        return RotoGrad(tasks=names, scale=scale, **options).direction(given)

    direction, sizes = apply(rows), rows.norm(dim=1)
    weights = rotograd_weights(sizes, sizes) if scale == "rotograd" else torch.ones(tasks)
    size = max(float(direction.norm()), 1e-2 * float((weights * sizes).max()))
    turn = torch.linalg.qr(random(12, 12, seed=seed % 1000)).Q
    assert float((apply(rows @ turn) - direction @ turn).norm()) <= 1e-6 * size
    assert float((apply(rows.float()) - direction).norm()) <= 1e-4 * size
    if scale == "none":
        torch.testing.assert_close(direction, rows.sum(0))
    equal = rows[:1].expand(tasks, -1)
    torch.testing.assert_close(apply(equal), tasks * rows[0])
    torch.testing.assert_close(apply(equal, reduction="mean"), rows[0])


def test_orthogonal_gradients_get_the_same_length() -> None:
    direction = RotoGrad(tasks=TASKS).direction(vector([1, 2, 6]).diag())
    torch.testing.assert_close(direction, torch.full_like(direction, 3))


# The rotations.


@settings(max_examples=30)
@given(st.integers(0, 1000), st.sampled_from([(4,), (2, 3), (1, 2, 3, 4)]))
def test_the_slope_is_that_of_the_papers_objective(seed: int, places: tuple[int, ...]) -> None:
    """Autograd through ``|R exp(A) v - R g|^2`` at A = 0, among skew matrices."""
    shape = (places[0], 5, *places[1:])
    g, v = random(*shape, seed=seed), random(*shape, seed=seed + 1)
    rotation = torch.linalg.matrix_exp(skew(5, seed))
    chart = torch.zeros(5, 5, dtype=torch.float64, requires_grad=True)
    turned = torch.einsum("ij,bj...->bi...", rotation @ torch.linalg.matrix_exp((chart - chart.T) / 2), v)
    target = torch.einsum("ij,bj...->bi...", rotation, g)
    (turned - target).square().sum().backward()
    torch.testing.assert_close(rotation_slope(g, v), chart.grad)


def test_no_slope_where_the_gradient_is_the_target() -> None:
    g = random(3, 4)
    assert rotation_slope(g, 2 * g).abs().max() < 1e-12


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 6, 4, 5)])
def test_a_rotation_acts_on_the_first_channels_of_every_place(shape: tuple[int, ...]) -> None:
    feature, rotation = random(*shape), Rotation(6, 4).double()
    assert torch.equal(rotation(feature), feature)
    rotation.turn(skew(4, 1))
    turned = rotation(feature)
    torch.testing.assert_close(
        turned[:, :4], torch.einsum("ij,bj...->bi...", rotation.matrix, feature[:, :4])
    )
    assert torch.equal(turned[:, 4:], feature[:, 4:])
    torch.testing.assert_close(turned.norm(dim=1), feature.norm(dim=1))


def test_a_rotation_keeps_the_memory_layout_and_the_precision() -> None:
    feature = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last).bfloat16()
    turned = Rotation(4, 4)(feature)
    assert turned.dtype == torch.bfloat16
    assert turned.is_contiguous(memory_format=torch.channels_last)


def test_matrices_stay_orthogonal_in_float32() -> None:
    """After thousands of steps as after one: rounding does not add up."""
    rotation = Rotation(24, 24)
    for step in range(3000):
        rotation.turn(0.05 * skew(24, step).float())
    assert (rotation.matrix @ rotation.matrix.T - torch.eye(24)).abs().max() < 1e-6
    assert float(torch.linalg.det(rotation.matrix.double())) == pytest.approx(1, abs=1e-5)


def test_steps_are_those_of_adam() -> None:
    """The coordinates of a torch.optim.Adam with the same gradients and an exponential schedule."""
    rotation = Rotation(3, 3).double()
    ours = SkewAdam(rotation, lr=0.1, decay=0.9)
    theirs = nn.Parameter(torch.zeros(3, 3, dtype=torch.float64))
    adam = torch.optim.Adam([theirs], lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(adam, 0.9)
    for step in range(10):
        before, theirs.grad = theirs.detach().clone(), skew(3, step)
        adam.step()
        schedule.step()
        torch.testing.assert_close(ours.step(skew(3, step)), theirs.detach() - before)


# A loop of one's own.


class Model(nn.Module):
    """A trunk with two levels, one of which a branch of two tasks shares, and a head a task on both."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(4, 5)
        self.branches = nn.ModuleDict({"ab": nn.Linear(5, 3), "c": nn.Linear(5, 3)})
        self.heads = nn.ModuleDict({task: nn.Linear(8, 2) for task in TASKS})
        for place, parameter in enumerate(self.double().parameters()):
            parameter.data = random(*parameter.shape, seed=place)

    def features(self, first: int = 0, last: int = 6) -> dict[str, list[Tensor]]:
        fine = torch.tanh(self.trunk(random(6, 4, seed=100)[first:last]))
        coarse = {name: torch.tanh(branch(fine)) for name, branch in self.branches.items()}
        return {task: [fine, coarse["c" if task == "c" else "ab"]] for task in TASKS}

    def losses(self, features: Mapping[str, Sequence[Tensor]], first: int = 0) -> dict[str, Tensor]:
        sizes = {"a": 1.0, "b": 30.0, "c": 0.1}
        found = {}
        for place, task in enumerate(TASKS):
            made = self.heads[task](torch.cat(list(features[task]), 1))
            error = made - random(6, 2, seed=200 + place)[first : first + len(made)]
            found[task] = sizes[task] * error.square().sum() / 12
        return found


def make(**options: Any) -> RotoGrad:
    options = {"rotation_lr": 0.02, "tasks": TASKS, "channels": [5, 3], **options}
    return RotoGrad(**options).double()


def step(model: Model, balancer: RotoGrad, **options: Any) -> plait.balancing.BalancerReport:
    model.zero_grad()
    with balancer.cut(model.features()) as leaves:
        return balancer.backward(model.losses(leaves), **options)


def gradients(model: Model) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def matrices(balancer: RotoGrad, task: str) -> list[Tensor]:
    return [rotation.matrix.clone() for rotation in balancer.rotations.of(task)]


def test_with_identities_and_no_scale_it_is_the_plain_sum() -> None:
    model, expected = Model(), Model()
    step(model, make(scale="none"))
    torch.stack(list(expected.losses(expected.features()).values())).sum().backward()
    for name, gradient in gradients(expected).items():
        torch.testing.assert_close(gradients(model)[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", ["rotograd", "none"])
def test_the_encoder_gets_the_weighted_sum_of_the_gradients_through_the_rotations(scale: str) -> None:
    model, balancer = Model(), make(scale=scale)
    for _ in range(5):
        step(model, balancer)
    rotated = balancer.rotate(model.features())
    expected = model.losses(rotated)
    report = step(model, balancer)
    weighted = sum(float(w) * loss for w, loss in zip(report.weights, expected.values(), strict=True))
    shared = {n: p for n, p in model.named_parameters() if "heads" not in n}
    found = torch.autograd.grad(weighted, list(shared.values()), retain_graph=True)  # type: ignore[arg-type]
    for name, gradient in zip(shared, found, strict=True):
        torch.testing.assert_close(gradients(model)[name], gradient, rtol=1e-9, atol=1e-12)
    for task, head in model.heads.items():
        own = torch.autograd.grad(expected[task], head.weight, retain_graph=True)[0]
        torch.testing.assert_close(head.weight.grad, own)


def test_all_encoder_gradients_have_one_length() -> None:
    model, balancer = Model(), make()
    for _ in range(3):
        report = step(model, balancer)
        assert report.gramian is not None
        sizes = report.gramian.diagonal().sqrt() * report.weights
        torch.testing.assert_close(sizes, sizes[:1].expand(3))


def test_conflicting_tasks_come_to_agree() -> None:
    """Linear heads that want nearly opposite features: turned apart, both gradients point the same way."""
    wanted = {"a": vector([1, 0.1, 0, 0]), "b": vector([-1, 0, 0.1, 0]), "c": vector([0, 0, 0, 1])}
    balancer = make(channels=[4], rotation_lr=0.02, rotation_decay=1.0)
    features = random(3, 4)
    cosines = []
    for _ in range(300):
        with balancer.cut(features.clone().requires_grad_()) as leaves:
            report = balancer.backward({task: (leaves[task] @ wanted[task]).mean() for task in TASKS})
        assert report.gramian is not None
        sizes = report.gramian.diagonal().sqrt()
        cosines.append(float((report.gramian / sizes[:, None] / sizes).min()))
    assert cosines[0] < -0.98
    assert cosines[-1] > 0.999


def test_a_small_step_brings_every_gradient_nearer_to_the_others() -> None:
    """Against the same target, level by level: the objective of the paper falls for each task."""
    model, balancer = Model(), make(rotation_lr=1e-4)
    leaves = {task: [level.detach() for level in levels] for task, levels in model.features().items()}
    for levels in leaves.values():
        for level in levels:
            level.requires_grad_()
    losses = model.losses(leaves)
    rows = {task: torch.autograd.grad(losses[task], leaves[task], retain_graph=True) for task in TASKS}
    size = {task: torch.cat([part.flatten() for part in rows[task]]).norm() for task in TASKS}
    step(model, balancer)
    for level in range(2):
        sharers = TASKS if level == 0 else ("a", "b")
        mean = torch.stack([rows[task][level] / size[task] for task in sharers]).sum(0) / 3
        for task in sharers:
            own = rows[task][level] / size[task]
            turned = mean @ matrices(balancer, task)[level].T
            assert float((turned - own).square().sum()) < float((mean - own).square().sum())


def test_features_of_its_own_are_not_turned() -> None:
    model, balancer = Model(), make()
    for _ in range(3):
        step(model, balancer)
    assert torch.equal(matrices(balancer, "c")[1], torch.eye(3, dtype=torch.float64))
    assert not torch.equal(matrices(balancer, "c")[0], torch.eye(5, dtype=torch.float64))
    assert not torch.equal(matrices(balancer, "a")[1], torch.eye(3, dtype=torch.float64))


def test_a_level_that_nobody_reads_is_not_turned() -> None:
    balancer = make(channels=[5, 3, 7])
    model = Model()
    given = {task: [*levels, random(6, 7).requires_grad_()] for task, levels in model.features().items()}
    with balancer.cut(given) as leaves:
        balancer.backward(model.losses({task: levels[:2] for task, levels in leaves.items()}))
    assert torch.equal(matrices(balancer, "a")[2], torch.eye(7, dtype=torch.float64))
    assert not torch.equal(matrices(balancer, "a")[0], torch.eye(5, dtype=torch.float64))


def test_an_absent_task_keeps_its_rotation_and_the_rest_goes_on_without_it() -> None:
    model, balancer = Model(), make()
    step(model, balancer)
    before = {name: tensor.clone() for name, tensor in balancer.state_dict().items()}
    model.zero_grad()
    with balancer.cut(model.features()) as leaves:
        losses = model.losses(leaves)
        report = balancer.backward({"a": losses["a"], "c": losses["c"]})
    assert report.weights[1] == 0
    for name, tensor in balancer.state_dict().items():
        if ".b." in name:
            assert torch.equal(tensor, before[name]), name
    assert not torch.equal(balancer.rotations.of("a")[0].matrix, before["rotations.by_task.a.0.matrix"])
    assert balancer.initial[1] == before["initial"][1]


def test_a_task_with_a_zero_gradient_keeps_its_rotation() -> None:
    model, balancer = Model(), make()
    step(model, balancer)
    before = matrices(balancer, "b")
    with balancer.cut(model.features()) as leaves:
        losses = model.losses(leaves)
        report = balancer.backward({**losses, "b": 0 * losses["b"]})
    assert report.weights[1] == 0
    assert all(torch.equal(now, then) for now, then in zip(matrices(balancer, "b"), before, strict=True))


def test_one_present_task_is_plain_training_and_turns_nothing() -> None:
    model, expected, balancer = Model(), Model(), make()
    with balancer.cut(model.features()) as leaves:
        balancer.backward({"a": model.losses(leaves)["a"]})
    expected.losses(expected.features())["a"].backward()
    for name, gradient in gradients(expected).items():
        torch.testing.assert_close(gradients(model)[name], gradient)
    assert torch.equal(matrices(balancer, "a")[0], torch.eye(5, dtype=torch.float64))


def test_the_scale_of_a_loss_does_not_change_its_rotation() -> None:
    model, balancer, scaled = Model(), make(scale="none"), make(scale="none")
    for _ in range(3):
        step(model, balancer)
        with scaled.cut(model.features()) as leaves:
            scaled.backward({task: 1e-12 * loss for task, loss in model.losses(leaves).items()})
    for ours, theirs in zip(matrices(balancer, "a"), matrices(scaled, "a"), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_loss_scale_is_taken_out() -> None:
    model, balancer, scaled = Model(), make(), make()
    step(model, balancer)
    expected = gradients(model)
    step(model, scaled, scale=2.0**16)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients(model)[name], gradient)
    torch.testing.assert_close(matrices(scaled, "a")[0], matrices(balancer, "a")[0])


def test_lengths_at_the_start_are_taken_anew_after_burn_in() -> None:
    model, balancer = Model(), make(burn_in=2)
    starts = []
    for number in range(4):
        with balancer.cut(model.features()) as leaves:
            balancer.backward({t: (number + 1) * loss for t, loss in model.losses(leaves).items()})
        starts.append(balancer.initial.clone())
    assert torch.equal(starts[0], starts[1])
    assert torch.equal(starts[2], starts[3])
    assert bool((starts[2] > 2 * starts[0]).all())


def test_only_the_first_channels_turn_if_asked() -> None:
    model, balancer = Model(), make(rotated_channels=4)
    step(model, balancer)
    assert [len(matrix) for matrix in matrices(balancer, "a")] == [4, 3]
    features = model.features()
    rotated = balancer.rotate(features)
    assert torch.equal(rotated["a"][0][:, 4:], features["a"][0][:, 4:])
    assert not torch.equal(rotated["a"][0][:, :4], features["a"][0][:, :4])


def test_rotations_rest_while_weights_are_used_again() -> None:
    model, balancer = Model(), make(every=2)
    turned = []
    for _ in range(4):
        before = matrices(balancer, "a")[0]
        step(model, balancer)
        turned.append(not torch.equal(matrices(balancer, "a")[0], before))
    assert turned == [True, False, True, False]


def test_a_saved_balancer_goes_on_to_the_bit() -> None:
    model, first = Model(), make()
    for _ in range(3):
        step(model, first)
    second = make()
    second.load_state_dict(first.state_dict())
    for balancer in (first, second):
        step(model, balancer)
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


def test_features_come_as_a_tensor_a_list_or_by_task() -> None:
    balancer, feature = RotoGrad(tasks=TASKS, channels=[4]).double(), random(2, 4)
    balancer.rotations.of("b")[0].turn(skew(4, 1))
    expected = feature @ matrices(balancer, "b")[0].T
    torch.testing.assert_close(balancer.rotate(feature)["b"], expected)
    torch.testing.assert_close(balancer.rotate([feature])["b"][0], expected)
    torch.testing.assert_close(balancer.rotate({"b": feature})["b"], expected)
    assert list(balancer.rotate({"b": [feature]})) == ["b"]


def test_no_parameter_is_left_for_an_optimizer() -> None:
    assert list(make().parameters()) == []
    assert {name for name, _ in make().named_buffers() if name.startswith("rotations")} == {
        f"rotations.by_task.{task}.{level}.matrix" for task in TASKS for level in range(2)
    }


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tasks": None}, "keeps rotations for each task: pass tasks"),
        ({"scale": "length"}, "scale is rotograd or none, got 'length'"),
        ({"rotation_lr": -1.0}, "rotation_lr is not negative"),
        ({"rotation_decay": 0.0}, r"rotation_decay in \(0, 1\], got 0.02 and 0.0"),
        ({"rotated_channels": 0}, "rotated_channels is 1 or more, or null for all, got 0"),
        ({"burn_in": -1}, "burn_in is zero or more steps, got -1"),
        ({"scope": "parameters"}, "scope of RotoGrad is features, got 'parameters'"),
        ({"channels": {"a": [3], "b": [3]}}, "the rotations are for a, b, the balancer for a, b, c"),
    ],
)
def test_options_are_checked(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        make(**options)


def test_what_it_cannot_do_is_refused() -> None:
    model = Model()
    with pytest.raises(ConfigurationError, match=r"has no rotations: call attach\(model\)"):
        step(model, RotoGrad(tasks=TASKS))
    features = model.features()
    with pytest.raises(ConfigurationError, match="leave features= out"):
        make().backward(model.losses(features), features=list(features["a"][:1]))
    balancer = make()
    with (
        balancer.cut(model.features()) as leaves,
        pytest.raises(ConfigurationError, match="cannot accumulate gradients over micro-batches"),
    ):
        balancer.collect(model.losses(leaves))
    with pytest.raises(ConfigurationError, match="made for 2 levels of 'a', got 1"):
        make().rotate(random(2, 5))
    with pytest.raises(ConfigurationError, match=r"made for 5 channels, got features \[2, 3\]"):
        make().rotate([random(2, 3), random(2, 3)])
    with pytest.raises(ConfigurationError, match="knows no task 'd'"):
        make().rotate({"d": [random(2, 5), random(2, 3)]})


def test_networks_that_it_cannot_work_with_are_refused() -> None:
    tasks = ("semseg", "depth")
    network = tiny_network(tasks)
    with pytest.raises(ConfigurationError, match="the network was made without rotations"):
        RotoGrad(tasks=tasks).attach(network)
    with pytest.raises(ConfigurationError, match="leave channels out"):
        RotoGrad(tasks=tasks, channels=[4, 4]).at_cut(network.encoder.channels)
    with pytest.raises(ConfigurationError, match="leave channels out"):
        RotoGrad(tasks=tasks, channels=[4, 4]).attach(network)
    network.at_cut = Rotations(network.encoder.channels)
    with pytest.raises(ConfigurationError, match="make both for the same tasks in the same order"):
        RotoGrad(tasks=tasks[::-1]).attach(network)
    network.decoder.interacts = True  # type: ignore[misc]
    with pytest.raises(ConfigurationError, match="in decoder TinyDecoder each task's gradient depends on"):
        RotoGrad(tasks=tasks).attach(network)


# Several processes: the file is its own program.


def some_steps(first: int, last: int) -> dict[str, Tensor]:
    """State, weights and encoder gradients after steps on some images; one task has no loss in a process."""
    model, balancer = Model(), make(tasks=TASKS)
    found: dict[str, Tensor] = {}
    for number in range(3):
        model.zero_grad()
        with balancer.cut(model.features(first, last)) as leaves:
            losses = model.losses(leaves, first)
            if number == 2 and first > 0:
                losses = {}
            if number == 2 and first == 0:
                losses = model.losses({t: [z[:3] for z in levels] for t, levels in leaves.items()})
            report = balancer.backward(losses, present=[True] * 3)
        found[f"weights {number}"] = report.weights
    return found | {name: tensor.clone() for name, tensor in balancer.state_dict().items()}


def test_two_processes_turn_as_one_does_on_the_doubled_batch(tmp_path: Path) -> None:
    run_both(["-m", "tests.balancing.test_rotograd"], tmp_path)
    one, two = (torch.load(tmp_path / f"{place}.pt") for place in range(2))
    expected = some_steps(0, 6)
    assert one.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(one[name], two[name]), name
        torch.testing.assert_close(one[name], tensor, rtol=1e-9, atol=1e-12)


if __name__ == "__main__":
    torch.set_num_threads(1)
    here, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=here, world_size=2)
    try:
        torch.save(some_steps(3 * here, 3 * here + 3), folder / f"{here}.pt")
    finally:
        dist.destroy_process_group()
