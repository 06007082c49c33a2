"""What a step costs under each way of balancing, beside the plain summed loss and the peers, in one run.

    python benchmarks/balancing_cost.py [--tasks 2 4 8] [--pairs 11] [--only NAME ...]

A step is forward, backward, balancing and the update of SGD: a ResNet of 18 layers and half the usual width
(2.8 million shared parameters, batch norm, stride 16), four images of 128x128, and for each task a light head
and a loss of its own kind. Every cell is a process of its own. Ratios are medians over pairs of steps (plain,
other) that take turns, in the process's own CPU time on one thread, so a machine that does other work hardly
moves them. Memory is the most that the process held over its first four steps, less what it held before
them and less the same of the plain loop; Linux counts it.

TorchJD's default UPGrad needs solvers that it does not install by itself: ``pip install "torchjd[full]"``.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import plait
from plait.balancing import Balancer, Probe, untouched
from plait.training.memory import keep_freed_memory

with contextlib.suppress(ImportError):
    import torchjd.aggregation
    import torchjd.autojac

DATA = Path(__file__).with_suffix(".json")
Step = Callable[[], None]
TASKS = (2, 4, 8)
CLASSES = 13


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Network(nn.Module):
    """An encoder that all tasks share, a light head a task, and the images and labels of one batch."""

    def __init__(self, tasks: int, *, width: int = 32, size: int = 128, batch: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        stem = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        blocks = [
            Block(inputs if place == 0 else outputs, outputs, stride if place == 0 else 1)
            for inputs, outputs, stride in zip(widths, widths[1:], (1, 2, 2, 2), strict=False)
            for place in range(2)
        ]
        self.encoder = nn.Sequential(*stem, *blocks)
        self.width = widths[-1]
        channels = (CLASSES, 1, 3, 1)
        self.heads = nn.ModuleDict(
            {
                f"task{number}": nn.Sequential(
                    nn.Conv2d(widths[-1], 64, 3, 1, 1), nn.ReLU(), nn.Conv2d(64, channels[number % 4], 1)
                )
                for number in range(tasks)
            }
        )
        self.images = torch.randn(batch, 3, size, size)
        maps = (batch, size, size)
        self.labels = [
            [torch.randint(CLASSES, maps), torch.rand(maps), F.normalize(torch.randn(batch, 3, size, size))][
                min(number % 4, 2)
            ]
            if number % 4 < 3
            else (torch.rand(maps) > 0.9).float()
            for number in range(tasks)
        ]

    def features(self) -> dict[str, list[Tensor]]:
        """The encoder's one level, the same tensor for every task."""
        shared = self.encoder(self.images)
        return {task: [shared] for task in self.heads}

    def losses(self, features: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
        """Cross-entropy, absolute error, one minus cosine, or binary cross-entropy, in turn."""
        found = {}
        for number, ((task, head), label) in enumerate(zip(self.heads.items(), self.labels, strict=True)):
            made = F.interpolate(head(features[task][0]), label.shape[-2:], mode="bilinear")
            match number % 4:
                case 0:
                    found[task] = F.cross_entropy(made, label)
                case 1:
                    found[task] = (made[:, 0] - label).abs().mean()
                case 2:
                    found[task] = 1 - F.cosine_similarity(made, label).mean()
                case _:
                    found[task] = F.binary_cross_entropy_with_logits(made[:, 0], label)
        return found


@dataclass(frozen=True)
class Variant:
    """A way of balancing.

    Attributes:
        title: Its row in the table.
        step: From a network and its optimizer to one step.
        solvers: Whether it needs the solvers that TorchJD does not install by itself.
        turn: Steps that are timed together, where not all cost the same.
    """

    title: str
    step: Callable[[Network, torch.optim.Optimizer], Step]
    solvers: bool = False
    turn: int = 1


def plain(network: Network, optimizer: torch.optim.Optimizer) -> Step:
    """The sum of the losses."""

    def step() -> None:
        optimizer.zero_grad()
        losses = network.losses(network.features())
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    return step


def ours(name: str, **options: Any) -> Callable[[Network, torch.optim.Optimizer], Step]:
    """A balancer of plait, in a loop that gives it whatever it needs."""

    def make(network: Network, optimizer: torch.optim.Optimizer) -> Step:
        balancer = created(name, network, **options)
        needs, names = balancer.needs, list(network.heads)
        shared, others = list(network.encoder.parameters()), list(network.heads.parameters())

        def again() -> Tensor:
            with torch.no_grad(), untouched(network):
                return torch.stack(list(network.losses(network.features()).values())).double()

        def step() -> None:
            optimizer.zero_grad()
            if needs.look_ahead:
                batches = [lambda: [network.losses(network.features())]] * 2
                balancer.before_update(Probe(network, batches, names, optimizer))
            for number in range(needs.samples):
                with balancer.cut(network.features()) as leaves:
                    balancer.sample(number, network.losses(leaves), parameters=shared)
            with balancer.cut(network.features()) as leaves:
                balancer.backward(network.losses(leaves), parameters=shared, others=others)
            optimizer.step()
            if needs.closure:
                balancer.after_update(again)

        return step

    return make


def created(name: str, network: Network, **options: Any) -> Balancer:
    """A balancer for the network's tasks."""
    names = list(network.heads)
    if name == "dtp":
        options["kpis"] = dict.fromkeys(names, "score")
    if name == "rotograd":
        options["channels"] = [network.width]
    return plait.balancing.create(name, tasks=names, **options)


def theirs(chunk: int | None, *, gramian: bool = False) -> Callable[[Network, torch.optim.Optimizer], Step]:
    """TorchJD's ``mtl_backward`` and its default UPGrad."""

    def make(network: Network, optimizer: torch.optim.Optimizer) -> Step:
        aggregator = torchjd.aggregation.UPGrad()
        shared = list(network.encoder.parameters())

        def step() -> None:
            optimizer.zero_grad()
            features = network.encoder(network.images)
            losses = list(network.losses(dict.fromkeys(network.heads, (features,))).values())
            torchjd.autojac.mtl_backward(losses, features=features, parallel_chunk_size=chunk)
            torchjd.autojac.jac_to_grad(shared, aggregator, optimize_gramian_computation=gramian)
            optimizer.step()

        return step

    return make


def loop(network: Network, optimizer: torch.optim.Optimizer) -> Step:
    """What one would write first: a backward a task through everything, flattened into rows of a matrix."""
    weighting = torchjd.aggregation.UPGradWeighting()
    shared = list(network.encoder.parameters())

    def step() -> None:
        optimizer.zero_grad()
        losses = network.losses(network.features())
        rows = []
        for loss in losses.values():
            network.encoder.zero_grad()
            loss.backward(retain_graph=True)
            rows.append(torch.cat([p.grad.flatten() for p in shared if p.grad is not None]))
        jacobian = torch.stack(rows)
        combined = weighting(jacobian @ jacobian.T) @ jacobian
        sizes = [parameter.numel() for parameter in shared]
        for parameter, gradient in zip(shared, combined.split(sizes), strict=True):
            parameter.grad = gradient.view_as(parameter)
        optimizer.step()

    return step


VARIANTS: Mapping[str, Variant] = {
    "plain": Variant("plain summed loss", plain),
    "mgda features": Variant("`mgda`, features", ours("mgda", scope="features")),
    "upgrad features": Variant("`upgrad`, features", ours("upgrad", scope="features")),
    "gradnorm": Variant("`gradnorm`, last layer", ours("gradnorm")),
    "famo": Variant("`famo`, one more forward pass", ours("famo")),
    "mgda": Variant("`mgda`, exact over parameters", ours("mgda")),
    "upgrad": Variant("`upgrad`, exact over parameters", ours("upgrad")),
    "upgrad every 4": Variant("`upgrad`, exact, `every=4`", ours("upgrad", every=4), turn=4),
    "torchjd chunk 1": Variant("TorchJD `mtl_backward`, chunk 1", theirs(1), solvers=True),
    "torchjd chunk 1 gramian": Variant(
        "TorchJD `mtl_backward`, chunk 1, Gramian option", theirs(1, gramian=True), solvers=True
    ),
    "torchjd vmap": Variant("TorchJD `mtl_backward`, vmap (its default)", theirs(None), solvers=True),
    "torchjd vmap gramian": Variant(
        "TorchJD `mtl_backward`, vmap, Gramian option", theirs(None, gramian=True), solvers=True
    ),
    "loop": Variant("loop of T backward passes, flattened", loop, solvers=True),
}


def lacking(variant: Variant) -> str:
    """What a variant would need to run here; nothing if it can."""
    if variant.solvers:
        try:
            torchjd.aggregation.UPGrad()
        except (NameError, ImportError):
            return "needs `torchjd[full]`"
    return ""


def prepared(variant: Variant, tasks: int, **size: int) -> Step:
    """One step of a variant, on a network of its own."""
    network = Network(tasks, **size).train()
    return variant.step(network, torch.optim.SGD(network.parameters(), lr=1e-3))


def seconds(step: Step, times: int = 1) -> float:
    """CPU time of some steps."""
    begun = time.process_time()
    for _ in range(times):
        step()
    return time.process_time() - begun


def ratios(step: Step, base: Step, pairs: int, turn: int = 1) -> tuple[list[float], list[float]]:
    """Ratios of a step's time to the plain one's, taking turns, and the plain times."""
    for run in (base, step, base, step):
        run()
    found, plains = [], []
    for number in range(max(3, pairs // turn)):
        order = (base, step) if number % 2 else (step, base)
        took = {run: seconds(run, turn) for run in order}
        found.append(took[step] / took[base])
        plains.append(took[base] / turn)
    return found, plains


def measured(name: str, tasks: int, pairs: int, **size: int) -> dict[str, Any]:
    """Extra bytes, seconds of the plain step and ratios to it, of a variant in a process with nothing else.

    Memory comes first, with the C library as it is by default; then, as in ``plait train``, it keeps what
    a step frees (see :func:`plait.training.memory.keep_freed_memory`), or who frees most pays most.
    """
    torch.set_num_threads(1)
    variant = VARIANTS[name]
    step = prepared(variant, tasks, **size)
    held = resident("VmRSS")
    for _ in range(4):
        step()
    found: dict[str, Any] = {"bytes": resident("VmHWM") - held, "plain": [], "ratios": []}
    if pairs:
        keep_freed_memory()
        base = prepared(VARIANTS["plain"], tasks, **size)
        found["ratios"], found["plain"] = ratios(step, base, pairs, variant.turn)
    return found


def resident(field: str) -> int:
    """Bytes of memory of this process: ``VmRSS`` now, ``VmHWM`` at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def in_a_process(name: str, tasks: int, pairs: int) -> dict[str, Any]:
    """:func:`measured` in a process of its own."""
    command = [sys.executable, __file__, "--cell", name, "--tasks", str(tasks), "--pairs", str(pairs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}, {tasks} tasks:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def summary(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of all variants at one number of tasks: quartiles of ratios, and bytes beyond the plain step's."""
    plain = cells["plain"]["bytes"]
    return {
        "plain_seconds": round(statistics.median(t for cell in cells.values() for t in cell["plain"]), 5),
        "plain_bytes": plain,
        "ratios": {
            name: [round(quartile, 4) for quartile in statistics.quantiles(cell["ratios"], n=4)]
            for name, cell in cells.items()
            if name != "plain"
        },
        "extra_bytes": {name: cell["bytes"] - plain for name, cell in cells.items() if name != "plain"},
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "a processor")


def about() -> dict[str, str]:
    """Where and with what this is measured."""
    versions = {"torch": torch.__version__, "plait": plait.__version__}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        versions["torchjd"] = importlib.metadata.version("torchjd")
    return {"processor": processor(), "threads": "1", **versions}


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Rows of Markdown: ratios, and extra megabytes."""
    counts = list(found["tasks"])
    each = list(found["tasks"].values())
    yield f"| step | {' | '.join(f'T={t}' for t in counts)} | extra peak memory (MB) |"
    yield f"|---|{'---:|' * (len(counts) + 1)}"
    plains = [f"1 ({1e3 * cost['plain_seconds']:.0f} ms)" for cost in each]
    whole = " / ".join(f"{cost['plain_bytes'] / 1e6:.0f}" for cost in each)
    yield f"| {VARIANTS['plain'].title} | {' | '.join(plains)} | {whole} in all |"
    for name, variant in VARIANTS.items():
        if name in found["lacking"]:
            why = found["lacking"][name]
            yield f"| {variant.title} |{f' {why} |' * len(counts)} – |"
        elif name in each[0]["ratios"]:
            ratios = " | ".join(f"{cost['ratios'][name][1]:.2f}" for cost in each)
            extra = " / ".join(f"{cost['extra_bytes'][name] / 1e6:.0f}" for cost in each)
            yield f"| {variant.title} | {ratios} | {extra} |"


def main() -> None:
    """Measures, prints the table, keeps the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, nargs="+", default=list(TASKS))
    parser.add_argument("--pairs", type=int, default=11, help="pairs of steps for each ratio")
    parser.add_argument("--only", nargs="+", choices=[name for name in VARIANTS if name != "plain"])
    parser.add_argument("--out", type=Path, default=DATA, metavar="FILE")
    parser.add_argument("--cell", choices=VARIANTS, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.cell:
        print(json.dumps(measured(parsed.cell, parsed.tasks[0], parsed.pairs)))
        return
    wanted = [name for name in VARIANTS if name != "plain" and (not parsed.only or name in parsed.only)]
    without = {name: why for name in wanted if (why := lacking(VARIANTS[name]))}
    found: dict[str, Any] = {"about": about(), "lacking": without, "tasks": {}}
    for tasks in parsed.tasks:
        cells = {"plain": in_a_process("plain", tasks, 0)}
        cells |= {name: in_a_process(name, tasks, parsed.pairs) for name in wanted if name not in without}
        found["tasks"][str(tasks)] = summary(cells)
        print(f"{tasks} tasks measured", file=sys.stderr, flush=True)
    print("\n".join(table(found)))
    parsed.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
