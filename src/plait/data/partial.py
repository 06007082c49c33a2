"""Data sets that show only some of their labels, to train as if the others had never been drawn.

Which labels are shown depends on the seed and on the samples' names alone: not on the order of loading, the
process, or Python's hash.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from plait.data.labels import Label
from plait.data.sample import DataSet, Sample
from plait.errors import ConfigurationError, DataError
from plait.registry import nearest

Keep = Literal["one_label", "random", "fraction"]


def labels_of(dataset: DataSet, place: int) -> frozenset[str]:
    """The labels that the sample at a place has, without loading it.

    Raises:
        ConfigurationError: If the data set cannot say.
    """
    present = getattr(dataset, "present", None)
    if present is None:
        raise ConfigurationError(
            f"{type(dataset).__name__} cannot say which labels a sample has without loading it, which hiding "
            f"labels and sampling by task need: give it a method present(place) -> frozenset[str]"
        )
    found: frozenset[str] = frozenset(present(place))
    return found


class PartialLabels:
    """A data set of which only some labels are shown; what is hidden is absent from the samples.

    ============= ==========================================================================================
    keep          what is shown
    ============= ==========================================================================================
    ``one_label`` one of each sample's labels; where all samples have all labels, each label is shown as
                  often as any other, or once more
    ``random``    of each sample's T labels any 1 to T - 1, each number as likely; a single label stays
    ``fraction``  each label for ``round(fraction * n)`` of the n samples that have it, whatever is shown of
                  the others; what a smaller fraction shows, a larger one of the same seed shows too
    ============= ==========================================================================================

    Args:
        dataset: Any data set with ``present``.
        keep: See the table.
        fraction: In [0, 1], for every label or ``{label: fraction}``; a label not named is kept whole.
        seed: Decides which labels are shown.
        among: The same samples with every label that ``one_label`` and ``random`` choose among; None for
            ``dataset`` itself. A network of one task then sees the labels that one of all tasks sees of it.

    Raises:
        ConfigurationError: If the data set cannot say which labels its samples have, a label is unknown, or
            an option makes no sense.
        DataError: If ``among`` lacks one of the samples.

    Source:
        ``one_label`` and ``random`` are the protocols of Li, Liu and Bilen, Learning Multiple Dense
        Prediction Tasks from Partially Annotated Data, CVPR 2022. Single labels are dealt out evenly here, so
        that no task has more of them by chance.
    """

    def __init__(
        self,
        dataset: DataSet,
        keep: Keep = "one_label",
        fraction: float | Mapping[str, float] | None = None,
        seed: int = 0,
        among: DataSet | None = None,
    ) -> None:
        known = get_args(Keep)
        if keep not in known:
            raise ConfigurationError(
                f"keep must be one of {', '.join(known)}, got {keep!r}{nearest(str(keep), known)}"
            )
        self.dataset = dataset
        self.keep = keep
        self.seed = seed
        self.split = dataset.split
        self.fields: Mapping[str, type[Label]] = dataset.fields
        self.classes: Mapping[str, Sequence[str]] = dataset.classes
        had = [labels_of(dataset, place) for place in range(len(dataset))]
        self._had = Counter(label for labels in had for label in labels)
        fractions = _fractions(keep, fraction, dataset.fields)
        if among is None:
            ids = [dataset.id(place) for place in range(len(dataset))]
            self._kept = _chosen(ids, had, keep, fractions, seed)
            return
        ids = [among.id(place) for place in range(len(among))]
        present = [labels_of(among, place) for place in range(len(among))]
        chosen = dict(zip(ids, _chosen(ids, present, keep, fractions, seed), strict=True))
        names = [dataset.id(place) for place in range(len(dataset))]
        if lost := [name for name in names if name not in chosen]:
            raise DataError(
                f"sample {lost[0]} of {dataset.split} is not there when all labels are asked for that are "
                f"chosen among: give the data set options that leave its samples the same"
            )
        self._kept = [chosen[name] & labels for name, labels in zip(names, had, strict=True)]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # a copy that is being unpickled has no data set yet
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return len(self.dataset)

    def id(self, place: int) -> str:
        """The name of the sample at a place."""
        return self.dataset.id(place)

    def present(self, place: int) -> frozenset[str]:
        """The labels that are shown of a sample."""
        return self._kept[place]

    def __getitem__(self, place: int) -> Sample:
        sample = self.dataset[place]
        kept = self._kept[place]
        targets = {name: label for name, label in sample.targets.items() if name in kept}
        return Sample(sample.id, sample.image, targets, sample.geometry)

    @property
    def facts(self) -> Mapping[str, str]:
        """What a person wants to know about the set, and how many labels of each kind are shown."""
        shown = Counter(label for labels in self._kept for label in labels)
        counts = ", ".join(f"{label} {shown[label]} of {count}" for label, count in sorted(self._had.items()))
        return {
            **getattr(self.dataset, "facts", {}),
            "labels shown": f"{counts or 'none'} (keep {self.keep}, seed {self.seed})",
        }


def _fractions(
    keep: str, fraction: float | Mapping[str, float] | None, fields: Mapping[str, type[Label]]
) -> dict[str, float]:
    """``{label: fraction}`` for every label; empty where nothing is kept by fraction."""
    if keep != "fraction":
        if fraction is not None:
            raise ConfigurationError(
                f"fraction is only for keep 'fraction', got {fraction!r} with keep {keep!r}: leave it out"
            )
        return {}
    if fraction is None:
        raise ConfigurationError("keep 'fraction' needs a fraction in [0, 1], for all labels or by label")
    given = dict(fraction) if isinstance(fraction, Mapping) else dict.fromkeys(fields, fraction)
    for label, part in given.items():
        if label not in fields:
            raise ConfigurationError(
                f"fraction names the label {label!r}{nearest(label, fields)}; there are {', '.join(fields)}"
            )
        if not 0 <= part <= 1:
            raise ConfigurationError(f"the fraction of label {label!r} must be in [0, 1], got {part!r}")
    return {**dict.fromkeys(fields, 1.0), **given}


def _chosen(
    ids: Sequence[str],
    present: Sequence[frozenset[str]],
    keep: str,
    fractions: Mapping[str, float],
    seed: int,
) -> list[frozenset[str]]:
    """The labels that are shown of each sample."""
    if keep == "random":
        return [_some(name, labels, seed) for name, labels in zip(ids, present, strict=True)]
    kept: list[set[str]] = [set() for _ in ids]
    if keep == "one_label":
        used: Counter[str] = Counter()
        turn = {label: _number(seed, "", label) for label in set().union(*present)}
        # Samples with the fewest labels have the least choice, so they come first.
        places = sorted(range(len(ids)), key=lambda place: (len(present[place]), _number(seed, ids[place])))
        for place in places:
            if present[place]:
                label = min(present[place], key=lambda label: (used[label], turn[label]))
                used[label] += 1
                kept[place].add(label)
    for label, fraction in fractions.items():
        having = [place for place in range(len(ids)) if label in present[place]]
        having.sort(key=lambda place: _number(seed, ids[place], label))
        for place in having[: round(fraction * len(having))]:
            kept[place].add(label)
    return [frozenset(labels) for labels in kept]


def _some(name: str, labels: frozenset[str], seed: int) -> frozenset[str]:
    """1 to T - 1 of T labels."""
    many = 1 + _number(seed, name) % max(1, len(labels) - 1)
    return frozenset(sorted(labels, key=lambda label: _number(seed, name, label))[:many])


def _number(*parts: object) -> int:
    """A number that depends on the parts alone, as good as random."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest())
