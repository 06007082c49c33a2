"""What acts between encoder and decoder acts in training, in every prediction, and in a reloaded run."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.balancing.tiny import tiny_batch, tiny_network
from torch import Tensor, nn

import plait
from plait import registry
from plait.balancing import create
from plait.balancing.rotograd import Rotations, RotoGrad
from plait.config import Recipe, parse
from plait.errors import ConfigurationError
from plait.models import MultiTaskNetwork
from plait.testing import tiny_backbone, write_tiny_rooms
from plait.training import fit
from plait.training.checkpoint import read_tensors
from plait.training.evaluate import evaluate
from plait.training.fit import train
from plait.training.optimizers import make_optimizer
from plait.training.run import load_run, make_network
from plait.training.step import training_step

TASKS = {"depth": {"kind": "depth"}, "normals": {"kind": "normals"}, "edges": {"kind": "edges"}}
NAMES = tuple(TASKS)


class Silence(nn.Module):
    """Replaces one task's features by zeros."""

    def __init__(self, task: str | None) -> None:
        super().__init__()
        self.task = task

    def forward(self, pyramids: Mapping[str, Sequence[Tensor]]) -> dict[str, list[Tensor]]:
        return {
            task: [torch.zeros_like(level) if task == self.task else level for level in levels]
            for task, levels in pyramids.items()
        }


def network(*, decoder: str = "independent", task: str | None = None, **options: Any) -> MultiTaskNetwork:
    torch.manual_seed(0)
    options.setdefault("at_cut", lambda channels: Silence(task))
    return plait.create_model(backbone=tiny_backbone, tasks=TASKS, decoder=decoder, **options).eval()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("decoder", [name for name in registry.DECODERS if name != "astmt"])
def test_every_decoder_gives_every_task_its_own_features(decoder: str) -> None:
    """No neck or map is computed once for tasks whose features differ (``astmt`` has its own encoder)."""
    whole = network(decoder=decoder)(images()).final
    for silenced in NAMES:
        changed = network(decoder=decoder, task=silenced)(images()).final
        assert not torch.allclose(changed[silenced], whole[silenced])
        for task in NAMES:
            if task != silenced and decoder == "independent":
                assert torch.equal(changed[task], whole[task])


@torch.no_grad()
def test_it_acts_in_decode_in_forward_and_on_some_tasks_only() -> None:
    model = network(task="depth")
    whole = model(images()).final
    decoded = model.decode(model.encoder(images()), (64, 64)).final
    for task in NAMES:
        assert torch.equal(decoded[task], whole[task])
        torch.testing.assert_close(model(images(), [task]).final[task], whole[task])


@torch.no_grad()
def test_rotations_begin_as_the_network_without_them() -> None:
    plain = network(at_cut=None)
    rotated = network(at_cut=create("rotograd", tasks=NAMES).at_cut)
    assert isinstance(rotated.at_cut, Rotations)
    for task in NAMES:
        torch.testing.assert_close(rotated(images()).final[task], plain(images()).final[task])


def test_most_balancers_put_nothing_there() -> None:
    assert network(at_cut=create("mgda", tasks=NAMES).at_cut).at_cut is None
    assert "at_cut" not in str(list(network(at_cut=None).state_dict()))


def test_rotations_are_saved_and_no_optimizer_has_them() -> None:
    balancer = create("rotograd", tasks=NAMES)
    model = network(at_cut=balancer.at_cut)
    balancer.attach(model)
    assert {name for name in model.state_dict() if name.startswith("at_cut")} == {
        f"at_cut.by_task.{task}.{level}.matrix" for task in NAMES for level in range(4)
    }
    assert not any("by_task" in name for name in balancer.state_dict())
    recipe = parse({"tasks": TASKS, "model": {"backbone": "test_resnet"}, "augmentation": {"size": [32, 32]}})
    optimizer = make_optimizer(model, balancer, recipe.optimizer)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert sum(p.numel() for p in trained) == sum(p.numel() for p in network(at_cut=None).parameters())


def test_an_encoder_that_hands_on_no_shared_features_is_refused() -> None:
    for encoder in ("mtan", "separate"):
        with pytest.raises(
            ConfigurationError, match=r"Rotations act between encoder and .* encoder MTAN|Sep"
        ):
            network(encoder=encoder, at_cut=create("rotograd", tasks=NAMES).at_cut)


def test_a_training_step_through_the_network_is_that_of_a_loop_of_ones_own() -> None:
    """The same gradients, weights and rotations, whether the network or the balancer has them."""
    batch = tiny_batch()
    names = ("semseg", "depth", "normals")
    own = RotoGrad(tasks=names, channels=[4, 4], rotation_lr=0.01).double()
    inside = RotoGrad(tasks=names, rotation_lr=0.01)
    bare, whole = tiny_network(), tiny_network()
    whole.at_cut = inside.at_cut(whole.encoder.channels).double()
    inside.attach(whole)
    for _ in range(3):
        reports = [
            training_step(model, [batch], balancer, torch.optim.SGD(model.parameters(), lr=0.1))
            for model, balancer in ((bare, own), (whole, inside))
        ]
        torch.testing.assert_close(reports[0].weights, reports[1].weights)
    for (name, one), (_, other) in zip(bare.named_parameters(), whole.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=name)
    for one, other in zip(own.rotations.buffers(), whole.at_cut.buffers(), strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.equal(own.rotations.of("depth")[1].matrix, torch.eye(4, dtype=torch.float64))
    bare.eval(), whole.eval()
    rotated = own.rotate(bare.encoder(batch.images))
    for task in names:
        torch.testing.assert_close(
            whole(batch.images).final[task], bare.decode(rotated, batch.images.shape[-2:]).final[task]
        )


# Runs.


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    rooms = write_tiny_rooms(tmp_path_factory.mktemp("rooms"), images=(6, 3, 3), size=(32, 48))
    return parse(
        {
            "data": {"root": str(rooms)},
            "tasks": {"semantic": {"kind": "semantic", "classes": 20}, "depth": {"kind": "depth"}},
            "model": {
                "backbone": "test_resnet",
                "pretrained": False,
                "decoder": {"name": "independent", "head": "linear"},
            },
            "balancer": {"name": "rotograd", "rotation_lr": 0.01},
            "augmentation": {"size": [32, 32]},
            "training": {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "log_every": 1, "threads": 1},
        }
    )


@pytest.fixture(scope="module")
def trained(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MultiTaskNetwork]:
    """A finished run, and the network in memory that was trained in it."""
    made: list[MultiTaskNetwork] = []

    def remembered(*args: Any, **options: Any) -> MultiTaskNetwork:
        made.append(make_network(*args, **options))
        return made[-1]

    path = tmp_path_factory.mktemp("run") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "make_network", remembered)
        train(recipe, path, progress=False)
    return path, made[0]


@torch.no_grad()
def test_a_reloaded_run_predicts_with_its_rotations(trained: tuple[Path, MultiTaskNetwork]) -> None:
    path, model = trained
    run = load_run(path)
    reloaded = run.model()
    found = reloaded(images()).final
    for task, prediction in model.eval()(images()).final.items():
        torch.testing.assert_close(found[task], prediction)
    assert isinstance(reloaded.at_cut, Rotations)
    saved = read_tensors(run.checkpoint / "model.safetensors")
    turned = [matrix for name, matrix in saved.items() if name.startswith("at_cut")]
    assert len(turned) == 2 * len(reloaded.encoder.channels["depth"])
    assert any(not torch.allclose(matrix, torch.eye(len(matrix)), atol=1e-3) for matrix in turned)
    for matrix in turned:
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), atol=1e-5, rtol=0)
    scores = evaluate(reloaded, run.dataset("test"), evaluation=run.recipe.evaluation)
    assert scores.json() == run.scores.json()
    reloaded.at_cut = None
    for task, prediction in reloaded(images()).final.items():
        assert not torch.allclose(found[task], prediction, rtol=1e-3)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def killed_after(steps: int) -> Callable[..., None]:
    def told(step: int, total: int, losses: Mapping[str, float]) -> None:
        if step >= steps:
            raise Killed

    return told


def test_a_resumed_run_ends_with_the_same_bits(
    recipe: Recipe, trained: tuple[Path, MultiTaskNetwork], tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        train(recipe, tmp_path / "killed", progress=killed_after(3))
    train(recipe, tmp_path / "killed", progress=False)
    for file in ("model", "training"):
        whole, again = (
            read_tensors(path / "checkpoints" / "last" / f"{file}.safetensors")
            for path in (trained[0], tmp_path / "killed")
        )
        assert whole.keys() == again.keys()
        assert [name for name, value in whole.items() if not torch.equal(value, again[name])] == []
