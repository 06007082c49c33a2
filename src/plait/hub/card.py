"""A model card: what a shared network is, how good, how it was made, what it costs, and its limits."""

from __future__ import annotations

import importlib.metadata
import inspect
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from plait import config
from plait.config import Recipe
from plait.errors import ConfigurationError
from plait.hub import trust
from plait.inference.sizing import Sizing
from plait.metrics import PROTOCOLS
from plait.models.licences import Licence, licence_of_model
from plait.registry import resolve
from plait.study.comparison import join
from plait.study.cost import Cost
from plait.study.reporting.tables import escape
from plait.training.scores import Scores, shown

if TYPE_CHECKING:
    from plait.tasks.base import Task

HERE = Path(__file__).parent

HUB_TASKS: Mapping[str, str] = {
    "semantic": "image-segmentation",
    "saliency": "image-segmentation",
    "depth": "depth-estimation",
    "inverse_depth": "depth-estimation",
}
"""What the hub calls kinds of tasks; it has no name for the others."""

OTHERWISE = "image-to-image"

DATA: Mapping[str, str] = {
    "rooms": "rooms that plait rendered",
    "nyud": "NYUD-v2",
    "pascal_context": "PASCAL-Context",
    "cityscapes": "Cityscapes",
    "folder": "a folder of pictures",
    "joined": "several data sets together",
    "packed": "a packed data set",
}
"""Data sets in words."""

UNNAMED = ("folder", "joined", "packed")
"""Ways of reading data, which are no names of data sets."""

RENDERED = ("rooms",)
"""Data sets of computed pictures."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a card is written from.

    Attributes:
        name: What the network is called.
        source: How it is opened: ``hf:org/name`` or a folder.
        recipe: Its recipe, as others may see it.
        tasks: The tasks that it predicts.
        scores: Its scores; None if it is not finished.
        step: Updates made.
        cost: Of one picture.
        size: Height and width of that picture.
        licence: The licence of the shared weights, by its identifier; None if nobody has said.
        left_out: Keys of the recipe that hold something else than in the run.
        picture: The file name of a picture for the card; None for none.
    """

    name: str
    source: str
    recipe: Recipe
    tasks: tuple[Task, ...]
    scores: Scores | None
    step: int
    cost: Cost
    size: tuple[int, int]
    licence: str | None = None
    left_out: tuple[str, ...] = ()
    picture: str | None = None

    @property
    def backbone(self) -> Licence:
        """What its backbone started from."""
        return licence_of_model(self.recipe.model)

    @property
    def data(self) -> str:
        """What it was trained on, in words."""
        name = self.recipe.data.name
        return DATA.get(name, f"the data set {escape(name)}")


def write(network: Described) -> str:
    """The card, with what the hub reads of it at its head."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(  # Markdown: texts are escaped where they are put in
        loader=FileSystemLoader(HERE),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = templates.get_template("card.md.j2").render(
        name=escape(network.name),
        source=network.source,
        what=what(network),
        picture=network.picture,
        own_parts=", ".join(f"`{part}`" for part in trust.of_network(network.recipe)),
        tasks=[shown_task(task) for task in network.tasks],
        scored=scored(network),
        scores=list(score_rows(network)),
        protocols=protocols(network),
        training=list(training(network)),
        cost=told_cost(network),
        licences=list(licences(network)),
        limits=list(limits(network)),
        sources=list(sources(network.recipe)),
        version=importlib.metadata.version("plait"),
    )
    head = yaml.safe_dump(front_matter(network), sort_keys=False, allow_unicode=True, width=110)
    return f"---\n{head}---\n\n" + re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


# What the hub reads.


def front_matter(network: Described) -> dict[str, Any]:
    """What the hub reads of a card: licence, kind of network, tags, data and scores."""
    kinds = list(dict.fromkeys(task.kind for task in network.tasks))
    named = [HUB_TASKS[kind] for kind in kinds if kind in HUB_TASKS]
    found: dict[str, Any] = {}
    if network.licence is not None:
        found["license"] = network.licence
    found["library_name"] = "plait"
    found["pipeline_tag"] = named[0] if named else OTHERWISE
    words = [kind.replace("_", "-") for kind in kinds]
    found["tags"] = list(dict.fromkeys(["multi-task-learning", "dense-prediction", *named, *words]))
    data = network.recipe.data.name
    if data in DATA and data not in UNNAMED:
        found["datasets"] = [data]
    results = [result for task in network.tasks if (result := scores_of(network, task))]
    if results:
        found["model-index"] = [{"name": network.name, "results": results}]
    return found


def scores_of(network: Described, task: Task) -> dict[str, Any]:
    """A task's scores as the hub takes them; empty without any."""
    if network.scores is None or task.name not in network.scores:
        return {}
    data = network.recipe.data
    metrics = [
        {
            "type": measure.name,
            "name": f"{measure.title} (protocol {measure.protocol})",
            "value": round(network.scores[task.name][measure.name], 6),
        }
        for measure in network.scores.measures[task.name]
        if math.isfinite(network.scores[task.name].get(measure.name, math.nan))
    ]
    if not metrics:
        return {}
    return {
        "task": {"type": HUB_TASKS.get(task.kind, OTHERWISE), "name": task.name},
        "dataset": {"type": data.name, "name": data.name, "split": network.scores.split or data.test_split},
        "metrics": metrics,
    }


# What people read.


def what(network: Described) -> str:
    """The network in two sentences."""
    count = len(network.tasks)
    names = join([escape(task.name) for task in network.tasks])
    one = f"One network for {count} dense prediction tasks" if count > 1 else "A dense prediction network"
    recipe, licence = network.recipe, network.backbone
    built = f"encoder `{parts(recipe)['encoder']}`, decoder `{parts(recipe)['decoder']}`"
    return (
        f"{one}: {names}. It was trained by plait on {network.data}, with "
        f"{built}, on the backbone `{recipe.model.backbone}` ({escape(licence.weights)})."
    )


def parts(recipe: Recipe) -> dict[str, str]:
    """Encoder, decoder and balancer by name."""
    found = {"encoder": recipe.model.encoder, "decoder": recipe.model.decoder, "balancer": recipe.balancer}
    return {axis: config.named(component)[0] for axis, component in found.items()}


def shown_task(task: Task) -> dict[str, Any]:
    """A task as the template takes it."""
    kind = "uint8 [H, W], a class id a pixel" if task.classes else "float32 [H, W]"
    if not task.classes and task.channels > 1:
        kind = f"float32 [H, W, {task.channels}]"
    return {
        "name": escape(task.name),
        "kind": escape(task.kind),
        "meaning": escape(task.meaning) or "–",
        "unit": escape(task.unit),
        "classes": [f"{number} {escape(name)}" for number, name in enumerate(task.classes)],
        "array": f"{kind}, {task.unit}" if task.unit else kind,
    }


def scored(network: Described) -> str:
    """On what it was scored, or why it was not."""
    steps = network.recipe.training.steps
    if network.scores is None:
        return (
            f"It was shared at step {network.step} of {steps}, before its training had finished, and was not "
            f"scored."
        )
    images, split = network.scores.images, network.scores.split
    return (
        f"Scored on {images} held-out picture{'s' * (images != 1)} of {network.data} (split "
        f"{escape(split)}), pooled over the split, at the size of the labels."
    )


def score_rows(network: Described) -> Iterator[dict[str, str]]:
    """The table of scores."""
    if network.scores is None:
        return
    for task, values in network.scores.items():
        for measure in network.scores.measures[task]:
            if measure.name in values:
                yield {
                    "task": escape(task),
                    "measure": escape(measure.title),
                    "direction": "↑" if measure.higher_is_better else "↓",
                    "protocol": measure.protocol,
                    "score": shown(values[measure.name], measure),
                }


def protocols(network: Described) -> str:
    """By whose rules its scores are."""
    if network.scores is None:
        return ""
    used = {measure.protocol for measures in network.scores.measures.values() for measure in measures}
    return " ".join(
        f"Protocol {name}: {protocol.whose}." for name, protocol in PROTOCOLS.items() if name in used
    )


def training(network: Described) -> Iterator[tuple[str, str]]:
    """How it was trained, as names and values."""
    recipe = network.recipe
    data, loop, optimizer = recipe.data, recipe.training, recipe.optimizer
    yield "Data", f"{network.data}, split {escape(data.train_split)}"
    if data.partial is not None:
        yield "Labels", f"a part of them ({data.partial.keep.replace('_', ' ')})"
    at = f"{network.step} steps" if network.step == loop.steps else f"{network.step} of {loop.steps} steps"
    yield "Training", f"{at} of {loop.batch_size} pictures, seed {loop.seed}"
    crop = recipe.augmentation.get("size")
    if crop:
        yield "Training pictures", f"{crop[0]}x{crop[1]}"
    yield "Optimizer", f"{optimizer.name}, learning rate {optimizer.lr:g}, schedule {recipe.schedule.name}"
    yield (
        "Weights kept",
        ("the last" if loop.keep == "last" else f"the best on {escape(data.validation_split)}")
        + (f", averaged with decay {loop.ema:g}" if loop.ema is not None else ""),
    )
    for axis, name in parts(recipe).items():
        yield axis.capitalize(), f"`{name}`"
    yield "Backbone and weights", escape(network.backbone.told())


def told_cost(network: Described) -> str:
    """What one picture costs."""
    cost, (height, width) = network.cost, network.size
    used = cost.active_parameters
    idle = ""
    if used is not None and used != cost.parameters:
        idle = f", {used / 1e6:.2f} million of them in use when it predicts"
    return (
        f"{cost.parameters / 1e6:.2f} million parameters{idle}; {cost.macs / 1e9:.2f} billion "
        f"multiply-accumulates and {cost.memory / 2**20:.0f} MiB for one picture of {height}x{width}, for "
        f"all tasks together."
    )


def licences(network: Described) -> Iterator[str]:
    """Whose terms apply to what."""
    if network.licence is None:
        yield "These weights: nobody has said. Ask who shared them before you build on them."
    else:
        yield f"These weights: {network.licence}, as chosen by who shared them."
    found = network.backbone
    if not found.random:
        yield (
            f"The weights that the backbone started from: {escape(found.told())}. Looked up when this card "
            f"was written."
        )
    if found.commercial is False:
        yield "**No commercial use**: the licence of the backbone's weights forbids it, and binds these too."
    yield f"The pictures and labels of the training data ({network.data}) have terms of their own."
    yield "The code that opens it: plait is MIT, timm Apache-2.0."


def limits(network: Described) -> Iterator[str]:
    """Where it should not be trusted."""
    recipe = network.recipe
    beside = "" if network.backbone.random else ", beside what its backbone started from"
    yield (
        f"It has seen {network.data} and nothing else{beside}: on other kinds of pictures it was not tested."
    )
    if recipe.data.name in RENDERED:
        yield "Its training pictures are rendered: photographs differ from them in light, noise and content."
    metric = [escape(task.name) for task in network.tasks if task.unit == "m"]
    if metric:
        yield f"Metres ({join(metric)}) hold only for cameras like those of the training pictures."
    yield f"Pictures are shown to it {Sizing.of(recipe).told()}; sizes far from that were not tested."
    if network.scores is None:
        yield "Its training had not finished when it was shared."
    yield "One training run: how much its scores change from seed to seed is not known from it."
    if network.left_out:
        keys = ", ".join(f"`{key}`" for key in network.left_out)
        yield f"Places of the machine that it was trained on were left out of the recipe: {keys}."


def sources(recipe: Recipe) -> Iterator[str]:
    """The papers behind encoder, decoder and balancer, as their docstrings name them."""
    for axis, name in parts(recipe).items():
        if trust.is_import_path(name):
            continue
        found = source_of(axis, name)
        if found:
            yield f"{axis} `{name}`: {escape(found)}"


def source_of(axis: str, name: str) -> str:
    """The papers that the docstring of a part names; empty if it names none.

    >>> source_of("balancer", "pcgrad")[:12]
    'Yu et al., G'
    """
    try:
        text = inspect.getdoc(resolve(axis, name)) or ""
    except ConfigurationError:
        return ""
    found = re.search(r"^Source:\n((?:[ \t]+.*\n?)+)", text, re.MULTILINE)
    if found is None:
        return ""
    return re.split(r"\.\s+(?=[A-Z])", " ".join(found[1].split()))[0].rstrip(".").replace("``", "`")
