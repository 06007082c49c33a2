"""Whole small studies with their options: search, larger networks, several processes, trackers, reports."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from tests.study.tiny_study import write_study

from plait.cli import main
from plait.config import load_recipe
from plait.study.conduct import Where, run_study
from plait.study.ledger import Ledger
from plait.study.results import load_results

pytestmark = pytest.mark.slow


def test_a_search_and_larger_networks_go_through_to_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_study(
        tmp_path,
        arms={"MTL": None, "PAD-Net": {"model.decoder": {"name": "pad_net", "width": 64}}},
        tuning={
            "trials": 2,
            "search": {"optimizer.lr": {"low": "1e-4", "high": 1e-2, "log": True}},
            "steps": 2,
        },
        larger_single_task="wider",
    )
    assert main(["study", "run", "study.yaml", "--jobs", "2"]) == 0
    said = capsys.readouterr().out
    assert "the report is studies/tiny/report.html" in said
    folder = tmp_path / "studies" / "tiny"
    results = load_results(folder)
    larger = results.arm("PAD-Net").larger
    assert larger == "single-task as large as PAD-Net"
    assert [arm.role for arm in results.arms] == ["single-task", "arm", "arm", "larger single-task"]
    assert results.arm(larger).cost is not None
    for arm in results.arms:
        tasks = {"semantic", "depth", "normals"} if arm.role != "arm" else {""}
        assert set(arm.tuned) == tasks
        for run in arm.runs:
            task = next(iter(run.scores)) if arm.role != "arm" else ""
            assert run.recipe.optimizer.lr == arm.tuned[task]["optimizer.lr"]
    assert any("was given 2 trials of 2 steps" in sentence for sentence in results.alike)
    assert any(sentence.startswith("The search set optimizer.lr") for sentence in results.unlike)
    rows = list(csv.DictReader((folder / "report.csv").read_text().splitlines()))
    assert {row["arm"] for row in rows} == {arm.name for arm in results.arms}
    assert pq.read_table(folder / "report.parquet").num_rows > len(rows)
    assert r"\toprule" in (folder / "report.tex").read_text()
    assert "Traceback" not in (folder / "report.md").read_text()


def test_trackers_of_a_study_write_what_tensorboard_reads(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    file = write_study(tmp_path, arms={"MTL": None}, seeds=[0], single_task=False, trackers=["tensorboard"])
    out, _ = run_study(file, out=tmp_path / "out", where=Where(jobs=1))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = []
    for events in out.glob("runs/*/tensorboard/**/events.*"):  # the settings have a file of their own
        found.append(EventAccumulator(str(events)))
        found[-1].Reload()
    (read,) = [each for each in found if "loss.depth" in each.Tags()["scalars"]]
    assert "weight.semantic" in read.Tags()["scalars"]
    assert [event.step for event in read.Scalars("loss.depth")] == [1, 2, 3]


def test_an_arm_of_two_processes_is_trained_by_two(tmp_path: Path) -> None:
    arms = {"alone": None, "together": {"processes": 2, "balancer": "uncertainty"}}
    file = write_study(tmp_path, arms=arms, seeds=[0], single_task=False)
    out, snapshot = run_study(file, out=tmp_path / "out", where=Where(jobs=2))
    assert snapshot.count("finished") == 2
    told = {arm.name: arm.runs[0].environment["processes"] for arm in load_results(out).arms}
    assert told == {"alone": 1, "together": 2}


def test_two_studies_are_reported_together(tmp_path: Path) -> None:
    for name, lr in (("first", 0.004), ("second", 0.002)):
        file = write_study(tmp_path, name=name, title=f"The {name}", overrides={"optimizer.lr": lr})
        run_study(file, out=tmp_path / name, where=Where(jobs=2))
    both = tmp_path / "both.html"
    assert main(["report", str(tmp_path / "first"), str(tmp_path / "second"), "--out", str(both)]) == 0
    text = both.with_suffix(".md").read_text()
    assert "The first" in text
    assert "The second" in text
    for name in ("first", "second"):
        assert (tmp_path / f"both-{name}.csv").is_file()


def test_finished_runs_of_another_study_are_used(tmp_path: Path) -> None:
    first, _ = run_study(
        write_study(tmp_path, arms={"MTL": None}, seeds=[0]), out=tmp_path / "first", where=Where(jobs=2)
    )
    file = write_study(tmp_path, name="more", arms={"MTL": None, "DWA": {"balancer": "dwa"}}, seeds=[0])
    second, snapshot = run_study(file, out=tmp_path / "second", where=Where(jobs=1), reuse=[first])
    assert snapshot.count("finished") == 5
    assert [path.name.partition("-seed")[0] for path in (second / "runs").iterdir()] == ["DWA"]
    ledger = Ledger(second / "study.db")
    folders = [json.dumps(row.folder) for row in ledger.rows().values() if row.kind == "run"]
    ledger.close()
    assert sum("first" in folder for folder in folders) == 4
    assert load_results(second).arm("MTL").seeds[0].scores.keys() == {"semantic", "depth", "normals"}
    recipe = load_recipe(next((second / "runs").iterdir()) / "recipe.yaml")
    assert yaml.safe_load(file.read_text())["recipe"]["data"]["root"] == recipe.data.root
