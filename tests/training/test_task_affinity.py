"""The affinity measured during training: its value, and that training does not feel it."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import plait
from plait.config import Recipe
from plait.data.sample import Batch, Geometry
from plait.errors import ConfigurationError
from plait.models.network import MultiTaskNetwork
from plait.training.affinity import task_affinity
from plait.training.checkpoint import read_tensors
from plait.training.fit import train
from plait.training.logs import read_log

MakeRecipe = Callable[..., Recipe]

TASKS = {"depth": {"kind": "depth"}, "normals": {"kind": "normals"}, "saliency": {"kind": "saliency"}}


def network(encoder: str = "shared", **options: Any) -> MultiTaskNetwork:
    torch.manual_seed(0)
    return plait.create_model(
        backbone="test_resnet",
        tasks=TASKS,
        encoder=encoder,
        encoder_options=options,
        decoder_options={"head": "linear"},
        backbone_options={"drop_path_rate": 0.3},
    ).train()


def batch(seed: int = 0, images: int = 4, labelled: tuple[str, ...] = tuple(TASKS)) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    targets = {
        "depth": torch.rand(images, 1, 32, 32, generator=generator) + 1,
        "normals": torch.nn.functional.normalize(torch.randn(images, 3, 32, 32, generator=generator)),
        "saliency": (torch.rand(images, 1, 32, 32, generator=generator) > 0.7).float(),
    }
    return Batch(
        images=torch.randn(images, 3, 32, 32, generator=generator),
        targets={task: targets[task] for task in labelled},
        present={task: torch.full((images,), task in labelled) for task in TASKS},
        ids=[str(place) for place in range(images)],
        geometry=[Geometry((32, 32))] * images,
    )


def losses(model: MultiTaskNetwork, given: Batch) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return plait.tasks.losses(model.tasks, model(given.images), given.targets)


def measured(model: MultiTaskNetwork, *given: Batch, lr: float = 0.01) -> dict[str, dict[str, float | None]]:
    torch.manual_seed(7)
    return task_affinity(model, given, lr=lr)


def test_it_is_what_a_step_by_hand_on_one_loss_does() -> None:
    model, given, lr = network(), batch(), 0.01
    found = measured(model, given, lr=lr)
    for giver in TASKS:
        stepping = network()
        before = losses(stepping, given)
        shared = list(stepping.encoder.parameters())
        for parameter, gradient in zip(shared, torch.autograd.grad(before[giver], shared), strict=True):
            parameter.data -= lr * gradient
        after = losses(stepping, given)
        for taker in TASKS:
            expected = 1 - after[taker].item() / before[taker].item()
            assert found[giver][taker] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert all((found[task][task] or 0) > 0 for task in TASKS)


def test_nothing_is_changed_by_measuring() -> None:
    model, given = network(), batch()
    sum(losses(model, given).values()).backward()
    kept = [t.clone() for t in (*model.state_dict().values(), *(p.grad for p in model.parameters()))]
    state = torch.get_rng_state()
    measured(model, given)
    torch.set_rng_state(state)
    task_affinity(model, [given], lr=0.1)
    assert torch.equal(torch.get_rng_state(), state)
    now = [*model.state_dict().values(), *(p.grad for p in model.parameters())]
    assert all(torch.equal(a, b) for a, b in zip(now, kept, strict=True))
    assert model.training


def test_parts_of_a_batch_without_batch_statistics_give_what_the_whole_gives() -> None:
    model, given = network(), batch()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d) or hasattr(module, "drop_prob"):
            module.eval()
    parts = [
        Batch(
            images=given.images[half],
            targets={task: target[half] for task, target in given.targets.items()},
            present={task: present[half] for task, present in given.present.items()},
            ids=given.ids[half],
            geometry=given.geometry[half],
        )
        for half in (slice(0, 2), slice(2, 4))
    ]
    whole, split = measured(model, given), measured(model, *parts)
    for giver in TASKS:
        for taker in TASKS:
            assert split[giver][taker] == pytest.approx(whole[giver][taker], rel=1e-3, abs=1e-6)


def test_a_task_without_labels_has_no_affinity() -> None:
    found = measured(network(), batch(labelled=("depth", "normals")))
    assert found["saliency"] == dict.fromkeys(TASKS)
    assert [found[task]["saliency"] for task in TASKS] == [None] * 3
    assert isinstance(found["depth"]["normals"], float)


def test_tasks_in_different_groups_do_nothing_to_each_other() -> None:
    found = measured(network("branched", tree=["depth normals | saliency"]), batch())
    assert found["depth"]["saliency"] == found["saliency"]["normals"] == 0
    assert found["saliency"]["saliency"] == 0  # alone, it shares no parameter that could be stepped
    assert found["depth"]["normals"] != 0


@pytest.mark.parametrize(("encoder", "tasks"), [("separate", ["depth", "normals"]), ("shared", ["depth"])])
def test_networks_that_share_nothing_are_refused_before_training(
    make_recipe: MakeRecipe, tmp_path: Path, encoder: str, tasks: list[str]
) -> None:
    recipe = make_recipe(
        **{
            "model.encoder": encoder,
            "tasks": {task: TASKS[task] for task in tasks},
            "training.affinity_every": 1,
        }
    )
    with pytest.raises(ConfigurationError, match="shares none"):
        train(recipe, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"model.backbone_options": {"drop_path_rate": 0.5}},
        {"training.accumulate": 2, "balancer": "mgda", "optimizer.name": "sgd", "training.precision": "bf16"},
    ],
)
def test_a_run_that_measures_ends_with_the_same_bits_as_one_that_does_not(
    make_recipe: MakeRecipe, tmp_path: Path, changes: dict[str, Any]
) -> None:
    train(make_recipe(**changes), tmp_path / "plain", progress=False)
    train(make_recipe(**changes, **{"training.affinity_every": 2}), tmp_path / "measured", progress=False)
    for file in ("model", "training"):
        plain, other = (
            read_tensors(tmp_path / name / "checkpoints" / "last" / f"{file}.safetensors")
            for name in ("plain", "measured")
        )
        assert plain.keys() == other.keys()
        assert [key for key in plain if not torch.equal(plain[key], other[key])] == []
    rows = read_log(tmp_path / "measured")
    lines = [row for row in rows if "affinity" in row]
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        assert {giver: list(onto) for giver, onto in line["affinity"].items()} == {
            task: ["semantic", "depth"] for task in ("semantic", "depth")
        }
        assert all(math.isfinite(value) for onto in line["affinity"].values() for value in onto.values())
    tables = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("plain", "measured")]
    assert tables[0][0] == tables[1][0]
    assert {line.count(",") for line in tables[1]} == {tables[0][0].count(",")}
