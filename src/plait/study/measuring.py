"""What the arms of a study cost, measured alike in one process: inference, and true training steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml

from plait import config
from plait.config import Recipe
from plait.data.sample import DataSet, Sample
from plait.errors import ConfigurationError
from plait.models.network import MultiTaskNetwork
from plait.study.cost import Cost, measure_inference, measure_steps, synchronise, together, using_threads
from plait.study.energy import EnergyCounter, energy_counter
from plait.study.rehearsal import Rehearsal
from plait.training.evaluate import evaluate
from plait.training.fit import micro_batches, own_random_numbers
from plait.training.processes import join
from plait.training.run import Run, make_network
from plait.training.session import Session
from plait.training.tuning import Choices, choose, fixed

IMAGES = 2
"""Test images that the time of scoring one is measured on, after one that is not counted."""

ADDED = ("start_seconds", "load_seconds", "evaluate_seconds")
"""What is known of a network beside its cost, and adds up over an arm's."""


def measure_arms(
    arms: Mapping[str, Mapping[str, Any]], *, threads: int = 1, device: str | None = None, repeats: int = 7
) -> dict[str, Any]:
    """Measures arms beside each other: their networks take turns, so that a busy moment hits all alike.

    Weights are random and nothing is written. Inference is a forward pass of one image at the size that the
    network sees in evaluation (of one window, where a window slides). A training step is one in the middle of
    a run, always on the same images: gradient methods, further batches of the balancer, accumulated parts, an
    update for each task and averaged weights are in it, waiting for images is not. Where weights are used for
    several steps, it is their mean. Where a recipe leaves precision and memory layout to ``auto``, a
    processor takes float32 and the plain layout: what pays is only found out when a run begins.

    If the networks of all arms do not fit into an accelerator together, each arm is measured alone.

    Args:
        arms: ``{arm: {"recipe": YAML text}}``, or ``{arm: {"recipes": [YAML text, ...]}}`` for networks that
            predict all tasks together.
        threads: Processor threads, for all of them.
        device: For instance ``cpu`` or ``cuda:0``; None for the one that a run would take.
        repeats: How often inference is timed; training steps half as often.

    Returns:
        As JSON holds it: ``device``, ``threads``, ``energy_of`` (whose energy is counted; None if nobody's)
        and ``arms``. Each arm has the attributes of :class:`~plait.study.cost.Cost` and

        - ``macs``;
        - ``start_seconds``: making the network and opening its data;
        - ``load_seconds``: reading and augmenting the images of one step, with nothing beside it;
        - ``evaluate_seconds``: reading, predicting and scoring one test image;
        - ``test_images``: how many are scored in all;
        - ``networks``: all of these of each network; above them are their sums, but of memory and images.

        An arm that cannot be measured has only ``error``.
    """
    place = torch.device(device) if device is not None else join().device
    counter = energy_counter(place)
    with own_random_numbers(0, place), using_threads(threads):
        measured = partial(measured_together, device=place, repeats=repeats, counter=counter)
        try:
            told, fits = measured(arms), True
        except torch.OutOfMemoryError:
            told, fits = {}, False
        for arm in () if fits else arms:
            try:
                told |= measured({arm: arms[arm]})
            except torch.OutOfMemoryError as error:
                told[arm] = {"error": in_a_line(error)}
    return {
        "device": str(place),
        "threads": threads,
        "energy_of": None if counter is None else counter.of,
        "arms": told,
    }


def measured_together(
    arms: Mapping[str, Mapping[str, Any]],
    *,
    device: torch.device,
    repeats: int,
    counter: EnergyCounter | None,
) -> dict[str, Any]:
    """What :func:`measure_arms` tells of each arm.

    Raises:
        torch.OutOfMemoryError: If their networks do not fit into the accelerator together.
    """
    failed: dict[str, str] = {}

    def try_each(keys: Iterable[Any], call: Callable[[Any], Any]) -> dict[Any, Any]:
        """What a call gives for each arm, or each network of one; all of an arm leave if one fails."""
        made = {}
        for key in keys:
            try:
                if arm_of(key) not in failed:
                    made[key] = call(key)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # noqa: BLE001  what one arm dies of must not take the others' numbers
                failed[arm_of(key)] = in_a_line(error)
        return {key: value for key, value in made.items() if arm_of(key) not in failed}

    recipes = try_each(arms, lambda arm: recipes_of(arm, arms[arm]))
    keys = [(arm, number) for arm, found in recipes.items() for number in range(len(found))]
    networks: dict[tuple[str, int], Network]
    networks = try_each(keys, lambda key: Network.start(recipes[key[0]][key[1]], device))
    costs = measure_inference(
        {key: network.model for key, network in networks.items()},
        {key: network.size for key, network in networks.items()},
        repeats=repeats,
        counter=counter,
    )
    rehearsals: dict[tuple[str, int], Rehearsal] = try_each(networks, lambda key: networks[key].rehearsal())
    steps = {(key, kind): step for key, each in rehearsals.items() for kind, step in each.kinds().items()}
    measured = measure_steps(steps, device, repeats=max(1, repeats // 2), counter=counter)
    told: dict[str, Any] = {}
    for arm in arms:
        if arm in failed:
            told[arm] = {"error": failed[arm]}
            continue
        all_costs, all_told = [], []
        for key in (key for key in rehearsals if key[0] == arm):
            kinds = {kind: measured[key, kind] for kind in rehearsals[key].kinds()}
            all_costs.append(rehearsals[key].mean(kinds).added_to(costs[key]))
            all_told.append(described(all_costs[-1], **networks[key].told()))
        sums = {name: sum(one[name] for one in all_told) for name in ADDED}
        images = all_told[0]["test_images"]
        told[arm] = described(together(all_costs), **sums, test_images=images, networks=all_told)
    return told


def arm_of(key: str | tuple[str, int]) -> str:
    """The arm of a network's key, or of its own."""
    return key if isinstance(key, str) else key[0]


def recipes_of(arm: str, told: Mapping[str, Any]) -> list[Recipe]:
    """The recipes of an arm's networks.

    Raises:
        ConfigurationError: If it has none, or one is not valid.
    """
    texts = [told["recipe"]] if "recipe" in told else list(told.get("recipes", ()))
    if not texts:
        raise ConfigurationError(f"expected a recipe, or recipes, of arm {arm!r}, got {sorted(told)}")
    return [config.parse(yaml.safe_load(text)) for text in texts]


def described(cost: Cost, **more: Any) -> dict[str, Any]:
    """A cost as JSON holds it, with its multiply-accumulates and whatever else is known."""
    return {**asdict(cost), "macs": cost.macs, **more}


def in_a_line(error: Exception) -> str:
    """What an error says."""
    return " ".join(str(error).split()) or type(error).__name__


@dataclass
class Network:
    """One network with its data.

    Attributes:
        run: A run of its recipe, which has no folder.
        model: The network, with random weights.
        dataset: What it learns from.
        size: Height and width of an image that it sees in evaluation.
        test_images: How many are scored.
        start_seconds: How long it took to make it and to open its data.
        evaluate_seconds: How long it takes to score an image.
        load_seconds: How long it takes to have the images of a step; 0 until it is known.
    """

    run: Run
    model: MultiTaskNetwork
    dataset: DataSet
    size: tuple[int, int]
    test_images: int
    start_seconds: float
    evaluate_seconds: float
    load_seconds: float = 0.0

    @classmethod
    def start(cls, recipe: Recipe, device: torch.device) -> Network:
        """Makes the network, opens its data, and scores some images with it."""
        run = Run(Path(), replace(recipe, training=replace(recipe.training, workers=0)))
        begun = time.perf_counter()
        model = make_network(run.recipe, run.tasks, pretrained=False).to(device)
        dataset, test = run.dataset(recipe.data.train_split), run.dataset(recipe.data.test_split)
        synchronise(device)
        start_seconds = time.perf_counter() - begun
        evaluate(model, First(test, 1), evaluation=recipe.evaluation)
        begun = time.perf_counter()
        evaluate(model, First(test, IMAGES), evaluation=recipe.evaluation)
        evaluate_seconds = (time.perf_counter() - begun) / len(First(test, IMAGES))
        size = seen_size(recipe, test)
        return cls(run, model, dataset, size, len(test), start_seconds, evaluate_seconds)

    def rehearsal(self) -> Rehearsal:
        """Begins its training: reads a step's images, and makes one step that is not counted."""
        recipe, device = self.run.recipe, next(self.model.parameters()).device
        begun = time.perf_counter()
        session = Session(recipe, self.model, plain_choices(recipe, device))
        self.start_seconds += time.perf_counter() - begun
        stream = micro_batches(self.run, self.dataset, self.model.normalisation, 0, session.batches)
        parts = recipe.training.accumulate
        batches = [list(islice(stream, parts)) for _ in range(session.batches)]
        begun = time.perf_counter()  # the first images of a data set take longer than others
        for _ in islice(stream, parts * session.batches):
            pass
        self.load_seconds = time.perf_counter() - begun
        rehearsal = Rehearsal(session, batches, len(self.dataset))
        rehearsal.step()
        return rehearsal

    def told(self) -> dict[str, Any]:
        """What is known of it beside its cost."""
        return {name: getattr(self, name) for name in (*ADDED, "test_images")}


def seen_size(recipe: Recipe, test: DataSet) -> tuple[int, int]:
    """Height and width of what the network sees of a test image at a time."""
    height, width = recipe.evaluation.size or test[0].image.shape[-2:]
    most = recipe.evaluation.window or (height, width)
    return min(int(height), most[0]), min(int(width), most[1])


def plain_choices(recipe: Recipe, device: torch.device) -> Choices:
    """How steps are computed where nothing is tried out: as the recipe says, else plainly."""
    if device.type == "cpu":
        chosen = fixed(recipe.training, Choices())
    else:
        chosen = choose(recipe.training, device, lambda _: None)  # which times nothing there
    return replace(chosen, threads=torch.get_num_threads())


class First:
    """The first samples of a data set.

    Args:
        dataset: All of it.
        count: How many, at most.
    """

    def __init__(self, dataset: DataSet, count: int) -> None:
        self.dataset = dataset
        self.count = count
        self.split = dataset.split
        self.fields = dataset.fields
        self.classes = dataset.classes

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __len__(self) -> int:
        return min(self.count, len(self.dataset))

    def __getitem__(self, place: int) -> Sample:
        return self.dataset[place]

    def id(self, place: int) -> str:
        """The name of the sample at a place."""
        return self.dataset.id(place)
