"""Recipes and studies that come with plait, as YAML beside this file.

``plait list recipes`` and ``plait list studies`` name them. A study file has ``arms`` or a ``grid``.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from plait.errors import ConfigurationError
from plait.registry import nearest

STUDY_KEY = re.compile(r"^(arms|grid):", re.MULTILINE)
"""A key that a study has and a recipe has not, at the top level."""


def recipes() -> dict[str, Path]:
    """The built-in recipes by name, such as ``nyud/mtl_r50``."""
    return {name: path for name, path in files().items() if not is_study(path)}


def studies() -> dict[str, Path]:
    """The built-in studies by name, such as ``nyud/architectures``."""
    return {name: path for name, path in files().items() if is_study(path)}


def files() -> dict[str, Path]:
    """The YAML files beside this one by name: their path from here, without its ending."""
    folder = Path(__file__).parent
    paths = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob("*.yaml")}
    return dict(sorted(paths.items()))


def is_study(path: Path) -> bool:
    """Whether one of these files is a study."""
    return STUDY_KEY.search(path.read_text(encoding="utf-8")) is not None


def recipe_path(name: Path | str) -> Path:
    """The file of a recipe or a study, from its path or its built-in name.

    A built-in name may also be written as the path that it has in the repository,
    ``recipes/nyud/mtl_r50.yaml``, wherever one stands.

    Raises:
        ConfigurationError: If there is neither; names the nearest.
    """
    if Path(name).is_file():
        return Path(name)
    known = files()
    asked = PurePath(name).as_posix()
    short = asked.removeprefix("recipes/").removesuffix(".yaml")
    if short in known:
        return known[short]
    what = "is a folder, not a recipe or a study" if Path(name).is_dir() else "is no recipe and no study"
    raise ConfigurationError(
        f"{asked!r} {what}{nearest(short, known)}: give a YAML file, or a name of `plait list recipes` or "
        f"`plait list studies`"
    )
