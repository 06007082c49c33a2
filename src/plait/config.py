"""A recipe: everything that decides a run, as typed values that YAML can hold.

A recipe is read from YAML with dotted overrides (``--training.steps 100``) and written back beside every
run. Nothing here imports torch: names and options of components are checked when the components are built.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import yaml

from plait.errors import ConfigurationError
from plait.recipes import recipe_path
from plait.registry import nearest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

MAY_CHANGE = (
    "training.workers",
    "training.trackers",
    "training.log_every",
    "training.diagnose_every",
    "evaluation.batch_size",
    "published",
)
"""What may differ when a run goes on, with what is below it: nothing that decides its weights or scores."""

Component = str | dict[str, Any]
"""A component: its name, or ``{name: ..., option: value, ...}``."""


def named(component: Component) -> tuple[str, dict[str, Any]]:
    """Name and options of a component.

    >>> named("shared"), named({"name": "mgda", "scope": "features"})
    (('shared', {}), ('mgda', {'scope': 'features'}))

    Raises:
        ConfigurationError: If there is no name.
    """
    if isinstance(component, str):
        return component, {}
    options = dict(component)
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigurationError(f"expected a name or 'name: ...' with options, got {component!r}")
    return name, options


@dataclass(frozen=True, kw_only=True)
class Partial:
    """Which labels of the training split are shown; see :class:`plait.data.partial.PartialLabels`.

    Attributes:
        keep: ``one_label`` of each sample, a ``random`` part of each sample's labels, or for each label the
            same ``fraction`` of the samples.
        fraction: Of the samples that have a label, for all labels or ``{label: fraction}``.
        seed: Decides which; of its own, so that runs of several training seeds see the same labels.
        among: The labels that ``one_label`` and ``random`` choose among; None for those of the tasks. Name
            all of them where networks of fewer tasks, such as single-task ones, are compared.
    """

    keep: Literal["one_label", "random", "fraction"] = "one_label"
    fraction: float | dict[str, float] | None = None
    seed: int = 0
    among: list[str] | None = None

    def check(self) -> None:
        """Raises :class:`ConfigurationError` if the fraction is not one, or says nothing."""
        if self.keep != "fraction":
            only = f"left out where data.partial.keep is {self.keep!r}"
            require(self.fraction is None, "data.partial.fraction", only, self.fraction)
            return
        only = "left out where data.partial.keep is 'fraction', which hides each label on its own"
        require(self.among is None, "data.partial.among", only, self.among)
        named_fractions = self.fraction if isinstance(self.fraction, dict) else {"": self.fraction}
        for label, part in named_fractions.items():
            key = f"data.partial.fraction.{label}".rstrip(".")
            require(part is not None and 0 <= part <= 1, key, "in [0, 1]", part)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where samples come from.

    Attributes:
        name: A data set of ``plait list datasets``, or ``package.module:Class``.
        root: Its folder; None for its usual place.
        options: Further arguments of the data set.
        train_split: The split that is learned from.
        validation_split: The split that selects and that is watched; never the test split.
        test_split: The split that is reported.
        partial: Hide labels of the training split, to train as if they had never been drawn; None for none.
        sampling: What makes a training batch: ``shuffled`` samples, ``every_task`` (shuffled, with a sample
            labelled for every task in each batch), or ``per_task`` (each task runs through its own labelled
            samples).
    """

    name: str = "rooms"
    root: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    train_split: str = "train"
    validation_split: str = "val"
    test_split: str = "test"
    partial: Partial | None = None
    sampling: Literal["shuffled", "every_task", "per_task"] = "shuffled"

    def __post_init__(self) -> None:
        if self.partial is not None:
            self.partial.check()
        for other in ("train_split", "validation_split"):
            if getattr(self, other) == self.test_split:
                raise ConfigurationError(
                    f"data.{other} is {self.test_split!r}, the test split: a model may neither learn from "
                    f"nor be selected on the data it is reported on; cut a part from training instead"
                )


@dataclass(frozen=True, kw_only=True)
class Model:
    """How tasks share one network.

    Attributes:
        backbone: A timm name, for instance ``resnet18``.
        encoder: Interaction in the encoder: a name of ``plait list encoders``, or a name with options.
        decoder: Interaction in the decoder, likewise.
        pretrained: Start the backbone from published weights.
        weights: A weight file for the backbone, in place of the published ones.
        init_from: A trained run, or one for each task, whose weights each task's column (and head) starts
            from; see :mod:`plait.models.initialise`.
        backbone_options: Further arguments of the backbone.
        frozen_norm: Keep the BatchNorm statistics and scales of the backbone as they are.
        gradient_checkpointing: Recompute the backbone's activations in the backward pass, to save memory.
    """

    backbone: str = "tf_efficientnet_lite0"
    encoder: Component = "shared"
    decoder: Component = "independent"
    pretrained: bool = True
    weights: str | None = None
    init_from: str | dict[str, str] | None = None
    backbone_options: dict[str, Any] = field(default_factory=dict)
    frozen_norm: bool = False
    gradient_checkpointing: bool = False


@dataclass(frozen=True, kw_only=True)
class Group:
    """What differs for the parameters whose name matches a pattern; the first match counts.

    Attributes:
        pattern: Regular expression, searched for in the parameter's full name, for instance ``^encoder``.
        lr_multiplier: Multiplies the learning rate at every step.
        weight_decay: Replaces the optimizer's weight decay; None keeps it.
        freeze: Do not train these at all.
    """

    pattern: str
    lr_multiplier: float = 1.0
    weight_decay: float | None = None
    freeze: bool = False

    def __post_init__(self) -> None:
        here = f"optimizer.groups, pattern {self.pattern!r}:"
        require(self.lr_multiplier >= 0, f"{here} lr_multiplier", "zero or more", self.lr_multiplier)
        if self.weight_decay is not None:
            require(self.weight_decay >= 0, f"{here} weight_decay", "zero or more", self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """The update rule.

    Attributes:
        name: ``adamw``, ``adam`` (weight decay added to the gradient) or ``sgd``.
        lr: Peak learning rate.
        weight_decay: Weight decay.
        momentum: Momentum of SGD.
        nesterov: Nesterov's momentum for SGD.
        betas: Decay rates of Adam's moments.
        eps: Adam's term against division by zero.
        groups: Exceptions by parameter name.
        no_decay_on_norms: Leave one-dimensional parameters (norms, biases) and the balancer's own undecayed.
        layer_decay: Multiplies the learning rate of the backbone's stages, once for every stage between
            them and the head (0.7: each earlier stage learns at 0.7 of the next); None for none.
    """

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = 5e-4
    weight_decay: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    groups: list[Group] = field(default_factory=list)
    no_decay_on_norms: bool = True
    layer_decay: float | None = None

    def __post_init__(self) -> None:
        require(0 < self.lr < math.inf, "optimizer.lr", "positive and finite", self.lr)
        require(self.weight_decay >= 0, "optimizer.weight_decay", "zero or more", self.weight_decay)
        require(0 <= self.momentum < 1, "optimizer.momentum", "in [0, 1)", self.momentum)
        require(
            self.momentum > 0 or not self.nesterov,
            "optimizer.nesterov",
            "false where optimizer.momentum is 0",
            self.nesterov,
        )
        require(
            all(0 <= beta < 1 for beta in self.betas),
            "optimizer.betas",
            "two numbers in [0, 1)",
            list(self.betas),
        )
        require(self.eps >= 0, "optimizer.eps", "zero or more", self.eps)
        if self.layer_decay is not None:
            require(0 < self.layer_decay <= 1, "optimizer.layer_decay", "in (0, 1]", self.layer_decay)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate as a function of the iteration; see :func:`plait.training.schedules.factor`.

    Attributes:
        name: ``poly``, ``cosine``, ``one_cycle``, ``step`` or ``constant``.
        warmup_steps: Iterations of linear warm-up before it.
        power: Exponent of ``poly``.
        floor: Lowest factor of ``poly``, ``cosine`` and ``one_cycle``.
        peak: Where ``one_cycle`` is highest, as a part of the run.
        milestones: Where ``step`` falls, as increasing parts of the run in (0, 1).
        gamma: What ``step`` multiplies by at each milestone.
    """

    name: Literal["poly", "cosine", "one_cycle", "step", "constant"] = "poly"
    warmup_steps: int = 0
    power: float = 0.9
    floor: float = 0.0
    peak: float = 0.3
    milestones: list[float] = field(default_factory=lambda: [0.6, 0.85])
    gamma: float = 0.1

    def __post_init__(self) -> None:
        require(self.warmup_steps >= 0, "schedule.warmup_steps", "zero or more", self.warmup_steps)
        require(0 <= self.floor <= 1, "schedule.floor", "in [0, 1]", self.floor)
        require(0 < self.peak < 1, "schedule.peak", "between 0 and 1", self.peak)
        require(self.power >= 0, "schedule.power", "zero or more", self.power)
        require(self.gamma > 0, "schedule.gamma", "positive", self.gamma)
        bounds = [0.0, *self.milestones, 1.0]
        require(
            all(earlier < later for earlier, later in itertools.pairwise(bounds)),
            "schedule.milestones",
            "increasing, between 0 and 1",
            self.milestones,
        )


@dataclass(frozen=True, kw_only=True)
class Training:
    """The loop.

    Attributes:
        steps: Updates in all.
        batch_size: Images an update, over all processes and all accumulated parts.
        accumulate: Parts a batch is computed in, one after the other, to save memory.
        alternate_tasks: An update for each task in turn from each batch, in place of one for all of them.
        affinity_every: Steps between measurements of how a step on one task changes the others' losses
            (TAG), which go into the log; None for none.
        diagnose_every: Steps between measurements of each task's gradient, and of the update against them,
            which go into the log for ``plait diagnose``; None for none.
        seed: Decides initial weights, order, augmentation and dropout.
        precision: ``fp32``, ``bf16``, ``fp16``, or ``auto``: bf16 where it pays on this machine and network.
        channels_last: ``true``, ``false``, or ``auto``: where it pays.
        compile: ``torch.compile`` the network.
        threads: Threads of a process, or ``auto``: as many as pay on this machine now.
        workers: Loader processes; 0 loads in a thread beside the step.
        augment_on: Where views are made: ``loader`` (its thread or processes), or the network's ``device``,
            which gets images as read and the warps and colours drawn for them.
        clip_norm: Clip the gradient's norm to this; None for no clipping.
        ema: Decay of an average of the weights, which is what is then evaluated; None for none.
        checkpoint_every: Steps between checkpoints.
        log_every: Steps between lines of the log.
        validate_every: Steps between validations; None validates where ``keep`` needs it.
        keep: ``last``, or ``best`` on the validation split.
        criterion: What ``best`` means: ``relative`` (mean relative gain of the headline measures over the
            first validation), ``loss``, or ``task.measure``.
        non_finite: What a NaN or infinite loss does: ``stop`` the run, ``skip`` the update, or ``drop`` its
            task from the update (to know whose gradient overflowed, rules on losses then take each task's).
        trackers: ``tensorboard``, ``wandb``, ``trackio``, ``mlflow``; each needs its extra installed.
    """

    steps: int = 1000
    batch_size: int = 8
    accumulate: int = 1
    alternate_tasks: bool = False
    affinity_every: int | None = None
    diagnose_every: int | None = None
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool | Literal["auto"] = "auto"
    compile: bool = False
    threads: int | Literal["auto"] = "auto"
    workers: int = 0
    augment_on: Literal["loader", "device"] = "loader"
    clip_norm: float | None = None
    ema: float | None = None
    checkpoint_every: int = 200
    log_every: int = 10
    validate_every: int | None = None
    keep: Literal["last", "best"] = "last"
    criterion: str = "relative"
    non_finite: Literal["stop", "skip", "drop"] = "stop"
    trackers: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "checkpoint_every", "log_every"):
            require(getattr(self, name) >= 1, f"training.{name}", "at least 1", getattr(self, name))
        require(self.workers >= 0, "training.workers", "zero or more", self.workers)
        require(
            self.batch_size % self.accumulate == 0,
            "training.accumulate",
            f"a divisor of training.batch_size ({self.batch_size})",
            self.accumulate,
        )
        if self.ema is not None:
            require(0 < self.ema < 1, "training.ema", "between 0 and 1", self.ema)
        for name in ("validate_every", "affinity_every", "diagnose_every"):
            every = getattr(self, name)
            require(every is None or every >= 1, f"training.{name}", "at least 1", every)
        for name in ("affinity_every", "diagnose_every"):
            every = getattr(self, name)
            most = f"at most training.steps ({self.steps}), or nothing is measured"
            require(every is None or every <= self.steps, f"training.{name}", most, every)
        if self.threads != "auto":
            require(self.threads >= 1, "training.threads", "at least 1", self.threads)
        if self.clip_norm is not None:
            require(self.clip_norm > 0, "training.clip_norm", "positive", self.clip_norm)


Protocol = Literal["plain", "survey", "invpt", "mtan"]
"""By whose rules a split is scored; see :data:`plait.metrics.PROTOCOLS`."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How a split is scored; always at the labels' own size.

    Attributes:
        protocol: By whose rules: ``plain`` (plait's own), ``survey``, ``invpt`` or ``mtan``. It chooses the
            measures of all tasks; see docs/protocols.md.
        size: Height and width the network sees; None for each image's own size.
        batch_size: Images at a time; changes no score.
        flip: Average with the mirrored image.
        scales: Average over the image at these scales.
        window: Height and width of a sliding window; None sees the image whole.
        stride: Step of the window; None for two thirds of it.
    """

    protocol: Protocol = "plain"
    size: tuple[int, int] | None = None
    batch_size: int = 8
    flip: bool = False
    scales: list[float] = field(default_factory=lambda: [1.0])
    window: tuple[int, int] | None = None
    stride: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        require(self.batch_size >= 1, "evaluation.batch_size", "at least 1", self.batch_size)
        require(
            len(self.scales) > 0 and all(0 < scale < math.inf for scale in self.scales),
            "evaluation.scales",
            "one or more positive numbers",
            self.scales,
        )
        for name in ("size", "window", "stride"):
            sides: tuple[int, int] | None = getattr(self, name)
            if sides is not None:
                require(min(sides) >= 1, f"evaluation.{name}", "height and width of at least 1", list(sides))
        if self.window is not None and self.stride is not None:
            fits = all(step <= side for step, side in zip(self.stride, self.window, strict=True))
            require(fits, "evaluation.stride", f"at most the window {list(self.window)}", list(self.stride))


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a paper reports for such a network: to be read apart from a run's scores, never in one table.

    Attributes:
        source: Paper and table.
        scores: ``{task: {measure: number}}`` as printed there: percent, metres, degrees.
        relative_gain: Mean relative gain as printed there, in percent.
        parameters: Parameters as printed there, in millions.
        flops: Operations as printed there, in units of 1e9; what the paper counts, ``note`` says.
        copied: Whether that paper took the numbers from another, without training the network itself.
        uncertain: What is uncertain about them; None where nothing is known to be.
        note: How that training or scoring differs from this recipe's.
    """

    source: str
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    relative_gain: float | None = None
    parameters: float | None = None
    flops: float | None = None
    copied: bool = False
    uncertain: str | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run.

    Attributes:
        data: Where samples come from.
        tasks: ``{name: {kind: semantic | depth | ..., option: value}}``; their order is kept everywhere.
        model: How tasks share a network.
        balancer: How losses are combined: a name of ``plait list balancers``, or a name with options.
        optimizer: The update rule.
        schedule: The learning rate by iteration.
        augmentation: Arguments of :class:`plait.data.transforms.Augmentation`.
        training: The loop.
        evaluation: How a split is scored.
        published: What a paper reports for it; decides nothing.
    """

    data: Data = field(default_factory=Data)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    model: Model = field(default_factory=Model)
    balancer: Component = "equal"
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    augmentation: dict[str, Any] = field(default_factory=dict)
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)
    published: Published | None = None

    def __post_init__(self) -> None:
        for task, options in self.tasks.items():
            if "kind" not in options:
                raise ConfigurationError(f"tasks.{task} has no kind: write 'kind: depth', for instance")


def may_change(key: str) -> bool:
    """Whether a dotted key of a recipe may differ when a run goes on.

    >>> may_change("training.workers"), may_change("published.source"), may_change("training.steps")
    (True, True, False)
    """
    return any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE)


def require(holds: bool, key: str, expected: str, got: object) -> None:
    """Raises :class:`ConfigurationError` unless ``holds``."""
    if not holds:
        raise ConfigurationError(f"{key} must be {expected}, got {got!r}")


def load_recipe(path: Path | str | None = None, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe from YAML, with overrides.

    Args:
        path: A YAML file, or the name of a built-in recipe; None starts from the defaults.
        overrides: As on a command line: ``["--training.steps", "100", "--balancer=mgda"]``. Keys are dotted,
            never abbreviated; values are YAML.

    Raises:
        ConfigurationError: For an unreadable file, an unknown key (answered with the nearest known one) or a
            value of the wrong type.
    """
    tree = read_yaml(recipe_path(path)) if path is not None else {}
    for key, value in parse_overrides(overrides):
        assign(tree, key, copy.deepcopy(value))
    return parse(tree)


def parse(tree: Mapping[str, Any]) -> Recipe:
    """A recipe from nested plain values, checked key by key and type by type.

    >>> parse({"training": {"step": 3}})
    Traceback (most recent call last):
    plait.errors.ConfigurationError: unknown key 'training.step' (did you mean 'steps'?); known are ...
    """
    check_keys(Recipe, tree)
    return typed(Recipe, with_names(tree), what="recipe")


Made = TypeVar("Made")


def typed(kind: type[Made], tree: Mapping[str, Any], *, what: str) -> Made:
    """A dataclass from nested plain values, with defaults filled in and types checked.

    Raises:
        ConfigurationError: If a value is of a wrong type, the dataclass refuses it, or a class is asked for.
    """
    refuse_classes(tree, what)
    # Our own look at the keys (check_keys) comes first because it can name the nearest one.
    from jsonargparse import ArgumentError

    parser = parser_of(kind)  # type: ignore[arg-type]
    try:
        parsed = parser.instantiate(parser.parse_object(dict(tree)))
    except (ArgumentError, ValueError) as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ConfigurationError):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        raise ConfigurationError(misfit(kind, tree, " ".join(str(error).split()), what)) from error
    return kind(**vars(parsed))


@cache
def parser_of(kind: type) -> ArgumentParser:
    """What reads a dataclass from nested values; making it takes as long as using it."""
    from jsonargparse import ArgumentParser, set_loader

    set_loader("plain", as_it_is)
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, parser_mode="plain")
    parser.add_class_arguments(kind)
    return parser


def as_it_is(text: str) -> str:
    """Text where a value may be anything: it is not read again as YAML, in which a class could be named."""
    return text


def refuse_classes(value: Any, what: str, place: str = "") -> None:
    """Raises :class:`ConfigurationError` for a key ``class_path``, by which jsonargparse builds any class.

    Parts are named by a text that :func:`plait.registry.resolve` checks; nothing else of a file is called.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            here = f"{place}.{key}".lstrip(".")
            if key == "class_path":
                raise ConfigurationError(
                    f"the {what} has a key {here!r}, which would build any class that it names: leave it "
                    f"out, and name a part of your own as 'package.module:Class'"
                )
            refuse_classes(item, what, here)
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_classes(item, what, place)


def misfit(kind: type, tree: Mapping[str, Any], message: str, what: str) -> str:
    """What jsonargparse says of a value of the wrong type, in one sentence of ours where it names the key."""
    named_key = re.match(r'Parser key "([\w.]+)"', message)
    if named_key is None:
        return f"the {what} is not valid: {message}"
    key = named_key[1]
    expected: Any = kind
    value: Any = tree
    for part in key.split("."):
        expected, value = typing.get_type_hints(expected)[part], value[part]
    words = in_words(expected)
    article = "a " if words.startswith(("whole", "number")) else ""
    return f"{key} must be {article}{words}, got {value!r}"


def in_words(annotation: Any) -> str:
    """A type annotation as a person would write a value of it in YAML.

    >>> in_words(tuple[int, int] | None)
    '[whole number, whole number] or null'
    """
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(in_words(part) for part in parts)
    if origin is Literal:
        return " or ".join(parts)
    if origin is tuple:
        return f"[{', '.join(in_words(part) for part in parts)}]"
    if origin is list:
        return f"[{in_words(parts[0])}, ...]"
    if origin is dict:
        return f"{{name: {in_words(parts[1])}, ...}}"
    if dataclasses.is_dataclass(annotation):
        known = typing.get_type_hints(annotation)
        return f"{{{', '.join(f'{name}: {in_words(part)}' for name, part in known.items())}}}"
    words = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}
    return words.get(annotation, "value")


def with_names(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which a component with options but no name has the default name."""
    named_tree = copy.deepcopy(dict(tree))
    model = named_tree.get("model", {})
    for owner, key, default in (
        (model, "encoder", Model.encoder),
        (model, "decoder", Model.decoder),
        (named_tree, "balancer", Recipe.balancer),
    ):
        if isinstance(owner.get(key), dict):
            owner[key] = {"name": default} | owner[key]
    return named_tree


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out; reading it again gives the same recipe."""
    tree = plain(recipe)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)
    if "\x85" in text:  # written as a character, PyYAML would read it back as the end of a line
        text = yaml.safe_dump(tree, sort_keys=False, width=110)
    return text


def plain(value: Any) -> Any:
    """Dataclasses and tuples as the dictionaries and lists that YAML and JSON hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def replace(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with dotted keys changed: ``replace(recipe, {"training.seed": 1, "balancer": "mgda"})``.

    A dictionary replaces a component, the tasks or the augmentation whole; dotted keys change one option.
    """
    tree = plain(recipe)
    for key, value in changes.items():
        assign(tree, key, value)
    return parse(tree)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        ConfigurationError: If it cannot be read, is not YAML, or holds something else.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not a text file: expected YAML, in UTF-8") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}; name another file") from error
    except yaml.constructor.ConstructorError as error:
        raise ConfigurationError(
            f"{path} holds more than plain values ({error.problem}), which is never built: write text, "
            f"numbers, lists and 'key: value' alone"
        ) from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        place = f" at line {where.line + 1}, column {where.column + 1}" if where is not None else ""
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ConfigurationError(f"{path} is not YAML{place}: {problem}; mend that line") from error
    if not isinstance(tree, dict):
        raise ConfigurationError(f"{path} must hold 'key: value' lines, got {type(tree).__name__}")
    return tree


def parse_overrides(words: Sequence[str]) -> list[tuple[str, Any]]:
    """Words of a command line to dotted keys and YAML values.

    >>> parse_overrides(["--training.steps", "100", "--model.encoder={name: shared}"])
    [('training.steps', 100), ('model.encoder', {'name': 'shared'})]
    """
    pairs: list[tuple[str, Any]] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ConfigurationError(f"expected '--key value' with a dotted key, got {word!r}")
        key, equals, text = word[2:].partition("=")
        if not equals:
            if not rest:
                raise ConfigurationError(f"--{key} needs a value")
            text = rest.pop(0)
        pairs.append((key, scalar(key, text)))
    return pairs


def scalar(key: str, text: str) -> Any:
    """A value as YAML reads it, and also ``1e-3``, which YAML 1.1 takes for text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--{key}: {text!r} is not a YAML value") from error
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def assign(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key; a component that was only a name becomes ``{name: ...}`` when an option is set."""
    *parents, last = key.split(".")
    for parent in parents:
        below = tree.get(parent)
        if below is None:
            below = {}
        elif isinstance(below, str):
            below = {"name": below}
        elif not isinstance(below, dict):
            raise ConfigurationError(f"--{key}: {parent!r} is {below!r}, which has no keys below it")
        tree[parent] = below
        tree = below
    tree[last] = value


def check_keys(kind: type, tree: object, place: str = "") -> None:
    """Raises :class:`ConfigurationError` for a key that the dataclass has not; names the nearest one."""
    if not isinstance(tree, Mapping):
        raise ConfigurationError(f"{place or 'a recipe'} must hold 'key: value' lines, got {tree!r}")
    known = typing.get_type_hints(kind)
    for key, value in tree.items():
        here = f"{place}.{key}" if place else str(key)
        if key not in known:
            raise ConfigurationError(
                f"unknown key {here!r}{nearest(str(key), known)}; known are {', '.join(known)}"
            )
        inner = known[key]
        if isinstance(value, Mapping):  # of ``Partial | None``, say, it can only be the former
            inner = next((part for part in typing.get_args(inner) if dataclasses.is_dataclass(part)), inner)
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            check_keys(inner, value, here)
        elif typing.get_origin(inner) is list and isinstance(value, list):
            (item,) = typing.get_args(inner)
            if isinstance(item, type) and dataclasses.is_dataclass(item):
                for place_in_list, part in enumerate(value):
                    check_keys(item, part, f"{here}[{place_in_list}]")
        elif value is None and not allows_none(inner):
            raise ConfigurationError(f"{here} has no value")


def allows_none(annotation: Any) -> bool:
    """Whether a type annotation admits None."""
    union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    return annotation is Any or (union and type(None) in typing.get_args(annotation))
