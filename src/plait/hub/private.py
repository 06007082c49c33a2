"""A recipe as others may see it: without the places of the machine that it was trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PureWindowsPath
from typing import Any

from plait import config
from plait.config import Recipe
from plait.training.run import NOT_SHARED

PLACE = re.compile(
    r"""
      (?<![\w./:)\]-])/(?=[\w.~-])   # /home/someone, but neither a/b nor https://a/b
    | (?:^|(?<=[\s'"=(]))~[\w.-]*[/\\]   # ~/data
    | (?<![\w])[A-Za-z]:[\\/](?!/)   # C:\data
    | \\\\[\w.-]+\\                  # \\server\share
    | \bfile:                        # file:///data
    | ://[^\s/@]*@                   # https://someone:secret@host
    """,
    re.VERBOSE,
)


def names_a_place(text: str) -> bool:
    """Whether a text names a place of a machine, or holds a password.

    >>> [names_a_place(text) for text in ("/data/a", "~/a", "C:/a", "images/*.png", "https://a.org/b")]
    [True, True, True, False, False]
    """
    return PLACE.search(text) is not None


def shareable(recipe: Recipe) -> tuple[Recipe, tuple[str, ...]]:
    """A recipe without what is private, and the dotted keys that were changed for it.

    The folder of the data is left out, and so is any other text that names a place; of a file of weights and
    of runs that the network started from the bare name stays.
    """
    tree = config.plain(recipe)
    changed: list[str] = []
    if tree["data"]["root"] is not None:
        tree["data"]["root"] = NOT_SHARED
        changed.append("data.root")
    tree["data"]["options"] = _without_places(tree["data"]["options"], "data.options", changed, remote=True)
    for key in ("weights", "init_from"):
        bare = _bare(tree["model"][key])
        if bare != tree["model"][key]:
            tree["model"][key] = bare
            changed.append(f"model.{key}")
    return config.parse(_without_places(tree, "", changed)), tuple(changed)


def _bare(value: Any) -> Any:
    """Paths without their folders."""
    if isinstance(value, Mapping):
        return {key: _bare(item) for key, item in value.items()}
    if isinstance(value, str):
        return PureWindowsPath(value).name or NOT_SHARED  # it takes both kinds of slashes
    return value


def _without_places(value: Any, place: str, changed: list[str], *, remote: bool = False) -> Any:
    """Nested values without texts that name a place; with ``remote`` also without addresses of networks."""
    if isinstance(value, Mapping):
        return {
            _without_places(key, f"{place}.{NOT_SHARED}", changed, remote=remote): _without_places(
                item, f"{place}.{key}".lstrip("."), changed, remote=remote
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_without_places(item, place, changed, remote=remote) for item in value]
    if isinstance(value, str) and (names_a_place(value) or (remote and "://" in value)):
        if place not in changed:
            changed.append(place)
        return NOT_SHARED
    return value
