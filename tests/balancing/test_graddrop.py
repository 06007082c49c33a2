"""GradDrop: exact expectations, one sign an element, one draw for a batch, and who draws."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.balancing.problems import jacobian, problems
from tests.balancing.properties import permutation
from torch import Tensor, nn

from plait.balancing.base import Observation
from plait.balancing.graddrop import GradDrop, graddrop_at_features, graddrop_direction, graddrop_masks
from plait.errors import ConfigurationError


def uniform(size: int, seed: int = 0) -> Tensor:
    return torch.rand(size, generator=torch.Generator().manual_seed(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def purity(rows: Tensor) -> Tensor:
    return ((1 + rows.sum(0) / rows.abs().sum(0)) / 2).nan_to_num(0.5)


@settings(max_examples=100, deadline=None)
@given(problems, st.sampled_from([0.0, 0.3, 1.0]))
def test_the_expectation_is_the_plain_sum(rows: Tensor, leak: float) -> None:
    """Exactly: an element is one of two values, the first with a probability that is its purity."""
    likely = purity(rows)
    positive = graddrop_direction(rows, torch.zeros(rows.shape[1]), leak=leak)
    negative = graddrop_direction(rows, torch.ones(rows.shape[1]), leak=leak)
    expected = likely * positive + (1 - likely) * negative
    torch.testing.assert_close(expected, rows.sum(0), rtol=0, atol=1e-12 * float(rows.abs().max()))


def test_the_mean_of_many_steps_is_the_plain_sum() -> None:
    rows, rule = jacobian("plain", 3, 0), GradDrop(seed=1)
    mean = torch.stack([rule.direction(rows) for _ in range(4000)]).mean(0)
    assert float((mean - rows.sum(0)).abs().max()) < 0.12


@settings(max_examples=100, deadline=None)
@given(problems, st.integers(0, 100))
def test_one_sign_is_kept_in_each_element(rows: Tensor, seed: int) -> None:
    direction = graddrop_direction(rows, uniform(12, seed))
    sums = torch.stack([rows.clamp(min=0).sum(0), rows.clamp(max=0).sum(0)])
    distance = (direction - sums).abs().min(0).values
    assert float(distance.max()) <= 1e-12 * float(rows.abs().max())


@settings(max_examples=50, deadline=None)
@given(problems, st.integers(0, 100))
def test_where_tasks_agree_nothing_is_dropped(rows: Tensor, seed: int) -> None:
    torch.testing.assert_close(graddrop_direction(rows.abs(), uniform(12, seed)), rows.abs().sum(0))
    torch.testing.assert_close(graddrop_direction(-rows.abs(), uniform(12, seed)), -rows.abs().sum(0))
    assert graddrop_direction(rows[:1], uniform(12, seed)).equal(rows[0])
    signs = rows[:1].expand(4, 12)
    torch.testing.assert_close(graddrop_direction(signs, uniform(12, seed)), 4 * rows[0])


@settings(max_examples=50, deadline=None)
@given(problems, st.integers(0, 100), st.sampled_from([1e-30, 1e-8, 1e8, 1e30]))
def test_invariances(rows: Tensor, seed: int, factor: float) -> None:
    """The order of tasks and the scale of all gradients, given the draws."""
    direction, scale = graddrop_direction(rows, uniform(12, seed)), float(rows.abs().max())
    reordered = graddrop_direction(rows[permutation(len(rows), seed)], uniform(12, seed))
    torch.testing.assert_close(reordered, direction, rtol=0, atol=1e-12 * scale)
    scaled = graddrop_direction(factor * rows, uniform(12, seed)) / factor
    torch.testing.assert_close(scaled, direction, rtol=0, atol=1e-12 * scale)
    longer = torch.cat([rows, torch.zeros(1, 12)])
    torch.testing.assert_close(graddrop_direction(longer, uniform(12, seed)), direction)


def test_it_is_elementwise_and_so_depends_on_the_axes() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    turn = torch.tensor([[1.0, 1.0], [-1.0, 1.0]]) / 2**0.5
    draws = torch.tensor([0.1, 0.1])
    assert graddrop_direction(rows, draws).equal(rows.sum(0))
    assert not graddrop_direction(rows @ turn, draws).allclose(rows.sum(0) @ turn)


@settings(max_examples=50, deadline=None)
@given(problems)
def test_float32_gradients_are_enough(rows: Tensor) -> None:
    exact, rounded = GradDrop().direction(rows.float().double()), GradDrop().direction(rows.float())
    assert rounded.dtype == torch.float32
    assert float((rounded - exact).norm()) <= 1e-4 * float(rows.norm(dim=1).max())


def test_torchjd_agrees_given_its_draws() -> None:
    from torchjd.aggregation import GradDrop as Theirs

    leak = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    for seed in range(20):
        rows = jacobian("plain", 3, seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            theirs = Theirs(leak=leak)(rows)
            torch.manual_seed(seed)
            draws = torch.rand(12, dtype=torch.float64)
        torch.testing.assert_close(graddrop_direction(rows, draws, leak=leak), theirs)


def test_leaks() -> None:
    rows = jacobian("conflicting", 3, 0)
    draws = uniform(12)
    whole = graddrop_direction(rows, draws, leak=torch.tensor([1.0, 0.0, 0.0]))
    kept = graddrop_masks(rows, draws)
    assert not kept[0].all()
    torch.testing.assert_close(whole, rows[0] + (kept * rows)[1:].sum(0))
    by_name = GradDrop(tasks="abc", leak={"a": 1.0}).direction(rows)
    torch.testing.assert_close(by_name, GradDrop(leak=[1.0, 0.0, 0.0]).direction(rows))
    assert GradDrop(leak=1.0).direction(rows).allclose(rows.sum(0))
    seen = Observation((0, 2), 3)
    absent = GradDrop(leak=[0.0, 0.5, 1.0]).combine(rows[[0, 2]], seen)
    torch.testing.assert_close(absent, GradDrop(leak=[0.0, 1.0]).direction(rows[[0, 2]]))


# At features


def features(seed: int = 0, images: int = 4) -> tuple[Tensor, Tensor, tuple[tuple[int, ...], ...]]:
    """Gradients of three tasks at two features, and the features; some are zero, as after a ReLU."""
    draw = generator(seed)
    shapes = ((images, 2, 3, 3), (images, 5))
    size = images * (18 + 5)
    gradients = torch.randn(3, size, generator=draw, dtype=torch.float64)
    return gradients, torch.randn(size, generator=draw, dtype=torch.float64).clamp(min=-0.5), shapes


def signed_sums(gradients: Tensor, values: Tensor, shapes: tuple[tuple[int, ...], ...]) -> Tensor:
    """``sum over the batch of sign(z) g``, ``[T, K]``."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    signed = torch.split(values.sign() * gradients, sizes, dim=-1)
    parts = [part.view(*part.shape[:-1], s[0], -1).sum(-2) for part, s in zip(signed, shapes, strict=True)]
    return torch.cat(parts, dim=-1)


def test_at_features_the_mask_is_that_of_the_whole_batch() -> None:
    """Algorithm 1 of the paper in loops."""
    gradients, values, shapes = features()
    ours = graddrop_at_features(gradients, values, shapes, generator(3))
    signed, draws = signed_sums(gradients, values, shapes), uniform(23, 3)
    start = {0: 0, 1: 4 * 18}
    for leaf, (width, offset) in enumerate(((18, 0), (5, 18))):
        for element in range(width):
            g = signed[:, offset + element]
            up = draws[offset + element] < (1 + g.sum() / g.abs().sum()) / 2
            for image in range(4):
                column = start[leaf] + image * width + element
                kept = gradients[:, column][(g > 0) == up].sum()
                assert float(ours[column]) == pytest.approx(float(kept), abs=1e-12)


@pytest.mark.parametrize("leak", [0.0, 0.4])
def test_at_features_the_expected_signed_sum_is_kept(leak: float) -> None:
    gradients, values, shapes = features(1)
    plain = signed_sums(gradients, values, shapes)
    mean = torch.zeros(23, dtype=torch.float64)
    steps = 3000
    draw = generator(5)
    for _ in range(steps):
        update = graddrop_at_features(gradients, values, shapes, draw, leak=leak)
        mean += signed_sums(update[None], values, shapes)[0] / steps
    assert float((mean - plain.sum(0)).abs().max()) < 0.3
    assert float((mean - plain.sum(0)).abs().mean()) < 0.1


def test_at_features_a_single_draw_serves_all_processes() -> None:
    """Two halves of a batch, whose signed sums are added, get what the whole batch gets."""
    gradients, values, shapes = features(2)
    whole = graddrop_at_features(gradients, values, shapes, generator(1))

    def half(vector: Tensor, first: bool) -> Tensor:
        one, two = vector.split([72, 20], dim=-1)
        parts = (one[..., :36], two[..., :10]) if first else (one[..., 36:], two[..., 10:])
        return torch.cat(parts, dim=-1)

    small = ((2, 2, 3, 3), (2, 5))
    with pytest.MonkeyPatch.context() as patch:
        sums = signed_sums(gradients, values, shapes)
        patch.setattr("plait.balancing.graddrop.reduce_sum", lambda _: torch.stack([sums, sums.abs()]))
        for first in (True, False):
            ours = graddrop_at_features(half(gradients, first), half(values, first), small, generator(1))
            torch.testing.assert_close(ours, half(whole, first))


def test_at_features_what_has_no_sign_is_kept() -> None:
    """Features that are zero in the whole batch, as behind a ReLU, say nothing about signs."""
    gradients, values, shapes = features(3)
    kept = graddrop_at_features(gradients, torch.zeros_like(values), shapes, generator())
    torch.testing.assert_close(kept, gradients.sum(0))


def test_a_sum_that_is_zero_but_for_rounding_has_no_sign() -> None:
    """Whatever the order of the sum over the batch, which differs between processes."""
    gradients = torch.tensor([[0.1, 0.2, -0.3], [1.0, 1.0, 1.0]], dtype=torch.float64)
    assert float(gradients[0].sum()) != 0
    ones = torch.ones(3, dtype=torch.float64)
    kept = graddrop_at_features(gradients, ones, ((3, 1),), generator(1))
    torch.testing.assert_close(kept, gradients.sum(0))


def test_half_precision_features_are_summed_in_float32() -> None:
    """257 against 256: bfloat16 has no 257, so their purity would be one half."""
    pair = torch.ones(2, 257, dtype=torch.bfloat16)
    pair[1], pair[1, -1] = -1, 0
    purity = 257 / 513
    seed = next(seed for seed in range(10**5) if 0.5 <= float(uniform(1, seed)) < purity)
    update = graddrop_at_features(pair, torch.ones(257).bfloat16(), ((257, 1),), generator(seed))
    assert update.dtype == torch.bfloat16
    assert update.equal(pair[0])


def test_a_step_at_features_writes_the_encoder_s_gradient() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
    heads = nn.ModuleDict({t: nn.Linear(6, 1) for t in "abc"})
    z = trunk(torch.randn(8, 4))
    losses = {t: (head(z) - 1).square().mean() for t, head in heads.items()}
    gradients = torch.stack(
        [torch.autograd.grad(loss, z, retain_graph=True)[0].flatten() for loss in losses.values()]
    )
    draw = GradDrop(seed=4).draws.next()
    expected = graddrop_at_features(gradients, z.detach().flatten(), ((8, 6),), draw).view(8, 6)
    (weight,) = torch.autograd.grad(z, trunk[0].weight, expected, retain_graph=True)
    (own,) = torch.autograd.grad(losses["a"], heads["a"].weight, retain_graph=True)
    rule = GradDrop(seed=4, scope="features")
    with rule.cut(z) as leaf:
        losses = {t: (head(leaf) - 1).square().mean() for t, head in heads.items()}
        rule.backward(losses)
    torch.testing.assert_close(trunk[0].weight.grad, weight)
    torch.testing.assert_close(heads["a"].weight.grad, own)


def test_a_step_over_parameters_writes_the_direction() -> None:
    torch.manual_seed(0)
    trunk, heads = nn.Linear(4, 6), nn.ModuleDict({t: nn.Linear(6, 1) for t in "abc"})
    z = trunk(torch.randn(8, 4)).tanh()
    losses = {t: (head(z) - 1).square().mean() for t, head in heads.items()}
    rows = [torch.autograd.grad(loss, [*trunk.parameters()], retain_graph=True) for loss in losses.values()]
    flat = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    GradDrop(seed=4).backward(losses, parameters=trunk.parameters())
    written = torch.cat([p.grad.flatten() for p in trunk.parameters() if p.grad is not None])
    torch.testing.assert_close(written, GradDrop(seed=4).direction(flat))


def test_a_restored_rule_goes_on_as_the_saved_one_would_have() -> None:
    rows, rule, fresh = jacobian("plain", 5, 2), GradDrop(seed=7), GradDrop()
    before = torch.get_rng_state()
    first = [rule.direction(rows) for _ in range(3)]
    fresh.load_state_dict(rule.state_dict())
    for _ in range(3):
        assert fresh.direction(rows).equal(rule.direction(rows))
    again = GradDrop(seed=7)
    assert all(again.direction(rows).equal(old) for old in first)
    assert not first[0].equal(first[1])
    assert not GradDrop(seed=8).direction(rows).equal(first[0])
    assert torch.get_rng_state().equal(before)


def test_what_is_not_finite_stays_visible() -> None:
    rows = torch.tensor([[torch.nan, 1.0], [1.0, -1.0]])
    for draw in (0.0, 0.99):
        assert graddrop_direction(rows, torch.full((2,), draw)).isnan().tolist() == [True, False]


def test_options_are_checked() -> None:
    with pytest.raises(ConfigurationError, match=r"a leak lies between 0 .* and 1 .*, got 2.0"):
        GradDrop(leak=2)
    with pytest.raises(ConfigurationError, match="a leak by name needs tasks"):
        GradDrop(leak={"a": 1.0})
    with pytest.raises(ConfigurationError, match=r"a leak is given for 'dept' .did you mean 'depth'"):
        GradDrop(tasks=["depth", "normals"], leak={"dept": 1.0})
    with pytest.raises(ConfigurationError, match="leaks are given for 2 tasks, but there are 3"):
        GradDrop(leak=[0.1, 0.2]).direction(torch.eye(3))
    with pytest.raises(ConfigurationError, match="leaks are given for 1 tasks, but there are 2"):
        GradDrop(leak=[0.1], tasks=["depth", "normals"])
    with pytest.raises(ConfigurationError, match="heads of GradDrop get own gradients"):
        GradDrop(heads="weighted")
    assert GradDrop.natural == "sum"
