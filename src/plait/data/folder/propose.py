"""A first recipe for data of one's own: what lies in a folder, and what it seems to mean.

Names are looked at first, then numbers. What cannot be known from them (a unit, an axis, which number is
unknown) is guessed and marked with ``# check:``.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from torch import Tensor

from plait.data.encodings import PICTURES, SUFFIXES, Encoding, decode, read_numbers
from plait.data.folder.dataset import Folder
from plait.data.folder.fields import (
    RGB_UNKNOWN,
    channels_last,
    exif_orientation,
    read_picture,
    refuse_lossy,
    sniffed,
)
from plait.data.folder.folders import KNOWN_SPLITS, Pattern, listed
from plait.data.folder.manifest import ENDINGS, rows
from plait.data.folder.shards import find_shards, index_of, key_and_ending, read_range, stem_of
from plait.data.folder.source import Stored, split_name
from plait.data.folder.splits import without_ending
from plait.errors import DataError, PlaitError

Array = NDArray[Any]

LOOKED_AT = 12
"""Files of each field that are read."""

SHARDS_LOOKED_AT = 4

WORDS: Mapping[str, tuple[str, ...]] = {
    "inverse_depth": ("dispar", "inverse"),
    "depth": ("depth",),
    "normals": ("normal",),
    "edges": ("edge", "bound", "contour"),
    "saliency": ("salien",),
    "parts": ("part",),
    "instances": ("instance",),
    "semantic": ("sem", "seg", "label", "class", "annot", "gt", "mask"),
    "image": ("im", "rgb", "colo", "photo", "pic", "jpeg", "jpg", "input", "left", "frame"),
}
"""How words begin that folders, columns and endings are called by; the first that fits counts."""

TASK_OF = {"semantic": "semantic", "depth": "depth", "inverse_depth": "inverse_depth", "normals": "normals"}


@dataclass(frozen=True)
class Proposal:
    """What was found, and a recipe for it.

    Attributes:
        lines: For a person to read: what there is, and what is unsure.
        yaml: A recipe with ``data``, ``tasks`` and the size to train at; comments say what to check.
        options: The arguments of :class:`Folder` in it.
    """

    lines: list[str]
    yaml: str
    options: dict[str, Any]


@dataclass
class Candidate:
    """Files that seem to be one field.

    Attributes:
        source: Its folder, column or ending.
        names: The samples that have it.
        samples: A few of its files.
    """

    source: str
    names: set[str]
    samples: list[Stored]

    def called(self) -> str:
        """What its name says it is; empty if nothing."""
        words = re.findall(r"[a-z]+", without_ending(PurePosixPath(self.source.lower()).name))
        for meaning, starts in WORDS.items():
            if any(word.startswith(starts) for word in words):
                return meaning
        return ""


@dataclass
class Guess:
    """What a candidate seems to be.

    Attributes:
        kind: As in a field's declaration.
        name: Of the field.
        seen: What its numbers are, in words.
        options: What is to be declared beside kind and source.
        task: Options of its task; None if it has none.
        checks: What is unsure.
    """

    kind: str
    name: str
    seen: str
    options: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] | None = field(default_factory=dict)
    checks: list[str] = field(default_factory=list)

    def rename(self, name: str) -> None:
        """Gives the field another name, as there is one of this name already."""
        self.checks = [re.sub(rf"^{self.name}: ", f"{name}: ", check) for check in self.checks]
        self.name = name
        if self.task is not None:
            self.task["label"] = name


def propose(root: Path | str) -> Proposal:
    """Looks at a folder, a manifest, a shard or a folder of shards, and proposes a recipe for it.

    Args:
        root: The folder or the file. A folder with a ``samples.csv`` (or another manifest) in it, or with
            ``*.tar``, is taken for that.

    Raises:
        DataError: If there is nothing, or no pictures can be found.
    """
    root = Path(root)
    if not root.exists():
        raise DataError(f"{root}: expected a folder, a manifest or shards, found nothing there")
    folder, options, candidates, notes = looked_at(root)
    picture = picture_of(candidates, root)
    labels = [candidate for candidate in candidates if candidate is not picture]
    if not {"manifest", "shards"} & set(options):
        align(picture, labels)
    options["image"] = picture.source
    guesses: dict[str, tuple[Candidate, Guess]] = {}
    for candidate in labels:
        try:
            candidate.samples = readable(candidate, as_label, notes)
            guess = guessed(candidate)
        except PlaitError as error:
            notes.append(f"{candidate.source} is left out: {error}")
            continue
        if not candidate.names & picture.names:
            notes.append(
                f"{candidate.source} is left out: none of its {len(candidate.names)} names is a picture's"
            )
            continue
        if guess.name in guesses:
            guess.rename(identifier(candidate.source))
        guesses[guess.name] = candidate, guess
    picture.samples = readable(picture, as_picture, notes)
    sizes, turned = sizes_of(picture)
    if turned:
        options["orientation"] = "stored"
        notes.append(
            f"{turned} of {len(picture.samples)} pictures are turned by EXIF; they are taken as stored, "
            f"which is right if labels lie on the pixels as stored, else set orientation: upright"
        )
    if len(sizes) > 1:
        notes.append(f"pictures have several sizes: {', '.join(f'{h}x{w}' for h, w in sorted(sizes)[:6])}")
    options["fields"] = {
        name: {"kind": guess.kind, "source": candidate.source, **guess.options}
        for name, (candidate, guess) in guesses.items()
    }
    data = splits_of(folder, options, tuple(guesses), notes)
    lines = described(folder, picture, sizes, guesses, data, notes)
    return Proposal(lines, recipe(folder, options, guesses, data, training_size(sizes), notes), options)


# --- what there is --------------------------------------------------------------------------------------


def looked_at(root: Path) -> tuple[Path, dict[str, Any], list[Candidate], list[str]]:
    """The folder, the options that say how samples lie in it, what may be fields, and notes."""
    if root.is_file() and root.suffix.lower() in ENDINGS:
        return root.parent, {"manifest": root.name}, in_manifest(root), []
    if root.is_file():
        return root.parent, {"shards": root.name}, *in_shards([str(root)])
    manifests = [path for path in sorted(root.iterdir()) if path.suffix.lower() in ENDINGS]
    if len(manifests) == 1:
        return root, {"manifest": manifests[0].name}, in_manifest(manifests[0]), []
    if any(root.glob("*.tar*")) or any(root.glob("*/*.tar")):
        shards = shard_options(root)
        patterns = list(shards.values()) if isinstance(shards, dict) else [shards]
        return root, {"shards": shards}, *in_shards(find_shards(patterns, root))
    notes = (
        [f"several tables lie here ({', '.join(p.name for p in manifests)}); name one"] if manifests else []
    )
    return root, {}, in_folders(root), notes


def spread(items: Sequence[str], count: int = LOOKED_AT) -> list[str]:
    """Some items from all over a sequence."""
    places = np.unique(np.linspace(0, max(len(items) - 1, 0), min(count, len(items))).astype(int))
    return [items[int(place)] for place in places]


def in_folders(root: Path) -> list[Candidate]:
    """The folders that hold pictures or arrays, those below splits counting as one."""
    below = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    above = [
        name for name in below if name in KNOWN_SPLITS and any(p.is_dir() for p in (root / name).iterdir())
    ]
    tops = [root / name for name in above] or [root]
    names = {p.name for top in tops for p in top.iterdir() if p.is_dir() and not p.name.startswith(".")}
    folders = []
    for name in sorted(names):
        inner = {
            p.name for top in tops if (top / name).is_dir() for p in (top / name).iterdir() if p.is_dir()
        }
        said = [one for one in sorted(inner) if Candidate(one, set(), []).called()]
        folders += [f"{name}/{one}" for one in said] or [name]
    found = []
    for folder in folders:
        files: dict[str, str] = {}
        for part in above or [""]:
            files.update(listed(root, part, Pattern(folder), SUFFIXES))
        for source, held in by_ending(folder, sorted(files)).items():
            paths = [root / files[name] for name in spread(held)]
            samples = [Stored(path, str(path), path.suffix.lower()) for path in paths]
            own = source.rpartition("*")[2] if "*" in source else ""
            found.append(Candidate(source, {name.removesuffix(own) for name in held}, samples))
    return found


def by_ending(folder: str, names: Sequence[str]) -> dict[str, list[str]]:
    """The names in a folder by what they end with, where that tells fields apart: ``1_rgb, 1_depth``."""
    endings: dict[str, list[str]] = {}
    for name in names:
        found = re.search(r"[_.-][A-Za-z]+$", name)
        endings.setdefault(found[0] if found else "", []).append(name)
    if "" in endings or not 2 <= len(endings) <= 10 or sum(len(v) > 1 for v in endings.values()) < 2:
        return {folder: list(names)} if names else {}
    return {f"{folder}/*{ending}": held for ending, held in endings.items()}


def in_manifest(path: Path) -> list[Candidate]:
    """The columns whose cells are paths of pictures or arrays."""
    cells: dict[str, dict[str, str]] = {}
    for where, row in rows(path):
        for column, cell in row.items():
            if isinstance(cell, str) and PurePosixPath(cell).suffix.lower() in SUFFIXES:
                cells.setdefault(column, {})[where] = cell
    found = []
    for column, paths in cells.items():
        chosen = [path.parent / paths[where] for where in spread(list(paths))]
        samples = [Stored(file, str(file), file.suffix.lower()) for file in chosen]
        found.append(Candidate(column, set(paths), samples))
    return found


def shard_options(root: Path) -> str | dict[str, str]:
    """The shards of a folder, by split where their names or folders begin with one."""
    held = sorted(path.relative_to(root) for path in (*root.glob("*.tar"), *root.glob("*/*.tar")))
    if not held:
        return "."  # compressed ones, which are refused by name
    by_split: dict[str, str] = {}
    for path in held:
        first = path.parts[0] if len(path.parts) > 1 else re.split(r"[^a-z]", path.name.lower())[0]
        if first not in KNOWN_SPLITS:
            return "*.tar" if len(held[0].parts) == 1 else "*/*.tar"
        by_split[split_name(first)] = f"{first}/*.tar" if len(path.parts) > 1 else f"{first}*.tar"
    return by_split


def in_shards(places: list[str]) -> tuple[list[Candidate], list[str]]:
    """The endings of members that may be fields, in some of the shards; and a note."""
    chosen = spread(places, SHARDS_LOOKED_AT)
    members: dict[str, dict[str, tuple[str, int, int]]] = {}
    for place in chosen:
        index = index_of(place)
        for name, offset, size in zip(index.names, index.offsets.tolist(), index.sizes.tolist(), strict=True):
            split_up = key_and_ending(name)
            if split_up is not None:
                members.setdefault(split_up[1], {})[f"{stem_of(place)}/{split_up[0]}"] = (place, offset, size)
    found = []
    for ending, held in members.items():
        samples = []
        for key in spread(sorted(held)):
            place, offset, size = held[key]
            content = read_range(place, offset, offset + size)
            suffix = f".{ending.rpartition('.')[2]}"
            samples.append(
                Stored(content, f"{key}.{ending}", suffix if suffix in SUFFIXES else sniffed(content))
            )
        if samples[0].suffix:
            found.append(Candidate(ending, set(held), samples))
    notes = [f"{len(chosen)} of {len(places)} shards were looked at"] if len(chosen) < len(places) else []
    return found, notes


def picture_of(candidates: Sequence[Candidate], root: Path) -> Candidate:
    """The candidate that holds the pictures.

    Raises:
        DataError: If none seems to.
    """
    fitting = [c for c in candidates if all(sample.suffix in PICTURES for sample in c.samples)]
    for rank in (
        lambda c: c.called() == "image",
        lambda c: not c.called() and any(sample.suffix in (".jpg", ".jpeg") for sample in c.samples),
        lambda c: not c.called() and in_colour(c.samples[0]),
    ):
        chosen = [candidate for candidate in fitting if rank(candidate)]
        if chosen:
            return max(chosen, key=lambda candidate: len(candidate.names))
    held = ", ".join(candidate.source for candidate in candidates) or "none with pictures or arrays"
    raise DataError(
        f"{root}: expected pictures, for instance in a folder or column called image(s) or rgb; found "
        f"{held}: rename one, or write the recipe by hand"
    )


def as_picture(stored: Stored) -> Array:
    """A file as it is read where it is a picture."""
    return read_picture(stored, "stored")


def as_label(stored: Stored) -> Array:
    """A file as it is read where it is a label."""
    return read_numbers(stored.source, name=stored.name, suffix=stored.suffix)


def readable(candidate: Candidate, read: Callable[[Stored], Array], notes: list[str]) -> list[Stored]:
    """The samples that can be read; the others are noted.

    Raises:
        DataError: If none can.
    """
    sound: list[Stored] = []
    broken: list[DataError] = []
    for sample in candidate.samples:
        try:
            read(sample)
            sound.append(sample)
        except DataError as error:
            broken.append(error)
    if not sound:
        raise broken[0]
    notes += map(str, broken)
    return sound


def in_colour(stored: Stored) -> bool:
    """Whether a file holds three channels."""
    try:
        return as_label(stored).ndim == 3
    except DataError:
        return False


def align(picture: Candidate, labels: Sequence[Candidate]) -> None:
    """Tells names apart from what is added to them: ``0001_rgb`` and ``0001_depth`` are one sample's."""
    added = common_ending(picture.names)
    plain = {name.removesuffix(added) for name in picture.names}
    for candidate in labels:
        own = common_ending(candidate.names)
        bare = {name.removesuffix(own) for name in candidate.names}
        if candidate.names & picture.names or not (bare & plain or bare & picture.names):
            continue
        if bare & plain and added and not bare & picture.names:
            picture.source, picture.names = f"{picture.source}/*{added}", plain
        if own:
            candidate.source, candidate.names = f"{candidate.source}/*{own}", bare


def common_ending(names: set[str]) -> str:
    """What all names end with, from a ``_``, ``-`` or ``.`` on: ``_rgb``; empty if nothing."""
    if len(names) < 2:
        return ""
    first, *rest = names
    end = first
    for name in rest:
        while not name.endswith(end):
            end = end[1:]
    found = re.search(r"[_.-][A-Za-z][\w.-]*$", end)
    return found[0] if found else ""


def sizes_of(picture: Candidate) -> tuple[set[tuple[int, int]], int]:
    """Heights and widths of pictures, and how many of them EXIF turns."""
    sizes, turned = set(), 0
    for sample in picture.samples:
        pixels = as_picture(sample)
        sizes.add((pixels.shape[0], pixels.shape[1]))
        turned += exif_orientation(sample.source) != 1
    return sizes, turned


# --- what it seems to mean ------------------------------------------------------------------------------


def guessed(candidate: Candidate) -> Guess:
    """What a candidate seems to be.

    Raises:
        DataError: If its files cannot be read, or are nothing that a label can be.
    """
    called = candidate.called()
    maps = [channels_last(as_label(sample), 3 if called == "normals" else 1) for sample in candidate.samples]
    maps = [one[..., 0] if one.ndim == 3 and one.shape[-1] == 1 else one for one in maps]
    if len({one.ndim for one in maps}) > 1:
        raise DataError(f"{candidate.source} holds files of one and of three channels")
    if maps[0].ndim == 3:
        if called in ("normals", "") and maps[0].shape[-1] == 3:
            return normals(candidate, maps)
        raise DataError(
            f"{candidate.source} holds pictures in colour, expected one number a pixel; "
            f"store class ids, metres or probabilities"
        )
    whole = maps[0].dtype.kind in "iub"
    low = min(float(np.nanmin(one)) for one in maps)
    high = max(float(np.nanmax(one.astype(float), initial=-math.inf, where=np.isfinite(one))) for one in maps)
    values = np.unique(np.concatenate([np.unique(one)[:1000] for one in maps]))
    seen = f"{maps[0].dtype} from {low:g} to {high:g}, {len(values) if len(values) < 1000 else 'many'} values"
    if called in ("depth", "inverse_depth"):
        return depth(called, maps, seen, high)
    if called in ("edges", "saliency"):
        return mask(candidate, called, values, seen, whole)
    if called in ("semantic", "parts", "instances") and whole:
        binary = set(values.tolist()) <= {0, 255} or (set(values.tolist()) <= {0, 1})
        if "mask" in candidate.source.lower() and binary:
            return mask(candidate, "", values, seen, whole)
        return semantic(candidate, called, values, seen)
    if whole and maps[0].dtype.itemsize > 1 and len(values) > 256:
        return depth("depth", maps, seen, high, unsure="its name does not say what it is")
    if not whole:
        if low >= 0 and high <= 1:
            return mask(candidate, "", values, seen, whole)
        return depth("depth", maps, seen, high, unsure="its name does not say what it is")
    if set(values.tolist()) <= {0, 255} or set(values.tolist()) <= {0, 1}:
        return mask(candidate, "", values, seen, whole)
    guess = semantic(candidate, "semantic", values, seen)
    guess.checks.insert(0, f"{candidate.source} is taken for classes, its name does not say")
    return guess


def semantic(candidate: Candidate, called: str, values: Array, seen: str) -> Guess:
    """Class ids."""
    for sample in candidate.samples:
        refuse_lossy(sample)
    guess = Guess("semantic", called, seen)
    ids = [int(value) for value in values if value != 255]
    if called == "instances":
        guess.task = None
        guess.checks.append("instances are read, but no task learns them")
        return guess
    if ids and (max(ids) > 254 or max(ids) >= 4 * len(ids)) and len(ids) <= 32:
        guess.options["ids"] = {number: place for place, number in enumerate(ids)}
        count = len(ids)
        guess.checks.append(
            f"{called}: the stored numbers {', '.join(map(str, ids))} are numbered from 0 on; say which "
            f"class is which, and leave out those that are unknown"
        )
    else:
        count = max(ids, default=0) + 1
        if ids and min(ids) > 0:
            guess.checks.append(f"{called}: no pixel has id 0; if ids begin at 1, set offset: -1")
        guess.checks.append(
            f"{called}: ids 0 to {count - 1} in {len(candidate.samples)} files; there may be more"
        )
    guess.task = {"classes": max(count, 2), **({"label": called} if called != "semantic" else {})}
    if 255 in values:
        guess.checks.append(f"{called}: 255 is taken for unknown")
    elif 0 in ids:
        guess.checks.append(f"{called}: if 0 is not a class but unknown, set unknown: 0 and offset: -1")
    return guess


def mask(candidate: Candidate, called: str, values: Array, seen: str, whole: bool) -> Guess:
    """A probability a pixel."""
    name = called or identifier(candidate.source)
    guess = Guess("mask", name, seen, task={"kind": "edges" if called == "edges" else "saliency"})
    if not called:
        guess.task = {**(guess.task or {}), "label": name}
        guess.checks.append(f"{name} has two values, or fractions; it is learned as a mask: is it one?")
    if whole and float(values.max()) == 1 and values.dtype.kind != "b":
        guess.options["scale"] = 1.0
    return guess


def depth(kind: str, maps: Sequence[Array], seen: str, high: float, unsure: str = "") -> Guess:
    """Depth, or its inverse."""
    guess = Guess(kind, kind, seen)
    if unsure:
        guess.checks.append(f"{kind}: {unsure}")
    known = np.concatenate([one[np.isfinite(one) & (one > 0)].ravel()[::7] for one in maps]).astype(float)
    near, far = np.quantile(known, (0.01, 0.99)) if len(known) else (0.0, 0.0)
    zeros = sum(int((one == 0).sum()) for one in maps) / sum(one.size for one in maps)
    if kind == "inverse_depth":
        if maps[0].dtype.kind in "iu":
            guess.options["scale"] = 1 / 256 if maps[0].dtype.itemsize > 1 else 1.0
        guess.options["unknown"] = 0 if zeros else []
        guess.checks.append(
            f"inverse_depth: 1 to 99 % of the stored numbers are {near:g} to {far:g}; which unit is it, "
            f"and is 0 unknown or infinitely far?"
        )
        return guess
    scale = 1.0
    if maps[0].dtype.kind in "iu" and maps[0].dtype.itemsize == 1:
        guess.checks.append(
            "depth: 8 bits cannot hold metres well; is it scaled for viewing, or inverse depth?"
        )
        guess.options["scale"] = scale = 1 / 255
    elif maps[0].dtype.kind in "iu" or far > 300:
        guess.options["scale"] = scale = 0.001
    what = "millimetres" if scale == 0.001 else "metres" if scale == 1 else "255 a metre"
    guess.checks.append(
        f"depth: taken for {what}, so that 98 % of it is {near * scale:.3g} m to {far * scale:.3g} m"
        + (f"; {100 * zeros:.3g} % are 0, taken for unknown" if zeros else "")
    )
    if any(np.isinf(one).any() for one in maps):
        guess.options["unknown"] = [0.0, math.inf]
        guess.checks.append("depth: infinite values are taken for unknown")
    if far * scale > 0:
        guess.task = {"far": float(f"{far * scale:.2g}")}
    return guess


def normals(candidate: Candidate, maps: Sequence[Array]) -> Guess:
    """Unit vectors, their axes guessed as if the camera stood upright in a room.

    Raises:
        DataError: If they are no unit vectors, and no name says so.
    """
    whole = maps[0].dtype.kind in "iu"
    encoding = Encoding("normals")
    if whole:
        highest = float(np.iinfo(maps[0].dtype).max)
        encoding = dataclasses.replace(encoding, scale=2 / highest, offset=-1.0, unknown=RGB_UNKNOWN)
    stored = [one * (encoding.scale or 1.0) + encoding.offset for one in (m.astype(np.float32) for m in maps)]
    lengths = np.concatenate([np.sqrt((one**2).sum(-1)).ravel() for one in stored])
    marked = np.concatenate([np.isin(one, encoding.unknown).all(-1).ravel() for one in maps])
    lengths = lengths[~marked & np.isfinite(lengths) & (lengths > 1e-3)]
    unit = float((np.abs(lengths - 1) < 0.1).mean()) if len(lengths) else 0.0
    if unit < 0.9 and candidate.called() != "normals":
        raise DataError(f"{candidate.source} holds pictures in colour, no vectors of length 1")
    guess = Guess("normals", "normals", f"{maps[0].dtype}, {100 * unit:.3g} % of the vectors of length 1")
    if unit < 0.9:
        guess.checks.append(
            f"normals: only {100 * unit:.3g} % of the vectors have length 1: which encoding is it?"
        )
    guess.options["encoding"] = "rgb" if whole else "vectors"
    axes, said = axes_of([decode(one, encoding).as_subclass(Tensor).numpy() for one in maps])
    guess.options["axes"] = axes
    guess.checks.append(f"normals: {said}")
    return guess


def axes_of(maps: Sequence[Array]) -> tuple[str, str]:
    """Which axes vectors ``[3, H, W]`` seem to be given in, and why.

    Surfaces that are seen face the camera: z forward is then negative. For the others, rooms are seen from
    within: what is left faces right, and what is below faces up.
    """
    maps = [one for one in maps if np.isfinite(one[2]).any()]
    if not maps:
        return "+x+y+z", "nothing is known in the files that were read, so the axes are not known either"
    z = float(np.mean([mean(one[2]) for one in maps]))
    across, down = [], []
    for one in maps:
        third = max(1, one.shape[2] // 3)
        across.append(mean(one[0, :, :third]) - mean(one[0, :, -third:]))
        third = max(1, one.shape[1] // 3)
        down.append(mean(one[1, :third]) - mean(one[1, -third:]))
    x, y = (float(np.nan_to_num(mean(np.array(values)))) for values in (across, down))
    usual = "+x+y+z" if z < 0 else "+x-y-z"
    axes = ("-" if x < -0.05 else "+") + "x"
    axes += (usual[2] if abs(y) <= 0.05 else "+" if y > 0 else "-") + "y" + usual[4:]
    side, way = ("below", "away from") if z < 0 else ("above", "towards")
    said = f"z is {side} 0 on average, so that it points {way} us"
    if axes == usual:
        return axes, f"{said}; x is taken to point right and y {'down' if z < 0 else 'up'}"
    return axes, f"{said}; x and y are guessed as for a room seen from within"


def mean(values: Array) -> float:
    """The mean of what is known; NaN if nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


def identifier(source: str) -> str:
    """A field's name from a folder, column or ending."""
    plain = re.sub(r"\W+", "_", without_ending(source.replace("*", ""))).strip("_").lower() or "label"
    return plain if plain.isidentifier() else f"label_{plain}"


# --- the recipe -----------------------------------------------------------------------------------------


def splits_of(
    folder: Path, options: dict[str, Any], labels: Sequence[str], notes: list[str]
) -> dict[str, str]:
    """What a recipe says of splits; shares are added to the options where a split is wanting."""
    try:
        found = Folder("train", labels, folder, **options)
    except PlaitError as error:
        notes.append(str(error))
        return {}
    if {"val", "test"} <= set(found.splits):
        notes.append(f"splits: {found.facts['splits']}")
        return {}
    if "val" in found.splits:
        options["splits"] = {"held_out": 0.1}
        notes.append("there is no test split: val is reported, and a part of train, held_out, selects")
        return {"validation_split": "held_out", "test_split": "val"}
    options["splits"] = {
        split: share for split, share in (("val", 0.1), ("test", 0.2)) if split not in found.splits
    }
    return {}


def training_size(sizes: set[tuple[int, int]]) -> list[int]:
    """A size to train at: multiples of 32, at most 512, of the smallest picture's shape."""
    height, width = min(sizes, key=lambda size: (size[0] * size[1], size))
    factor = min(1.0, 512 / max(height, width))
    return [max(32, int(side * factor) // 32 * 32) for side in (height, width)]


def described(
    folder: Path,
    picture: Candidate,
    sizes: set[tuple[int, int]],
    guesses: Mapping[str, tuple[Candidate, Guess]],
    data: Mapping[str, str],
    notes: Sequence[str],
) -> list[str]:
    """What was found, for a person to read."""
    count = len(picture.names)
    height, width = min(sizes)
    lines = [f"{folder}: {count} pictures in {picture.source}, {height}x{width} (height x width)"]
    for name, (candidate, guess) in guesses.items():
        have = len(candidate.names & picture.names)
        more = len(candidate.names - picture.names)
        lines.append(
            f"  {name}: {guess.kind} in {candidate.source}, {have} of {count} pictures have it"
            + (f" ({more} files have no picture)" if more else "")
            + f"; {guess.seen}"
        )
    lines += [note if note.startswith("splits: ") else f"note: {note}" for note in notes]
    lines += [f"check: {check}" for _, guess in guesses.values() for check in guess.checks]
    return lines


LEARNED_WELL: Mapping[str, Mapping[str, str]] = {
    "depth": {"loss": "log_l1", "parametrisation": "exp"},
    "normals": {"loss": "cosine"},
}
"""Options with which a few hundred steps already give something to look at, as in ``rooms_shared``."""

UPDATES = (
    "# These suit the default backbone with batches of 8 for some hundred to a few thousand steps.",
    "optimizer: {name: adamw, lr: 0.002, weight_decay: 0.01}",
    "schedule: {name: one_cycle, peak: 0.25}",
)


def recipe(
    folder: Path,
    options: Mapping[str, Any],
    guesses: Mapping[str, tuple[Candidate, Guess]],
    data: Mapping[str, str],
    size: Sequence[int],
    notes: Sequence[str],
) -> str:
    """The YAML, with what is to be checked as comments."""
    lines = [f"# {note}" for note in notes]
    lines += ["data:", "  name: folder", f"  root: {flow(str(folder))}"]
    lines += [f"  {key}: {value}" for key, value in data.items()]
    lines += ["  options:"]
    lines += [f"    {key}: {flow(value)}" for key, value in options.items() if key != "fields"]
    lines += ["    fields:" if guesses else "    fields: {}"]
    for name, (_, guess) in guesses.items():
        lines += [f"      # check: {check}" for check in guess.checks]
        lines += [f"      {name}: {flow(options['fields'][name])}"]
    lines += ["", "tasks:"]
    for name, (_, guess) in guesses.items():
        if guess.task is not None:
            kind = {"kind": TASK_OF.get(guess.kind, guess.kind)}
            lines += [f"  {name}: {flow({**kind, **LEARNED_WELL.get(guess.kind, {}), **guess.task})}"]
    if lines[-1] == "tasks:":
        lines[-1] = "tasks: {}"
    return "\n".join([*lines, "", "augmentation:", f"  size: {flow(list(size))}", "", *UPDATES, ""])


def flow(value: object) -> str:
    """A value on one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()
