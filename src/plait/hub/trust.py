"""What of a recipe would run code that is not plait's: parts that are named by an import path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from plait import config
from plait.config import Recipe
from plait.errors import ConfigurationError


def is_import_path(text: str) -> bool:
    """Whether a text could name a part of one's own, as ``package.module:Class``.

    >>> is_import_path("shared"), is_import_path("my_parts.heads:Mine"), is_import_path("^encoder: x")
    (False, True, False)
    """
    module, colon, attribute = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), attribute))


def own_parts(tree: Any) -> list[str]:
    """All import paths in nested values, each once, in their order."""
    return list(dict.fromkeys(text for text in texts(tree) if is_import_path(text)))


def of_network(recipe: Recipe) -> list[str]:
    """The parts of one's own that the network of a recipe is built from; its data are looked at apart."""
    return own_parts([config.plain(part) for part in (recipe.tasks, recipe.model, recipe.balancer)])


def of_data(recipe: Recipe) -> list[str]:
    """The parts of one's own that a recipe's data are read with."""
    return own_parts(config.plain(recipe.data))


def refuse(parts: list[str], what: str) -> None:
    """Refuses parts of one's own in a network that was shared.

    Raises:
        ConfigurationError: If there are any; names them.
    """
    if parts:
        raise ConfigurationError(
            f"{what} was shared and names code that is not plait's ({', '.join(parts)}), which would run "
            f"here: if you have it installed and trust it, open the network with own_parts=True"
        )


def texts(value: Any) -> Iterator[str]:
    """All texts in nested values, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from texts(key)
            yield from texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)
