import json
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from tests.export.test_deployed import picture
from tests.export.test_export import run

from plait.export import export
from plait.export.int8 import calibration_pictures, kept_float
from plait.inference import Predictor


def test_an_8_bit_model_is_smaller_runs_and_says_what_it_loses(run_folder: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    made = export(
        run_folder,
        "onnx",
        out=tmp_path / "tiny",
        int8=True,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert made.int8 is not None
    assert made.int8.model.name == "tiny.int8.onnx"
    assert made.int8.model.stat().st_size < 0.45 * made.model.stat().st_size
    kinds = {node.op_type for node in onnx.load(made.int8.model).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    found, expected = (run(path, picture(32, 40)[None]) for path in (made.int8.model, made.model))
    assert {name: values.shape for name, values in found.items()} == {
        name: values.shape for name, values in expected.items()
    }
    assert abs(found["depth"] - expected["depth"]).max() < 0.2 * abs(expected["depth"]).max()
    assert steps == [(done, 10) for done in range(1, 11)]
    about = json.loads(made.int8.description.read_text())
    assert about["model"]["int8"] is True
    assert about["model"]["file"] == "tiny.int8.onnx"
    assert "parity" not in about  # that of the model it was made from is there, under its name
    assert about["int8"]["of"]["file"] == "tiny.onnx"
    assert about["int8"]["of"]["parity"]["comparisons"]
    assert about["int8"]["calibrated_on"] == {"pictures": 2, "of": "rooms, train"}
    scored = {(one["task"], one["measure"]) for one in about["int8"]["scores"]}
    assert {("semseg", "miou"), ("depth", "rmse"), ("normals", "mean"), ("edges", "ods")} <= scored
    assert made.int8.quantised.table().row_count == len(scored)


def test_without_the_run_s_data_it_is_made_and_the_missing_scores_are_explained(
    predictor: Predictor, tmp_path: Path
) -> None:
    recipe = replace(predictor.recipe, data=replace(predictor.recipe.data, root=str(tmp_path / "gone")))
    elsewhere = replace(predictor, recipe=recipe)
    assert calibration_pictures(elsewhere, None)[0] == "rooms, train"
    made = export(elsewhere, "onnx", out=tmp_path / "tiny", int8=True)
    assert made.int8 is not None
    assert made.int8.quantised.before is None
    assert "gone" in made.int8.quantised.missing
    onnxruntime.InferenceSession(made.int8.model, providers=["CPUExecutionProvider"])


def test_what_lies_between_two_layers_with_weights_is_reduced_and_nothing_else() -> None:
    """A chain: colours, a layer, an activation, a layer that ends one task, and one that goes on."""

    def node(kind: str, given: str, made: str) -> onnx.NodeProto:
        weights = ["w"] if kind == "Conv" else []
        return helper.make_node(kind, [given, *weights], [made], name=f"{kind} {made}")

    nodes = [
        node("Add", "image", "colours"),
        node("Conv", "colours", "first"),
        node("Relu", "first", "active"),
        node("Conv", "active", "depth"),
        node("Resize", "depth", "large"),
        node("Conv", "active", "second"),
        node("Conv", "second", "last"),
        node("Relu", "last", "end"),
    ]
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "chain", [value], [])
    assert kept_float(graph) == ["Add colours", "Conv depth", "Resize large", "Conv last", "Relu end"]


@pytest.mark.slow
def test_an_8_bit_model_for_any_size_takes_any_size(run_folder: Path, tmp_path: Path) -> None:
    made = export(run_folder, "onnx", out=tmp_path / "tiny", dynamic=True, int8=True)
    assert made.int8 is not None
    for size in ((40, 60), (90, 33)):
        assert run(made.int8.model, picture(*size)[None])["depth"].shape == (1, *size)
