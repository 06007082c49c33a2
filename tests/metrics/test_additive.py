"""Statistics of images add up to those of the split, and give its measures, for any weights."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from plait.metrics import (
    AbsoluteErrors,
    BoundaryF,
    DepthErrors,
    MeanIoU,
    NormalsErrors,
    PixelF,
    Saliency,
    SaliencyPooled,
    SaliencySurvey,
)
from plait.metrics.additive import additive
from plait.metrics.boundary.scores import average_precision, ods
from plait.metrics.normals import median_of_bins

Images = list[tuple[Tensor, Tensor]]


def images_of(kind: str, count: int = 6, seed: int = 0) -> Images:
    """Predictions and targets ``[1, C, 9, 11]``; the last target is unknown everywhere."""
    g = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.rand(1, *shape, 9, 11, generator=g)

    def pair() -> tuple[Tensor, Tensor]:
        unknown = noise(1) < 0.2
        if kind == "classes":
            target = torch.randint(0, 4, (1, 1, 9, 11), generator=g)  # of five classes one never occurs
            return noise(5) + 0.5 * (target == torch.arange(5)[:, None, None]), target.masked_fill(
                unknown, 255
            )
        if kind == "depth":
            return 4 * noise(1) - 0.1, (4 * noise(1)).masked_fill(unknown, math.nan)
        if kind == "normals":
            target = noise(3) - 0.5
            return target + 0.4 * (noise(3) - 0.5), target.masked_fill(unknown, math.nan)
        target = (noise(1) > 0.7).float()
        return 0.6 * noise(1) + 0.4 * target, target.masked_fill(unknown, math.nan)

    found = [pair() for _ in range(count)]
    prediction, target = found[-1]
    found[-1] = prediction, torch.full_like(target, 255 if kind == "classes" else math.nan)
    return found


METRICS: dict[str, tuple[Callable[[], Metric], str]] = {
    **{f"iou {a}": (lambda a=a: MeanIoU(5, absent=a), "classes") for a in ("skip", "zero", "present")},
    "iou parts": (lambda: MeanIoU(5, skip_empty=True, ignore=[3]), "classes"),
    **{f"depth {p}": (lambda p=p: DepthErrors(protocol=p), "depth") for p in ("plain", "survey", "invpt")},
    "absolute": (AbsoluteErrors, "depth"),
    "normals": (NormalsErrors, "normals"),
    "normals of 8 bits": (lambda: NormalsErrors(eight_bit=True), "normals"),
    "saliency": (Saliency, "mask"),
    "saliency survey": (SaliencySurvey, "mask"),
    "saliency pooled": (SaliencyPooled, "mask"),
    "saliency twice": (lambda: SaliencyPooled(second_sigmoid=True), "mask"),
    "pixel F": (PixelF, "mask"),
    **{f"boundary {p}": (lambda p=p: BoundaryF(protocol=p), "mask") for p in ("plain", "seism", "bsds")},
}
MEDIAN = {"median": 0.25}
"""How far a measure may be from that of ``compute``, if not by rounding."""


@pytest.fixture(params=METRICS)
def case(request: pytest.FixtureRequest) -> tuple[Callable[[], Metric], Images]:
    make, kind = METRICS[request.param]
    return make, images_of(kind)


def statistics_of(metric: Metric, images: Images) -> Tensor:
    assert additive(metric)
    for image in images:
        metric.update(*image)  # type: ignore[operator]
    return metric.statistics()


def assert_alike(found: dict[str, Tensor], expected: dict[str, float]) -> None:
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-12, abs=MEDIAN.get(name, 1e-12)), name


def test_statistics_of_images_add_up_and_give_the_measures(case: tuple[Callable[[], Metric], Images]) -> None:
    make, images = case
    whole = make()
    pooled = statistics_of(whole, images)
    assert pooled.dtype == torch.float64
    rows = torch.stack([statistics_of(make(), [image]) for image in images])
    torch.testing.assert_close(rows.sum(0), pooled, rtol=1e-12, atol=0)
    assert not rows[-1].any(), "an image of which nothing is known adds nothing"
    assert_alike(whole.measures_of(rows.sum(0)), whole.compute())  # type: ignore[operator]


def test_weights_are_repetitions_of_images(case: tuple[Callable[[], Metric], Images]) -> None:
    make, images = case
    rows = torch.stack([statistics_of(make(), [image]) for image in images])
    weights = torch.tensor([[2, 0, 1, 0, 3, 0], [0, 1, 0, 0, 0, 5], [1, 1, 1, 1, 1, 1]])
    found = make().measures_of(weights.double() @ rows)  # type: ignore[operator]
    for place, counts in enumerate(weights.tolist()):
        repeated = make()
        statistics_of(repeated, [image for image, n in zip(images, counts, strict=True) for _ in range(n)])
        assert_alike({name: values[place] for name, values in found.items()}, repeated.compute())


def test_the_size_of_weights_changes_nothing(case: tuple[Callable[[], Metric], Images]) -> None:
    make, images = case
    metric = make()
    pooled = statistics_of(metric, images)
    small, large = (metric.measures_of(factor * pooled) for factor in (1e-4, 1e4))  # type: ignore[operator]
    for name, value in small.items():
        torch.testing.assert_close(value, large[name], rtol=1e-7, atol=1e-7)


def test_leading_axes_are_kept_and_nothing_seen_is_nan(case: tuple[Callable[[], Metric], Images]) -> None:
    make, _ = case
    metric = make()
    empty = metric.statistics()  # type: ignore[operator]
    assert not empty.any()
    for value in metric.measures_of(empty.expand(2, 3, -1)).values():  # type: ignore[operator]
        assert value.shape == (2, 3)
        assert value.isnan().all()


@pytest.mark.parametrize(
    "metric", [DepthErrors(protocol="astmt"), NormalsErrors(exact_median=True), MeanMetric()]
)
def test_what_does_not_add_up_says_so(metric: Metric) -> None:
    assert not additive(metric)


def test_a_prediction_that_is_not_finite_stays_visible() -> None:
    metric = NormalsErrors()
    (prediction, target), *_ = images_of("normals")
    metric.update(prediction.index_fill(2, torch.tensor([0]), math.nan), target)
    found, expected = metric.measures_of(metric.statistics()), metric.compute()
    assert math.isnan(found["mean"])
    assert math.isnan(expected["mean"])
    assert found["within_30"].item() == expected["within_30"]
    assert found["median"].item() == pytest.approx(expected["median"], abs=0.25)


@pytest.mark.parametrize("spread", [1.0, 8.0, 60.0])
def test_the_median_of_coarse_bins_is_within_the_bin(spread: float) -> None:
    """Angles spread as many small errors are: the interpolation is far better than the bin is wide."""
    angles = torch.randn(20_000, generator=torch.Generator().manual_seed(0)).abs() * spread % 180
    edges = torch.cat([torch.arange(180) / 4, torch.arange(45, 181)]).double()
    histogram = torch.histogram(angles.double(), edges).hist
    assert median_of_bins(histogram).item() == pytest.approx(angles.quantile(0.5).item(), abs=0.02 * spread)
    exact, bins = NormalsErrors(exact_median=True), NormalsErrors()
    turned = torch.deg2rad(angles[:9999].double())
    prediction = torch.stack([turned.cos(), turned.sin(), 0 * turned])[None, :, None]
    for metric in (exact, bins):
        metric.update(prediction, torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand_as(prediction).double())
    width = 0.25 if exact.compute()["median"] < 45 else 1
    assert bins.measures_of(bins.statistics())["median"].item() == pytest.approx(
        exact.compute()["median"], abs=width
    )


def interpolated_by_numpy(counts: np.ndarray) -> float:
    """Average precision of one curve, by its definition."""
    matched_true, true, matched, predicted = counts.T
    precision, recall = matched / np.maximum(predicted, 1), matched_true / np.maximum(true, 1)
    recall, first = np.unique(recall, return_index=True)
    if len(recall) < 2:
        return 0.0
    grid = np.arange(101) / 100
    return min(1.0, float(np.interp(grid, recall, precision[first], left=0, right=0).sum() / 100))


def test_curves_are_scored_many_at_a_time() -> None:
    random = np.random.default_rng(0)
    counts = random.integers(0, 12, (50, 8, 4))
    counts[:, :, 1] = 12
    counts[:, :, 3] += counts[:, :, 2]
    together = average_precision(counts, interpolate=True)
    assert together.shape == (50,)
    assert together.tolist() == [interpolated_by_numpy(curve) for curve in counts]
    for interpolate in (False, True):
        each = [ods(curve, interpolate=interpolate).item() for curve in counts]
        assert ods(counts.reshape(5, 10, 8, 4), interpolate=interpolate).ravel().tolist() == each
