"""Surface normals from a depth map: a plane fitted around every pixel, robustly.

The fit is in inverse depth. There a plane is linear in the image, ``1 / z = a u + b v + c`` with ``u, v`` the
pixel's ray at unit depth, and a structured-light or stereo camera errs by the same amount near and far, so
that plain least squares weigh the pixels rightly. The normal is ``-(a, b, c)`` at unit length.

1. The plane of every window, by least squares over the pixels that agree with the median of their
   neighbours.
2. Each pixel chooses, among its own window and the eight that it lies at the rim of, the one whose plane
   explains its pixels best. Beside a step, one of them lies wholly on the pixel's own side.
3. From that plane on, the pixel's own window is fitted again, with weights that fall with the distance from
   the plane of the pass before and are zero from 4.685 standard deviations on (Tukey's biweight).
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plait.errors import ConfigurationError

Floats = NDArray[np.floating[Any]]

KINECT_NOISE = 0.0015
"""Standard deviation of inverse depth of the first Kinect, in 1 / metres (Khoshelham and Elberink, 2012)."""

REACH = 4.685
"""Where the biweight becomes zero, in standard deviations: 95 % efficient on Gaussian noise."""

SPREAD = 0.1
"""Pixels fix no plane if the product of their variances along and across, divided by the sum, is less than
this: pixels in one line have 0, two by two have 0.125."""

NOWHERE = 1e9
"""Stands for unknown inverse depth (and its negative for no plane): far off, so that the weight is 0."""

BAND = 32
"""Rows that are refitted at a time: what is summed then stays in the processor's cache."""


def surface_normals(
    depth: Floats,
    intrinsics: tuple[float, float, float, float],
    *,
    window: int = 15,
    noise: float = KINECT_NOISE,
    inliers: float = 0.3,
    grazing: float = 85.0,
    passes: int = 2,
) -> NDArray[np.float32]:
    """The normal of the surface at every pixel of a depth map.

    Args:
        depth: Metres along the optical axis, ``[H, W]``; unknown where NaN, infinite or not positive.
        intrinsics: ``(fx, fy, cx, cy)`` in pixels; the centre of the first pixel is at (0.5, 0.5).
        window: Side of the window in pixels, odd. The normals' noise falls with its square; what is
            narrower than about half of it is lost.
        noise: Standard deviation of inverse depth, in 1 / metres.
        inliers: The least share of the window (of its part inside the image) that must lie on the pixel's
            plane, a pixel counting by its weight.
        grazing: The largest angle between the normal and the line to the camera, in degrees.
        passes: How often the fit is repeated with new weights.

    Returns:
        Unit vectors float32 ``[3, H, W]``: x right, y down, z forward, facing the camera. NaN where depth is
        unknown, where too few pixels lie on the plane or all of them in one line, where the pixel itself
        does not lie on it, and beyond ``grazing``.

    Raises:
        ConfigurationError: If an argument is out of its range.

    Source:
        Our own composition of least squares in inverse depth, the choice among windows of Kuwahara's filter
        (1976), and the biweight of Beaton and Tukey (1974).
    """
    _check(depth, intrinsics, window, noise, inliers, grazing, passes)
    known = np.isfinite(depth) & (depth > 0)
    inverse = np.full(depth.shape, np.nan)
    np.divide(1, depth, out=inverse, where=known)
    radius, reach = window // 2, REACH * noise
    plane = _chosen_planes(inverse, _calm(inverse, known, reach), radius, noise)
    for _ in range(passes):
        plane, share = _refitted(inverse, plane, radius, reach)
    on_plane = (np.abs(inverse - plane[0]) <= reach) & (share >= inliers)
    return _facing(plane, on_plane, intrinsics, grazing)


def _check(
    depth: Floats,
    intrinsics: tuple[float, float, float, float],
    window: int,
    noise: float,
    inliers: float,
    grazing: float,
    passes: int,
) -> None:
    if depth.ndim != 2:
        raise ConfigurationError(f"depth must be [H, W], got the shape {depth.shape}")
    if not (intrinsics[0] > 0 and intrinsics[1] > 0):
        raise ConfigurationError(f"intrinsics are (fx, fy, cx, cy) with positive fx and fy, got {intrinsics}")
    if window < 3 or window % 2 == 0:
        raise ConfigurationError(f"window must be odd and at least 3, got {window}")
    if not noise > 0:
        raise ConfigurationError(f"noise must be positive, got {noise}")
    if not 0 < inliers <= 1:
        raise ConfigurationError(f"inliers must be a share in (0, 1], got {inliers}")
    if not 0 < grazing < 90:
        raise ConfigurationError(f"grazing must be an angle between 0 and 90 degrees, got {grazing}")
    if passes < 1:
        raise ConfigurationError(f"passes must be at least 1, got {passes}")


def _calm(inverse: Floats, known: NDArray[np.bool_], reach: float) -> NDArray[np.bool_]:
    """The pixels within reach of the median of the nine around them: a wild one would tilt its windows."""
    from scipy.ndimage import median_filter

    filled = np.where(known, inverse, 0)
    calm: NDArray[np.bool_] = known & (np.abs(filled - median_filter(filled, size=3)) <= reach)
    return calm


def _chosen_planes(inverse: Floats, known: NDArray[np.bool_], radius: int, noise: float) -> Floats:
    """For each pixel the best plane among nine windows: inverse depth there and its slopes, ``[3, H, W]``."""
    planes, variance = _window_planes(inverse, known, radius)
    rim = ((radius, radius), (radius, radius))
    planes = np.pad(planes, ((0, 0), *rim), constant_values=np.nan)
    variance = np.pad(variance, rim, constant_values=np.inf)
    height, width = inverse.shape
    best = np.full((3, height, width), np.nan)
    score = np.full((height, width), np.inf)
    for down, right in itertools.product((0, -radius, radius), repeat=2):
        at = (slice(radius + down, radius + down + height), slice(radius + right, radius + right + width))
        plane = planes[:, *at].copy()
        plane[0] -= plane[1] * right + plane[2] * down
        found = np.maximum(variance[at] + (inverse - plane[0]) ** 2, noise**2)  # below noise all are as good
        better = found < score
        score[better] = found[better]
        best[:, better] = plane[:, better]
    return best


def _window_planes(inverse: Floats, known: NDArray[np.bool_], radius: int) -> tuple[Floats, Floats]:
    """The plane of every window by least squares, ``[3, H, W]``, and the variance of its residuals.

    A window with less than a fifth of its pixels known has none: NaN, and an infinite variance.
    """
    from scipy.ndimage import correlate1d

    offset = np.arange(-radius, radius + 1, dtype=float)
    powers = (np.ones_like(offset), offset, offset**2)

    def moment(values: Floats, x: int, y: int) -> Floats:
        """Sums over each window of ``values * dx**x * dy**y``."""
        along = correlate1d(values, powers[x], axis=1, mode="constant")
        summed: Floats = correlate1d(along, powers[y], axis=0, mode="constant")
        return summed

    one, values = known.astype(float), np.where(known, inverse, 0)
    weights = np.stack([moment(one, x, y) for x, y in ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))])
    first = np.stack([moment(values, x, y) for x, y in ((0, 0), (1, 0), (0, 1))])
    planes = _solved(weights, first)
    squares = moment(values**2, 0, 0) - np.einsum("khw,khw->hw", planes, first)
    count = weights[0]
    variance = np.maximum(squares, 0) / np.maximum(count - 3, 1)
    few = ~(count >= 0.2 * len(offset) ** 2) | np.isnan(variance)
    planes[:, few], variance[few] = np.nan, np.inf
    return planes, variance


def _solved(weights: Floats, values: Floats) -> Floats:
    """The planes ``level + slope_x dx + slope_y dy`` of least squares, ``[3, H, W]``.

    Args:
        weights: Sums of the weights times 1, dx, dy, dx^2, dx dy and dy^2, ``[6, H, W]``.
        values: Sums of weight and value times 1, dx and dy, ``[3, H, W]``.
    """
    w, wx, wy, wxx, wxy, wyy = weights
    v, vx, vy = values
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = wx / w, wy / w
        xx, xy, yy = wxx - wx * x, wxy - wx * y, wyy - wy * y
        determinant = xx * yy - xy * xy
        determinant[~(determinant > SPREAD * w * abs(xx + yy))] = np.nan  # rounded, xx may be below zero
        vx, vy = vx - x * v, vy - y * v
        slope_x = (yy * vx - xy * vy) / determinant
        slope_y = (xx * vy - xy * vx) / determinant
        return np.stack([v / w - slope_x * x - slope_y * y, slope_x, slope_y])


def _refitted(inverse: Floats, plane: Floats, radius: int, reach: float) -> tuple[Floats, Floats]:
    """The planes fitted again with weights by the planes given, and the sum of the weights as a share."""
    height, width = inverse.shape
    around = np.pad(np.nan_to_num(inverse, nan=NOWHERE), radius, constant_values=NOWHERE).astype(np.float32)
    start = np.nan_to_num(plane).astype(np.float32)
    start[0, np.isnan(plane[0])] = -NOWHERE
    fitted, share = np.empty_like(plane), np.empty_like(inverse)
    for top in range(0, height, BAND):
        rows = slice(top, min(top + BAND, height))
        near = around[top : rows.stop + 2 * radius]
        weights, values = _weighted_sums(near, start[:, rows], radius, reach)
        fitted[:, rows] = plane[:, rows] + _solved(weights, values)
        share[rows] = weights[0]
    inside_y, inside_x = (
        np.minimum(np.arange(side), radius) + np.minimum(np.arange(side)[::-1], radius) + 1
        for side in (height, width)
    )
    return fitted, share / np.outer(inside_y, inside_x)


def _weighted_sums(
    around: NDArray[np.float32], plane: NDArray[np.float32], radius: int, reach: float
) -> tuple[Floats, Floats]:
    """The sums that :func:`_solved` takes, the values being residuals from the planes given."""
    _, height, width = plane.shape
    weights, values = np.zeros((6, height, width)), np.zeros((3, height, width))
    residual, weight, product = np.empty((3, height, width), np.float32)
    for dy in range(-radius, radius + 1):
        row = np.zeros((5, height, width), np.float32)  # of the weight: 1, dx, dx^2; of the residual: 1, dx
        for dx in range(-radius, radius + 1):
            there = around[radius + dy : radius + dy + height, radius + dx : radius + dx + width]
            np.multiply(plane[1], np.float32(dx), out=residual)
            residual += plane[0] + plane[2] * np.float32(dy)
            np.subtract(there, residual, out=residual)
            np.multiply(residual, np.float32(1 / reach), out=weight)
            np.multiply(weight, weight, out=weight)
            np.subtract(np.float32(1), weight, out=weight)
            np.maximum(weight, np.float32(0), out=weight)
            np.multiply(weight, weight, out=weight)
            row[0] += weight
            row[1] += np.multiply(weight, np.float32(dx), out=product)
            row[2] += np.multiply(weight, np.float32(dx * dx), out=product)
            np.multiply(weight, residual, out=product)
            row[3] += product
            row[4] += np.multiply(product, np.float32(dx), out=product)
        weights += np.stack([row[0], row[1], dy * row[0], row[2], dy * row[1], dy * dy * row[0]])
        values += np.stack([row[3], row[4], dy * row[3]])
    return weights, values


def _facing(
    plane: Floats,
    valid: NDArray[np.bool_],
    intrinsics: tuple[float, float, float, float],
    grazing: float,
) -> NDArray[np.float32]:
    """Planes of inverse depth to unit normals, NaN where not valid or seen too flat."""
    fx, fy, cx, cy = intrinsics
    height, width = valid.shape
    u, v = np.meshgrid((np.arange(width) + 0.5 - cx) / fx, (np.arange(height) + 0.5 - cy) / fy)
    a, b = plane[1] * fx, plane[2] * fy
    normals = -np.stack([a, b, plane[0] - a * u - b * v])
    length = np.sqrt(np.einsum("chw,chw->hw", normals, normals))
    cosine = plane[0] / (length * np.sqrt(u**2 + v**2 + 1))  # of the angle to the line to the camera
    valid = valid & (cosine >= np.cos(np.radians(grazing)))
    length[~valid] = np.nan
    return np.asarray(normals / length, dtype=np.float32)
