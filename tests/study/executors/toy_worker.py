"""A worker of a pool without torch, which starts at once; what its jobs do is in their arguments."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plait.study.executors.base import Job, Outcome
from plait.study.executors.worker import main
from plait.study.perform import usable_cores


def compute(job: Job, *, devices: Sequence[str] | None, cores: Sequence[int]) -> Outcome:
    """Does what ``job.arguments["do"]`` says, once the file ``until`` is there, and tells where."""
    do = job.arguments["do"]
    if do == "print":
        print("a library prints")
        os.system("echo and so does a program; echo and complains >&2")
    if do == "fork":  # as a loader of data does: the child has our standard output
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    while not Path(job.arguments.get("until", "/")).exists():
        time.sleep(0.01)
    if do == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "exit":
        os._exit(3)
    if do == "fail":
        return Outcome(identity=job.identity, state="failed", error="expected two tasks, got one: add one")
    told: dict[str, Any] = {
        "pid": os.getpid(),
        "affinity": usable_cores(),
        "cores": list(cores),
        "devices": devices,
        "visible": os.environ["CUDA_VISIBLE_DEVICES"],
        "threads": os.environ["OMP_NUM_THREADS"],
        "padding": "x" * job.arguments.get("length", 0),
    }
    return Outcome(identity=job.identity, state="finished", result=told)


if __name__ == "__main__":
    sys.exit(main(compute=compute, get_ready=lambda: None))
