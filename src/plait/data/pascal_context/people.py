"""Which images show a person: read once from all part annotations, then kept in the cache folder."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from plait.data import files
from plait.data.pascal_context.human_parts import PERSON, has_person

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


def images_with_people(
    annotations: Mapping[str, Path], cache_dir: Path | None = None, progress: Progress | None = None
) -> frozenset[str]:
    """The names of the images in whose annotation there is a person.

    Reading all of PASCAL-Part takes a minute or more, so the answer is kept, until a file changes its size
    or time.

    Args:
        annotations: ``{image name: annotation file}``.
        cache_dir: Where it is kept; by default plait's cache folder.
        progress: Told of the files read and in all; not called if the answer is known.

    Raises:
        DataError: If a file cannot be read; names it.
    """
    folder = (cache_dir or files.cache_folder()) / "pascal_context"
    note = folder / f"people-{files.state(annotations.values())}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        kept = json.loads(note.read_text(encoding="utf-8"))
        if isinstance(kept, list) and annotations.keys() >= set(kept):
            return frozenset(kept)
    logger.info("looking for people in %d annotation files, once", len(annotations))
    found = []
    for number, (name, path) in enumerate(annotations.items()):
        if has_person(path):
            found.append(name)
        if progress is not None:
            progress(number + 1, len(annotations))
    try:
        files.write_atomically(note, json.dumps(found).encode())
    except OSError as error:
        logger.warning("%s cannot be written (%s): the files will be read again next time", note, error)
    return frozenset(found)


def listed_people(path: Path, ids: Sequence[str]) -> frozenset[str] | None:
    """The images with a person in the index that the reference's loader leaves behind.

    It is JSON, ``{image name: [class number of each object]}``.

    Args:
        path: For instance ``ImageSets/Parts/train.txt``.
        ids: The images that are wanted.

    Returns:
        Those of ``ids`` with a person; None if there is no such file, it is damaged, or of other images.
    """
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        return frozenset(name for name in ids if PERSON in index[name])
    except (OSError, ValueError, KeyError, TypeError):
        return None
