"""A run's folder, read: its recipe, tasks, network, scores and log.

::

    OUT/recipe.yaml           everything that decided it
    OUT/environment.json      versions, machine, command, and what was chosen at the start
    OUT/log.jsonl, log.csv    losses and validations by step
    OUT/checkpoints/last/     and best/ where the recipe keeps the best
    OUT/images.safetensors    what each image of the test split adds to the scores
    OUT/scores.json           of the test split; there once the run is finished

What is shared of it is a folder that is run and checkpoint at once: ``recipe.yaml`` and ``scores.json`` as
above beside ``state.json`` and ``model.safetensors``. It is read by the same functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait import config
from plait.config import Protocol, Recipe
from plait.errors import ConfigurationError, DataError
from plait.training.logs import read_log
from plait.training.scores import Scores

if TYPE_CHECKING:
    import torch

    from plait.data.sample import DataSet
    from plait.models.network import MultiTaskNetwork
    from plait.tasks.base import Task
    from plait.training.per_image import PerImage

RECIPE, ENVIRONMENT, SCORES = "recipe.yaml", "environment.json", "scores.json"
NOT_SHARED = "not-shared"
"""What stands in a shared recipe in the place of a folder of the machine that it was trained on."""
IMAGES = "images.safetensors"


@dataclass(frozen=True)
class Run:
    """One training run on disk, finished or not.

    Attributes:
        path: Its folder.
        recipe: What decided it.
        own_parts: Whether code that a shared recipe names by its import path may be run. A run's own folder
            needs no such leave: who trained it has run that code.
    """

    path: Path
    recipe: Recipe
    own_parts: bool = False

    @cached_property
    def tasks(self) -> tuple[Task, ...]:
        """Its tasks, in the declared order, with the measures of the recipe's protocol."""
        import plait.tasks

        protocol = self.recipe.evaluation.protocol
        return tuple(task.scored(protocol) for task in plait.tasks.parse(self.recipe.tasks))

    @property
    def finished(self) -> bool:
        """Whether it is trained and scored."""
        return (self.path / SCORES).is_file()

    @property
    def scores(self) -> Scores:
        """Its scores on the test split.

        Raises:
            DataError: If it is not finished.
        """
        return Scores.load(self.path / SCORES)

    @property
    def per_image(self) -> PerImage | None:
        """What each image of the test split adds to the scores; None for a run that did not keep it.

        Raises:
            DataError: If the file is damaged.
        """
        from plait.training.per_image import PerImage

        path = self.path / IMAGES
        return PerImage.load(path) if path.is_file() else None

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        return read_log(self.path)

    @property
    def environment(self) -> dict[str, Any]:
        """What it ran on, and what was chosen at its start.

        Raises:
            DataError: If the file is not there or damaged.
        """
        path = self.path / ENVIRONMENT
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return {**found, "choices": dict(found["choices"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"expected what the run ran on in {path}, but it cannot be read ({error!r}): "
                f"remove the run's folder to start again"
            ) from None

    @property
    def bundled(self) -> bool:
        """Whether the folder itself is the checkpoint, as that of a network that was pushed to a hub is."""
        from plait.training import checkpoint

        return (self.path / checkpoint.STATE).is_file()

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that counts: the last, or the best where the recipe keeps it."""
        return self.path if self.bundled else self.path / "checkpoints" / self.recipe.training.keep

    @property
    def state(self) -> dict[str, Any]:
        """What its last checkpoint says beside tensors, for instance ``step`` and ``seconds`` of training."""
        from plait.training import checkpoint

        return dict(checkpoint.read(self.path / "checkpoints" / "last", files=()).state)

    @property
    def train_seconds(self) -> float:
        """Wall time of the training so far, over all its sessions."""
        return float(self.state["seconds"])

    @property
    def train_cpu_seconds(self) -> float:
        """Processor time of the training so far, over all its sessions (of the first process)."""
        return float(self.state["cpu_seconds"])

    def model(self, device: torch.device | str = "cpu") -> MultiTaskNetwork:
        """Its trained network, in evaluation mode.

        Raises:
            CheckpointError: If there is no checkpoint, or it does not fit the recipe.
        """
        from plait.training import checkpoint

        found = checkpoint.read(self.checkpoint, self.tasks, files=("model",))
        network = make_network(self.recipe, self.tasks, pretrained=False)
        checkpoint.restore(network, found.tensors["model"], str(found.place / "model.safetensors"))
        return network.to(device).eval()

    def with_data(self, root: Path | str) -> Run:
        """The same run, its data in another folder, as on another machine."""
        data = replace(self.recipe.data, root=str(root))
        return replace(self, recipe=replace(self.recipe, data=data))

    def dataset(self, split: str) -> DataSet:
        """A split of its data, with the labels of its tasks.

        Raises:
            ConfigurationError: If it is a shared network whose data stayed where it was trained, or are read
                by code that is not plait's.
        """
        if self.bundled:
            from plait.hub import trust

            if not self.own_parts:
                trust.refuse(trust.of_data(self.recipe), f"the recipe of {self.path}")
            if NOT_SHARED in trust.texts(config.plain(self.recipe.data)):
                raise ConfigurationError(
                    f"{self.path} was shared without the place of its data: name yours with --data-root, or "
                    f"under `data` in its {RECIPE}"
                )
        return make_dataset(self.recipe, self.tasks, split)

    def evaluate(
        self,
        split: str | None = None,
        *,
        protocol: Protocol | None = None,
        flip: bool | None = None,
        scales: Sequence[float] | None = None,
        window: tuple[int, int] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Scores:
        """Scores its network on a split.

        Args:
            split: Which one; None takes the recipe's test split.
            protocol: By whose rules; None as the recipe says, likewise below.
            flip: Average with the mirrored image.
            scales: Average over the image at these scales.
            window: Slide a window of this size.
            progress: Told of images done and in all.

        Raises:
            ConfigurationError: If there is no such protocol.
        """
        from plait.training.evaluate import evaluate
        from plait.training.processes import join

        own = self.recipe.evaluation
        evaluation = replace(
            own,
            protocol=protocol or own.protocol,
            flip=own.flip if flip is None else flip,
            scales=own.scales if scales is None else list(scales),
            window=own.window if window is None else window,
        )
        device = join().device
        dataset = self.dataset(split or self.recipe.data.test_split)
        return evaluate(self.model(device), dataset, self.tasks, evaluation=evaluation, progress=progress)


def load_run(path: Path | str, *, own_parts: bool = False) -> Run:
    """Reads a run's folder, or that of a shared network.

    Args:
        path: The folder.
        own_parts: Whether code that the recipe of a shared network names by its import path may be run, where
            it is installed. Without that leave such a network is refused.

    Raises:
        ConfigurationError: If there is no run in it, or it names code without leave to run it.
        DataError: If the recipe of a shared network is made to fill the memory.
    """
    path = Path(path)
    if not (path / RECIPE).is_file():
        raise ConfigurationError(
            f"{path} is not a run's folder: it has no {RECIPE}; name one that `plait train` wrote"
        )
    from plait.training import checkpoint

    if not (path / checkpoint.STATE).is_file():
        return Run(path, config.load_recipe(path / RECIPE), own_parts)
    from plait.hub import bundle, trust

    what = f"the network in {path}"
    bundle.check_recipe(path / RECIPE, what)
    run = Run(path, config.load_recipe(path / RECIPE), own_parts)
    if not own_parts:
        trust.refuse(trust.of_network(run.recipe), what)
    return run


def make_network(
    recipe: Recipe, tasks: Sequence[Task], *, pretrained: bool | None = None
) -> MultiTaskNetwork:
    """The network of a recipe, as a run of it starts.

    ``pretrained=False`` fetches no weights and reads no other run, because others will be loaded.

    Raises:
        ConfigurationError: If parts do not fit together, or not with the runs that it starts from.
        CheckpointError: If the weights of such a run are damaged or do not fit.
        WeightsUnavailableError: If the pretrained weights cannot be had.
    """
    import plait.balancing
    from plait.models import Backbone, create_model
    from plait.models.initialise import initialise_from
    from plait.models.parameters import freeze_batch_norm

    model = recipe.model
    starts_from = model.init_from if pretrained is None else None
    if starts_from is not None:
        if model.weights is not None:
            raise ConfigurationError(
                f"model.weights is {model.weights!r} and model.init_from is {starts_from!r}, but a backbone "
                f"starts from one of them: leave the other out"
            )
        pretrained = False
    encoder, encoder_options = config.named(model.encoder)
    decoder, decoder_options = config.named(model.decoder)
    backbone_options = dict(model.backbone_options)
    if model.gradient_checkpointing:
        backbone_options["gradient_checkpointing"] = True
    balancer, balancer_options = config.named(recipe.balancer)
    network = create_model(
        backbone=model.backbone,
        encoder=encoder,
        decoder=decoder,
        tasks=tasks,
        pretrained=model.pretrained if pretrained is None else pretrained,
        weights=model.weights if pretrained is None else None,
        encoder_options=encoder_options,
        decoder_options=decoder_options,
        backbone_options=backbone_options,
        at_cut=plait.balancing.create(balancer, tasks=tasks, **balancer_options).at_cut,
    )
    if model.frozen_norm:
        for backbone in network.modules():
            if isinstance(backbone, Backbone):
                freeze_batch_norm(backbone)
    if starts_from is not None:
        initialise_from(network, tasks, starts_from)
    return network


def make_dataset(recipe: Recipe, tasks: Sequence[Task], split: str) -> DataSet:
    """A split of a recipe's data; the training split shows those labels that the recipe wants shown.

    Raises:
        ConfigurationError: If an option is wrong.
        DataError: If the data are not what the recipe says.
    """
    import plait.data
    from plait.data.partial import PartialLabels

    root = {} if recipe.data.root is None else {"root": recipe.data.root}

    def opened(labels: Sequence[str]) -> DataSet:
        return plait.data.create(recipe.data.name, split=split, labels=labels, **root, **recipe.data.options)

    labels = list(dict.fromkeys(task.label for task in tasks))
    partial = recipe.data.partial
    if partial is None or split != recipe.data.train_split:
        return opened(labels)
    for label in labels:
        if partial.among is not None and label not in partial.among:
            raise ConfigurationError(
                f"data.partial.among is {partial.among}, without {label!r}, the label of a task: name it too"
            )
    among = None if partial.among is None else opened(partial.among)
    return PartialLabels(opened(labels), partial.keep, partial.fraction, partial.seed, among)
