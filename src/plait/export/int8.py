"""An exported ONNX model in 8 bits for the CPU, and what that costs in accuracy."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plait.errors import ConfigurationError, DataError, ExportError
from plait.export.deployed import INPUT, Deployed
from plait.export.formats import OnnxModel, quiet, reason
from plait.export.parity import EAGER, Comparison, compare
from plait.export.pictures import Shape, pictures_of, real_pictures
from plait.export.score import score
from plait.inference.pictures import Pixels
from plait.inference.predictor import Predictor
from plait.tasks.base import Measure
from plait.training.run import make_dataset
from plait.training.scores import Scores, shown

if TYPE_CHECKING:
    from rich.table import Table

CALIBRATED_ON = 32
"""Pictures on which the ranges of activations are measured."""

WEIGHED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operations with weights."""

REDUCED = (*WEIGHED, "Add", "Clip", "Concat", "MaxPool", "Relu", "Resize")
"""Operations that compute in 8 bits, where they lie between two that have weights.

An activation has to be among them, or the range of what it cuts off would be measured: with ReLU6 that cost 9
of 71 points of mIoU.
"""


@dataclass(frozen=True)
class Quantised:
    """An 8-bit model and what it loses.

    Attributes:
        model: The model.
        comparisons: How far its maps are from the network's, on the pictures of the parity check.
        pictures: How many it was calibrated on.
        calibration: Where those are from.
        before: Scores of the exported model on the run's test split; None where its data is not there.
        after: Those of the 8-bit model.
        missing: Why there are none.
    """

    model: OnnxModel = field(repr=False)
    comparisons: Sequence[Comparison]
    pictures: int
    calibration: str = ""
    before: Scores | None = None
    after: Scores | None = None
    missing: str = ""

    def lines(self) -> Iterator[tuple[str, Measure, float, float]]:
        """Task, measure, and its value before and after."""
        if self.before is None or self.after is None:
            return
        for task, measures in self.before.measures.items():
            for measure in measures:
                if measure.name in self.before[task]:
                    yield task, measure, self.before[task][measure.name], self.after[task][measure.name]

    def described(self) -> dict[str, Any]:
        """For a description."""
        return {
            "calibrated_on": {"pictures": self.pictures, "of": self.calibration},
            "float_operations": "what is before the first, and from the last layer with weights on",
            "comparisons": [comparison.described() for comparison in self.comparisons],
            "scores": [
                {
                    "task": task,
                    "measure": measure.name,
                    "protocol": measure.protocol,
                    "float": _number(before),
                }
                | {"int8": _number(after)}
                for task, measure, before, after in self.lines()
            ],
            "split": None if self.before is None else self.before.split,
            "images": None if self.before is None else self.before.images,
        }

    def table(self) -> Table:
        """A row a measure for the terminal."""
        from rich.table import Table

        assert self.before is not None
        images = self.before.images
        made = Table(title=f"what 8 bits cost: {self.before.split}, {images} image{'s' * (images != 1)}")
        made.add_column("task")
        made.add_column("measure")
        for column in ("float", "int8", "change"):
            made.add_column(column, justify="right")
        last = ""
        for task, measure, before, after in self.lines():
            change = shown(after - before, measure)
            if not change.strip("-0.%°m "):  # a change that is not seen has no sign
                change = change.removeprefix("-")
            made.add_row(
                "" if task == last else task,
                f"{measure.title} {'↑' if measure.higher_is_better else '↓'}",
                shown(before, measure),
                shown(after, measure),
                f"+{change}" if after > before and change.strip("0.%°m ") else change,
            )
            last = task
        return made


def quantised(
    model: OnnxModel,
    deployed: Deployed,
    predictor: Predictor,
    shape: Shape,
    *,
    calibration: tuple[str, Sequence[Pixels]],
    pictures: Sequence[Pixels],
    progress: Callable[[int, int], None] | None = None,
) -> Quantised:
    """An exported model in 8 bits: weights by channel, activations by the range they had on pictures.

    Args:
        model: The exported model.
        deployed: What it was exported from.
        predictor: What that was made of; both models are scored on its run's test split, by its protocol.
        shape: What it takes.
        calibration: Pictures ``[H, W, 3]`` to measure ranges on, and where they are from.
        pictures: Others to compare with the network.
        progress: Told of images scored and in all.

    Raises:
        ExportError: If ONNX Runtime cannot make it.
    """
    origin, seen = calibration
    try:
        with quiet():
            reduced = OnnxModel(in_8_bits(model.proto, shape.batches(seen)), model.outputs)
            comparisons = [
                comparison
                for comparison in compare(reduced, deployed, None, shape.batches(pictures))
                if comparison.against == EAGER
            ]
    except Exception as error:
        raise ExportError(
            f"ONNX Runtime cannot make an 8-bit version of this model: {reason(error)}; nothing was written"
        ) from error
    recipe = predictor.recipe
    try:
        dataset = make_dataset(recipe, predictor.tasks, recipe.data.test_split)
    except DataError as error:
        return Quantised(reduced, comparisons, len(seen), origin, missing=str(error))
    total = 2 * len(dataset)

    def told(offset: int) -> Callable[[int, int], None]:
        return lambda done, _: progress(offset + done, total) if progress is not None else None

    before, after = (
        score(
            scored,
            deployed.outputs,
            shape,
            dataset,
            predictor.tasks,
            protocol=recipe.evaluation.protocol,
            progress=told(place * len(dataset)),
        )
        for place, scored in enumerate((model, reduced))
    )
    return Quantised(reduced, comparisons, len(seen), origin, before, after)


def calibration_pictures(predictor: Predictor, folder: Path | None) -> tuple[str, list[Pixels]]:
    """Pictures to measure ranges on, and where they are from.

    Those of a folder; else of what the network was trained on; else, where that is not there, of rooms.

    Raises:
        DataError: If the folder holds no picture, or one is damaged.
    """
    if folder is not None:
        return "a folder", real_pictures(folder, CALIBRATED_ON)
    data = predictor.recipe.data
    try:
        dataset = make_dataset(predictor.recipe, predictor.tasks, data.train_split)
    except (DataError, ConfigurationError):
        return "rooms, train", real_pictures(None, CALIBRATED_ON, split="train")
    return f"{data.name}, {data.train_split}", pictures_of(dataset, CALIBRATED_ON)


def in_8_bits(proto: Any, batches: Iterable[Pixels]) -> Any:
    """An ONNX model whose inner operations compute in 8 bits, in ONNX's QDQ form."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(batches)

        def get_next(self) -> dict[str, Pixels] | None:
            images = next(self.left, None)
            return None if images is None else {INPUT: images}

    with tempfile.TemporaryDirectory(prefix="plait-") as folder:
        whole, reduced = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(proto, whole)
        quantize_static(
            whole,
            reduced,
            Pictures(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(REDUCED),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=kept_float(proto.graph),
            extra_options={"MatMulConstBOnly": True},
        )
        made = onnx.load(reduced)
    for node in made.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    return made


def kept_float(graph: Any) -> list[str]:
    """The names of what must not lose precision.

    That is whatever comes before the first layer with weights, and each last one with all that follows: there
    numbers become metres, vectors and probabilities.
    """
    makers = {output: node for node in graph.node for output in node.output}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)

    def reached(step: Callable[[Any], Iterable[Any]]) -> set[str]:
        found: set[str] = set()
        left = [node for node in graph.node if node.op_type in WEIGHED]
        while left:
            for other in step(left.pop()):
                if other.name not in found:
                    found.add(other.name)
                    left.append(other)
        return found

    after = reached(lambda node: [user for name in node.output for user in users.get(name, [])])
    before = reached(lambda node: [makers[name] for name in node.input if name in makers])
    first = {node.name for node in graph.node if node.op_type in WEIGHED and node.name not in after}
    return [node.name for node in graph.node if node.name not in before or node.name not in after | first]


def _number(value: float) -> float | None:
    return value if value == value else None  # JSON knows no NaN
