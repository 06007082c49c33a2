"""A trained run to a hub or a folder, and a network of a hub to a folder of this machine."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plait.errors import CheckpointError, ConfigurationError
from plait.hub import bundle, trust
from plait.hub.address import HUB, Address
from plait.hub.backends import Backend, HuggingFace, LocalFolder
from plait.training import checkpoint
from plait.training.run import Run, load_run

if TYPE_CHECKING:
    from plait.config import Recipe
    from plait.inference.pictures import Picture

WITHOUT_SIZE = (480, 640)
"""Height and width at which the cost is counted of a network that takes pictures of any size."""

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,62}")


@dataclass(frozen=True)
class Pushed:
    """What was shared.

    Attributes:
        place: Where it is now: the address of its page, or a folder.
        source: What ``plait.load`` takes.
        notes: What who shared it should know, a sentence each.
    """

    place: str
    source: str
    notes: tuple[str, ...] = ()


def fetch(source: str, *, backend: Backend | None = None) -> Path:
    """The folder of a network of the hub, fetched unless it is in the cache already, and checked.

    Only files of known names are fetched, and none of them is run.

    Args:
        source: ``hf:org/name`` or ``hf:org/name@revision``.
        backend: What to ask in the hub's place.

    Raises:
        ConfigurationError: If it is no such name.
        DataError: If there is no such network, the hub cannot be reached, or it is not what plait writes.
        CheckpointError: If it is of another version of plait.
    """
    address = Address.parse(source)
    return (backend or HuggingFace()).download(address.repository, address.revision)


def push(
    run: Path | str,
    destination: str | Path,
    *,
    licence: str | None = None,
    private: bool = False,
    message: str | None = None,
    unfinished: bool = False,
    picture: Picture | None = None,
    own_parts: bool = False,
    backend: Backend | None = None,
) -> Pushed:
    """Shares a trained run: weights, recipe, scores and a model card.

    What tells of the machine stays behind: folders, host, user, command lines, logs.

    Args:
        run: The run's folder.
        destination: ``hf:org/name``, or a folder that is new or empty.
        licence: Under which the weights are shared, as the hub writes it, for instance ``cc-by-4.0``.
        private: Make a repository that only its owners can read.
        message: Of the commit.
        unfinished: Share a run whose training has not finished.
        picture: A picture to show on the card with its maps; it becomes public.
        own_parts: As in :func:`plait.load`, for a network that was shared with oneself.
        backend: What to use in the hub's place.

    Raises:
        ConfigurationError: If there is no run, it is not finished, or the destination or the licence is none.
        CheckpointError: If it has no checkpoint, or a damaged one.
        DataError: If the hub does not take it.
        DiskFullError: If the disk is full.
    """
    from plait.hub.private import shareable

    where = destined(destination)
    if licence is not None and not LICENCE.fullmatch(licence):
        raise ConfigurationError(
            f"a licence is named as on the hub, for instance apache-2.0 or cc-by-4.0; got {licence!r}"
        )
    found = load_run(run, own_parts=own_parts)
    if checkpoint.find(found.checkpoint) is None:
        raise CheckpointError(f"{found.path} has no checkpoint yet: train it first, as `plait train` does")
    if not found.finished and not unfinished:
        raise ConfigurationError(
            f"{found.path} is not finished, so it has no scores: train it to its end, or share it as it is "
            f"with --unfinished"
        )
    if isinstance(where, Path):
        bundle.refuse_taken(where)
    recipe, left_out = shareable(found.recipe)
    source = str(where) if isinstance(where, Address) else where.name
    name = where.repository.partition("/")[2] if isinstance(where, Address) else where.name
    with tempfile.TemporaryDirectory(prefix="plait-push-") as scratch:
        folder = Path(scratch) / "network"
        drawn = None if picture is None else overview(found, picture, own_parts=own_parts)
        bundle.make(
            folder,
            found,
            recipe,
            card=lambda: card_of(found, recipe, name, source, licence, left_out, drawn is not None),
            picture=drawn,
            forbidden=private_texts(found),
        )
        if isinstance(where, Address):
            place = (backend or HuggingFace()).upload(
                folder, where.repository, message=message or f"Share {name}", private=private
            )
        else:
            place = (backend or LocalFolder(where.parent)).upload(
                folder, where.name, message=message or "", private=private
            )
    opened = source if isinstance(where, Address) else place
    return Pushed(place, opened, tuple(notes(found, licence, left_out)))


def destined(destination: str | Path) -> Address | Path:
    """Where a network goes: an address of the hub, or a folder.

    Raises:
        ConfigurationError: If it is neither.
    """
    if isinstance(destination, str) and destination.startswith(HUB):
        address = Address.parse(destination)
        if address.revision is not None:
            raise ConfigurationError(f"a network is pushed without a revision: leave @{address.revision} out")
        return address
    path = Path(destination)
    path = path if path.name else path.absolute()  # "." has no name of its own
    if not path.name:
        raise ConfigurationError(f"expected hf:ORGANISATION/NAME or a folder, got {str(destination)!r}")
    return path


def card_of(
    run: Run,
    recipe: Recipe,
    name: str,
    source: str,
    licence: str | None,
    left_out: Sequence[str],
    pictured: bool,
) -> str:
    """The model card of a run."""
    from plait.hub import card
    from plait.study.cost import measure_inference

    size = run.recipe.evaluation.size or run.recipe.augmentation.get("size") or WITHOUT_SIZE
    seen = (int(size[0]), int(size[1]))
    cost = measure_inference({"network": run.model()}, {"network": seen}, repeats=1)["network"]
    return card.write(
        card.Described(
            name=name,
            source=source,
            recipe=recipe,
            tasks=tuple(task for task in run.tasks if not task.auxiliary),
            scores=run.scores if run.finished else None,
            step=checkpoint.read(run.checkpoint, files=()).step,
            cost=cost,
            size=seen,
            licence=licence,
            left_out=tuple(left_out),
            picture=bundle.PICTURE if pictured else None,
        )
    )


def overview(run: Run, picture: Picture, *, own_parts: bool) -> bytes:
    """A picture with its maps, as PNG.

    Raises:
        DataError: If it is no picture.
    """
    from plait.inference import load
    from plait.inference.stored import png

    return png(load(run.path, device="cpu", own_parts=own_parts)(picture).overview())


def private_texts(run: Run) -> dict[str, str]:
    """What no shared file may hold, and what each is."""
    home = Path.home()
    found = {str(run.path.resolve()): "the run's folder"}
    if home != Path(home.anchor):
        found[f"{home}{os.sep}"] = "your home folder"
    return found


def notes(run: Run, licence: str | None, left_out: Sequence[str]) -> list[str]:
    """What who shares a network should know."""
    from plait.models.licences import licence_of_model

    found = licence_of_model(run.recipe.model)
    said = [f"the backbone: {found.told()}"]
    if licence is None:
        said.append("no licence was named, and without one nobody knows what they may do: --licence names it")
    if found.commercial is False:
        said.append("the backbone's weights forbid commercial use, and the card says so")
    if left_out:
        said.append(f"left out of the recipe, as it is private: {', '.join(left_out)}")
    if parts := trust.of_network(run.recipe):
        said.append(f"others need {', '.join(parts)} too, which is not shared: say on the card where it is")
    return said
