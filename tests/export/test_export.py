import ast
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from tests.export.test_deployed import picture
from tests.pages import ROOT, blocks

import plait
from plait.errors import CheckpointError, ConfigurationError, DataError, ExportError, MissingExtraError
from plait.export import Export, export
from plait.export.deployed import Deployed
from plait.export.export import named
from plait.export.formats import (
    Exported,
    Format,
    OnnxModel,
    Program,
    reason,
    refuse_free_windows,
    require_runtime,
)
from plait.inference import Predictor, Sizing
from plait.inference.pictures import Pixels

Made = Callable[[Format, bool], Export]
PAGE = ROOT / "docs" / "export.md"


def run(path: Path, images: Pixels) -> dict[str, np.ndarray]:
    """What a user of the file gets, without plait."""
    if path.suffix == ".pt2":
        program = torch.export.load(path).module()
        with torch.inference_mode():
            return {name: values.numpy() for name, values in program(torch.from_numpy(images)).items()}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": images}), strict=True))


@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_a_model_for_any_size_gives_what_the_predictor_gives(
    exported: Made, predictor: Predictor, to: Format
) -> None:
    made = exported(to, True)
    for batch, size in ((1, (32, 40)), (3, (64, 50)), (1, (33, 121)), (2, (80, 25)), (1, (20, 20))):
        images = np.stack([picture(*size, seed=place) for place in range(batch)])
        found = run(made.model, images)
        for place, expected in enumerate(predictor.batch(list(images))):
            for task, one in expected.items():
                values, reference = found[task][place], one.values
                assert values.shape == reference.shape
                assert values.dtype == reference.dtype
                if not one.classes:
                    assert np.abs(values - reference).max() < 2e-4
                else:
                    assert (values != reference).mean() < 0.001


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_the_description_is_beside_the_model_and_inside_it(exported: Made, to: Format, dynamic: bool) -> None:
    made = exported(to, dynamic)
    content = made.model.read_bytes()
    beside = json.loads(made.description.read_text())
    assert made.description.name == f"{made.model.name}.json"
    assert beside == made.about
    assert beside["model"].pop("sha256") == hashlib.sha256(content).hexdigest()
    assert beside["model"].pop("bytes") == len(content)
    assert beside["model"].pop("file") == made.model.name
    if to == "onnx":
        inside = {entry.key: entry.value for entry in onnx.load(made.model).metadata_props}["plait"]
    else:
        extra = {"plait.json": ""}
        torch.export.load(made.model, extra_files=extra)
        inside = extra["plait.json"]
    assert json.loads(inside) == beside
    assert beside["format"] == 1
    assert beside["model"] == {"kind": to, "dynamic": dynamic, "int8": False} | (
        {"opset": 18} if to == "onnx" else {}
    )
    free: list[int | None] = [None, None, None] if dynamic else [1, 32, 40]
    assert beside["input"]["shape"] == [*free, 3]
    assert {output["name"]: (output["dtype"], output["shape"]) for output in beside["outputs"]} == {
        "semseg": ("uint8", free),
        "depth": ("float32", free),
        "normals": ("float32", [*free, 3]),
        "edges": ("float32", free),
        "semseg_probabilities": ("float32", [*free, 20]),
    }
    semseg, depth = beside["outputs"][:2]
    assert len(semseg["classes"]) == 20
    assert semseg["classes"][0] == {"id": 0, "name": "class 0", "colour": [31, 119, 180]}
    assert semseg["unknown"] == 255
    assert (depth["unit"], depth["meaning"]) == ("m", "metres along the optical axis")
    assert depth["colours"]["high"] == "8 m"
    assert beside["inside"]["size"] == [32, 40]
    assert beside["network"]["backbone"] == "test_resnet"
    compared = {(one["output"], one["against"]): one for one in beside["parity"]["comparisons"]}
    assert len(compared) == 9
    for one in compared.values():
        assert one["judged"] <= one["allowed"]
        assert one["maximum_error"] < 0.01


def test_an_onnx_model_names_its_axes_and_passes_the_checker(exported: Made) -> None:
    proto = onnx.load(exported("onnx", True).model)
    onnx.checker.check_model(proto, full_check=True)
    (given,) = proto.graph.input
    assert given.name == "image"
    assert [axis.dim_param or axis.dim_value for axis in given.type.tensor_type.shape.dim] == [
        "batch",
        "height",
        "width",
        3,
    ]
    assert [output.name for output in proto.graph.output][:2] == ["semseg", "depth"]
    (static,) = onnx.load(exported("onnx", False).model).graph.input
    assert [axis.dim_value for axis in static.type.tensor_type.shape.dim] == [1, 32, 40, 3]


def test_nothing_is_resized_where_the_input_has_the_network_s_size(exported: Made) -> None:
    proto = onnx.load(exported("onnx", False).model)
    smoothed = [
        node.name
        for node in proto.graph.node
        if any(attribute.name == "antialias" and attribute.i for attribute in node.attribute)
    ]
    assert not smoothed


@pytest.mark.parametrize("to", ["onnx", "pt2"])
def test_a_model_holds_no_path_of_this_machine(exported: Made, to: Format, run_folder: Path) -> None:
    path = exported(to, True).model
    parts = [path.read_bytes()]
    if to == "pt2":
        with zipfile.ZipFile(path) as archive:
            parts = [archive.read(name) for name in archive.namelist()]
    for part in parts:
        for place in (ROOT, run_folder.parent, sysconfig.get_paths()["purelib"]):
            assert str(place).encode() not in part


def test_pt2_runs_where_plait_cannot_be_imported(
    exported: Made, predictor: Predictor, tmp_path: Path
) -> None:
    image = picture(50, 70)
    np.save(tmp_path / "image.npy", image)
    script = """
import sys
sys.modules["plait"] = None  # any import of it fails
import numpy, torch
program = torch.export.load(sys.argv[1]).module()
made = program(torch.from_numpy(numpy.load(sys.argv[2]))[None])
numpy.savez(sys.argv[3], **{name: values.detach().numpy() for name, values in made.items()})
"""
    arguments = [exported("pt2", True).model, tmp_path / "image.npy", tmp_path / "made.npz"]
    subprocess.run([sys.executable, "-c", script, *map(str, arguments)], check=True)
    with np.load(tmp_path / "made.npz") as found:
        assert np.abs(found["depth"][0] - predictor(image)["depth"].values).max() < 2e-4


def test_the_page_s_script_runs_where_there_is_no_plait(
    exported: Made, predictor: Predictor, tmp_path: Path
) -> None:
    """In a Python that finds NumPy, ONNX Runtime and Pillow, and nothing else that is installed."""
    (script,) = (block.text for block in blocks(PAGE, "python") if block.file == "run_onnx.py")
    imported = {
        name.name.partition(".")[0]
        for node in ast.walk(ast.parse(script))
        if isinstance(node, ast.Import)
        for name in node.names
    } | {
        str(node.module).partition(".")[0]
        for node in ast.walk(ast.parse(script))
        if isinstance(node, ast.ImportFrom)
    }
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "PIL"}
    packages = tmp_path / "packages"
    packages.mkdir()
    for name in ("numpy", "onnxruntime", "PIL"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        place = Path(spec.origin).parent
        (packages / name).symlink_to(place)
        for libraries in (f"{name}.libs", "pillow.libs"):
            beside, link = place.parent / libraries, packages / libraries
            if beside.is_dir() and not link.exists():
                link.symlink_to(beside)
    made = exported("onnx", True)
    for path in (made.model, made.description):
        (tmp_path / path.name.replace("tiny", "toy")).write_bytes(path.read_bytes())
    image = picture(50, 70)
    Image.fromarray(image).save(tmp_path / "photo.png")
    tried = "try:\n    import {}\nexcept ImportError as error:\n    print(error)\n"
    after = [tried.format("plait"), tried.format("torch"), "np.savez('made.npz', **maps)\n"]
    (tmp_path / "run_onnx.py").write_text("\n".join([script, *after]))
    done = subprocess.run(
        [sys.executable, "-S", "run_onnx.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "No module named 'plait'" in done.stdout
    assert "No module named 'torch'" in done.stdout
    expected = predictor(image)
    with np.load(tmp_path / "made.npz") as found:
        for task, one in expected.items():
            difference = np.abs(found[task][0].astype(float) - one.values.astype(float))
            assert (difference > 1e-3).mean() < 0.001


def test_exporting_says_nothing_of_its_own(
    run_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    export(run_folder, "onnx", out=tmp_path / "one", tell=told.append)
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("", "")
    assert told == ["exporting run to onnx", "comparing it with the network on real pictures"]


class Wrong(Exported):
    """A model that says something else, of one output."""

    suffix = ".onnx"
    facts: ClassVar[dict[str, Any]] = {}

    def __init__(self, right: Exported, output: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
        self.right, self.output, self.change = right, output, change

    def __call__(self, images: Pixels) -> dict[str, np.ndarray]:
        made = self.right(images)
        return {**made, self.output: self.change(made[self.output])}

    def content(self, description: str) -> bytes:
        raise AssertionError("it must not be asked for")


@pytest.mark.parametrize(
    ("output", "change", "told"),
    [
        ("depth", lambda values: values * 1.01, r"depth is up to 0\.\d+ m from eager torch"),
        ("semseg", lambda values: (values + 1) % 20, "semseg has another class .* in 100 % of the pixels"),
        ("normals", lambda values: -values, "normals is up to"),
        ("edges", lambda values: values * np.nan, "edges is up to nan"),
    ],
)
def test_a_model_that_disagrees_is_not_written(
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    output: str,
    change: Callable[[np.ndarray], np.ndarray],
    told: str,
) -> None:
    module = import_module("plait.export.export")

    def spoilt(*given: Any) -> Exported:
        return Wrong(Program(given[0]), output, change)

    monkeypatch.setattr(module, "translated", spoilt)
    with pytest.raises(ExportError, match=f"disagrees with the network, so nothing was written: .*{told}"):
        export(run_folder, "onnx", out=tmp_path / "models" / "one")
    assert not list(tmp_path.rglob("*"))


def test_a_graph_with_one_wrong_layer_is_not_written(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module("plait.export.export")

    right = module.translated

    def spoilt(*given: Any) -> Exported:
        made = right(*given)
        assert isinstance(made, OnnxModel)
        weight = max(made.proto.graph.initializer, key=lambda one: len(one.dims) * len(one.raw_data))
        values = np.frombuffer(weight.raw_data, np.float32).copy()
        values[: len(values) // 2] *= -1
        weight.raw_data = values.tobytes()
        return made

    monkeypatch.setattr(module, "translated", spoilt)
    with pytest.raises(ExportError, match="disagrees with the network"):
        export(run_folder, "onnx", out=tmp_path / "one")
    assert not list(tmp_path.iterdir())


def test_what_torch_cannot_export_is_told_in_its_words(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_value(self: torch.nn.Module, images: torch.Tensor, tasks: Any = None) -> Any:
        return self.decode(self.encoder(images) if images.sum().item() > 0 else {}, (1, 1))

    monkeypatch.setattr(type(predictor.model), "forward", by_value)
    with pytest.raises(
        ExportError, match="torch cannot export this network for pictures of 32x40: Could not"
    ):
        export(predictor, "pt2", out=tmp_path / "one")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing_behind(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import plait.training.checkpoint as checkpoint
    from plait.errors import DiskFullError

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_durably", full)
    with pytest.raises(DiskFullError, match="the exported model"):
        export(run_folder, "pt2", out=tmp_path / "one")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"to": "pt2", "int8": True}, "8-bit models are for ONNX Runtime"),
        ({"to": "onxx"}, r"unknown format 'onxx' \(did you mean 'onnx'\?\); known are onnx, pt2"),
        ({"to": "onnx", "batch": 0}, "1 or more pictures at a time"),
        ({"to": "onnx", "input_size": (10**6, 10**6)}, "got an input of 1000000x1000000"),
        ({"to": "onnx", "dynamic": True, "batch": 2}, "leave out the input's size and batch"),
        ({"to": "onnx", "dynamic": True, "input_size": (32, 40)}, "leave out the input's size and batch"),
    ],
)
def test_options_that_cannot_go_together_are_refused(
    run_folder: Path, tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        export(run_folder, out=tmp_path / "one", **options)


def test_tiles_of_free_sizes_are_refused(predictor: Predictor, tmp_path: Path) -> None:
    tiled = replace(predictor, sizing=Sizing(None, (32, 32)))
    with pytest.raises(ConfigurationError, match="in tiles cannot be dynamic"):
        export(tiled, "onnx", out=tmp_path / "one", dynamic=True)


def test_windows_whose_number_pt2_would_fix_are_refused_at_once() -> None:
    tasks = plait.tasks.parse({"depth": {"kind": "depth"}})
    model = plait.create_model(backbone="swin_tiny_patch4_window7_224", tasks=tasks).eval()
    deployed = Deployed(Predictor("one", None, model, tasks, Sizing(None)))  # type: ignore[arg-type]
    with pytest.raises(ExportError, match="swin_tiny_patch4_window7_224 cuts its maps into windows"):
        refuse_free_windows(deployed, "pt2", dynamic=True)
    refuse_free_windows(deployed, "pt2", dynamic=False)
    refuse_free_windows(deployed, "onnx", dynamic=True)


def test_an_input_of_the_data_s_size_is_taken_where_the_network_has_none(
    predictor: Predictor, tmp_path: Path
) -> None:
    own = replace(predictor, sizing=Sizing(None))
    made = export(own, "pt2", out=tmp_path / "one", batch=2)
    assert made.about["input"]["shape"] == [2, 32, 48, 3]
    assert made.about["inside"]["resize"] == "pictures keep their size"
    elsewhere = replace(own.recipe, data=replace(own.recipe.data, root="nowhere"))
    with pytest.raises(ConfigurationError, match="name the size of the input, as --input 480x640"):
        export(replace(own, recipe=elsewhere), "pt2", out=tmp_path / "two")


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs the package onnx: pip install 'plait\[export\]'"):
        require_runtime("onnx")
    require_runtime("pt2")


def test_a_folder_without_a_run_or_pictures_is_told(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a run's folder"):
        export(tmp_path, "pt2")
    (tmp_path / "recipe.yaml").write_bytes((run_folder / "recipe.yaml").read_bytes())
    with pytest.raises(CheckpointError, match="has no checkpoint yet"):
        export(tmp_path, "pt2")
    with pytest.raises(DataError, match=r"holds no pictures: expected files that end in \.jpg"):
        export(run_folder, "pt2", pictures=tmp_path)


def test_names_are_files_names() -> None:
    assert named("runs/shared/") == "shared"
    assert named("hf:someone/rooms@v1") == "rooms"
    assert named("hf:someone/my rooms") == "my_rooms"


def test_what_went_wrong_first_is_told_in_two_lines() -> None:
    outer = RuntimeError("outer")
    outer.__cause__ = ValueError("first\n\nsecond. For more information, run with TORCH_LOGS\nthird")
    assert reason(outer) == "first second"
