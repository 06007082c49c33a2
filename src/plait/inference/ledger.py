"""What a folder of predictions holds: how they were made, and which files are finished."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import plait
from plait.data.encodings import KINDS
from plait.errors import ConfigurationError, DataError
from plait.inference.predictor import Predictor
from plait.inference.stored import Stored
from plait.training.checkpoint import write_atomically

DESCRIPTION, FILES, SCORING = "predictions.json", "files.jsonl", "scoring.yaml"
PICTURES, OVERVIEW = "pictures", "all-tasks"
"""Folders of pictures; a hyphen is in no task's name."""

LONGEST_NAME = 243
"""Bytes of a name; disks take 255, of which ``.png.writing`` needs twelve."""

FORMAT = 1
SAME: Mapping[str, str] = {
    "network": "a network with other weights",
    "format": "another --format",
    "tasks": "other tasks",
    "sizing": "another size or other tiles",
    "flip": "another choice of --flip",
    "pictures": "another choice of pictures",
    "every": "another choice of --every",
}
"""What must be the same to go on in a folder, and what it is if it is not."""


def described(
    predictor: Predictor, stored: Sequence[Stored], *, pictures: bool, every: int
) -> dict[str, Any]:
    """How predictions are made and what their files mean, as JSON holds it."""
    sizing = predictor.sizing
    return {
        "format_version": FORMAT,
        "plait": plait.__version__,
        "run": predictor.name,
        "network": {"sha256": predictor.digest, "step": predictor.step},
        "tasks": {one.task.name: one.described() for one in stored},
        "sizing": {
            "told": sizing.told(),
            "size": sizing.size,
            "tile": sizing.tile,
            "overlap": sizing.overlap,
            "scales": sizing.scales,
        },
        "flip": predictor.flip,
        "format": stored[0].format,
        "pictures": pictures,
        "every": every,
    }


def scoring(predictor: Predictor, stored: Sequence[Stored]) -> str:
    """What ``plait evaluate --scoring`` needs to read the maps: the content of ``scoring.yaml``."""
    scored = [one for one in stored if one.task.label_type in KINDS.values()]
    protocol = predictor.recipe.evaluation.protocol
    tree: dict[str, Any] = {
        "tasks": {one.task.name: dict(predictor.recipe.tasks[one.task.name]) for one in scored}
    }
    scales = {one.task.name: {"scale": one.step} for one in scored if one.step is not None}
    if scales:
        tree["predictions"] = scales
    header = (
        "# Scores these predictions beside labels in LABELS/TASK/ID.png (or .npy, .npz, .mat):\n"
        f"#   plait evaluate --predictions . --targets LABELS --scoring {SCORING} --protocol {protocol}\n"
        "# How labels are stored is added here under `targets`, as {depth: {scale: 0.001}}; what the data\n"
        "# set says of its measures under `measuring`, as {max_distance: 0.011}.\n"
    )
    return header + yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


@dataclass
class Ledger:
    """The finished files of a folder, one line each; a line is added once all files of its name are there.

    Attributes:
        path: The file of the lines.
        lines: ``{name: what is known of it}``.
    """

    path: Path
    lines: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """The lines that are whole; a last one that was cut off is dropped.

        Raises:
            DataError: If it is no such file.
        """
        if not path.exists():
            return cls(path)
        found: dict[str, dict[str, Any]] = {}
        texts = path.read_bytes().split(b"\n")
        for number, text in enumerate(texts[:-1]):
            try:
                line = dict(json.loads(text))
                check_name(str(line["id"]))
                found[str(line["id"])] = line
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path}: line {number + 1} is not one that predict writes ({error}): name another "
                    f"folder, or begin again with --overwrite"
                ) from None
        if texts[-1]:
            write_atomically(path, b"".join(text + b"\n" for text in texts[:-1]))
        return cls(path, found)

    def add(self, line: Mapping[str, Any]) -> None:
        """Notes that the files of a name are finished."""
        self.lines[str(line["id"])] = dict(line)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def finish(self) -> None:
        """Writes every line once, in the order of names."""
        ordered = [self.lines[name] for name in sorted(self.lines)]
        write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in ordered))


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Makes a folder of predictions, if it is not there, and keeps other processes of this machine out of it.

    Raises:
        ConfigurationError: If it cannot be made, or another process writes to it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{out} cannot be made ({error.strerror}): name another folder for predictions"
        ) from error
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"another process is writing predictions to {out}: wait for it, or name another folder"
            ) from None
        except OSError:  # a disk of the network that has no locks for folders
            pass
        yield
    finally:
        os.close(handle)


def open_folder(
    out: Path,
    predictor: Predictor,
    stored: Sequence[Stored],
    *,
    pictures: bool,
    every: int,
    overwrite: bool,
) -> Ledger:
    """The ledger of a folder that predictions go to, new or as these settings left it.

    Args:
        out: The folder; it is there.
        predictor: What predicts.
        stored: How each task's maps are stored.
        pictures: Whether pictures are written too.
        every: Which frames of videos are predicted.
        overwrite: Whether predictions that are there are removed first.

    Raises:
        ConfigurationError: If it holds predictions made in another way, or something else in their place.
        DataError: If what it says of itself is damaged.
    """
    description = described(predictor, stored, pictures=pictures, every=every)
    if PICTURES in description["tasks"]:
        raise ConfigurationError(
            f"a task called {PICTURES!r} cannot be written beside the folder of pictures: ask for other tasks"
        )
    path = out / DESCRIPTION
    if path.exists():
        try:
            old = dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"{path} cannot be read ({error}): name another folder for predictions, or remove it"
            ) from None
        nothing = not (out / FILES).exists() or not (out / FILES).stat().st_size
        if overwrite or nothing:
            remove(out, old)
        else:
            _check_same(out, old, json.loads(json.dumps(description)))
    else:
        foreign = [name for name in (*description["tasks"], PICTURES, FILES) if (out / name).exists()]
        if foreign:
            raise ConfigurationError(
                f"{out / foreign[0]} is there already, and not by predict: name another folder"
            )
    ledger = Ledger.read(out / FILES)
    if not path.exists():
        write_atomically(out / SCORING, scoring(predictor, stored))
        write_atomically(path, json.dumps(description, indent=1) + "\n")
    return ledger


def _check_same(out: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for key, other in SAME.items():
        if old.get(key) != new[key]:
            raise ConfigurationError(
                f"{out} holds predictions of {other} (made by {old.get('run')}): name another folder, or "
                f"begin again with --overwrite"
            )


def remove(out: Path, description: Mapping[str, Any]) -> None:
    """Removes the predictions that a folder says it holds, and nothing else."""
    ledger_path = out / FILES
    for name in _names(ledger_path):
        for task in [*description.get("tasks", {}), OVERVIEW]:
            if task != OVERVIEW and not str(task).isidentifier():
                continue
            for suffix in (".png", ".npy"):
                (out / task / f"{name}{suffix}").unlink(missing_ok=True)
            for suffix in (".png", ".mp4"):
                (out / PICTURES / task / f"{name}{suffix}").unlink(missing_ok=True)
    for file in (ledger_path, out / SCORING, out / DESCRIPTION):
        file.unlink(missing_ok=True)


def _names(path: Path) -> Iterator[str]:
    """The names of a ledger as far as it can be read."""
    if path.exists():
        for text in path.read_bytes().splitlines():
            try:
                name = str(json.loads(text)["id"])
                check_name(name)
            except (ValueError, KeyError, TypeError):
                continue
            yield name


def check_name(name: str) -> None:
    """Refuses a name that no file can have, or that would lead out of the folder of predictions.

    Raises:
        ConfigurationError: If it is such a name.
    """
    path = Path(name)
    if not path.name or path.is_absolute() or path.drive or ".." in path.parts or "\0" in name:
        raise ConfigurationError(
            f"expected the name of a picture such as city/frame, got {name!r}: rename it"
        )
    if any(len(part.encode(errors="surrogateescape")) > LONGEST_NAME for part in path.parts):
        raise ConfigurationError(
            f"the name of a picture has at most {LONGEST_NAME} bytes, got {name!r}: rename it"
        )
