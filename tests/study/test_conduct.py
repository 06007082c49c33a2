"""A whole study, carried out for real: to its end, killed at any point, on a full disk, by dying workers."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from tests.study.tiny_study import write_study

from plait.cli import main
from plait.config import load_recipe
from plait.errors import ConfigurationError, PlaitError
from plait.study.conduct import Where, alone, run_study
from plait.study.ledger import Ledger
from plait.study.results import load_results
from plait.study.status import read_status

pytestmark = pytest.mark.slow

RUNS = 2 * (3 + 2)


def scores_of(folder: Path) -> dict[str, str]:
    """Every run's scores by its folder's name, as they are on disk."""
    return {path.parent.name: path.read_text() for path in sorted(folder.glob("runs/*/scores.json"))}


def weights_of(folder: Path) -> dict[str, bytes]:
    found = sorted(folder.glob("runs/*/checkpoints/last/model.safetensors"))
    return {path.parents[2].name: path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder, carried out without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    out, snapshot = run_study(write_study(folder), out=folder / "out", where=Where(jobs=2))
    assert snapshot.count("finished") == snapshot.expected == RUNS
    return out


def steps_logged(folder: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in folder.glob("runs/*/log.jsonl"))


def command(file: Path, out: Path, *words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "plait", "study", "run", str(file), "--out", str(out), *words]


def test_a_study_leaves_finished_runs_a_ledger_and_what_it_measured(whole: Path) -> None:
    results = load_results(whole)
    assert [arm.name for arm in results.arms] == ["single-task", "MTL", "Cross-stitch"]
    assert [len(arm.seeds) for arm in results.arms] == [2, 2, 2]
    assert results.arm("MTL").reference == "single-task"
    for arm in results.arms:
        assert arm.cost is not None
        assert arm.cost.step_seconds is not None
        assert arm.cost.step_seconds > 0
    assert results.arm("single-task").networks == 3
    snapshot, said = read_status(whole)
    assert snapshot.count("finished") == RUNS
    assert said[0] == f"{RUNS} of {RUNS} runs are finished"
    assert not psutil.Process().children(recursive=True), "workers are left behind"


def test_arms_of_a_seed_see_the_same_samples_in_the_same_views(whole: Path) -> None:
    results = load_results(whole)
    assert any("the same samples in the same order" in sentence for sentence in results.alike)
    assert any("by the same draws" in sentence for sentence in results.alike)
    assert results.unlike == ()


def test_killed_at_random_points_it_ends_with_the_same_scores_and_loses_no_finished_run(
    whole: Path, tmp_path: Path
) -> None:
    file, out = tmp_path / "study.yaml", tmp_path / "out"
    write_study(tmp_path)
    tree = yaml.safe_load(file.read_text())
    tree["recipe"]["data"]["root"] = str(whole.parent / "rooms")  # the same runs
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    chance, finished, kills = random.Random(0), dict[str, str](), 0
    while True:
        begun = steps_logged(out)
        more = chance.randint(1, 9) if kills < 3 else RUNS * 3  # then it is left alone
        process = subprocess.Popen(
            command(file, out, "--jobs", "2", "--no-report"),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        while process.poll() is None and steps_logged(out) < begun + more:
            time.sleep(0.02)
        if kills == 3 or process.poll() is not None:
            assert process.wait() == 0
            break
        victims = psutil.Process(process.pid).children(recursive=True)
        if kills % 2 and victims:  # a worker dies, and the study goes on without a word from us
            with suppress(psutil.NoSuchProcess):
                chance.choice(victims).kill()
            time.sleep(0.5)
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(victims, timeout=120)
        assert not alive, "workers outlive their scheduler"
        kills += 1
        now = scores_of(out)
        assert {name: now[name] for name in finished} == finished
        finished = now
    assert kills >= 1
    assert scores_of(out) == scores_of(whole)
    assert weights_of(out) == weights_of(whole)  # bit by bit


def test_a_dead_worker_costs_its_run_an_attempt_and_the_study_nothing(tmp_path: Path) -> None:
    file, out = write_study(tmp_path, steps=40, seeds=[0], single_task=False), tmp_path / "out"
    process = subprocess.Popen(
        command(file, out, "--jobs", "2", "--no-report"), stdout=subprocess.PIPE, text=True
    )
    killed = False
    while not killed and process.poll() is None:
        time.sleep(0.02)
        if list(out.glob("runs/*/checkpoints/last/state.json")):
            for child in psutil.Process(process.pid).children():
                if "plait.study.executors.worker" in child.cmdline():
                    child.send_signal(signal.SIGKILL)
                    killed = True
                    break
    said, _ = process.communicate(timeout=1000)
    assert killed
    assert process.returncode == 0
    assert "was lost and is tried again: its process was ended by SIGKILL" in said
    ledger = Ledger(out / "study.db")
    attempts = sorted(row.attempts for row in ledger.rows().values() if row.kind == "run")
    ledger.close()
    assert attempts == [1, 2]


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare to mount a small disk with")
def test_a_disk_that_fills_up_ends_it_in_a_sentence_and_more_room_lets_it_go_on(tmp_path: Path) -> None:
    file, small = write_study(tmp_path, seeds=[0], single_task=False), tmp_path / "small"
    small.mkdir()
    # The disk lives as long as the shell that mounted it: it fills up, grows, and the study goes on.
    run = " ".join(f"'{word}'" for word in command(file, small / "out", "--jobs", "1", "--no-report"))
    script = (
        f"mount -t tmpfs -o size=6m none '{small}' && "
        f"({run}; echo code $?; ls '{small}'/out/runs/*/scores.json; "
        f"mount -o remount,size=400m '{small}'; {run}; echo code $?; ls '{small}'/out/runs/*/scores.json)"
    )
    ways = [["unshare", "-m"], ["unshare", "-Urm"]]
    for way in ways:
        if (
            subprocess.run([*way, "mount", "-t", "tmpfs", "none", str(small)], capture_output=True).returncode
            == 0
        ):
            break
    else:
        pytest.skip("this user may not mount a small disk")
    done = subprocess.run([*way, "sh", "-c", script], capture_output=True, text=True, timeout=1000)
    _, _, second = done.stdout.partition("code 2")
    assert "code 0" in second, done.stdout + done.stderr
    assert "the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    kept = {line for line in second.splitlines() if line.endswith("scores.json")}
    assert len(kept) == 2


def test_failed_runs_are_named_and_can_be_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_study(
        tmp_path,
        seeds=[0],
        single_task=False,
        arms={"well": None, "wild": {"optimizer.lr": 1e30, "optimizer.name": "sgd"}},
    )
    assert main(["study", "run", str(file), "--jobs", "1"]) == 2
    said = capsys.readouterr()
    assert "wild, seed 0 failed:" in said.err
    assert "--retry tries them again" in said.err
    assert (tmp_path / "studies/tiny/report.html").is_file()  # of what is finished
    assert main(["study", "status", str(file)]) == 0
    said = capsys.readouterr()
    assert "1 of 2 runs are finished" in said.out
    assert "wild, seed 0 failed:" in said.out
    assert main(["study", "run", str(file), "--jobs", "1", "--retry", "--no-report"]) == 2


def test_minutes_become_steps_once_and_are_kept(tmp_path: Path) -> None:
    file = write_study(tmp_path, seeds=[0], budget={"minutes": 0.01}, single_task=False)
    out, snapshot = run_study(file, out=tmp_path / "out", where=Where(jobs=1))
    assert snapshot.count("finished") == 2
    ledger = Ledger(out / "study.db")
    steps = ledger.fact("steps")
    ledger.close()
    made = sorted(load_recipe(path).training.steps for path in out.glob("runs/*/recipe.yaml"))
    assert made == sorted(steps.values())
    assert made[0] >= 1
    renamed = {"A": None, "B": {"model.encoder": "cross_stitch"}}
    write_study(tmp_path, seeds=[0], budget={"minutes": 0.01}, single_task=False, arms=renamed)
    _, again = run_study(file, out=out, where=Where(jobs=1), measure_again=True)
    assert again.count("finished") == 2
    assert Ledger(out / "study.db").fact("steps") == steps


def test_an_arm_that_cannot_be_built_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    arms = {"well": None, "wrong": {"model.decoder": {"name": "pad_net", "widht": 3}}}
    file = write_study(tmp_path, seeds=[0], arms=arms)
    with pytest.raises(PlaitError, match=r"arm 'wrong': .*no option 'widht'"):
        run_study(file, out=tmp_path / "out", where=Where(jobs=1))
    assert not list((tmp_path / "out").glob("runs/*"))


def test_a_second_scheduler_on_this_machine_is_refused(tmp_path: Path) -> None:
    file = write_study(tmp_path)
    with alone(tmp_path / "out"), pytest.raises(PlaitError, match="is being carried out by another process"):
        run_study(file, out=tmp_path / "out", where=Where(jobs=1))


def test_more_processes_than_cores_are_refused(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    with pytest.raises(
        ConfigurationError, match=rf"--jobs {cores + 1} is more than the {cores} processor cores"
    ):
        run_study(write_study(tmp_path), out=tmp_path / "out", where=Where(jobs=cores + 1, device="cpu"))


def test_a_run_that_starts_from_single_task_networks_has_their_weights(tmp_path: Path) -> None:
    changes = {"model.encoder": "cross_stitch", "model.init_from": "single-task"}
    file = write_study(tmp_path, seeds=[0], arms={"Cross-stitch": changes})
    out, snapshot = run_study(file, out=tmp_path / "out", where=Where(jobs=2))
    assert snapshot.count("finished") == 4
    results = load_results(out)
    starts = results.arm("Cross-stitch").runs[0].recipe.model.init_from
    assert isinstance(starts, dict)
    assert {task: Path(run).name.partition("-seed")[0] for task, run in starts.items()} == {
        task: f"single-task-{task}" for task in ("semantic", "depth", "normals")
    }
    assert any("starts from trained single-task networks" in sentence for sentence in results.unlike)
