"""How a study stands, read from its folder while it runs or afterwards."""

from __future__ import annotations

import time
from pathlib import Path

from plait.errors import PlaitError
from plait.study.executors.base import Job
from plait.study.ledger import Ledger, is_dead
from plait.study.schedule import Planned, Snapshot, failures


def read_status(folder: Path) -> tuple[Snapshot, list[str]]:
    """The runs of a study that is in a folder, and what is to be said about them.

    Raises:
        DataError: If it holds no study.
    """
    from plait.study.conduct import STATE

    ledger = Ledger(folder / STATE, create=False)
    try:
        arms = ledger.fact("arms", [])
        named = [arm["name"] for arm in arms]
        seeds = ledger.fact("study", {}).get("seeds", [])
        placed = ledger.places()
        rows = ledger.rows()  # after the places: a run is there before it has one
        expected = ledger.fact("expected", 0)
        command = ledger.fact("command")
    finally:
        ledger.close()
    planned = {
        name: Planned(
            job=Job(identity=name, call="train", arguments={}),
            kind=rows[name].kind,
            place=place,
            folder=folder / rows[name].folder,
        )
        for place, name in placed
        if place.arm in named and (place.trial >= 0 or place.seed in seeds)
    }
    snapshot = Snapshot(planned=planned, rows=rows, expected=max(expected, len(planned)), running={})
    said = [f"{snapshot.count('finished')} of {snapshot.expected} runs are finished"]
    said += failures(snapshot)
    if any(snapshot.rows[name].state == "failed" for name in planned):
        said.append("`plait study run` with --retry tries failed runs again")
    running = [row for row in rows.values() if row.state == "running"]
    for row in running:
        assert row.owner is not None
        assert row.heartbeat is not None
        dead = is_dead(row.owner, row.heartbeat)
        if dead and row.identity in planned:
            said.append(f"{planned[row.identity].name} was running when its process ended")
        elif not dead and row.kind == "measurement":
            said.append("what arms cost is being measured")
    alive = {row.owner for row in running if row.owner and not is_dead(row.owner, row.heartbeat or 0)}
    for owner in sorted(alive):
        host, process = owner.split(" ")[:2]
        last = max(row.heartbeat or 0 for row in running if row.owner == owner)
        said.append(f"carried out by process {process} on {host}, heard of {time.time() - last:.0f} s ago")
    if not alive and snapshot.count("finished") < snapshot.expected:
        again = f": `{command}` goes on" if command else ""
        said.append(f"nobody is carrying it out now{again}")
    others = {name for name, row in rows.items() if row.kind != "measurement"} - set(planned)
    if others:
        said.append(f"{len(others)} runs are of arms or code that the study no longer has")
    return snapshot, said


def is_study(path: Path) -> bool:
    """Whether a path is a study's folder, its file, or the name of a built-in one."""
    from plait.recipes import studies
    from plait.study.conduct import STATE

    if path.is_dir():
        return (path / STATE).is_file()
    return path.suffix in (".yaml", ".yml") or str(path) in studies()


def study_folder(path: Path) -> Path:
    """A study's folder, from itself or from its file.

    Raises:
        PlaitError: If there is neither, or the study has not been begun.
    """
    from plait.study.conduct import STATE
    from plait.study.plan import load_study

    if path.is_dir():
        if not (path / STATE).is_file():
            raise PlaitError(f"{path} holds no study: it has no {STATE}; name a study's folder or file")
        return path
    folder = Path("studies") / load_study(path).name
    if not (folder / STATE).is_file():
        raise PlaitError(f"the study {path} has not been begun in {folder}: name the folder it was run in")
    return folder
