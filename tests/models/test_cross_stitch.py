"""Cross-stitch networks: the published numbers, the definition of a unit, and how fast units learn."""

import math

import numpy as np
import pytest
import torch
from tests.models.published import FILES, compare, fill, waves
from torch import Tensor, nn

import plait
from plait import config
from plait.errors import ConfigurationError
from plait.models.encoders.cross_stitch import CrossStitch, Unit
from plait.models.encoders.separate import Separate
from plait.testing import tiny_backbone
from plait.training.optimizers import make_optimizer, set_learning_rate
from plait.training.schedules import factor

TASKS = ("semseg", "depth", "normals")


def images() -> Tensor:
    return torch.randn(2, 3, 33, 65, generator=torch.Generator().manual_seed(0))


def test_it_equals_the_published_network() -> None:
    # The published units stay in single precision, which is what is left of the difference.
    published = np.load(FILES / "r18_nyud_cross_stitch.npz")
    tasks = {"semseg": {"kind": "semantic", "classes": 40}, "depth": {"kind": "depth"}}
    network = plait.create_model(backbone="resnet18", encoder="cross_stitch", tasks=tasks).double().eval()
    assert sum(p.numel() for p in network.parameters()) == published["parameters"] == 31_811_753
    fill(network)
    height, width, shift = published["input"]
    with torch.no_grad():
        final = network(waves(int(height), int(width), float(shift))).final
    assert all(compare(output, published[task]) < 1e-9 for task, output in final.items())


@pytest.mark.parametrize("unit", ["channel", "scalar"])
def test_a_unit_is_a_weighted_sum_of_all_tasks_for_each_channel(unit: str) -> None:
    made = CrossStitch(make_backbone=tiny_backbone, tasks=TASKS, unit=unit).units[1]
    features = {task: torch.randn(2, 12, 3, 4) for task in TASKS}
    for weight in made.parameters():
        assert weight.shape == ((12,) if unit == "channel" else (1,))
        nn.init.normal_(weight)
    for receiver in TASKS:
        expected = torch.stack(
            [features[s] * made.weights[f"{s} to {receiver}"].view(1, -1, 1, 1) for s in TASKS]
        ).sum(0)
        torch.testing.assert_close(made(features, receiver), expected)


@pytest.mark.parametrize(
    ("options", "own", "other"),
    [({}, 0.9, 0.05), ({"alpha": 0.8}, 0.8, 0.1), ({"alpha": 0.8, "beta": 0.3}, 0.8, 0.3)],
)
def test_units_start_from_alpha_and_beta(options: dict[str, float], own: float, other: float) -> None:
    encoder = CrossStitch(make_backbone=tiny_backbone, tasks=TASKS, **options)
    assert len(encoder.units) == 4
    for unit in encoder.units:
        for pair, weight in unit.weights.items():
            sender, receiver = pair.split(" to ")
            torch.testing.assert_close(
                weight.detach(), torch.full_like(weight, own if sender == receiver else other)
            )


@pytest.mark.parametrize("training", [False, True])
def test_with_alpha_1_and_beta_0_it_is_separate_networks_to_the_bit(training: bool) -> None:
    encoder = CrossStitch(make_backbone=tiny_backbone, tasks=TASKS, alpha=1.0, beta=0.0).train(training)
    apart = Separate(make_backbone=tiny_backbone, tasks=TASKS).train(training)
    apart.backbones.load_state_dict(encoder.backbones.state_dict())
    mixed, alone = encoder(images()), apart(images())
    for task in TASKS:
        assert all(torch.equal(a, b) for a, b in zip(mixed[task], alone[task], strict=True))


def test_one_task_alone_is_its_backbone() -> None:
    encoder = CrossStitch(make_backbone=tiny_backbone, tasks=["depth"], alpha=0.5).eval()
    expected = encoder.columns()["depth"](images())
    assert all(torch.equal(a, b) for a, b in zip(encoder(images())["depth"], expected, strict=True))
    assert encoder.lr_multipliers() == {}


def test_another_task_s_column_changes_each_level() -> None:
    encoder = CrossStitch(make_backbone=tiny_backbone, tasks=TASKS).eval()
    before = encoder(images(), tasks=["depth"])["depth"]
    with torch.no_grad():
        encoder.columns()["normals"].stem.block[0].weight.mul_(1.5)
    after = encoder(images(), tasks=["depth"])["depth"]
    assert not any(torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_units_keep_the_precision_and_layout_of_their_features() -> None:
    unit = Unit(TASKS, 8, 0.9, 0.05)
    features = {
        task: torch.randn(2, 8, 4, 4).to(torch.bfloat16, memory_format=torch.channels_last) for task in TASKS
    }
    mixed = unit(features, "depth")
    assert mixed.dtype == torch.bfloat16
    assert mixed.is_contiguous(memory_format=torch.channels_last)


def test_the_learning_rate_of_units_is_a_multiple_at_every_step_of_the_schedule() -> None:
    tasks = {"a": {"kind": "depth"}, "b": {"kind": "depth"}}
    model = plait.create_model(
        backbone="test_efficientnet",
        encoder="cross_stitch",
        encoder_options={"lr_multiplier": 100.0},
        tasks=tasks,
    )
    optimizer = make_optimizer(model, nn.Identity(), config.Optimizer(name="sgd", lr=0.01))
    units = {id(p) for p in model.encoder.units.parameters()}
    for step in range(10):
        lr = 0.01 * factor(config.Schedule(), step, 10)
        set_learning_rate(optimizer, lr)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                expected = 100 * lr if id(parameter) in units else lr
                assert group["lr"] == pytest.approx(expected)
    assert len(units) == 4 * 4


@pytest.mark.parametrize("options", [{"alpha": math.nan}, {"alpha": math.inf}, {"beta": math.nan}])
@pytest.mark.parametrize("tasks", [TASKS, TASKS[:1]])
def test_first_weights_must_be_finite(options: dict[str, float], tasks: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match=r"must be finite, got .*(nan|inf)"):
        CrossStitch(make_backbone=tiny_backbone, tasks=tasks, **options)


@pytest.mark.parametrize("options", [{"unit": "pixel"}, {"lr_multiplier": -1.0}, {"lr_multiplier": math.inf}])
def test_options_that_mean_nothing_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))} of cross_stitch must be"):
        CrossStitch(make_backbone=tiny_backbone, tasks=TASKS, **options)
