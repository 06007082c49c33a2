"""Losses: the published ones to rounding, shares that add up, and unknown pixels that do nothing."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from plait.errors import ConfigurationError
from plait.tasks.loss import (
    BalancedBCE,
    BerHu,
    CrossEntropy,
    DepthL1,
    DepthLogL1,
    DepthSobel,
    InverseDepthL1,
    NormalsCosine,
    NormalsL1,
    ScaleInvariantLog,
    Term,
    WeightedSum,
    unit,
    weighted_sum,
)

PUBLISHED = Path(__file__).parent.parent / "data" / "losses.npz"
CLASSES = 5

TERMS: dict[str, tuple[str, Term]] = {
    "cross_entropy": ("semantic", CrossEntropy()),
    "cross_entropy, class weights": ("semantic", CrossEntropy((0.1, 2.0, 0.5, 1.0, 3.0))),
    "cross_entropy, class 2 ignored": ("semantic", CrossEntropy(ignore=(2,))),
    "cross_entropy, skip empty": ("semantic", CrossEntropy(skip_empty=True)),
    "balanced_bce": ("mask", BalancedBCE(0.95)),
    "balanced_bce, batch": ("mask", BalancedBCE("batch")),
    "l1": ("depth", DepthL1()),
    "inverse l1": ("mask", InverseDepthL1()),
    "log_l1": ("depth", DepthLogL1()),
    "silog": ("depth", ScaleInvariantLog()),
    "berhu": ("depth", BerHu()),
    "sobel": ("depth", DepthSobel()),
    "normals l1": ("normals", NormalsL1()),
    "normals cosine": ("normals", NormalsCosine()),
    "sum": ("depth", WeightedSum(((1.0, DepthL1()), (0.5, DepthSobel())))),  # type: ignore[dict-item]
}


def maps(kind: str, images: int, seed: int, unknown: float = 0.3) -> tuple[Tensor, Tensor]:
    """Random float64 predictions and targets ``[images, C, 6, 7]``; unknown pixels come in one block too."""
    random = torch.Generator().manual_seed(seed)
    channels = {"semantic": CLASSES, "normals": 3}.get(kind, 1)
    prediction = 2 * torch.randn(images, channels, 6, 7, generator=random, dtype=torch.float64)
    uniform = torch.rand(images, 1, 6, 7, generator=random, dtype=torch.float64)
    hidden = torch.rand(images, 1, 6, 7, generator=random) < unknown * torch.rand(
        images, 1, 1, 1, generator=random
    )
    if kind == "semantic":
        return prediction, (uniform * CLASSES).long().masked_fill(hidden, 255)
    if kind == "normals":
        target = unit(torch.randn(images, 3, 6, 7, generator=random, dtype=torch.float64))
    elif kind == "depth":
        target = 0.5 + 5 * uniform
    else:
        target = (uniform < 0.2).double()
    return prediction, target.masked_fill(hidden, math.nan)


def nothing_known(target: Tensor) -> Tensor:
    return torch.full_like(target, math.nan if target.is_floating_point() else 255)


def loss_and_gradient(
    term: Term, prediction: Tensor, target: Tensor, counts: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    leaf = prediction.clone().requires_grad_()
    loss = term(leaf, target, counts)
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient


@pytest.mark.parametrize(
    ("name", "term"),
    [
        ("semseg", CrossEntropy()),
        ("edge_w095", BalancedBCE(0.95)),
        ("saliency_batch_weight", BalancedBCE("batch")),
        ("depth_l1", DepthL1()),
        ("normals_l1", NormalsL1()),
    ],
)
def test_loss_and_gradient_equal_the_published_ones(name: str, term: Term) -> None:
    with np.load(PUBLISHED) as arrays:
        prediction, target, loss, gradient = (
            torch.from_numpy(arrays[f"{name}__{part}"])
            for part in ("prediction", "target", "loss", "gradient")
        )
    target = target.long() if name == "semseg" else target.masked_fill(target == 255, math.nan)
    ours, ours_gradient = loss_and_gradient(term, prediction, target)
    torch.testing.assert_close(ours, loss, rtol=0, atol=1e-10)
    torch.testing.assert_close(ours_gradient, gradient, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", TERMS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), sizes=st.sampled_from([[1, 3], [2, 2], [1, 1, 2], [1, 1, 1, 1]]))
def test_shares_add_up_to_the_whole_batch(name: str, seed: int, sizes: list[int]) -> None:
    kind, term = TERMS[name]
    prediction, target = maps(kind, 4, seed, unknown=1.5)
    whole, whole_gradient = loss_and_gradient(term, prediction, target)
    counts = torch.stack([term.counts(part) for part in target.split(sizes)]).sum(0)
    shares = [
        loss_and_gradient(term, p, t, counts)
        for p, t in zip(prediction.split(sizes), target.split(sizes), strict=True)
    ]
    torch.testing.assert_close(counts, term.counts(target), rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.stack([s for s, _ in shares]).sum(), whole, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.cat([g for _, g in shares]), whole_gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", TERMS)
def test_nothing_known_gives_zero_loss_and_zero_gradient(name: str, dtype: torch.dtype) -> None:
    kind, term = TERMS[name]
    prediction, target = maps(kind, 2, 0)
    target = nothing_known(target if kind == "semantic" else target.float())
    loss, gradient = loss_and_gradient(term, prediction.to(dtype), target)
    assert not term.counts(target).any()
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("name", TERMS)
def test_unknown_pixels_do_not_matter(name: str) -> None:
    """Neither a prediction at an unknown pixel nor an image without known pixels changes anything."""
    kind, term = TERMS[name]
    prediction, target = maps(kind, 3, 1)
    target[2] = nothing_known(target[2])
    loss, gradient = loss_and_gradient(term, prediction, target)
    known = target != 255 if kind == "semantic" else target.isfinite().all(1, keepdim=True)
    other, other_gradient = loss_and_gradient(term, prediction.where(known, 1e4), target)
    first_two, _ = loss_and_gradient(term, prediction[:2], target[:2])
    torch.testing.assert_close(other, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(other_gradient, gradient, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(first_two, loss, rtol=1e-12, atol=0)
    assert not gradient.where(~known, 0).any()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e4, 6e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", TERMS)
def test_extreme_logits_stay_finite(name: str, dtype: torch.dtype, scale: float) -> None:
    kind, term = TERMS[name]
    prediction, target = maps(kind, 2, 2)
    prediction = (prediction.sign() * scale).to(dtype)
    target = target if kind == "semantic" else target.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, gradient = loss_and_gradient(term, prediction, target)
    assert loss.isfinite()
    assert loss.dtype == torch.float32
    if name != "silog" or scale < 6e4:  # a square's slope there is beyond float16 itself
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", [name for name in TERMS if name != "berhu"])
def test_gradient_is_the_derivative(name: str) -> None:
    """Of every term but berHu, whose threshold carries no gradient by definition."""
    kind, term = TERMS[name]
    prediction, target = maps(kind, 2, 3)
    assert torch.autograd.gradcheck(lambda p: term(p, target), (prediction.requires_grad_(),))


def test_class_weights_divide_by_the_weights_seen() -> None:
    """As torch's own weighted mean."""
    prediction, target = maps("semantic", 2, 4)
    weights = (0.1, 2.0, 0.5, 1.0, 3.0)
    expected = torch.nn.functional.cross_entropy(
        prediction, target.squeeze(1), weight=torch.tensor(weights, dtype=torch.float64), ignore_index=255
    )
    torch.testing.assert_close(CrossEntropy(weights)(prediction, target), expected)


def test_an_image_without_parts_is_unknown_when_asked() -> None:
    prediction, target = maps("semantic", 2, 5)
    target[1] = target[1].where(target[1] == 255, 0)
    only_first = CrossEntropy()(prediction[:1], target[:1])
    torch.testing.assert_close(CrossEntropy(skip_empty=True)(prediction, target), only_first)


def test_balanced_bce_on_four_pixels() -> None:
    logits = torch.tensor([0.0, 0.0, 0.0, 9.0]).view(1, 1, 1, 4)
    target = torch.tensor([1.0, 0.0, 0.0, math.nan]).view(1, 1, 1, 4)
    log2 = math.log(2)
    assert BalancedBCE(0.9)(logits, target).item() == pytest.approx((0.9 + 0.1 + 0.1) * log2 / 3)
    assert BalancedBCE("batch")(logits, target).item() == pytest.approx((2 / 3 + 2 * (1 / 3)) * log2 / 3)


def test_silog_without_scale_does_not_see_a_common_factor() -> None:
    _, target = maps("depth", 2, 6)
    assert ScaleInvariantLog(variance_focus=1.0)(3 * target.nan_to_num(1.0), target) < 1e-12
    assert ScaleInvariantLog(variance_focus=0.0)(3 * target.nan_to_num(1.0), target).item() == pytest.approx(
        math.log(3) ** 2
    )


def test_berhu_is_absolute_below_a_fifth_of_the_largest_error_and_quadratic_above() -> None:
    error = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64).view(1, 1, 1, 3)
    expected = (0.1 + 1.0 + (25 + 1) / 2) / 3
    assert BerHu()(1 + error, torch.ones_like(error)).item() == pytest.approx(expected)


def test_sobel_measures_slopes_in_metres_a_pixel() -> None:
    column = torch.arange(7.0).expand(1, 1, 6, 7)
    assert DepthSobel()(1 + 0.3 * column, torch.ones_like(column)).item() == pytest.approx(0.15)
    assert DepthSobel()(1 + 0.3 * column, 4 + 0.3 * column).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (5, 2)])
def test_sobel_knows_nothing_on_a_map_smaller_than_its_kernel(size: tuple[int, int]) -> None:
    assert DepthSobel()(torch.zeros(1, 1, *size), torch.ones(1, 1, *size)) == 0


def test_logarithms_push_a_negative_depth_up() -> None:
    _, gradient = loss_and_gradient(DepthLogL1(), torch.full((1, 1, 1, 1), -2.0), torch.ones(1, 1, 1, 1))
    assert gradient.item() == pytest.approx(-10.0)


def test_normals_do_not_see_the_length_of_the_prediction() -> None:
    prediction, target = maps("normals", 1, 7)
    for term in (NormalsL1(), NormalsCosine()):
        torch.testing.assert_close(term(1e-3 * prediction, target), term(1e3 * prediction, target))
    assert NormalsCosine()(-target.nan_to_num(1.0), target).item() == pytest.approx(2.0)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \[1, 1, 4, 4\], got \[1, 3, 4, 4\]"):
        DepthL1()(torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"class ids of shape \[1, 1, 4, 4\]"):
        CrossEntropy()(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.long))


def test_a_loss_is_declared_by_name_or_with_weights() -> None:
    known: dict[str, Callable[[], Term]] = {"l1": DepthL1, "sobel": DepthSobel}
    prediction, target = maps("depth", 2, 8)
    both = weighted_sum({"l1": 2.0, "sobel": 0.5}, known)(prediction, target)
    torch.testing.assert_close(
        both, 2 * DepthL1()(prediction, target) + 0.5 * DepthSobel()(prediction, target)
    )
    assert weighted_sum("l1", known) == weighted_sum({"l1": 1.0, "sobel": 0.0}, known)


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        ("sobol", "did you mean 'sobel'"),
        ({"l1": -1.0}, "must be 0 or more"),
        ({"l1": math.nan}, "must be 0 or more"),
        ({"l1": 0.0}, "positive weight"),
        ({}, "positive weight"),
    ],
)
def test_a_wrong_declaration_is_answered_in_a_sentence(loss: str | dict[str, float], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        weighted_sum(loss, {"l1": DepthL1, "sobel": DepthSobel})


@pytest.mark.parametrize("name", TERMS)
def test_no_value_is_looked_at(name: str) -> None:
    """Fake tensors have shapes but no values, so whatever would wait for a GPU is an error on them."""
    kind, term = TERMS[name]
    with FakeTensorMode():
        channels = {"semantic": CLASSES, "normals": 3}.get(kind, 1)
        prediction = torch.empty(2, channels, 6, 7, requires_grad=True)
        target = torch.empty(2, 1 if kind == "semantic" else channels, 6, 7)
        if kind == "semantic":
            target = target.long()
        loss = term(prediction, target, term.counts(target))
        (gradient,) = torch.autograd.grad(loss, prediction)
        assert loss.shape == ()
        assert gradient.shape == prediction.shape
        with pytest.raises(Exception, match="_local_scalar_dense"):
            loss.item()
