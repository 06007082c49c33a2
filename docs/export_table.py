"""Writes docs/results/export.md: which networks can be exported and how exactly, what 8 bits cost, and time.

``python docs/export_table.py`` tries what ``docs/results/export.json`` does not hold yet, and writes it after
every network, so that it can be stopped and started again; ``--fresh`` tries everything, ``--only NAME`` the
networks with that encoder, decoder or backbone again. Networks are tiny and untrained, but for the norms'
statistics; each is exported with free sizes, and compared with eager torch and with the evaluation's pipeline
on pictures of rooms of several sizes. ``--run RUN`` exports a trained run instead and keeps its numbers;
those of ``benchmarks/export.json`` are read. ``--write`` tries nothing and only writes the page.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import plait
import plait.tasks
from plait import registry
from plait.errors import PlaitError
from plait.export import export
from plait.export.deployed import Deployed
from plait.export.formats import Format, reason, refuse_free_windows, traced, translated
from plait.export.parity import compare
from plait.export.pictures import Shape, real_pictures
from plait.inference.predictor import Predictor
from plait.inference.sizing import Sizing
from plait.testing import tiny_backbone

PAGE = Path(__file__).parent / "results" / "export.md"
DATA = PAGE.with_suffix(".json")
TIMES = Path(__file__).parents[1] / "benchmarks" / "export.json"
TASKS: dict[str, dict[str, Any]] = {
    "semseg": {"kind": "semantic", "classes": 5},
    "depth": {"kind": "depth", "parametrisation": "softplus"},
    "normals": {"kind": "normals"},
}
NARROW = {"pad_net": {"width": 16}, "pap_net": {"width": 16}, "psd": {"width": 16}, "jtrl": {"width": 16}}
TREE = {"branched": {"tree": [" ".join(TASKS)] * 3 + ["semseg | depth normals"]}}
FAMILIES = {
    "resnet": "resnet18",
    "resnet (d)": "test_resnet",
    "hrnet": "hrnet_w18_small",
    "efficientnet": "test_efficientnet",
    "convnext": "test_convnext",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "vision_transformer": "test_vit",
    "eva": "eva02_tiny_patch14_224",
}
OPTIONS = {"eva": {"patch_size": 16}}
SIZINGS = {"fitted": (64, 96), "own": None}
"""Pictures fitted into one size; and at their own, which is tried of every part but not of every pair."""
OWN = (128, 160)
"""Where the sizes of pictures that keep theirs begin."""
FORMATS: tuple[Format, ...] = ("onnx", "pt2")


def predictor(
    backbone: Any, encoder: str, decoder: str, size: tuple[int, int] | None, **more: Any
) -> Predictor:
    """A tiny network of three tasks as a function of pictures."""
    torch.manual_seed(0)
    model = plait.create_model(
        backbone=backbone,
        encoder=encoder,
        decoder=decoder,
        tasks=TASKS,
        encoder_options=TREE.get(encoder, {}),
        decoder_options=NARROW.get(decoder, {}),
        **more,
    )
    model.at_step(50, 100)
    with torch.no_grad():
        for _ in range(10):
            model.train()(torch.randn(4, 3, 64, 96))
    return Predictor("tiny", None, model.eval(), model.tasks, Sizing(size))  # type: ignore[arg-type]


def tried(backbone: Any, encoder: str, decoder: str, **more: Any) -> dict[str, Any]:
    """By sizing and format, the largest error as a part of a map's largest value, or why there is none."""
    begun = time.perf_counter()
    found: dict[str, Any] = {}
    pictures = real_pictures(None, 5)
    for name, size in SIZINGS.items():
        if size is None and encoder != "shared" and decoder != "independent":
            continue
        shape = Shape(1, size or OWN, dynamic=True)
        try:
            whole = predictor(backbone, encoder, decoder, size, **more)
            deployed = Deployed(whole)
            program = traced(deployed, shape.example(pictures), dynamic=True)
        except PlaitError as error:
            found |= {f"{name} {to}": str(error) for to in FORMATS}
            continue
        for to in FORMATS:
            try:
                refuse_free_windows(deployed, to, dynamic=True)
                compared = compare(
                    translated(program, deployed, to), deployed, whole, shape.batches(pictures)
                )
            except Exception as error:  # noqa: BLE001 (whatever the exporter or the runtime says is the answer)
                found[f"{name} {to}"] = reason(error)
                continue
            wrong = [one.told() for one in compared if not one.agrees]
            errors = [one.error / (1.0 if one.output.ids else one.largest) for one in compared]
            found[f"{name} {to}"] = "; ".join(wrong) if wrong else float(f"{max(errors):.1e}")
    return {**found, "seconds": round(time.perf_counter() - begun, 1)}


def networks() -> Iterator[tuple[str, dict[str, Any]]]:
    """What is tried, by name: every encoder with every decoder, and every family of backbones."""
    for encoder in registry.ENCODERS:
        for decoder in registry.DECODERS:
            yield f"{encoder} {decoder}", {"backbone": tiny_backbone, "encoder": encoder, "decoder": decoder}
    for family, backbone in FAMILIES.items():
        options = {"backbone_options": OPTIONS[family]} if family in OPTIONS else {}
        yield (
            f"backbone {family}",
            {
                "backbone": backbone,
                "encoder": "shared",
                "decoder": "independent",
                **options,
            },
        )


def trained(run: Path) -> dict[str, Any]:
    """The parity of a trained run's models, and what 8 bits cost it."""
    found: dict[str, Any] = {"parity": {}}
    with tempfile.TemporaryDirectory() as folder:
        for to in FORMATS:
            for dynamic in (False, True):
                int8 = to == "onnx" and not dynamic
                made = export(run, to, out=Path(folder) / "model", dynamic=dynamic, int8=int8)
                found["parity"][f"{to}, {'any size' if dynamic else 'one size'}"] = made.about["parity"]
                if made.int8 is not None:
                    found["network"] = made.about["network"]
                    found["size"] = made.about["inside"]["size"]
                    found["bytes"] = made.about["model"]["bytes"]
                    found["int8"] = json.loads(made.int8.description.read_text())
    return found


def main() -> None:
    """Tries every network that is not known yet, then writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="try every network again")
    parser.add_argument("--only", metavar="NAME", help="only networks with this part, again")
    parser.add_argument("--run", type=Path, metavar="RUN", help="a trained run to export")
    parser.add_argument("--write", action="store_true", help="only write the page")
    parsed = parser.parse_args()
    known = json.loads(DATA.read_text()) if DATA.is_file() else {}
    found = {} if parsed.fresh else known.get("networks", {})
    torch.set_num_threads(1)

    def keep() -> None:
        versions = {package: version(package) for package in ("torch", "onnx", "onnxscript", "onnxruntime")}
        about = {**known, "versions": versions, "networks": found}
        DATA.write_text(json.dumps(about, indent=1) + "\n")

    if parsed.run is not None:
        known["run"] = trained(parsed.run)
        keep()
    for name, parts in networks():
        if parsed.write or parsed.run or (parsed.only and parsed.only not in (*name.split(), name)):
            continue
        if name in found and not parsed.only:
            continue
        found[name] = tried(**parts)
        print(name, found[name], flush=True)
        keep()
    PAGE.write_text(written(PAGE.read_text()))


# --- the page -------------------------------------------------------------------------------------------


def written(page: str) -> str:
    """The page with what belongs between its markers."""
    data = json.loads(DATA.read_text())
    parts = {
        "versions": ", ".join(f"{package} {number}" for package, number in data["versions"].items()) + ".",
        "pairs": pairs(data["networks"]),
        "parts": own_sizes(data["networks"]),
        "backbones": backbones(data["networks"]),
        "parity": parity(data["run"]),
        "int8": int8(data["run"]),
        "time": times(json.loads(TIMES.read_text())),
    }
    for name, made in parts.items():
        start, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, _, after = page.partition(start)
        page = f"{before}{start}{made}\n{end}{after.partition(end)[2]}"
    return page


class Notes:
    """Reasons, each once, as numbers below a table."""

    def __init__(self) -> None:
        self.known: list[str] = []

    def cell(self, found: Mapping[str, Any], sizing: str, formats: Sequence[str] = FORMATS) -> str:
        """The largest error of the formats that work, and the number of the reason where one does not."""
        results = {to: found[f"{sizing} {to}"] for to in formats if f"{sizing} {to}" in found}
        if not results:
            return "–"
        failed = {to: why for to, why in results.items() if isinstance(why, str)}
        worked = [error for error in results.values() if not isinstance(error, str)]
        words = [f"{max(worked):.0e}".replace("e-0", "e-")] if worked else []
        for to, why in failed.items():
            if why not in self.known:
                self.known.append(why)
            words.append(f"not {to} ({self.known.index(why) + 1})")
        return ", ".join(words)

    def lines(self) -> list[str]:
        return [f"{number}. {why}" for number, why in enumerate(self.known, 1)]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], notes: Notes | None = None) -> str:
    """Markdown; all columns but the first to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    written = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([*written, *(["", *notes.lines()] if notes and notes.known else [])])


def pairs(found: Mapping[str, Any]) -> str:
    notes = Notes()
    rows = [
        [
            f"`{encoder}`",
            *(notes.cell(found.get(f"{encoder} {decoder}", {}), "fitted") for decoder in registry.DECODERS),
        ]
        for encoder in registry.ENCODERS
    ]
    return table(["encoder", *(f"`{decoder}`" for decoder in registry.DECODERS)], rows, notes)


def own_sizes(found: Mapping[str, Any]) -> str:
    notes = Notes()
    names = [(f"encoder `{name}`", f"{name} independent") for name in registry.ENCODERS]
    names += [(f"decoder `{name}`", f"shared {name}") for name in registry.DECODERS]
    rows = [[name, *(notes.cell(found.get(pair, {}), "own", [to]) for to in FORMATS)] for name, pair in names]
    return table(["part", "ONNX", "pt2"], rows, notes)


def backbones(found: Mapping[str, Any]) -> str:
    notes = Notes()
    rows = [
        [f"`{family}`", f"`{name}`"]
        + [
            notes.cell(found.get(f"backbone {family}", {}), sizing, [to])
            for sizing in SIZINGS
            for to in FORMATS
        ]
        for family, name in FAMILIES.items()
    ]
    head = ["family", "tried with", "fitted, ONNX", "fitted, pt2", "own size, ONNX", "own size, pt2"]
    return table(head, rows, notes)


def parity(run: Mapping[str, Any]) -> str:
    rows = []
    for model, about in run["parity"].items():
        for one in about["comparisons"]:
            if one["against"] != "eager":
                continue
            other = next(
                b
                for b in about["comparisons"]
                if b["output"] == one["output"] and b["against"] == "predictor"
            )
            unit = f" {one['unit']}" if one["unit"] == "m" else ""
            share = f"{one['differing_pixels']} of {one['pixels']:,}" if "differing_pixels" in one else ""
            errors = [
                f"{each['maximum_error'] or 0:.1e}{unit}".replace("0.0e+00", "0") for each in (one, other)
            ]
            rows.append([model, one["output"], *errors, f"{one['allowed']:.1e}{unit}", share])
    head = [
        "model",
        "output",
        "beside eager torch",
        "beside the evaluation",
        "allowed",
        "pixels of another class",
    ]
    return table(head, rows)


def int8(run: Mapping[str, Any]) -> str:
    reduced = run["int8"]["int8"]
    measures = {
        (task, measure.name): (measure.title, measure.unit, "↑" if measure.higher_is_better else "↓")
        for task, kind in (("semantic", "semantic"), ("depth", "depth"), ("normals", "normals"))
        + (("edges", "edges"), ("saliency", "saliency"))
        for measure in one_task(kind).measures
    }
    rows = []
    for one in reduced["scores"]:
        title, unit, direction = measures[one["task"], one["measure"]]
        factor, places = (100, 2) if unit == "%" else (1, 3)
        before, after = factor * one["float"], factor * one["int8"]
        shown = f"{title} ({unit}) {direction}" if unit else f"{title} {direction}"
        rows.append(
            [
                one["task"],
                shown,
                f"{before:.{places}f}",
                f"{after:.{places}f}",
                f"{after - before:+.{places}f}",
            ]
        )
    size = f"{run['bytes'] / 1e6:.1f} MB in floats, {run['int8']['model']['bytes'] / 1e6:.1f} MB in 8 bits; "
    size += f"{reduced['images']} images, split {reduced['split']}; calibrated on "
    size += f"{reduced['calibrated_on']['pictures']} pictures ({reduced['calibrated_on']['of']})."
    return table(["task", "measure", "float", "int8", "change"], rows) + f"\n\n{size}"


def one_task(kind: str) -> Any:
    options = {"classes": 2} if kind == "semantic" else {}
    return plait.tasks.parse({"one": {"kind": kind, **options}})[0]


def times(data: Mapping[str, Any]) -> str:
    rows = [
        [size, name, f"{numbers['ms']:.0f}", f"{numbers['processor ms']:.0f}"]
        + [f"{numbers['times as fast as eager']:.2f}"]
        for size, variants in data["sizes"].items()
        for name, numbers in variants.items()
    ]
    head = ["size", "runtime", "a picture (ms)", "of processor time (ms)", "times as fast as eager"]
    threads = f"{data['threads']} thread{'s' * (data['threads'] != 1)}"
    return table(head, rows) + f"\n\n{data['processor']}, {threads}; medians of {data['turns']} turns."


if __name__ == "__main__":
    main()
