"""A process that saw no label takes part in the sum over processes."""

import json
from pathlib import Path

import pytest
from tests.metrics.two_processes import maps
from tests.processes import run_both

from plait.metrics import NormalsErrors


@pytest.mark.slow
def test_a_process_without_labels_changes_no_number(tmp_path: Path) -> None:
    run_both(["-m", "tests.metrics.two_processes"], tmp_path)
    for name in ("exact", "histogram"):
        alone = NormalsErrors(exact_median=name == "exact")
        alone.update(*maps())
        for rank in range(2):
            assert json.loads((tmp_path / f"{rank}.json").read_text())[name] == alone.compute()
