"""The formats a network can be exported to: how each is made, run, and given its description."""

from __future__ import annotations

import io
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export import Dim, ExportedProgram

from plait.errors import ExportError, MissingExtraError
from plait.export.deployed import INPUT, Deployed
from plait.inference.pictures import Pixels
from plait.models.backbones import Swin

Format = Literal["onnx", "pt2"]
Values = dict[str, NDArray[Any]]

OPSET = 18
"""Of the ONNX models: the first in which resizing smooths where it shrinks, so that most runtimes have it."""

LARGEST = 2**31 - 1
"""Bytes that one ONNX file can hold."""

SCHEMA_KEY = "plait"
"""Under which an ONNX model carries its description."""

SCHEMA_FILE = "plait.json"
"""Under which a pt2 archive does."""


class Exported(ABC):
    """An exported model, run by the runtime it was made for."""

    suffix: ClassVar[str]

    @abstractmethod
    def __call__(self, images: Pixels) -> Values:
        """Pictures uint8 ``[B, H, W, 3]`` to ``{output: values}``, as :class:`Deployed` gives them."""

    @abstractmethod
    def content(self, description: str) -> bytes:
        """The file's content, with a description inside."""

    @property
    @abstractmethod
    def facts(self) -> Mapping[str, Any]:
        """What else a description says of the file."""


@dataclass(frozen=True)
class OnnxModel(Exported):
    """An ONNX model, run by ONNX Runtime on the CPU.

    Attributes:
        proto: The model.
        outputs: The names of its outputs.
    """

    proto: Any = field(repr=False)
    outputs: tuple[str, ...]

    suffix: ClassVar[str] = ".onnx"

    @cached_property
    def session(self) -> Any:
        """ONNX Runtime with the model, on as many threads as torch uses."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        return onnxruntime.InferenceSession(
            self.proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, images: Pixels) -> Values:
        made = self.session.run(list(self.outputs), {INPUT: images})
        return dict(zip(self.outputs, made, strict=True))

    def content(self, description: str) -> bytes:
        import onnx

        whole = onnx.ModelProto()
        whole.CopyFrom(self.proto)
        onnx.helper.set_model_props(whole, {SCHEMA_KEY: description})
        onnx.checker.check_model(whole, full_check=True)
        return bytes(whole.SerializeToString())

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"opset": next(entry.version for entry in self.proto.opset_import if not entry.domain)}


@dataclass(frozen=True)
class Program(Exported):
    """An ExportedProgram of torch.

    Attributes:
        program: The program.
        stored: The same as a file holds it.
    """

    program: ExportedProgram = field(repr=False)

    suffix: ClassVar[str] = ".pt2"

    @cached_property
    def module(self) -> Callable[[Tensor], Mapping[str, Tensor]]:
        """What the file holds, read as its user will read it."""
        with quiet():
            read = torch.export.load(io.BytesIO(self.content("{}")))
        return cast("Callable[[Tensor], Mapping[str, Tensor]]", read.module())

    def __call__(self, images: Pixels) -> Values:
        with torch.inference_mode():
            made = self.module(torch.from_numpy(images))
        return {name: values.numpy() for name, values in made.items()}

    def content(self, description: str) -> bytes:
        stream = io.BytesIO()
        with quiet():
            torch.export.save(self.program, stream, extra_files={SCHEMA_FILE: description})
        return stream.getvalue()

    @property
    def facts(self) -> Mapping[str, Any]:
        return {}


def traced(deployed: Deployed, images: Pixels, *, dynamic: bool) -> ExportedProgram:
    """A deployed network as a graph.

    Args:
        deployed: On the CPU.
        images: Pictures uint8 ``[B, H, W, 3]`` of the size that the model is for; if it is ``dynamic``, two
            of no special size.
        dynamic: Whether batch, height and width stay free.

    Raises:
        ExportError: If torch cannot trace it; says why in torch's words.
    """
    free = dict.fromkeys(range(3), Dim.DYNAMIC) if dynamic else None
    try:
        with quiet(), torch.no_grad():
            return torch.export.export(deployed, (torch.from_numpy(images),), dynamic_shapes=(free,))
    except Exception as error:
        kept = "with free sizes" if dynamic else f"for pictures of {images.shape[1]}x{images.shape[2]}"
        raise ExportError(f"torch cannot export this network {kept}: {reason(error)}") from error


def translated(program: ExportedProgram, deployed: Deployed, to: Format) -> Exported:
    """A traced network in a format, ``onnx`` or ``pt2``.

    Raises:
        ExportError: If torch cannot translate it; says why in torch's words.
        MissingExtraError: If a package is missing.
    """
    require_runtime(to)
    if to == "pt2":
        return Program(without_traces(program))
    try:
        with quiet(), torch.no_grad():
            return onnx_model(program, deployed)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"torch cannot translate this network to ONNX: {reason(error)}") from error


def refuse_free_windows(deployed: Deployed, to: Format, *, dynamic: bool) -> None:
    """Refuses at once what torch.export would trace for minutes and then tie to the sizes it saw.

    Raises:
        ExportError: For pt2 of a Swin transformer that sees pictures at their own size, if that is free.
    """
    if to != "pt2" or not dynamic or deployed.sizing.size is not None:
        return
    for module in deployed.modules():
        if isinstance(module, Swin):
            raise ExportError(
                f"{module.name} cuts its maps into windows, whose number torch.export cannot leave free "
                f"where pictures keep their own size: export to onnx, or name a size to fit them into"
            )


def onnx_model(program: ExportedProgram, deployed: Deployed) -> OnnxModel:
    """An exported program as an ONNX model."""
    names = tuple(output.name for output in deployed.outputs)
    made = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=list(names),
        custom_translation_table={torch.ops.aten.softmax.int: softmax},
        verbose=False,
    )
    assert made is not None
    proto = made.model_proto
    if (size := proto.ByteSize()) > LARGEST:
        raise ExportError(
            f"the model has {size / 2**30:.1f} GB, and one ONNX file holds at most 2 GB: export to pt2"
        )
    for part in (proto.graph, *proto.functions):
        named_axes(part)
        for node in (part, *part.node):  # where each came from in the source, by paths of this machine
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
    return OnnxModel(proto, names)


def softmax(self: Any, dim: int, dtype: int = -1) -> Any:
    """Softmax in ONNX; spelled out over another axis than the last.

    There ONNX Runtime transposes the maps twice: of 30 ms for five tasks at 192x256 it took 11, now 2.
    """
    from onnxscript import opset18 as op

    if dim in (-1, len(self.shape) - 1):
        return op.Softmax(self, axis=-1)
    axes: Any = op.Constant(value_ints=[dim])
    powers = op.Exp(op.Sub(self, op.ReduceMax(self, axes, keepdims=1)))
    return op.Div(powers, op.ReduceSum(powers, axes, keepdims=1))


def named_axes(graph: Any) -> None:
    """Gives the free axes of input and outputs names for people in place of the exporter's."""
    if not hasattr(graph, "input") or not hasattr(graph, "output") or isinstance(graph.input[0], str):
        return
    given = [axis.dim_param for axis in graph.input[0].type.tensor_type.shape.dim]
    names = {old: new for old, new in zip(given, ("batch", "height", "width"), strict=False) if old}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param in names:
                axis.dim_param = names[axis.dim_param]


def without_traces(program: ExportedProgram) -> ExportedProgram:
    """The program without the places in the source that its parts came from: paths of this machine."""
    for module in program.graph_module.modules():
        for node in getattr(getattr(module, "graph", None), "nodes", ()):
            node.meta.pop("stack_trace", None)
    return program


def require_runtime(to: Format) -> None:
    """Checks that what writes and runs a format is installed.

    Raises:
        MissingExtraError: If a package is missing.
    """
    if to == "onnx":
        from importlib.util import find_spec

        for package in ("onnx", "onnxscript", "onnxruntime"):
            if find_spec(package) is None:
                raise MissingExtraError(
                    f"exporting to ONNX needs the package {package}: pip install 'plait[export]'"
                )


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what exporters print, warn of and log from the user; what matters comes as an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def reason(error: BaseException) -> str:
    """What an exporter says first of what went wrong first, for a sentence."""
    while error.__cause__ is not None:
        error = error.__cause__
    hint = "For more information, run with"
    lines = [line.partition(hint)[0].strip() for line in str(error).splitlines() if line.strip()]
    return (" ".join(lines[:2]) or type(error).__name__)[:300].rstrip(". ")


def stacked(pictures: Sequence[Pixels]) -> Pixels:
    """Pictures of one size as a batch ``[B, H, W, 3]``."""
    return np.ascontiguousarray(np.stack(list(pictures)))
