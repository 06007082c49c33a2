"""A Ray cluster of two nodes of a core each, on this machine, one of which can be killed.

It lives in a process of its own (``python -m tests.study.executors.ray_nodes``), which starts and ends it.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[3]
PATIENCE = 120
OBJECTS = 80 * 2**20


@dataclass(frozen=True)
class Nodes:
    """Two nodes; the first is the head.

    Attributes:
        address: What ``--ray`` takes.
        process: Who keeps them.
    """

    address: str
    process: subprocess.Popen[str]

    def kill_one(self) -> None:
        """Kills the node that is not the head, with whatever runs on it, and lets it tell nobody."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("kill", file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "killed\n"


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """Two nodes, for the block; then they and all that they started have ended."""
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "CUDA_VISIBLE_DEVICES": ""}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.study.executors.ray_nodes"],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            first, _, address = process.stdout.readline().partition(" ")
            assert first == "address"
            yield Nodes(address.strip(), process)
        finally:
            started = psutil.Process(process.pid).children(recursive=True)
            assert process.stdin is not None
            process.stdin.close()
            psutil.wait_procs(started, PATIENCE)


def main() -> None:
    """Starts the nodes, and obeys."""
    from ray.cluster_utils import Cluster

    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": OBJECTS, "include_dashboard": False},
    )
    second = cluster.add_node(num_cpus=1, object_store_memory=OBJECTS)
    print("address", cluster.address, file=told, flush=True)
    for order in sys.stdin:
        assert order == "kill\n"
        cluster.remove_node(second, allow_graceful=False)
        print("killed", file=told, flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
