"""The list of balancers, the options they are tested with, and what each claims."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import plait.balancing
from plait.balancing import Balancer
from plait.testing.balancers import Traits


def constant(*weights: float) -> Any:
    return lambda lengths, losses: torch.tensor(weights, dtype=torch.float64)[: len(losses)]


def inverse_losses(_: Tensor, losses: Tensor) -> Tensor:
    return 1 / losses


def geometric(_: Tensor, losses: Tensor) -> Tensor:
    return losses.log().mean().exp() / (len(losses) * losses)


def shortest(gramian: Tensor, _: Tensor) -> Tensor:
    (a, c), (_, b) = gramian.tolist()
    first = min(max((b - c) / (a + b - 2 * c), 0.0), 1.0)
    return torch.tensor([first, 1 - first], dtype=torch.float64)


def projected(gramian: Tensor, _: Tensor) -> Tensor:
    """PCGrad's two projections."""
    return 1 - gramian[0, 1].clamp(max=0) / gramian.diagonal()


def bisector(gramian: Tensor, _: Tensor) -> Tensor:
    """IMTL-G: equal projections on both gradients, weights of sum one."""
    return gramian.diagonal().sqrt().flip(0) / gramian.diagonal().sqrt().sum()


def bargain(gramian: Tensor, _: Tensor) -> Tensor:
    lengths = gramian.diagonal().sqrt()
    cosine = gramian[0, 1] / lengths.prod()
    return 1 / (lengths * (1 + cosine).sqrt())


def dual(gramian: Tensor, _: Tensor) -> Tensor:
    """The mean, less its part against the gradient it conflicts with."""
    mean = gramian.mean(1)
    return 0.5 - (mean.clamp(max=0) / gramian.diagonal())


def evened(lengths: Tensor, _: Tensor) -> Tensor:
    """Every gradient at their mean length."""
    return lengths.mean() / lengths


ones = constant(1, 1, 1)
fixed = constant(1, 0.5, 1)
LOSSES = Traits(losses=True)
OWN = Traits(degree=None, permutes=False, random=True, losses=True)
BALANCERS: dict[str, tuple[str, dict[str, Any], Traits]] = {
    "equal": ("equal", {}, Traits(equal="sum", orthogonal=ones, pair=ones)),
    "equal, mean": ("equal", {"reduction": "mean"}, Traits(equal="mean")),
    "fixed": ("fixed", {"weights": {"b": 0.5}}, Traits(permutes=False, orthogonal=fixed, pair=fixed)),
    "uncertainty": ("uncertainty", {}, Traits(losses=True, orthogonal=constant(0.5, 0.5, 0.5))),
    "dwa": ("dwa", {}, Traits(equal="sum", orthogonal=ones, pair=ones)),
    "dtp": ("dtp", {}, Traits(equal="sum", orthogonal=ones, pair=ones)),
    "rlw": ("rlw", {}, Traits(permutes=False, random=True, equal="mean")),
    "gls": ("gls", {}, Traits(losses=True, equal="mean", orthogonal=geometric, pair=geometric)),
    "log_sum": ("log_sum", {}, Traits(losses=True, orthogonal=inverse_losses, pair=inverse_losses)),
    "imtl_l": ("imtl_l", {}, Traits(losses=True, equal="sum", orthogonal=ones, pair=ones)),
    "famo": ("famo", {}, Traits(losses=True, equal="mean")),
    "stch": ("stch", {}, LOSSES),
    "stch, mu 0.1": ("stch", {"mu": 0.1}, LOSSES),
    "gradnorm": ("gradnorm", {}, Traits(equal="sum", orthogonal=ones, pair=ones)),
    "gradnorm over parameters": ("gradnorm", {"scope": "parameters"}, Traits(equal="sum")),
    "excess_mtl": ("excess_mtl", {}, Traits(rotates=False, equal="sum")),
    "db_mtl": ("db_mtl", {}, Traits(losses=True)),
    "db_mtl, no memory": ("db_mtl", {"beta": 0.0}, Traits(losses=True)),
    "db_mtl, every second step": ("db_mtl", {"every": 2}, Traits(losses=True)),
    "auto_lambda": ("auto_lambda", {}, Traits()),
    "mgda": ("mgda", {}, Traits(equal="mean", conflict_free=True, pair=shortest)),
    "mgda, weighted heads": ("mgda", {"heads": "weighted"}, Traits(equal="mean")),
    "mgda, l2": ("mgda", {"normalisation": "l2"}, Traits(equal="mean")),
    "mgda, loss": ("mgda", {"normalisation": "loss"}, Traits(equal="mean", losses=True)),
    "mgda, loss+": ("mgda", {"normalisation": "loss+"}, Traits(equal="mean", losses=True)),
    "mgda at features": ("mgda", {"scope": "features"}, Traits(equal="mean")),
    "mgda at features, weighted heads": (
        "mgda", {"scope": "features", "heads": "weighted"}, Traits(equal="mean"),
    ),
    "mgda over the last layer": ("mgda", {"scope": "last_layer"}, Traits(equal="mean")),
    "mgda over a module": ("mgda", {"scope": ["trunk.0"]}, Traits(equal="mean")),
    "mgda, every third step": ("mgda", {"every": 3}, Traits(equal="mean")),
    "mgda at features, every third step": ("mgda", {"every": 3, "scope": "features"}, Traits(equal="mean")),
    "pcgrad": ("pcgrad", {}, Traits(equal="sum", permutes=False, random=True, pair=projected)),
    "gradvac": ("gradvac", {}, Traits(permutes=False, random=True)),
    "cagrad": ("cagrad", {}, Traits()),
    "cagrad, c 0": ("cagrad", {"c": 0.0}, Traits(equal="mean", pair=constant(0.5, 0.5))),
    "graddrop": (
        "graddrop", {}, Traits(permutes=False, rotates=False, random=True, equal="sum", follows=False),
    ),
    "graddrop at features": (
        "graddrop", {"scope": "features"}, Traits(permutes=False, rotates=False, random=True, follows=False),
    ),
    "graddrop at features, every second step": (
        "graddrop", {"scope": "features", "every": 2},
        Traits(permutes=False, rotates=False, random=True, follows=False),
    ),
    "imtl_g": ("imtl_g", {}, Traits(equal="mean", scale_free=True, pair=bisector)),
    "nash_mtl": ("nash_mtl", {}, Traits(degree=0, scale_free=True, conflict_free=True, pair=bargain)),
    "aligned_mtl": ("aligned_mtl", {}, Traits()),
    "rotograd": ("rotograd", {}, Traits(equal="sum", scale_free=True, orthogonal=evened)),
    "upgrad": ("upgrad", {}, Traits(equal="mean", conflict_free=True, pair=lambda g, _: projected(g, _) / 2)),
    "upgrad, sum": ("upgrad", {"reduction": "sum"}, Traits(equal="sum", conflict_free=True)),
    "dualproj": ("dualproj", {}, Traits(equal="mean", conflict_free=True, pair=dual)),
    "config": ("config", {}, Traits(equal="sum", scale_free=True, conflict_free=True)),
    "fairgrad": ("fairgrad", {}, Traits(degree=0, conflict_free=True)),
    "fairgrad, alpha 2": ("fairgrad", {"alpha": 2.0}, Traits(degree=-1 / 3, conflict_free=True)),
    "moco": ("moco", {}, Traits(degree=None)),
    "sdmgrad": ("sdmgrad", {}, Traits(equal="mean")),
    "modo": ("modo", {}, Traits(degree=None)),
}  # fmt: skip


def make(name: str, names: Sequence[str], **more: Any) -> Balancer:
    """The balancer of a line of the list, for tasks of these names, with more options."""
    short, options, _ = BALANCERS[name]
    options = {**options, **more}
    if "weights" in options:
        options["weights"] = {task: w for task, w in options["weights"].items() if task in names}
    if short == "dtp":
        options["kpis"] = dict.fromkeys(names, "score")
    if short == "rotograd":
        options["channels"] = {name: [5] for name in names}
    return plait.balancing.create(short, tasks=names, **options)
