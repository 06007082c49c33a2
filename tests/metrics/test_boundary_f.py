"""The boundary F: stored counts of the reference, and what must not change a number."""

import dataclasses
import logging
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from plait.errors import ConfigurationError, DataError
from plait.metrics.boundary import PROTOCOLS, BoundaryF, match_counts, score_images
from plait.metrics.boundary.compiled import compiled
from plait.metrics.boundary.matching import augment

STORED = Path(__file__).parent.parent / "data" / "edges"
NAMES = ["p01_small_clean", "p03_warp_mid", "p05_full_typical", "p08_multi_gt3", "p09_no_gt", "p10_no_pred",
         "p12_single_pixel"]  # fmt: skip
SETTINGS = {"bsds_d0075": 0.0075, "bsds_d011": 0.011, "nms_d0075": 0.0075, "nms_d011": 0.011}


def stored(name: str) -> dict[str, np.ndarray]:
    with np.load(STORED / f"{name}.npz") as found:
        return dict(found)


def counts_of(arrays: dict[str, np.ndarray], setting: str, **options: Any) -> np.ndarray:
    """Counts under the protocol of a stored setting; suppressed maps come from the file."""
    if setting.startswith("nms"):
        # Stored strength, so that not a pixel differs; compared as after suppression.
        options |= {"thresholds": PROTOCOLS["seism"].thresholds}
        exact = arrays["nms_f32"].astype(np.float64)
        # Strictly above, as the protocol: the smallest step below each value passes the same from there on.
        return match_counts(np.nextafter(exact, -1).clip(0), arrays["gt"], "bsds",
                            max_distance=SETTINGS[setting], **options)  # fmt: skip
    return match_counts(arrays["pred_u8"], arrays["gt"], "bsds", max_distance=SETTINGS[setting], **options)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", NAMES)
def test_counts_are_the_largest_matchings_and_near_the_reference(name: str, setting: str) -> None:
    arrays = stored(name)
    counts, references = counts_of(arrays, setting), arrays[f"{setting}__counts_reps"]
    np.testing.assert_array_equal(counts[:, 0], arrays[f"{setting}__maxcard"].sum(0))
    np.testing.assert_array_equal(counts[:, [1, 3]], references[0][:, [1, 3]])
    if len(arrays["gt"]) == 1:
        np.testing.assert_array_equal(counts[:, 2], counts[:, 0])
    above = counts[:, 0] - references[:, :, 0]
    assert above.min() >= 0
    assert above.max() <= 5 * len(arrays["gt"])


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "p08_multi_gt3"])
def test_the_exact_objective_matches_as_many_as_its_stored_solution(name: str, setting: str) -> None:
    arrays = stored(name)
    counts = counts_of(arrays, setting, exact_objective=True)
    np.testing.assert_array_equal(counts[:, 0], arrays[f"{setting}__mincost"])
    above = counts[:, 0] - arrays[f"{setting}__counts_reps"][:, :, 0]
    assert above.min() >= 0
    assert above.max() <= 5


@pytest.mark.parametrize("exact", [False, True])
def test_the_precision_of_several_annotators_is_near_the_reference(exact: bool) -> None:
    """Which pixels are matched matters there, and the reference itself draws links at random."""
    arrays = stored("p08_multi_gt3")
    counts = counts_of(arrays, "bsds_d0075", exact_objective=exact)
    references = arrays["bsds_d0075__counts_reps"]
    off = np.abs(counts[:, 2] - references[:, :, 2]) / np.maximum(references[:, :, 3], 1)
    assert off.max() < 0.015
    assert off.mean() < (0.0015 if exact else 0.003)


@pytest.mark.parametrize("name", ["p01_small_clean", "p12_single_pixel"])
def test_maps_that_are_not_thinned_match_as_stored(name: str) -> None:
    arrays = stored(name)
    rules = dataclasses.replace(PROTOCOLS["bsds"], thin_prediction=False)
    counts = match_counts(arrays["pred_u8"], arrays["gt"], rules)
    np.testing.assert_array_equal(counts[:, 0], arrays["nothin_d0075__maxcard"][0])
    reference = arrays["nothin_d0075__counts_reps"][0]
    np.testing.assert_array_equal(counts[:, [1, 3]], reference[:, [1, 3]])
    exact = match_counts(arrays["pred_u8"], arrays["gt"], rules, exact_objective=True)
    np.testing.assert_array_equal(exact[:, 0], arrays["nothin_d0075__mincost"])


@pytest.mark.parametrize("name", NAMES)
def test_suppression_and_all_give_the_stored_counts_but_for_single_pixels(name: str) -> None:
    arrays = stored(name)
    counts = match_counts(arrays["pred_u8"], arrays["gt"], "seism")
    expected = arrays["nms_d0075__counts_reps"][0]
    assert np.abs(counts[:, 0] - arrays["nms_d0075__maxcard"].sum(0)).max() <= 2
    assert np.abs(counts[:, 3] - expected[:, 3]).max() <= 3


def test_one_pixel_beside_one_pixel_is_matched_once_it_is_in_reach() -> None:
    """A map of 64x80: the reach is 0.77 pixels at 0.0075 and 1.13 at 0.011."""
    prediction, target = torch.zeros(2, 1, 1, 64, 80).unbind()
    prediction[0, 0, 20, 30], target[0, 0, 20, 31] = 0.505, 1
    far, near = BoundaryF(max_distance=0.0075), BoundaryF(max_distance=0.011)
    far.update(prediction, target)
    near.update(prediction, target)
    assert far.compute()["ods"] == 0
    assert near.compute()["ods"] == 1
    np.testing.assert_array_equal(far.counts[[0, 49, 50]], [[0, 1, 0, 1], [0, 1, 0, 1], [0, 1, 0, 0]])
    np.testing.assert_array_equal(near.counts[[0, 49, 50]], [[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 0, 0]])


def maps(images: int = 6, annotators: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Made-up predictions ``[B, 1, 24, 32]`` and targets ``[B, A, 24, 32]``; one image without an edge."""
    random = np.random.default_rng(seed)
    target = np.zeros((images, annotators, 24, 32), dtype=np.float32)
    for image in range(images - 1):
        for annotator in range(annotators):
            row, column = random.integers(4, 20, 2)
            target[image, annotator, row, 3:29] = 1
            target[image, annotator, 2:22, column + 4] = 1
    noise = random.random((images, 1, 24, 32)).astype(np.float32)
    moved = np.roll(target.max(1, keepdims=True), 1, axis=3)
    return torch.from_numpy(0.55 * noise + 0.4 * moved * (noise > 0.2)), torch.from_numpy(target)


def scored(prediction: Tensor, target: Tensor, **options: Any) -> dict[str, float]:
    metric = BoundaryF(**{"max_distance": 0.04, **options})
    metric.update(prediction, target)
    return dict(metric.compute())


PROTOCOL_NAMES = list(PROTOCOLS)


@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
@pytest.mark.parametrize("sizes", [[1] * 6, [2, 3, 1]])
def test_batching_and_order_change_no_number(protocol: str, sizes: list[int]) -> None:
    prediction, target = maps()
    expected = scored(prediction, target, protocol=protocol)
    assert all(0 < value < 1 for value in expected.values())
    metric = BoundaryF(protocol=protocol, max_distance=0.04)
    for batch in zip(prediction.flip(0).split(sizes), target.flip(0).split(sizes), strict=True):
        metric.update(*batch)
    assert metric.compute() == expected


def test_states_of_processes_add_up() -> None:
    prediction, target = maps()
    parts = [BoundaryF(max_distance=0.04) for _ in range(3)]
    parts[0].update(prediction[:4], target[:4])
    parts[1].update(prediction[4:], target[4:])
    for other in parts[1:]:
        parts[0].merge_state(other)
    assert parts[0].compute() == scored(prediction, target)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_threads_change_no_number(workers: int) -> None:
    prediction, target = maps(annotators=2)
    expected = scored(prediction, target)
    assert scored(prediction, target, workers=workers) == expected
    seen: list[int] = []
    pairs = zip(prediction[:, 0].numpy(), target, strict=True)
    metric = BoundaryF(max_distance=0.04)
    assert score_images(pairs, metric, workers=workers, progress=seen.append) == expected
    assert seen == [1, 2, 3, 4, 5, 6]


def test_images_of_other_sizes_can_follow_a_result() -> None:
    prediction, target = maps()
    metric = BoundaryF(max_distance=0.04)
    metric.update(prediction[:1], target[:1])
    first = metric.compute()
    pairs = ((p[0, :20], t[:, :20]) for p, t in zip(prediction[1:], target[1:], strict=True))
    assert score_images(pairs, metric, workers=2) != first
    assert metric.images == 6


def test_images_are_drawn_as_they_are_needed() -> None:
    prediction, target = maps(images=40)
    drawn, most = 0, 0

    def pairs() -> Any:
        nonlocal drawn
        for pair in zip(prediction[:, 0], target, strict=True):
            drawn += 1
            yield pair

    def progress(done: int) -> None:
        nonlocal most
        most = max(most, drawn - done)

    score_images(pairs(), BoundaryF(), workers=2, progress=progress)
    assert most <= 4


def test_an_error_in_a_thread_is_raised() -> None:
    pairs = [(np.zeros((4, 4)), np.zeros((1, 4, 5)))] * 9
    with pytest.raises(DataError, match=r"got \[4, 4\] and \[1, 4, 5\]"):
        score_images(pairs, BoundaryF(), workers=2)


def test_the_same_annotator_twice_counts_true_pixels_twice() -> None:
    prediction, target = maps()
    for exact in (False, True):
        once, twice = (BoundaryF(max_distance=0.04, exact_objective=exact) for _ in range(2))
        once.update(prediction, target)
        twice.update(prediction, target.repeat(1, 2, 1, 1))
        np.testing.assert_array_equal(twice.counts, once.counts * torch.tensor([2, 2, 1, 1]))
        assert twice.compute() == pytest.approx(once.compute())


def test_another_annotator_never_lowers_precision() -> None:
    prediction, target = maps(annotators=2)
    one = match_counts(prediction[0, 0].numpy(), target[0, :1].numpy(), max_distance=0.04)
    both = match_counts(prediction[0, 0].numpy(), target[0].numpy(), max_distance=0.04)
    assert (both[:, 2] >= one[:, 2]).all()
    assert (both[:, 2] > one[:, 2]).any()
    swapped = match_counts(prediction[0, 0].numpy(), target[0].flip(0).numpy(), max_distance=0.04)
    np.testing.assert_array_equal(swapped, both)


def test_thresholds_do_not_depend_on_each_other() -> None:
    prediction, target = (values[0].numpy() for values in maps(annotators=2))
    every = match_counts(prediction[0], target)
    some = match_counts(prediction[0], target, thresholds=[0.2, 0.5, 0.77])
    np.testing.assert_array_equal(some, every[[19, 49, 76]])


def test_unknown_regions_are_left_out_after_thinning() -> None:
    prediction, target = torch.zeros(2, 1, 1, 20, 20).unbind()
    prediction[..., 5, 2:18] = prediction[..., 15, 2:18] = 0.9
    target[..., 5, 2:18] = 1
    assert scored(prediction, target)["ods"] == pytest.approx(2 / 3)
    target[..., 10:, :] = torch.nan
    assert scored(prediction, target) == {"ods": 1, "ois": 1, "ap": pytest.approx(1)}
    target[..., 5, 2:10] = torch.nan
    counts = match_counts(prediction[0, 0].numpy(), target[0].numpy())
    np.testing.assert_array_equal(counts[0], [8, 8, 8, 8])


def test_a_pixel_unknown_to_one_annotator_is_left_out_for_all() -> None:
    prediction, target = torch.zeros(1, 1, 8, 20), torch.zeros(1, 2, 8, 20)
    prediction[..., 4, :] = target[..., 4, :] = 1
    target[0, 1, :, :10] = torch.nan
    counts = match_counts(prediction[0, 0].numpy(), target[0].numpy())
    np.testing.assert_array_equal(counts[0], [20, 20, 10, 10])


def test_an_image_that_is_unknown_everywhere_is_not_counted() -> None:
    prediction, target = maps()
    expected = scored(prediction[:3], target[:3])
    target[3:] = torch.nan
    assert scored(prediction, target) == expected


def test_without_images_there_is_no_score() -> None:
    prediction, target = maps()
    assert all(math.isnan(value) for value in scored(prediction, target * torch.nan).values())
    assert all(math.isnan(value) for value in scored(prediction[:0], target[:0]).values())


@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
@pytest.mark.parametrize(("predicted", "true"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_nothing_predicted_or_nothing_true_scores_zero(protocol: str, predicted: float, true: float) -> None:
    line = torch.zeros(1, 1, 30, 30)
    line[..., 15, 6:24] = 1
    assert scored(predicted * line, true * line, protocol=protocol) == {"ods": 0, "ois": 0, "ap": 0}


@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
def test_an_image_without_either_changes_nothing(protocol: str) -> None:
    prediction, target = maps()
    empty = torch.zeros(2, 1, 24, 32)
    more = scored(torch.cat([prediction, empty]), torch.cat([target, empty]), protocol=protocol)
    assert more == scored(prediction, target, protocol=protocol)


@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_prediction_that_is_not_finite_passes_no_threshold(protocol: str, value: float) -> None:
    prediction, target = maps()
    broken, absent = prediction.clone(), prediction.clone()
    broken[:, :, 5:15], absent[:, :, 5:15] = value, 0
    assert scored(broken, target, protocol=protocol) == scored(absent, target, protocol=protocol)


@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
def test_eight_bit_predictions_and_their_fractions_mean_the_same(protocol: str) -> None:
    prediction, target = maps()
    bits = (255 * prediction).byte()
    # Values equal to thresholds: 0.2, 0.4, 0.6, 0.8.
    bits[:, :, ::3] = (bits[:, :, ::3] / 51).round().byte() * 51
    expected = scored(bits, target, protocol=protocol)
    for dtype in (torch.float32, torch.float64):
        assert scored(bits.to(dtype) / 255, target, protocol=protocol) == expected


def test_a_value_equal_to_a_threshold_passes_but_under_seism() -> None:
    line = np.zeros((30, 30), dtype=np.uint8)
    line[15, 6:24] = 51
    target = (line > 0)[None]
    for protocol, passes in (("plain", True), ("survey", True), ("bsds", True), ("seism", False)):
        counts = match_counts(line, target, protocol, nms=False)  # type: ignore[arg-type]
        at = PROTOCOLS[protocol].thresholds.index(0.2)
        assert (counts[at, 3] > 0) == passes
        assert counts[at - 1, 3] > 0
        assert counts[at + 1, 3] == 0


def test_a_zero_passes_no_threshold() -> None:
    counts = match_counts(np.zeros((9, 9)), np.ones((1, 9, 9)), thresholds=[0.0, 0.5])
    assert not counts[:, 3].any()


@pytest.mark.parametrize(("value", "survey"), [(0.5005, 0), (0.502, 18)])
def test_the_survey_s_protocol_truncates_to_eight_bits(value: float, survey: int) -> None:
    """0.5005 is 127.6 of 255 and 0.502 is 128.01; the threshold is 127.5 of 255."""
    line = np.zeros((30, 30))
    line[15, 6:24] = value
    for name, expected in (("plain", 18), ("survey", survey)):
        counts = match_counts(line, (line > 0)[None], PROTOCOLS[name])
        assert counts[49, 3] == expected


def test_the_target_is_thinned_but_under_bsds() -> None:
    target = np.zeros((1, 30, 30))
    target[0, 10:15, 5:25] = 1
    sums = {name: match_counts(target[0], target, rules)[0, 1] for name, rules in PROTOCOLS.items()}
    assert sums["bsds"] == 100
    assert sums["plain"] == sums["survey"] == sums["seism"] < 30


def test_a_thick_stroke_is_two_lines_by_its_outline() -> None:
    target = torch.zeros(1, 1, 40, 60)
    target[..., 15:25, :] = 1
    sides = torch.zeros(1, 1, 40, 60)
    sides[..., 14, :] = sides[..., 24, :] = 1
    assert scored(sides, target, outline=True, max_distance=0.0075)["ods"] > 0.99
    assert scored(sides, target, max_distance=0.0075)["ods"] == 0


def test_targets_may_be_bool_or_integers_and_predictions_half_precision() -> None:
    prediction, target = maps()
    expected = scored(prediction.half().float(), target)
    assert scored(prediction.half(), target.bool()) == expected
    assert scored(prediction.half(), 255 * target.byte()) == expected


def test_the_curve_holds_precision_and_recall_at_the_best_threshold() -> None:
    metric = BoundaryF(max_distance=0.04)
    metric.update(*maps())
    curve = metric.curve()
    precision, recall = curve.precision[curve.best].item(), curve.recall[curve.best].item()
    assert 2 * precision * recall / (precision + recall) == pytest.approx(metric.compute()["ods"])
    assert curve.f.argmax() == curve.best
    assert curve.thresholds[curve.best] in PROTOCOLS["plain"].thresholds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "matlab"}, "one of plain, survey, seism, bsds; got 'matlab'"),
        ({"max_distance": 0.0}, "larger than 0 and at most 1, got 0.0"),
        ({"max_distance": math.nan}, "larger than 0 and at most 1, got nan"),
        ({"max_distance": "near"}, "larger than 0 and at most 1, got 'near'"),
        ({"thresholds": []}, r"numbers in \[0, 1\], each larger than the last; got \[\]"),
        ({"thresholds": [0.5, 0.5]}, "each larger than the last"),
        ({"thresholds": [0.5, math.nan]}, "each larger than the last"),
        ({"thresholds": [0.5, 1.5]}, r"numbers in \[0, 1\]"),
        ({"workers": 0}, "workers must be 1 or more, got 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        BoundaryF(**options)


@pytest.mark.parametrize("shape", [(2, 2, 8, 8), (1, 1, 8, 8), (2, 1, 8, 9), (2, 8, 8)])
def test_shapes_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"expected a prediction \[B, 1, H, W\]"):
        BoundaryF().update(torch.zeros(shape), torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
def test_whole_numbers_are_no_probabilities(dtype: torch.dtype) -> None:
    prediction, target = maps()
    with pytest.raises(DataError, match=f"in floating point or uint8, got {str(dtype).partition('.')[2]}"):
        BoundaryF().update((255 * prediction).to(dtype), target)


WITHOUT_NUMBA = """
import logging, sys

asked, records = [], []

class NoNumba:
    def find_spec(self, name, *_):
        if name == "numba":
            asked.append(name)
            raise ImportError("numba is not here")

sys.meta_path.insert(0, NoNumba())
handler = logging.Handler()
handler.emit = lambda record: records.append(record.getMessage())
logging.getLogger("plait").addHandler(handler)

import numpy as np
import plait.metrics
from plait.metrics.boundary import BoundaryF, match_counts

BoundaryF()
assert not asked and not records
for name in ("p01_small_clean", "p08_multi_gt3"):
    with np.load(f"{sys.argv[1]}/{name}.npz") as stored:
        for exact in (False, True):
            counts = match_counts(
                stored["pred_u8"], stored["gt"], "survey", exact_objective=exact, thresholds=[0.1, 0.3, 0.6]
            )
            print(counts.tolist())
assert asked and len(records) == 1 and "pip install numba" in records[0], records
"""


def test_without_numba_the_counts_are_the_same_and_one_message_says_so() -> None:
    """Nor is it looked for before it is needed."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NUMBA, str(STORED)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = []
    for name in ("p01_small_clean", "p08_multi_gt3"):
        arrays = stored(name)
        for exact in (False, True):
            counts = match_counts(
                arrays["pred_u8"], arrays["gt"], "survey", exact_objective=exact, thresholds=[0.1, 0.3, 0.6]
            )
            expected.append(str(counts.tolist()))
    assert done.stdout.splitlines() == expected


def test_kernels_are_compiled_even_where_machine_code_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    compile_kernel = numba.njit

    def njit(**options: bool) -> Any:
        if options.get("cache"):
            raise RuntimeError("no locator available")
        return compile_kernel(**options)

    monkeypatch.setattr(numba, "njit", njit)
    assert hasattr(compiled.__wrapped__(augment), "py_func")


def test_nothing_is_logged_with_numba(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        scored(*maps())
    assert not [record for record in caplog.records if record.name.startswith("plait.metrics")]
