"""What a job of a study does, wherever it is computed: in a process of a pool, on a cluster, or in several.

Started as a module (``python -m plait.study.perform JOB.json OUT``) it is one of several processes that
``torchrun`` has started for one job; each writes how it ended into the folder ``OUT``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from plait.errors import DiskFullError, PlaitError
from plait.study.executors.base import Job, Outcome
from plait.study.memory import forget_peak_memory, peak_memory

Devices = Sequence[str]


def perform(job: Job, *, devices: Devices | None = None, cores: Sequence[int] | None = None) -> Outcome:
    """Computes a job, here or in processes of its own, and says how it ended; an error does not come out.

    Args:
        job: What to compute.
        devices: The accelerators of a job of several processes, by index; None for those that are visible.
        cores: The processor cores of a job of several processes; None leaves this process's own.
    """
    begun = time.monotonic()
    outcome = several(job, devices, cores) if job.processes > 1 else single(job)
    return replace(outcome, seconds=round(time.monotonic() - begun, 3))


def single(job: Job, ready: Callable[[], object] = lambda: None) -> Outcome:
    """Computes a job in this process, after ``ready()``, whose errors are the job's, too."""
    forget_peak_memory()
    try:
        ready()
        result = CALLS[job.call](**job.arguments)
    except DiskFullError as error:
        return Outcome(identity=job.identity, state="stopped", error=str(error))
    except PlaitError as error:
        return Outcome(identity=job.identity, state="failed", error=str(error))
    except MemoryError as error:
        return Outcome(identity=job.identity, state="failed", error=f"out of memory: {error}")
    except Exception as error:  # noqa: BLE001  whatever a run dies of is its own result, not the study's end
        told = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(identity=job.identity, state="lost" if parted(told) else "failed", error=told)
    return Outcome(identity=job.identity, state="finished", result={**result, "peak_memory": peak_memory()})


def parted(error: str) -> bool:
    """Whether an error only says that another process of the same job has gone, whose own end is what counts.

    >>> parted("RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [192.0.2.7]:4242")
    True
    """
    return ("gloo" in error and any(words in error for words in PARTED)) or "DistNetworkError" in error


def train(*, recipe: str, folder: str, split: str | None = None) -> Mapping[str, Any]:
    """Trains a run, or goes on training it; the recipe is YAML text.

    Returns:
        ``train_seconds`` of all its sessions, and its ``scores``.
    """
    import yaml

    from plait.config import parse
    from plait.training.fit import train
    from plait.training.memory import keep_freed_memory

    keep_freed_memory()
    run = train(parse(yaml.safe_load(recipe)), folder, progress=False, split=split)
    return {"train_seconds": run.train_seconds, "scores": json.loads(run.scores.json())["scores"]}


def measure(**arguments: Any) -> Mapping[str, Any]:
    """What networks cost; see :func:`plait.study.measuring.measure_arms`."""
    from plait.study.measuring import measure_arms

    result: Mapping[str, Any] = measure_arms(**arguments)
    return result


PARTED = ("Connection closed", "Connection reset", "Broken pipe", "Timed out")
CALLS = {"train": train, "measure": measure}


def several(job: Job, devices: Devices | None, cores: Sequence[int] | None) -> Outcome:
    """Computes a job in several processes that ``torchrun`` starts, and that end when this one does."""
    own = usable_cores()
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    environment["OMP_NUM_THREADS"] = str(max(1, len(cores or own) // job.processes))
    if devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    with tempfile.TemporaryDirectory(prefix="plait-job-") as name:
        file, out = Path(name) / "job.json", Path(name) / "out"
        out.mkdir()
        file.write_text(json.dumps(asdict(job)), encoding="utf-8")
        words = [
            sys.executable, "-P", "-m", "torch.distributed.run", "--standalone",
            "--nproc-per-node", str(job.processes), "-m", "plait.study.perform", str(file), str(out),
        ]  # fmt: skip
        use_cores(cores or own)
        try:
            with subprocess.Popen(words, env=environment, stdin=subprocess.PIPE) as torchrun:
                code = torchrun.wait()  # nothing is written: see end_with_starter
        finally:
            use_cores(own)
        told = sorted(out.glob("*.json"), key=lambda path: int(path.stem))
        outcomes = [Outcome(**json.loads(path.read_text(encoding="utf-8"))) for path in told]
    for state in ("stopped", "failed"):
        for outcome in outcomes:
            if outcome.state == state:
                return outcome
    if code != 0 or len(outcomes) < job.processes:
        return Outcome(
            identity=job.identity,
            state="lost",
            error=f"one of its {job.processes} processes was ended: out of memory, or by hand",
        )
    return outcomes[0]


def usable_cores() -> list[int]:
    """The cores this process may use; none where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def use_cores(cores: Sequence[int]) -> None:
    """Keeps this process, and those it starts, to some cores; nothing where the system cannot."""
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def main(file: str, out: str) -> int:
    """One of several processes of a job."""
    threading.Thread(target=end_with_starter, daemon=True).start()
    from plait.training.processes import join, leave

    job = Job(**json.loads(Path(file).read_text(encoding="utf-8")))
    outcome = single(replace(job, processes=1), join)
    (Path(out) / f"{os.environ['RANK']}.json").write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    if outcome.state != "finished":
        return 1  # torchrun then ends the others, which may wait for this one
    leave()
    return 0


def end_with_starter() -> None:
    """Ends this process when the one that started ``torchrun`` does, however it ended.

    All of them have its end of a pipe as their standard input. ``torchrun`` itself would not notice, nor end
    its processes if it were killed.
    """
    os.read(0, 1)  # not of sys.stdin, whose lock the end of the interpreter would wait for
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
