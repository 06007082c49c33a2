"""AdaShare: which blocks each task runs, how that is learned, and when."""

import copy
import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from plait.errors import ConfigurationError
from plait.models.backbones import Backbone, create_backbone
from plait.models.encoders.adashare import AdaShare
from plait.models.encoders.shared import Shared
from plait.testing import tiny_backbone

NAMES = ("semseg", "depth", "normals")
POLICY = {"semseg": "1011", "depth": "1101", "normals": "1101"}


def images(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def make(**options: Any) -> AdaShare:
    torch.manual_seed(0)
    return AdaShare(make_backbone=tiny_backbone, tasks=options.pop("tasks", NAMES), **options)


@torch.no_grad()
def decide(encoder: AdaShare, policy: dict[str, str], by: float = 100.0) -> None:
    for task, decisions in policy.items():
        encoder.logits[task].copy_(torch.tensor([by if digit == "1" else -by for digit in decisions]))


def loss(encoder: AdaShare) -> Tensor:
    levels = [level.square().sum() for levels in encoder(images()).values() for level in levels]
    return torch.stack([*levels, *encoder.penalties().values()]).sum()


def skipping(backbone: Backbone, decisions: str) -> Backbone:
    """A copy without the blocks that are skipped: in the tiny backbone the second one of each stage."""
    copied = copy.deepcopy(backbone)
    for stage, digit in zip(copied.stages, decisions, strict=True):
        if digit == "0":
            stage[1] = nn.Identity()
    return copied


def test_blocks_that_keep_the_shape_can_be_skipped() -> None:
    encoder = AdaShare(make_backbone=lambda: create_backbone("resnet18"), tasks=NAMES)
    assert encoder.skippable == ((0, 0), (0, 1), (1, 1), (2, 1), (3, 1))
    assert make().skippable == ((0, 1), (1, 1), (2, 1), (3, 1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("way", ["start", "warm-up", "given"])
def test_with_all_blocks_run_it_is_hard_sharing_to_the_bit(way: str, training: bool) -> None:
    everything = dict.fromkeys(NAMES, "1111")
    encoder = make(policy=everything if way == "given" else None).train(training)
    if way == "warm-up":
        encoder.at_step(0, 10)
        decide(encoder, everything)
    elif way == "start" and training:
        decide(encoder, everything)
    torch.manual_seed(0)
    shared = Shared(make_backbone=tiny_backbone, tasks=NAMES).train(training)
    made, expected = encoder(images(33, 65)), shared(images(33, 65))
    for task in NAMES:
        assert all(torch.equal(a, b) for a, b in zip(made[task], expected[task], strict=True))


@pytest.mark.parametrize("given", [True, False])
def test_a_task_runs_the_blocks_of_its_policy_only(given: bool) -> None:
    encoder = make(policy=POLICY if given else None).eval()
    if not given:
        decide(encoder, POLICY)
    assert encoder.policy() == POLICY
    made = encoder(images())
    for task, decisions in POLICY.items():
        expected = skipping(encoder.backbone, decisions)(images())
        assert all(torch.equal(a, b) for a, b in zip(made[task], expected, strict=True))


def test_in_training_a_clear_policy_is_followed_exactly() -> None:
    encoder = make().train()
    decide(encoder, POLICY, by=1e4)
    expected = {task: skipping(encoder.backbone, d).train()(images()) for task, d in POLICY.items()}
    made = encoder(images())
    for task in NAMES:
        assert all(torch.equal(a, b) for a, b in zip(made[task], expected[task], strict=True))


def test_statistics_do_not_count_blocks_that_are_skipped() -> None:
    encoder = make().train()
    decide(encoder, {"semseg": "1000", "depth": "1000", "normals": "1011"}, by=1e4)
    encoder(images())
    counts = [int(stage[1][1].num_batches_tracked) for stage in encoder.backbone.stages]
    assert counts == [3, 0, 1, 1]


def test_what_tasks_run_alike_is_run_once_in_evaluation() -> None:
    encoder = make().eval()
    decide(encoder, POLICY)
    ran: list[nn.Module] = []
    for stage in encoder.backbone.stages:
        stage[1].register_forward_hook(lambda module, *_: ran.append(module))
    encoder(images())
    assert [ran.count(stage[1]) for stage in encoder.backbone.stages] == [1, 1, 1, 2]


def test_a_given_policy_drops_unused_blocks_and_tells_who_uses_what() -> None:
    policy = {"semseg": "1001", "depth": "1101", "normals": "1101"}
    encoder = make(policy=policy).train()
    assert encoder.groups == {"semseg": "semseg", "depth": "depth", "normals": "depth"}
    assert list(encoder.logits) == []
    assert encoder.penalties() == {}
    assert list(encoder.backbone.stages[2][1].parameters()) == []
    assert set(encoder.shared_parameters()) == {NAMES, ("depth", "normals")}
    pyramids = encoder(images())
    assert all(a is b for a, b in zip(pyramids["depth"], pyramids["normals"], strict=True))
    assert not any(a is b for a, b in zip(pyramids["depth"], pyramids["semseg"], strict=True))


@pytest.mark.parametrize(
    "options", [{}, {"hard": False}, {"policy": POLICY}, {"tasks": ("depth",)}], ids=lambda o: str(o)
)
def test_every_parameter_is_reached_and_by_whom_is_told(options: dict[str, Any]) -> None:
    encoder = make(**options).train()
    shared = encoder.shared_parameters()
    listed = [id(p) for parameters in shared.values() for p in parameters]
    assert sorted(listed) == sorted(id(p) for p in encoder.parameters())
    pyramids, parameters = encoder(images()), list(encoder.parameters())
    for task in encoder.tasks:
        total = sum(level.square().sum() for level in pyramids[task])
        gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
        reached = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
        assert reached == {id(p) for users, some in shared.items() if task in users for p in some}


@pytest.mark.parametrize("hard", [True, False])
def test_every_decision_gets_a_gradient(hard: bool) -> None:
    encoder = make(hard=hard).train()
    sum(level.square().sum() for levels in encoder(images()).values() for level in levels).backward()
    for logits in encoder.logits.values():
        assert (logits.grad != 0).all()


def test_draws_follow_the_sigmoid_of_the_logits() -> None:
    encoder = make().train()
    with torch.no_grad():
        encoder.logits["depth"].copy_(torch.tensor([0.0, 1.0, -1.0, 2.0]))
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = torch.tensor([[float(g) for g in encoder._gates()["depth"]] for _ in range(3000)])
    assert drawn.unique().tolist() == [0, 1]
    torch.testing.assert_close(drawn.mean(0), encoder.logits["depth"].sigmoid(), atol=0.03, rtol=0)


def test_the_penalties_are_the_published_sums() -> None:
    encoder = make(tasks=("depth", "normals"), sparsity_weight=0.5, sharing_weight=2.0)
    p = {"depth": [0.5, 0.25, 0.9, 0.3], "normals": [0.5, 0.75, 0.4, 0.1]}
    with torch.no_grad():
        for task, chances in p.items():
            encoder.logits[task].copy_(torch.tensor(chances).logit())
    lowness = torch.tensor([3 / 4, 2 / 4, 1 / 4, 0])
    expected = {
        "sparsity": 0.5 * torch.tensor([*p["depth"], *p["normals"]]).log().sum(),
        "sharing": 2.0 * (lowness * torch.tensor([0.0, 0.5, 0.5, 0.2])).sum(),
    }
    torch.testing.assert_close(encoder.penalties(), expected)
    one = make(tasks=("depth",)).penalties()
    assert one["sharing"] == 0
    assert one["sparsity"] < 0


def test_penalties_cover_the_open_decisions_only() -> None:
    encoder = make(warmup=0.0, curriculum=1.0, turns=None)
    decide(encoder, {"semseg": "1111", "depth": "0000", "normals": "1111"}, by=30.0)
    encoder.at_step(10, 40)  # the last two
    encoder.penalties()["sharing"].backward()
    encoder.penalties()["sparsity"].backward()
    for logits in encoder.logits.values():
        assert logits.grad[:2].abs().sum() == 0
    torch.testing.assert_close(encoder.penalties()["sharing"], torch.tensor(0.05 * 2 * (1 / 4 + 0)))
    encoder.at_step(40, 40)
    torch.testing.assert_close(encoder.penalties()["sharing"], torch.tensor(0.05 * 2 * (3 + 2 + 1) / 4))


def test_the_temperature_falls_by_a_constant_factor_after_the_warm_up() -> None:
    encoder = make(warmup=0.2, temperature=4.0, final_temperature=1.0)
    for step, temperature in [(0, 4.0), (1, 4.0), (2, 4.0), (6, 2.0), (10, 1.0)]:
        encoder.at_step(step, 10)
        torch.testing.assert_close(encoder.temperature, torch.tensor(temperature))


def test_decisions_open_from_the_last_block_down() -> None:
    encoder = make(warmup=0.2, curriculum=0.5)
    opened = []
    for step in range(100):
        encoder.at_step(step, 100)
        opened.append(encoder.opened)
    assert opened == [0] * 20 + [1] * 10 + [2] * 10 + [3] * 10 + [4] * 50
    encoder.at_step(35, 100)
    gates = encoder.train()._gates()["depth"]
    assert [gate is True for gate in gates] == [True, True, False, False]
    encoder.curriculum = 0.0
    encoder.at_step(20, 100)
    assert encoder.opened == 4


def test_weights_and_logits_learn_in_turn_and_what_is_frozen_stays_frozen() -> None:
    encoder = make(warmup=0.1, curriculum=0.0, turns=(3, 2)).train()
    frozen = [*encoder.backbone.stem.parameters(), encoder.logits["depth"]]
    for parameter in frozen:
        parameter.requires_grad_(False)
    weights = [p for p in encoder.backbone.parameters() if p.requires_grad]
    logits = [p for p in encoder.logits.values() if p.requires_grad]
    turns = []
    for step in range(12):
        encoder.zero_grad()
        encoder.at_step(step, 20)
        loss(encoder).backward()
        assert all(p.grad is None and not p.requires_grad for p in frozen)
        got = [all(p.grad is not None for p in some) for some in (weights, logits)]
        assert got == [any(p.grad is not None for p in some) for some in (weights, logits)]
        turns.append("w" * got[0] + "l" * got[1])
    assert turns == ["w", "w"] + ["w", "w", "w", "l", "l"] * 2
    assert all(p.requires_grad for p in (*weights, *logits))


def test_the_gradient_of_the_logits_is_the_same_in_their_turn() -> None:
    def gradients(turns: tuple[int, int] | None) -> list[Tensor]:
        encoder = make(warmup=0.0, curriculum=0.0, turns=turns, temperature=1.0).train()
        encoder.at_step(1, 10)
        torch.manual_seed(1)
        loss(encoder).backward()
        return [p.grad for p in encoder.logits.values()]

    torch.testing.assert_close(gradients((1, 1)), gradients(None))


def test_the_state_is_a_function_of_the_step() -> None:
    straight, resumed = make(), make()
    for step in range(78):
        straight.at_step(step, 100)
    resumed.load_state_dict(straight.state_dict())
    resumed.at_step(77, 100)
    torch.manual_seed(5)
    expected = straight.train()(images())
    torch.manual_seed(5)
    torch.testing.assert_close(resumed.train()(images()), expected, rtol=0, atol=0)
    assert (resumed.weights_learn, resumed.logits_learn) == (straight.weights_learn, straight.logits_learn)


@pytest.mark.parametrize("training", [True, False])
def test_order_and_subset_of_tasks_change_no_draw(training: bool) -> None:
    encoder = make().train(training)
    turned = make(tasks=NAMES[::-1]).train(training)
    if not training:
        decide(encoder, POLICY)
    turned.load_state_dict(encoder.state_dict())

    def draw(network: AdaShare, tasks: list[str] | None = None) -> dict[str, list[Tensor]]:
        torch.manual_seed(3)
        made: dict[str, list[Tensor]] = network(images(), tasks)
        return made

    everything = draw(encoder)
    for other in (draw(turned), draw(encoder, ["normals"])):
        for task, levels in other.items():
            assert all(torch.equal(a, b) for a, b in zip(levels, everything[task], strict=True))


def test_logits_learn_at_their_own_rate_and_are_vectors() -> None:
    encoder = make(lr_multiplier=7.0)
    assert encoder.lr_multipliers() == dict.fromkeys(encoder.logits.values(), 7.0)
    assert {logits.ndim for logits in encoder.logits.values()} == {1}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"policy": {"semseg": "1111"}}, "must decide for semseg, depth, normals"),
        ({"policy": dict.fromkeys(NAMES, "111")}, "4 digits"),
        ({"policy": dict.fromkeys(NAMES, "11x1")}, "4 digits"),
        ({"turns": [1]}, "turns"),
        ({"turns": [0, 1]}, "turns"),
        ({"curriculum": -1.0}, "curriculum"),
        ({"curriculum": 1.1}, "curriculum"),
        ({"curriculum": math.nan}, "curriculum"),
        ({"sparsity_weight": math.nan}, "sparsity_weight"),
        ({"sharing_weight": math.inf}, "sharing_weight"),
        ({"lr_multiplier": math.nan}, "lr_multiplier"),
        ({"warmup": 1.0}, "warmup"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        make(**options)


def test_a_backbone_without_stages_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="adashare"):
        AdaShare(make_backbone=lambda: create_backbone("test_vit"), tasks=NAMES)


def test_without_blocks_to_skip_all_is_shared_and_said(caplog: pytest.LogCaptureFixture) -> None:
    encoder = AdaShare(make_backbone=lambda: create_backbone("test_efficientnet"), tasks=NAMES)
    assert "no block of test_efficientnet can be skipped" in caplog.text
    assert encoder.shared_parameters() == {NAMES: list(encoder.parameters())}
    assert encoder.policy() == dict.fromkeys(NAMES, "")


@pytest.mark.parametrize("step", [0, 5, 9])
def test_gradient_checkpointing_changes_neither_gradients_nor_statistics(step: int) -> None:
    def trained(checkpointing: bool) -> tuple[list[Tensor | None], list[Tensor]]:
        torch.manual_seed(0)
        encoder = AdaShare(
            make_backbone=lambda: create_backbone("resnet18", gradient_checkpointing=checkpointing),
            tasks=NAMES[:2],
            warmup=0.2,
            turns=(5, 5),
        ).train()
        encoder.at_step(step, 10)
        sum(level.square().mean() for levels in encoder(images()).values() for level in levels).backward()
        return [p.grad for p in encoder.parameters()], list(encoder.buffers())

    torch.testing.assert_close(trained(True), trained(False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("step", [0, 9])
def test_the_compiler_takes_training_and_evaluation(step: int) -> None:
    encoder = AdaShare(
        make_backbone=lambda: tiny_backbone((4, 6), (4, 8)), tasks=NAMES[:2], warmup=0.2, turns=(5, 5)
    )
    encoder.at_step(step, 10)
    torch.compiler.reset()
    compiled = cast("nn.Module", torch.compile(encoder, backend="eager"))
    for mode in (True, False):
        encoder.train(mode)
        torch.manual_seed(2)
        expected = encoder(images())
        torch.manual_seed(2)
        torch.testing.assert_close(compiled(images()), expected)
