"""The surface of a depth map: planes stay planes, gaps stay open, faces look at the camera."""

import numpy as np
import pytest
from numpy.typing import NDArray

from plait.demo import Mesh, mesh
from plait.errors import ConfigurationError


def plane(normal: tuple[float, float, float], distance: float, size: tuple[int, int]) -> NDArray[np.float64]:
    """The depth of the plane n.p = distance, seen with 60 degrees across the longer side."""
    height, width = size
    focal = max(size) / 2 / np.tan(np.radians(30))
    x = (np.arange(width) + 0.5 - width / 2) / focal
    y = (np.arange(height)[:, None] + 0.5 - height / 2) / focal
    depth: NDArray[np.float64] = distance / (normal[0] * x + normal[1] * y + normal[2])
    return depth


def normals_of(surface: Mesh) -> NDArray[np.float32]:
    a, b, c = (surface.vertices[surface.faces[:, place]] for place in range(3))
    found: NDArray[np.float32] = np.cross(b - a, c - a)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("size", [(24, 32), (32, 24), (20, 20)])
@pytest.mark.parametrize("normal", [(0.0, 0.0, 1.0), (0.3, 0.0, 0.95), (0.1, 0.5, 0.86)])
@pytest.mark.parametrize("stride", [1, 3])
def test_planes_stay_planes_and_face_the_camera(
    normal: tuple[float, float, float], size: tuple[int, int], stride: int
) -> None:
    surface = mesh(plane(normal, 2.0, size), stride=stride, jump=0.5)
    rows, columns = surface.size
    assert (rows, columns) == tuple(-(-side // stride) for side in size)
    assert len(surface.vertices) == len(surface.places) == rows * columns
    assert len(surface.faces) == 2 * (rows - 1) * (columns - 1)
    np.testing.assert_allclose(surface.vertices @ np.array(normal), 2.0, rtol=1e-5)
    expected = -np.array(normal) / np.linalg.norm(normal)
    np.testing.assert_allclose(
        normals_of(surface), np.broadcast_to(expected, (len(surface.faces), 3)), atol=1e-3
    )


@pytest.mark.parametrize("angle", [40.0, 60.0, 90.0])
def test_vertices_lie_where_the_camera_sees_their_pixels(angle: float) -> None:
    depth = np.random.default_rng(0).uniform(1, 2, (6, 8))
    surface = mesh(depth, field_of_view=angle)
    focal = 4 / np.tan(np.radians(angle) / 2)
    seen = surface.vertices[:, :2] / surface.vertices[:, 2:] * focal + (4, 3)
    rows, columns = np.mgrid[:6, :8]
    np.testing.assert_allclose(seen[:, 0], columns.reshape(-1) + 0.5, rtol=1e-5)
    np.testing.assert_allclose(seen[:, 1], rows.reshape(-1) + 0.5, rtol=1e-5)
    np.testing.assert_allclose(surface.places * (8, 6), seen, rtol=1e-5)
    np.testing.assert_allclose(surface.vertices[:, 2], depth.reshape(-1), rtol=1e-6)


def test_the_field_of_view_is_that_of_the_longer_side() -> None:
    wide, tall = mesh(np.ones((10, 1000))), mesh(np.ones((1000, 10)))
    half = np.tan(np.radians(30))
    assert wide.vertices[:, 0].max() == pytest.approx(half, rel=2e-3)
    assert tall.vertices[:, 1].max() == pytest.approx(half, rel=2e-3)


def test_no_triangle_crosses_a_jump() -> None:
    depth = np.full((10, 12), 2.0)
    depth[3:7, 4:9] = 1.0
    surface = mesh(depth)
    assert set(np.ptp(surface.vertices[surface.faces][..., 2], axis=1).tolist()) == {0.0}
    # Around the block of 4 x 5 samples lie 18 cells of 2 triangles; at two of its corners one misses it.
    assert len(surface.faces) == 2 * 9 * 11 - (2 * 18 - 2)


def test_steps_up_to_the_limit_are_joined() -> None:
    depth = 2 * 1.03 ** np.arange(8)[None, :].repeat(3, 0)
    assert len(mesh(depth, jump=0.04).faces) == 2 * 2 * 7
    assert len(mesh(depth, jump=0.02).faces) == 0


@pytest.mark.parametrize("unknown", [np.nan, np.inf, 0.0, -1.0])
def test_what_is_unknown_is_in_no_triangle(unknown: float) -> None:
    depth = np.ones((5, 6))
    depth[2, 3] = unknown
    surface = mesh(depth)
    assert np.isnan(surface.vertices[2 * 6 + 3]).all()
    assert np.isfinite(surface.vertices[surface.faces]).all()
    assert len(surface.faces) == 2 * 4 * 5 - 6


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)])
def test_a_line_has_no_surface(size: tuple[int, int]) -> None:
    assert mesh(np.ones(size)).faces.shape == (0, 3)


@pytest.mark.parametrize(
    "wrong",
    [{"field_of_view": 0.0}, {"field_of_view": 180.0}, {"stride": 0}, {"jump": 0.0}, {"jump": float("nan")}],
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="expected depth"):
        mesh(np.ones((3, 3)), **wrong)  # type: ignore[arg-type]
