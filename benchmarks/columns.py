"""What soft sharing costs beside separate networks, and whether columns pay as one batched call.

    python benchmarks/columns.py [--backbone resnet18] [--tasks 2 3] [--size 128 160] [--device cpu]

First: a training step (forward and backward, float32, one thread on a processor) of each encoder of one
column a task, beside the same number of separate networks in the same run, taking turns; and its units alone,
run on tensors of the columns' shapes. The ratio is the whole step to separate networks plus units.

Second: all columns one after the other, beside one call of ``torch.func.vmap`` over their stacked weights
(which becomes grouped convolutions), with frozen batch norm.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

import plait
from plait.models import create_backbone
from plait.models.encoders.columns import Columns
from plait.models.encoders.sluice import Sluice
from plait.study.cost import synchronise, taking_turns, using_threads

ENCODERS = ("cross_stitch", "nddr_cnn", "sluice")


def network(encoder: str, count: int, options: argparse.Namespace) -> nn.Module:
    """A network of so many depth maps."""
    torch.manual_seed(0)
    return plait.create_model(
        backbone=options.backbone,
        encoder=encoder,
        tasks={f"task{number}": {"kind": "depth"} for number in range(count)},
        decoder_options={"head": "fpn"},
    ).to(options.device)


def step(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """Forward and backward."""

    def run() -> None:
        made = model(images)
        total = torch.stack([logits.square().mean() for logits in made.final.values()]).sum()
        (total + sum(made.penalties.values())).backward()

    return run


def units_alone(encoder: Columns, images: Tensor) -> Callable[[], None]:
    """Forward and backward of what an encoder adds to its columns, on features of their shapes."""
    column = encoder.columns()[encoder.tasks[0]]
    shapes = []
    with torch.no_grad():
        features = column.stem(column.pad(images))
        shapes.append(features.shape)
        for stage in column.stages:
            features = stage(features)
            shapes.append(features.shape)
    maps = [
        {task: torch.randn(shape, device=images.device).requires_grad_() for task in encoder.tasks}
        for shape in shapes
    ]

    def run() -> None:
        outputs = []
        for part, features in enumerate(maps):
            made = encoder.exchange(part, features, encoder.tasks)
            outputs += [value for value in made.values() if value.grad_fn is not None]
        if isinstance(encoder, Sluice):
            levels = {task: [features[task] for features in maps[1:]] for task in encoder.tasks}
            outputs += [encoder.skips[task](own) for task, own in levels.items()]
        outputs += encoder.penalties().values()
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])

    return run


def soft_sharing(options: argparse.Namespace) -> None:
    """Prints a line an encoder and number of tasks."""
    images = torch.randn(options.batch, 3, *options.size, device=options.device)
    print("| encoder | tasks | separate (ms) | units alone (ms) | whole step (ms) | ratio |")
    print("|---|---:|---:|---:|---:|---:|")
    for count in options.tasks:
        models = {name: network(name, count, options) for name in ("separate", *ENCODERS)}
        runs = {name: step(model, images) for name, model in models.items()}
        for name in ENCODERS:
            encoder: Any = models[name].encoder
            runs[f"{name} units"] = units_alone(encoder, images)
        for run in runs.values():
            run()
        seconds = taking_turns(runs, options.repeats, torch.device(options.device))
        for name in ENCODERS:
            base, units, whole = seconds["separate"], seconds[f"{name} units"], seconds[name]
            cells = [f"{1e3 * value:.0f}" for value in (base, units, whole)]
            print(f"| `{name}` | {count} | {' | '.join(cells)} | {whole / (base + units):.3f} |", flush=True)


def batched(options: argparse.Namespace) -> None:
    """Prints columns one by one beside columns in one call."""
    images = torch.randn(options.batch, 3, *options.size, device=options.device)
    print("\n| tasks | one by one (ms) | one batched call (ms) | times as fast |\n|---:|---:|---:|---:|")
    for count in options.tasks:
        columns = [create_backbone(options.backbone).eval().to(options.device) for _ in range(count)]
        parameters, buffers = stack_module_state(columns)  # type: ignore[arg-type]
        skeleton = columns[0]

        def one_by_one(columns: list[Any] = columns) -> None:
            levels = [level for column in columns for level in column(images)]
            torch.stack([level.square().mean() for level in levels]).sum().backward()

        def at_once(skeleton: Any = skeleton, parameters: Any = parameters, buffers: Any = buffers) -> None:
            def forward(own: Any, statistics: Any) -> Any:
                return functional_call(skeleton, (own, statistics), (images,))

            levels = torch.func.vmap(forward, randomness="different")(parameters, buffers)
            torch.stack([level.square().mean() for level in levels]).sum().backward()

        runs = {"one by one": one_by_one, "at once": at_once}
        for run in runs.values():
            run()
        seconds = taking_turns(runs, options.repeats, torch.device(options.device))
        first, second = seconds["one by one"], seconds["at once"]
        print(f"| {count} | {1e3 * first:.0f} | {1e3 * second:.0f} | {first / second:.2f} |", flush=True)


def main() -> None:
    """Reads the options and measures both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--size", type=int, nargs=2, default=[128, 160])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with using_threads(1):
        soft_sharing(options)
        batched(options)
    synchronise(torch.device(options.device))


if __name__ == "__main__":
    main()
