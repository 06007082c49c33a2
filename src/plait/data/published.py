"""Published data sets: one class a set, one layout for each way in which its archive is laid out on disk.

The same name stands for several archives that differ in files, sizes and encodings, and whose numbers cannot
be compared. A layout is recognised by what lies in the folder, never by the folder's name.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from numpy.typing import NDArray

from plait.data import files
from plait.data.labels import Label
from plait.data.sample import Geometry, Sample
from plait.errors import ConfigurationError, DataError
from plait.registry import nearest

logger = logging.getLogger(__name__)

Array = NDArray[Any]
Part = Literal["train", "test"]
"""The two parts that published sets have: what is trained on, and what papers report on."""

Missing = Literal["refuse", "allow"]


class Layout(ABC):
    """One way in which a data set's archive lies on disk.

    Args:
        root: The folder.
        options: The data set's own options, for instance ``{"classes": 13}``.
    """

    name: ClassVar[str]
    """What the ``variant`` option and reports call it."""

    about: ClassVar[str]
    """Whose archive it is, in one line."""

    counts: ClassVar[Mapping[Part, int]] = {}
    """How many images the published parts have."""

    fields: Mapping[str, type[Label]]
    """The label fields it can give, with their types; may depend on the options."""

    classes: Mapping[str, Sequence[str]]
    """Class names of its semantic fields."""

    def __init__(self, root: Path, options: Mapping[str, Any]) -> None:
        self.root = root
        self.options = options

    @classmethod
    @abstractmethod
    def evidence(cls, root: Path) -> str:
        """What in the folder shows that it is of this layout, for a person to read; nothing if it is not."""

    @classmethod
    def nearly(cls, root: Path) -> str:
        """Why a folder without the evidence may yet have been meant: a clause for the error, or nothing."""
        return ""

    @abstractmethod
    def ids(self, part: Part) -> list[str]:
        """The names of a part's images, in the archive's order.

        Raises:
            DataError: If the list of the part is missing or damaged.
        """

    @abstractmethod
    def path(self, field: str, sample: str) -> Path | None:
        """The file of a field (``"image"`` too) of a sample; None if there is none."""

    @abstractmethod
    def image(self, sample: str) -> Array:
        """The picture, uint8 ``[H, W, 3]``.

        Raises:
            DataError: If it cannot be read; names the file.
        """

    @abstractmethod
    def label(self, field: str, sample: str, part: Part) -> Label:
        """A label that is there, of the image's size.

        Raises:
            DataError: If it cannot be read; names the file.
        """

    def group(self, sample: str) -> str:
        """What stays together when a validation part is cut from training: neighbours in one scene, say."""
        return sample

    def notes(self) -> Mapping[str, str]:
        """What else ``plait data check`` should say of this archive: ``{what: answer}``."""
        return {}

    def hint(self, field: str) -> str:
        """Why a field, or some of its files, may not be there: a clause for the error, or nothing."""
        return ""


class PublishedDataSet:
    """What published data sets have in common; a set names its layouts, fields and options.

    Splits:

    - ``test``: the part that papers report on (often called validation).
    - ``trainval``: the whole part that papers train on.
    - ``train`` and ``val``: the same cut in two, so that selecting a model needs no look at the test part.
      Which images are held out depends on their names alone.

    Args:
        split: ``train``, ``val``, ``test`` or ``trainval``.
        labels: The label fields to load.
        root: The archive's folder.
        variant: Which layout it has; ``auto`` looks at the files.
        validation: The share of the training part that is ``val``.
        missing: What happens if a file of a label is not there: ``refuse`` the set, naming how many, or
            ``allow`` it, the sample then being without that label.
        options: Further options, which layouts read.

    Raises:
        ConfigurationError: If a split, label or variant does not exist; names the nearest.
        DataError: If the folder is of no known layout, or files are missing; says what is there.
    """

    name: ClassVar[str]
    layouts: ClassVar[Sequence[type[Layout]]]
    fields: Mapping[str, type[Label]]
    splits: ClassVar[Sequence[str]] = ("train", "val", "test")
    licence: ClassVar[str]
    """The licence of the data, in one line."""
    page: ClassVar[str]
    """Where it comes from."""
    measuring: Mapping[str, Any] = {}

    def __init__(
        self,
        split: str,
        labels: Sequence[str],
        root: Path | str | None,
        *,
        variant: str = "auto",
        validation: float = 0.1,
        missing: Missing = "refuse",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if missing not in get_args(Missing):
            raise ConfigurationError(f"missing must be 'refuse' or 'allow', got {missing!r}")
        if not 0 <= validation < 1:
            raise ConfigurationError(f"validation must be a share in [0, 1), got {validation!r}")
        known = (*self.splits, "trainval")
        if split not in known:
            raise ConfigurationError(
                f"{self.name} has no split {split!r}{nearest(split, known)}; it has {', '.join(known)}"
            )
        self.split = split
        self.part: Part = "test" if split == "test" else "train"
        self.options = dict(options or {})
        self.layout = self.open_layout(root, variant, self.options)
        self.fields = self.layout.fields
        self.classes: Mapping[str, Sequence[str]] = self.layout.classes
        for label in labels:
            if label not in self.fields:
                raise ConfigurationError(
                    f"{self.name} ({self.layout.name}) has no label {label!r}{nearest(label, self.fields)}; "
                    f"it has {', '.join(self.fields)}{self._why(label)}"
                )
        self.labels = tuple(dict.fromkeys(labels))
        self.validation = validation
        self.missing = missing
        self.ids = self._chosen(self.layout.ids(self.part))
        if missing == "refuse":
            self._refuse_missing()

    @classmethod
    def open_layout(
        cls, root: Path | str | None, variant: str = "auto", options: Mapping[str, Any] | None = None
    ) -> Layout:
        """The layout of a folder.

        Raises:
            ConfigurationError: If there is no such variant, or no root was given.
            DataError: If the folder is of no known layout, or does not look like the variant asked for.
        """
        layouts: dict[str, type[Layout]] = {layout.name: layout for layout in cls.layouts}
        if root is None:
            raise ConfigurationError(
                f"{cls.name} needs a root, the folder that holds its files; where to get it: {cls.page}"
            )
        root = Path(root)
        if variant != "auto" and variant not in layouts:
            raise ConfigurationError(
                f"{cls.name} has no variant {variant!r}{nearest(variant, layouts)}; "
                f"it has auto, {', '.join(layouts)}"
            )
        if not root.is_dir():
            raise DataError(
                f"{root}: expected the folder of {cls.name}, found {'a file' if root.exists() else 'nothing'}"
            )
        asked = list(layouts.values()) if variant == "auto" else [layouts[variant]]
        found = [layout for layout in asked if layout.evidence(root)]
        if len(found) > 1:
            names = ", ".join(layout.name for layout in found)
            raise DataError(
                f"{root}: holds the files of more than one archive ({names}); "
                f"unpack each into a folder of its own, or say which is meant with variant"
            )
        if not found:
            raise DataError(cls._no_layout(root, asked))
        return found[0](root, options or {})

    @classmethod
    def _no_layout(cls, root: Path, asked: Sequence[type[Layout]]) -> str:
        """Why a folder is of no known layout, and what may have been meant."""
        inside = sorted(root.iterdir())
        here = ", ".join(entry.name for entry in inside[:8]) or "nothing"
        said = f"{root}: not a known layout of {cls.name} (it holds {here})"
        for layout in asked:
            if why := layout.nearly(root):
                return f"{said}: {why}"
        for folder in [entry for entry in inside if entry.is_dir()][:32]:
            if any(layout.evidence(folder) for layout in asked):
                return f"{said}; did you mean {folder}?"
        return f"{said}; expected one of: {'; '.join(f'{kind.name}: {kind.about}' for kind in asked)}"

    @classmethod
    def fields_at(
        cls, root: Path | str | None, *, variant: str = "auto", **options: Any
    ) -> Mapping[str, type[Label]]:
        """The label fields that the archive in a folder can give."""
        return cls.open_layout(root, variant, options).fields

    def _chosen(self, ids: Sequence[str]) -> list[str]:
        """The ids of the split."""
        twice = {name for name in ids if ids.count(name) > 1} if len(set(ids)) < len(ids) else ()
        if twice:
            raise DataError(
                f"{self.layout.root}: the list of the {self.part} part names {min(twice)} more than once"
            )
        published = self.layout.counts.get(self.part, len(ids))
        if len(ids) != published and self.split != "val":  # its train says it
            logger.warning(
                "%s: the %s part of %s has %d images as published, and %d here: numbers on it are not those "
                "of papers",
                self.layout.root, self.part, self.name, published, len(ids),
            )  # fmt: skip
        if self.split in ("test", "trainval"):
            return list(ids)
        held = held_out(ids, self.validation, self.layout.group)
        return [name for name in ids if (name in held) == (self.split == "val")]

    def _refuse_missing(self) -> None:
        for field in ("image", *self.labels):
            absent = [name for name in self.ids if self.layout.path(field, name) is None]
            if absent:
                hint = "" if field == "image" else ", or set missing: allow to go on without them"
                raise DataError(
                    f"{self.layout.root}: {len(absent)} of {len(self.ids)} samples of {self.name} "
                    f"{self.split} have no {field} file ({first_few(absent)}{self._why(field)}): "
                    f"complete the folder{hint}"
                )

    def _why(self, field: str) -> str:
        hint = self.layout.hint(field)
        return f"; {hint}" if hint else ""

    def __len__(self) -> int:
        return len(self.ids)

    def id(self, place: int) -> str:
        """The name of the sample at a place."""
        return self.ids[place]

    def present(self, place: int) -> frozenset[str]:
        """The labels that a sample has a file of."""
        if self.missing == "refuse":  # then nothing was missing when the set was opened
            return frozenset(self.labels)
        return frozenset(f for f in self.labels if self.layout.path(f, self.ids[place]) is not None)

    def state(self) -> str:
        """A checksum that is another one if any of the split's files was written again."""
        paths = (self.layout.path(field, name) for name in self.ids for field in ("image", *self.labels))
        return files.state(path for path in paths if path is not None)

    def __getitem__(self, place: int) -> Sample:
        name = self.ids[place]
        image = self.layout.image(name)
        size = (image.shape[0], image.shape[1])
        targets = {}
        for field in self.labels:
            if self.missing == "allow" and self.layout.path(field, name) is None:
                continue
            label = self.layout.label(field, name, self.part)
            if tuple(label.shape[-2:]) != size:
                raise DataError(
                    f"{self.layout.path(field, name)}: expected the image's size {size[0]}x{size[1]} "
                    f"(height x width), found {label.shape[-2]}x{label.shape[-1]}; image and labels of a "
                    f"sample must have one size"
                )
            targets[field] = label
        pixels = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        return Sample(name, pixels, targets, Geometry(size))

    @cached_property
    def facts(self) -> Mapping[str, str]:
        """What a person wants to know about the set: ``{what: answer}``."""
        return {
            "folder": str(self.layout.root),
            "variant": f"{self.layout.name}: {self.layout.about}",
            "recognised by": self.layout.evidence(self.layout.root),
            "licence": self.licence,
            "where from": self.page,
            **self.layout.notes(),
        }


def held_out(ids: Iterable[str], share: float, group: Callable[[str], str]) -> frozenset[str]:
    """A share of the names, whole groups at a time; it depends on the names alone, not on their order.

    One group is always left.

    >>> sorted(held_out(["a1", "a2", "b1", "b2"], 0.5, lambda name: name[0]))
    ['a1', 'a2']
    """
    members: dict[str, list[str]] = {}
    for name in ids:
        members.setdefault(group(name), []).append(name)
    wanted = round(share * sum(map(len, members.values())))
    held: list[str] = []
    ordered = sorted(members, key=lambda key: hashlib.blake2b(key.encode(), digest_size=8).digest())
    for key in ordered[:-1]:
        if len(held) >= wanted:
            break
        held += members[key]
    return frozenset(held)


def read_list(path: Path) -> list[str]:
    """The names in a list file, one a line.

    Raises:
        DataError: If it cannot be read, or names a place outside the data's folder.
    """
    try:
        names = path.read_text(encoding="utf-8-sig").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"{path}: expected a list of names, one a line, but it cannot be read ({reason})"
        ) from error
    for name in names:
        if name.startswith(("/", "\\")) or ".." in Path(name).parts:
            raise DataError(f"{path}: the name {name!r} leads outside the folder")
    return names


def first_few(names: Sequence[str]) -> str:
    """The first of some names, for a sentence.

    >>> first_few(["a", "b"]), first_few(["a", "b", "c", "d"])
    ('a, b', 'a, b, c, ...')
    """
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def first_file(*candidates: Path) -> Path | None:
    """The first of some files that is there."""
    return next((path for path in candidates if path.is_file()), None)
