"""Optimizers: which parameter learns how fast, and how strongly it decays."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from plait import config
from plait.errors import ConfigurationError
from plait.models.network import MultiTaskNetwork
from plait.models.parameters import backbone_depths
from plait.registry import nearest


def make_optimizer(model: nn.Module, balancer: nn.Module, recipe: config.Optimizer) -> torch.optim.Optimizer:
    """The optimizer of a recipe, fused into one kernel where torch has it.

    Each of its groups has ``multiplier``, which :func:`set_learning_rate` keeps at every step.
    """
    groups = parameter_groups(model, balancer, recipe)
    parameters = [parameter for group in groups for parameter in group["params"]]
    if not parameters:
        raise ConfigurationError(
            "the optimizer has nothing to train: optimizer.groups freezes every parameter"
        )
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    match recipe.name:
        case "sgd":
            return torch.optim.SGD(
                groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused
            )
        case "adam":
            return torch.optim.Adam(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=fused)
        case "adamw":
            return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets every group to ``lr`` times its own multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["multiplier"]


def parameter_groups(model: nn.Module, balancer: nn.Module, recipe: config.Optimizer) -> list[dict[str, Any]]:
    """Trainable parameters, sorted into groups of one multiplier and one decay.

    A recipe's multiplier is on top of the network's own (:meth:`MultiTaskNetwork.lr_multipliers`).

    The balancer's own parameters are named ``balancer.<name>``. Freezing sets ``requires_grad`` to False.

    Raises:
        ConfigurationError: If a pattern is not a regular expression or matches no parameter.
    """
    named = dict(model.named_parameters()) | {f"balancer.{n}": p for n, p in balancer.named_parameters()}
    rules = [(compiled(rule.pattern), rule) for rule in recipe.groups]
    for pattern, rule in rules:
        if not any(pattern.search(name) for name in named):
            raise ConfigurationError(
                f"optimizer.groups: the pattern {rule.pattern!r} matches no parameter"
                f"{nearest(rule.pattern, named)}"
            )
    depths = backbone_depths(model) if recipe.layer_decay is not None else {}
    own = model.lr_multipliers() if isinstance(model, MultiTaskNetwork) else {}
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in named.items():
        rule = next((rule for pattern, rule in rules if pattern.search(name)), config.Group(pattern=""))
        if rule.freeze:
            parameter.requires_grad_(False)
        if not parameter.requires_grad:
            continue
        multiplier, decay = rule.lr_multiplier * own.get(parameter, 1.0), rule.weight_decay
        if recipe.layer_decay is not None and name in depths:
            multiplier *= recipe.layer_decay ** depths[name]
        if decay is None:
            spared = recipe.no_decay_on_norms and (parameter.ndim <= 1 or name.startswith("balancer."))
            decay = 0.0 if spared else recipe.weight_decay
        group = groups.setdefault(
            (multiplier, decay),
            {"params": [], "names": [], "multiplier": multiplier, "weight_decay": decay},
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def compiled(pattern: str) -> re.Pattern[str]:
    """A regular expression, or a sentence about what is wrong with it."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigurationError(
            f"optimizer.groups: {pattern!r} is not a regular expression: {error}"
        ) from error
