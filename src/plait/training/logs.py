"""What a run tells while it runs: ``log.jsonl`` and ``log.csv`` always, trackers where asked."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.errors import MissingExtraError
from plait.training.checkpoint import explained_full_disk, write_atomically

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker  # type: ignore[import-untyped]

Row = Mapping[str, Any]


class Log:
    """The lines of a run, in two files that say the same.

    ``log.jsonl`` has nested objects with ``step`` (updates made so far) in each; ``log.csv`` has one column
    a number, named with dots (``loss.depth``), empty where a line has none. Both are cut back to the
    checkpoint that a run goes on from, so a resumed run's log reads like an uninterrupted one.
    """

    def __init__(self, folder: Path, columns: Sequence[str], *, step: int = 0) -> None:
        """Opens the log of ``folder``, keeps its lines up to ``step``, and forgets later ones."""
        self.json_path, self.csv_path = folder / "log.jsonl", folder / "log.csv"
        self.columns = list(columns)
        kept = [row for row in read_log(folder) if row["step"] <= step] if step else []
        with explained_full_disk(f"the log in {folder}"):
            write_atomically(self.json_path, "".join(json.dumps(row) + "\n" for row in kept))
            table = ",".join(self.columns) + "\n" + "".join(map(self.csv_line, kept))
            write_atomically(self.csv_path, table)

    def add(self, row: Row) -> None:
        """Appends a line; it is in the files when this returns."""
        with explained_full_disk(f"the log {self.json_path}"):
            with self.json_path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            with self.csv_path.open("a", encoding="utf-8") as file:
                file.write(self.csv_line(row))

    def csv_line(self, row: Row) -> str:
        """A row as a line of ``log.csv``."""
        numbers = dict(flat(row))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow([numbers.get(column, "") for column in self.columns])
        return text.getvalue()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``log.jsonl``; a last line cut off by a kill is left out."""
    path = folder / "log.jsonl"
    rows: list[dict[str, Any]] = []
    if not path.is_file():
        return rows
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        rows.append(row)
    return rows


def flat(row: Row, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested numbers with dotted names.

    >>> dict(flat({"step": 3, "loss": {"depth": 0.5}}))
    {'step': 3, 'loss.depth': 0.5}
    """
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def make_trackers(names: Sequence[str], folder: Path, config: Row) -> list[GeneralTracker]:
    """Trackers of accelerate, by name; the run is called by its folder's name.

    Raises:
        MissingExtraError: If the tracker's package is not installed.
    """
    modules = {"tensorboard": "tensorboard", "wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow"}
    for name in names:
        if importlib.util.find_spec(modules[name]) is None:
            raise MissingExtraError(
                f"the tracker {name!r} needs a package that is not installed: pip install 'plait[{name}]'"
            )
    made: list[GeneralTracker] = []
    for name in names:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        kind = LOGGER_TYPE_TO_CLASS[name]
        options = {"logging_dir": folder / name} if kind.requires_logging_directory else {}
        if name == "wandb":
            options = {"dir": folder}
        tracker = kind(folder.resolve().name, **options)
        if hasattr(tracker, "start"):
            tracker.start()
        tracker.store_init_configuration({key: shown(value) for key, value in flat(config)})
        made.append(tracker)
    return made


def shown(value: object) -> bool | int | float | str:
    """A value as trackers take it: lists and None as text."""
    return value if isinstance(value, bool | int | float | str) else str(value)
