"""A study file: what is compared, as typed values that YAML can hold."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from plait.config import check_keys, in_words, plain, read_yaml, require
from plait.errors import ConfigurationError
from plait.recipes import recipe_path

Role = Literal["arm", "single-task", "larger single-task"]
"""What an arm of a study is: one of the user's, or single-task networks that those are held against."""

RESERVED = ("single-task",)
"""How the names of arms may not begin: the study adds such arms itself."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long each run trains, by one of three measures; none of them leaves each recipe's own steps.

    Attributes:
        steps: Updates.
        samples: Images seen: arms of other batch sizes make other numbers of updates.
        minutes: Wall time of training, measured once at the start of the study: a costlier arm makes fewer
            updates. The steps found are stored, so that another machine or an interruption changes nothing.
    """

    steps: int | None = None
    samples: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        given = [f.name for f in dataclasses.fields(self) if getattr(self, f.name) is not None]
        require(len(given) <= 1, "budget", "one of steps, samples and minutes", ", ".join(given))
        for name in given:
            value = getattr(self, name)
            require(0 < value < math.inf, f"budget.{name}", "positive", value)


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers that a setting is searched among.

    Attributes:
        low: The smallest.
        high: The largest.
        log: Search their logarithm, as for a learning rate.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        require(self.low < self.high, "tuning.search", "low below high", [self.low, self.high])
        require(self.low > 0 or not self.log, "tuning.search", "positive where log is true", self.low)


def number(value: Any) -> Any:
    """A value, or the number that a text means: YAML 1.1 takes ``1e-4`` for text.

    >>> number("1e-4"), number("adam"), number(3)
    (0.0001, 'adam', 3)
    """
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """A search for each arm's settings on the validation split, of the same size for every arm.

    Attributes:
        trials: Runs for each arm, and for each single-task network. The first has the recipe's own settings.
        search: ``{dotted key: {low, high, log}}`` or ``{dotted key: [values]}``.
        sampler: Of Optuna: ``tpe`` or ``random``.
        seed: Of the sampler, and of the trials' training.
        steps: Updates of a trial; None for as many as the final runs make.
    """

    trials: int
    search: dict[str, Any]
    sampler: Literal["tpe", "random"] = "tpe"
    seed: int = 0
    steps: int | None = None

    def __post_init__(self) -> None:
        require(self.trials >= 1, "tuning.trials", "at least 1", self.trials)
        require(len(self.search) > 0, "tuning.search", "one or more settings", self.search)
        require(self.steps is None or self.steps >= 1, "tuning.steps", "at least 1", self.steps)
        for key in self.search:
            self.space(key)

    def space(self, key: str) -> Range | list[Any]:
        """What a setting is searched among.

        Raises:
            ConfigurationError: If it is neither a range nor a list.
        """
        value = self.search[key]
        if isinstance(value, list) and value:
            return [number(item) for item in value]
        if isinstance(value, Mapping):
            value = {end: number(item) for end, item in value.items()}
            known = {f.name for f in dataclasses.fields(Range)}
            numbers = all(isinstance(value.get(end), int | float) for end in ("low", "high"))
            if numbers and set(value) <= known:
                return Range(**value)
        raise ConfigurationError(
            f"tuning.search.{key} must be a list of values or {{low: 1e-4, high: 1e-2, log: true}}, "
            f"got {value!r}"
        )


@dataclass(frozen=True, kw_only=True)
class Study:
    """What is compared with what, how often and for how long.

    Attributes:
        name: Names its folder; a file's own name by default.
        title: The report's heading.
        recipe: What arms start from: a recipe's file or built-in name, or its keys.
        arms: ``{name: {dotted key: value}}``: what an arm changes. ``recipe`` among the keys starts from
            another recipe, and ``model.init_from: single-task`` from the trained single-task networks of the
            same seed.
        grid: ``{dotted key: [values]}``: every combination is an arm beside those of ``arms``.
        seeds: Every arm is trained with each of them.
        single_task: Add single-task networks, trained alike: one for each task, shared by all arms that have
            the same backbone and settings.
        larger_single_task: Also add, for each arm that needs more operations than its single-task networks
            together, single-task networks that are made larger until they need as many: ``wider`` heads, or
            the nearest of the backbones named here.
        tuning: A search for each arm's settings; None for none.
        budget: How long each run trains.
        processes: Processes that train one run together, each with a device of its own; an arm may say
            otherwise under the same key.
        overrides: ``{dotted key: value}`` for every arm, after its own changes: where data lie, for instance.
        trackers: As ``training.trackers`` of a recipe, for all runs.
    """

    name: str = ""
    title: str = ""
    recipe: str | dict[str, Any] | None = None
    arms: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    single_task: bool = True
    larger_single_task: Literal["wider"] | list[str] | None = None
    tuning: Tuning | None = None
    budget: Budget = field(default_factory=Budget)
    processes: int = 1
    overrides: dict[str, Any] = field(default_factory=dict)
    trackers: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        require(len(self.seeds) > 0, "seeds", "one or more whole numbers", self.seeds)
        require(len(set(self.seeds)) == len(self.seeds), "seeds", "each given once", self.seeds)
        require(self.processes >= 1, "processes", "at least 1", self.processes)
        require(
            bool(self.arms or self.grid), "arms", "one or more (name: keys that differ), or a grid", self.arms
        )
        for key, values in self.grid.items():
            require(len(values) > 0, f"grid.{key}", "one or more values", values)
        for arm in self.arms:
            require(
                not str(arm).startswith(RESERVED), "an arm's name", "other than the study's own", str(arm)
            )


def load_study(path: Path | str) -> Study:
    """Reads a study from a YAML file, or one of the built-in ones by name.

    Raises:
        ConfigurationError: For an unreadable file, an unknown key (answered with the nearest known one) or a
            value of the wrong type.
    """
    file = recipe_path(path)
    study = parse(read_yaml(file))
    return dataclasses.replace(study, name=study.name or file.stem)


def parse(tree: Mapping[str, Any]) -> Study:
    """A study from nested plain values, checked key by key and type by type.

    >>> parse({"arm": {}})
    Traceback (most recent call last):
    plait.errors.ConfigurationError: unknown key 'arm' (did you mean 'arms'?); known are ...
    """
    from plait.config import typed

    check_keys(Study, tree)
    return typed(Study, tree, what="study")


def dump(study: Study) -> dict[str, Any]:
    """The study as plain values; :func:`parse` reads them."""
    tree = plain(study)
    return dict(tree)


__all__ = ["Budget", "Range", "Study", "Tuning", "dump", "in_words", "load_study", "parse"]
