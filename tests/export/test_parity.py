import numpy as np
import pytest
import torch
from torch import Tensor

import plait
from plait.export.deployed import Output
from plait.export.parity import EAGER, PREDICTOR, TOLERANCE, Comparison, table

SEMSEG, DEPTH, NORMALS = (
    Output(task.name, task)
    for task in plait.tasks.parse(
        {
            "semseg": {"kind": "semantic", "classes": 3},
            "depth": {"kind": "depth"},
            "normals": {"kind": "normals"},
        }
    )
)


def ids(*values: int) -> Tensor:
    return torch.tensor(values)[None, None, None]


def test_the_largest_error_counts_in_the_task_s_unit() -> None:
    metres = torch.tensor([1.0, 4.0, 2.0])[None, None, None]
    comparison = Comparison(DEPTH, EAGER)
    comparison.add(metres + torch.tensor([0.0, 0.003, -0.002]), metres, metres)
    assert comparison.error == pytest.approx(0.003, abs=1e-6)
    assert comparison.allowed == pytest.approx(TOLERANCE * 4)
    assert comparison.agrees
    comparison.add(metres + 0.005, metres, metres)
    assert not comparison.agrees
    assert comparison.told() == "depth is up to 0.005 m from eager torch, allowed is 0.004 m"


@pytest.mark.parametrize(("gap", "agrees"), [(0.0015, True), (0.01, False)])
def test_another_class_is_allowed_where_both_are_as_likely(gap: float, agrees: bool) -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [(1 + gap) / 2, (1 - gap) / 2, 0.0]]).T[None, :, None]
    comparison = Comparison(SEMSEG, EAGER)
    comparison.add(ids(0, 1), ids(0, 0), probabilities)
    assert (comparison.differing, comparison.pixels) == (1, 2)
    assert comparison.error == pytest.approx(gap, abs=1e-6)
    assert comparison.agrees is agrees
    if not agrees:
        assert "another class than eager torch in 50 % of the pixels" in comparison.told()


def test_no_class_for_a_class_is_a_disagreement() -> None:
    comparison = Comparison(SEMSEG, EAGER)
    comparison.add(ids(0, 255), ids(0, 0), torch.full((1, 3, 1, 2), 1 / 3))
    assert comparison.error == np.inf
    assert not comparison.agrees


@pytest.mark.parametrize(("length", "agrees"), [(1.0, False), (0.01, True)])
def test_a_vector_that_nearly_vanished_may_turn(length: float, agrees: bool) -> None:
    expected = torch.tensor([0.0, 0.0, -1.0])[None, :, None, None]
    found = torch.tensor([0.03, 0.0, -1.0])[None, :, None, None]
    comparison = Comparison(NORMALS, EAGER)
    comparison.add(found, expected, length * expected)
    assert comparison.error == pytest.approx(0.03)
    assert comparison.agrees is agrees


def test_what_is_not_a_number_never_agrees() -> None:
    good, bad = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    bad[0, 0, 1, 1] = torch.nan
    for found, expected in ((bad, good), (good, bad), (bad, bad)):
        comparison = Comparison(DEPTH, EAGER)
        comparison.add(found, expected, expected)
        comparison.add(good, good, good)
        assert not comparison.agrees


def test_the_table_has_a_row_an_output() -> None:
    rows = [Comparison(output, against) for output in (SEMSEG, DEPTH) for against in (EAGER, PREDICTOR)]
    for row in rows:
        row.pixels = 10
    made = table(rows, title="")
    assert made.row_count == 2
    assert [column.header for column in made.columns][1:3] == ["beside eager torch", "beside the evaluation"]
