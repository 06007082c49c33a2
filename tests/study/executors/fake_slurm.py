"""What submitit uses of SLURM's commands: jobs are processes, or wait until a test says how they end.

``install(folder)`` writes the commands into ``folder/bin``. A job's script is
``folder/ID.sh``, and its state ``folder/ID.state`` where a test, or ``scancel``, has set one. With a file
``folder/hold`` jobs only wait; with ``folder/refuse`` they are not taken.
"""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

COMMANDS = ("sbatch", "sacct", "scancel", "srun")


def install(folder: Path) -> Path:
    """The folder of the commands, to be put into ``PATH``."""
    (folder / "bin").mkdir(parents=True)
    for command in COMMANDS:
        file = folder / "bin" / command
        file.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "{__file__}" {command} "{folder}" "$@"\n')
        file.chmod(0o755)
    return folder / "bin"


def set_state(folder: Path, job: str, state: str) -> None:
    """Decides how a job stands."""
    (folder / f"{job}.state").write_text(state)


def sbatch(folder: Path, script: str) -> str:
    if (folder / "refuse").exists():
        sys.exit("sbatch: error: invalid partition specified: moon")
    job = next(str(number) for number in itertools.count(1) if not (folder / f"{number}.sh").exists())
    shutil.copy(script, folder / f"{job}.sh")
    if (folder / "hold").exists():
        set_state(folder, job, "PENDING")
        return f"Submitted batch job {job}"
    with (folder / f"{job}.log").open("w") as log:
        process = subprocess.Popen(
            ["sh", "-c", f'bash "{folder}/{job}.sh"; echo $? > "{folder}/{job}.code"'],
            env={**os.environ, "SLURM_JOB_ID": job},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (folder / f"{job}.pid").write_text(str(process.pid))
    return f"Submitted batch job {job}"


def state(folder: Path, job: str) -> str:
    told, code = folder / f"{job}.state", folder / f"{job}.code"
    if told.exists():
        return told.read_text()
    if not code.exists():
        return "RUNNING"
    return "COMPLETED" if code.read_text().strip() == "0" else "FAILED"


def sacct(folder: Path, *arguments: str) -> str:
    jobs = [value for flag, value in itertools.pairwise(arguments) if flag == "-j"]
    with (folder / "asked").open("a") as file:
        file.write(f"{' '.join(jobs)}\n")
    known = [job for job in jobs if (folder / f"{job}.sh").exists()]
    return "\n".join(["JobID|State|NodeList", *(f"{job}|{state(folder, job)}|node1" for job in known)])


def scancel(folder: Path, *jobs: str) -> str:
    for job in jobs:
        if state(folder, job) in ("PENDING", "RUNNING"):
            set_state(folder, job, "CANCELLED by 0")
        if (folder / f"{job}.pid").exists() and not (folder / f"{job}.code").exists():
            os.killpg(int((folder / f"{job}.pid").read_text()), signal.SIGTERM)
    return ""


def main() -> None:
    command, folder, *arguments = sys.argv[1:]
    print({"sbatch": sbatch, "sacct": sacct, "scancel": scancel}[command](Path(folder), *arguments))


if __name__ == "__main__":
    main()
