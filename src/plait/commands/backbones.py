"""``plait list backbones``: networks of timm that can be backbones, and the licences of their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from plait.errors import ConfigurationError
from plait.registry import nearest

if TYPE_CHECKING:
    from rich.table import Table

MARKS = {True: "", False: "no commercial use", None: "read its terms"}


@dataclass(frozen=True)
class Architecture:
    """A network that can be a backbone, with its published weights.

    Attributes:
        name: timm's name.
        family: The adapter's name.
        tags: The tags of its weights, timm's usual ones first; none where none are published.
    """

    name: str
    family: str
    tags: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What can be written as ``model.backbone``: a name for each of its weights, or its own."""
        return tuple(f"{self.name}.{tag}" for tag in self.tags) or (self.name,)


def names(pattern: str | None = None) -> list[str]:
    """Names of backbones, one for each set of published weights.

    Args:
        pattern: A part of the name, or a pattern with ``*`` of the whole name; None for all of them.

    Raises:
        ConfigurationError: If no name fits; says the nearest.
    """
    return [name for _, chosen in fitting(pattern) for name in chosen]


def table(pattern: str | None = None) -> Table:
    """The same for people, an architecture a row: its weights by licence; see :func:`names`.

    Raises:
        ConfigurationError: If no name fits; says the nearest.
    """
    import timm
    from rich.table import Table

    title = f"backbones: timm {timm.__version__}, and the licences that it states of weights"
    made = Table(title=title, title_justify="left", caption_justify="left")
    made.caption = (
        "Name one as model.backbone, with or without the tag of its weights (NAME.TAG; the first tag is the "
        "usual one). timm's code is Apache-2.0; its weights have the licences above."
    )
    for head in ("family", "backbone", "weights", "licence of the weights", ""):
        made.add_column(head, overflow="fold")
    family = ""
    for architecture, chosen in fitting(pattern):
        if family and architecture.family != family:
            made.add_section()
        first = ["" if architecture.family == family else architecture.family, architecture.name]
        family = architecture.family
        for row in rows(architecture, chosen):
            made.add_row(*first, *row)
            first = ["", ""]
    return made


def rows(architecture: Architecture, chosen: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """An architecture's chosen weights by their licence: tags, licence, and what to beware of."""
    from plait.models.licences import allows_commerce, timm_licence
    from plait.models.weights import PACKAGED

    if not architecture.tags:
        yield "none", "", ""
        return
    found: dict[str | None, list[str]] = {}
    for name in chosen:
        found.setdefault(timm_licence(name).identifier, []).append(name.partition(".")[2])
    for identifier, tags in found.items():
        marks = [MARKS[allows_commerce(identifier)] if identifier else "ask who published them"]
        if architecture.name in PACKAGED and "in1k" in tags:
            marks.append("comes with plait[offline]")
        yield ", ".join(tags), identifier or "not stated", "; ".join(filter(None, marks))


def fitting(pattern: str | None) -> Iterator[tuple[Architecture, tuple[str, ...]]]:
    """The architectures, each with those of its names that a pattern fits.

    Raises:
        ConfigurationError: If there are none; says the nearest.
    """
    every = architectures()
    whole = "*" if pattern is None else pattern if "*" in pattern else f"*{pattern}*"
    known = False
    for architecture in every:
        fits = fnmatchcase(architecture.name, whole)
        chosen = tuple(name for name in architecture.names if fits or fnmatchcase(name, whole))
        if chosen:
            known = True
            yield architecture, chosen
    if not known:
        hint = nearest(pattern or "", [architecture.name for architecture in every])
        raise ConfigurationError(
            f"no backbone is called {pattern!r}{hint}; `plait list backbones` names all {len(every)}"
        )


def architectures() -> list[Architecture]:
    """All of timm's networks that an adapter takes, family by family."""
    from timm.models import get_pretrained_cfg, list_models

    from plait.models.backbones import FAMILIES

    made = []
    for module in FAMILIES:
        tags: dict[str, list[str]] = {}
        for name in list_models(module=module, pretrained=True, include_tags=True):
            architecture, _, tag = name.partition(".")
            tags.setdefault(architecture, []).append(tag)
        for architecture in list_models(module=module):
            own = sorted(filter(None, tags.get(architecture, [])))
            usual = get_pretrained_cfg(architecture)
            own.sort(key=lambda tag: usual is None or tag != usual.tag)
            made.append(Architecture(architecture, module, tuple(own)))
    return made
