"""Thinning, boundaries of label maps and non-maximum suppression, beside independent implementations."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from skimage import morphology

from plait.metrics.boundary.labels import label_boundaries, laplacian_boundaries
from plait.metrics.boundary.suppression import suppress
from plait.metrics.boundary.thinning import NestedMaps, removable, thin, thin_by_queue, thin_by_table

STORED = Path(__file__).parent.parent / "data" / "edges"
SIZES = st.tuples(st.integers(1, 17), st.integers(1, 17))


def stored(name: str) -> dict[str, np.ndarray]:
    with np.load(next(STORED.glob(f"{name}_*.npz"))) as found:
        return dict(found)


def random_mask(seed: int, share: float) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.random(random.integers(1, 24, 2)) < share


@settings(max_examples=200)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1))
def test_thinning_is_that_of_scikit_image(seed: int, share: float) -> None:
    mask = random_mask(seed, share)
    expected = morphology.thin(mask)
    np.testing.assert_array_equal(thin(mask), expected)
    np.testing.assert_array_equal(thin_by_table(mask), expected)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), share=st.floats(0.2, 1))
def test_the_kernel_means_the_same_when_it_is_not_compiled(seed: int, share: float) -> None:
    mask = random_mask(seed, share)
    maps = NestedMaps(mask.astype(np.int64))
    interpreted = thin_by_queue(maps._padded, maps._lowest, 0, removable())
    np.testing.assert_array_equal(interpreted, np.flatnonzero(morphology.thin(mask)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (30, 40)])
def test_a_full_map_is_thinned_to_a_line_that_stays(shape: tuple[int, int]) -> None:
    full = np.ones(shape, dtype=bool)
    lines = thin(full)
    np.testing.assert_array_equal(lines, morphology.thin(full))
    np.testing.assert_array_equal(thin(lines), lines)
    assert full.all()
    assert lines.any()


def test_an_empty_map_stays_empty() -> None:
    assert not thin(np.zeros((4, 5), dtype=bool)).any()


@settings(max_examples=50)
@given(passed=arrays(np.int64, SIZES, elements=st.integers(0, 4)))
def test_each_nested_map_is_thinned_by_itself(passed: np.ndarray) -> None:
    maps = NestedMaps(passed)
    for level in range(4):
        expected = np.flatnonzero(morphology.thin(passed > level))
        np.testing.assert_array_equal(maps.thinned(level), expected)


@pytest.mark.parametrize("name", ["p01", "p03", "p05", "p08", "p12"])
def test_stored_maps_are_thinned_as_stored(name: str) -> None:
    arrays = stored(name)
    value = arrays["pred_u8"] / 255
    np.testing.assert_array_equal(thin(value >= 0.25), arrays["thin_at_025"])
    np.testing.assert_array_equal(thin(value >= 0.5), arrays["thin_at_050"])


@pytest.mark.parametrize("name", ["p01", "p03", "p05", "p08"])
def test_boundaries_of_stored_label_maps_are_the_stored_ones(name: str) -> None:
    arrays = stored(name)
    np.testing.assert_array_equal(label_boundaries(arrays["seg"]), arrays["gt"][0])


def boundaries_by_definition(labels: np.ndarray) -> np.ndarray:
    """Regions first, then each pixel's neighbours one by one."""
    regions, count = np.zeros(labels.shape, dtype=int), 0
    for label in np.unique(labels):
        parts, found = ndimage.label(labels == label)
        regions += np.where(parts > 0, parts + count, 0)
        count += found
    height, width = labels.shape
    boundary = np.zeros(labels.shape, dtype=bool)
    for row in range(height):
        for column in range(width):
            neighbours = [(row, column + 1), (row + 1, column), (row + 1, column + 1)]
            inside = [(i, j) for i, j in neighbours if i < height and j < width]
            boundary[row, column] = any(regions[place] != regions[row, column] for place in inside)
    return morphology.thin(boundary)


@given(labels=arrays(np.uint16, SIZES, elements=st.integers(0, 2)))
def test_boundaries_are_those_of_connected_regions(labels: np.ndarray) -> None:
    np.testing.assert_array_equal(label_boundaries(labels), boundaries_by_definition(labels))


@given(labels=arrays(np.uint8, SIZES, elements=st.integers(0, 255)))
def test_training_boundaries_are_those_of_the_laplacian(labels: np.ndarray) -> None:
    laplacian = ndimage.laplace(labels.astype(float), mode="mirror")
    np.testing.assert_array_equal(laplacian_boundaries(labels), morphology.thin(laplacian != 0))


def test_a_thin_stroke_has_one_outline_and_a_thick_one_two() -> None:
    for thickness, lines in ((1, 1), (5, 2)):
        mask = np.zeros((20, 40), dtype=bool)
        mask[8 : 8 + thickness] = True
        assert label_boundaries(mask)[:, 20].sum() == lines


@pytest.mark.parametrize("name", ["p01", "p03", "p05", "p08", "p09", "p10", "p12"])
def test_suppression_is_the_stored_one_but_for_one_pixel_in_a_thousand(name: str) -> None:
    """Comparisons on flat areas hang on the last bit; the stored maps come from a port of the original."""
    arrays = stored(name)
    found = suppress(arrays["pred_u8"].astype(np.float32) / np.float32(255))
    assert found.dtype == np.float32
    assert (np.abs(found - arrays["nms_f32"]) > 1e-6).mean() <= 1e-3


@pytest.mark.parametrize("degrees", [5, 30, 60, 85, 95, 150, 175])
def test_suppression_keeps_the_crest_of_a_ridge(degrees: float) -> None:
    rows, columns = np.mgrid[-20:21, -20:21]
    angle = np.deg2rad(degrees)
    distance = np.abs(columns * np.cos(angle) + rows * np.sin(angle))
    ridge = np.exp(-(distance**2) / 8).astype(np.float32)
    found = suppress(ridge)
    inside = (np.abs(rows) < 12) & (np.abs(columns) < 12)
    assert not found[inside & (distance > 0.75)].any()
    np.testing.assert_array_equal(found[inside & (distance < 0.25)], ridge[inside & (distance < 0.25)])


def test_suppression_fades_the_border_to_nothing() -> None:
    flat = np.ones((12, 14), dtype=np.float32)
    ramp = np.array([0, 0.2, 0.4, 0.6, 0.8, 1, 1, 0.8, 0.6, 0.4, 0.2, 0])
    np.testing.assert_allclose(suppress(flat)[:, 6], ramp, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (3, 4)])
def test_suppression_takes_the_smallest_maps(shape: Any) -> None:
    found = suppress(np.ones(shape, dtype=np.float32))
    assert found.shape == shape
    assert np.isfinite(found).all()
