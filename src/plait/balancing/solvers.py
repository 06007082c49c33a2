"""Small problems, solved exactly: no step sizes, no fixed number of iterations, no absolute tolerance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plait.errors import ConfigurationError

Array = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)


def solved(gramian: Tensor, solve: Callable[[Array], Array]) -> Tensor:
    """The weights of a rule that is a function of the Gramian, for the tasks that have a gradient at all.

    A row that is exactly zero has nothing to say about the direction: it is left out with weight 0, and the
    problem is that of the others. If all are zero, so are the weights.

    Args:
        gramian: Inner products of the gradients ``[T, T]``.
        solve: Maps the Gramian of the rows that are not zero, float64, to their weights.

    Returns:
        Weights ``[T]`` of the type and device of ``gramian``; NaN if an inner product is not finite, so that
        whoever guards the update sees it. Waits for the device.
    """
    return _of_those_heard(gramian, lambda inner, _: solve(inner))


def preferred(gramian: Tensor, preference: Tensor | None, solve: Callable[[Array, Array], Array]) -> Tensor:
    """The weights of a rule that starts from a preferred mean of the gradients; otherwise as :func:`solved`.

    Args:
        gramian: Inner products of the gradients ``[T, T]``.
        preference: How much each task counts, ``[T]``, not negative; only ratios matter. None: all alike.
        solve: Maps the Gramian of the rows that are not zero, and these tasks' shares of the preference
            (sum 1), to their weights.

    Returns:
        Weights ``[T]`` as of :func:`solved`. Where no task that is preferred has a gradient, all others
        count alike.

    Raises:
        ConfigurationError: If the preference has another length, a negative entry or none that is positive.
    """
    if preference is None:
        wanted = np.ones(len(gramian))
    else:
        wanted = preference.detach().to("cpu", torch.float64).numpy()
        if wanted.shape != (len(gramian),) or not (wanted >= 0).all() or not 0 < wanted.sum() < np.inf:
            raise ConfigurationError(
                f"a preference is one number a task, not negative and not all zero: "
                f"expected {len(gramian)}, got {wanted.tolist()}"
            )

    def shared_out(inner: Array, heard: NDArray[np.bool_]) -> Array:
        shares = wanted[heard] if wanted[heard].any() else np.ones(len(inner))
        return solve(inner, shares / shares.sum())

    return _of_those_heard(gramian, shared_out)


def _of_those_heard(gramian: Tensor, solve: Callable[[Array, NDArray[np.bool_]], Array]) -> Tensor:
    inner = gramian.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(inner).all():
        return torch.full_like(gramian[0], torch.nan)
    heard = np.diagonal(inner) > 0
    weights = np.zeros(len(inner))
    if heard.any():
        weights[heard] = solve(inner[np.ix_(heard, heard)], heard)
    return torch.from_numpy(weights).to(gramian)


def unit_rows(gramian: Array) -> tuple[Array, Array]:
    """Lengths of the rows ``[T]``, none of them zero, and their cosines ``[T, T]``.

    Problems are solved for the rows u at unit length, so that no row drowns in another's rounding; a
    combination ``y`` of those is the combination ``y / lengths`` of the rows themselves.
    """
    lengths = np.sqrt(np.diagonal(gramian))
    return lengths, gramian / lengths[:, None] / lengths


def min_norm_weights(gramian: Array) -> Array:
    """The point of the simplex whose combination of rows has least norm: ``argmin_w w^T G w``.

    With ``x`` the minimiser of ``|J^T x|^2 + (1^T x - 1)^2`` over ``x >= 0``, the answer is
    ``x / sum(x)``: one non-negative least squares problem, solved by an active set. Rows are scaled to
    unit length first, so neither the scale of the whole nor that of a row matters. Of rows that depend on
    one another some optimal weights are returned; the combination itself is unique.

    Args:
        gramian: Inner products of the rows, symmetric positive semi-definite ``[T, T]``, finite, and
            without a zero row (with one, the optimum is zero).

    Returns:
        Weights ``[T]``, not negative, with sum 1.
    """
    lengths, cosines = unit_rows(gramian)
    # The unknowns become y = x * lengths, so "sum of x" is y @ (1 / lengths), up to a common factor.
    shares = lengths.min() / lengths
    scaled = non_negative_minimum(cosines + np.outer(shares, shares), shares)
    weights = scaled * shares
    return np.asarray(weights / weights.sum())


def cancelling(cosines: Array) -> Array | None:
    """A convex combination of the unit rows that is zero, as far as rounding lets one tell; or None.

    There is one if and only if no direction agrees with every row (the point is Pareto stationary).
    """
    shares = min_norm_weights(cosines)
    return shares if shares @ cosines @ shares <= 8 * len(shares) * EPS else None


def onto_dual_cone(cosines: Array, point: Array) -> Array:
    """The projection of a combination of unit rows on the directions that conflict with none of them.

    It is ``U^T y`` with the y of least ``y^T C y`` among those not below ``point``. It is unique, also
    where y is not.

    Args:
        cosines: C, inner products of the unit rows U, ``[T, T]``.
        point: The combination to be projected ``[T]``.

    Returns:
        y, ``[T]``.
    """
    size = np.abs(point).max()
    if size == 0:
        return point
    return np.asarray(point + size * non_negative_minimum(cosines, -cosines @ (point / size)))


def least_distance(cosines: Array, bounds: Array) -> tuple[Array, float]:
    """The shortest h with ``<u_i, h> >= bounds_i`` for all i, as ``h = U^T y / slack``.

    There is no such h if and only if the slack is zero (or what rounding makes of it); y is then a
    combination that cancels.

    Args:
        cosines: Inner products of the unit rows U, ``[T, T]``.
        bounds: What each row asks for ``[T]``, in units of the length that h may have.

    Returns:
        y ``[T]``, not negative, and the slack in [0, 1].

    Source:
        Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23 (problem LDP).
    """
    sizes = np.sqrt(1 + bounds**2)
    scaled = bounds / sizes
    matrix = cosines / np.outer(sizes, sizes) + np.outer(scaled, scaled)
    multipliers = non_negative_minimum(matrix, scaled) / sizes
    return multipliers, float(1 - bounds @ multipliers)


def fair_weights(gramian: Array, alpha: float) -> Array:
    """The positive a with ``G a = a^(-1/alpha)``, the minimum of ``a^T G a / 2 - sum(a^e / e)``.

    There e = 1 - 1/alpha (and a logarithm stands for ``a^e / e`` if it is zero). The minimum of this
    convex function is found by Newton's method with a line search. With ``z = a^(-1/alpha)``, the
    condition ``G a = z`` is linear in a where a is large, and in z where z is large. So a step moves
    ``u_i = G_ii a_i - z_i``, along which both branches of the curve (a, z) are nearly straight: some eight
    steps do for any alpha and any lengths of the rows.

    Args:
        gramian: G ``[T, T]``, finite, with no row that is zero and no convex combination that is.
        alpha: Positive.
    """
    lengths = np.sqrt(np.diagonal(gramian))
    unit = np.exp(np.log(lengths).mean())
    gramian, diagonal = gramian / unit / unit, (lengths / unit) ** 2
    magnitudes = np.abs(gramian)
    power = 1 - 1 / alpha
    ridge = 8 * len(gramian) * EPS * np.eye(len(gramian))

    def potential(logs: Array) -> tuple[float, float]:
        """Its value at ``a = exp(logs)``, and what rounding may make of it."""
        a = np.exp(logs)
        gains = np.expm1(power * logs) / power if power else logs
        size = a @ magnitudes @ a / 2 + np.abs(gains).sum()
        return float(a @ gramian @ a / 2 - gains.sum()), 1e3 * EPS * float(size)

    # The solution for orthogonal rows.
    logs = -np.log(diagonal) * alpha / (1 + alpha)
    value, noise = potential(logs)
    last = np.inf
    while True:
        a, z = np.exp(logs), np.exp(-logs / alpha)
        products = a[:, None] * gramian * a
        slope = a * z - products.sum(1)
        # The step is relative to a. The system is scaled to a diagonal of one, and what rounding could
        # take from its eigenvalues is added to them.
        scale = 1 / np.sqrt(np.diagonal(products) + a * z / alpha)
        hessian = scale[:, None] * (products + np.diag(a * z / alpha)) * scale + ridge
        step = scale * np.linalg.solve(hessian, scale * slope)
        gain = float(slope @ step)
        settled = gain <= noise
        if settled:
            # Values no longer tell. Steps shrink by themselves until rounding is all that they are.
            if gain >= last / 2:
                break
            last = gain
        fraction = 1.0
        while fraction > EPS:
            change = fraction * step
            moved = _on_the_curve(diagonal, diagonal * a * (1 + change) - z * (1 - change / alpha), alpha)
            found, blur = potential(moved)
            if settled or found < value - fraction * gain / 10:
                break
            fraction /= 2
        else:
            break
        logs, value, noise = moved, found, blur
    return np.asarray(a * unit ** (-2 * alpha / (1 + alpha)))


def _on_the_curve(diagonal: Array, target: Array, alpha: float) -> Array:
    """``log a`` where ``G_ii a - a^(-1/alpha)`` is the target, for each i.

    Both branches read ``exp(x) = |target| + exp(h - b x)``, with ``x = log(G_ii a)`` where the target is
    positive and ``x = log z`` where it is not. The logarithm of that is convex, and Newton's method starts
    below the root.
    """
    above = target >= 0
    size = np.log(diagonal)
    steepness = np.where(above, 1 / alpha, alpha)
    height = np.where(above, size / alpha, size)
    wanted = np.log(np.maximum(np.abs(target), np.finfo(np.float64).tiny))
    x = np.maximum(wanted, height / (1 + steepness))
    while True:
        other = height - steepness * x
        both = np.logaddexp(wanted, other)
        step = (both - x) / (1 + steepness * np.exp(other - both))
        x = x + step
        if (np.abs(step) <= 1e-9 * (1 + np.abs(x))).all():
            # Weights of 1e-130 are as good as zero, and their squares are still numbers.
            return np.asarray(np.maximum(np.where(above, x - size, -alpha * x), -300.0))


def non_negative_minimum(matrix: Array, vector: Array) -> Array:
    """``argmin_{y >= 0} y^T M y / 2 - b^T y``, by the active set method of Lawson and Hanson.

    Args:
        matrix: M, symmetric positive semi-definite ``[T, T]``, with a diagonal of order one.
        vector: b, in the range of M, with entries of order one at most.

    Source:
        Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23.
    """
    size = len(vector)
    rounding = 8 * size * EPS
    point, value = np.zeros(size), 0.0
    refused = np.zeros(size, dtype=bool)
    while True:
        slope = vector - matrix @ point
        # What rounding alone can make of a slope that is zero.
        noise = rounding * (np.abs(vector) + np.abs(matrix) @ point)
        candidates = (point == 0) & ~refused & (slope > noise)
        if not candidates.any():
            return point
        enters = int(np.argmax(np.where(candidates, slope / np.sqrt(np.diagonal(matrix)), -np.inf)))
        found = _minimum_from(matrix, vector, point, enters)
        reached = float(found @ (matrix @ found) / 2 - vector @ found)
        if reached < value:
            point, value = found, reached
            refused[:] = False
        else:
            # The slope was rounding after all. As the value falls at every other turn, this ends.
            refused[enters] = True


def _minimum_from(matrix: Array, vector: Array, point: Array, enters: int) -> Array:
    """The minimum over the positive variables and one more, less those that would turn negative."""
    free = point > 0
    free[enters] = True
    target = _minimum_on(matrix, vector, free)
    while (target[free] <= 0).any():
        # Go as far towards the target as the first variable that would turn negative allows.
        blocking = free & (target <= 0)
        ratios = np.full(len(point), np.inf)
        ratios[blocking] = 0.0
        np.divide(point, point - target, out=ratios, where=blocking & (point > target))
        first = int(np.argmin(ratios))
        point = point + ratios[first] * (target - point)
        free[first] = False
        point[~free] = 0.0
        target = _minimum_on(matrix, vector, free)
    return target


def _minimum_on(matrix: Array, vector: Array, free: NDArray[np.bool_]) -> Array:
    """The unconstrained minimum over the free variables; the others are zero."""
    point = np.zeros(len(vector))
    if free.any():
        point[free] = np.linalg.lstsq(matrix[np.ix_(free, free)], vector[free], rcond=None)[0]
    return point
