"""From a study file to its arms: the recipe of each, and the single-task networks they are held against."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plait import config
from plait.config import Recipe, may_change, named, plain
from plait.errors import ConfigurationError
from plait.recipes import recipe_path
from plait.study.plan import Role, Study

FROM_SINGLE_TASK = "single-task"
"""What ``model.init_from`` is in an arm that starts from the study's own single-task networks."""
SINGLE_TASK = "single-task"
COMPARED = ("model.encoder", "model.decoder", "model.init_from", "balancer", "training.seed")
"""Keys in which arms differ because that is what the study compares."""
ONLY_LOOKED_AT = ("training.affinity_every", "training.diagnose_every")
"""Keys of measurements that are taken beside the training."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network of an arm, as it is trained: once for every seed.

    Attributes:
        task: Its task, for a single-task network; empty for a network of all tasks.
        recipe: Everything that decides its training but the seed.
    """

    task: str
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class PlannedArm:
    """One arm of a study.

    Attributes:
        name: Its name.
        role: ``arm``, ``single-task`` or ``larger single-task``.
        networks: One, or one for each task.
        processes: Processes that train a run together.
        reference: The single-task arm that it is held against; None without one.
        larger: The larger single-task arm made for it; None without one.
        starts_from_reference: Whether its runs start from the reference's trained networks.
        differs: ``{key: (here, in the study's recipe)}`` beside what is compared.
        note: How a larger single-task arm was made.
    """

    name: str
    role: Role
    networks: tuple[Network, ...]
    processes: int = 1
    reference: str | None = None
    larger: str | None = None
    starts_from_reference: bool = False
    differs: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    note: str = ""

    @property
    def recipe(self) -> Recipe:
        """The recipe of its first network."""
        return self.networks[0].recipe

    @property
    def tasks(self) -> list[str]:
        """The tasks that it reports."""
        return [
            name
            for network in self.networks
            for name, options in network.recipe.tasks.items()
            if not options.get("auxiliary")
        ]


def arms_of(study: Study, folder: Path | None = None) -> tuple[PlannedArm, ...]:
    """The arms of a study, the single-task references before them.

    Args:
        study: What is compared.
        folder: Where the study file lies, to which recipes may be relative.

    Raises:
        ConfigurationError: If a recipe cannot be read, two arms have one name, or they cannot be compared.
    """
    base = base_tree(study.recipe, folder)
    wanted = list(changes_of(study))
    names = [name for name, _ in wanted]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(f"two arms of the study are named {doubled[0]!r}: name them apart")
    if base is None and any("recipe" not in changes for _, changes in wanted):
        missing = next(name for name, changes in wanted if "recipe" not in changes)
        raise ConfigurationError(f"arm {missing!r} has no recipe, and neither has the study: name one")
    made = [arm_of(study, name, changes, base, folder) for name, changes in wanted]
    common = made[0].recipe
    if base is not None:
        for key, value in study.overrides.items():
            config.assign(base, key, value)
        common = settled(config.parse(base), study)
    made = [dataclasses.replace(arm, differs=differences(arm.recipe, common)) for arm in made]
    check_comparable(made)
    references = single_task_arms(made, common) if study.single_task else []
    held = [(reference.networks, reference.name) for reference in references]
    made = [
        dataclasses.replace(
            arm,
            reference=next(
                (n for twins, n in held if twins == single_task_networks(arm.recipe, common)), None
            ),
        )
        for arm in made
    ]
    for arm in made:
        if arm.starts_from_reference and arm.reference is None:
            raise ConfigurationError(
                f"arm {arm.name!r} starts from single-task networks, but the study trains none: "
                f"set single_task: true"
            )
    references = [dataclasses.replace(r, differs=differences(r.recipe, common)) for r in references]
    return (*references, *made)


def base_tree(recipe: str | Mapping[str, Any] | None, folder: Path | None) -> dict[str, Any] | None:
    """A recipe as nested plain values, from its file, its built-in name or its keys."""
    if recipe is None:
        return None
    if isinstance(recipe, str):
        beside = folder / recipe if folder is not None else None
        file = beside if beside is not None and beside.is_file() else recipe_path(recipe)
        return config.read_yaml(file)
    return copy.deepcopy(dict(recipe))


def changes_of(study: Study) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and changed keys of the arms: those that are listed, then those of the grid."""
    for name, changes in study.arms.items():
        yield str(name), dict(changes or {})
    if study.grid:
        for values in itertools.product(*study.grid.values()):
            chosen = dict(zip(study.grid, values, strict=True))
            yield ", ".join(shown(key, value) for key, value in chosen.items()), chosen


def shown(key: str, value: Any) -> str:
    """A choice of the grid in a word or two.

    >>> shown("model.encoder", {"name": "mtan"}), shown("optimizer.lr", 0.1)
    ('mtan', 'lr 0.1')
    """
    if isinstance(value, Mapping):
        options = [f"{name} {option}" for name, option in value.items() if name != "name"]
        return " ".join([str(value.get("name", key.rpartition(".")[2])), *options])
    return value if isinstance(value, str) else f"{key.rpartition('.')[2]} {value}"


def arm_of(
    study: Study, name: str, changes: Mapping[str, Any], base: dict[str, Any] | None, folder: Path | None
) -> PlannedArm:
    """An arm from what it changes."""
    changes = dict(changes)
    processes = changes.pop("processes", study.processes)
    if not isinstance(processes, int) or processes < 1:
        raise ConfigurationError(f"arm {name!r}: processes must be a whole number from 1, got {processes!r}")
    own = changes.pop("recipe", None)
    tree = copy.deepcopy(base_tree(own, folder) if own is not None else base) or {}
    for key, value in {**changes, **study.overrides}.items():
        config.assign(tree, key, copy.deepcopy(value))
    if "training.steps" in study.overrides:
        keep_measuring(tree["training"])
    model = tree.get("model") or {}
    starts = isinstance(model, Mapping) and model.get("init_from") == FROM_SINGLE_TASK
    if starts:
        tree["model"] = {key: value for key, value in model.items() if key != "init_from"}
    try:
        recipe = settled(config.parse(tree), study)
    except ConfigurationError as error:
        raise ConfigurationError(f"arm {name!r}: {error}") from error
    if not recipe.tasks:
        raise ConfigurationError(f"arm {name!r} has no tasks: name them in the recipe")
    return PlannedArm(
        name=name,
        role="arm",
        networks=(Network(task="", recipe=recipe),),
        processes=processes,
        starts_from_reference=starts,
    )


def keep_measuring(training: dict[str, Any]) -> None:
    """Lowers intervals of measurements to the steps of a shorter training."""
    for key in ONLY_LOOKED_AT:
        name = key.rpartition(".")[2]
        every, steps = training.get(name), training["steps"]
        if isinstance(every, int) and isinstance(steps, int) and every > steps:
            training[name] = steps


def settled(recipe: Recipe, study: Study) -> Recipe:
    """A recipe with the study's budget and trackers; budgets in minutes are set when a step was timed."""
    steps = recipe.training.steps
    if study.budget.steps is not None:
        steps = study.budget.steps
    elif study.budget.samples is not None:
        steps = max(1, round(study.budget.samples / recipe.training.batch_size))
    return with_training(recipe, steps=steps, trackers=list(study.trackers) or recipe.training.trackers)


def with_training(recipe: Recipe, **changes: Any) -> Recipe:
    """A recipe with some of its ``training`` changed; what is measured every so many steps stays in them."""
    training = recipe.training
    steps = changes.get("steps", training.steps)
    for name in ("affinity_every", "diagnose_every"):
        every = getattr(training, name)
        if every is not None and every > steps:
            changes[name] = steps
    return dataclasses.replace(recipe, training=dataclasses.replace(training, **changes))


def check_comparable(arms: Sequence[PlannedArm]) -> None:
    """Refuses arms whose scores could not stand in one table."""
    first = arms[0]
    for arm in arms[1:]:
        for key in ("data.name", "data.root", "data.options", "data.test_split", "evaluation.protocol"):
            here, there = (value_of(a.recipe, key) for a in (arm, first))
            if here != there:
                raise ConfigurationError(
                    f"arms {arm.name!r} and {first.name!r} cannot be in one study: {key} is {here!r} and "
                    f"{there!r}; report two studies together instead"
                )
        if sorted(arm.tasks) != sorted(first.tasks):
            raise ConfigurationError(
                f"arms {arm.name!r} and {first.name!r} cannot be in one study: they report the tasks "
                f"{', '.join(arm.tasks)} and {', '.join(first.tasks)}"
            )


def value_of(recipe: Recipe, key: str) -> Any:
    """What a recipe has under a dotted key."""
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value


def single_task_arms(arms: Sequence[PlannedArm], common: Recipe) -> list[PlannedArm]:
    """The single-task networks that the arms are held against: one arm for all that would be the same."""
    groups: dict[str, list[PlannedArm]] = {}
    for arm in arms:
        networks = single_task_networks(arm.recipe, common)
        groups.setdefault(json.dumps(plain([n.recipe for n in networks])), []).append(arm)
    backbones = [group[0].recipe.model.backbone for group in groups.values()]
    made = []
    for group, backbone in zip(groups.values(), backbones, strict=True):
        name = SINGLE_TASK
        if len(groups) > 1:
            apart = backbones.count(backbone) == 1
            name = f"{SINGLE_TASK} ({backbone})" if apart else f"{SINGLE_TASK} (for {group[0].name})"
        made.append(
            PlannedArm(
                name=name,
                role="single-task",
                networks=single_task_networks(group[0].recipe, common),
                processes=group[0].processes,
            )
        )
    return made


def single_task_networks(recipe: Recipe, common: Recipe) -> tuple[Network, ...]:
    """One network a reported task, by a recipe without its way of sharing and balancing.

    What belongs to sharing is left out: encoder, decoder, balancer, starting weights, auxiliary tasks,
    updates in turn, and the tasks' fixed weights. Arms that differ in nothing else have the same references.
    An arm whose decoder is another than ``independent`` has the heads of the study's recipe, if that is for
    the same backbone, and the backbone's usual ones otherwise.
    """
    of_own, of_common = (named(r.model.decoder) for r in (recipe, common))
    heads: dict[str, Any] = {}
    if of_own[0] == "independent":
        heads = of_own[1]
    elif of_common[0] == "independent" and recipe.model.backbone == common.model.backbone:
        heads = of_common[1]
    kept = {"name": "independent", **heads}
    model = dataclasses.replace(recipe.model, encoder="shared", decoder=kept, init_from=None)
    training = dataclasses.replace(
        recipe.training, alternate_tasks=False, affinity_every=None, diagnose_every=None
    )
    common = dataclasses.replace(
        recipe, model=model, training=training, balancer="equal", published=None, tasks={}
    )
    reported = {name: options for name, options in recipe.tasks.items() if not options.get("auxiliary")}
    return tuple(
        Network(
            task=name,
            recipe=dataclasses.replace(
                common, tasks={name: {key: value for key, value in options.items() if key != "weight"}}
            ),
        )
        for name, options in reported.items()
    )


def differences(recipe: Recipe, other: Recipe) -> dict[str, tuple[str, str]]:
    """What two recipes differ in beside what a study compares: ``{key: (here, there)}``."""
    common = [task for task in recipe.tasks if task in other.tasks]
    ours, theirs = leaves(recipe, common), leaves(other, common)
    return {
        key: (str(ours.get(key, "not set")), str(theirs.get(key, "not set")))
        for key in dict.fromkeys([*ours, *theirs])
        if ours.get(key) != theirs.get(key)
    }


def leaves(recipe: Recipe, tasks: Sequence[str]) -> dict[str, Any]:
    """A recipe's values by dotted key, without what is compared and what decides nothing.

    Of tasks it has the given ones, without their weights, which belong to the balancing.
    """
    from plait.training.logs import flat

    found = {}
    for key, value in flat(plain(recipe)):
        compared = any(key == name or key.startswith(f"{name}.") for name in (*COMPARED, *ONLY_LOOKED_AT))
        if key.startswith("tasks."):
            _, task, option = key.split(".", 2)
            compared = task not in tasks or option == "weight"
        if not compared and not may_change(key):
            found[key] = value
    return found


def axes(recipe: Recipe) -> dict[str, str]:
    """Backbone, encoder, decoder and balancer of a recipe, each in a word or two."""
    model = recipe.model
    return {
        "backbone": model.backbone,
        "encoder": named(model.encoder)[0],
        "decoder": named(model.decoder)[0],
        "balancer": named(recipe.balancer)[0],
    }
