"""Writes the tables of docs/architectures.md: parameters and operations beside the survey's, and the grid.

Run it after a change to an encoder or a decoder: ``python docs/architectures.py``. Everything is built on
torch's meta device, so nothing is trained and little memory is needed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import plait
from plait import registry
from plait.errors import ConfigurationError
from plait.models import MultiTaskNetwork

PAGE = Path(__file__).parent / "architectures.md"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

NYUD = {"semseg": {"kind": "semantic", "classes": 40}, "depth": {"kind": "depth"}}
AUXILIARY = {"normals": {"kind": "normals", "auxiliary": True}, "edge": {"kind": "edges", "auxiliary": True}}
PASCAL = {
    "semseg": {"kind": "semantic", "classes": 21},
    "human_parts": {"kind": "semantic", "classes": 7},
    "sal": {"kind": "saliency"},
    "normals": {"kind": "normals"},
    "edge": {"kind": "edges"},
}
SIZES = {"NYUD": (480, 640), "PASCAL": (512, 512)}


@dataclass(frozen=True)
class Row:
    """A network of the survey: what we build for it, and what others counted.

    Attributes:
        title: What it is called in the survey.
        data: ``NYUD`` or ``PASCAL``, which decides tasks and image size.
        backbone: timm's name.
        encoder: Ours.
        decoder: Ours.
        reference: Millions of parameters and 10^9 multiply-accumulates of the published implementation.
        survey: Millions of parameters and 10^9 "FLOPs" that the survey prints; NaN where unknown.
        auxiliary: Whether edges and normals are predicted on the way.
    """

    title: str
    data: str
    backbone: str
    encoder: str
    decoder: str
    reference: tuple[float, float]
    survey: tuple[float, float] = (math.nan, math.nan)
    auxiliary: bool = False

    def network(self) -> MultiTaskNetwork:
        """The network, without memory for its weights."""
        tasks = (NYUD if self.data == "NYUD" else PASCAL) | (AUXILIARY if self.auxiliary else {})
        with torch.device("meta"):
            return plait.create_model(
                backbone=self.backbone, encoder=self.encoder, decoder=self.decoder, tasks=tasks
            ).eval()


R50, R18, HR18 = "resnet50", "resnet18", "hrnet_w18_small_v2"
EN = "with edges and normals"
ROWS = (
    Row("single-task", "NYUD", R50, "separate", "independent", (79.3, 384.1), (80, 192)),
    Row("MTL", "NYUD", R50, "shared", "independent", (55.8, 267.0), (56, 133)),
    Row("MTAN", "NYUD", R50, "mtan", "independent", (72.05, 395.1), (72, 197)),
    Row("cross-stitch", "NYUD", R50, "cross_stitch", "independent", (79.3, 384.1), (80, 192)),
    Row("NDDR-CNN", "NYUD", R50, "nddr_cnn", "independent", (101.6, 495.3), (102, 207)),
    Row("single-task", "NYUD", HR18, "separate", "independent", (7.9, 22.9), (8, 11)),
    Row("MTL", "NYUD", HR18, "shared", "independent", (4.0, 13.0), (4, 6)),
    Row("PAD-Net", "NYUD", HR18, "shared", "pad_net", (7.0, 70.6), (12, 82)),
    Row(f"PAD-Net, {EN}", "NYUD", HR18, "shared", "pad_net", (12.2, 169.3), auxiliary=True),
    Row("MTI-Net", "NYUD", HR18, "shared", "mti_net", (8.6, 17.4), (27, 16)),
    Row(f"MTI-Net, {EN}", "NYUD", HR18, "shared", "mti_net", (14.8, 23.1), auxiliary=True),
    Row("single-task", "PASCAL", R18, "separate", "independent", (79.5, 335), (80, 167)),
    Row("MTL", "PASCAL", R18, "shared", "independent", (34.8, 142.3), (35, 71)),
    Row("MTAN", "PASCAL", R18, "mtan", "independent", (36.6, 159.5), (37, 80)),
    Row("cross-stitch", "PASCAL", R18, "cross_stitch", "independent", (79.5, 335), (79, 167)),
    Row("NDDR-CNN", "PASCAL", R18, "nddr_cnn", "independent", (88.3, 373.7), (88, 187)),
    Row("single-task", "PASCAL", HR18, "separate", "independent", (19.7, 48.6)),
    Row("MTL", "PASCAL", HR18, "shared", "independent", (4.2, 14.7)),
    Row("PAD-Net", "PASCAL", HR18, "shared", "pad_net", (29.3, 425.3), (math.nan, 212)),
    Row("MTI-Net", "PASCAL", HR18, "shared", "mti_net", (24.5, 30.6), (math.nan, 15)),
)

FAMILIES = {
    "ResNet": "resnet18",
    "EfficientNet": "tf_efficientnet_lite0",
    "ConvNeXt": "convnext_atto",
    "Swin": "swin_tiny_patch4_window7_224",
    "HRNet": "hrnet_w18_small",
    "ViT": "vit_tiny_patch16_224",
}


def counted(row: Row) -> tuple[float, float]:
    """Millions of parameters, and 10^9 operations as the counter behind the reference numbers counts them.

    That is a multiply-accumulate as one, two for each normalised value and four for each upsampled one.
    """
    network, counter = row.network(), FlopCounterMode(display=False, custom_mapping=AS_REFERENCE)
    with torch.device("meta"), torch.no_grad(), counter:
        network(torch.empty(1, 3, *SIZES[row.data]))
    return sum(p.numel() for p in network.parameters()) / 1e6, counter.get_total_flops() / 2e9


def _normalised(shape: torch.Size, *_: Any, **__: Any) -> int:
    return 4 * math.prod(shape)  # the counter counts two for a multiply-accumulate


def _upsampled(*_: Any, out_shape: torch.Size, **__: Any) -> int:
    return 8 * math.prod(out_shape)


AS_REFERENCE = {
    torch.ops.aten.native_batch_norm: _normalised,
    torch.ops.aten._native_batch_norm_legit_no_training: _normalised,
    torch.ops.aten.upsample_bilinear2d: _upsampled,
}


def cost_table() -> Iterator[str]:
    """Rows of Markdown: ours, the instantiated published networks, and what the survey prints."""
    heads = ("data", "backbone", "network", "parameters (M): plait", "published code", "survey")
    heads += ("MACs (G): plait", "published code", "survey's FLOPs (G)")
    yield f"| {' | '.join(heads)} |"
    yield f"|---|---|---{6 * '|---:'}|"
    names = {R50: "ResNet-50", R18: "ResNet-18", HR18: "HRNet-W18 small v2"}
    for row in ROWS:
        parameters, operations = counted(row)
        survey = ["–" if math.isnan(number) else f"{number:g}" for number in row.survey]
        cells = [row.data, names[row.backbone], row.title]
        cells += [f"{parameters:.2f}", f"{row.reference[0]:g}", survey[0]]
        cells += [f"{operations:.1f}", f"{row.reference[1]:g}", survey[1]]
        yield f"| {' | '.join(cells)} |"


def options_of(axis: str, name: str, tasks: list[str]) -> dict[str, Any]:
    """What a part needs before it can be built at all."""
    everybody, apart = " ".join(tasks), " | ".join(tasks)
    return (
        {"tree": [everybody, everybody, everybody, apart]} if (axis, name) == ("encoder", "branched") else {}
    )


def refusal(backbone: str, encoder: str, decoder: str) -> str:
    """Why a network cannot be built; nothing if it can."""
    tasks = {"semseg": NYUD["semseg"], "depth": {"kind": "depth"}, "normals": {"kind": "normals"}}
    try:
        with torch.device("meta"):
            plait.create_model(
                backbone=backbone,
                encoder=encoder,
                decoder=decoder,
                tasks=tasks,
                encoder_options=options_of("encoder", encoder, list(tasks)),
                decoder_options=options_of("decoder", decoder, list(tasks)),
            )
    except ConfigurationError as error:
        return str(error)
    return ""


def grid_table() -> Iterator[str]:
    """Rows of Markdown: every encoder with every decoder on every family; each pair is built."""
    yield f"| encoder | {' | '.join(FAMILIES)} |"
    yield f"|---|{'---|' * len(FAMILIES)}"
    reasons: dict[str, int] = {}
    for encoder in registry.ENCODERS:
        cells = []
        for backbone in FAMILIES.values():
            refused: dict[int, list[str]] = {}
            for decoder in registry.DECODERS:
                why = refusal(backbone, encoder, decoder).replace(f", decoder {decoder!r}", "")
                why = why.replace(repr(encoder), "ENCODER").replace(repr(backbone), "BACKBONE")
                if why:
                    refused.setdefault(reasons.setdefault(why, len(reasons) + 1), []).append(decoder)
            total, lost = len(registry.DECODERS), sum(map(len, refused.values()))
            numbers = ", ".join(
                f"{number}" if len(names) == total else f"{number}: {', '.join(names)}"
                for number, names in refused.items()
            )
            cells.append(f"all {total}" if not lost else f"{total - lost or 'none'} ({numbers})")
        yield f"| `{encoder}` | {' | '.join(cells)} |"
    yield ""
    decoders = ", ".join(f"`{decoder}`" for decoder in registry.DECODERS)
    yield f"The decoders are {decoders}. What the refusals say:"
    yield ""
    for why, number in reasons.items():
        yield f"{number}. {why}"


def growth_table() -> Iterator[str]:
    """Rows of Markdown from what benchmarks/growth.py measured."""
    kept = json.loads((BENCHMARKS / "growth.json").read_text())
    height, width = kept["size"]
    yield (
        f"`python benchmarks/growth.py` on one thread of an {kept['processor']}, torch {kept['torch']}: "
        f"`{kept['backbone']}`, {kept['batch']} images of {height}x{width}, float32; "
        f"encoders with independent FPN heads, decoders on the shared encoder. At 2 / 4 / 8 / 16 tasks; "
        f"a dash where a step would need more than 14 GB."
    )
    yield ""
    units = {"parameters": 1e6, "macs": 1e9, "step_seconds": 1.0, "step_memory": 1e9}
    yield "| axis | name | parameters (M) | MACs an image (G) | training step (s) | peak memory of it (GB) |"
    yield "|---|---|---|---|---|---|"
    for key, costs in kept["costs"].items():
        axis, _, name = key.partition(" ")
        cells = [
            " / ".join(f"{costs[t][of] / unit:.3g}" if t in costs else "–" for t in ("2", "4", "8", "16"))
            for of, unit in units.items()
        ]
        yield f"| {axis} | `{name}` | {' | '.join(cells)} |"


def compile_table() -> Iterator[str]:
    """Rows of Markdown from what benchmarks/compile_grid.py tried."""
    kept = json.loads((BENCHMARKS / "compile_grid.json").read_text())
    yield (
        f"`python benchmarks/compile_grid.py`, torch {kept['torch']}, on a processor, a tiny network of "
        f"three tasks in training mode: gradients are compared with eager ones. The first row and the "
        f"first column were compiled by inductor; the other pairs, made of the same parts, were traced and "
        f"differentiated alike (`aot_eager`). A number is that of graph breaks, where a part was left to "
        f"Python."
    )
    yield ""
    yield f"| encoder | {' | '.join(f'`{decoder}`' for decoder in registry.DECODERS)} |"
    yield f"|---|{'---|' * len(registry.DECODERS)}"
    reasons: dict[str, int] = {}
    for encoder in registry.ENCODERS:
        cells = []
        for decoder in registry.DECODERS:
            found = kept["pairs"].get(f"{encoder} {decoder}")
            if found is None:
                cells.append("not tried")
            elif found["works"]:
                cells.append(f"yes, {found['graph_breaks']}" if found["graph_breaks"] else "yes")
            else:
                why = found.get("why", f"gradients differ by {found.get('error')}")
                cells.append(f"no ({reasons.setdefault(why, len(reasons) + 1)})")
        yield f"| `{encoder}` | {' | '.join(cells)} |"
    for why, number in reasons.items():
        yield f"\n{number}. {why}"


TABLES = {"cost": cost_table, "grid": grid_table, "growth": growth_table, "compile": compile_table}


def written(page: str, which: tuple[str, ...] = tuple(TABLES)) -> str:
    """The page with its generated parts made anew; they stand between two comments each."""
    for name in which:
        begin, end = f"<!-- {name}: generated -->\n", f"<!-- {name}: end -->"
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        page = f"{before}{begin}\n" + "\n".join(TABLES[name]()) + f"\n\n{end}{after}"
    return page


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=tuple(TABLES), help="make only this table")
    chosen = parser.parse_args().only
    PAGE.write_text(written(PAGE.read_text(), (chosen,) if chosen else tuple(TABLES)))
