"""Which pairs of the grid ``torch.compile`` takes on this processor.

``python benchmarks/compile_grid.py`` tries what ``benchmarks/compile_grid.json`` does not hold yet;
``--fresh`` all pairs. Each is a tiny network of three tasks; forward and backward in training mode are
compared with eager. Every encoder with the independent decoder and every decoder with the shared encoder is
compiled by inductor; the other pairs, which are made of the same parts, are traced and differentiated in the
same way and then run as they are (``aot_eager``), which takes a tenth of the time.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import plait
from plait import registry
from plait.testing import tiny_backbone

DATA = Path(__file__).parent / "compile_grid.json"
TASKS: dict[str, dict[str, Any]] = {
    "semseg": {"kind": "semantic", "classes": 5},
    "depth": {"kind": "depth"},
    "normals": {"kind": "normals"},
}
NARROW = {"pad_net": {"width": 16}, "pap_net": {"width": 16}, "psd": {"width": 16}, "jtrl": {"width": 16}}
TREE = {"branched": {"tree": [" ".join(TASKS)] * 3 + ["semseg | depth normals"]}}


def network(encoder: str, decoder: str) -> nn.Module:
    """A tiny network of three tasks."""
    torch.manual_seed(0)
    model = plait.create_model(
        backbone=tiny_backbone,
        encoder=encoder,
        decoder=decoder,
        tasks=TASKS,
        encoder_options=TREE.get(encoder, {}),
        decoder_options=NARROW.get(decoder, {}),
    )
    model.at_step(50, 100)
    return model.double().train()  # in float32 a ReLU next to zero may fall on either side


def gradients(model: nn.Module, run: Any) -> list[Tensor]:
    """Every parameter's gradient of the sum of squares of all predictions."""
    torch.manual_seed(1)
    made = run(torch.randn(2, 3, 64, 64, dtype=torch.float64))
    levels = [logits for level in (made.final, *made.intermediate) for logits in level.values()]
    total = torch.stack([logits.square().mean() for logits in levels]).sum() + sum(made.penalties.values())
    model.zero_grad(set_to_none=True)
    total.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


def tried(encoder: str, decoder: str) -> dict[str, Any]:
    """Whether a pair compiles and gives eager's gradients."""
    torch.compiler.reset()
    counters.clear()
    begun = time.perf_counter()
    expected = gradients(model := network(encoder, decoder), model)
    model = network(encoder, decoder)
    try:
        inductor = encoder == "shared" or decoder == "independent"
        how: dict[str, Any] = {"options": {"fallback_random": True}} if inductor else {"backend": "aot_eager"}
        compiled = torch.compile(model, **how)
        found = gradients(model, compiled)
    except Exception as error:  # noqa: BLE001 (whatever the compiler says is the answer)
        return {"works": False, "why": str(error).strip().splitlines()[0][:200]}
    # A bias before a batch norm has no gradient but noise, which is no measure of anything.
    least = 1e-3 * max(float(gradient.abs().max()) for gradient in expected)
    error = max(
        float((a - b).abs().max()) / max(float(b.abs().max()), least)
        for a, b in zip(found, expected, strict=True)
    )
    breaks = sum(counters["graph_break"].values())
    return {
        "works": error < 1e-6,
        "backend": "inductor" if inductor else "aot_eager",
        "error": float(f"{error:.1e}"),
        "graph_breaks": breaks,
        "seconds": round(time.perf_counter() - begun, 1),
    }


def main() -> None:
    """Tries every pair that is not known yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fresh", action="store_true", help="try every pair again")
    parser.add_argument("--only", metavar="NAME", help="only pairs with this encoder or decoder, again")
    parsed = parser.parse_args()
    found = {} if parsed.fresh or not DATA.is_file() else json.loads(DATA.read_text())["pairs"]
    torch.set_num_threads(1)
    for encoder in registry.ENCODERS:
        for decoder in registry.DECODERS:
            pair = f"{encoder} {decoder}"
            if parsed.only not in (None, encoder, decoder) or (pair in found and not parsed.only):
                continue
            found[pair] = tried(encoder, decoder)
            print(pair, found[pair], flush=True)
            DATA.write_text(json.dumps({"torch": torch.__version__, "pairs": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
