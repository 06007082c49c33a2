"""Metrics equal the published evaluators on stored maps."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from plait.metrics import MeanIoU, NormalsErrors, relative_gain
from plait.metrics.normals import through_eight_bit
from plait.tasks import Measure, parse

STORED = Path(__file__).parent.parent / "data" / "metrics"


def stored(name: str) -> dict[str, np.ndarray]:
    with np.load(STORED / f"{name}.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(("split", "classes"), [("voc", 21), ("nyu", 40)])
@pytest.mark.parametrize("sizes", [[5], [2, 2, 1], [1] * 5])
def test_segmentation(split: str, classes: int, sizes: list[int]) -> None:
    arrays = stored("semseg")
    prediction, target = (torch.from_numpy(arrays[f"in__{split}_{part}"]) for part in ("pred", "gt"))
    metric = MeanIoU(classes, absent="zero")
    for batch in zip(prediction.split(sizes), target.split(sizes), strict=True):
        metric.update(*batch)
    expected = arrays[f"survey__semseg_{split}_folder__jaccards_all_categs"]
    np.testing.assert_allclose(metric.per_class().nan_to_num(0.0).numpy(), expected, rtol=0, atol=1e-12)
    assert metric.compute()["miou"] == pytest.approx(
        arrays[f"invpt__semseg_{split}_meter__mIoU"].item(), abs=1e-12
    )


def test_the_policies_for_absent_classes_differ_as_measured() -> None:
    """Three of 21 classes are in neither map, three more are only predicted."""
    arrays = stored("semseg")
    prediction, target = torch.from_numpy(arrays["in__voc_pred"]), torch.from_numpy(arrays["in__voc_gt"])
    for absent, expected in (("zero", 0.2519), ("skip", 0.2939), ("present", 0.5878)):
        metric = MeanIoU(21, absent=absent)  # type: ignore[arg-type]
        metric.update(prediction, target)
        assert metric.compute()["miou"] == pytest.approx(expected, abs=5e-5)


def vectors(maps: np.ndarray) -> Tensor:
    return torch.from_numpy(maps).movedim(-1, 1).double()


@pytest.mark.parametrize(
    ("prediction", "published", "measures"),
    [
        ("in__norm_pred_u8", "survey__normals_folder", ("mean", "median", "rmse", "11.25", "22.5", "30")),
        ("in__norm_pred", "survey__normals_meter", ("mean", "11.25", "22.5", "30")),
        ("in__norm_pred", "invpt__normals_meter", ("mean",)),
    ],
)
def test_normals(prediction: str, published: str, measures: tuple[str, ...]) -> None:
    arrays = stored("normals")
    target = vectors(arrays["in__norm_gt"])
    target = target.masked_fill(~target.any(1, keepdim=True), torch.nan)
    predicted = vectors(arrays[prediction])
    if prediction.endswith("u8"):
        predicted = 2 * predicted / 255 - 1
    metric = NormalsErrors(exact_median=True)
    for batch in zip(predicted.split(2), target.split(2), strict=True):
        metric.update(*batch)
    scores = metric.compute()
    for measure in measures:
        ours = scores[measure] if measure.isalpha() else 100 * scores[f"within_{measure.replace('.', '_')}"]
        assert ours == pytest.approx(arrays[f"{published}__{measure}"].item(), rel=1e-6), measure


def test_the_survey_s_eight_bits_are_reproduced_from_floats() -> None:
    """What the published code writes to disk, and the scores of the folder evaluator, without a file."""
    arrays = stored("normals")
    target = vectors(arrays["in__norm_gt"])
    target = target.masked_fill(~target.any(1, keepdim=True), torch.nan)
    predicted = torch.from_numpy(arrays["in__norm_pred"]).movedim(-1, 1)
    (task,) = parse({"normals": {"kind": "normals", "exact_median": True}})
    metric = task.scored("survey").metric()
    metric.update(predicted, target.float())
    scores = metric.compute()
    for measure in ("mean", "median", "rmse"):
        assert scores[measure] == pytest.approx(
            arrays[f"survey__normals_folder__{measure}"].item(), rel=2e-6
        ), measure
    for limit in ("11.25", "22.5", "30"):
        ours = 100 * scores[f"within_{limit.replace('.', '_')}"]
        assert ours == pytest.approx(arrays[f"survey__normals_folder__{limit}"].item(), rel=1e-9), limit
    read_back = through_eight_bit(predicted)
    known = target.isfinite().all(1, keepdim=True).expand_as(target)
    expected = 2 * vectors(arrays["in__norm_pred_u8"]) / 255 - 1
    assert torch.equal(read_back[known], expected[known])


def test_the_page_that_compares_measures_says_what_they_give() -> None:
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "results" / "measures.md").read_text()
    made = runpy.run_path(str(docs / "measures.py"))["written"](page)
    assert made == page, "run `python docs/measures.py`"
    assert len(re.findall(r"^\| .* `(?:survey|invpt|plain)` ", made, flags=re.MULTILINE)) == 25


def test_delta_mtl() -> None:
    arrays = stored("delta_mtl")
    tasks = [str(task) for task in arrays["tasks"]]
    measures = {
        task: Measure("m", "m", "", higher_is_better=not lower)
        for task, lower in zip(tasks, arrays["lower_is_better"], strict=True)
    }
    multi, single = (
        {task: {"m": float(value)} for task, value in zip(tasks, arrays[which], strict=True)}
        for which in ("multi", "single")
    )
    assert relative_gain(multi, single, measures).mean == pytest.approx(arrays["delta"].item(), abs=1e-12)
