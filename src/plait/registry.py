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
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

from plait.errors import ConfigurationError

ENCODERS: Mapping[str, str] = {
    "shared": "plait.models.encoders.shared:Shared",
    "separate": "plait.models.encoders.separate:Separate",
    "cross_stitch": "plait.models.encoders.cross_stitch:CrossStitch",
    "nddr_cnn": "plait.models.encoders.nddr_cnn:NDDRCNN",
    "sluice": "plait.models.encoders.sluice:Sluice",
    "mtan": "plait.models.encoders.mtan:MTAN",
    "branched": "plait.models.encoders.branched:Branched",
    "learned_branching": "plait.models.encoders.learned_branching:LearnedBranching",
    "bmtas": "plait.models.encoders.bmtas:BMTAS",
    "adashare": "plait.models.encoders.adashare:AdaShare",
    "astmt": "plait.models.encoders.astmt:ASTMT",
}
DECODERS: Mapping[str, str] = {
    "independent": "plait.models.decoders.independent:Independent",
    "pad_net": "plait.models.decoders.pad_net:PADNet",
    "mti_net": "plait.models.decoders.mti_net:MTINet",
    "pap_net": "plait.models.decoders.pap_net:PAPNet",
    "jtrl": "plait.models.decoders.jtrl:JTRL",
    "psd": "plait.models.decoders.psd:PSD",
    "astmt": "plait.models.decoders.astmt:ASTMTDecoder",
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
    "uncertainty": "plait.balancing.uncertainty:Uncertainty",
    "dwa": "plait.balancing.dwa:DWA",
    "dtp": "plait.balancing.dtp:DTP",
    "gradnorm": "plait.balancing.gradnorm:GradNorm",
    "rlw": "plait.balancing.rlw:RLW",
    "gls": "plait.balancing.gls:GLS",
    "log_sum": "plait.balancing.log_sum:LogSum",
    "imtl_l": "plait.balancing.imtl:IMTLL",
    "famo": "plait.balancing.famo:FAMO",
    "stch": "plait.balancing.stch:STCH",
    "excess_mtl": "plait.balancing.excess_mtl:ExcessMTL",
    "db_mtl": "plait.balancing.db_mtl:DBMTL",
    "auto_lambda": "plait.balancing.auto_lambda:AutoLambda",
    "mgda": "plait.balancing.mgda:MGDA",
    "pcgrad": "plait.balancing.pcgrad:PCGrad",
    "gradvac": "plait.balancing.gradvac:GradVac",
    "cagrad": "plait.balancing.cagrad:CAGrad",
    "graddrop": "plait.balancing.graddrop:GradDrop",
    "imtl_g": "plait.balancing.imtl:IMTLG",
    "nash_mtl": "plait.balancing.nash_mtl:NashMTL",
    "aligned_mtl": "plait.balancing.aligned_mtl:AlignedMTL",
    "rotograd": "plait.balancing.rotograd:RotoGrad",
    "upgrad": "plait.balancing.upgrad:UPGrad",
    "dualproj": "plait.balancing.dualproj:DualProj",
    "config": "plait.balancing.config:ConFIG",
    "fairgrad": "plait.balancing.fairgrad:FairGrad",
    "moco": "plait.balancing.moco:MoCo",
    "sdmgrad": "plait.balancing.sdmgrad:SDMGrad",
    "modo": "plait.balancing.modo:MoDo",
}
DATASETS: Mapping[str, str] = {
    "rooms": "plait.data.rooms.dataset:Rooms",
    "nyud": "plait.data.nyud.dataset:NYUD",
    "pascal_context": "plait.data.pascal_context.dataset:PascalContext",
    "cityscapes": "plait.data.cityscapes:Cityscapes",
    "folder": "plait.data.folder.dataset:Folder",
    "joined": "plait.data.joined:Joined",
    "packed": "plait.data.packed.dataset:Packed",
}
TASKS: Mapping[str, str] = {
    "semantic": "plait.tasks.semantic:semantic",
    "depth": "plait.tasks.depth:depth",
    "inverse_depth": "plait.tasks.inverse_depth:inverse_depth",
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

FROM_PROGRAM: Mapping[str, tuple[str, ...]] = {
    "encoder": ("make_backbone", "tasks"),
    "decoder": ("tasks", "channels", "strides", "groups", "default_head"),
    "head": ("channels", "strides", "outputs"),
    "balancer": ("tasks",),
    "data set": ("split", "labels"),
    "task kind": ("name",),
}
"""What only the program knows of a part of each axis; its other arguments are options."""


def nearest(word: str, known: Collection[str]) -> str:
    """`` (did you mean 'x'?)`` for the nearest known word, or nothing if none is near.

    >>> nearest("depht", ["depth", "normals"])
    " (did you mean 'depth'?)"
    """
    plain = {name.casefold(): name for name in known}
    found = difflib.get_close_matches(word.casefold(), list(plain), n=1, cutoff=0.5)
    return f" (did you mean {plain[found[0]]!r}?)" if found else ""


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
        absent = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        hint = ": name one that is installed, or start `python -m plait` in its folder" if absent else ""
        raise ConfigurationError(f"{axis} {name!r} cannot be imported: {error}{hint}") from error
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
        ConfigurationError: If an option is unknown (names the nearest), missing or of a wrong type.
    """
    check_options(axis, name, options)
    check_complete(axis, name, options)
    return resolve(axis, name)(**known_at_run_time, **options)


def check_options(axis: str, name: str, options: Mapping[str, Any]) -> None:
    """Raises :class:`ConfigurationError` for an unknown option, or one of a wrong type."""
    part, found = f"{axis} {name!r}", resolve(axis, name)
    for option in options:
        if option in FROM_PROGRAM[axis]:
            raise ConfigurationError(f"{part} gets {option!r} from the program: leave that option out")
    check_arguments(part, found, options, but=FROM_PROGRAM[axis])


def check_complete(axis: str, name: str, options: Collection[str]) -> None:
    """Raises :class:`ConfigurationError` if an option that the component needs is missing."""
    found = resolve(axis, name)
    for option, parameter in parameters_of(found).items():
        needed = parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        if needed and option not in (*FROM_PROGRAM[axis], *options):
            raise ConfigurationError(
                f"{axis} {name!r} needs the option {option!r}: {in_words(annotation_of(found, option))}"
            )


def check_arguments(
    part: str, function: Callable[..., Any], options: Mapping[str, Any], *, but: Collection[str]
) -> None:
    """Checks names and types of keyword arguments against a signature.

    Args:
        part: What the function makes, for the message.
        function: What would be called, a class or a function.
        options: The arguments.
        but: Arguments that are not the user's to give.

    Raises:
        ConfigurationError: If it does not take one of the options, or only values of another type.
    """
    parameters = parameters_of(function)
    known = [option for option in parameters if option not in but]
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        known = [*known, *options]
    for option, value in options.items():
        if option not in known:
            inner = [f"; its {o[:-8]}'s own go into {o}" for o in known if o.endswith("_options")]
            raise ConfigurationError(
                f"{part} has no option {option!r}{nearest(option, known)}; "
                f"it takes {', '.join(known) or 'none'}{''.join(inner)}"
            )
        annotation = annotation_of(function, option)
        if not fits(value, annotation):
            raise ConfigurationError(
                f"option {option!r} of {part} must be {in_words(annotation)}, got {value!r}"
            )


def parameters_of(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments of a class or function; ``**common: Unpack[...]`` counts as those it stands for."""
    found: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        held = unpacked(function, parameter)
        if held is None:
            found[name] = parameter
            continue
        for option in held.__annotations__:
            found[option] = inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=None)
    return found


def unpacked(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """The typed dictionary that ``**parameter`` unpacks; None if it is anything else."""
    if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
        return None
    annotation = evaluated(parameter.annotation, namespace_of(function))
    held = typing.get_args(annotation)
    return held[0] if held and typing.is_typeddict(held[0]) else None


def annotation_of(function: Callable[..., Any], argument: str) -> Any:
    """The type of an argument; ``Any`` if there is none, or none that can be found at run time."""
    for name, parameter in inspect.signature(function).parameters.items():
        if name == argument:
            if parameter.annotation is parameter.empty:
                return Any
            return evaluated(parameter.annotation, namespace_of(function))
        held = unpacked(function, parameter)
        if held is not None and argument in held.__annotations__:
            return evaluated(held.__annotations__[argument], vars(sys.modules[held.__module__]))
    return Any


def namespace_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The names that the annotations of a class's constructor, or of a function, are written in."""
    called = function.__init__ if isinstance(function, type) else function  # type: ignore[misc]
    return getattr(called, "__globals__", {})


def evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    """An annotation that may be text, as a type; ``Any`` if it cannot be found at run time."""
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    holder = types.SimpleNamespace(__annotations__={"argument": annotation})
    try:
        return typing.get_type_hints(holder, names)["argument"]
    except (NameError, AttributeError, SyntaxError, TypeError):  # imported for type checkers only, or no type
        return Any


def fits(value: Any, annotation: Any) -> bool:
    """Whether a value is of a plain type; any value is of a type that is not plain.

    Of a literal only the type counts here: the part itself knows what each of its words means.

    >>> fits(3, float), fits("no", bool), fits([1, "x"], list[int]), fits("12", Sequence[int] | None)
    (True, False, False, False)
    """
    origin, parts = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) for part in parts)
    if origin in (list, tuple, Sequence):
        plain = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        return plain and all(fits(item, part) for item in value for part in parts[:1])
    if origin in (dict, Mapping):
        return isinstance(value, Mapping) and all(fits(v, p) for v in value.values() for p in parts[1:])
    if origin in (int, float):
        return isinstance(value, Integral if origin is int else Real) and not isinstance(value, bool)
    if origin is Path:
        return isinstance(value, str | Path)
    if origin in (bool, str, type(None)):
        return isinstance(value, origin)
    return True


def in_words(annotation: Any) -> str:
    """A plain type as a person would say it.

    >>> in_words(int | list[str] | None), in_words(Mapping[str, float])
    ('a whole number, a list (each text) or null', '{name: a number}')
    """
    origin, parts = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        *others, last = map(in_words, parts)
        return f"{', '.join(others)} or {last}"
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin in (list, tuple, Sequence):
        return f"a list (each {in_words(parts[0])})" if parts else "a list"
    if origin in (dict, Mapping):
        return f"{{name: {in_words(parts[1])}}}" if parts else "{name: value}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return {**words, type(None): "null"}.get(origin, "a value")
