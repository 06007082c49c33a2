"""What docs/foreign_loops.md says of two processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "foreign_loops.md"


@pytest.mark.slow
def test_two_processes_print_what_one_prints(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    (code,) = (block for block in blocks if block.startswith("# file: two.py"))
    (tmp_path / "two.py").write_text(code)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    alone, together = (
        subprocess.run(
            [sys.executable, *launcher, "two.py"],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
            check=True,
        ).stdout.split()
        for launcher in ([], launch)
    )
    assert together == alone * 2
