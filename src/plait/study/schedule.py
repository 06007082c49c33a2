"""Which run comes next: from arms to runs, from runs to jobs, and from how they ended to what follows.

Everything that must outlive this process is in the study's :class:`plait.study.ledger.Ledger` before anything
depends on it. What is planned is a function of the study and the ledger, so a scheduler that starts again
plans the same, whatever stopped the last one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plait import config
from plait.config import Recipe, dump
from plait.errors import PlaitError
from plait.study.arms import Network, PlannedArm, with_training
from plait.study.executors.base import Executor, Job, Outcome
from plait.study.identity import identity
from plait.study.ledger import MOST_ATTEMPTS, Kind, Ledger, Place, Row, State
from plait.study.plan import Study
from plait.training.scores import Scores

HEARTBEAT = 15.0
LOOK = 2.0
"""Seconds between looks at what other schedulers have done."""


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A run that is known, though it may have to wait for others.

    Attributes:
        job: What to compute.
        kind: ``run``, ``trial`` or ``measurement``.
        place: Where it stands.
        folder: Its folder.
        after: Identities of the runs that must be finished before.
        order: Smaller comes first.
    """

    job: Job
    kind: Kind
    place: Place | None
    folder: Path
    after: tuple[str, ...] = ()
    order: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """What a person calls it."""
        if self.place is None:
            return self.kind
        at = self.place
        trial = f", trial {at.trial + 1}" if at.trial >= 0 else f", seed {at.seed}"
        return f"{at.arm}{f' on {at.task}' * bool(at.task)}{trial}"


@dataclass
class Snapshot:
    """How a study stands, for whoever shows it.

    Attributes:
        planned: Every known run by identity.
        rows: Their state.
        expected: How many runs and trials there will be in all.
        running: What this scheduler is computing, with when it began (monotonic seconds).
        unsettled: Sentences about networks that are not trained, because no trial gave them settings.
    """

    planned: Mapping[str, Planned]
    rows: Mapping[str, Row]
    expected: int
    running: Mapping[str, float]
    unsettled: Sequence[str] = ()

    def count(self, state: str) -> int:
        """How many runs and trials are in a state."""
        return sum(self.rows[i].state == state for i in self.planned if i in self.rows)


@dataclass
class Search:
    """How far the search for a network's settings has come.

    Attributes:
        start: The recipe's own settings.
        history: Settings and value of each trial that has ended; None for one that failed.
        first: Scores of the first that finished.
        asked: The trial that has not ended.
    """

    start: Mapping[str, Any]
    history: list[tuple[Mapping[str, Any], float | None]] = field(default_factory=list)
    first: Scores | None = None
    asked: Planned | None = None


@dataclass
class Scheduler:
    """Carries a study out.

    Attributes:
        study: What is compared.
        arms: Its arms.
        folder: Its folder.
        ledger: Its state.
        executor: Where jobs are computed.
        found: Finished runs that were found on disk: ``{identity: folder}``.
        tell: Called with every change that is worth showing.
        said: Called with a sentence about each run that ended.
    """

    study: Study
    arms: Sequence[PlannedArm]
    folder: Path
    ledger: Ledger
    executor: Executor
    found: Mapping[str, Path] = field(default_factory=dict)
    tell: Callable[[Snapshot], None] = lambda _: None
    said: Callable[[str], None] = lambda _: None
    planned: dict[str, Planned] = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)
    begun: bool = False
    searches: dict[tuple[str, str], Search] = field(default_factory=dict)
    expanded: set[tuple[str, str]] = field(default_factory=set)
    unsettled: dict[tuple[str, str], str] = field(default_factory=dict)
    standing: dict[tuple[str, str, int, int], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rows = self.ledger.rows()

    @property
    def expected(self) -> int:
        """How many runs and trials there will be in all, those that arms share counted once."""
        if len(self.expanded) == sum(len(arm.networks) for arm in self.arms):
            return sum(planned.kind != "measurement" for planned in self.planned.values())
        trials = self.study.tuning.trials if self.study.tuning is not None else 0
        return sum(len(arm.networks) for arm in self.arms) * (trials + len(self.study.seeds))

    def measure(self, job: Job) -> Row:
        """Computes a measurement before anything else runs, or takes it as it was.

        Raises:
            PlaitError: If it cannot be computed: an arm cannot be built, most often.
        """
        measurement = Planned(job=job, kind="measurement", place=None, folder=self.folder)
        self.know([measurement])
        row = self.ledger.rows()[job.identity]
        if row.state == "failed":  # what was wrong may have been put right
            self.ledger.retry_one(job.identity)
        self.work()
        row = self.ledger.rows()[job.identity]
        if row.state == "failed":
            raise PlaitError(row.error)
        return row

    def forget(self, name: str) -> None:
        """Computes a measurement again the next time."""
        self.ledger.forget(name)
        del self.planned[name]

    def run(self) -> Snapshot:
        """Computes everything that can be; what failed, and what waits for it, stays."""
        self.begun = True
        self.expand()
        self.work()
        return self.snapshot()

    def work(self) -> None:
        """Submits, waits and writes down, until nothing is left that could be computed."""
        self.ledger.recover()
        self.rows = self.ledger.rows()
        beaten = looked = time.monotonic()
        try:
            while True:
                self.submit()
                now = time.monotonic()
                if not self.running:
                    if not self.others_run():
                        if self.begun:
                            self.expand()
                        if next(self.ready(), None) is None:
                            break
                        continue  # others have finished meanwhile what it waited for
                    time.sleep(LOOK)
                if now - looked > LOOK:
                    self.ledger.recover()
                    self.rows, looked = self.ledger.rows(), now
                    if self.begun:
                        self.expand()
                if now - beaten > HEARTBEAT:
                    self.ledger.beat()
                    beaten = now
                for outcome in self.executor.wait(0.5) if self.running else ():
                    self.record(outcome)
                self.tell(self.snapshot())
        finally:
            with suppress(PlaitError):  # on a full disk: whoever comes next sees that we are dead
                for name in self.running:
                    self.ledger.give_back(name, count=False)

    def others_run(self) -> bool:
        """Whether another scheduler computes something that is ours to wait for."""
        self.rows = self.ledger.rows()
        return any(self.rows[name].state == "running" for name in self.planned)

    def submit(self) -> None:
        """Starts what is ready, as long as there is room."""
        for planned in self.ready():
            if self.running and not self.executor.has_room(planned.job):
                return  # with nothing running, the executor says why there will never be room
            name = planned.job.identity
            if not self.ledger.claim(name):
                continue
            self.running[name] = time.monotonic()
            self.rows[name] = self.ledger.row(name)
            self.executor.submit(planned.job)

    def ready(self) -> Iterator[Planned]:
        """The waiting runs whose predecessors are finished, in order."""
        done = {name for name, row in self.rows.items() if row.state == "finished"}
        for planned in sorted(self.planned.values(), key=lambda p: p.order):
            waiting = self.rows[planned.job.identity].state == "waiting"
            if waiting and done.issuperset(planned.after):
                yield planned

    def record(self, outcome: Outcome) -> None:
        """Writes down how a job ended."""
        name = outcome.identity
        planned, row = self.planned[name], self.rows[name]
        self.running.pop(name, None)
        if outcome.state == "stopped":
            self.ledger.give_back(name, count=False)
            raise PlaitError(outcome.error)
        if outcome.state == "lost" and row.attempts < MOST_ATTEMPTS:
            self.ledger.give_back(name, count=True)
            self.said(f"{planned.name} was lost and is tried again: {outcome.error}")
        else:
            error = outcome.error
            if outcome.state == "lost":
                error = f"lost {row.attempts} times, the last time because {error}"
            state: State = "finished" if outcome.state == "finished" else "failed"
            self.ledger.end(
                name,
                state,
                error=error,
                seconds=outcome.seconds,
                result={key: value for key, value in outcome.result.items() if key != "scores"},
            )
            how = f"finished in {outcome.seconds:.0f} s" if state == "finished" else f"failed: {error}"
            if planned.kind != "measurement":
                self.said(f"{planned.name} {how}")
        self.rows[name] = self.ledger.row(name)
        if planned.kind != "measurement":
            self.expand()

    def snapshot(self) -> Snapshot:
        """How the study stands now."""
        runs = {name: p for name, p in self.planned.items() if p.kind != "measurement"}
        return Snapshot(
            planned=runs,
            rows=self.rows,
            expected=self.expected,
            running=dict(self.running),
            unsettled=list(self.unsettled.values()),
        )

    def know(self, planned: Sequence[Planned]) -> None:
        """Takes planned runs on, and writes them down."""
        for one in planned:
            self.planned.setdefault(one.job.identity, one)
            if one.place is not None:
                at = one.place
                self.standing[at.arm, at.task, at.seed, at.trial] = one.job.identity
        names = {p.job.identity for p in planned if p.kind != "measurement"}
        self.ledger.add(
            [(p.job.identity, p.kind, self.stored(p.folder), p.place) for p in planned],
            finished=names.intersection(self.found),
            gone={name for name in names.difference(self.found) if self.is_gone(name)},
        )
        self.rows = self.ledger.rows()

    def is_gone(self, name: str) -> bool:
        """Whether a run was finished, but its folder has been taken away."""
        row = self.rows.get(name)
        if row is None or row.state != "finished":
            return False
        return not (self.folder / row.folder / "scores.json").is_file()

    def stored(self, folder: Path) -> str:
        """A folder as the ledger has it: relative to the study's, where it lies in it."""
        try:
            return folder.resolve().relative_to(self.folder.resolve()).as_posix()
        except ValueError:
            return str(folder.resolve())

    def expand(self) -> None:
        """Plans what has become known: all runs at once, or the next trials of a search."""
        while fresh := [
            run
            for place, arm in enumerate(self.arms)
            for network in arm.networks
            if (arm.name, network.task) not in self.expanded
            for run in self.expanded_network(place, arm, network)
        ]:
            self.know(fresh)  # what starts from these can be planned next

    def expanded_network(self, place: int, arm: PlannedArm, network: Network) -> list[Planned]:
        """The runs of one network of an arm that have become known."""
        settings: Mapping[str, Any] | None = {}
        if self.study.tuning is not None:
            settings = self.search(place, arm, network)
            if settings is None:
                return []
        assert settings is not None
        recipe = with_settings(network.recipe, settings)
        runs = []
        for number, seed in enumerate(self.study.seeds):
            starts: dict[str, str] | None = None
            seeded = with_training(recipe, seed=seed)
            if arm.starts_from_reference:
                starts = self.reference_runs(arm, seed)
                if starts is None:
                    if any(name == arm.reference for name, _ in self.unsettled):
                        self.leave_out(arm, network, f"it starts from {arm.reference}, which is not")
                    return []
                folders = {task: str(self.planned[name].folder.resolve()) for task, name in starts.items()}
                seeded = config.replace(seeded, {"model.init_from": folders})
            runs.append(
                self.planned_run(
                    arm,
                    seeded,
                    Place(arm=arm.name, task=network.task, seed=seed, settings=dict(settings)),
                    order=(1, number, place),
                    starts_from=starts,
                )
            )
        self.expanded.add((arm.name, network.task))
        return runs

    def search(self, place: int, arm: PlannedArm, network: Network) -> Mapping[str, Any] | None:
        """The settings that the search has chosen; None, with its next trial planned, if it is not done."""
        from plait.study import search

        tuning = self.study.tuning
        assert tuning is not None
        key = (arm.name, network.task)
        if key not in self.searches:
            self.searches[key] = Search(start=own_settings(network.recipe, list(tuning.search)))
        found = self.searches[key]
        while len(found.history) < tuning.trials:
            if found.asked is None:
                name = f"{arm.name}/{network.task}"
                settings = search.suggest(tuning, name, found.history, found.start)
                recipe = with_training(with_settings(network.recipe, settings), seed=tuning.seed)
                if tuning.steps is not None:
                    recipe = with_training(recipe, steps=tuning.steps)
                at = Place(
                    arm=arm.name,
                    task=network.task,
                    seed=tuning.seed,
                    trial=len(found.history),
                    settings=settings,
                )
                split = recipe.data.validation_split
                found.asked = self.planned_run(arm, recipe, at, order=(0, at.trial, place), split=split)
                self.know([found.asked])
            asked = found.asked
            row = self.rows[asked.job.identity]
            if row.state not in ("finished", "failed"):
                return None
            value = None
            if row.state == "finished":
                scores = self.scores(self.planned[asked.job.identity].folder)
                found.first = found.first or scores
                value = search.value(found.first, scores, scores.measures)
            assert asked.place is not None
            found.history.append((dict(asked.place.settings), value))
            found.asked = None
        if not any(search.finished(value) for _, value in found.history):
            why = f"none of the {tuning.trials} trials of its search finished with a finite score"
            self.leave_out(arm, network, why)
            return None
        return search.best(found.history)

    def leave_out(self, arm: PlannedArm, network: Network, why: str) -> None:
        """Plans nothing for a network, and remembers why."""
        self.expanded.add((arm.name, network.task))
        name = arm.name + f" on {network.task}" * bool(network.task)
        self.unsettled[arm.name, network.task] = f"{name} is not trained: {why}"

    def scores(self, folder: Path) -> Scores:
        """The scores of a finished run."""
        return Scores.load(folder / "scores.json")

    def reference_runs(self, arm: PlannedArm, seed: int) -> dict[str, str] | None:
        """The single-task runs that a run of an arm starts from, by task; None if they are not known yet."""
        reference = next(r for r in self.arms if r.name == arm.reference)
        tasks = [network.task for network in reference.networks]
        found = {task: self.standing.get((reference.name, task, seed, -1)) for task in tasks}
        known = {task: name for task, name in found.items() if name is not None}
        return known if len(known) == len(found) else None

    def planned_run(
        self,
        arm: PlannedArm,
        recipe: Recipe,
        place: Place,
        *,
        order: tuple[int, ...],
        split: str | None = None,
        starts_from: Mapping[str, str] | None = None,
    ) -> Planned:
        """A run with its identity and folder."""
        name = identity(recipe, split=split, processes=arm.processes, starts_from=starts_from)
        folder = self.folder / "runs" / f"{slug(place)}-{name}"
        if name in self.found:
            folder = self.found[name]
        elif name in self.rows and not self.is_gone(name):  # begun under another arm's name
            folder = self.folder / self.rows[name].folder
        return Planned(
            job=Job(
                identity=name,
                call="train",
                arguments={"recipe": dump(recipe), "folder": str(folder.resolve()), "split": split},
                processes=arm.processes,
            ),
            kind="run" if place.trial < 0 else "trial",
            place=place,
            folder=folder,
            after=tuple((starts_from or {}).values()),
            order=order,
        )


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """A recipe with what a search has set."""
    return config.replace(recipe, settings) if settings else recipe


def own_settings(recipe: Recipe, keys: Sequence[str]) -> dict[str, Any]:
    """What a recipe has under dotted keys, without those that it does not set."""
    found = {}
    for key in keys:
        value: Any = config.plain(recipe)
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            found[key] = value
    return found


def slug(place: Place) -> str:
    """A part of a folder's name.

    >>> slug(Place(arm="cross stitch, lr 0.1", task="depth", seed=2))
    'cross_stitch_lr_0.1-depth-seed2'
    """
    words = "".join(c if c.isalnum() or c in "._-" else " " for c in place.arm).split()
    parts = ["_".join(words)[:60], place.task, f"seed{place.seed}"]
    return "-".join([part for part in parts if part] + [f"trial{place.trial}"] * (place.trial >= 0))


def found_runs(folders: Sequence[Path]) -> dict[str, Path]:
    """Finished runs in the studies' folders: ``{identity: folder}``."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted((folder / "runs").glob("*/scores.json")):
            name = path.parent.name.rpartition("-")[2]
            found.setdefault(name, path.parent)
    return found


def failures(snapshot: Snapshot) -> list[str]:
    """A sentence for every failed run, and one for those that wait for them."""
    failed = [p for name, p in snapshot.planned.items() if snapshot.rows[name].state == "failed"]
    told = [f"{p.name} failed: {snapshot.rows[p.job.identity].error}" for p in failed]
    told += snapshot.unsettled
    names = {p.job.identity for p in failed}
    waiting = Counter(
        p.place.arm
        for name, p in snapshot.planned.items()
        if snapshot.rows[name].state == "waiting" and names.intersection(p.after) and p.place is not None
    )
    told += [f"{arm}: {count} runs wait for a failed one" for arm, count in waiting.items()]
    return told
