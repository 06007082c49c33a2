"""Several data sets as one, each with the labels that it has."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from plait import registry
from plait.data.inspection import fields_at, opened
from plait.data.labels import Label
from plait.data.partial import labels_of
from plait.data.sample import DataSet, Sample
from plait.errors import ConfigurationError
from plait.registry import nearest

Sets = Sequence[Mapping[str, Any]] | Mapping[str, Mapping[str, Any]]


class Joined:
    """The samples of several data sets, one set after the other; a sample has the labels of its own set.

    Samples are named ``set/sample``. Sizes may differ between sets, as they may within one.

    Args:
        split: The split of every set.
        labels: The label fields to load, each from every set that gives it.
        root: Where a set's relative ``root`` starts from; None for the working directory.
        sets: Each with its ``name`` (of ``plait list datasets``, or ``package.module:Class``), its ``root``,
            the ``labels`` to take from it (None for all that it has), and its other options. As a list, sets
            are called by those names; as ``{what to call it: set}``, by their keys, which then are the
            ``name`` as well where there is none.
        measuring: What measures must know of the data, where the sets say different things of it.

    Raises:
        ConfigurationError: If there is no set, two are called the same, a label does not exist or means
            different things in two sets, or as the sets themselves raise it.
        DataError: As the sets raise it.
    """

    def __init__(
        self,
        split: str = "train",
        labels: Sequence[str] = (),
        root: Path | str | None = None,
        *,
        sets: Sets,
        measuring: Mapping[str, Any] | None = None,
    ) -> None:
        self.split = split
        self.labels = tuple(dict.fromkeys(labels))
        members = _members(sets, root)
        self.fields: Mapping[str, type[Label]] = _fields(members)
        for label in self.labels:
            if label not in self.fields:
                raise ConfigurationError(
                    f"none of the joined sets {', '.join(members)} gives a label {label!r}"
                    f"{nearest(label, self.fields)}; they give {', '.join(self.fields)}"
                )
        self.sets = {called: member.open(split, self.labels) for called, member in members.items()}
        self.classes: Mapping[str, Sequence[str]] = _union(
            {
                called: {
                    label: tuple(names)
                    for label, names in self.sets[called].classes.items()
                    if label in member.fields
                }
                for called, member in members.items()
            },
            "one label needs one list of classes; name the labels to take from each, as in labels: [depth]",
        )
        self._measuring = measuring
        self._starts = list(accumulate((len(dataset) for dataset in self.sets.values()), initial=0))

    @classmethod
    def fields_at(
        cls, root: Path | str | None = None, *, sets: Sets, measuring: Mapping[str, Any] | None = None
    ) -> Mapping[str, type[Label]]:
        """The label fields that the sets can give together."""
        return _fields(_members(sets, root))

    def __len__(self) -> int:
        return self._starts[-1]

    def id(self, place: int) -> str:
        """The name of the sample at a place: ``set/sample``."""
        called, dataset, within = self._at(place)
        return f"{called}/{dataset.id(within)}"

    def present(self, place: int) -> frozenset[str]:
        """The labels that a sample has, of those asked for."""
        _, dataset, within = self._at(place)
        return labels_of(dataset, within)

    def __getitem__(self, place: int) -> Sample:
        called, dataset, within = self._at(place)
        sample = dataset[within]
        return replace(sample, id=f"{called}/{sample.id}")

    def _at(self, place: int) -> tuple[str, DataSet, int]:
        """What its set is called, the set, and the place in it."""
        if not 0 <= place < len(self):
            raise IndexError(f"there is no sample {place} among {len(self)}")
        number = bisect.bisect_right(self._starts, place) - 1
        called = list(self.sets)[number]
        return called, self.sets[called], place - self._starts[number]

    @property
    def measuring(self) -> Mapping[str, Any]:
        """What a measure must know of the data.

        Raises:
            ConfigurationError: If the sets say different things, and the option of this name says nothing.
        """
        if self._measuring is not None:
            return self._measuring
        return _union(
            {called: getattr(dataset, "measuring", {}) for called, dataset in self.sets.items()},
            "give the joined set the option measuring, with what holds for both",
        )

    @property
    def facts(self) -> Mapping[str, str]:
        """What a person wants to know about each of the sets."""
        return {
            f"{called}: {what}": answer
            for called, dataset in self.sets.items()
            for what, answer in {
                f"{self.split} samples": str(len(dataset)),
                **getattr(dataset, "facts", {}),
            }.items()
        }


@dataclass(frozen=True)
class _Member:
    """One of the sets, before it is opened."""

    name: str
    root: Path | str | None
    labels: tuple[str, ...] | None
    options: Mapping[str, Any]

    @cached_property
    def fields(self) -> Mapping[str, type[Label]]:
        """The labels that are taken from it, if they are asked for."""
        known = fields_at(self.name, self.root, self.options)
        for label in self.labels or ():
            if label not in known:
                raise ConfigurationError(
                    f"the joined set {self.name} has no label {label!r}{nearest(label, known)}; "
                    f"it has {', '.join(known)}"
                )
        return known if self.labels is None else {label: known[label] for label in self.labels}

    def open(self, split: str, labels: Sequence[str]) -> DataSet:
        wanted = [label for label in labels if label in self.fields]
        return opened(self.name, split, wanted, self.root, self.options)


def _members(sets: Sets, root: Path | str | None) -> dict[str, _Member]:
    """``{what it is called: set}``."""
    if isinstance(sets, Mapping):
        entries = [(called, {"name": called, **entry}) for called, entry in sets.items()]
    else:
        entries = [(str(entry.get("name")), dict(entry)) for entry in sets]
    members: dict[str, _Member] = {}
    for called, options in entries:
        if not isinstance(name := options.pop("name", None), str):
            raise ConfigurationError(f"each of the joined sets needs a name, as in name: nyud; got {options}")
        if called in members:
            raise ConfigurationError(
                f"two of the joined sets are called {called!r}, so their samples could not be told apart: "
                f"write sets as {{one: {{name: {called}, ...}}, other: {{name: {called}, ...}}}}"
            )
        own, labels = options.pop("root", None), options.pop("labels", None)
        members[called] = _Member(
            name,
            root=own if own is None or root is None else Path(root) / own,
            labels=None if labels is None else tuple(labels),
            options=options,
        )
        registry.check_options("data set", name, options)
    if not members:
        raise ConfigurationError("a joined set needs one set at least, as in sets: [{name: nyud, root: DIR}]")
    return members


def _fields(members: Mapping[str, _Member]) -> dict[str, type[Label]]:
    types = {called: dict(member.fields) for called, member in members.items()}
    return _union(types, "name the labels to take from each, as in labels: [depth]")


def _union(parts: Mapping[str, Mapping[str, Any]], remedy: str) -> dict[str, Any]:
    """All entries of the parts.

    Raises:
        ConfigurationError: If two parts have one entry with different values.
    """
    union: dict[str, Any] = {}
    givers: dict[str, str] = {}
    for called, part in parts.items():
        for key, value in part.items():
            if key in union and union[key] != value:
                raise ConfigurationError(
                    f"{key!r} is {_shown(union[key])} in the joined set {givers[key]} and {_shown(value)} in "
                    f"{called}: {remedy}"
                )
            if key not in union:
                union[key], givers[key] = value, called
    return union


def _shown(value: Any) -> str:
    """A type by its name, a sequence by its first entries, anything else as it is."""
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, tuple):
        return f"{len(value)} classes ({', '.join(map(str, value[:3]))}, ...)"
    return str(value)
