"""What a study costs beside its runs: 200 runs of a tiny network, their scheduling, and the report.

    python benchmarks/study_overhead.py [--json FILE]

The overhead is the wall time of a study with one process, without the time that the process spent inside the
runs, divided by their number: planning, claiming, sending, waiting, writing down. Measuring the arms' cost
beforehand is told apart. The report is written twice, with pictures and without.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from plait.config import load_recipe, plain, replace
from plait.study.conduct import Where, run_study
from plait.study.ledger import Ledger
from plait.study.progress import Display
from plait.study.reporting.report import report_studies
from plait.testing import write_tiny_rooms
from plait.training.environment import processor

SEEDS = 10
BALANCERS = (
    "equal", "fixed", "uncertainty", "dwa", "gradnorm", "rlw", "gls", "log_sum", "imtl_l", "famo", "stch",
    "db_mtl", "excess_mtl", "mgda", "pcgrad", "cagrad", "upgrad",
)  # fmt: skip
"""17 arms and 3 single-task networks, with 10 seeds each: 200 runs."""


def study(folder: Path) -> Path:
    """Writes the data and the study, and returns its file."""
    rooms = write_tiny_rooms(folder / "rooms", images=(8, 2, 4))
    recipe = plain(
        replace(
            load_recipe("rooms/mtl"),
            {
                "data.root": str(rooms),
                "model.backbone": "test_resnet",
                "model.pretrained": False,
                "augmentation.size": [32, 32],
                "evaluation.size": [32, 32],
                "training.steps": 1,
                "training.batch_size": 2,
            },
        )
    )
    tree = {
        "name": "overhead",
        "recipe": recipe,
        "arms": {name: {"balancer": name} for name in BALANCERS},
        "seeds": list(range(SEEDS)),
    }
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(tree))
    return file


class Watch(Display):
    """Takes note of when the runs began."""

    def begin(self, scheduler: Any, costs: Any) -> None:
        self.began = time.monotonic()
        super().begin(scheduler, costs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, watch = study(folder), Watch(None)
        began = time.monotonic()
        _, snapshot = run_study(file, out=folder / "out", where=Where(jobs=1), display=watch)
        ended = time.monotonic()
        ledger = Ledger(folder / "out" / "study.db")
        rows = [row for row in ledger.rows().values() if row.kind == "run"]
        ledger.close()
        inside = sum(row.seconds or 0.0 for row in rows)
        begun = time.monotonic()
        report_studies([folder / "out"], pictures=False)
        plain_report = time.monotonic() - begun
        begun = time.monotonic()
        report_studies([folder / "out"])
        full_report = time.monotonic() - begun
    found = {
        "processor": processor(),
        "python": platform.python_version(),
        "runs": len(rows),
        "finished": snapshot.count("finished"),
        "seconds in runs": round(inside, 1),
        "seconds before the runs": round(watch.began - began, 1),
        "seconds of the runs' phase": round(ended - watch.began, 1),
        "overhead a run (ms)": round(1000 * (ended - watch.began - inside) / len(rows), 1),
        "report without pictures (s)": round(plain_report, 1),
        "report with pictures (s)": round(full_report, 1),
    }
    print(json.dumps(found, indent=1))
    if parsed.json is not None:
        parsed.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
