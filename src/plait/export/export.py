"""A trained run to one file for another runtime, written only if it says what the network says."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from plait.data.files import MAX_PIXELS
from plait.errors import ConfigurationError, DataError, ExportError, PlaitError
from plait.export.deployed import Deployed
from plait.export.description import described
from plait.export.formats import (
    Exported,
    Format,
    OnnxModel,
    reason,
    refuse_free_windows,
    require_runtime,
    traced,
    translated,
)
from plait.export.int8 import Quantised, calibration_pictures, quantised
from plait.export.parity import Comparison, compare
from plait.export.pictures import Shape, real_pictures
from plait.inference.load import load
from plait.inference.predictor import Predictor
from plait.registry import nearest
from plait.training.checkpoint import explained_full_disk, write_atomically
from plait.training.run import make_dataset

CHECKED_ON = 8
"""Pictures that an exported model is compared on."""


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        model: The model's file.
        description: The JSON beside it.
        comparisons: How far the model is from the network.
        about: What the JSON says.
        int8: The same of its 8-bit version, if one was asked for.
    """

    model: Path
    description: Path
    comparisons: Sequence[Comparison]
    about: Mapping[str, Any]
    int8: Int8 | None = None


@dataclass(frozen=True)
class Int8:
    """The 8-bit version of an exported model.

    Attributes:
        model: Its file.
        description: The JSON beside it.
        quantised: How it was made, and what it loses.
    """

    model: Path
    description: Path
    quantised: Quantised


def export(
    source: Predictor | Path | str,
    to: Format,
    *,
    out: Path | None = None,
    dynamic: bool = False,
    input_size: tuple[int, int] | None = None,
    batch: int = 1,
    probabilities: bool = False,
    pictures: Path | None = None,
    int8: bool = False,
    tell: Callable[[str], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Export:
    """Writes a trained network as one file that takes pictures and gives maps in units.

    The model is run on real pictures before anything is written, and compared with the network; see
    :mod:`plait.export.parity`. It is written beside its description, ``NAME.onnx`` and ``NAME.onnx.json``.

    Args:
        source: A predictor, whose tasks, sizing and flip the model has; or what :func:`plait.load` takes.
        to: ``onnx`` or ``pt2``.
        out: The model's file; None for the run's name in this folder.
        dynamic: Whether batch, height and width stay free.
        input_size: Height and width of the pictures it takes where they do not; None for the network's size
            or, if that is the pictures' own, that of the run's data.
        batch: How many it takes at a time then.
        probabilities: Whether tasks with classes also give the probability of every class.
        pictures: A folder of pictures to compare, and calibrate, on; None for rooms.
        int8: Whether to write an 8-bit version as well, ``NAME.int8.onnx``.
        tell: Told what is being done.
        progress: Told of images scored and in all, for the 8-bit version.

    Raises:
        ConfigurationError: If options cannot go together.
        ExportError: If the network cannot be exported, or the exported model disagrees with it.
        MissingExtraError: If a package is missing.
        DataError: If pictures cannot be read.
        DiskFullError: If the disk is full.
    """
    if to not in get_args(Format):
        raise ConfigurationError(
            f"unknown format {to!r}{nearest(to, get_args(Format))}; known are {', '.join(get_args(Format))}"
        )
    if int8 and to != "onnx":
        raise ConfigurationError("8-bit models are for ONNX Runtime: export to onnx, or leave int8 out")
    if batch < 1:
        raise ConfigurationError(f"a model takes 1 or more pictures at a time, got a batch of {batch}")
    if input_size is not None and not (min(input_size) > 0 and input_size[0] * input_size[1] <= MAX_PIXELS):
        raise ConfigurationError(
            f"pictures have 1 to {MAX_PIXELS:,} pixels, got an input of {input_size[0]}x{input_size[1]}"
        )
    if dynamic and (input_size is not None or batch != 1):
        raise ConfigurationError(
            "a dynamic model takes any number of pictures of any size: leave out the input's size and batch"
        )
    require_runtime(to)
    tell = tell or (lambda text: None)
    predictor = on_the_processor(source)
    if dynamic and predictor.sizing.size is None and predictor.sizing.tile is not None:
        raise ConfigurationError(
            "a network that sees pictures at their own size in tiles cannot be dynamic, since their number "
            "would change: name a size that pictures are fitted into, or the input's size"
        )
    shape = Shape(batch, input_size or predictor.sizing.size or _size_of_data(predictor), dynamic)
    if not dynamic:
        predictor = replace(predictor, sizing=predictor.sizing.of_picture(*shape.size))
    name = named(predictor.name)
    path = _with_suffix(out or Path(name), f".{to}")
    deployed = Deployed(predictor, probabilities=probabilities)
    refuse_free_windows(deployed, to, dynamic=dynamic)
    shown = real_pictures(pictures, CHECKED_ON)

    tell(f"exporting {name} to {to}")
    model = translated(traced(deployed, shape.example(shown), dynamic=dynamic), deployed, to)
    tell("comparing it with the network on real pictures")
    comparisons = checked(model, deployed, predictor, shape, shown)
    about = described(name, predictor, deployed, model, shape, comparisons)
    if not int8:
        description, about = write(path, model, about)
        return Export(path, description, comparisons, about)

    assert isinstance(model, OnnxModel)
    tell("making the 8-bit version")
    seen = calibration_pictures(predictor, pictures)
    reduced = quantised(
        model, deployed, predictor, shape, calibration=seen, pictures=shown, progress=progress
    )
    description, about = write(path, model, about)
    place = path.with_suffix(f".int8{path.suffix}")
    own = {key: value for key, value in about.items() if key != "parity"}
    own["model"] = {**about["model"], "int8": True}
    own["int8"] = {"of": {**about["model"], "parity": about["parity"]}, **reduced.described()}
    beside, _ = write(place, reduced.model, own)
    return Export(path, description, comparisons, about, Int8(place, beside, reduced))


def on_the_processor(source: Predictor | Path | str) -> Predictor:
    """A predictor that computes on the CPU; one that does not is copied, and left where it is."""
    if not isinstance(source, Predictor):
        return load(source, device="cpu")
    if source.device.type == "cpu":
        return source
    return replace(source, model=copy.deepcopy(source.model).cpu())


def checked(
    model: Exported,
    deployed: Deployed,
    predictor: Predictor,
    shape: Shape,
    pictures: Sequence[Any],
) -> list[Comparison]:
    """The comparisons of a model that says what the network says.

    Raises:
        ExportError: If it does not, or does not run.
    """
    try:
        comparisons = compare(model, deployed, predictor, shape.batches(pictures))
    except PlaitError:
        raise
    except Exception as error:
        raise ExportError(f"the exported model does not run: {reason(error)}; nothing was written") from error
    if wrong := [comparison for comparison in comparisons if not comparison.agrees]:
        raise ExportError(
            "the exported model disagrees with the network, so nothing was written: "
            + "; ".join(comparison.told() for comparison in wrong)
        )
    return comparisons


def write(path: Path, model: Exported, about: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Writes a model with its description inside, and the description beside it; each whole or not at all.

    Raises:
        DiskFullError: If the disk is full.
    """
    content = model.content(json.dumps(about, allow_nan=False))
    file = {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    about = {**about, "model": {**about["model"], **file}}
    beside = path.with_name(f"{path.name}.json")
    text = json.dumps(about, indent=1, allow_nan=False)
    with explained_full_disk(f"the exported model {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, content)
        _write(beside, re.sub(r"\[[^][{}]*\]", _on_one_line, text) + "\n")
    return beside, about


def _write(path: Path, content: bytes | str) -> None:
    try:
        write_atomically(path, content)
    except BaseException:
        path.with_name(f"{path.name}.writing").unlink(missing_ok=True)
        raise


def _on_one_line(numbers: re.Match[str]) -> str:
    """A list of numbers or words as people write it; lists of lists keep a line each."""
    return re.sub(r"\s*\n\s*", " ", numbers[0]).replace("[ ", "[").replace(" ]", "]")


def named(source: Path | str) -> str:
    """What a run is called, as a file's name.

    >>> named("runs/shared"), named("hf:someone/rooms@main")
    ('shared', 'rooms')
    """
    last = str(source).partition("@")[0].rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    return re.sub(r"[^\w.-]", "_", last) or "model"


def _with_suffix(path: Path, suffix: str) -> Path:
    return path if path.suffix == suffix else path.with_name(path.name + suffix)


def _size_of_data(predictor: Predictor) -> tuple[int, int]:
    data = predictor.recipe.data
    try:
        image = make_dataset(predictor.recipe, predictor.tasks, data.test_split)[0].image
    except (DataError, ConfigurationError, OSError) as error:
        raise ConfigurationError(
            f"the network sees pictures at their own size, and the run's data, which would say which, cannot "
            f"be opened ({error}): name the size of the input, as --input 480x640"
        ) from error
    return image.shape[-2], image.shape[-1]
