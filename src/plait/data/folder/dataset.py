"""The user's own data: pictures and labels in folders, in a manifest, or in WebDataset shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import yaml

from plait import registry
from plait.data.folder import splits as parts
from plait.data.folder.fields import Orientation, in_words, parse_fields, read_picture
from plait.data.folder.folders import open_folders
from plait.data.folder.manifest import open_manifest
from plait.data.folder.shards import find_shards, open_shards
from plait.data.folder.source import Source, split_name
from plait.data.labels import Label
from plait.data.published import first_few
from plait.data.sample import Geometry, Sample
from plait.errors import ConfigurationError, DataError
from plait.registry import nearest

if TYPE_CHECKING:
    from plait.data.folder.propose import Proposal

DESCRIPTION = "plait.yaml"
"""A file in the data's folder with the options below, for those who name none."""

USUAL = ("train", "val", "test")
"""The splits that come first, in this order."""

Missing = Literal["allow", "refuse"]


class Folder:
    """Samples of your own, whose labels may be any subset of the declared fields.

    Splits are what sub-folders, lists, a column or ``shards`` say; of ``train`` (everything, where nothing is
    said) further splits may be cut by shares, which depend on the samples' names alone.

    Args:
        split: For instance ``train``.
        labels: The label fields to load.
        root: The folder. With ``manifest`` or ``shards``, what their relative paths are below.
        fields: What is stored for each label field, with the arguments of
            :func:`plait.data.folder.fields.declare`: ``{"depth": {"scale": 0.001}, "normals": {}}``. If it
            is not given, it and whatever else is not given come from ``plait.yaml`` in the folder.
        image: Where the pictures are: a folder or pattern (``images``), the manifest's column (``image``),
            or the members' ending in shards (any ending of a picture).
        manifest: A table of paths: ``.csv``, ``.parquet`` or ``.jsonl``.
        shards: Plain tar files: a folder, paths with ``*`` or ``{000..009}``, URLs, a list of these; or such
            for each split.
        classes: Names of the classes of semantic fields, in the order of their ids.
        splits: For each split a list file (below ``root``), or the share of ``train`` that is cut for it. By
            default the lists in ``splits/``, and 0.1 and 0.2 for ``val`` and ``test`` where nothing is said.
        group: Samples whose names agree up to the last of this character stay in one split, for instance
            ``/`` or ``_``.
        max_distance: For edges: the distance at which boundaries match, as a part of the image's diagonal.
        missing: ``allow`` samples without some of the labels, or ``refuse`` the set then.
        orientation: What is done with pictures that EXIF says to turn: ``refuse``, take them as ``stored``,
            or turn them ``upright``.

    Raises:
        ConfigurationError: If an option, a split or a label does not exist; names the nearest.
        DataError: If files are missing or damaged; names the file.
    """

    fields: Mapping[str, type[Label]] = {}
    classes: Mapping[str, Sequence[str]] = {}
    splits: Sequence[str] = USUAL

    def __init__(
        self,
        split: str,
        labels: Sequence[str],
        root: Path | str | None = None,
        *,
        fields: dict[str, dict[str, Any]] | None = None,
        image: str | None = None,
        manifest: Path | str | None = None,
        shards: str | list[str] | dict[str, Any] | None = None,
        classes: dict[str, list[str]] | None = None,
        splits: dict[str, str | float] | None = None,
        group: str | None = None,
        max_distance: float | None = None,
        missing: Missing | None = None,
        orientation: Orientation | None = None,
    ) -> None:
        given = {
            "fields": fields,
            "image": image,
            "manifest": manifest,
            "shards": shards,
            "classes": classes,
            "splits": splits,
            "group": group,
            "max_distance": max_distance,
            "missing": missing,
            "orientation": orientation,
        }
        described = {} if fields is not None else read_description(root)
        options = {**described, **{name: value for name, value in given.items() if value is not None}}
        self.root = Path(root) if root is not None else Path()
        self.split = split
        self.missing = one_of("missing", options.get("missing", "allow"), get_args(Missing))
        self.orientation: Orientation = one_of(
            "orientation", options.get("orientation", "refuse"), get_args(Orientation)
        )
        self.measuring: Mapping[str, Any] = {"max_distance": float(options.get("max_distance", 0.0075))}
        self.declared = parse_fields(options["fields"])
        self.fields = {name: field.encoding.label_type for name, field in self.declared.items()}
        self.labels = tuple(dict.fromkeys(labels))
        for label in self.labels:
            if label not in self.fields:
                raise ConfigurationError(
                    f"folder has no label {label!r}{nearest(label, self.fields)}; "
                    f"declared are {', '.join(self.fields) or 'none'}: declare it in fields"
                )
        self.classes = checked_classes(options.get("classes", {}), self.fields)
        self.elsewhere: Sequence[str] = ()
        source, self.form = self._opened(options, root)
        self.ids: Sequence[str] = ()
        self._choose(source, options.get("splits"), options.get("group"))

    @classmethod
    def fields_at(cls, root: Path | str | None, **options: Any) -> Mapping[str, type[Label]]:
        """The declared label fields of a folder.

        Raises:
            ConfigurationError: If they are not what can be declared.
            DataError: If none are declared.
        """
        declared = options.get("fields")
        if declared is None:
            declared = read_description(root)["fields"]
        return {name: field.encoding.label_type for name, field in parse_fields(declared).items()}

    @classmethod
    def proposal(cls, root: Path | str | None, **options: Any) -> Proposal | None:
        """What could be declared of a folder of which nothing is declared; None if something is.

        Raises:
            DataError: If there is nothing that looks like pictures.
        """
        from plait.data.folder.propose import propose

        if root is None or "fields" in options or (Path(root) / DESCRIPTION).is_file():
            return None
        return propose(Path(root))

    def _opened(self, options: Mapping[str, Any], root: Path | str | None) -> tuple[Source, str]:
        """All samples, or at least those that the split is of; and how they lie."""
        manifest, shards = options.get("manifest"), options.get("shards")
        if manifest is not None and shards is not None:
            raise ConfigurationError("folder reads either a manifest or shards: leave one of them out")
        sources = {name: field.source for name, field in self.declared.items()}
        if manifest is not None:
            path = self.root / manifest
            base = path.parent if root is None else self.root
            return open_manifest(path, base, options.get("image", "image"), sources), f"manifest {path}"
        if shards is not None:
            by_split = shards if isinstance(shards, dict) else {"": shards}
            by_split = {split_name(name): held for name, held in by_split.items()}
            self.elsewhere = tuple(by_split) if isinstance(shards, dict) else ()
            # A split's own shards are enough; what is cut from train needs those of train.
            wanted = [name for name in (self.split, "train") if name in by_split][:1] or list(by_split)
            places = {name: find_shards(by_split[name], self.root) for name in wanted}
            count = sum(map(len, places.values()))
            return open_shards(places, options.get("image"), sources), f"{count} shard{'s' * (count > 1)}"
        if root is None:
            raise ConfigurationError("folder needs a root, the folder that holds its files")
        return open_folders(self.root, options.get("image", "images"), sources), "folders"

    def _choose(self, source: Source, splits: Mapping[str, str | float] | None, group: str | None) -> None:
        """Keeps the samples of the split."""
        stated = source.splits
        lists = {split_name(n): self.root / p for n, p in (splits or {}).items() if isinstance(p, str)}
        shares = {split_name(n): float(s) for n, s in (splits or {}).items() if not isinstance(s, str)}
        if not lists and splits is None and self.form == "folders":
            lists = {split_name(name): path for name, path in parts.found_lists(self.root).items()}
        if lists:
            stated = parts.by_lists(lists, source.ids)
            if "train" not in lists:
                stated = [name or "train" for name in stated]
        said: set[str] = {split_name(name) for name in (*(stated or ("train",)), *self.elsewhere)} - {""}
        if splits is None:
            shares = dict(parts.shares_beside(sorted(said)))
        parts.check_shares(shares, sorted(said))
        there = said | set(shares)
        known = [name for name in USUAL if name in there] + sorted(there - {*USUAL})
        self.splits = tuple(known)
        if self.split not in known:
            raise ConfigurationError(
                f"{self.root} has no split {self.split!r}{nearest(self.split, known)}; it has "
                f"{', '.join(known)}: cut one from train, as in splits: {{{self.split}: 0.2}}"
            )
        of = parts.divided(source.ids, stated, source.groups, shares, group)
        chosen = [place for place, name in enumerate(of) if name == self.split]
        if not chosen:
            number = f"are {len(of)} samples" if len(of) != 1 else "is 1 sample"
            share = f", of which it is to be {shares[self.split]:g}" if self.split in shares else ""
            raise DataError(
                f"{self.root}: the split {self.split} is empty: there {number}{share}; "
                f"give it a larger share, or name its samples in a list"
            )
        self.left_out = of.count("")
        self.counts = {name: of.count(name) for name in known}
        self.source = source.take(chosen)
        self.ids = self.source.ids
        if self.missing == "refuse":
            self._refuse_missing()

    def _refuse_missing(self) -> None:
        for label in self.labels:
            absent = [self.ids[p] for p in range(len(self)) if not self.source.has(label, p)]
            if absent:
                raise DataError(
                    f"{self.root}: {len(absent)} of {len(self)} samples of {self.split} have no {label} "
                    f"({first_few(absent)}): complete them, or set "
                    f"missing: allow"
                )

    def __len__(self) -> int:
        return len(self.ids)

    def id(self, place: int) -> str:
        """The name of the sample at a place."""
        return self.ids[place]

    def present(self, place: int) -> frozenset[str]:
        """The labels that a sample has."""
        return frozenset(label for label in self.labels if self.source.has(label, place))

    def state(self) -> str:
        """A checksum that is another one if a file of the split was written again, or declared otherwise."""
        declared = {name: repr(field) for name, field in self.declared.items()}
        told = [self.source.state(), declared, self.classes, self.orientation]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]

    def __getitem__(self, place: int) -> Sample:
        stored = self.source.read(place, ("image", *self.labels))
        image = read_picture(stored["image"], self.orientation)
        size = (image.shape[0], image.shape[1])
        targets = {}
        for label in self.labels:
            if label in stored:
                classes = len(self.classes[label]) if label in self.classes else None
                targets[label] = self.declared[label].read(stored[label], size, classes)
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        return Sample(self.ids[place], pixels, targets, Geometry(size))

    @cached_property
    def facts(self) -> Mapping[str, str]:
        """What a person wants to know about the set: ``{what: answer}``."""
        counted = ", ".join(f"{name} {count}" for name, count in self.counts.items() if count)
        unseen = [name for name in self.splits if not self.counts[name]]
        said = {
            "folder": str(self.root),
            "read as": self.form,
            "splits": counted + (f" (not looked at: {', '.join(unseen)})" if unseen else ""),
        }
        if self.left_out:
            said["in no split"] = f"{self.left_out} samples"
        for name, field in self.declared.items():
            said[name] = in_words(field)
        return said


def one_of(option: str, value: Any, known: Sequence[str]) -> Any:
    """A word that is one of those known.

    Raises:
        ConfigurationError: If it is not.
    """
    if value not in known:
        raise ConfigurationError(
            f"{option} must be {' or '.join(known)}, got {value!r}{nearest(str(value), known)}"
        )
    return value


def checked_classes(
    classes: Mapping[str, Sequence[str]], fields: Mapping[str, type[Label]]
) -> dict[str, tuple[str, ...]]:
    """Class names by field.

    Raises:
        ConfigurationError: If they are of a field that is not declared.
    """
    for name in classes:
        if name not in fields:
            raise ConfigurationError(
                f"classes are named for {name!r}{nearest(name, fields)}, which is no declared field; "
                f"declared are {', '.join(fields) or 'none'}"
            )
    return {name: tuple(map(str, names)) for name, names in classes.items()}


def read_description(root: Path | str | None) -> dict[str, Any]:
    """The options in a folder's ``plait.yaml``.

    Raises:
        DataError: If there is none.
        ConfigurationError: If it is not such options.
    """
    if root is None:
        raise ConfigurationError("folder needs the option 'fields': what is stored for each label")
    path = Path(root) / DESCRIPTION
    if not path.is_file():
        raise DataError(
            f"{root}: holds no {DESCRIPTION}, and the option fields (what is stored for each label) is "
            f"not given; see what `plait data check folder {root}` proposes"
        )
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(options, dict) or not isinstance(options.get("fields"), dict):
        raise ConfigurationError(f"{path} must hold the options of folder, fields among them")
    registry.check_arguments(str(path), Folder, options, but=("split", "labels", "root"))
    return options
