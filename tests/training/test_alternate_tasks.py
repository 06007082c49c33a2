"""An update for each task in turn: the single-task updates that one would write by hand.

Run as ``python -m tests.training.test_alternate_tasks RANK FOLDER`` it is one of two processes.
"""

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.balancing.tiny import TASKS, part, tiny_batch, tiny_network, tiny_tasks
from torch import Tensor, nn

import plait
from plait import balancing
from plait.config import Recipe
from plait.data.sample import Batch
from plait.errors import ConfigurationError
from plait.models.network import MultiTaskNetwork, create_model
from plait.models.parameters import FrozenBatchNorm2d
from plait.training.optimizers import make_optimizer
from plait.training.precision import LossScaler
from plait.training.step import NonFiniteWatch, alternating_step, check_pair, training_step

ROOT = Path(__file__).parents[2]
Optimizer = Callable[[MultiTaskNetwork], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01),
    "fused adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, fused=True),
}
WEIGHTS = {"semseg": 1.0, "depth": 0.3, "normals": 2.0}


def astmt(names: Sequence[str] = TASKS, **decoder: Any) -> MultiTaskNetwork:
    torch.manual_seed(0)
    return create_model(
        backbone="test_resnet",
        tasks=tiny_tasks(names),
        encoder="astmt",
        decoder="astmt",
        decoder_options={"width": 16, **decoder},
    )


def astmt_batch(absent: dict[str, Sequence[int]] | None = None) -> Batch:
    """Two images of 32 x 48 pixels, from small ones with labels."""
    batch = tiny_batch(2, absent=absent, dtype=torch.float32)

    def enlarge(tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(8, -2).repeat_interleave(8, -1)

    targets = {name: enlarge(target) for name, target in batch.targets.items()}
    return Batch(enlarge(batch.images), targets, batch.present, batch.ids, batch.geometry)


def by_hand(model: MultiTaskNetwork, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    """One update a task, in plain PyTorch."""
    for task in model.tasks:
        if task.name not in batch.targets:
            continue
        optimizer.zero_grad(set_to_none=True)
        prediction = model(batch.images, tasks=[task.name]).final[task.name]
        (WEIGHTS[task.name] * task.loss(prediction, batch.targets[task.name])).backward()
        optimizer.step()


def fixed() -> balancing.Balancer:
    return balancing.create("fixed", tasks=tiny_tasks(), weights=WEIGHTS)


@pytest.mark.parametrize("absent", [{}, {"depth": [0, 1]}], ids=["all", "no depth"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("network", ["astmt", "interacting"])
def test_it_is_the_single_task_updates_to_the_bit(
    network: str, optimizer: str, absent: dict[str, list[int]]
) -> None:
    ours = astmt() if network == "astmt" else tiny_network(interacting=True)
    theirs = copy.deepcopy(ours)
    batch = astmt_batch(absent) if network == "astmt" else tiny_batch(2, absent=absent)
    our_optimizer, their_optimizer = OPTIMIZERS[optimizer](ours), OPTIMIZERS[optimizer](theirs)
    for _ in range(2):
        report = alternating_step(ours, [batch], fixed(), our_optimizer)
        by_hand(theirs, their_optimizer, batch)
    expected = theirs.state_dict()
    assert [name for name, value in ours.state_dict().items() if not torch.equal(value, expected[name])] == []
    assert report.present == (True, not absent, True)
    assert report.weights.tolist() == [1.0, 0.0 if absent else 0.3, 2.0]
    assert bool(report.updated)
    assert bool(report.finite.all())
    assert (float(report.losses["depth"]) == 0) == bool(absent)


@pytest.mark.parametrize("network", ["astmt", "interacting"])
def test_fused_sgd_makes_the_same_updates(network: str) -> None:
    """Though a task's own parameters get their first gradient after those that tasks share."""
    models = [astmt() if network == "astmt" else tiny_network(interacting=True) for _ in range(2)]
    batch = astmt_batch() if network == "astmt" else tiny_batch(2)
    for model, fused in zip(models, (False, True), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=fused)
        for _ in range(2):
            alternating_step(model, [batch], fixed(), optimizer)
    for ours, theirs in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_task_that_is_not_there_leaves_its_parameters_alone() -> None:
    """Also with weight decay and with momentum from the step before, in which it was there."""
    model = astmt()
    optimizer = OPTIMIZERS["sgd"](model)
    alternating_step(model, [astmt_batch()], fixed(), optimizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    alternating_step(model, [astmt_batch({"depth": [0, 1]})], fixed(), optimizer)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == ("depth" in name), name


def test_without_any_label_nothing_changes() -> None:
    model, batch = tiny_network(), tiny_batch(absent=dict.fromkeys(TASKS, range(4)))
    before = copy.deepcopy(model.state_dict())
    report = alternating_step(model, [batch], fixed(), OPTIMIZERS["adamw"](model))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert report.present == (False, False, False)
    assert bool(report.updated)
    assert bool(report.finite.all())


def test_one_task_alone_is_the_ordinary_step() -> None:
    batch, ours, theirs = tiny_batch(names=("depth",)), tiny_network(("depth",)), tiny_network(("depth",))
    balancer = balancing.create("equal", tasks=("depth",))
    alternating = alternating_step(ours, [batch], balancer, OPTIMIZERS["sgd"](ours), clip_norm=0.1)
    ordinary = training_step(theirs, [batch], balancer, OPTIMIZERS["sgd"](theirs), clip_norm=0.1)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(alternating.grad_norm, ordinary.grad_norm)


def after(batches: Sequence[Batch], **options: Any) -> dict[str, Tensor]:
    model = tiny_network(interacting=True, penalty=True)
    alternating_step(model, batches, fixed(), OPTIMIZERS["sgd"](model), **options)
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.parametrize("absent", [{}, {"depth": [0, 1]}], ids=["all", "depth in one part"])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.01}, {"scaler": LossScaler(2.0**10)}])
def test_micro_batches_and_a_loss_scale_make_the_step_of_the_whole_batch(
    absent: dict[str, list[int]], options: dict[str, Any]
) -> None:
    batch = tiny_batch(absent=absent)
    whole = after([batch], **{k: v for k, v in options.items() if k != "scaler"})
    parts = after([part(batch, [0, 1]), part(batch, [2, 3])], **options)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_loss_that_is_not_finite_costs_its_own_update_only(policy: Any) -> None:
    model, expected = tiny_network(), tiny_network()
    for network in (model, expected):
        nn.init.constant_(network.decoder.heads["depth"].bias, torch.nan)
    report = alternating_step(model, [tiny_batch()], fixed(), OPTIMIZERS["sgd"](model))
    without = tiny_batch(absent={"depth": range(4)})
    alternating_step(expected, [without], fixed(), OPTIMIZERS["sgd"](expected))
    assert not bool(report.updated)
    assert report.finite.tolist() == [True, False, True]
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    watch = NonFiniteWatch(TASKS, policy=policy, every=1)
    if policy == "stop":
        with pytest.raises(plait.errors.NonFiniteLossError, match="loss or gradient of depth was not finite"):
            watch.observe(3, report)
    else:
        watch.observe(3, report)
        assert watch.skipped == 1


def test_a_gradient_that_is_not_finite_names_its_task() -> None:
    """Its loss is finite; in float16 that is an overflow, and nobody's fault."""
    model = tiny_network()
    model.decoder.heads["depth"].register_full_backward_hook(
        lambda module, before, behind: (before[0] * torch.inf,)
    )
    report = alternating_step(model, [tiny_batch()], fixed(), OPTIMIZERS["sgd"](model))
    assert report.finite.tolist() == [True, False, True]
    scaler = LossScaler(2.0)
    report = alternating_step(model, [tiny_batch()], fixed(), OPTIMIZERS["sgd"](model), scaler=scaler)
    assert report.finite.tolist() == [True, True, True]
    assert not bool(report.updated)
    assert float(scaler.scale) == 1


def test_rules_that_weigh_tasks_against_each_other_are_refused() -> None:
    model = tiny_network()
    check_pair(model, fixed(), alternate_tasks=True)
    mgda = balancing.create("mgda", tasks=TASKS, scope="parameters")
    check_pair(model, mgda)
    with pytest.raises(ConfigurationError, match=r"MGDA weighs .* use balancer 'equal' or 'fixed'"):
        check_pair(model, mgda, alternate_tasks=True)


def test_what_belongs_to_a_task_learns_faster() -> None:
    model = astmt(adversarial_weight=0.01)
    recipe = plait.config.Optimizer(name="sgd", lr=0.1)
    optimizer = make_optimizer(model, fixed(), recipe)
    multiplier = {name: g["multiplier"] for g in optimizer.param_groups for name in g["names"]}
    for name, factor in multiplier.items():
        own = any(task in name for task in TASKS)
        assert factor == (10 if "discriminator" in name else 3 if own else 1), name


def test_frozen_batch_norms_stay_as_they_are() -> None:
    from plait.models.parameters import freeze_batch_norm

    model = astmt()
    norms = freeze_batch_norm(model.encoder.backbone)
    stem = sum(isinstance(m, nn.BatchNorm2d) for m in model.encoder.backbone.stem.modules())
    assert norms > 3 * stem
    model.train()
    before = copy.deepcopy(model.encoder.backbone.state_dict())
    alternating_step(model, [astmt_batch()], fixed(), OPTIMIZERS["sgd"](model))
    frozen = [n for n, m in model.encoder.backbone.named_modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(frozen) == norms
    now = model.encoder.backbone.state_dict()
    for key, value in now.items():
        if key.rpartition(".")[0] in frozen:
            assert torch.equal(value, before[key])
    assert any(not torch.equal(value, before[key]) for key, value in now.items())


# ------------------------------------------------------------------------------------------------ whole runs


def test_a_run_alternates_averages_and_goes_on_to_the_bit(
    make_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "training.alternate_tasks": True,
        "training.ema": 0.5,
        "training.steps": 4,
        "model.encoder": "astmt",
        "model.decoder": {"name": "astmt", "width": 8, "adversarial_weight": 0.01},
    }
    recipe = make_recipe(**changes)
    whole = plait.train(recipe, tmp_path / "whole", progress=False)

    def interrupted(step: int, *_: Any) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plait.train(recipe, tmp_path / "parts", progress=interrupted)
    parts = plait.train(recipe, tmp_path / "parts", progress=False)
    expected = whole.model().state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in parts.model().state_dict().items())
    at_once = plait.train(
        make_recipe(**{**changes, "training.alternate_tasks": False}), tmp_path / "once", progress=False
    )
    assert any(not torch.equal(value, expected[key]) for key, value in at_once.model().state_dict().items())


def test_a_run_refuses_other_rules(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = make_recipe(
        **{"training.alternate_tasks": True, "balancer": {"name": "mgda", "scope": "parameters"}}
    )
    with pytest.raises(ConfigurationError, match=r"training\.alternate_tasks gives each task"):
        plait.train(recipe, tmp_path / "run", progress=False)


# --------------------------------------------------------------------------------------------- two processes

LABELS: dict[str, dict[str, range]] = {
    "every label": {},
    "depth in one process": {"depth": range(4, 8)},
    "one task a process": {"depth": range(4), "semseg": range(4, 8), "normals": range(4)},
    "no depth": {"depth": range(8)},
}
CASES = [
    (labels, interacting, parts) for labels in LABELS for interacting in (False, True) for parts in (1, 2)
]


def trained(case: tuple[str, bool, int], first: int, last: int) -> dict[str, Tensor]:
    """Parameters after two steps on the images from ``first`` to ``last``, in so many parts."""
    labels, interacting, parts = case
    model = tiny_network(interacting=interacting, penalty=True)
    batch, places = tiny_batch(8, absent=LABELS[labels]), list(range(first, last))
    size = len(places) // parts
    batches = [part(batch, places[at : at + size]) for at in range(0, len(places), size)]
    optimizer = OPTIMIZERS["sgd"](model)
    for _ in range(2):
        alternating_step(model, batches, fixed(), optimizer, clip_norm=0.5)
    return {name: p.detach() for name, p in model.named_parameters()}


def main() -> None:
    torch.set_num_threads(1)
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    try:
        results = {str(case): trained(case, 4 * rank, 4 * rank + 4) for case in CASES}
        torch.save(results, folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_make_the_updates_of_the_doubled_batch(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-W",
                "error",
                "-m",
                "tests.training.test_alternate_tasks",
                str(place),
                str(tmp_path),
            ],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in range(2)
    ]
    try:
        errors = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    first, second = (torch.load(tmp_path / f"{place}.pt") for place in range(2))
    for case in CASES:
        for name, value in trained(case, 0, 8).items():
            assert torch.equal(first[str(case)][name], second[str(case)][name])
            torch.testing.assert_close(first[str(case)][name], value, rtol=1e-9, atol=1e-12)


if __name__ == "__main__":
    main()
