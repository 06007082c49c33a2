"""Parameters and operations are those of the published implementation."""

import pytest
from docs.architectures import ROWS, Row, counted


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.data} {row.backbone} {row.title}")
def test_parameters_and_operations_are_the_published_ones(row: Row) -> None:
    parameters, operations = counted(row)
    assert parameters == pytest.approx(row.reference[0], rel=0.01)
    assert operations == pytest.approx(row.reference[1], rel=0.01)
