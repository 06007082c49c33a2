"""A shared network as a folder: which files it holds, how it is made from a run, and how one is checked."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from plait import config
from plait.config import Recipe
from plait.errors import CheckpointError, ConfigurationError, DataError
from plait.training import checkpoint
from plait.training.checkpoint import STATE
from plait.training.run import RECIPE, SCORES, Run

MODEL, CARD, CONFIG, PICTURE = "model.safetensors", "README.md", "config.json", "overview.png"

TEXT = 4 * 2**20
FILES: Mapping[str, int] = {
    RECIPE: TEXT,
    STATE: TEXT,
    MODEL: 32 * 2**30,
    SCORES: TEXT,
    CONFIG: TEXT,
    CARD: TEXT,
    PICTURE: 16 * TEXT,
}
"""All files that a shared network may hold, and the most bytes each may have."""

NEEDED = (RECIPE, STATE, MODEL)
READ = (*NEEDED, SCORES, CONFIG)
"""What is fetched from a hub; the card and its picture are for people."""


def make(
    folder: Path,
    run: Run,
    recipe: Recipe,
    *,
    card: Callable[[], str],
    picture: bytes | None = None,
    forbidden: Mapping[str, str],
) -> None:
    """Writes a run's network as a shared one.

    Args:
        folder: Where to; made anew.
        run: The run.
        recipe: Its recipe as others may see it.
        card: Writes the model card.
        picture: A PNG for the card.
        forbidden: Texts that may be in no file, such as the home folder, and what each is in words.

    Raises:
        CheckpointError: If the run has no checkpoint, or a damaged one.
        ConfigurationError: If a file would hold what it may not.
        DiskFullError: If the disk is full.
    """
    found = checkpoint.read(run.checkpoint, run.tasks, files=("model",))
    state = {"step": found.step, "tasks": found.state["tasks"]}
    with checkpoint.explained_full_disk(f"the shared network {folder}"):
        checkpoint.write(folder, {"model": found.tensors["model"]}, state)
        texts = {RECIPE: config.dump(recipe), CONFIG: described(recipe), CARD: card()}
        if run.finished:
            texts[SCORES] = run.scores.json() + "\n"
        for name, text in texts.items():
            for private, what in forbidden.items():
                if private in text:
                    raise ConfigurationError(
                        f"{name} would tell everybody {what}, {private!r}: take it out of the run's recipe"
                    )
            checkpoint.write_durably(folder / name, text.encode())
        if picture is not None:
            checkpoint.write_durably(folder / PICTURE, picture)
        checkpoint.synchronise(folder)


def described(recipe: Recipe) -> str:
    """What a hub's page shows of a network: JSON."""
    tree = {
        "library_name": "plait",
        "plait_version": importlib.metadata.version("plait"),
        "backbone": recipe.model.backbone,
        "encoder": config.named(recipe.model.encoder)[0],
        "decoder": config.named(recipe.model.decoder)[0],
        "tasks": {name: options["kind"] for name, options in recipe.tasks.items()},
    }
    return json.dumps(tree, indent=1) + "\n"


def check(folder: Path, what: str, *, within: Path) -> None:
    """Looks at a folder that came from elsewhere, before anything of it is used.

    Args:
        folder: The folder.
        what: What to call it in errors.
        within: Where its files must really lie: a hub's cache holds links to its own files.

    Raises:
        DataError: If it is no shared network, a file is larger than it may be or lies elsewhere, or the
            recipe is made to fill the memory.
        CheckpointError: If its state is damaged or of another version.
    """
    check_names({path.name: None for path in folder.iterdir()}, what)
    real = within.resolve()
    for name, most in FILES.items():
        path = folder / name
        if not path.exists() and not path.is_symlink():
            continue
        if not path.resolve().is_relative_to(real) or not path.is_file():
            raise DataError(f"{what}: {name} is no file of it, but a link to elsewhere; nothing was read")
        check_size(name, path.stat().st_size, most, what)
    check_recipe(folder / RECIPE, what)
    state = checkpoint.read(folder, files=()).state
    digest = state["sha256"].get("model")
    if not isinstance(digest, str) or len(digest) != 64:
        raise CheckpointError(
            f"{what}: {STATE} does not say which {MODEL} belongs to it (its SHA-256): get it again"
        )


def check_names(sizes: Mapping[str, int | None], what: str) -> None:
    """Refuses what is no shared network, by the names and sizes of its files.

    Raises:
        DataError: If a needed file is not there, or one is larger than it may be.
    """
    missing = [name for name in NEEDED if name not in sizes]
    if missing:
        raise DataError(
            f"{what} is no network of plait: it has no {', '.join(missing)}; one is made by `plait push`"
        )
    for name, most in FILES.items():
        size = sizes.get(name)
        if size is not None:
            check_size(name, size, most, what)


def check_size(name: str, size: int, most: int, what: str) -> None:
    """Raises :class:`DataError` for a file that is larger than it may be."""
    if size > most:
        raise DataError(
            f"{what}: {name} has {size:,} bytes, more than the limit of {most:,}: it was not read"
        )


def check_recipe(path: Path, what: str) -> None:
    """Refuses YAML that names one value many times, by which a small file can fill the memory.

    Raises:
        DataError: If it does, or is nested too deeply, or is no YAML.
    """
    try:
        events = yaml.parse(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        depth = 0
        for event in events:
            if isinstance(event, yaml.AliasEvent):
                raise DataError(
                    f"{what}: {RECIPE} has references (*{event.anchor}), which plait never writes"
                )
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > 32:
                raise DataError(f"{what}: {RECIPE} is nested more than 32 deep, which plait never writes")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{what}: {RECIPE} is not YAML ({reason}); get it again") from error


def place(made: Path, folder: Path) -> None:
    """Moves a folder to its place, where nothing may be yet.

    Raises:
        ConfigurationError: If something is there.
    """
    refuse_taken(folder)
    if folder.is_dir():
        folder.rmdir()
    folder.parent.mkdir(parents=True, exist_ok=True)
    made.rename(folder)


def refuse_taken(folder: Path) -> None:
    """Raises :class:`ConfigurationError` unless a folder is empty or not there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is not empty: name a folder that is new, or empty that one first")
