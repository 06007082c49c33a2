"""Metrics on maps small enough to count by hand, and beside direct implementations of their definitions."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics import Metric

from plait.errors import ConfigurationError, DataError
from plait.metrics import (
    AbsoluteErrors,
    DepthErrors,
    MeanIoU,
    NormalsErrors,
    PixelF,
    Saliency,
    SaliencyPooled,
    SaliencySurvey,
)


def scores(metric: Metric, prediction: Tensor, target: Tensor) -> dict[str, float]:
    metric.update(prediction, target)
    return dict(metric.compute())


def row(*values: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(values, dtype=dtype).view(1, 1, 1, -1)


def ids(*values: int) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


class TestMeanIoU:
    def test_three_pixels(self) -> None:
        assert scores(MeanIoU(2), ids(0, 1, 1, 1), ids(0, 0, 1, 255)) == {
            "miou": pytest.approx((1 / 2 + 1 / 2) / 2),
            "pixel_accuracy": pytest.approx(2 / 3),
        }

    def test_logits_maps_and_channel_maps_mean_the_same(self) -> None:
        random = torch.Generator().manual_seed(0)
        logits, target = (
            torch.randn(2, 3, 4, 5, generator=random),
            torch.randint(3, (2, 1, 4, 5), generator=random),
        )
        expected = scores(MeanIoU(3), logits, target)
        assert scores(MeanIoU(3), logits.argmax(1), target) == expected
        assert scores(MeanIoU(3), logits.argmax(1, keepdim=True), target[:, 0]) == expected
        assert scores(MeanIoU(3), logits.argmax(1).byte(), target.byte()) == expected

    def test_a_prediction_outside_the_classes_is_a_miss_only(self) -> None:
        assert scores(MeanIoU(2), ids(0, 255, 7, 1), ids(0, 0, 1, 1))["miou"] == pytest.approx(0.5)

    def test_ignored_classes_are_unknown(self) -> None:
        assert scores(MeanIoU(3, ignore=[0]), ids(1, 1, 2), ids(0, 1, 2)) == {
            "miou": 1.0,
            "pixel_accuracy": 1.0,
        }

    def test_images_without_parts_can_be_left_out(self) -> None:
        target = torch.tensor([[0, 1, 255], [0, 0, 0], [0, 255, 0], [255, 255, 255]]).view(4, 1, 1, 3)
        prediction = torch.tensor([[0, 1, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0]]).view(4, 1, 1, 3)
        assert scores(MeanIoU(2, skip_empty=True), prediction, target)["miou"] == 1.0
        assert scores(MeanIoU(2), prediction, target)["miou"] < 1.0

    def test_the_folder_evaluators_rule_leaves_out_targets_of_one_value(self) -> None:
        target = torch.tensor([[0, 1, 255], [0, 0, 0], [0, 255, 0], [255, 255, 255]]).view(4, 1, 1, 3)
        prediction = torch.tensor([[0, 1, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0]]).view(4, 1, 1, 3)
        kept = [0, 2]
        expected = scores(MeanIoU(2), prediction[kept], target[kept])
        assert scores(MeanIoU(2, skip_empty="single_value"), prediction, target) == expected
        assert expected["miou"] < 1.0, "the image of 0 and 255 counts as background"

    def test_a_target_outside_the_classes_is_refused(self) -> None:
        with pytest.raises(DataError, match="class ids from 0 to 1 or 255 for unknown, got ids from 0 to 2"):
            MeanIoU(2).update(ids(0, 0), ids(0, 2))

    def test_a_policy_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="skip, zero, present; got 'mean'"):
            MeanIoU(2, absent="mean")  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="true, false or 'single_value'; got 'zero'"):
            MeanIoU(2, skip_empty="zero")  # type: ignore[arg-type]


class TestDepthErrors:
    def test_two_pixels(self) -> None:
        found = scores(DepthErrors(), row(1.0, 3.0, 9.0), row(2.0, 2.5, math.nan))
        assert found == {
            "rmse": pytest.approx(math.sqrt((1 + 0.25) / 2)),
            "log_rmse": pytest.approx(math.sqrt((math.log(2) ** 2 + math.log(1.2) ** 2) / 2)),
            "abs_rel": pytest.approx((0.5 + 0.2) / 2),
            "sq_rel": pytest.approx((0.5 + 0.1) / 2),
            "delta1": 0.5,
            "delta2": 0.5,
            "delta3": 0.5,
        }

    def test_protocols_differ_where_a_prediction_is_not_positive(self) -> None:
        plain = scores(DepthErrors(), row(-1.0), row(2.0))
        survey = scores(DepthErrors(protocol="survey"), row(-1.0), row(2.0))
        assert plain["rmse"] == pytest.approx(3.0)
        assert plain["log_rmse"] == pytest.approx(math.log(2 / 1e-3))
        assert survey["rmse"] == pytest.approx(2.0)
        assert survey["log_rmse"] == pytest.approx(math.log(2 / 1e-9))
        assert plain["delta3"] == survey["delta3"] == 0.0

    @pytest.mark.parametrize("seed", range(3))
    def test_the_named_pooled_protocols_are_one_clamp_and_plain_above_a_millimetre(self, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        prediction, target = torch.randn(2, 3, 1, 4, 5, generator=random).unbind()
        target = target.abs() + 0.1
        survey, invpt = (scores(DepthErrors(protocol=p), prediction, target) for p in ("survey", "invpt"))
        assert survey == invpt
        assert {n: survey[n] for n in ("delta1", "delta2", "delta3")} == {
            n: v for n, v in scores(DepthErrors(), prediction, target).items() if n.startswith("delta")
        }
        positive = prediction.abs().clamp(min=1e-3)
        assert scores(DepthErrors(protocol="survey"), positive, target) == scores(
            DepthErrors(), positive, target
        )

    def test_astmt_averages_images_and_counts_unknown_pixels_at_the_camera(self) -> None:
        prediction = torch.tensor([[1.0, 2.0], [3.0, -1.0], [1.0, 1.0]]).view(3, 1, 1, 2)
        target = torch.tensor([[1.5, math.nan], [3.0, 1e-9], [2.0, 1.0]]).view(3, 1, 1, 2)
        metric = DepthErrors(protocol="astmt")
        metric.update(prediction[:1], target[:1])
        metric.update(prediction[1:], target[1:])
        found = metric.compute()
        by_image = [math.sqrt((0.25 + 4) / 2), 0.0, math.sqrt(0.5)]
        assert found["rmse"] == pytest.approx(sum(by_image) / 3, rel=1e-6)
        logs = [
            math.sqrt((math.log(1.5) ** 2 + math.log(2 / 1e-9) ** 2) / 2),
            0.0,
            math.sqrt(math.log(2) ** 2 / 2),
        ]
        assert found == {"rmse": pytest.approx(sum(by_image) / 3), "log_rmse": pytest.approx(sorted(logs)[1])}

    def test_astmt_s_states_add_up_over_processes(self) -> None:
        random = torch.Generator().manual_seed(0)
        prediction, target = torch.rand(2, 5, 1, 4, 5, generator=random).unbind()
        whole = scores(DepthErrors(protocol="astmt"), prediction, target)
        first, second = DepthErrors(protocol="astmt"), DepthErrors(protocol="astmt")
        first.update(prediction[:2], target[:2])
        second.update(prediction[2:], target[2:])
        first.merge_state(second)
        assert first.compute() == pytest.approx(whole, rel=1e-12)

    def test_a_protocol_that_does_not_exist_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="plain, survey, invpt, astmt; got 'mean'"):
            DepthErrors(protocol="mean")  # type: ignore[arg-type]

    def test_the_bound_of_delta_is_strict(self) -> None:
        assert scores(DepthErrors(), row(1.25, 1.0), row(1.0, 1.25))["delta1"] == 0.0

    def test_targets_that_are_not_positive_are_unknown(self) -> None:
        assert scores(DepthErrors(), row(1.0, 1.0, 1.0), row(0.0, -1.0, 2.0))["rmse"] == 1.0

    def test_a_nan_prediction_shows(self) -> None:
        assert math.isnan(scores(DepthErrors(), row(math.nan, 1.0), row(1.0, 1.0))["rmse"])


class TestAbsoluteErrors:
    def test_three_pixels(self) -> None:
        prediction, target = row(0.5, 0.1, 0.3, 9.0), row(0.4, 0.0, 0.6, math.nan)
        assert scores(AbsoluteErrors(), prediction, target) == {
            "abs_err": pytest.approx((0.1 + 0.1 + 0.3) / 3),
            "rel_err": pytest.approx((0.25 + 0.5) / 2),
            "rmse": pytest.approx(math.sqrt((0.01 + 0.01 + 0.09) / 3)),
        }

    def test_of_depth_zero_is_unknown(self) -> None:
        prediction, target = row(0.5, 0.1), row(0.4, 0.0)
        assert scores(AbsoluteErrors(zero_is_known=False), prediction, target) == scores(
            AbsoluteErrors(), prediction[..., :1], target[..., :1]
        )

    def test_negative_targets_are_unknown(self) -> None:
        assert scores(AbsoluteErrors(), row(1.0, 1.0), row(-1.0, 2.0))["abs_err"] == 1.0


class TestNormalsErrors:
    @staticmethod
    def turned(*degrees: float) -> tuple[Tensor, Tensor]:
        angles = torch.tensor(degrees, dtype=torch.float64).deg2rad()
        prediction = torch.stack([angles.sin(), torch.zeros_like(angles), -angles.cos()])
        target = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64)[:, None].expand_as(prediction)
        return prediction[None, :, None], target[None, :, None]

    @pytest.mark.parametrize("exact", [True, False])
    def test_known_angles(self, exact: bool) -> None:
        found = scores(NormalsErrors(exact_median=exact), *self.turned(1e-4, 10.0, 11.25, 20.0, 180.0))
        assert found["mean"] == pytest.approx((1e-4 + 10 + 11.25 + 20 + 180) / 5, abs=1e-9)
        assert found["median"] == pytest.approx(11.25, abs=1e-9 if exact else 5.1e-4)
        assert found["rmse"] == pytest.approx(math.sqrt((100 + 11.25**2 + 400 + 180**2) / 5), abs=1e-6)
        assert found["within_30"] == 0.8

    @pytest.mark.parametrize("exact", [True, False])
    def test_the_median_of_an_even_number_is_between_the_middle_two(self, exact: bool) -> None:
        found = scores(NormalsErrors(exact_median=exact), *self.turned(1.0, 2.0, 4.0, 90.0))
        assert found["median"] == pytest.approx(3.0, abs=1e-9 if exact else 5.1e-4)

    def test_small_angles_keep_their_digits(self) -> None:
        prediction, target = self.turned(1e-3)
        assert scores(NormalsErrors(), 7 * prediction, target)["mean"] == pytest.approx(1e-3, rel=1e-9)

    def test_eight_bits_are_truncated_and_read_back(self) -> None:
        """0.3 is stored as 165.75, truncated: 165; 0 as 127; -0.95394 as 5.87, truncated: 5."""
        prediction, target = torch.tensor([0.3, 0.0, -math.sqrt(0.91)]), torch.tensor([0.0, 0.0, -1.0])
        read = torch.tensor([165.0, 127.0, 5.0], dtype=torch.float64) * 2 / 255 - 1
        expected = math.degrees(math.acos(-read[2] / read.norm()))
        shaped = (3 * prediction.view(1, 3, 1, 1), target.view(1, 3, 1, 1))
        assert scores(NormalsErrors(eight_bit=True), *shaped)["mean"] == pytest.approx(expected, abs=1e-9)
        stored = torch.tensor([165, 127, 5], dtype=torch.uint8).view(1, 3, 1, 1)
        for eight_bit in (True, False):
            found = scores(NormalsErrors(eight_bit=eight_bit), stored, shaped[1])
            assert found["mean"] == pytest.approx(expected, abs=1e-9)

    def test_a_zero_prediction_is_ninety_degrees_off(self) -> None:
        prediction, target = self.turned(0.0)
        assert scores(NormalsErrors(), 0 * prediction, target)["mean"] == pytest.approx(90.0)

    @settings(max_examples=25, deadline=None)
    @given(seed=st.integers(0, 1000))
    def test_both_medians_agree(self, seed: int) -> None:
        random = torch.Generator().manual_seed(seed)
        prediction, target = torch.randn(2, 2, 3, 5, 4, generator=random).unbind()
        exact, histogram = (
            scores(NormalsErrors(exact_median=choice), prediction, target)["median"]
            for choice in (True, False)
        )
        assert histogram == pytest.approx(exact, abs=5.1e-4)


def survey_by_definition(prediction: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """The protocol's text, image by image and threshold by threshold, on 8-bit predictions ``[N, H, W]``."""
    means = []
    for twentieth in range(4, 19):
        rows = []
        for value, truth in zip(prediction.astype(int), target, strict=True):
            positive = 20 * value > 255 * twentieth
            hits, either = (positive & truth).sum(), (positive | truth).sum()
            rows.append(
                (
                    hits / either if either else 1.0,
                    hits / (positive.sum() + 1e-12),
                    hits / (truth.sum() + 1e-12),
                )
            )
        means.append(np.mean(rows, 0))
    iou, precision, recall = np.array(means).T
    return {"max_f": (2 * precision * recall / (precision + recall + 1e-12)).max(), "miou": iou.max()}


def pooled_by_definition(
    prediction: np.ndarray, target: np.ndarray, thresholds: np.ndarray, beta_square: float
) -> float:
    best = 0.0
    for threshold in thresholds:
        positive = prediction >= threshold
        hits = (positive & target).sum()
        if hits:
            p, r = hits / positive.sum(), hits / target.sum()
            best = max(best, (1 + beta_square) * p * r / (beta_square * p + r))
    return best


class TestProbabilityMaps:
    @staticmethod
    def maps(seed: int = 0) -> tuple[Tensor, Tensor]:
        """8-bit predictions with empty ones, and targets with empty ones; ties at every threshold occur."""
        random = torch.Generator().manual_seed(seed)
        target = torch.rand(8, 1, 6, 9, generator=random) < 0.3
        noise = torch.rand(8, 1, 6, 9, generator=random)
        prediction = ((0.6 * noise + 0.4 * target) * 256).clamp(max=255).floor()
        prediction = torch.where(noise < 0.3, (prediction / 51).round() * 51, prediction)
        target[5] = target[6] = False
        prediction[6] = prediction[7] = 0
        return prediction.byte(), target.float()

    @pytest.mark.parametrize("seed", range(3))
    def test_the_survey_protocol_is_its_definition(self, seed: int) -> None:
        prediction, target = self.maps(seed)
        expected = survey_by_definition(prediction[:, 0].numpy(), target[:, 0].bool().numpy())
        assert scores(SaliencySurvey(), prediction, target) == pytest.approx(expected, abs=1e-12)
        # Probabilities come back to the 8 bits they were made from.
        for dtype in (torch.float32, torch.float64):
            found = scores(SaliencySurvey(), prediction.to(dtype) / 255, target)
            assert found == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("second_sigmoid", [False, True])
    def test_the_pooled_protocol_is_its_definition(self, second_sigmoid: bool) -> None:
        prediction, target = self.maps()
        probability = prediction / 255
        seen = probability.sigmoid() if second_sigmoid else probability
        thresholds = torch.tensor([k / 20 for k in range(1, 20)]).numpy()
        expected = pooled_by_definition(seen.numpy(), target.bool().numpy(), thresholds, 0.3)
        found = scores(SaliencyPooled(second_sigmoid=second_sigmoid), prediction, target)
        name = "max_f_pooled_second_sigmoid" if second_sigmoid else "max_f_pooled"
        assert found[name] == pytest.approx(expected, abs=1e-12)
        assert len(found) == 1 + second_sigmoid

    @pytest.mark.parametrize("seed", range(3))
    def test_the_plain_measures_are_the_named_ones_where_nothing_is_quantised(self, seed: int) -> None:
        prediction, target = self.maps(seed)
        both = scores(SaliencySurvey(), prediction, target) | scores(SaliencyPooled(), prediction, target)
        assert scores(Saliency(), prediction, target) == pytest.approx(both, abs=1e-12)
        for dtype in (torch.float32, torch.float64):
            assert scores(Saliency(), prediction.to(dtype) / 255, target) == pytest.approx(both, abs=1e-12)

    def test_plain_measures_see_what_eight_bits_lose(self) -> None:
        """0.9002 is above 0.9, but truncated to 229 / 255 = 0.898 it is not."""
        prediction, target = row(0.9002, 0.8999), row(1.0, 0.0)
        assert scores(Saliency(), prediction, target)["miou"] == 1.0
        assert scores(SaliencySurvey(), prediction, target)["miou"] == 0.5

    def test_the_pixel_f_is_its_definition(self) -> None:
        prediction, target = self.maps()
        thresholds = torch.tensor([k / 100 for k in range(1, 100)]).numpy()
        expected = pooled_by_definition((prediction / 255).numpy(), target.bool().numpy(), thresholds, 1.0)
        assert scores(PixelF(), prediction, target) == {"pixel_f": pytest.approx(expected, abs=1e-12)}

    @pytest.mark.parametrize("metric", [Saliency, SaliencySurvey, SaliencyPooled, PixelF])
    def test_unknown_pixels_and_images_are_left_out(self, metric: Any) -> None:
        prediction, target = self.maps()
        hidden = target.clone()
        hidden[2:] = torch.nan
        hidden[0, 0, :3] = torch.nan
        other = prediction.where(hidden.isfinite(), 255)
        assert scores(metric(), prediction, hidden) == scores(metric(), other, hidden)
        hidden[0, 0, :3] = target[0, 0, :3]
        assert scores(metric(), prediction, hidden) == scores(metric(), prediction[:2], target[:2])

    def test_nothing_to_find_and_nothing_found(self) -> None:
        empty = torch.zeros(2, 1, 3, 3)
        assert scores(SaliencySurvey(), empty, empty) == {"max_f": 0.0, "miou": 1.0}
        assert scores(SaliencyPooled(), empty, empty) == {"max_f_pooled": 0.0}
        assert scores(Saliency(), empty, empty) == {"miou": 1.0, "max_f": 0.0, "max_f_pooled": 0.0}
        assert scores(PixelF(), empty, empty) == {"pixel_f": 0.0}

    def test_one_pixel_beside_the_edge_is_wrong(self) -> None:
        assert scores(PixelF(), row(0.9, 0.0), row(0.0, 1.0))["pixel_f"] == pytest.approx(0.0)
        assert scores(PixelF(), row(0.9, 0.0), row(1.0, 0.0))["pixel_f"] == 1.0


class TestPredictionsThatAreNotFinite:
    """Each is a miss in a share and shows in a mean error; where nothing is known it is not looked at."""

    WRONG = (math.nan, math.inf, -math.inf)

    @pytest.mark.parametrize("value", WRONG)
    @pytest.mark.parametrize(
        "metric",
        [PixelF, SaliencyPooled, partial(SaliencyPooled, second_sigmoid=True), SaliencySurvey, Saliency],
    )
    def test_a_probability_passes_no_threshold(self, metric: Any, value: float) -> None:
        target = row(1.0, 1.0, 0.0, math.nan)
        assert scores(metric(), row(value, 1.0, 0.0, 1.0), target) == scores(
            metric(), row(0.0, 1.0, 0.0, value), target
        )
        assert not any(scores(metric(), row(value, value), row(1.0, 0.0)).values())

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_logits_are_no_class(self, value: float) -> None:
        logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [value, 0.0], [0.0, value]]).T[None, :, None]
        expected = scores(MeanIoU(2), ids(1, 0, 255, 255), ids(1, 0, 0, 255))
        assert scores(MeanIoU(2), logits, ids(1, 0, 0, 255)) == expected
        assert scores(MeanIoU(2), torch.full_like(logits, value), ids(1, 0, 0, 255))["miou"] == 0

    def test_a_class_that_is_ruled_out_leaves_the_others(self) -> None:
        logits = torch.tensor([[-math.inf, 1.0], [-math.inf, -math.inf]]).T[None, :, None]
        assert scores(MeanIoU(2), logits, ids(1, 0))["pixel_accuracy"] == 0.5

    @pytest.mark.parametrize("protocol", ["plain", "survey", "invpt"])
    def test_depth_shows_it(self, protocol: Any) -> None:
        found = scores(DepthErrors(protocol=protocol), row(math.nan, 1.0), row(1.0, 1.0))
        assert {name for name, value in found.items() if math.isnan(value)} == {
            "rmse", "log_rmse", "abs_rel", "sq_rel",
        }  # fmt: skip
        assert found["delta3"] == 0.5

    @pytest.mark.parametrize("eight_bit", [False, True])
    def test_normals_show_it(self, eight_bit: bool) -> None:
        prediction, target = TestNormalsErrors.turned(0.0, 0.0, 0.0)
        prediction[..., 0] = math.nan
        found = scores(NormalsErrors(eight_bit=eight_bit), prediction, target)
        assert math.isnan(found["mean"])
        assert math.isnan(found["rmse"])
        assert found["within_30"] == pytest.approx(2 / 3)


def test_shapes_that_do_not_fit_are_refused() -> None:
    for metric in (DepthErrors(), AbsoluteErrors(), PixelF(), Saliency(), SaliencySurvey(), NormalsErrors()):
        with pytest.raises(ValueError, match=r"shape \[1, 1, 4, 4\], got \[1, 1, 4, 5\]"):
            metric.update(torch.zeros(1, 1, 4, 5), torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match=r"shape \[1, 4, 4\], got \[1, 4, 5\]"):
        MeanIoU(2).update(torch.zeros(1, 2, 4, 5), torch.zeros(1, 1, 4, 4, dtype=torch.long))
