"""A pack, read: memory-mapped shards of safetensors and a manifest with their checksums."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plait.data import files
from plait.data.encodings import KINDS
from plait.data.labels import Label
from plait.data.packed.forms import FORMS, copied
from plait.data.sample import Geometry, Sample
from plait.errors import ConfigurationError, DataError
from plait.registry import nearest

FORMAT = 1
"""Raised when what is stored changes its meaning."""

MANIFEST, UNFINISHED = "pack.json", "unfinished.json"


class Packed:
    """What ``plait data pack`` made of a data set, under the same names, splits, fields and classes.

    Args:
        split: One of the splits that were packed.
        labels: The label fields to load.
        root: The packed folder.
        cache_dir: Where it is remembered that a shard's checksum was right; by default the user's cache
            folder.

    Raises:
        ConfigurationError: If the split or a label does not exist; names the nearest.
        DataError: If the folder is no finished pack, of another format, or a shard is missing or damaged.
    """

    fields: Mapping[str, type[Label]] = {}
    splits: Sequence[str] = ("train", "val", "test")

    def __init__(
        self,
        split: str,
        labels: Sequence[str],
        root: Path | str | None = None,
        cache_dir: Path | str | None = None,
    ) -> None:
        if root is None:
            raise ConfigurationError("packed needs a root, the folder that `plait data pack` wrote")
        self.root = Path(root)
        self.cache_dir = Path(cache_dir) if cache_dir is not None else files.cache_folder()
        self.manifest = read_manifest(self.root)
        self.fields = {field: KINDS[kind] for field, kind in self.manifest["fields"].items()}
        self.classes: Mapping[str, Sequence[str]] = self.manifest["classes"]
        self.measuring: Mapping[str, Any] = self.manifest["measuring"]
        known = self.manifest["splits"]
        self.splits = tuple(name for name in known if name != "trainval")
        if split not in known:
            raise ConfigurationError(
                f"{self.root} has no split {split!r}{nearest(split, known)}; it has {', '.join(known)}"
            )
        for label in labels:
            if label not in self.fields:
                raise ConfigurationError(
                    f"{self.root} has no label {label!r}{nearest(label, self.fields)}; it has "
                    f"{', '.join(self.fields)}: pack the set again with it"
                )
        self.split = split
        self.labels = tuple(dict.fromkeys(labels))
        self.ids: list[str] = list(known[split])
        places = {
            name: (shard, row)
            for shard, entry in enumerate(self.manifest["shards"])
            for row, name in enumerate(entry["ids"])
        }
        again = set(self.manifest["again"].get(split, ()))
        stored = [stored_name(split, name) if name in again else name for name in self.ids]
        lost = next((name for name in stored if name not in places), None)
        if lost is not None:
            raise DataError(f"{self.root / MANIFEST}: no shard holds sample {lost}; pack the set again")
        self._rows = [places[name] for name in stored]
        self._open: dict[int, Any] = {}

    @classmethod
    def fields_at(cls, root: Path | str | None) -> Mapping[str, type[Label]]:
        """The label fields of the set that is packed in a folder."""
        if root is None:
            raise ConfigurationError("packed needs a root, the folder that `plait data pack` wrote")
        return {field: KINDS[kind] for field, kind in read_manifest(Path(root))["fields"].items()}

    def __len__(self) -> int:
        return len(self.ids)

    def id(self, place: int) -> str:
        """The name of the sample at a place."""
        return self.ids[place]

    def present(self, place: int) -> frozenset[str]:
        """The labels that a sample has."""
        shard, row = self._rows[place]
        return frozenset(self.labels).intersection(self.manifest["shards"][shard]["forms"][row])

    def __getitem__(self, place: int) -> Sample:
        shard, row = self._rows[place]
        tensors, forms = self._shard(shard), self.manifest["shards"][shard]["forms"][row]
        image = copied(tensors.get_tensor(f"{row}/image"))
        targets = {
            field: self.fields[field](FORMS[forms[field]][1](tensors.get_tensor(f"{row}/{field}")))
            for field in self.labels
            if field in forms
        }
        return Sample(self.ids[place], image, targets, Geometry((image.shape[-2], image.shape[-1])))

    def _shard(self, number: int) -> Any:
        """A shard's tensors, mapped; its checksum is looked at once for each state of the file."""
        if number not in self._open:
            from safetensors import SafetensorError, safe_open

            entry = self.manifest["shards"][number]
            path = self.root / entry["file"]
            files.verify(path, entry["sha256"], self.cache_dir)
            try:
                self._open[number] = safe_open(path, "pt")
            except (SafetensorError, OSError) as error:
                raise DataError(f"{path}: cannot be opened ({error}); pack the set again") from error
        return self._open[number]

    @property
    def facts(self) -> Mapping[str, str]:
        """What a person wants to know about the set: ``{what: answer}``."""
        size = sum(entry["bytes"] for entry in self.manifest["shards"])
        return {
            "folder": str(self.root),
            "packed from": f"{self.manifest['name']} ({self.manifest['root']})",
            "options": json.dumps(self.manifest["options"]),
            "size": f"{size / 1e9:.2f} GB in {len(self.manifest['shards'])} shards",
            "checksums": "each shard is verified against the pack's SHA-256",
            **self.manifest["facts"],
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a worker maps the shards itself


def stored_name(split: str, name: str) -> str:
    """What a sample is called in shards that is stored a second time, as ``split`` has it."""
    return f"{split}:{name}"


def read_manifest(root: Path) -> dict[str, Any]:
    """``pack.json`` of a packed folder.

    Raises:
        DataError: If there is none, packing was not finished, or it is damaged or of another format.
    """
    path = root / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise DataError(
                f"{path}: expected a pack of format {FORMAT}, found {manifest['format']!r}; pack the set "
                f"again with this plait, or use the one that packed it ({manifest.get('plait')})"
            )
        forms: set[str] = set()
        for entry in manifest["shards"]:
            if Path(entry["file"]).name != entry["file"]:
                raise DataError(f"{path}: a shard points outside its folder: {entry['file']!r}")
            if len(entry["ids"]) != len(entry["forms"]) or not {"sha256", "bytes"} <= entry.keys():
                raise ValueError(f"the entry of {entry['file']}")
            forms.update(form for row in entry["forms"] for form in row.values())
        if not forms <= FORMS.keys():
            raise ValueError(f"unknown forms of labels {sorted(forms - FORMS.keys())}")
        {split: set(names) for split, names in manifest["again"].items()}
        kinds = manifest["fields"].values()
        wrong = [kind for kind in kinds if kind not in KINDS]
        if wrong or not isinstance(manifest["splits"], dict):
            raise ValueError(f"unknown kind of label {wrong}")
        return dict(manifest)
    except FileNotFoundError as error:
        begun = " (packing it was not finished: run the same command again)"
        raise DataError(
            f"{root}: expected a folder that `plait data pack` wrote, with {MANIFEST}"
            f"{begun if (root / UNFINISHED).is_file() else ''}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: damaged ({type(error).__name__}: {error}); pack the set again") from error
