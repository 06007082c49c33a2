"""Constant predictors: no other constant does better on the labels they were made from."""

import math

import pytest
import torch

from plait.errors import DataError
from plait.tasks import parse
from plait.tasks.constant import base_rate, majority_class, mean_depth, mean_inverse_depth, mean_normal


def test_the_majority_is_counted_over_known_pixels() -> None:
    labels = [torch.tensor([[[1, 1, 255, 255, 255]]]), torch.tensor([[[2, 2, 2, 1, 1]]])]
    assert majority_class(labels, classes=4).tolist() == [1]
    assert majority_class(labels, classes=4, ignore=(1,)).tolist() == [2]


def test_means_are_over_pixels_not_images() -> None:
    labels = [torch.tensor([[[1.0, math.nan]]]), torch.tensor([[[4.0, 4.0]]])]
    assert mean_depth(labels).tolist() == [3.0]
    assert base_rate([torch.tensor([[[1.0, math.nan]]]), torch.tensor([[[0.0, 0.0, 0.0]]])]).tolist() == [
        0.25
    ]


def test_of_inverse_depth_zero_is_known() -> None:
    labels = [torch.tensor([[[0.5, math.nan, -1.0]]]), torch.tensor([[[0.0, 0.25]]])]
    assert mean_inverse_depth(labels).tolist() == [0.25]


def test_the_mean_normal_has_unit_length() -> None:
    left, up = torch.tensor([-1.0, 0.0, 0.0]).view(3, 1, 1), torch.tensor([0.0, -1.0, 0.0]).view(3, 1, 1)
    torch.testing.assert_close(mean_normal([left, up]), torch.tensor([-1.0, -1.0, 0.0]) / math.sqrt(2))
    assert mean_normal([left, -left]).tolist() == [0.0, 0.0, -1.0]


def test_labels_without_a_known_pixel_are_refused() -> None:
    for task in parse(
        {"s": {"kind": "semantic", "classes": 2}, "d": {"kind": "depth"}, "n": {"kind": "normals"}}
    ):
        with pytest.raises(DataError, match="at least one known pixel"):
            task.constant([task.label_type.unknown_like(2, 2)])
