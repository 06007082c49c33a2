"""Single-task networks made larger, until together they need as many operations as an arm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from plait import config, registry
from plait.config import Recipe
from plait.errors import ConfigurationError

if TYPE_CHECKING:
    from plait.models.network import MultiTaskNetwork

STEP = 8
"""Channels between widths that are tried."""
WIDEST = 8192
"""Channels beyond which no head is made."""


@dataclass(frozen=True, kw_only=True)
class Larger:
    """Larger single-task networks.

    Attributes:
        recipes: Theirs, in the order of the smaller ones.
        macs: Multiply-accumulates of one image, over all of them.
        ratio: That, as a multiple of what was asked for.
        changed: What was changed, in words; ``nothing`` where they needed as many before.
    """

    recipes: tuple[Recipe, ...]
    macs: int
    ratio: float
    changed: str


def larger_recipe(
    single: Sequence[Recipe], target_macs: int, how: Literal["wider"] | Sequence[str], size: tuple[int, int]
) -> Larger:
    """Makes single-task networks larger, all in the same way.

    Args:
        single: A recipe for each task, alike but for the task.
        target_macs: Multiply-accumulates of one image that all of them together should need.
        how: ``wider`` heads, in steps of 8 channels; or backbones, of which the one is taken whose networks
            need the most similar number, and heads are widened if they need less.
        size: Height and width of the image.

    Returns:
        Those that are nearest by ratio. They never have narrower heads than ``single``.

    Raises:
        ConfigurationError: If there is nothing to widen, or a backbone cannot be used in these recipes.
    """
    if how == "wider":
        return nearest_width(single, target_macs, size)
    backbones = [replaced_backbone(single, name) for name in how]
    if not backbones:
        raise ConfigurationError("expected one backbone or more for larger single-task networks, got none")
    needed = [total_macs(recipes, size) for recipes in backbones]
    place = min(range(len(needed)), key=lambda number: distance(needed[number], target_macs))
    found = stated(backbones[place], needed[place], target_macs, f"backbone {how[place]}")
    if found.macs >= target_macs or head_width(found.recipes[0]) is None:
        return found
    wider = nearest_width(found.recipes, target_macs, size)
    if distance(wider.macs, target_macs) >= distance(found.macs, target_macs):
        return found
    return replace(wider, changed=f"{found.changed}, {wider.changed}")


def nearest_width(single: Sequence[Recipe], target_macs: int, size: tuple[int, int]) -> Larger:
    """The same networks with heads so wide that they come nearest to the target."""
    own = head_width(single[0])
    if own is None:
        raise ConfigurationError(
            f"larger single-task networks have wider heads, but {head_in_words(single[0])} has no option "
            f"'width': use another head, for instance fpn, or name larger backbones in larger_single_task"
        )
    counts = [macs_by_width(recipe, size) for recipe in single]

    def macs(steps: int) -> int:
        return sum(count(own + STEP * steps) for count in counts)

    low, high = 0, 1  # the target is between these, or below them
    while macs(high) < target_macs:
        low, high = high, 2 * high
        if own + STEP * low > WIDEST:
            raise ConfigurationError(
                f"single-task networks with heads of {own + STEP * low} channels still need less than "
                f"{target_macs:,} multiply-accumulates: name larger backbones in larger_single_task"
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if macs(middle) < target_macs else (low, middle)
    best = min((low, high), key=lambda steps: distance(macs(steps), target_macs))
    if best == 0:
        return stated(single, macs(0), target_macs, "nothing")
    width = own + STEP * best
    recipes = [
        replace(recipe, model=replace(recipe.model, decoder=with_width(recipe, width))) for recipe in single
    ]
    return stated(recipes, macs(best), target_macs, f"heads of {width} channels instead of {own}")


def with_width(recipe: Recipe, width: int) -> dict[str, Any]:
    """A recipe's decoder with heads of so many channels."""
    name, options = config.named(recipe.model.decoder)
    return {"name": name, **options, "head_options": {**(options.get("head_options") or {}), "width": width}}


def replaced_backbone(single: Sequence[Recipe], backbone: str) -> tuple[Recipe, ...]:
    """The same networks with another backbone.

    Raises:
        ConfigurationError: If their backbone starts from a file of weights.
    """
    if weights := next((recipe.model.weights for recipe in single if recipe.model.weights), None):
        raise ConfigurationError(
            f"backbone {backbone} cannot start from {weights}, the weights of {single[0].model.backbone}: "
            f"use larger_single_task: wider, or leave out model.weights"
        )
    return tuple(replace(recipe, model=replace(recipe.model, backbone=backbone)) for recipe in single)


def stated(recipes: Sequence[Recipe], macs: int, target_macs: int, changed: str) -> Larger:
    """Larger networks with the ratio that they reach."""
    return Larger(recipes=tuple(recipes), macs=macs, ratio=macs / target_macs, changed=changed)


def distance(macs: int, target: int) -> float:
    """How far a number of operations is from another, twice as many being as far as half as many."""
    return abs(math.log(macs / target))


def total_macs(recipes: Sequence[Recipe], size: tuple[int, int]) -> int:
    """Multiply-accumulates of one image over all networks, with random weights.

    Nothing is computed, but for networks whose paths depend on weights: these are counted as they begin.
    """
    return sum(forward_macs(recipe, size) for recipe in recipes)


def forward_macs(recipe: Recipe, size: tuple[int, int]) -> int:
    """Multiply-accumulates of one image through a recipe's network."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def counted(device: str) -> int:
        network, images = blank(recipe, size, device)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(images)
        return int(counter.get_total_flops()) // 2

    try:
        return counted("meta")
    except RuntimeError:  # it asks for values, which are not there
        with torch.random.fork_rng(devices=[]):
            return counted("cpu")


def macs_by_width(recipe: Recipe, size: tuple[int, int]) -> Callable[[int], int]:
    """Multiply-accumulates of one image as a function of the head's width; only heads are made again."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    network, images = blank(recipe, size)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        pyramids = network.encoder(images)
    encoder = int(counter.get_total_flops())
    known: dict[int, int] = {}

    def count(width: int) -> int:
        if width not in known:
            name, options = config.named(with_width(recipe, width))
            with torch.device("meta"), torch.no_grad():
                decoder = registry.build(
                    "decoder",
                    name,
                    options,
                    tasks=network.tasks,
                    channels=network.encoder.channels,
                    strides=network.encoder.strides,
                    groups=network.encoder.groups,
                    default_head=network.encoder.default_head,
                ).eval()
                with FlopCounterMode(display=False) as counter:
                    decoder(pyramids, size=size)
            known[width] = (encoder + int(counter.get_total_flops())) // 2
        return known[width]

    return count


def blank(recipe: Recipe, size: tuple[int, int], device: str = "meta") -> tuple[MultiTaskNetwork, Any]:
    """A recipe's network, and an image for it; on ``meta`` they take no memory and hold no values."""
    import torch

    import plait.tasks
    from plait.training.run import make_network

    with torch.device(device):
        network = make_network(recipe, plait.tasks.parse(recipe.tasks), pretrained=False).eval()
        return network, torch.zeros(1, 3, *size)


def head_of(recipe: Recipe) -> tuple[str, Mapping[str, Any]] | None:
    """The name of a recipe's head and its options; None if its decoder takes no head."""
    name, options = config.named(recipe.model.decoder)
    if "head_options" not in registry.parameters_of(registry.resolve("decoder", name)):
        return None
    head = options.get("head") or blank(recipe, (64, 64))[0].encoder.default_head
    return head, options.get("head_options") or {}


def head_width(recipe: Recipe) -> int | None:
    """How wide a recipe's head is; None if that is no option of it."""
    found = head_of(recipe)
    if found is None:
        return None
    head, options = found
    parameter = registry.parameters_of(registry.resolve("head", head)).get("width")
    if parameter is None:
        return None
    default = 0 if parameter.default is parameter.empty else parameter.default
    return int(options.get("width", default))


def head_in_words(recipe: Recipe) -> str:
    """What a recipe predicts with."""
    found = head_of(recipe)
    return f"decoder {config.named(recipe.model.decoder)[0]!r}" if found is None else f"head {found[0]!r}"
