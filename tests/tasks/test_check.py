"""A label out of range is named with its file, before it reaches a loss."""

import math

import pytest
import torch
from torch import Tensor

from plait.data.labels import Depth, InverseDepth, Mask, Normals, Semantic
from plait.errors import DataError
from plait.tasks import Task, check_label, parse

SEMSEG, DEPTH, NORMALS, EDGES, INVERSE = parse(
    {
        "semseg": {"kind": "semantic", "classes": 3},
        "depth": {"kind": "depth"},
        "normals": {"kind": "normals"},
        "edges": {"kind": "edges"},
        "inverse": {"kind": "inverse_depth"},
    }
)


@pytest.mark.parametrize(
    ("task", "label"),
    [
        (SEMSEG, Semantic(torch.tensor([[[0, 1, 2, 255]]]))),
        (SEMSEG, torch.tensor([[[0, 255]]], dtype=torch.uint8)),
        (DEPTH, Depth(torch.tensor([[[0.1, 80.0, math.nan]]]))),
        (NORMALS, Normals(torch.tensor([0.0, 0.6, -0.8]).view(3, 1, 1))),
        (EDGES, Mask(torch.tensor([[[0.0, 0.5, 1.0, math.nan]]]))),
        (INVERSE, InverseDepth(torch.tensor([[[0.0, 2.0, math.nan]]]))),
        *((task, task.label_type.unknown_like(2, 3)) for task in (SEMSEG, DEPTH, NORMALS, EDGES, INVERSE)),
        (DEPTH, torch.ones(4, 1, 2, 2)),
    ],
)
def test_a_label_in_range_passes(task: Task, label: Tensor) -> None:
    check_label(task, label, "room_1")


@pytest.mark.parametrize(
    ("task", "label", "text"),
    [
        (SEMSEG, torch.tensor([[[0, 3]]]), "class ids from 0 to 2 or 255 for task 'semseg', got 3"),
        (SEMSEG, torch.tensor([[[-1, 0]]]), "got -1"),
        (SEMSEG, torch.tensor([[[0.0]]]), "integer class ids"),
        (
            DEPTH,
            torch.tensor([[[1.0, 0.0]]]),
            "depth in metres above 0, NaN where unknown for task 'depth', got 0",
        ),
        (INVERSE, torch.tensor([[[1.0, -0.5]]]), "inverse depth of 0 or more, .* got -0.5"),
        (NORMALS, torch.tensor([0.0, 0.0, 255.0]).view(3, 1, 1), "length 1, .* got 255"),
        (NORMALS, torch.zeros(1, 4, 4), r"3 channel\(s\) .* got shape \[1, 4, 4\]"),
        (EDGES, torch.tensor([[[0.0, 255.0]]]), "from 0 to 1, .* got 255"),
        (EDGES, torch.zeros(4, 4), r"got shape \[4, 4\]"),
    ],
)
def test_a_label_out_of_range_is_named_with_its_file(task: Task, label: Tensor, text: str) -> None:
    with pytest.raises(DataError, match=f"^labels/room_1.png: expected .*{text}"):
        check_label(task, label, "labels/room_1.png")
