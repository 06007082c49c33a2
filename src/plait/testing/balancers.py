"""What every balancing rule must do, as checks that anybody can run on a rule of their own.

```python
import pytest

from plait.testing.balancers import CHECKS, Traits


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_my_rule(check):
    check(lambda tasks: MyRule(tasks=tasks), Traits(equal="mean", conflict_free=True))
```

A check builds the rule itself, for as many tasks as it wants, and raises ``AssertionError`` with what was
expected. One that does not apply to the rule's traits returns without a word.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from plait.balancing.base import Balancer, BalancerReport, Reduction
from plait.balancing.probe import Probe, untouched

Make = Callable[[Sequence[str]], Balancer]
"""Makes the rule for tasks of these names, afresh at each call."""

NAMES = ("a", "b", "c", "d")


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What a rule claims; the checks hold it to that.

    Attributes:
        degree: d(s J) = s^degree d(J) at the same losses; None for a rule that claims nothing.
        equal: What gradients that are all g give: T g (``"sum"``), g (``"mean"``), or nothing in particular.
        permutes: Another order of tasks gives the same direction.
        rotates: Rotating the space of parameters rotates the direction; not so for elementwise rules.
        scale_free: Multiplying one gradient by a positive number keeps the direction parallel to what it was.
        conflict_free: No gradient has a negative inner product with the direction.
        random: It draws random numbers.
        losses: It looks at the losses.
        follows: The trunk's update is the sum of the gradients with the reported weights.
        pair: The weights ``[2]`` of two tasks in closed form, from the Gramian ``[2, 2]`` and losses ``[2]``.
        orthogonal: The weights ``[T]`` for orthogonal gradients, from their lengths and losses, each ``[T]``.
        tolerance: Relative error in float64.
    """

    degree: float | None = 1.0
    equal: Literal["sum", "mean"] | None = None
    permutes: bool = True
    rotates: bool = True
    scale_free: bool = False
    conflict_free: bool = False
    random: bool = False
    losses: bool = False
    follows: bool = True
    pair: Callable[[Tensor, Tensor], Tensor] | None = None
    orthogonal: Callable[[Tensor, Tensor], Tensor] | None = None
    tolerance: float = 1e-6


class Toy(nn.Module):
    """A trunk of two layers on images of 2 x 2 pixels, and a head a task; the second task's loss is large.

    Args:
        names: The tasks; a name means the same task whichever others there are.
        dtype: Of parameters and data.
    """

    def __init__(self, names: Sequence[str] = NAMES[:3], dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        with torch.random.fork_rng(devices=[]):  # whose first values are then overwritten
            self.trunk = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Tanh(), nn.Conv2d(8, 5, 1)).to(dtype)
            heads = {name: nn.Conv2d(5, 2, 1).to(dtype) for name in NAMES}
        with torch.no_grad():
            for parameter in [*self.trunk.parameters(), *(p for h in heads.values() for p in h.parameters())]:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        images = torch.randn(3, 6, 4, 2, 2, generator=generator, dtype=torch.float64)
        labels = torch.randn(3, len(NAMES), 6, 2, 2, 2, generator=generator, dtype=torch.float64)
        self.images, self.labels = images.to(dtype), labels.to(dtype)
        self.heads = nn.ModuleDict({name: heads[name] for name in names})

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks."""
        return tuple(self.heads)

    def losses(self, features: Mapping[str, Sequence[Tensor]], batch: int = 0) -> dict[str, Tensor]:
        """The loss of each task on one of three independent batches."""
        found = {}
        for name, head in self.heads.items():
            error = (head(features[name][0]) - self.labels[batch][NAMES.index(name)]).square().mean()
            found[name] = error * (1e3 if name == "b" else 1.0)
        return found

    def features(self, batch: int = 0) -> dict[str, list[Tensor]]:
        """The trunk's features, the same tensor for every task."""
        shared = self.trunk(self.images[batch])
        return {name: [shared] for name in self.names}

    def forward(self, batch: int = 0) -> dict[str, Tensor]:
        """The losses without any cut."""
        return self.losses(self.features(batch), batch)


def balance(
    balancer: Balancer,
    model: Toy,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    change: Callable[[dict[str, Tensor]], object] = lambda losses: losses,
    present: Mapping[str, bool] | None = None,
    scale: float | None = None,
) -> BalancerReport:
    """One step of a loop that gives a rule whatever it needs; gradients are added to ``.grad``.

    Args:
        balancer: The rule.
        model: What is trained.
        optimizer: Makes the step, if given.
        change: From the losses to what :meth:`Balancer.backward` is given.
        present: Which tasks are said to be present.
        scale: The loss scale.
    """
    needs, trunk = balancer.needs, list(model.trunk.parameters())
    compared = balancer.compared_in(model)
    if needs.look_ahead:
        plain = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
        known = [name for name in model.names if present is None or present.get(name, True)]
        batches = [
            lambda batch=batch: [{k: v for k, v in model(batch).items() if k in known}] for batch in (0, 1)
        ]
        balancer.before_update(Probe(model, batches, model.names, plain))
    for number in range(needs.samples):
        with balancer.cut(model.features(number + 1)) as leaves:
            losses = model.losses(leaves, number + 1)
            balancer.sample(number, change(losses), parameters=trunk, compared=compared, present=present)  # type: ignore[arg-type]
    with balancer.cut(model.features()) as leaves:
        losses = model.losses(leaves)
        report = balancer.backward(
            change(losses),  # type: ignore[arg-type]
            parameters=trunk,
            compared=compared,
            present=present,
            scale=scale,
        )
    if optimizer is not None:
        optimizer.step()
    if needs.closure:
        with untouched(model), torch.no_grad():
            again = torch.stack(list(model().values()))
        balancer.after_update(lambda: again * torch.tensor(report.present))
    return report


def updates(balancer: Balancer, model: Toy, **options: object) -> tuple[dict[str, Tensor], BalancerReport]:
    """Every gradient of one step, by parameter, and the report."""
    model.zero_grad()
    report = balance(balancer, model, **options)  # type: ignore[arg-type]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, report


def rows(tasks: int, seed: int = 0, size: int = 12) -> Tensor:
    """Gradients ``[tasks, size]`` of lengths from 0.1 to 10, some of which conflict."""
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(tasks, size, generator=generator, dtype=torch.float64)
    made[0] -= 0.5 * made[1:].sum(0)
    return made * 10 ** (torch.rand(tasks, 1, generator=generator, dtype=torch.float64) * 2 - 1)


def losses_for(tasks: int, seed: int = 0) -> Tensor:
    """Positive losses ``[tasks]`` between 0.1 and 10."""
    generator = torch.Generator().manual_seed(seed + 100)
    return 10 ** (torch.rand(tasks, generator=generator, dtype=torch.float64) * 2 - 1)


def close(found: Tensor, expected: Tensor, jacobian: Tensor, tolerance: float) -> None:
    """Asserts that two directions agree, measured by the direction or, if longer, a part of the gradients."""
    size = max(float(expected.norm()), 1e-2 * float(jacobian.norm(dim=1).max()))
    error = float((found - expected).norm()) / size
    assert error <= tolerance, f"the direction is off by {error:.1e}, expected at most {tolerance:.0e}"


def _missing(task: str, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: loss for name, loss in losses.items() if name != task}


def _none(task: str, losses: dict[str, Tensor]) -> list[Tensor | None]:
    return [None if name == task else loss for name, loss in losses.items()]


def _times(task: str, factor: float, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: loss * factor if name == task else loss for name, loss in losses.items()}


def direction(make: Make, jacobian: Tensor, losses: Tensor) -> Tensor:
    """The direction of a fresh rule."""
    return make(NAMES[: len(jacobian)]).direction(jacobian, losses)


# The checks.


def order_of_tasks_does_not_matter(make: Make, traits: Traits) -> None:
    """Permutation equivariance."""
    if not traits.permutes:
        return
    for tasks in (2, 3, 4):
        jacobian, losses = rows(tasks), losses_for(tasks)
        order = torch.randperm(tasks, generator=torch.Generator().manual_seed(tasks))
        ordered = direction(make, jacobian[order], losses[order])
        close(ordered, direction(make, jacobian, losses), jacobian, traits.tolerance)


def direction_scales_as_claimed(make: Make, traits: Traits) -> None:
    """Positive homogeneity, over ten orders of magnitude: nothing absolute decides."""
    if traits.degree is None:
        return
    jacobian, losses = rows(3), losses_for(3)
    expected = direction(make, jacobian, losses)
    for factor in (1e-5, 1e-2, 1e5):
        found = direction(make, factor * jacobian, losses) / factor**traits.degree
        close(found, expected, jacobian, traits.tolerance)


def equal_gradients_give_their_sum_or_mean(make: Make, traits: Traits) -> None:
    """T equal gradients g give T g or g; ``reduction`` makes either of it."""
    if traits.equal is None:
        return
    for tasks in (2, 3, 4):
        jacobian = rows(2)[1].expand(tasks, -1).clone()
        losses = torch.ones(tasks, dtype=torch.float64)
        factor = tasks if traits.equal == "sum" else 1
        close(direction(make, jacobian, losses), factor * jacobian[0], jacobian, traits.tolerance)


def reduction_converts_between_sum_and_mean(make: Make, traits: Traits) -> None:
    """``sum`` is T times ``mean``, and one of them is the rule's own."""
    jacobian, losses = rows(3), losses_for(3)
    found = {}
    conventions: tuple[Reduction | None, ...] = ("sum", "mean", None)
    for reduction in conventions:
        balancer = make(NAMES[:3])
        balancer.reduction = reduction
        found[reduction] = balancer.direction(jacobian, losses)
    close(found["sum"], 3 * found["mean"], jacobian, 1e-12)
    close(found[None], found[make(NAMES[:3]).natural], jacobian, 1e-12)


def orthogonal_gradients_harm_nobody(make: Make, traits: Traits) -> None:
    """They have nothing to trade: no weight is negative, and a closed form holds if there is one."""
    lengths = torch.tensor([3.0, 1.0, 0.1], dtype=torch.float64)
    jacobian, losses = torch.zeros(3, 6, dtype=torch.float64), losses_for(3)
    jacobian[range(3), range(3)] = lengths
    found = direction(make, jacobian, losses)
    assert bool((jacobian @ found >= -1e-12).all()), f"a task is harmed: {(jacobian @ found).tolist()}"
    if traits.orthogonal is not None:
        close(found, traits.orthogonal(lengths, losses) @ jacobian, jacobian, traits.tolerance)


def two_tasks_have_a_closed_form(make: Make, traits: Traits) -> None:
    """Where one is claimed, in conflict and in agreement, for lengths of any ratio."""
    if traits.pair is None:
        return
    for seed in range(8):
        jacobian, losses = rows(2, seed, size=3), losses_for(2, seed)
        expected = traits.pair(jacobian @ jacobian.T, losses) @ jacobian
        close(direction(make, jacobian, losses), expected, jacobian, traits.tolerance)


def parameter_space_may_be_rotated(make: Make, traits: Traits) -> None:
    """J -> J Q gives d -> d Q."""
    if not traits.rotates:
        return
    jacobian, losses = rows(3), losses_for(3)
    generator = torch.Generator().manual_seed(5)
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64)).Q
    rotated = direction(make, jacobian @ rotation, losses)
    close(rotated, direction(make, jacobian, losses) @ rotation, jacobian, traits.tolerance)


def a_gradients_length_does_not_matter(make: Make, traits: Traits) -> None:
    """For rules that claim it: the direction stays parallel when one gradient is multiplied."""
    if not traits.scale_free:
        return
    jacobian, losses = rows(3), losses_for(3)
    before = direction(make, jacobian, losses)
    after = direction(make, jacobian * torch.tensor([[1.0], [50.0], [0.01]], dtype=torch.float64), losses)
    close(after / after.norm(), before / before.norm(), torch.eye(1, dtype=torch.float64), 1e-5)


def no_task_is_harmed(make: Make, traits: Traits) -> None:
    """For rules that claim it: no negative inner product, for lengths that differ by up to ten thousand."""
    if not traits.conflict_free:
        return
    for seed in range(12):
        jacobian, losses = rows(4, seed), losses_for(4, seed)
        jacobian[-1] *= 1e4 / jacobian[-1].norm() if seed % 2 else 1
        found = direction(make, jacobian, losses)
        cosines = jacobian @ found / (jacobian.norm(dim=1) * found.norm().clamp(min=1e-30))
        assert float(cosines.min()) >= -1e-6, f"a task is harmed: cosines {cosines.tolist()}"


def float32_is_enough(make: Make, traits: Traits) -> None:
    """Gradients in float32 give the direction of float64 to 1e-4."""
    jacobian, losses = rows(3).float(), losses_for(3).float()
    found = direction(make, jacobian, losses)
    assert found.dtype == torch.float32
    close(found.double(), direction(make, jacobian.double(), losses.double()), jacobian.double(), 1e-4)


def a_zero_gradient_is_left_out(make: Make, traits: Traits) -> None:
    """Rules on gradients: a task whose gradient is exactly zero changes nothing for the others."""
    if not make(NAMES[:3]).needs.gradients or traits.random:
        return
    jacobian, losses = rows(3), losses_for(3)
    jacobian[1] = 0
    found = direction(make, jacobian, losses)
    close(found, direction(make, jacobian[[0, 2]], losses[[0, 2]]), jacobian, traits.tolerance)
    nothing = direction(make, torch.zeros_like(jacobian), losses)
    assert float(nothing.abs().max()) == 0, "without any gradient there is no step"


def one_task_is_plain_training(make: Make, traits: Traits) -> None:
    """With a single declared task the gradients are those of its loss."""
    model = Toy(NAMES[:1])
    found, _ = updates(make(NAMES[:1]), model)
    model.zero_grad()
    torch.autograd.backward(model()["a"])
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[name], parameter.grad)
    row = rows(2)[:1]
    torch.testing.assert_close(direction(make, row, losses_for(1)), row[0])


def update_follows_the_reported_weights(make: Make, traits: Traits) -> None:
    """The trunk's gradient is the weighted sum that the report states; weights are finite."""
    model = Toy()
    found, report = updates(make(model.names), model)
    assert bool(report.weights.isfinite().all()), f"weights are {report.weights.tolist()}"
    if not traits.follows:
        return
    model.zero_grad()
    weighted = [w.to(v) * v for w, v in zip(report.weights, model().values(), strict=True)]
    torch.autograd.backward(torch.stack(weighted).sum())
    for name, parameter in model.trunk.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[f"trunk.{name}"], parameter.grad, rtol=1e-6, atol=1e-9)


def an_absent_task_is_left_out(make: Make, traits: Traits) -> None:
    """Missing, None, or NaN and said to be absent: the others go on as if it had never been declared."""
    for absent in NAMES[:3]:
        rest = tuple(name for name in NAMES[:3] if name != absent)
        expected, smaller = updates(make(rest), Toy(rest))
        flags = {name: name != absent for name in NAMES[:3]}
        for change, present in (
            (partial(_missing, absent), None),
            (partial(_none, absent), None),
            (partial(_times, absent, torch.nan), flags),
        ):
            balancer = make(NAMES[:3])
            if balancer.needs.look_ahead:
                present = flags
            found, report = updates(balancer, Toy(), change=change, present=present)
            weight = report.weights[NAMES.index(absent)]
            assert float(weight) == 0, f"the absent task has weight {float(weight)}"
            assert found.keys() == expected.keys()
            if traits.random:
                assert all(bool(gradient.isfinite().all()) for gradient in found.values())
                continue
            places = [NAMES.index(name) for name in rest]
            torch.testing.assert_close(report.weights[places], smaller.weights, rtol=1e-6, atol=1e-9)
            for name, gradient in expected.items():
                torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9)


def without_any_task_nothing_moves(make: Make, traits: Traits) -> None:
    """A batch without a label: no gradient, no NaN, and the next step is as it would have been."""
    balancer, other = make(NAMES[:3]), make(NAMES[:3])
    nobody = dict.fromkeys(NAMES[:3], False)
    if not balancer.needs.look_ahead and not balancer.needs.samples:
        found, report = updates(balancer, Toy(), present=nobody)
        assert report.weights.tolist() == [0, 0, 0]
        assert all(float(gradient.abs().max()) == 0 for gradient in found.values())
        if not traits.random:
            after, _ = updates(balancer, Toy())
            expected, _ = updates(other, Toy())
            assert all(torch.equal(after[name], expected[name]) for name in expected)


def a_loss_scale_is_taken_out(make: Make, traits: Traits) -> None:
    """float16 training: the rule sees unscaled gradients, so the update does not depend on the scale."""
    expected, report = updates(make(NAMES[:3]), Toy())
    found, again = updates(make(NAMES[:3]), Toy(), scale=2.0**16)
    torch.testing.assert_close(again.weights, report.weights, rtol=1e-6, atol=1e-12)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-12)


def gradients_are_added(make: Make, traits: Traits) -> None:
    """To those that are there, as ``loss.backward()`` does."""
    expected, _ = updates(make(NAMES[:3]), Toy())
    model = Toy()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    balance(make(NAMES[:3]), model)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, expected[name] + 1, rtol=1e-6, atol=1e-9)


def what_is_not_finite_stays_visible(make: Make, traits: Traits) -> None:
    """A NaN loss gives an update that is not finite, and leaves the state of the rule as it was."""
    model, balancer = Toy(), make(NAMES[:3])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    updates(balancer, model, optimizer=optimizer)
    before = copy.deepcopy(dict(balancer.named_buffers()))
    if balancer.needs.look_ahead or balancer.needs.samples or balancer.needs.closure:
        return
    found, _ = updates(balancer, model, change=partial(_times, "b", torch.nan))
    assert not all(bool(gradient.isfinite().all()) for gradient in found.values())
    for name, buffer in balancer.named_buffers():
        assert torch.equal(buffer, before[name]), f"the state {name!r} has changed"


def a_task_that_is_not_finite_can_be_dropped(make: Make, traits: Traits) -> None:
    """With ``drops``, its NaN or infinite loss or gradient leaves it out, and the others go on."""
    if traits.random:
        return
    for bad in (torch.nan, torch.inf):
        balancer, other = make(NAMES[:3]), make(NAMES[:3])
        if balancer.needs.look_ahead or balancer.needs.samples or balancer.needs.closure:
            return
        balancer.drops = other.drops = True
        found, report = updates(
            balancer,
            Toy(),
            change=partial(_times, "b", bad),
        )
        expected, _ = updates(other, Toy(), present={"a": True, "b": False, "c": True})
        assert report.dropped == (False, True, False)
        assert report.present == (True, False, True)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-9)


def same_seed_same_steps(make: Make, traits: Traits) -> None:
    """Two rules of one seed agree bit by bit, and nobody else's random numbers move."""
    state = torch.get_rng_state()
    runs = []
    for _ in range(2):
        model = Toy()
        balancer, optimizer = make(NAMES[:3]), torch.optim.SGD(model.parameters(), lr=1e-4)
        for _ in range(3):
            found, _ = updates(balancer, model, optimizer=optimizer)
        runs.append(found)
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert torch.equal(state, torch.get_rng_state()), "global random numbers were drawn"


def a_restored_rule_goes_on_as_if_nothing_had_been(make: Make, traits: Traits) -> None:
    """state_dict, random numbers included: three steps, an epoch's end, three more in a fresh object."""
    model = Toy()
    balancer, optimizer = make(NAMES[:3]), torch.optim.SGD(model.parameters(), lr=1e-4)
    own = [p for p in balancer.parameters() if p.requires_grad]
    learning = torch.optim.SGD(own, lr=0.1) if own else None

    def steps(balancer: Balancer, model: Toy, optimizer: torch.optim.Optimizer, count: int) -> list[Tensor]:
        seen = []
        for _ in range(count):
            balancer.zero_grad()
            found, report = updates(balancer, model, optimizer=optimizer)
            seen += [*found.values(), report.weights]
            if learning is not None and balancer is first:
                learning.step()
        return seen

    first = balancer
    steps(balancer, model, optimizer, 3)
    if balancer.needs.epoch_end:
        balancer.end_epoch()
    saved = {name: tensor.clone() for name, tensor in balancer.state_dict().items()}
    twin, fresh = copy.deepcopy(model), make(NAMES[:3])
    fresh.load_state_dict(saved)
    twin_optimizer = torch.optim.SGD(twin.parameters(), lr=1e-4)
    learning = None
    ours = steps(balancer, model, optimizer, 3)
    theirs = steps(fresh, twin, twin_optimizer, 3)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def weights_can_be_used_again(make: Make, traits: Traits) -> None:
    """With ``every``, the steps in between have the weights of the last one that computed them."""
    balancer = make(NAMES[:3])
    if balancer.every == 1:
        return
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    weights = [updates(balancer, model, optimizer=optimizer)[1].weights for _ in range(balancer.every + 1)]
    for between in weights[1:-1]:
        assert torch.equal(between, weights[0])


CHECKS: tuple[Callable[[Make, Traits], None], ...] = (
    order_of_tasks_does_not_matter,
    direction_scales_as_claimed,
    equal_gradients_give_their_sum_or_mean,
    reduction_converts_between_sum_and_mean,
    orthogonal_gradients_harm_nobody,
    two_tasks_have_a_closed_form,
    parameter_space_may_be_rotated,
    a_gradients_length_does_not_matter,
    no_task_is_harmed,
    float32_is_enough,
    a_zero_gradient_is_left_out,
    one_task_is_plain_training,
    update_follows_the_reported_weights,
    an_absent_task_is_left_out,
    without_any_task_nothing_moves,
    a_loss_scale_is_taken_out,
    gradients_are_added,
    what_is_not_finite_stays_visible,
    a_task_that_is_not_finite_can_be_dropped,
    same_seed_same_steps,
    a_restored_rule_goes_on_as_if_nothing_had_been,
    weights_can_be_used_again,
)
