"""The names of every axis, in one visible place; nothing here imports torch.

A component is chosen by short name or by import path (``my_package.module:Class``), and its options are
its constructor's arguments, checked before anything is built. An import path is only followed where Python
finds modules anyway, never into a run's folder, and what it leads to is only called if it is a part of its
axis. Importing a module runs it, though: a recipe with import paths is to be trusted as their modules are.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import operator
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from plait.errors import ConfigurationError

ENCODERS: Mapping[str, str] = {
    "shared": "plait.models.encoders.shared:Shared",
    "separate": "plait.models.encoders.separate:Separate",
}
DECODERS: Mapping[str, str] = {
    "independent": "plait.models.decoders.independent:Independent",
}
HEADS: Mapping[str, str] = {
    "deeplab": "plait.models.heads:DeepLabHead",
    "hrnet": "plait.models.heads:HRNetHead",
    "fpn": "plait.models.heads:FPNHead",
    "linear": "plait.models.heads:LinearHead",
}
BALANCERS: Mapping[str, str] = {
    "equal": "plait.balancing.fixed:Equal",
    "fixed": "plait.balancing.fixed:Fixed",
    "mgda": "plait.balancing.mgda:MGDA",
}
DATASETS: Mapping[str, str] = {
    "rooms": "plait.data.rooms.dataset:Rooms",
}
TASKS: Mapping[str, str] = {
    "semantic": "plait.tasks.semantic:semantic",
    "depth": "plait.tasks.depth:depth",
    "normals": "plait.tasks.normals:normals",
    "edges": "plait.tasks.edges:edges",
    "saliency": "plait.tasks.saliency:saliency",
}
AXES: Mapping[str, Mapping[str, str]] = {
    "encoder": ENCODERS,
    "decoder": DECODERS,
    "head": HEADS,
    "balancer": BALANCERS,
    "data set": DATASETS,
    "task kind": TASKS,
}

BASES: Mapping[str, str] = {
    "encoder": "plait.models.encoders.base:Encoder",
    "decoder": "plait.models.decoders.base:Decoder",
    "head": "plait.models.heads:Head",
    "balancer": "plait.balancing.base:Balancer",
    "task kind": "plait.tasks.base:Task",
}
"""What a part of each axis derives from or, for a task kind, returns; data sets follow a protocol instead."""


def nearest(word: str, known: Collection[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest known word, or nothing if none is near.

    >>> nearest("depht", ["depth", "normals"])
    " (did you mean 'depth'?)"
    """
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""


def resolve(axis: str, name: str) -> Callable[..., Any]:
    """The class or function behind a short name of an axis, or behind an import path ``module:attribute``.

    Raises:
        ConfigurationError: If the name is unknown (answered with the nearest and all known ones), or the
            import path leads nowhere or to something that is no part of this axis.
    """
    table = AXES[axis]
    path = table.get(name, name)
    module, _, attribute = path.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise ConfigurationError(
            f"unknown {axis} {name!r}{nearest(name, table)}; known are {', '.join(table)}, "
            f"or your own as 'package.module:Class'"
        )
    try:
        found = load(path)
    except (ImportError, AttributeError) as error:
        if name in table:
            raise
        raise ConfigurationError(f"{axis} {name!r} cannot be imported: {error}") from error
    if expected := mismatch(axis, found):
        got = getattr(found, "__name__", f"a {type(found).__name__}")
        raise ConfigurationError(
            f"{axis} {name!r} must be {expected}, got {got}, which was not called: "
            f"write one, or choose one of {', '.join(table)}"
        )
    made: Callable[..., Any] = found
    return made


def load(path: str) -> Any:
    """What ``module:attribute`` leads to."""
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def mismatch(axis: str, found: object) -> str:
    """What a part of the axis is, in words, if ``found`` is none; nothing if it is one. Calls nothing."""
    if axis == "data set":
        methods = ("__len__", "__getitem__", "id")
        fits = isinstance(found, type) and all(hasattr(found, method) for method in methods)
        return "" if fits else f"a class with {', '.join(methods)}"
    base = load(BASES[axis])
    if axis == "task kind" and not isinstance(found, type):
        found, expected = returned(found), f"a function annotated '-> {base.__name__}'"
    else:
        expected = f"a subclass of {BASES[axis].replace(':', '.')}"
    return "" if isinstance(found, type) and issubclass(found, base) else expected


def returned(function: object) -> object:
    """The type that a function is annotated to return; None if it says nothing that can be found."""
    annotation = getattr(function, "__annotations__", {}).get("return")
    if not isinstance(annotation, str):
        return annotation
    try:
        return operator.attrgetter(annotation)(sys.modules[function.__module__])
    except AttributeError:
        return None


def build(axis: str, name: str, options: Mapping[str, Any], /, **known_at_run_time: Any) -> Any:
    """Builds a component from its name and options, plus the parts that only the program knows.

    Raises:
        ConfigurationError: If an option is not an argument of the constructor; names the nearest one.
    """
    check_options(axis, name, options)
    if taken := known_at_run_time.keys() & options.keys():
        raise ConfigurationError(
            f"{axis} {name!r} gets {min(taken)!r} from the program: leave that option out"
        )
    return resolve(axis, name)(**known_at_run_time, **options)


def check_options(axis: str, name: str, options: Mapping[str, Any]) -> None:
    """Raises :class:`ConfigurationError` for an option that the named component does not take."""
    parameters = inspect.signature(resolve(axis, name)).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    for option in options:
        if option not in parameters:
            raise ConfigurationError(
                f"{axis} {name!r} has no option {option!r}{nearest(option, parameters)}; "
                f"it takes {', '.join(parameters)}"
            )
