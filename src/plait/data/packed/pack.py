"""A data set, decoded once and stored as a pack; an interrupted run goes on where it stopped."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from plait import registry
from plait.data import files
from plait.data.cache import full_disk, locked
from plait.data.encodings import KINDS
from plait.data.packed.dataset import FORMAT, MANIFEST, UNFINISHED, read_manifest
from plait.data.packed.forms import exact_form
from plait.data.sample import DataSet, Sample
from plait.errors import ConfigurationError
from plait.registry import nearest

LOCK = "lock"
SHARD_BYTES = 256 * 2**20
"""About how large a shard becomes."""

Progress = Callable[[int, int], None]


def pack(
    name: str,
    root: Path | str | None,
    out: Path | str,
    *,
    labels: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Packs every split of a data set into a folder; started again, it goes on where it stopped.

    Args:
        name: Of the data set, for instance ``"nyud"``.
        root: Its folder; the data set's own default if None.
        out: Where the pack goes.
        labels: The label fields to keep; all that the set has by default.
        options: Further options of the data set.
        progress: Told of the samples done and in all.

    Returns:
        ``out``.

    Raises:
        ConfigurationError: If there is no such data set, label or option, or ``out`` holds another pack.
        DataError: If a sample cannot be read, or the disk is full; what was packed before is kept.
    """
    out = Path(out)
    sets = open_splits(name, root, labels, options or {})
    first = next(iter(sets.values()))
    kinds = {label_type: kind for kind, label_type in KINDS.items()}
    about: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "root": str(Path(root).resolve()) if root is not None else "its own place",
        "options": dict(options or {}),
        "fields": {field: kinds[first.fields[field]] for field in _labels_of(first)},
        "classes": {field: list(names) for field, names in first.classes.items()},
        "measuring": dict(getattr(first, "measuring", {})),
        "splits": {split: [s.id(k) for k in range(len(s))] for split, s in sets.items()},
    }
    if (out / MANIFEST).is_file():
        found = read_manifest(out)
        if all(found[key] == value for key, value in about.items()):
            return out
        raise ConfigurationError(f"{out} already holds a pack of something else: choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / LOCK), full_disk(out):
        shards = _write_shards(out, sets, about, progress or (lambda done, total: None))
        import plait

        told = ("variant", "licence", "where from")
        facts = {what: text for what, text in getattr(first, "facts", {}).items() if what in told}
        manifest = {**about, "plait": plait.__version__, "facts": facts, "shards": shards}
        files.write_atomically(out / MANIFEST, json.dumps(manifest).encode())
        (out / MANIFEST).chmod(_usual_mode(out))
        (out / UNFINISHED).unlink(missing_ok=True)
    (out / LOCK).unlink(missing_ok=True)
    return out


def open_splits(
    name: str, root: Path | str | None, labels: Sequence[str], options: Mapping[str, Any]
) -> dict[str, DataSet]:
    """Every split of a data set, by name; ``trainval`` too where there is one."""
    from plait.data.inspection import fields_at, opened

    kind, fields = registry.resolve("data set", name), fields_at(name, root, options)
    unknown = [label for label in labels if label not in fields]
    if unknown:
        raise ConfigurationError(
            f"{name} has no label {unknown[0]!r}{nearest(unknown[0], fields)}; it has {', '.join(fields)}"
        )
    splits: Sequence[str] = getattr(kind, "splits", ("train", "val", "test"))
    sets = {split: opened(name, split, tuple(labels) or tuple(fields), root, options) for split in splits}
    with contextlib.suppress(ConfigurationError):  # most sets have no such split
        sets["trainval"] = opened(name, "trainval", tuple(labels) or tuple(fields), root, options)
    return sets


def _labels_of(dataset: DataSet) -> Sequence[str]:
    return tuple(getattr(dataset, "labels", dataset.fields))


def _write_shards(
    out: Path, sets: Mapping[str, DataSet], about: Mapping[str, Any], progress: Progress
) -> list[dict[str, Any]]:
    readers: dict[str, partial[Sample]] = {}
    for dataset in sets.values():
        for place in range(len(dataset)):
            readers.setdefault(dataset.id(place), partial(dataset.__getitem__, place))
    shards = _finished(out, about)
    done = {name for entry in shards for name in entry["ids"]}
    waiting = [name for name in readers if name not in done]
    for ids, tensors, forms in _shards(waiting, readers, lambda k: progress(len(done) + k, len(readers))):
        shards.append(_write_shard(out, len(shards), ids, tensors, forms))
        files.write_atomically(out / UNFINISHED, json.dumps({"about": about, "shards": shards}).encode())
    return shards


def _finished(out: Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The shards that an interrupted run of the same packing has left, if they are whole."""
    path = out / UNFINISHED
    if not path.is_file():
        return []
    try:
        left = json.loads(path.read_text(encoding="utf-8"))
        same, shards = left["about"] == json.loads(json.dumps(about)), list(left["shards"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    if not same:
        raise ConfigurationError(
            f"{out} holds the beginning of another pack: choose another folder, or empty it"
        )
    whole = []
    for entry in shards:
        if not (out / entry["file"]).is_file() or files.sha256(out / entry["file"]) != entry["sha256"]:
            break
        whole.append(entry)
    return whole


def _shards(
    waiting: Sequence[str], readers: Mapping[str, Callable[[], Sample]], tell: Callable[[int], None]
) -> Iterator[tuple[list[str], dict[str, Tensor], list[dict[str, str]]]]:
    """Samples in groups of about ``SHARD_BYTES``."""
    kinds = {label_type: kind for kind, label_type in KINDS.items()}
    ids: list[str] = []
    tensors: dict[str, Tensor] = {}
    forms: list[dict[str, str]] = []
    size = 0
    for number, name in enumerate(waiting):
        sample = readers[name]()
        row = len(ids)
        image = sample.image.as_subclass(Tensor).contiguous()
        entry, stored = {}, {f"{row}/image": image}
        for field, label in sample.targets.items():
            form, kept = exact_form(label.as_subclass(Tensor), kinds[type(label)])
            entry[field], stored[f"{row}/{field}"] = form, kept.contiguous()
        ids.append(name)
        forms.append(entry)
        tensors.update(stored)
        size += sum(tensor.nbytes for tensor in stored.values())
        tell(number + 1)
        if size >= SHARD_BYTES or number + 1 == len(waiting):
            yield ids, tensors, forms
            ids, tensors, forms, size = [], {}, [], 0


def _write_shard(
    out: Path, number: int, ids: list[str], tensors: dict[str, Tensor], forms: list[dict[str, str]]
) -> dict[str, Any]:
    from safetensors.torch import save_file

    path = out / f"shard-{number:05}.safetensors"
    partly = path.with_suffix(".partial")
    try:
        save_file(tensors, partly, metadata={"format": str(FORMAT)})
        checksum = files.sha256(partly)
        partly.chmod(_usual_mode(out))
        partly.replace(path)
    finally:
        partly.unlink(missing_ok=True)
    return {"file": path.name, "sha256": checksum, "bytes": path.stat().st_size, "ids": ids, "forms": forms}


def _usual_mode(out: Path) -> int:
    """The permissions that files get here; temporary ones get narrower ones, and a pack may be shared."""
    return (out / LOCK).stat().st_mode & 0o777
