"""What each balancing rule should give, written down once more from its paper, in float64.

A reference gets a sequence of steps and yields the update of each. Where a rule is the solution of a problem,
it is solved by other means than the library's: enumeration of supports, SciPy's non-negative least squares,
Newton's method on a convex potential, pseudo-inverses of the Jacobian itself. Where a rule is random, the
random numbers are the library's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, nnls
from torch import Tensor

from plait.balancing import Draws

sys.path.append(str(Path(__file__).parents[1]))
from tests.balancing.problems import (
    jacobian,
    projected_on_the_dual_cone,
    shortest_by_enumeration,
    shortest_of_unit_rows,
    unit_rows,
)

Array = NDArray[np.float64]
RATE = 0.1
"""With which the parameters of rules that have some are stepped."""


@dataclass(frozen=True)
class Step:
    """One step's problem.

    Attributes:
        jacobian: Gradients ``[T, D]``.
        losses: ``[T]``, positive.
        after: The losses after the update ``[T]``, positive.
        scores: What each task scores after it, ``[T]`` in (0, 1).
    """

    jacobian: Tensor
    losses: Tensor
    after: Tensor
    scores: Tensor


Reference = Callable[[Sequence[Step]], Iterator[Tensor]]


def problems(kind: str, tasks: int, seed: int) -> list[Step]:
    """Three steps, with gradients of a kind of the tests'."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(tasks, generator=generator, dtype=torch.float64)

    return [
        Step(jacobian(kind, tasks, 3 * seed + number), numbers(0.2, 5), numbers(0.1, 4), numbers(0.1, 0.9))
        for number in range(3)
    ]


def by_losses(weigh: Callable[[Tensor], Tensor]) -> Reference:
    """A rule without memory that weighs by the losses."""

    def reference(steps: Sequence[Step]) -> Iterator[Tensor]:
        for step in steps:
            yield weigh(step.losses) @ step.jacobian

    return reference


def by_gradients(combine: Callable[[Tensor], Tensor]) -> Reference:
    """A rule without memory on gradients; those that are zero are left out."""

    def reference(steps: Sequence[Step]) -> Iterator[Tensor]:
        for step in steps:
            yield combine(step.jacobian[step.jacobian.norm(dim=1) > 0])

    return reference


# Rules on losses.


def uncertainty(steps: Sequence[Step]) -> Iterator[Tensor]:
    """The gradient of ``sum exp(-s) L / 2 + s / 2``, by L and by s."""
    s = torch.zeros_like(steps[0].losses, requires_grad=True)
    for step in steps:
        losses = step.losses.clone().requires_grad_()
        weights, slope = torch.autograd.grad(((-s).exp() * losses / 2 + s / 2).sum(), (losses, s))
        yield weights @ step.jacobian
        s = (s - RATE * slope).detach().requires_grad_()


def imtl_l(steps: Sequence[Step]) -> Iterator[Tensor]:
    """The gradient of ``sum exp(s) L - s``, by L and by s."""
    s = torch.zeros_like(steps[0].losses, requires_grad=True)
    for step in steps:
        losses = step.losses.clone().requires_grad_()
        weights, slope = torch.autograd.grad((s.exp() * losses - s).sum(), (losses, s))
        yield weights @ step.jacobian
        s = (s - RATE * slope).detach().requires_grad_()


def dwa(steps: Sequence[Step], temperature: float = 2.0) -> Iterator[Tensor]:
    """Eq. 7; each step is an epoch."""
    for number, step in enumerate(steps):
        weights = torch.ones_like(step.losses)
        if number >= 2:
            powers = (steps[number - 1].losses / steps[number - 2].losses / temperature).exp()
            weights = len(powers) * powers / powers.sum()
        yield weights @ step.jacobian


def dtp(steps: Sequence[Step]) -> Iterator[Tensor]:
    """Focal weights of running means of the scores."""
    mean = None
    for step in steps:
        weights = torch.ones_like(step.losses)
        if mean is not None:
            k = mean.clamp(0.01, 0.99)
            weights = -((1 - k) ** 2) * k.log()
        yield weights @ step.jacobian
        mean = step.scores if mean is None else (step.scores + mean) / 2


def famo(steps: Sequence[Step], gamma: float = 0.01) -> Iterator[Tensor]:
    """Algorithm 1 with torch's Adam; the softmax's derivative is autograd's."""
    xi = torch.zeros_like(steps[0].losses, requires_grad=True)
    adam = torch.optim.Adam([xi], lr=0.025, weight_decay=gamma)
    for step in steps:
        z = xi.detach().softmax(0)
        weights = z / step.losses
        yield weights / weights.sum() @ step.jacobian
        fallen = (step.losses / step.after).log()
        (xi.grad,) = torch.autograd.grad(xi.softmax(0), xi, fallen)
        adam.step()


def stch(losses: Tensor) -> Tensor:
    """The gradient of ``T mu log sum exp(L / (T mu))`` with mu = 1."""
    leaf = losses.clone().requires_grad_()
    (weights,) = torch.autograd.grad(len(leaf) * (leaf / len(leaf)).exp().sum().log(), leaf)
    return weights


def rlw(steps: Sequence[Step]) -> Iterator[Tensor]:
    """The softmax of normal numbers."""
    draws = Draws(0)
    for step in steps:
        powers = torch.randn(len(step.losses), generator=draws.next(), dtype=torch.float64).exp()
        yield powers / powers.sum() @ step.jacobian


# Rules that are the solution of a problem.


def upgrad(rows: Tensor) -> Tensor:
    """The mean of the rows' projections on the dual cone."""
    return torch.stack([projected_on_the_dual_cone(row, rows) for row in rows]).mean(0)


def least_distance(units: Array, least: Array) -> Array | None:
    """The shortest h with ``U h >= f`` (Lawson and Hanson, chapter 23); None if there is none."""
    system = np.c_[units, least].T
    target = np.r_[np.zeros(units.shape[1]), 1.0]
    multipliers, residual = nnls(system, target, maxiter=1000)
    if residual < 1e-12:
        return None
    rest = system @ multipliers - target
    return np.asarray(-rest[:-1] / rest[-1])


def cagrad(rows: Tensor, c: float = 0.5) -> Tensor:
    """The largest ``min <g_i, d>`` in the ball: the level at which the shortest step to it is ``c |g_0|``."""
    lengths, mean = rows.norm(dim=1), rows.mean(0)
    radius = c * float(mean.norm())
    units, asked = unit_rows(rows).numpy(), (lengths.min() / lengths).numpy()
    given = units @ mean.numpy()

    def step_to(level: float) -> Array:
        found = least_distance(units, level * asked - given)
        return np.full(len(mean), np.inf) if found is None else found

    lowest = float((given / asked).min())
    highest = float(((given + radius) / asked).min())
    if shortest_of_unit_rows(rows) < 1e-6:
        highest = min(highest, 0.0)
    if lowest >= highest or np.linalg.norm(step_to(highest)) <= radius:
        return mean + torch.from_numpy(step_to(highest))
    level = brentq(
        lambda at: min(float(np.linalg.norm(step_to(at))), 1e300) - radius,
        lowest, highest, xtol=1e-300, rtol=4 * np.finfo(float).eps, maxiter=1000,
    )  # fmt: skip
    step = torch.from_numpy(step_to(level))
    return mean + step


def fairgrad(rows: Tensor, alpha: float) -> Tensor:
    """``G a = a^(-1/alpha)`` by Newton's method on its potential, from the answer for orthogonal rows."""
    if shortest_of_unit_rows(rows) <= 1e-4:
        raise UndefinedError
    lengths = rows.norm(dim=1).numpy()
    # In units of the start a0, where the potential is a^T G a / 2 + a power or logarithm of a.
    start = lengths ** (-2 * alpha / (1 + alpha))
    scaled = start[:, None] * (rows @ rows.T).numpy() * start
    power = start ** (1 - 1 / alpha)
    a = np.ones(len(rows))

    def slope(at: Array) -> Array:
        return np.asarray(scaled @ at - power * at ** (-1 / alpha))

    for _ in range(500):
        down = slope(a)
        hessian = scaled + np.diag(power * a ** (-1 / alpha - 1) / alpha)
        step = -np.linalg.solve(hessian, down)
        decrement = float(np.sqrt(max(-step @ down, 0)))
        length = 1.0
        while (a + length * step <= 0).any() or slope(a + length * step) @ step > 0.5 * abs(down @ step):
            length /= 2
        a = a + length * step
        if decrement <= 1e-15 * float(np.sqrt(a @ hessian @ a)):
            break
    return torch.from_numpy(a * start) @ rows


def imtl_g(rows: Tensor) -> Tensor:
    """``v / sum(x_i / n_i)`` with ``v = U^+ 1 = sum x_i u_i``."""
    inverse, vector = even(rows)
    if np.abs(unit_rows(rows).numpy() @ vector - 1).max() > 1e-6:
        raise UndefinedError
    return torch.from_numpy(vector / (inverse.T @ vector / rows.norm(dim=1).numpy()).sum())


def config(rows: Tensor) -> Tensor:
    """The sum of all projections along ``U^+ 1``."""
    _, vector = even(rows)
    along = torch.from_numpy(vector / np.linalg.norm(vector))
    return (rows @ along).sum() * along


def even(rows: Tensor) -> tuple[Array, Array]:
    """``U^+`` and ``U^+ 1`` of the unit rows."""
    inverse = np.linalg.pinv(unit_rows(rows).numpy(), rcond=1e-7)
    vector = inverse @ np.ones(len(rows))
    if np.linalg.norm(unit_rows(rows).numpy() @ vector) < 1e-6:
        raise UndefinedError
    return inverse, np.asarray(vector)


def aligned_mtl(rows: Tensor) -> Tensor:
    """Algorithm 1 by the SVD of the Jacobian; its rank is that of the unit rows."""
    singular = np.linalg.svd(unit_rows(rows).numpy(), compute_uv=False)
    rank = int((singular > 1e-7 * singular[0]).sum())
    left, values, right = np.linalg.svd(rows.numpy(), full_matrices=False)
    aligned = values[rank - 1] * right[:rank].T @ (left[:, :rank].T @ np.ones(len(rows)))
    return torch.from_numpy(np.asarray(aligned))


# Rules that project one gradient after the other, or draw.


def orders(steps: Sequence[Step]) -> Iterator[list[list[int]]]:
    """In which order each task visits the others, in each step."""
    draws = Draws(0)
    for step in steps:
        tasks = len(step.losses)
        numbers = torch.rand(tasks, tasks, generator=draws.next())
        silent = (step.jacobian.norm(dim=1) == 0).tolist()
        yield [
            [j for j in order if j != i and not silent[j]]
            for i, order in enumerate(numbers.argsort(dim=1).tolist())
        ]


def pcgrad(steps: Sequence[Step]) -> Iterator[Tensor]:
    """Algorithm 1 on vectors."""
    for step, visits in zip(steps, orders(steps), strict=True):
        yield projected(step.jacobian, visits)


def projected(rows: Tensor, visits: Sequence[Sequence[int]]) -> Tensor:
    """PCGrad with given orders."""
    turned = rows.clone()
    for own, order in zip(turned, visits, strict=True):
        for j in order:
            product = own @ rows[j]
            if product < 0:
                own -= product / rows[j].square().sum() * rows[j]
    return turned.sum(0)


def gradvac(steps: Sequence[Step], beta: float = 0.5) -> Iterator[Tensor]:
    """Algorithm 1 on vectors."""
    tasks = len(steps[0].losses)
    targets = torch.zeros(tasks, tasks, dtype=torch.float64)
    for step, visits in zip(steps, orders(steps), strict=True):
        rows, turned = step.jacobian, step.jacobian.clone()
        for i, order in enumerate(visits):
            for j in order:
                length, other = turned[i].norm(), rows[j].norm()
                if length <= 1e-6 * rows[i].norm():
                    continue
                cosine = (turned[i] @ rows[j] / (length * other)).clamp(-1, 1)
                sine = (turned[i] / length - cosine * rows[j] / other).norm()
                target = targets[i, j].clone()
                root = (1 - target.square()).sqrt()
                if cosine < target and sine <= 1e-6:
                    raise UndefinedError
                if cosine < target:
                    turned[i] += length * (target * sine - cosine * root) / (other * root) * rows[j]
                targets[i, j] = (1 - beta) * target + beta * cosine
        yield turned.sum(0)


def graddrop(steps: Sequence[Step]) -> Iterator[Tensor]:
    """Algorithm 1 with the identity: the sum of the parts of one sign, an element at a time."""
    draws = Draws(0)
    for step in steps:
        rows = step.jacobian
        purity = (1 + rows.sum(0) / rows.abs().sum(0).clamp(min=1e-300)) / 2
        up = purity > torch.rand(rows.shape[1], generator=draws.next())
        yield torch.where(up, rows.clamp(min=0).sum(0), rows.clamp(max=0).sum(0))


# Rules with a memory of gradients or weights.


def simplex_point(point: Tensor) -> Tensor:
    """The nearest point of the simplex, by bisection of the shift."""
    shift = brentq(
        lambda tau: float((point - tau).clamp(min=0).sum()) - 1, float(point.min()) - 1, float(point.max()),
        xtol=1e-300, rtol=4 * np.finfo(float).eps, maxiter=1000,
    )  # fmt: skip
    return (point - shift).clamp(min=0)


def gradnorm(steps: Sequence[Step], alpha: float = 1.5) -> Iterator[Tensor]:
    """Algorithm 1 with torch's Adam and autograd's derivative of the objective."""
    weights = torch.ones_like(steps[0].losses)
    parameters = [torch.ones((), dtype=torch.float64, requires_grad=True) for _ in weights]
    adams = [torch.optim.Adam([parameter], lr=0.025) for parameter in parameters]
    for step in steps:
        yield weights @ step.jacobian
        heard = [i for i, row in enumerate(step.jacobian) if row.norm() > 0]
        norms = step.jacobian.norm(dim=1)[heard]
        progress = (step.losses / steps[0].losses)[heard]
        chosen = torch.stack([parameters[i] for i in heard])
        lengths = chosen * norms
        target = (lengths.mean() * (progress / progress.mean()) ** alpha).detach()
        (lengths - target).abs().sum().backward()  # type: ignore[no-untyped-call]
        before = chosen.detach().clone()
        for i in heard:
            adams[i].step()
            adams[i].zero_grad()
        after = torch.stack([parameters[i].detach() for i in heard]).maximum(before / 2)
        after = after * before.sum() / after.sum()
        for i, weight in zip(heard, after, strict=True):
            parameters[i].data = weight.clone()
        weights = torch.stack([parameter.detach() for parameter in parameters]).clone()


def excess_mtl(steps: Sequence[Step], eta: float = 1e-2) -> Iterator[Tensor]:
    """Algorithm 1; the first step is the reference."""
    squares, first = torch.zeros_like(steps[0].jacobian), None
    weights = torch.ones_like(steps[0].losses)
    for step in steps:
        squares = squares + step.jacobian**2
        risks = (step.jacobian**2 / squares.sqrt().clamp(min=1e-300)).sum(1)
        heard = risks > 0
        if first is None:
            first = risks
        else:
            moved = weights[heard] * (eta * risks[heard] / first[heard]).exp()
            weights = weights.masked_scatter(heard, moved * weights[heard].sum() / moved.sum())
        yield weights @ step.jacobian


def db_mtl(steps: Sequence[Step], beta: float = 0.9) -> Iterator[Tensor]:
    """Algorithm 1."""
    means = torch.zeros_like(steps[0].jacobian)
    for step in steps:
        rows = step.jacobian / step.losses[:, None]
        heard = rows.norm(dim=1) > 0
        means = torch.where(heard[:, None], rows + beta * (means - rows), means)
        lengths = means[heard].norm(dim=1)
        yield (means[heard] * (lengths.max() / lengths)[:, None]).sum(0)


def moco(steps: Sequence[Step]) -> Iterator[Tensor]:
    """Algorithm 1."""
    means = torch.zeros_like(steps[0].jacobian)
    weights = torch.full_like(steps[0].losses, 1 / len(steps[0].losses))
    for k, step in enumerate(steps, start=1):
        heard = step.jacobian.norm(dim=1) > 0
        means[heard] -= 0.5 / k**0.5 * (means[heard] - step.jacobian[heard])
        part = weights[heard] / weights[heard].sum()
        moved = simplex_point(part - 0.1 / k**0.5 * (means[heard] @ means[heard].T) @ part)
        weights[heard] = moved * weights[heard].sum()
        yield moved @ means[heard]


def modo(steps: Sequence[Step], gamma: float = 1e-3, rho: float = 0.1) -> Iterator[Tensor]:
    """One projected step of the weights on the inner products of two batches, here the same."""
    weights = torch.full_like(steps[0].losses, 1 / len(steps[0].losses))
    for step in steps:
        heard = step.jacobian.norm(dim=1) > 0
        rows, part = step.jacobian[heard], weights[heard] / weights[heard].sum()
        moved = simplex_point(part - gamma * (rows @ (rows.T @ part) + rho * part))
        weights[heard] = moved * weights[heard].sum()
        yield moved @ rows


def sdmgrad(steps: Sequence[Step], lam: float = 0.3) -> Iterator[Tensor]:
    """Algorithm 1: twenty projected steps with momentum on the inner products of two batches."""
    weights = torch.full_like(steps[0].losses, 1 / len(steps[0].losses))
    for step in steps:
        heard = step.jacobian.norm(dim=1) > 0
        rows, part = step.jacobian[heard], weights[heard] / weights[heard].sum()
        towards = torch.full_like(part, 1 / len(part))
        inner = rows @ rows.T / rows.norm(dim=1).mean() ** 2
        velocity = torch.zeros_like(part)
        for _ in range(20):
            velocity = 0.5 * velocity + inner @ (part + lam * towards)
            part = simplex_point(part - 10 * velocity)
        weights[heard] = part * weights[heard].sum()
        yield (part + lam * towards) / (1 + lam) @ rows


def rotograd(steps: Sequence[Step]) -> Iterator[Tensor]:
    """Gradients at one length, before any rotation: ``C = sum a_k n_k``."""
    first = steps[0].jacobian.norm(dim=1)
    for step in steps:
        heard = step.jacobian.norm(dim=1) > 0
        lengths = step.jacobian.norm(dim=1)[heard]
        shares = lengths / first[heard]
        common = shares / shares.sum() @ lengths
        yield (step.jacobian[heard] * (common / lengths)[:, None]).sum(0)


class UndefinedError(Exception):
    """The rule has no answer here."""


REFERENCES: Mapping[str, Reference] = {
    "equal": by_losses(torch.ones_like),
    "fixed": by_losses(lambda losses: torch.arange(1.0, len(losses) + 1, dtype=torch.float64)),
    "uncertainty": uncertainty,
    "dwa": dwa,
    "dtp": dtp,
    "gradnorm": gradnorm,
    "rlw": rlw,
    "gls": by_losses(lambda losses: losses.prod() ** (1 / len(losses)) / (len(losses) * losses)),
    "log_sum": by_losses(lambda losses: 1 / losses),
    "imtl_l": imtl_l,
    "famo": famo,
    "stch": by_losses(stch),
    "excess_mtl": excess_mtl,
    "db_mtl": db_mtl,
    "auto_lambda": by_losses(lambda losses: 0.1 * torch.ones_like(losses)),
    "mgda": by_gradients(shortest_by_enumeration),
    "pcgrad": pcgrad,
    "gradvac": gradvac,
    "cagrad": by_gradients(cagrad),
    "graddrop": graddrop,
    "imtl_g": by_gradients(imtl_g),
    "nash_mtl": by_gradients(partial(fairgrad, alpha=1.0)),
    "aligned_mtl": by_gradients(aligned_mtl),
    "rotograd": rotograd,
    "upgrad": by_gradients(upgrad),
    "dualproj": by_gradients(lambda rows: projected_on_the_dual_cone(rows.mean(0), rows)),
    "config": by_gradients(config),
    "fairgrad": by_gradients(partial(fairgrad, alpha=2.0)),
    "moco": moco,
    "sdmgrad": sdmgrad,
    "modo": modo,
}
