"""A study's state: one SQLite file that several schedulers may use at once.

What is written here is small and whole: a run is waiting, running, finished or failed. Everything large lies
in the runs' folders. A scheduler that is killed leaves claims behind; they are taken from it when it is seen
to be dead, or has not been heard of for a while.
"""

from __future__ import annotations

import json
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from plait.errors import DataError, DiskFullError, PlaitError

State = Literal["waiting", "running", "finished", "failed"]
Kind = Literal["run", "trial", "measurement"]

LEASE = 180.0
"""Seconds after which a scheduler of another machine that was not heard of counts as dead."""
MOST_ATTEMPTS = 3
"""How often a run may be lost, with its process or machine, before it counts as failed."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    identity TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    folder TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'waiting',
    owner TEXT,
    heartbeat REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT NOT NULL DEFAULT '',
    seconds REAL,
    result TEXT NOT NULL DEFAULT '{}'
);
CREATE TABLE IF NOT EXISTS places (
    arm TEXT NOT NULL,
    task TEXT NOT NULL,
    seed INTEGER NOT NULL,
    trial INTEGER NOT NULL,
    identity TEXT NOT NULL REFERENCES runs,
    settings TEXT NOT NULL,
    PRIMARY KEY (arm, task, seed, trial)
);
"""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a run stands in a study.

    Attributes:
        arm: Its arm.
        task: Its task, for a single-task network; empty for a network of all tasks.
        seed: Its training seed.
        trial: Its number in the search for settings; -1 for a run that counts.
        settings: What the search has set.
    """

    arm: str
    task: str = ""
    seed: int = 0
    trial: int = -1
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run as the ledger knows it."""

    identity: str
    kind: Kind
    folder: str
    state: State
    owner: str | None
    heartbeat: float | None
    attempts: int
    error: str
    seconds: float | None
    result: Mapping[str, Any]


class Ledger:
    """A study's database.

    Args:
        path: The file; made if it is not there.
        create: Whether it may be made.

    Raises:
        DataError: If it is not there and may not be made, or is no such database.
    """

    def __init__(self, path: Path, *, create: bool = True) -> None:
        if not create and not path.is_file():
            raise DataError(f"{path.parent} holds no study: it has no {path.name}")
        self.path = path
        me = psutil.Process()
        self.owner = f"{socket.gethostname()} {me.pid} {me.create_time():.2f} {uuid.uuid4().hex[:8]}"
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # A rollback journal, not a write-ahead log: the latter does not work on network file systems.
            self.database = sqlite3.connect(path, timeout=60, isolation_level=None)
            self.database.row_factory = sqlite3.Row
            self.database.executescript(SCHEMA)

    def close(self) -> None:
        """Closes the file."""
        self.database.close()

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """A change that is made whole or not at all, while nobody else changes anything."""
        with explained(self.path):
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield self.database
            except BaseException:
                self.database.rollback()
                raise
            self.database.commit()

    def fact(self, name: str, default: Any = None) -> Any:
        """Something that was written down by that name."""
        with explained(self.path):
            row = self.database.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row["value"])

    def write_down(self, **facts: Any) -> None:
        """Writes things down by name, in the place of what was there."""
        with self.changing() as database:
            database.executemany(
                "INSERT INTO facts VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET value = excluded.value",
                [(name, json.dumps(value)) for name, value in facts.items()],
            )

    def settle(self, name: str, value: Any) -> Any:
        """Writes something down unless it is there already; returns what is there."""
        with self.changing() as database:
            database.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, json.dumps(value)))
        return self.fact(name)

    def add(
        self,
        planned: Sequence[tuple[str, Kind, str, Place | None]],
        finished: set[str],
        gone: Set[str] = frozenset(),
    ) -> None:
        """Adds runs that are not known yet, and where they stand.

        Args:
            planned: Identity, kind, folder and place of each.
            finished: Identities of those that were found to be done already, in those folders.
            gone: Identities of finished ones whose folders are not there any more.
        """
        with self.changing() as database:
            database.executemany(
                "INSERT OR IGNORE INTO runs (identity, kind, folder, state) VALUES (?, ?, ?, ?)",
                [
                    (identity, kind, folder, "finished" if identity in finished else "waiting")
                    for identity, kind, folder, _ in planned
                ],
            )
            folders = {identity: folder for identity, _, folder, _ in planned}
            database.executemany(
                "UPDATE runs SET state = 'finished', folder = ?, error = '' "
                "WHERE identity = ? AND state != 'running'",
                [(folders[identity], identity) for identity in finished],
            )
            database.executemany(
                "UPDATE runs SET state = 'waiting', folder = ?, attempts = 0 "
                "WHERE identity = ? AND state = 'finished'",
                [(folders[identity], identity) for identity in gone],
            )
            database.executemany(
                "INSERT OR REPLACE INTO places VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (p.arm, p.task, p.seed, p.trial, identity, json.dumps(dict(p.settings)))
                    for identity, _, _, p in planned
                    if p is not None
                ],
            )

    def rows(self) -> dict[str, Row]:
        """Every run by identity."""
        with explained(self.path):
            found = self.database.execute("SELECT * FROM runs").fetchall()
        rows = (Row(**{**dict(row), "result": json.loads(row["result"])}) for row in found)
        return {row.identity: row for row in rows}

    def row(self, identity: str) -> Row:
        """One run."""
        with explained(self.path):
            found = self.database.execute("SELECT * FROM runs WHERE identity = ?", (identity,)).fetchone()
        return Row(**{**dict(found), "result": json.loads(found["result"])})

    def places(self) -> list[tuple[Place, str]]:
        """Every place with the identity of its run."""
        with explained(self.path):
            found = self.database.execute("SELECT * FROM places ORDER BY rowid").fetchall()
        return [
            (
                Place(
                    arm=row["arm"],
                    task=row["task"],
                    seed=row["seed"],
                    trial=row["trial"],
                    settings=json.loads(row["settings"]),
                ),
                row["identity"],
            )
            for row in found
        ]

    def claim(self, identity: str) -> bool:
        """Takes a waiting run; False if somebody else has been quicker."""
        with self.changing() as database:
            changed = database.execute(
                "UPDATE runs SET state = 'running', owner = ?, heartbeat = ?, attempts = attempts + 1 "
                "WHERE identity = ? AND state = 'waiting'",
                (self.owner, time.time(), identity),
            )
        return changed.rowcount == 1

    def end(
        self,
        identity: str,
        state: State,
        *,
        error: str = "",
        seconds: float | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> bool:
        """Writes down how a run ended; False, and nothing written, if it is no longer ours."""
        with self.changing() as database:
            changed = database.execute(
                "UPDATE runs SET state = ?, owner = NULL, error = ?, seconds = ?, result = ? "
                "WHERE identity = ? AND owner = ? AND state = 'running'",
                (state, error, seconds, json.dumps(dict(result or {})), identity, self.owner),
            )
        return changed.rowcount == 1

    def give_back(self, identity: str, *, count: bool) -> None:
        """Puts a run of ours back among the waiting; ``count`` keeps it as an attempt."""
        with self.changing() as database:
            database.execute(
                "UPDATE runs SET state = 'waiting', owner = NULL, attempts = attempts - ? "
                "WHERE identity = ? AND owner = ?",
                (0 if count else 1, identity, self.owner),
            )

    def beat(self) -> set[str]:
        """Says that we are alive; returns the identities of the runs that are still ours."""
        with self.changing() as database:
            database.execute(
                "UPDATE runs SET heartbeat = ? WHERE owner = ? AND state = 'running'",
                (time.time(), self.owner),
            )
            rows = database.execute(
                "SELECT identity FROM runs WHERE owner = ? AND state = 'running'", (self.owner,)
            )
            return {row["identity"] for row in rows}

    def recover(self) -> list[str]:
        """Puts the runs of dead schedulers back among the waiting, and returns their identities."""
        with self.changing() as database:
            claimed = database.execute(
                "SELECT identity, owner, heartbeat FROM runs WHERE state = 'running'"
            ).fetchall()
            lost = [
                row["identity"]
                for row in claimed
                if row["owner"] != self.owner and is_dead(row["owner"], row["heartbeat"])
            ]
            # Its scheduler died, not the run: that is no attempt of the run's.
            database.executemany(
                "UPDATE runs SET state = 'waiting', owner = NULL, attempts = attempts - 1 WHERE identity = ?",
                [(identity,) for identity in lost],
            )
        return lost

    def retry(self) -> int:
        """Puts failed runs back among the waiting; returns how many there were."""
        with self.changing() as database:
            changed = database.execute(
                "UPDATE runs SET state = 'waiting', attempts = 0, error = '' WHERE state = 'failed'"
            )
        return changed.rowcount

    def forget(self, identity: str) -> None:
        """Takes a run out, as if it had never been known."""
        with self.changing() as database:
            database.execute("DELETE FROM runs WHERE identity = ?", (identity,))

    def forget_places(self) -> None:
        """Takes out where runs stand, before a study that may have changed is planned anew."""
        with self.changing() as database:
            database.execute("DELETE FROM places")

    def forget_measurements(self) -> None:
        """Takes all measurements out."""
        with self.changing() as database:
            database.execute("DELETE FROM runs WHERE kind = 'measurement' AND state != 'running'")

    def retry_one(self, identity: str) -> None:
        """Puts one failed run back among the waiting."""
        with self.changing() as database:
            database.execute(
                "UPDATE runs SET state = 'waiting', attempts = 0, error = '' "
                "WHERE state = 'failed' AND identity = ?",
                (identity,),
            )


def is_dead(owner: str, heartbeat: float) -> bool:
    """Whether the scheduler that claimed a run has ended: surely on this machine, else by its silence."""
    host, number, created, _ = owner.rsplit(" ", 3)
    if host != socket.gethostname():
        return time.time() - heartbeat > LEASE
    try:
        process = psutil.Process(int(number))
        return f"{process.create_time():.2f}" != created or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what SQLite says into a sentence.

    Raises:
        DiskFullError: If the disk is full.
        DataError: If the file is no database, or damaged.
        PlaitError: For anything else, such as a file that may not be written.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        code = None if code is None else code & 0xFF  # without the details that an extended code carries
        if code == sqlite3.SQLITE_FULL:
            raise DiskFullError(
                f"the disk is full: {path} could not be written; finished runs are intact, so free some "
                f"space and start the same command again"
            ) from error
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise DataError(
                f"{path} is damaged or no study's database ({error}): move it away; finished runs beside it "
                f"are found again"
            ) from error
        raise PlaitError(f"{path} could not be read or written: {error}") from error
