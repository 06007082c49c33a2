"""Surface normals fitted to depth: exact on planes, robust to a sensor's faults, whole beside steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from plait.data.nyud.camera import intrinsics
from plait.data.rooms.dataset import Rooms
from plait.data.surface_normals import KINECT_NOISE, surface_normals
from plait.errors import ConfigurationError

Array = NDArray[Any]
SIZE = (96, 128)
CAMERA = (519.0, 519.0, 70.0, 45.0)  # as the set's: a narrow view, its centre not in the middle

PLANES = {
    "facing": ((0.0, 0.0, -1.0), 2.0),
    "tilted": ((0.3, -0.4, -1.0), 1.5),
    "a floor": ((0.0, -0.9, -0.44), 1.0),
    "a wall": ((0.95, 0.0, -0.31), 1.0),
    "far": ((0.1, 0.05, -1.0), 6.0),
}


def unit(vector: Any) -> Array:
    return np.asarray(vector) / np.linalg.norm(vector)


def rays(size: tuple[int, int] = SIZE, camera: tuple[float, float, float, float] = CAMERA) -> Array:
    fx, fy, cx, cy = camera
    x, y = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    return np.stack([(x - cx) / fx, (y - cy) / fy, np.ones_like(x)])


def plane(normal: Any, distance: float, **view: Any) -> Array:
    return np.asarray(-distance / np.tensordot(unit(normal), rays(**view), 1))


def kinect(depth: Array, seed: int = 0, outliers: float = 0.05, missing: float = 0.05) -> Array:
    """Depth as the sensor gives it: noise and steps of disparity, wild pixels and pixels without a value."""
    random = np.random.default_rng(seed)
    inverse = depth**-1 + random.normal(0, KINECT_NOISE, depth.shape)
    inverse = np.round(inverse / 0.00287) * 0.00287  # an eighth of a pixel of disparity, 580 pixels x 7.5 cm
    seen = 1 / inverse
    wild = random.random(depth.shape) < outliers
    seen[wild] *= random.uniform(0.5, 1.5, int(wild.sum()))
    seen[random.random(depth.shape) < missing] = 0
    return np.asarray(seen)


def degrees(normals: Array, expected: Any) -> Array:
    expected = np.asarray(expected).reshape(3, *np.shape(expected)[1:] or (1, 1))
    apart, sum_ = (np.linalg.norm(v, axis=0) for v in (normals - expected, normals + expected))
    return np.asarray(np.degrees(2 * np.arctan2(apart, sum_)))


def plain_fit(depth: Array, window: int = 15) -> Array:
    """The total least squares plane of the points of every window, no pixel counting less than another."""
    known = depth > 0
    points = np.where(known, depth, np.nan) * rays()
    radius = window // 2
    normals = np.full((3, *depth.shape), np.nan)
    for y in range(radius, depth.shape[0] - radius, 8):
        for x in range(radius, depth.shape[1] - radius, 8):
            near = points[:, y - radius : y + radius + 1, x - radius : x + radius + 1].reshape(3, -1)
            near = near[:, np.isfinite(near[0])]
            normal = np.linalg.svd(near - near.mean(1, keepdims=True), full_matrices=False)[0][:, -1]
            normals[:, y, x] = normal * -np.sign(normal @ rays()[:, y, x])
    return normals


# --- planes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANES)
@pytest.mark.parametrize("window", [3, 9, 15])
def test_an_exact_plane_has_its_normal_everywhere(name: str, window: int) -> None:
    normal, distance = PLANES[name]
    normals = surface_normals(plane(normal, distance), CAMERA, window=window)
    assert normals.dtype == np.float32
    assert degrees(normals, unit(normal)).max() < 0.1, "no pixel is unknown, and none is off"


@pytest.mark.parametrize("name", PLANES)
def test_a_sensors_plane_has_its_normal_within_a_few_degrees(name: str) -> None:
    normal, distance = PLANES[name]
    seen = kinect(plane(normal, distance))
    normals = surface_normals(seen, CAMERA)
    angles = degrees(normals, unit(normal))
    assert np.isfinite(normals[0])[seen > 0].mean() > 0.9
    assert np.isnan(normals[:, seen <= 0]).all()
    assert np.nanmedian(angles) < 1.5 + distance


@pytest.mark.parametrize("name", ["tilted", "a floor", "far"])
def test_it_is_better_than_a_plain_fit(name: str) -> None:
    normal, distance = PLANES[name]
    seen = kinect(plane(normal, distance))
    plain = plain_fit(seen)
    robust = surface_normals(seen, CAMERA)
    both = np.isfinite(plain[0]) & np.isfinite(robust[0])
    assert both.sum() > 100
    angles = {
        name: float(np.median(degrees(normals[:, both], unit(normal)[:, None])))
        for name, normals in (("plain", plain), ("robust", robust))
    }
    assert angles["robust"] < 0.25 * angles["plain"]


def test_it_does_not_depend_on_where_depth_is_wild() -> None:
    depth = plane(*PLANES["tilted"])
    wild = np.random.default_rng(1).random(SIZE) < 0.1
    depth[wild] *= 1.5
    normals = surface_normals(depth, CAMERA)
    assert degrees(normals, unit(PLANES["tilted"][0]))[~wild].max() < 0.1
    assert np.isnan(normals[:, wild]).all(), "a pixel off its surroundings has no normal"


# --- more than one surface ----------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [1.7, 2.0, 4.0])
def test_nothing_is_smeared_across_a_step(behind: float) -> None:
    left, right = ((0.4, 0.1, -1.0), 1.5), ((-0.3, 0.2, -1.0), behind)
    column = SIZE[1] // 2
    depth = plane(*left)
    depth[:, column:] = plane(*right)[:, column:]
    angles = np.concatenate(
        [
            degrees(surface_normals(depth, CAMERA), unit(left[0]))[:, :column],
            degrees(surface_normals(depth, CAMERA), unit(right[0]))[:, column:],
        ],
        axis=1,
    )
    assert np.isfinite(angles).mean() > 0.99
    assert np.nanmax(angles) < 0.1


def test_a_crease_stays_sharp() -> None:
    left, right = (0.6, 0.0, -0.8), (-0.6, 0.0, -0.8)  # an edge that points at the camera, two metres away
    depth = np.maximum(*(-2 * normal[2] / -np.tensordot(normal, rays(), 1) for normal in (left, right)))
    normals = surface_normals(depth, CAMERA)
    middle = int(CAMERA[2])
    for half, normal in ((np.s_[:, : middle - 5], left), (np.s_[:, middle + 5 :], right)):
        expected = min(degrees(normals, unit(left))[half].max(), degrees(normals, unit(right))[half].max())
        assert expected < 3, normal


# --- what has no normal -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [0, np.nan, np.inf, -1])
def test_unknown_depth_has_no_normal_and_harms_no_neighbour(mark: float) -> None:
    depth = plane(*PLANES["tilted"])
    depth[40:50, 60:80] = mark
    normals = surface_normals(depth, CAMERA)
    unknown = np.zeros(SIZE, bool)
    unknown[40:50, 60:80] = True
    np.testing.assert_array_equal(np.isnan(normals[0]), unknown)
    assert degrees(normals, unit(PLANES["tilted"][0]))[~unknown].max() < 0.1


@pytest.mark.parametrize(
    ("rows", "columns"), [((20, 21), (0, 128)), ((0, 96), (30, 31)), ((20, 22), (30, 32))]
)
def test_points_in_a_line_or_too_few_fix_no_plane(rows: tuple[int, int], columns: tuple[int, int]) -> None:
    depth = np.zeros(SIZE)
    depth[slice(*rows), slice(*columns)] = 2.0
    assert np.isnan(surface_normals(depth, CAMERA)).all()


def test_nothing_known_gives_nothing() -> None:
    assert np.isnan(surface_normals(np.zeros(SIZE), CAMERA)).all()


def test_what_is_seen_too_flat_is_unknown() -> None:
    camera = (60.0, 60.0, 64.0, 10.0)
    depth = plane((0, -1, 0), 1.0, camera=camera)
    depth[depth < 0] = np.nan
    angle = np.degrees(np.arccos(depth**-1 / np.linalg.norm(rays(camera=camera), axis=0)))
    normals = surface_normals(depth, camera, window=5, grazing=70)
    flat = angle > 70
    assert 0 < (flat & np.isfinite(depth)).sum() < depth.size / 2
    np.testing.assert_array_equal(np.isfinite(normals[0]), ~flat & np.isfinite(depth))


# --- properties ---------------------------------------------------------------------------------------------


def test_normals_have_length_one_and_face_the_camera() -> None:
    normals = surface_normals(kinect(plane(*PLANES["tilted"])), CAMERA)
    known = np.isfinite(normals[0])
    np.testing.assert_allclose(np.linalg.norm(normals[:, known], axis=0), 1, atol=1e-6)
    assert (np.einsum("kn,kn->n", normals[:, known], rays()[:, known]) < 0).all()


def test_a_mirrored_scene_has_mirrored_normals() -> None:
    depth = kinect(plane(*PLANES["tilted"]))
    mirrored = (CAMERA[0], CAMERA[1], SIZE[1] - CAMERA[2], CAMERA[3])
    normals = surface_normals(depth, CAMERA)
    other = surface_normals(depth[:, ::-1], mirrored)[:, :, ::-1] * np.array([-1, 1, 1])[:, None, None]
    apart = degrees(normals, other)
    assert np.nanpercentile(apart, 90) < 0.01, "but for ties among the windows"


def test_the_centre_of_the_first_pixel_is_at_one_half() -> None:
    depth = plane(*PLANES["tilted"])
    shifted = (CAMERA[0], CAMERA[1], CAMERA[2] - 0.5, CAMERA[3] - 0.5)
    right = degrees(surface_normals(depth, CAMERA), unit(PLANES["tilted"][0])).max()
    wrong = degrees(surface_normals(depth, shifted), unit(PLANES["tilted"][0])).max()
    assert right < 0.001 < wrong


def test_single_precision_and_any_order_in_memory_give_the_same() -> None:
    depth = plane(*PLANES["tilted"])
    expected = surface_normals(depth, CAMERA)
    for other in (depth.astype(np.float32), np.asfortranarray(depth)):
        assert np.nanmax(degrees(surface_normals(other, CAMERA), expected)) < 0.1


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (33, 7)])
def test_pictures_smaller_than_the_window_are_no_problem(size: tuple[int, int]) -> None:
    assert surface_normals(np.full(size, 2.0), CAMERA).shape == (3, *size)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"window": 4}, "window must be odd"),
        ({"window": 1}, "at least 3"),
        ({"noise": 0}, "noise must be positive"),
        ({"inliers": 0}, "inliers must be a share"),
        ({"inliers": 1.5}, "inliers must be a share"),
        ({"grazing": 90}, "grazing must be an angle"),
        ({"passes": 0}, "passes must be at least 1"),
        ({"intrinsics": (0.0, 1.0, 0.0, 0.0)}, "positive fx and fy"),
        ({"depth": np.ones(4)}, r"depth must be \[H, W\]"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        surface_normals(**{"depth": np.ones(SIZE), "intrinsics": CAMERA, **arguments})


# --- rooms --------------------------------------------------------------------------------------------------


def test_rooms_get_the_normals_they_were_rendered_with() -> None:
    rooms = Rooms("val", ("depth", "normals"), cache="none")
    angles, shares = [], []
    for place in range(0, 40, 5):
        sample = rooms[place]
        depth, exact = sample.targets["depth"].numpy()[0], sample.targets["normals"].numpy()
        normals = surface_normals(depth, rooms.camera(place), window=5, noise=0.0003)
        known = np.isfinite(normals[0])
        angles.append(degrees(normals[:, known], exact[:, known]))
        shares.append(known.mean())
    together = np.concatenate(angles)
    assert np.median(together) < 0.5
    assert (together < 11.25).mean() > 0.92
    assert np.mean(shares) > 0.9


def test_the_sets_camera_is_the_same_in_every_cut() -> None:
    whole, toolbox, gupta = intrinsics((480, 640)), intrinsics((427, 561)), intrinsics((425, 560))
    assert whole[:2] == toolbox[:2] == gupta[:2]
    assert (whole[2] - toolbox[2], whole[3] - toolbox[3]) == (40, 44)
    assert (whole[2] - gupta[2], whole[3] - gupta[3]) == (40, 45)
    half = intrinsics((240, 320))
    assert half == pytest.approx([number / 2 for number in whole])
