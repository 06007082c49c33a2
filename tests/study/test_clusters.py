"""Whole studies on clusters: Ray with a node that dies in the middle, SLURM's stand-in of submitit."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.study.executors.ray_nodes import two_nodes
from tests.study.tiny_study import write_study

from plait.study.conduct import Where, run_study
from plait.study.ledger import Ledger
from plait.study.results import load_results

pytestmark = pytest.mark.slow


def test_a_study_on_ray_outlives_the_death_of_a_node(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    file, out = write_study(tmp_path, steps=30, seeds=[0], single_task=False), tmp_path / "out"
    with two_nodes() as nodes:
        words = ["study", "run", str(file), "--out", str(out), "--ray", nodes.address, "--no-report"]
        process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", "plait", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        until = time.monotonic() + 300
        while len(list(out.glob("runs/*/log.jsonl"))) < 2 and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.1)
        nodes.kill_one()
        said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    assert "was lost and is tried again: on the Ray cluster" in said
    ledger = Ledger(out / "study.db")
    rows = [row for row in ledger.rows().values() if row.kind == "run"]
    ledger.close()
    assert {row.state for row in rows} == {"finished"}
    assert sorted(row.attempts for row in rows) == [1, 2]


def test_a_study_goes_through_submitit(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    file = write_study(tmp_path, arms={"MTL": None}, seeds=[0], single_task=False)
    out, snapshot = run_study(file, out=tmp_path / "out", where=Where(jobs=2, slurm={"cluster": "local"}))
    assert snapshot.count("finished") == snapshot.expected == 1
    assert load_results(out).arm("MTL").seeds[0].scores.keys() == {"semantic", "depth", "normals"}
