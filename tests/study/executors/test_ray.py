"""Ray: jobs on two nodes, one of which dies; and what is wrong is told in a sentence."""

import json
import sys
import time
from pathlib import Path

import pytest
from tests.study.executors.ray_nodes import two_nodes

from plait.config import dump, parse
from plait.errors import ConfigurationError, MissingExtraError
from plait.study.executors.base import Job, Outcome
from plait.study.executors.ray_cluster import RayExecutor
from plait.testing import write_tiny_rooms

PATIENCE = 240


def job(folder: Path, name: str, *, steps: int = 2, processes: int = 1) -> Job:
    tree = {
        "data": {"root": str(folder / "rooms")},
        "tasks": {"depth": {"kind": "depth"}},
        "model": {
            "backbone": "test_resnet",
            "pretrained": False,
            "decoder": {"name": "independent", "head": "linear"},
        },
        "augmentation": {"size": [32, 32]},
        "training": {"steps": steps, "batch_size": 4, "checkpoint_every": 20, "log_every": 1, "threads": 1},
    }
    arguments = {"recipe": dump(parse(tree)), "folder": str(folder / "study" / name)}
    return Job(identity=name, call="train", arguments=arguments, processes=processes)


def outcomes(executor: RayExecutor, number: int) -> dict[str, Outcome]:
    """So many outcomes, by the job's name."""
    found: dict[str, Outcome] = {}
    until = time.monotonic() + PATIENCE
    while len(found) < number and time.monotonic() < until:
        found |= {outcome.identity: outcome for outcome in executor.wait(1)}
    assert len(found) == number
    return found


def wait_until_they_train(*jobs: Job) -> None:
    logs = [Path(job.arguments["folder"]) / "log.jsonl" for job in jobs]
    until = time.monotonic() + PATIENCE
    while not all(log.is_file() for log in logs):
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tiny_rooms(tmp_path / "rooms", images=(6, 3, 3), size=(32, 48))
    return tmp_path


@pytest.mark.slow
def test_jobs_of_a_node_that_dies_are_lost_and_finish_on_the_other(folder: Path) -> None:
    with two_nodes() as nodes:
        executor = RayExecutor(nodes.address, folder=folder / "study", logs=folder / "study" / "logs")
        assert (executor.slots, executor.name) == (2, "a Ray cluster of 2 nodes")
        assert executor.wait(0) == []
        with pytest.raises(ConfigurationError, match="the largest of the Ray cluster has room for 1"):
            executor.submit(job(folder, "two", processes=2))

        jobs = {name: job(folder, name, steps=300) for name in ("a", "b")}
        for one in jobs.values():
            assert executor.has_room(one)
            executor.submit(one)
        assert not executor.has_room(job(folder, "c"))
        wait_until_they_train(*jobs.values())  # at the same time: so each node has one
        nodes.kill_one()
        ended = outcomes(executor, 1)
        if all(told.state == "finished" for told in ended.values()):  # the other was faster
            ended |= outcomes(executor, 1)
        lost = [told for told in ended.values() if told.state == "lost"]
        assert [told.error for told in lost] == ["on the Ray cluster, its node died"]
        assert lost[0].seconds > 0

        executor.submit(jobs[lost[0].identity])
        ended |= outcomes(executor, 3 - len(ended))
        for name, one in jobs.items():
            assert ended[name].state == "finished", ended[name].error
            assert "rmse" in ended[name].result["scores"]["depth"]
            log = (Path(one.arguments["folder"]) / "log.jsonl").read_text().splitlines()
            steps = [row["step"] for row in map(json.loads, log) if "loss" in row]
            assert steps == list(range(1, 301))
        until = time.monotonic() + PATIENCE
        while executor.slots > 1 and time.monotonic() < until:  # Ray takes a while to believe it
            time.sleep(0.5)
            assert executor.has_room(job(folder, "c"))
        assert executor.slots == 1

        executor.requests.mark.rename(executor.requests.mark.with_name("hidden"))
        executor.submit(job(folder, "unseen"))
        told = outcomes(executor, 1)["unseen"]
        assert told.state == "stopped"
        assert "put the study's folder on storage that all machines share" in told.error

        executor.requests.make = lambda *_, **__: {}  # type: ignore[method-assign]
        executor.submit(job(folder, "garbled"))
        told = outcomes(executor, 1)["garbled"]
        assert told.state == "stopped"
        assert "KeyError" in told.error

        executor.close()
        executor.close()
        logs = list((folder / "study" / "logs").glob("*.txt"))
        assert len(logs) == 2  # each node's process has computed several jobs


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_a_cluster_that_does_not_answer_is_told_at_once(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigurationError, match=f"no Ray cluster answers at '{address}'.*ray start --head"):
        RayExecutor(address, folder=tmp_path, logs=tmp_path / "logs")
    assert list(tmp_path.iterdir()) == []


def test_without_ray_the_command_that_installs_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r'pip install "plait\[ray\]"'):
        RayExecutor("auto", folder=tmp_path, logs=tmp_path / "logs")
