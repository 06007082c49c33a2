"""Recipes that come with plait, as YAML beside this file; ``plait list recipes`` names them."""

from __future__ import annotations

from pathlib import Path

from plait.errors import ConfigurationError
from plait.registry import nearest


def recipes() -> dict[str, Path]:
    """The built-in recipes by name."""
    folder = Path(__file__).parent
    return {str(path.relative_to(folder).with_suffix("")): path for path in folder.rglob("*.yaml")}


def recipe_path(name: Path | str) -> Path:
    """A recipe's file, from its path or its built-in name.

    Raises:
        ConfigurationError: If there is neither; names the nearest.
    """
    if Path(name).is_file():
        return Path(name)
    known = recipes()
    if str(name) in known:
        return known[str(name)]
    raise ConfigurationError(
        f"no recipe {str(name)!r}{nearest(str(name), known)}: give a YAML file or one of "
        f"{', '.join(sorted(known))}"
    )
