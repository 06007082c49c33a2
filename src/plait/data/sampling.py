"""Which samples make the batch of a step, where labels may be missing: a pure function of (seed, step).

============== =========================================================================================
``shuffled``   permutations of the samples, laid end to end
``every_task`` shuffled, with a sample labelled for every task in each batch
``per_task``   as from one loader a task, of different lengths: each task runs through its own samples
============== =========================================================================================

A batch here is the whole batch of a step, over all processes and accumulated parts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from plait.data.partial import labels_of
from plait.data.sample import DataSet
from plait.errors import ConfigurationError
from plait.registry import nearest
from plait.tasks.base import Task

Places = NDArray[np.int64]
Sampling = Literal["shuffled", "every_task", "per_task"]


@dataclass(frozen=True)
class Draw:
    """A sample of a batch.

    Attributes:
        place: Its place in the data set.
        epoch: With the seed, decides its view.
        repeat: Tells the views of a sample apart that comes more than once in an epoch.
    """

    place: int
    epoch: int
    repeat: int = 0


class Sampler(Protocol):
    """Gives the samples of a step's batch; the same ones whoever asks, in whatever order of steps."""

    def __call__(self, step: int) -> Sequence[Draw]: ...


def make_sampler(
    sampling: str, dataset: DataSet, tasks: Sequence[Task], batch_size: int, seed: int
) -> Sampler:
    """The sampler of a name.

    Args:
        sampling: See the table above.
        dataset: Not empty; ``every_task`` and ``per_task`` need its ``present``.
        tasks: What is trained; their labels count.
        batch_size: Samples of a step, over all processes and accumulated parts.
        seed: Of the order.

    Raises:
        ConfigurationError: If the name is unknown, the data set cannot say which labels its samples have, or
            there is no such order of them.
    """
    if sampling == "shuffled":
        return Shuffled(len(dataset), batch_size, seed)
    wanted = list(dict.fromkeys(task.label for task in tasks))
    if sampling == "every_task":
        return EveryTask(_present(dataset), wanted, batch_size, seed)
    if sampling == "per_task":
        return PerTask(_present(dataset), wanted, batch_size, seed)
    known = get_args(Sampling)
    raise ConfigurationError(
        f"sampling must be one of {', '.join(known)}, got {sampling!r}{nearest(sampling, known)}"
    )


def _present(dataset: DataSet) -> list[frozenset[str]]:
    return [labels_of(dataset, place) for place in range(len(dataset))]


def epoch_order(samples: int, seed: int, epoch: int) -> Places:
    """The order of an epoch: a permutation of ``range(samples)`` that depends on these numbers alone."""
    return np.random.default_rng([abs(seed), seed < 0, epoch]).permutation(samples)


class Shuffled:
    """Step ``k`` takes samples ``k * batch_size`` onwards of the shuffled epochs laid end to end.

    Args:
        samples: How many there are.
        batch_size: Samples of a step.
        seed: Of the order.
    """

    def __init__(self, samples: int, batch_size: int, seed: int) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed
        self._order: tuple[int, Places | None] = (-1, None)

    def __call__(self, step: int) -> list[Draw]:
        first = step * self.batch_size
        return [self._at(position) for position in range(first, first + self.batch_size)]

    def _at(self, position: int) -> Draw:
        epoch, place = divmod(position, self.samples)
        known, order = self._order
        if order is None or known != epoch:
            order = epoch_order(self.samples, self.seed, epoch)
            self._order = (epoch, order)
        return Draw(int(order[place]), epoch)


def _check_labelled(sampling: Sampling, having: Mapping[str, int], samples: int) -> None:
    """Raises :class:`ConfigurationError` unless each label is had by a sample."""
    for label, count in having.items():
        if not count:
            raise ConfigurationError(
                f"data.sampling {sampling} needs samples labelled for each task, but none of the {samples} "
                f"training samples has {label!r}: leave its task out, or sample shuffled"
            )


class PerTask:
    """Slots are dealt to the labels in turn, and each label runs through its own samples, epoch by epoch.

    Slot ``k`` of all batches laid end to end is label ``k mod T``'s, so a batch of a multiple of T samples
    holds equally many drawn for each. A sample counts for all labels that it has, whichever it was drawn for.
    Tasks that share a label count once.

    Args:
        present: The labels of each sample.
        wanted: The labels of the tasks.
        batch_size: Samples of a step.
        seed: Of the orders.

    Raises:
        ConfigurationError: If no sample has one of the labels.
    """

    def __init__(
        self, present: Sequence[frozenset[str]], wanted: Sequence[str], batch_size: int, seed: int
    ) -> None:
        self.pools = [
            np.array([place for place, labels in enumerate(present) if label in labels], dtype=np.int64)
            for label in wanted
        ]
        _check_labelled("per_task", dict(zip(wanted, map(len, self.pools), strict=True)), len(present))
        self.batch_size = batch_size
        self.seed = seed
        self._orders: dict[int, tuple[int, Places]] = {}

    def __call__(self, step: int) -> list[Draw]:
        first = step * self.batch_size
        return [self._at(slot) for slot in range(first, first + self.batch_size)]

    def _at(self, slot: int) -> Draw:
        turn, label = divmod(slot, len(self.pools))
        pool = self.pools[label]
        epoch, place = divmod(turn, len(pool))
        known, order = self._orders.get(label, (-1, pool))
        if known != epoch:
            order = np.random.default_rng([abs(self.seed), self.seed < 0, epoch, label]).permutation(pool)
            self._orders[label] = (epoch, order)
        # A sample is drawn once for each of its labels in an epoch, each time with another view.
        return Draw(int(order[place]), epoch, repeat=label)


Kind = frozenset[str]
"""Which of the wanted labels a sample has."""


class EveryTask:
    """Each batch holds a sample with every label; else samples come about once an epoch.

    An epoch is a fixed number of batches, so many that all samples find room. Every sample is in at least one
    of them. A sample is repeated only where a batch would lack a label without it (so the labelled
    samples of a rare task repeat, evenly), or to fill the epoch's last slots.

    Which kinds of samples (by the labels that they have) make up the batches of an epoch is settled once;
    each epoch then draws the samples of each kind and the order of the batches anew.

    Args:
        present: The labels of each sample.
        wanted: The labels of the tasks.
        batch_size: Samples of a step.
        seed: Of the order.

    Raises:
        ConfigurationError: If no sample has one of the labels, or a batch of this size cannot hold every
            label, or only at the price that some samples are never seen.
    """

    def __init__(
        self, present: Sequence[frozenset[str]], wanted: Sequence[str], batch_size: int, seed: int
    ) -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.samples = len(present)
        self.members: dict[Kind, list[int]] = {}
        for place, labels in enumerate(present):
            self.members.setdefault(labels.intersection(wanted), []).append(place)
        counts = {kind: len(places) for kind, places in self.members.items()}
        self.covers = _covers(counts, wanted, batch_size)
        self._epoch: tuple[int, list[list[Draw]]] = (-1, [])

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return len(self.covers)

    def __call__(self, step: int) -> list[Draw]:
        epoch, place = divmod(step, self.steps)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._batches(epoch))
        return self._epoch[1][place]

    def _batches(self, epoch: int) -> list[list[Draw]]:
        random = np.random.default_rng([abs(self.seed), self.seed < 0, epoch])
        orders = {kind: _Endless(places, random) for kind, places in self.members.items()}
        batches = [
            [next(orders[kind]) for kind in self.covers[place]] for place in random.permutation(self.steps)
        ]
        rest = [place for order in orders.values() for place in order.unused()]
        fill = iter(random.permutation(rest).tolist())
        again = _Endless(range(self.samples), random)
        for batch in batches:
            batch += islice(fill, self.batch_size - len(batch))
            while len(batch) < self.batch_size:
                place = next(again)
                if place not in batch or len(batch) >= self.samples:
                    batch.append(place)
            random.shuffle(batch)
        seen: Counter[int] = Counter()
        return [[self._draw(place, epoch, seen) for place in batch] for batch in batches]

    @staticmethod
    def _draw(place: int, epoch: int, seen: Counter[int]) -> Draw:
        seen[place] += 1
        return Draw(place, epoch, repeat=seen[place] - 1)


class _Endless:
    """Permutations of some places, laid end to end."""

    def __init__(self, places: Sequence[int], random: np.random.Generator) -> None:
        self.places = np.array(places, dtype=np.int64)
        self.random = random
        self.taken = 0
        self.order = random.permutation(self.places)

    def __next__(self) -> int:
        turn, place = divmod(self.taken, len(self.places))
        if turn and not place:
            self.order = self.random.permutation(self.places)
        self.taken += 1
        return int(self.order[place])

    def unused(self) -> list[int]:
        """The places that were not taken yet."""
        found: list[int] = self.order[self.taken :].tolist() if self.taken < len(self.places) else []
        return found


def _covers(counts: Mapping[Kind, int], wanted: Sequence[str], batch_size: int) -> list[list[Kind]]:
    """For each batch of an epoch the kinds that give it every label; the rest of it is free for any sample.

    Args:
        counts: How many samples there are of each kind.
        wanted: The labels.
        batch_size: Samples of a batch.

    Raises:
        ConfigurationError: As :class:`EveryTask`.
    """
    having = {label: sum(count for kind, count in counts.items() if label in kind) for label in wanted}
    _check_labelled("every_task", having, sum(counts.values()))
    labels = sorted(wanted, key=lambda label: having[label])  # the rarest first

    @cache
    def others(kind: Kind) -> list[Kind]:
        return _fewest(list(counts), frozenset(labels) - kind)

    if len(labels) >= batch_size:
        _check_room(labels, max(1 + len(others(kind)) for kind in counts), batch_size)
    unused, used, covers, room = dict(counts), Counter[Kind](), list[list[Kind]](), 0
    while room < sum(unused.values()):
        batch = _label_by_label(labels, counts, unused, used)
        if len(batch) > batch_size or (len(batch) == batch_size and not any(unused[k] for k in batch)):
            kind = max(unused, key=lambda kind: unused[kind])
            batch = [kind, *others(kind)]
        for kind in batch:
            unused[kind] -= unused[kind] > 0
            used[kind] += 1
        covers.append(batch)
        room += batch_size - len(batch)
    return covers


def _label_by_label(
    labels: Sequence[str], counts: Mapping[Kind, int], unused: Mapping[Kind, int], used: Mapping[Kind, int]
) -> list[Kind]:
    """Kinds that have all labels together, chosen for one label after the other.

    Each is the one of which most samples are unused or, if all were used, the one used least.
    """
    batch: list[Kind] = []
    for label in labels:
        if not any(label in kind for kind in batch):
            fitting = [kind for kind in counts if label in kind]
            batch.append(max(fitting, key=lambda kind: (unused[kind], -used.get(kind, 0) / counts[kind])))
    return batch


def _check_room(labels: Sequence[str], needed: int, batch_size: int) -> None:
    """Raises unless each sample can be in a batch of this size that has every label."""
    if batch_size < needed:
        raise ConfigurationError(
            f"data.sampling every_task needs training.batch_size to be at least {needed}, for each training "
            f"sample to be in a batch that is labelled for {', '.join(sorted(labels))}: got {batch_size}"
        )


def _fewest(kinds: Sequence[Kind], labels: Kind) -> list[Kind]:
    """The fewest kinds that have all labels together, found by trying all sets of one, of two, ...

    In whatever order a set is tried it gives the same, so each next kind is one with the first label that the
    kinds before it lack.
    """
    order = sorted(labels)
    giving = {label: [kind for kind in kinds if label in kind] for label in order}
    reached: dict[Kind, list[Kind]] = {frozenset(): []}
    newest = reached
    while labels not in reached:
        lacking = {had: next(label for label in order if label not in had) for had in newest}
        further = {
            (had | kind) & labels: [*some, kind]
            for had, some in newest.items()
            for kind in giving[lacking[had]]
        }
        newest = {had: some for had, some in further.items() if had not in reached}
        reached = reached | newest
    return reached[labels]
