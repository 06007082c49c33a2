"""A process of a pool: reads jobs from standard input, a line of JSON each, and answers in a line each.

It ends when its standard input does, at once and whatever it is doing: nobody is there any more for whom it
would work, and what it was training goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import TextIO

from plait.study.executors.base import Job, Outcome
from plait.study.perform import perform, use_cores


def get_ready() -> None:
    """Imports what takes long to import, so that the first job need not wait."""
    import plait.training.fit  # noqa: F401


def main(*, compute: Callable[..., Outcome] = perform, get_ready: Callable[[], None] = get_ready) -> int:
    """Works until there is nobody to work for."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to the log, not between our answers
    use_cores([int(core) for core in os.environ.get("PLAIT_CORES", "").split(",") if core])
    messages: queue.Queue[str] = queue.Queue()
    threading.Thread(target=listen, args=(sys.stdin, messages), daemon=True).start()
    while True:
        message = json.loads(messages.get())
        if message.get("job") is None:
            get_ready()
            continue
        outcome = compute(Job(**message["job"]), devices=message["devices"], cores=message["cores"])
        answers.write(json.dumps(asdict(outcome)) + "\n")
        answers.flush()


def listen(source: TextIO, messages: queue.Queue[str]) -> None:
    """Passes lines on; ends the process when there are no more."""
    for line in source:
        messages.put(line)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
