"""Tasks whose losses differ a thousandfold: our exact rules beside TorchJD's at its defaults.

    python benchmarks/badly_scaled.py [--steps 200] [--seeds 3] [--rules NAME ...] [--double] [--draw]

Three regression tasks share a small trunk that is too narrow for all of them. Their mean squared errors are
multiplied by 1, 30 and 1000, and in another round by 1, 1 and 1. Every rule of either library starts from the
same weights, sees the same batches, and hands its direction to Adam. The learning rate of each rule is the
best of the same four, by the sum of the (unmultiplied) errors on a validation set, with the first seed; the
other seeds train with that one. What is reported is the error on a test set relative to the same network
trained for that task alone, whose learning rate was found in the same way. A step conflicts with a task if
the direction, as handed to Adam, has a cosine below -1e-4 with that task's gradient of the trunk.

Writes ``benchmarks/badly_scaled.json``, draws ``docs/images/badly_scaled.svg`` and prints the table;
``--draw`` only does the last two. Some of TorchJD's rules need solvers: ``pip install "torchjd[full]"``.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import plait
from plait.balancing import Balancer

HERE = Path(__file__).parent
DATA, FIGURE = HERE / "badly_scaled.json", HERE.parent / "docs" / "images" / "badly_scaled.svg"
FACTORS = {"1:1:1": (1.0, 1.0, 1.0), "1:30:1000": (1.0, 30.0, 1000.0)}
TASKS = ("a", "b", "c")
RATES = (3e-3, 1e-2, 3e-2, 1e-1)
BATCH, WIDTH = 64, 6
RULES = ("upgrad", "mgda", "cagrad", "nash_mtl", "fairgrad", "imtl_g", "aligned_mtl")


@dataclass
class Run:
    """One training run.

    Attributes:
        validation: Mean squared error of each task on the validation set.
        test: The same on the test set.
        conflicts: Steps that conflict with each task.
        conflicting: Steps that conflict with some task.
        zero: Steps whose direction is exactly zero.
        failures: What a rule said when it raised; training ends there.
    """

    validation: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)
    conflicts: list[int] = field(default_factory=lambda: [0] * len(TASKS))
    conflicting: int = 0
    zero: int = 0
    failures: list[str] = field(default_factory=list)


class Network(nn.Module):
    """A narrow trunk and a linear head a task."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.trunk = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, WIDTH), nn.Tanh())
        self.heads = nn.ModuleDict({task: nn.Linear(WIDTH, 1) for task in TASKS})


class Problem:
    """Inputs and labels of unit variance, which a random network of its own made for each task."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(1000 + seed)
        inputs = torch.randn(4096, 8, generator=generator)
        labels = {}
        for task in TASKS:
            first, second = (torch.randn(*shape, generator=generator) for shape in ((8, 12), (12, 1)))
            made = torch.tanh(inputs @ first / 2) @ second
            labels[task] = (made - made.mean()) / made.std()
        parts = {"train": slice(2048), "validation": slice(2048, 3072), "test": slice(3072, 4096)}
        self.inputs = {split: inputs[part] for split, part in parts.items()}
        self.labels = {
            split: {task: label[part] for task, label in labels.items()} for split, part in parts.items()
        }
        self.generator = generator

    def errors(self, model: Network, split: str) -> list[float]:
        """The mean squared error of each task."""
        with torch.no_grad():
            features = model.trunk(self.inputs[split])
            labels = self.labels[split]
            return [float((model.heads[t](features) - labels[t]).square().mean()) for t in TASKS]


Step = Callable[[Network, Tensor, list[Tensor]], object]
"""Writes ``.grad`` from the features and the losses."""


def ours(name: str) -> Step:
    """A step with a rule of plait."""
    balancer: Balancer = plait.balancing.create(name, tasks=TASKS)

    def step(model: Network, features: Tensor, losses: list[Tensor]) -> None:
        balancer.backward(losses, parameters=model.trunk.parameters())

    return step


def theirs(name: str) -> Step:
    """A step with a rule of TorchJD, as its guide to several tasks has it."""
    import torchjd.aggregation as rules
    from torchjd.autojac import jac_to_grad, mtl_backward

    aggregator = {
        "upgrad": rules.UPGrad,
        "mgda": rules.MGDA,
        "cagrad": lambda: rules.CAGrad(c=0.5),  # has no default; ours
        "nash_mtl": lambda: rules.NashMTL(n_tasks=len(TASKS)),
        "fairgrad": lambda: rules.FairGrad(alpha=1.0),  # has no default; ours
        "imtl_g": rules.IMTLG,
        "aligned_mtl": rules.AlignedMTL,
    }[name]()

    def step(model: Network, features: Tensor, losses: list[Tensor]) -> None:
        mtl_backward(losses, features=features)
        jac_to_grad(model.trunk.parameters(), aggregator)

    return step


def alone(place: int) -> Step:
    """A step for one task."""

    def step(model: Network, features: Tensor, losses: list[Tensor]) -> None:
        losses[place].backward()

    return step


def trained(step: Step, factors: tuple[float, ...], rate: float, seed: int, steps: int) -> Run:
    """Trains once and counts."""
    problem, model, run = Problem(seed), Network(seed), Run()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    trunk = list(model.trunk.parameters())
    for _ in range(steps):
        picked = torch.randint(2048, (BATCH,), generator=problem.generator)
        features = model.trunk(problem.inputs["train"][picked])
        losses = [
            factor * (model.heads[task](features) - problem.labels["train"][task][picked]).square().mean()
            for task, factor in zip(TASKS, factors, strict=True)
        ]
        rows = [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, trunk, retain_graph=True)]).double()
            for loss in losses
        ]
        optimizer.zero_grad()
        try:
            step(model, features, losses)
        except (ArithmeticError, RuntimeError, ValueError) as error:
            run.failures.append(f"{type(error).__name__}: {error}")
            break
        count(run, torch.stack(rows), torch.cat([p.grad.flatten() for p in trunk if p.grad is not None]))
        optimizer.step()
    run.validation, run.test = problem.errors(model, "validation"), problem.errors(model, "test")
    return run


def count(run: Run, jacobian: Tensor, direction: Tensor) -> None:
    """Counts what one direction did to the tasks."""
    length = direction.double().norm()
    if length == 0:
        run.zero += 1
        return
    cosines = jacobian @ direction.double() / (jacobian.norm(dim=1) * length)
    harmed = (cosines < -1e-4).tolist()
    run.conflicts = [n + int(bad) for n, bad in zip(run.conflicts, harmed, strict=True)]
    run.conflicting += int(any(harmed))


def best_of(
    make: Callable[[], Step], factors: tuple[float, ...], steps: int, seeds: int, over: list[int]
) -> tuple[float, list[Run]]:
    """The learning rate that is best with the first seed, and a run of each seed with it.

    Args:
        make: The rule, afresh.
        factors: Of the losses.
        steps: Of each run.
        seeds: How many.
        over: The tasks whose validation errors count.
    """
    first = {rate: trained(make(), factors, rate, 0, steps) for rate in RATES}

    def error(rate: float) -> float:
        total = sum(first[rate].validation[place] for place in over)
        return total if math.isfinite(total) else math.inf

    best = min(RATES, key=error)
    return best, [first[best], *(trained(make(), factors, best, seed, steps) for seed in range(1, seeds))]


def measure(steps: int, seeds: int, rules: Sequence[str]) -> dict[str, Any]:
    """Every one of the rules with every set of factors."""
    methods: dict[str, Callable[[], Step]] = {"equal plait": partial(ours, "equal")}
    for rule in rules:
        methods[f"{rule} plait"] = partial(ours, rule)
        methods[f"{rule} TorchJD"] = partial(theirs, rule)
    singles = [[0.0] * len(TASKS) for _ in range(seeds)]
    for place in range(len(TASKS)):
        _, runs = best_of(partial(alone, place), FACTORS["1:1:1"], steps, seeds, [place])
        for seed, run in enumerate(runs):
            singles[seed][place] = run.test[place]
    found: dict[str, Any] = {}
    for method, make in methods.items():
        for scale, factors in FACTORS.items():
            begun = time.process_time()
            rate, runs = best_of(make, factors, steps, seeds, list(range(len(TASKS))))
            found.setdefault(method, {})[scale] = {"rate": rate, "runs": [asdict(run) for run in runs]}
            print(f"{method} {scale}: {time.process_time() - begun:.0f} s", flush=True)
    return {"steps": steps, "seeds": seeds, "single": singles, "found": found}


@dataclass(frozen=True)
class Summary:
    """One rule with one set of factors, over the seeds.

    Attributes:
        tasks: Test error of each task over that of single-task training: the geometric mean over seeds.
        seeds: The geometric mean over tasks of each seed.
        overall: The geometric mean over tasks and seeds.
        conflicting: Share of steps that conflict with some task.
        zero: Share of steps with a direction of zero.
        failed: Seeds whose training ended in an exception.
    """

    tasks: list[float]
    seeds: list[float]
    overall: float
    conflicting: float
    zero: float
    failed: int


def summary(measured: dict[str, Any], method: str, scale: str) -> Summary:
    """The numbers of one row."""
    runs = measured["found"][method][scale]["runs"]
    ratios = [
        [error / single for error, single in zip(run["test"], singles, strict=True)]
        for run, singles in zip(runs, measured["single"], strict=True)
    ]
    steps = len(runs) * measured["steps"]
    return Summary(
        tasks=[statistics.geometric_mean(column) for column in zip(*ratios, strict=True)],
        seeds=[statistics.geometric_mean(row) for row in ratios],
        overall=statistics.geometric_mean(chain(*ratios)),
        conflicting=sum(run["conflicting"] for run in runs) / steps,
        zero=sum(run["zero"] for run in runs) / steps,
        failed=sum(bool(run["failures"]) for run in runs),
    )


def table(measured: dict[str, Any]) -> str:
    """Markdown: a row a rule and library."""
    lines = [
        "| rule | library | 1:1:1 | steps in conflict | 1:30:1000 | from to | a (×1) | b (×30) | c (×1000) "
        "| steps in conflict | zero steps |",
        "|---|---|" + "---:|" * 9,
    ]
    for method in measured["found"]:
        rule, library = method.split()
        even, badly = (summary(measured, method, scale) for scale in FACTORS)
        cells = [
            f"`{rule}`",
            library,
            f"{even.overall:.1f}",
            f"{even.conflicting:.1%}",
            f"{badly.overall:.1f}",
        ]
        cells += [
            f"{min(badly.seeds):.1f} to {max(badly.seeds):.1f}",
            *(f"{ratio:.1f}" for ratio in badly.tasks),
        ]
        cells += [f"{badly.conflicting:.1%}", f"{badly.zero:.1%}"]
        if even.failed or badly.failed:
            cells[1] += f" (raised in {even.failed + badly.failed} runs)"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(measured: dict[str, Any]) -> None:
    """Errors on the left, steps in conflict on the right; a line a rule and library."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    colours = {"plait": "#0072b2", "TorchJD": "#d55e00"}
    style = {"svg.hashsalt": "plait", "svg.fonttype": "path", "font.size": 9}
    with mpl.rc_context(style):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5.4), sharey=True, layout="constrained")
        ticks = {}
        for place, rule in enumerate(("equal", *RULES)):
            ticks[place] = rule
            for library, colour in colours.items():
                method = f"{rule} {library}"
                if method not in measured["found"]:
                    continue
                height = place + {"plait": -0.17, "TorchJD": 0.17}[library] * (rule != "equal")
                even, badly = (summary(measured, method, scale) for scale in FACTORS)
                left.plot([even.overall, badly.overall], [height] * 2, color=colour, lw=1.5, alpha=0.5)
                left.plot(even.overall, height, "o", mfc="white", mec=colour, ms=6)
                left.plot(badly.overall, height, "o", color=colour, ms=6)
                right.barh(height, 100 * badly.conflicting, 0.3, color=colour)
                right.text(
                    100 * badly.conflicting + 1, height, f"{badly.conflicting:.0%}", color=colour, va="center"
                )
        left.set(xscale="log", xlabel="test error / that of single-task training (log scale)")
        left.set_title("losses times 1, 30, 1000 (full); times 1, 1, 1 (hollow)", loc="left")
        left.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 3, 5, 7)))
        left.xaxis.set_major_formatter(mpl.ticker.StrMethodFormatter("{x:g}"))
        left.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        left.set_yticks(list(ticks), list(ticks.values()))
        left.invert_yaxis()
        left.grid(axis="x", alpha=0.3)
        right.set(xlabel="steps in conflict with a task (%)", xlim=(0, 100))
        right.set_title("losses times 1, 30, 1000", loc="left")
        handles = [mpl.patches.Patch(color=colour, label=library) for library, colour in colours.items()]
        right.legend(handles=handles, loc="lower right", frameon=False)
        figure.savefig(FIGURE, metadata={"Date": None})


def main() -> None:
    """Measures, draws and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rules", nargs="+", choices=RULES, default=RULES, help="only these, and only print")
    parser.add_argument("--double", action="store_true", help="train in float64, and only print")
    parser.add_argument("--draw", action="store_true", help="only draw and print what was measured")
    given = parser.parse_args()
    if given.draw:
        measured = json.loads(DATA.read_text())
    else:
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float64 if given.double else torch.float32)
        about = {name: importlib.metadata.version(name) for name in ("torch", "torchjd", "plait")}
        measured = about | measure(given.steps, given.seeds, given.rules)
    print(table(measured))
    if not given.double and set(given.rules) == set(RULES):
        DATA.write_text(json.dumps(measured, indent=1) + "\n")
        draw(measured)


if __name__ == "__main__":
    main()
