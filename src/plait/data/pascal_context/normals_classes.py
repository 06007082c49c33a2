"""On which of the 459 context classes the distilled normals are labels.

They come from a network trained on NYUD, so they are kept on the classes that NYUD has too: those whose name
is in both lists of classes (but for "unknown"), and ``tvmonitor``, 170 ids in all. The two lists are files of
the reference's code, ``data/db_info/context_classes.json`` and ``data/db_info/nyu_classes.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plait.data.published import first_file
from plait.errors import ConfigurationError, DataError

CONTEXT_CLASSES, SHARED_CLASSES = 459, 170
CONTEXT, NYU = "context_classes.json", "nyu_classes.json"
FOLDERS = (".", "db_info", "json")
"""Where in an archive's folder the two lists are looked for."""


@dataclass(frozen=True)
class NormalsClasses:
    """Context class ids on whose pixels normals are known.

    Attributes:
        ids: The ids; None for all pixels.
        source: Where they come from, for a person to read.
    """

    ids: frozenset[int] | None
    source: str


def normals_classes(choice: str | Sequence[int], root: Path) -> NormalsClasses | None:
    """The classes of a data set's option ``normals_classes``.

    Args:
        choice: ``auto`` for the two lists in the archive's folder, ``all`` for every pixel, the path of a
            folder with the two lists or of a JSON list of ids, or the ids themselves.
        root: The archive's folder.

    Returns:
        The classes; None if ``choice`` is ``auto`` and the lists are not there.

    Raises:
        ConfigurationError: If ids are out of range, or a path leads nowhere.
        DataError: If a file is damaged; names it.
    """
    if not isinstance(choice, str):
        return NormalsClasses(_checked(choice, "normals_classes"), f"{len(choice)} ids given")
    if choice == "all":
        return NormalsClasses(None, "all pixels, also where the reference has none")
    if choice == "auto":
        for folder in FOLDERS:
            if first_file(root / folder / CONTEXT) and first_file(root / folder / NYU):
                return _shared(root / folder)
        return None
    path = Path(choice)
    if path.is_dir():
        return _shared(path)
    if not path.is_file():
        raise ConfigurationError(
            f"normals_classes must be 'auto', 'all', a list of ids, or the path of a JSON list of ids or of "
            f"a folder with {CONTEXT} and {NYU}; found nothing at {choice!r}"
        )
    ids = _read_json(path)
    if not isinstance(ids, list):
        raise DataError(f"{path}: expected a list of class ids, found {type(ids).__name__}")
    return NormalsClasses(_checked(ids, str(path)), f"{len(ids)} ids in {path}")


def _shared(folder: Path) -> NormalsClasses:
    context, nyu = _read_names(folder / CONTEXT), _read_names(folder / NYU)
    names = (context.keys() & nyu.keys()) - {"unknown"} | {"tvmonitor"}
    if "tvmonitor" not in context:
        raise DataError(f"{folder / CONTEXT}: has no class 'tvmonitor'; is it the reference's file?")
    ids = _checked([context[name] for name in names], str(folder / CONTEXT))
    source = f"{len(ids)} classes (the reference has {SHARED_CLASSES}), of {CONTEXT} and {NYU} in {folder}"
    return NormalsClasses(ids, source)


def _read_names(path: Path) -> Mapping[str, int]:
    names = _read_json(path)
    if not isinstance(names, dict) or not names:
        raise DataError(f"{path}: expected classes as {{name: id}}, found {type(names).__name__}")
    return names


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); get it again") from error


def _checked(ids: Sequence[object], name: str) -> frozenset[int]:
    for number in ids:
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= CONTEXT_CLASSES:
            raise ConfigurationError(
                f"{name}: expected class ids from 1 to {CONTEXT_CLASSES}, found {number!r}"
            )
    if not ids:
        raise ConfigurationError(f"{name}: names no class, so normals would be known nowhere")
    return frozenset(number for number in ids if isinstance(number, int))
