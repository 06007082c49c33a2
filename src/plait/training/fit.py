"""Training, from a recipe to a finished run; started again, it goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState  # type: ignore[import-untyped]

from plait.config import Recipe, dump, load_recipe, may_change, plain
from plait.data.device import DrawnBatch
from plait.data.loader import Normalisation, drawn_batches, train_batches
from plait.data.sample import Batch, DataSet
from plait.data.transforms import Augmentation
from plait.errors import ConfigurationError, PlaitError
from plait.models.network import MultiTaskNetwork
from plait.registry import check_arguments
from plait.training.affinity import check_shares, task_affinity
from plait.training.checkpoint import explained_full_disk, find, write_atomically
from plait.training.diagnosis import Measurement, users_of
from plait.training.distributed import rank, world_size
from plait.training.environment import environment
from plait.training.evaluate import evaluate, evaluate_images
from plait.training.journal import Journal, Progress, nested, shown
from plait.training.logs import flat
from plait.training.processes import join
from plait.training.run import ENVIRONMENT, IMAGES, RECIPE, SCORES, Run, load_run, make_network
from plait.training.selection import split_loss
from plait.training.session import Session, Stopwatch, make_trial
from plait.training.step import NonFiniteWatch
from plait.training.tuning import Choices, choose, threads


def train(
    recipe: Recipe | Path | str,
    out: Path | str,
    *,
    resume: bool = True,
    progress: bool | Progress = True,
    split: str | None = None,
) -> Run:
    """Trains the network of a recipe, scores it on the test split, and keeps everything in a folder.

    Killed at any point and started again, it ends with the same weights as if it had not been: bit by bit on
    the same processor.

    Args:
        recipe: What decides the run, or the YAML file or built-in name of it.
        out: The run's folder; :mod:`plait.training.run` says what is in it.
        resume: Go on with the run of this recipe that is there; otherwise such a folder is refused.
        progress: Show a bar; or a function that is told of each logged step.
        split: The split that is scored at the end; None for the recipe's test split. A run that settings are
            chosen by is scored on the validation split.

    Returns:
        The finished run.

    Raises:
        ConfigurationError: If parts of the recipe cannot work together, or ``out`` holds another run.
        NonFiniteLossError: If a loss is not finite and ``training.non_finite`` is ``stop``.
        PlaitError: If the disk is full, or an image cannot be read; what was done is kept.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    processes, run = join(), Run(Path(out), recipe)
    claim(run, resume, processes)
    if run.finished:
        return run
    with free_if_nothing_done(run), own_random_numbers(recipe.training.seed, processes.device):
        last = run.path / "checkpoints" / "last"
        model = make_network(recipe, run.tasks, pretrained=None if find(last) is None else False)
        dataset = run.dataset(recipe.data.train_split)
        choices = settled(run, model.to(processes.device), processes, dataset)
        with threads(choices.threads):
            session = Session(recipe, model, choices)
            session.restore(last)
            with shown(progress if processes.is_main_process else False, session.step) as tell:
                fit(session, run, dataset, tell)
            processes.wait_for_everyone()  # the first one has written the weights that all of them score
            score(session, run, split or recipe.data.test_split)
    processes.wait_for_everyone()
    return run


def fit(session: Session, run: Run, dataset: DataSet, tell: Progress) -> None:
    """The loop: batches, step, log, validation, checkpoint."""
    training = run.recipe.training
    last, validates = run.path / "checkpoints" / "last", validation_interval(run.recipe)
    batches = micro_batches(run, dataset, session.model.normalisation, session.step, session.batches)
    watch = NonFiniteWatch([task.name for task in run.tasks], policy=training.non_finite)
    if training.affinity_every is not None:
        check_shares(session.model)
    if training.diagnose_every is not None:
        users_of(session.model)  # refuses a network that shares nothing
    journal = Journal(session, run, tell, writes=rank() == 0, validates=validates is not None)

    def due(*intervals: int | None) -> bool:
        ended = session.step == training.steps
        return any(every is not None and (ended or session.step % every == 0) for every in intervals)

    def measures(every: int | None) -> bool:
        return every is not None and (session.step + 1) % every == 0

    @cache
    def held_out() -> DataSet:  # opened once, if at all: listing a large folder takes a while
        return run.dataset(run.recipe.data.validation_split)

    def look() -> None:
        if due(validates) and session.validated < session.step:
            watch.check()
            with kept_on_error(session, last):
                row = validate(session, run, held_out())
            journal.line({"step": session.step, **row})

    session.model.train()
    look()  # the last session may have ended in the middle of it
    while session.step < training.steps:
        with Stopwatch(session):
            with kept_on_error(session, last):
                micro, *extra = (
                    [session.place(batch) for batch in islice(batches, training.accumulate)]
                    for _ in range(session.batches)
                )
            session.begin_step()
            affinity = measurement = gradients = None
            if measures(training.affinity_every):
                affinity = task_affinity(session.model, micro, lr=session.lr)
            if measures(training.diagnose_every):
                measurement = Measurement.take(
                    session.model,
                    micro,
                    precision=session.choices.precision,
                    scale=None if session.scaler is None else session.scaler.scale,
                )
            report = session.update(micro, extra)
            if measurement is not None:
                gradients = measurement.after(
                    report, clip_norm=training.clip_norm, one_update=not training.alternate_tasks
                )
                measurement = None
            session.end_step(len(dataset))
        watch.observe(session.step, report)
        journal.add(report)
        if due(training.log_every, training.checkpoint_every):
            journal.write()
        if affinity is not None:
            journal.line({"step": session.step, "affinity": affinity})
        if gradients is not None:
            journal.line({"step": session.step, "gradients": gradients})
        look()
        if due(training.checkpoint_every):
            watch.check()
            session.save(last)
    journal.close()


def micro_batches(
    run: Run, dataset: DataSet, normalisation: Normalisation, step: int, batches: int = 1
) -> Iterator[Batch | DrawnBatch]:
    """The parts of each step's batch, from a step on; ``to(device)`` puts either kind of them there.

    A step's parts are consecutive batches of a part's size: together they hold the samples of one batch. A
    step that sees several ``batches`` has the parts of one after those of another.
    """
    training = run.recipe.training
    give: Callable[..., Iterator[Batch | DrawnBatch]] = train_batches
    if training.augment_on == "device":
        give = drawn_batches
    return give(
        dataset,
        run.tasks,
        make_augmentation(run.recipe.augmentation),
        normalisation,
        batch_size=training.batch_size // training.accumulate,
        seed=training.seed,
        start_step=step * training.accumulate * batches,
        workers=training.workers,
        rank=rank(),
        world_size=world_size(),
        sampling=run.recipe.data.sampling,
        parts=training.accumulate,
    )


def validate(session: Session, run: Run, dataset: DataSet) -> dict[str, Any]:
    """Scores the validation split; keeps the weights as ``best`` if the recipe asks and they are.

    Returns:
        A part of the log's line.
    """
    recipe = run.recipe
    session.agree()
    row: dict[str, Any] = {}
    loss = None
    with session.weights_to_use():
        scores = evaluate(session.model, dataset, evaluation=recipe.evaluation)
        row["validation"] = {task: nested(numbers) for task, numbers in scores.items()}
        if recipe.training.criterion == "loss":
            losses = split_loss(
                session.model,
                dataset,
                size=recipe.evaluation.size,
                batch_size=recipe.evaluation.batch_size,
                device=session.device,
            )
            row["validation_loss"], loss = nested(losses), sum(losses.values())
    if session.balancer.needs.scores:
        session.balancer.see_scores(scores)
    better = recipe.training.keep == "best" and session.selection.improved(session.step, scores, loss)
    session.validated = session.step
    if better:
        session.save(run.path / "checkpoints" / "best")
    return row


def score(session: Session, run: Run, split: str) -> None:
    """Scores the run's final network: on the test split, what is reported, and never selected by."""
    model = run.model(session.device)
    scores, images = evaluate_images(model, run.dataset(split), evaluation=run.recipe.evaluation)
    if rank() == 0:
        with explained_full_disk(f"the scores in {run.path}"):
            images.save(run.path / IMAGES)  # first: a run with scores is finished
            write_atomically(run.path / SCORES, scores.json() + "\n")


def claim(run: Run, resume: bool, processes: PartialState) -> None:
    """Makes the run's folder, or checks that it holds a run of the same recipe.

    Raises:
        ConfigurationError: If it holds another run, or any run without ``resume``, or is a file.
    """
    if processes.is_main_process:
        if (run.path / RECIPE).is_file():
            if not resume:
                raise ConfigurationError(
                    f"{run.path} already holds a run: choose another folder, or resume it"
                )
            known = load_run(run.path).recipe
            if differing := differences(known, run.recipe):
                key, before, now = differing[0]
                raise ConfigurationError(
                    f"{run.path} holds a run of another recipe ({key} is {before} there and {now} here): "
                    f"choose another folder"
                )
        else:
            if run.path.exists() and not run.path.is_dir():
                raise ConfigurationError(
                    f"expected a folder for the run, but {run.path} is a file: choose another"
                )
            with explained_full_disk(f"the run's folder {run.path}"):
                run.path.mkdir(parents=True, exist_ok=True)
                write_atomically(run.path / RECIPE, dump(run.recipe))
    processes.wait_for_everyone()


@contextmanager
def free_if_nothing_done(run: Run) -> Iterator[None]:
    """Frees the folder of a run that ends with an error before its first checkpoint, for a mended recipe."""
    try:
        yield
    except PlaitError:
        if rank() == 0 and find(run.path / "checkpoints" / "last") is None:
            for name in (RECIPE, ENVIRONMENT):
                (run.path / name).unlink(missing_ok=True)
        raise


def differences(one: Recipe, other: Recipe) -> list[tuple[str, str, str]]:
    """The keys in which two recipes differ, but for those that may, with both values as they are written."""
    ours, theirs = plain(one), plain(other)
    first, second = dict(flat(ours)), dict(flat(theirs))
    return [
        (key, written(ours, key), written(theirs, key))
        for key in {**first, **second}
        if first.get(key) != second.get(key) and not may_change(key)
    ]


def written(recipe: Mapping[str, Any], key: str) -> str:
    """What a recipe says at a dotted key, which may be a name in one and a part with options in another.

    >>> written({"encoder": {"name": "mtan"}}, "encoder"), written({"encoder": "mtan"}, "encoder.name")
    ("{'name': 'mtan'}", 'not set')
    """
    value: Any = recipe
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return "not set"
        value = value[part]
    return repr(value)


def settled(run: Run, model: MultiTaskNetwork, processes: PartialState, dataset: DataSet) -> Choices:
    """Threads, precision and layout: as the run was begun, or chosen now and written down."""
    path = run.path / ENVIRONMENT
    begun = path.is_file()
    processes.wait_for_everyone()  # all have looked before one writes
    if not begun:
        batch = next(micro_batches(run, dataset, model.normalisation, step=0)).to(processes.device)
        trial = make_trial(model, batch, processes.device)
        choices = choose(run.recipe.training, processes.device, trial, processes=processes.num_processes)
        if processes.is_main_process:
            told = {
                **environment(),
                "seed": run.recipe.training.seed,
                "processes": processes.num_processes,
                "choices": choices.json(),
            }
            with explained_full_disk(f"{path}"):
                write_atomically(path, json.dumps(told, indent=1) + "\n")
    processes.wait_for_everyone()
    return Choices(**run.environment["choices"])


def make_augmentation(options: Mapping[str, Any]) -> Augmentation:
    """The augmentation of a recipe.

    Raises:
        ConfigurationError: If an option is unknown (names the nearest), or a value is wrong.
    """
    if "size" not in options:
        raise ConfigurationError("augmentation needs a size, as in augmentation: {size: [192, 256]}")
    check_arguments("augmentation", Augmentation, options, but=())
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
    try:
        return Augmentation(**values)
    except TypeError as error:
        raise ConfigurationError(f"augmentation: {error}") from error


def validation_interval(recipe: Recipe) -> int | None:
    """Steps between validations; None for a run that needs none."""
    training = recipe.training
    if training.validate_every is None and training.keep == "best":
        return training.checkpoint_every
    return training.validate_every


@contextmanager
def kept_on_error(session: Session, place: Path) -> Iterator[None]:
    """Saves what was done before a sentence such as "cannot read this image" ends the run.

    With several processes the last checkpoint has to do: saving takes all of them, and the others wait
    elsewhere.
    """
    try:
        yield
    except PlaitError:
        if world_size() == 1 and session.step > 0:
            session.save(place)
        raise


@contextmanager
def own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers from a seed; the caller's go on afterwards as if nothing had been."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
