"""The scheduler: order, losses, failures, searches and what follows from what, with runs that are made up."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from plait.errors import ConfigurationError, PlaitError
from plait.study.arms import arms_of
from plait.study.executors.base import Job, Outcome
from plait.study.executors.pool import Pool
from plait.study.ledger import MOST_ATTEMPTS, Ledger
from plait.study.plan import parse
from plait.study.schedule import Scheduler, Snapshot, failures, found_runs
from plait.tasks.base import Measure
from plait.training.scores import Scores

RMSE = Measure("rmse", "RMSE", "m", higher_is_better=False)
How = Callable[[Job, int], Outcome | None]


def well(job: Job, attempt: int) -> Outcome | None:
    """A run that trains and leaves scores, better with a learning rate near 0.01."""
    recipe = yaml.safe_load(job.arguments["recipe"])
    error = 1.0 + abs(recipe["optimizer"]["lr"] - 0.01)
    found = {task: {"rmse": error} for task in recipe["tasks"]}
    scores = Scores(found, dict.fromkeys(found, (RMSE,)), split=job.arguments["split"] or "test", images=1)
    scores.save(Path(job.arguments["folder"]) / "scores.json")
    return None


@dataclass
class MadeUp:
    """An executor whose jobs end when they are waited for, as ``how`` says."""

    how: How = well
    slots: int = 2
    name: str = "made up"
    jobs: list[Job] = field(default_factory=list)
    begun: list[Job] = field(default_factory=list)
    most: int = 0

    def has_room(self, job: Job) -> bool:
        return sum(one.processes for one in self.jobs) + job.processes <= self.slots

    def submit(self, job: Job) -> None:
        json.dumps(dict(job.arguments))  # plain data
        self.jobs.append(job)
        self.begun.append(job)
        self.most = max(self.most, sum(one.processes for one in self.jobs))

    def wait(self, seconds: float) -> Sequence[Outcome]:
        job = self.jobs.pop(0)
        attempt = sum(one.identity == job.identity for one in self.begun)
        ended = self.how(job, attempt)
        return [ended or Outcome(identity=job.identity, state="finished", seconds=1.0)]

    def close(self) -> None:
        self.jobs.clear()


def carry_out(folder: Path, executor: MadeUp | None = None, **keys: Any) -> tuple[Snapshot, Scheduler]:
    wanted = parse({"recipe": "rooms/mtl", "arms": {"mtl": None}, "seeds": [0, 1], **keys})
    ledger = Ledger(folder / "study.db")
    scheduler = Scheduler(
        study=wanted,
        arms=arms_of(wanted),
        folder=folder,
        ledger=ledger,
        executor=executor or MadeUp(),
        found=found_runs([folder]),
    )
    try:
        return scheduler.run(), scheduler
    finally:
        ledger.close()


def named(job: Job) -> str:
    return Path(job.arguments["folder"]).name.rpartition("-")[0]


def test_every_arm_is_trained_with_every_seed_the_first_seed_first(tmp_path: Path) -> None:
    executor = MadeUp()
    snapshot, _ = carry_out(tmp_path, executor, arms={"mtl": None, "mtan": {"model.encoder": "mtan"}})
    assert snapshot.count("finished") == snapshot.expected == 2 * (3 + 2)
    names = [named(job) for job in executor.begun]
    assert names[:5] == [
        "single-task-semantic-seed0", "single-task-depth-seed0", "single-task-normals-seed0", "mtl-seed0",
        "mtan-seed0",
    ]  # fmt: skip
    assert all(name.endswith("seed1") for name in names[5:])
    assert executor.most == 2
    seeds = {
        named(job): yaml.safe_load(job.arguments["recipe"])["training"]["seed"] for job in executor.begun
    }
    assert all(name.endswith(f"seed{seed}") for name, seed in seeds.items())


def test_finished_runs_are_kept_and_an_arm_added_later_runs_alone(tmp_path: Path) -> None:
    carry_out(tmp_path)
    again = MadeUp()
    carry_out(tmp_path, again)
    assert again.begun == []
    more = MadeUp()
    carry_out(tmp_path, more, arms={"mtl": None, "dwa": {"balancer": "dwa"}})
    assert [named(job) for job in more.begun] == ["dwa-seed0", "dwa-seed1"]
    changed = MadeUp()
    carry_out(tmp_path, changed, arms={"mtl": {"balancer": "uncertainty"}})
    assert [named(job) for job in changed.begun] == ["mtl-seed0", "mtl-seed1"]


def test_runs_are_found_again_without_the_database_and_in_other_studies(tmp_path: Path) -> None:
    carry_out(tmp_path / "first")
    (tmp_path / "first" / "study.db").unlink()
    again = MadeUp()
    carry_out(tmp_path / "first", again)
    assert again.begun == []
    found = found_runs([tmp_path / "second", tmp_path / "first"])
    wanted = parse({"recipe": "rooms/mtl", "arms": {"mtl": None}, "seeds": [0]})
    elsewhere = MadeUp()
    ledger = Ledger(tmp_path / "second" / "study.db")
    scheduler = Scheduler(
        study=wanted,
        arms=arms_of(wanted),
        folder=tmp_path / "second",
        ledger=ledger,
        executor=elsewhere,
        found=found,
    )
    assert scheduler.run().count("finished") == 4
    assert elsewhere.begun == []
    for row in ledger.rows().values():
        assert (tmp_path / "second" / row.folder / "scores.json").is_file()
    ledger.close()


def test_a_lost_run_is_tried_again_and_fails_at_last(tmp_path: Path) -> None:
    def unlucky(job: Job, attempt: int) -> Outcome | None:
        if named(job) == "mtl-seed0" and attempt < MOST_ATTEMPTS:
            return Outcome(identity=job.identity, state="lost", error="its node died")
        if named(job) == "mtl-seed1":
            return Outcome(identity=job.identity, state="lost", error="out of memory")
        return well(job, attempt)

    executor = MadeUp(unlucky)
    snapshot, scheduler = carry_out(tmp_path, executor, single_task=False)
    assert [named(job) for job in executor.begun].count("mtl-seed0") == MOST_ATTEMPTS
    assert [named(job) for job in executor.begun].count("mtl-seed1") == MOST_ATTEMPTS
    states = {p.name: snapshot.rows[i].state for i, p in scheduler.planned.items()}
    assert states == {"mtl, seed 0": "finished", "mtl, seed 1": "failed"}
    assert failures(snapshot) == [
        f"mtl, seed 1 failed: lost {MOST_ATTEMPTS} times, the last time because out of memory"
    ]


def test_a_failed_run_stays_failed_until_it_is_tried_again_and_others_go_on(tmp_path: Path) -> None:
    def broken(job: Job, attempt: int) -> Outcome | None:
        if named(job) == "mtl-seed0":
            return Outcome(identity=job.identity, state="failed", error="cannot read image 7")
        return well(job, attempt)

    snapshot, _ = carry_out(tmp_path, MadeUp(broken))
    assert (snapshot.count("failed"), snapshot.count("finished")) == (1, 7)
    again = MadeUp()
    snapshot, _ = carry_out(tmp_path, again)
    assert again.begun == []
    assert failures(snapshot) == ["mtl, seed 0 failed: cannot read image 7"]
    ledger = Ledger(tmp_path / "study.db")
    ledger.retry()
    ledger.close()
    snapshot, _ = carry_out(tmp_path, again)
    assert [named(job) for job in again.begun] == ["mtl-seed0"]
    assert snapshot.count("finished") == 8


def test_what_starts_from_single_task_networks_waits_for_those_of_its_seed(tmp_path: Path) -> None:
    def broken(job: Job, attempt: int) -> Outcome | None:
        if named(job) == "single-task-depth-seed1":
            return Outcome(identity=job.identity, state="failed", error="NaN")
        return well(job, attempt)

    executor = MadeUp(broken, slots=1)
    stitched = {"model.encoder": "cross_stitch", "model.init_from": "single-task"}
    snapshot, scheduler = carry_out(tmp_path, executor, arms={"stitched": stitched})
    names = [named(job) for job in executor.begun]
    assert "stitched-seed1" not in names
    job = executor.begun[names.index("stitched-seed0")]
    starts = yaml.safe_load(job.arguments["recipe"])["model"]["init_from"]
    assert {task: Path(run).name.rpartition("-")[0] for task, run in starts.items()} == {
        task: f"single-task-{task}-seed0" for task in ("semantic", "depth", "normals")
    }
    for task, run in starts.items():
        assert names.index("stitched-seed0") > names.index(f"single-task-{task}-seed0"), run
    assert failures(snapshot) == [
        "single-task on depth, seed 1 failed: NaN", "stitched: 1 runs wait for a failed one",
    ]  # fmt: skip
    assert snapshot.count("waiting") == 1
    assert scheduler.expected == 8


def test_a_full_disk_ends_the_study_and_costs_no_run_an_attempt(tmp_path: Path) -> None:
    def full(job: Job, attempt: int) -> Outcome | None:
        if named(job) == "mtl-seed0":
            return Outcome(identity=job.identity, state="stopped", error="the disk is full: ...")
        return well(job, attempt)

    with pytest.raises(PlaitError, match="the disk is full"):
        carry_out(tmp_path, MadeUp(full))
    ledger = Ledger(tmp_path / "study.db")
    states = [row.state for row in ledger.rows().values()]
    assert states.count("finished") == 3
    assert {row.attempts for row in ledger.rows().values() if row.state == "waiting"} == {0}
    ledger.close()
    snapshot, _ = carry_out(tmp_path)
    assert snapshot.count("finished") == 8


TUNING = {"trials": 4, "search": {"optimizer.lr": [0.004, 0.01, 0.05]}, "sampler": "random", "seed": 3}


def test_every_network_gets_the_same_number_of_trials_on_the_validation_split(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    executor = MadeUp()
    snapshot, _ = carry_out(tmp_path, executor, tuning={**TUNING, "steps": 9})
    trials = [job for job in executor.begun if "trial" in named(job)]
    finals = [job for job in executor.begun if "trial" not in named(job)]
    by_network = {named(job).partition("-seed")[0] for job in trials}
    assert by_network == {"single-task-semantic", "single-task-depth", "single-task-normals", "mtl"}
    ledger = Ledger(tmp_path / "study.db")
    tried = Counter((at.arm, at.task) for at, _ in ledger.places() if at.trial >= 0)
    assert set(tried.values()) == {4}
    assert len(tried) == 4
    ledger.close()
    assert {job.arguments["split"] for job in trials} == {"val"}
    assert {job.arguments["split"] for job in finals} == {None}
    assert {yaml.safe_load(job.arguments["recipe"])["training"]["steps"] for job in trials} == {9}
    assert {yaml.safe_load(job.arguments["recipe"])["training"]["steps"] for job in finals} == {200}
    first = [job for job in trials if named(job).endswith("trial0")]
    assert {yaml.safe_load(job.arguments["recipe"])["optimizer"]["lr"] for job in first} == {0.004}
    assert snapshot.count("finished") == len(snapshot.planned)


def test_the_best_trial_s_settings_are_those_of_the_final_runs(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    executor = MadeUp()
    carry_out(tmp_path, executor, tuning={**TUNING, "trials": 12}, single_task=False)
    seen = {
        yaml.safe_load(j.arguments["recipe"])["optimizer"]["lr"]
        for j in executor.begun
        if "trial" in named(j)
    }
    assert 0.01 in seen  # the best there is
    finals = [job for job in executor.begun if "trial" not in named(job)]
    assert {yaml.safe_load(job.arguments["recipe"])["optimizer"]["lr"] for job in finals} == {0.01}


def test_an_interrupted_search_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    whole = MadeUp()
    _, scheduler = carry_out(tmp_path / "whole", whole, tuning=TUNING, single_task=False)

    def stops(job: Job, attempt: int) -> Outcome | None:
        if "trial2" in named(job):
            raise KeyboardInterrupt
        return well(job, attempt)

    with pytest.raises(KeyboardInterrupt):
        carry_out(tmp_path / "cut", MadeUp(stops), tuning=TUNING, single_task=False)
    rest = MadeUp()
    _, other = carry_out(tmp_path / "cut", rest, tuning=TUNING, single_task=False)
    assert set(other.planned) == set(scheduler.planned)
    assert not any("trial0" in named(job) or "trial1" in named(job) for job in rest.begun)


def test_runs_that_two_arms_share_are_trained_once(tmp_path: Path) -> None:
    executor = MadeUp()
    snapshot, _ = carry_out(tmp_path, executor, arms={"a": None, "b": {"balancer": "equal"}})
    assert len(executor.begun) == len({job.identity for job in executor.begun}) == 2 * (3 + 1)
    assert snapshot.expected == 8
    ledger = Ledger(tmp_path / "study.db")
    assert {place.arm for place, _ in ledger.places()} == {"single-task", "a", "b"}
    ledger.close()


def test_a_job_of_several_processes_waits_for_room(tmp_path: Path) -> None:
    executor = MadeUp(slots=3)
    snapshot, _ = carry_out(tmp_path, executor, arms={"a": {"processes": 2}, "b": {"balancer": "dwa"}})
    assert executor.most <= 3
    assert snapshot.count("finished") == snapshot.expected


STITCHED = {"model.encoder": "cross_stitch", "model.init_from": "single-task"}


def test_an_arm_that_starts_from_finished_networks_can_be_added_later(tmp_path: Path) -> None:
    carry_out(tmp_path)
    more = MadeUp()
    snapshot, _ = carry_out(tmp_path, more, arms={"mtl": None, "stitched": STITCHED})
    assert [named(job) for job in more.begun] == ["stitched-seed0", "stitched-seed1"]
    assert snapshot.count("finished") == snapshot.expected == 10


def test_arms_that_start_from_networks_of_which_some_are_shared_are_trained(tmp_path: Path) -> None:
    executor = MadeUp()
    other = {**STITCHED, "tasks.depth.loss": "l1"}
    snapshot, _ = carry_out(tmp_path, executor, arms={"a": STITCHED, "b": other}, seeds=[0])
    names = [named(job) for job in executor.begun]
    assert names.count("a-seed0") == names.count("b-seed0") == 1
    assert len(names) == snapshot.count("finished") == snapshot.expected == 4 + 2
    starts = yaml.safe_load(executor.begun[-1].arguments["recipe"])["model"]["init_from"]
    assert set(starts) == {"semantic", "depth", "normals"}


def test_a_waiting_or_failed_run_that_is_found_elsewhere_counts(tmp_path: Path) -> None:
    def stops(job: Job, attempt: int) -> Outcome | None:
        if named(job) == "mtl-seed0":
            return Outcome(identity=job.identity, state="failed", error="an unreadable image")
        raise KeyboardInterrupt

    carry_out(tmp_path / "other", seeds=[0])
    with pytest.raises(KeyboardInterrupt):
        carry_out(tmp_path / "own", MadeUp(stops), single_task=False)
    wanted = parse({"recipe": "rooms/mtl", "arms": {"mtl": None}, "seeds": [0]})
    ledger, executor = Ledger(tmp_path / "own" / "study.db"), MadeUp()
    found = found_runs([tmp_path / "own", tmp_path / "other"])
    scheduler = Scheduler(wanted, arms_of(wanted), tmp_path / "own", ledger, executor, found)
    assert scheduler.run().count("finished") == 4
    assert executor.begun == []
    rows = [ledger.row(name) for name in scheduler.planned]
    assert all((tmp_path / "own" / row.folder / "scores.json").is_file() for row in rows)
    ledger.close()


def test_a_finished_run_whose_folder_was_taken_away_is_trained_again(tmp_path: Path) -> None:
    carry_out(tmp_path)
    (folder,) = tmp_path.glob("runs/mtl-seed1-*")
    shutil.rmtree(folder)
    again = MadeUp()
    snapshot, _ = carry_out(tmp_path, again)
    assert [named(job) for job in again.begun] == ["mtl-seed1"]
    assert snapshot.count("finished") == 8


def test_a_job_there_will_never_be_room_for_is_refused_and_claims_nothing(tmp_path: Path) -> None:
    pool = Pool(1, cores=[0], devices=[], logs=tmp_path)
    with pytest.raises(ConfigurationError, match="a run of 2 processes needs as many slots"):
        carry_out(tmp_path, pool, arms={"a": {"processes": 2}}, single_task=False)  # type: ignore[arg-type]
    ledger = Ledger(tmp_path / "study.db")
    assert {(row.state, row.attempts) for row in ledger.rows().values()} == {("waiting", 0)}
    ledger.close()


def test_what_waits_for_another_scheduler_s_runs_begins_when_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: dict[str, Any] = {"arms": {"stitched": STITCHED}, "seeds": [0]}
    wanted = parse({"recipe": "rooms/mtl", **keys})
    ledger, other, executor = Ledger(tmp_path / "a.db"), Ledger(tmp_path / "a.db"), MadeUp()
    scheduler = Scheduler(wanted, arms_of(wanted), tmp_path, ledger, executor)
    scheduler.expand()
    theirs = [name for name, planned in scheduler.planned.items() if not planned.after]
    assert all(other.claim(name) for name in theirs)
    look = scheduler.others_run

    def ends_before_the_look() -> bool:
        assert all(other.end(name, "finished") for name in theirs if theirs)
        theirs.clear()
        return look()

    monkeypatch.setattr(scheduler, "others_run", ends_before_the_look)
    assert scheduler.run().count("finished") == 4
    assert [named(job) for job in executor.begun] == ["stitched-seed0"]
    ledger.close()
    other.close()


def test_a_network_whose_trials_all_fail_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    def broken(job: Job, attempt: int) -> Outcome | None:
        if named(job).startswith("single-task-depth"):
            return Outcome(identity=job.identity, state="failed", error="NaN")
        return well(job, attempt)

    arms = {"mtl": None, "stitched": STITCHED}
    tuning = {**TUNING, "trials": 1}
    snapshot, _ = carry_out(tmp_path, MadeUp(broken), tuning=tuning, arms=arms, seeds=[0])
    assert snapshot.count("finished") == 4 + 3  # trials, and the runs of mtl and two tasks
    assert failures(snapshot)[1:] == [
        "single-task on depth is not trained: none of the 1 trials of its search finished with a finite "
        "score",
        "stitched is not trained: it starts from single-task, which is not",
    ]
