"""The description of an exported model, for whoever runs it without plait: JSON beside it and inside it.

docs/export.md says what each field means; :data:`FORMAT` changes when one changes.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from plait import config
from plait.data.labels import UNKNOWN_CLASS
from plait.data.transforms import FILL
from plait.export.deployed import INPUT, Deployed, Output
from plait.export.formats import Exported
from plait.export.parity import TOLERANCE, Comparison
from plait.export.pictures import Shape
from plait.inference.predictor import Predictor

FORMAT = 1
STOPS = 8
"""Colours that a colour bar is described by, at equal distances."""

PACKAGES = ("plait", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy")


def described(
    name: str,
    predictor: Predictor,
    deployed: Deployed,
    model: Exported,
    shape: Shape,
    comparisons: Sequence[Comparison],
) -> dict[str, Any]:
    """What there is to know of an exported model, as JSON can hold it."""
    network = predictor.recipe.model
    free = shape.dynamic
    sides: list[int | None] = [None, None] if free else list(shape.size)
    batch = None if free else shape.batch
    pictures = max((comparison.pixels for comparison in comparisons), default=0)
    return {
        "format": FORMAT,
        "name": name,
        "model": {"kind": model.suffix.lstrip("."), "dynamic": free, "int8": False, **model.facts},
        "network": {
            "backbone": network.backbone,
            "encoder": config.named(network.encoder)[0],
            "decoder": config.named(network.decoder)[0],
            "parameters": sum(parameter.numel() for parameter in predictor.model.parameters()),
            "step": predictor.step,
            "finished": predictor.finished,
            "sha256": predictor.digest,
        },
        "input": {
            "name": INPUT,
            "dtype": "uint8",
            "axes": ["batch", "height", "width", "channel"],
            "shape": [batch, *sides, 3],
            "channels": "RGB",
            "range": [0, 255],
        },
        "inside": inside(predictor, deployed),
        "outputs": [_output(output, [batch, *sides]) for output in deployed.outputs],
        "parity": {
            "tolerance": TOLERANCE,
            "pixels": pictures,
            "comparisons": [comparison.described() for comparison in comparisons],
        },
        "versions": versions(),
    }


def inside(predictor: Predictor, deployed: Deployed) -> dict[str, Any]:
    """What the model does to pictures and maps by itself; for information."""
    sizing = deployed.sizing
    mean, deviation = deployed.network.normalisation
    if sizing.size is None:
        rule = "pictures keep their size"
    else:
        rule = (
            "pictures are fitted into the size, their sides keeping their ratio in whole pixels, halves up; "
            "the rest, right and below, is filled; maps are cut and brought back to the picture's size"
        )
    return {
        "size": None if sizing.size is None else list(sizing.size),
        "resize": rule,
        "interpolation": "bilinear, half-pixel centres, smoothed where it shrinks",
        "fill": list(FILL),
        "tile": None if sizing.tile is None else list(sizing.tile),
        "stride": None if sizing.stride is None else list(sizing.stride),
        "flip": predictor.flip,
        "scales": list(sizing.scales),
        "mean": list(mean),
        "std": list(deviation),
    }


def versions() -> dict[str, str]:
    """Of the packages that made it."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _output(output: Output, shape: Sequence[int | None]) -> dict[str, Any]:
    several = output.components > 1
    task = output.task
    legend = task.legend
    made: dict[str, Any] = {
        "name": output.name,
        "task": task.name,
        "kind": task.kind,
        "dtype": output.dtype,
        "axes": ["batch", "height", "width", *(["component"] if several else [])],
        "shape": [*shape, *([output.components] if several else [])],
        "unit": output.unit,
        "meaning": output.meaning,
    }
    if task.classes:
        colours: Mapping[str, Any] = dict(legend.entries)
        made["classes"] = [
            {"id": number, "name": name, "colour": list(colours[name]) if name in colours else None}
            for number, name in enumerate(task.classes)
        ]
        if output.ids:
            made["unknown"] = UNKNOWN_CLASS
    elif legend.bar is not None:
        bar = legend.bar
        stops = [round(place * (len(bar) - 1) / (STOPS - 1)) for place in range(STOPS)]
        made["colours"] = {"low": legend.low, "high": legend.high, "stops": bar[stops].tolist()}
    elif legend.entries:
        made["colours"] = {name: list(colour) for name, colour in legend.entries}
    return made
