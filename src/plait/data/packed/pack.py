"""A data set, decoded once and stored as a pack; an interrupted run goes on where it stopped."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from plait.data import files
from plait.data.cache import full_disk, locked
from plait.data.encodings import KINDS
from plait.data.inspection import fields_at, open_splits, opened
from plait.data.joined import Joined
from plait.data.packed.dataset import FORMAT, MANIFEST, UNFINISHED, read_manifest, stored_name
from plait.data.packed.forms import exact_form
from plait.data.sample import DataSet, Sample
from plait.errors import ConfigurationError, DataError
from plait.registry import nearest

LOCK = "lock"
SHARD_BYTES = 256 * 2**20
"""About how large a shard becomes."""

Progress = Callable[[int, int], None]
Reader = Callable[[], Sample]


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

    A sample of ``trainval`` that is labelled by other rules there than in ``val`` is stored a second time.

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
        DataError: If a sample cannot be read, its files have changed since the pack was begun, or the disk
            is full; what was packed before is kept.
    """
    out = Path(out)
    sets = open_all(name, root, labels, options or {})
    first = next(iter(sets.values()))
    kinds = {label_type: kind for kind, label_type in KINDS.items()}
    readers, again = _readers(sets)
    told: dict[str, Any] = {
        "format": FORMAT,
        "name": name,
        "root": str(Path(root).resolve()) if root is not None else "its own place",
        "options": dict(options or {}),
        "fields": {field: kinds[first.fields[field]] for field in _labels_of(first)},
        "classes": {field: list(names) for field, names in first.classes.items()},
        "measuring": dict(getattr(first, "measuring", {})),
        "splits": {split: [s.id(k) for k in range(len(s))] for split, s in sets.items()},
        "again": again,
        "source": {split: _states(s) for split, s in sets.items()},
    }
    about = json.loads(json.dumps(told, default=str))  # as it is read back
    if (out / MANIFEST).is_file():
        return _same(out, read_manifest(out), about, "packed")
    with full_disk(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / LOCK).touch()  # stays: who waits for it must not be overtaken by who makes a new one
    with locked(out / LOCK):
        if (out / MANIFEST).is_file():  # by a process that was waited for
            return _same(out, read_manifest(out), about, "packed")
        shards = _write_shards(out, readers, about, progress or (lambda done, total: None))
        import plait

        known = ("variant", "licence", "where from")
        facts = {what: text for what, text in getattr(first, "facts", {}).items() if what in known}
        manifest = {**about, "plait": plait.__version__, "facts": facts, "shards": shards}
        with full_disk(out):
            files.write_atomically(out / MANIFEST, json.dumps(manifest).encode())
            (out / MANIFEST).chmod(_usual_mode(out))
            (out / UNFINISHED).unlink(missing_ok=True)
    return out


def open_all(
    name: str, root: Path | str | None, labels: Sequence[str], options: Mapping[str, Any]
) -> dict[str, DataSet]:
    """Every split of a data set, by name; ``trainval`` too where there is one."""
    fields = fields_at(name, root, options)
    unknown = [label for label in labels if label not in fields]
    if unknown:
        raise ConfigurationError(
            f"{name} has no label {unknown[0]!r}{nearest(unknown[0], fields)}; it has {', '.join(fields)}"
        )
    chosen = tuple(labels) or tuple(fields)
    sets, errors = open_splits(name, chosen, root, options)
    for error in errors.values():
        raise error
    with contextlib.suppress(ConfigurationError):  # most sets have no such split
        sets["trainval"] = opened(name, "trainval", chosen, root, options)
    return sets


def _labels_of(dataset: DataSet) -> Sequence[str]:
    return tuple(getattr(dataset, "labels", dataset.fields))


def _joined(dataset: DataSet) -> list[DataSet]:
    """The sets of a joined one, else the set itself."""
    return list(dataset.sets.values()) if isinstance(dataset, Joined) else [dataset]


def _states(dataset: DataSet) -> list[str | None]:
    return [one.state() if hasattr(one, "state") else None for one in _joined(dataset)]


def _rules(dataset: DataSet) -> list[Any]:
    """The options by which a set reads its samples, which may depend on the split."""
    return [getattr(one, "options", None) for one in _joined(dataset)]


def _readers(sets: Mapping[str, DataSet]) -> tuple[dict[str, Reader], dict[str, list[str]]]:
    """How each sample is read, by the name that it is stored under; and those stored again, by split."""
    readers: dict[str, Reader] = {}
    rules: dict[str, list[Any]] = {}
    again: dict[str, list[str]] = {}
    for split, dataset in sets.items():
        own = _rules(dataset)
        for place in range(len(dataset)):
            name = dataset.id(place)
            if rules.setdefault(name, own) != own:
                again.setdefault(split, []).append(name)
                name = stored_name(split, name)
            readers.setdefault(name, partial(dataset.__getitem__, place))
    return readers, again


def _same(out: Path, found: Mapping[str, Any], about: Mapping[str, Any], done: str) -> Path:
    """The folder, if what was found in it is what is asked for now.

    Raises:
        ConfigurationError: If it is another set, or was asked for with other options.
        DataError: If the set's files have changed.
    """
    others = [key for key, value in about.items() if found.get(key) != value]
    if others == ["source"]:
        raise DataError(
            f"{out}: the files of {about['name']}, or what is declared of them, have changed since it was "
            f"{done}; delete it to pack them as they are now, or choose another folder"
        )
    if others:
        raise ConfigurationError(
            f"{out} already holds {'a pack' if done == 'packed' else 'the beginning of a pack'} of something "
            f"else ({', '.join(others)}): choose another folder, or empty it"
        )
    return out


def _write_shards(
    out: Path, readers: Mapping[str, Reader], about: Mapping[str, Any], progress: Progress
) -> list[dict[str, Any]]:
    shards = _finished(out, about)
    done = {name for entry in shards for name in entry["ids"]}
    waiting = [name for name in readers if name not in done]
    for ids, tensors, forms in _shards(waiting, readers, lambda k: progress(len(done) + k, len(readers))):
        with full_disk(out):
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
        begun, shards = dict(left["about"]), list(left["shards"])
    except (OSError, ValueError, KeyError, TypeError):
        return []
    _same(out, begun, about, "begun")
    whole = []
    for entry in shards:
        if not (out / entry["file"]).is_file() or files.sha256(out / entry["file"]) != entry["sha256"]:
            break
        whole.append(entry)
    return whole


def _shards(
    waiting: Sequence[str], readers: Mapping[str, Reader], tell: Callable[[int], None]
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
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = out / f"shard-{number:05}.safetensors"
    partly = path.with_suffix(".partial")
    try:
        save_file(tensors, partly, metadata={"format": str(FORMAT)})
        checksum = files.sha256(partly)
        partly.chmod(_usual_mode(out))
        partly.replace(path)
    except SafetensorError as error:  # its own name for what the system said
        raise DataError(
            f"{path} cannot be written ({error}): make room if the disk is full, and start again: it goes on"
        ) from error
    finally:
        partly.unlink(missing_ok=True)
    return {"file": path.name, "sha256": checksum, "bytes": path.stat().st_size, "ids": ids, "forms": forms}


def _usual_mode(out: Path) -> int:
    """The permissions that files get here; temporary ones get narrower ones, and a pack may be shared."""
    return (out / LOCK).stat().st_mode & 0o777
