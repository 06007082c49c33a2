"""BMTAS: what a drawn tree costs on average, the draws, and the tree that comes of them."""

import math
from itertools import product
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from plait.errors import ConfigurationError
from plait.models.backbones import Backbone, create_backbone
from plait.models.encoders.bmtas import BMTAS, expected_copies
from plait.models.encoders.branched import Branched
from plait.models.encoders.supergraph import counted_if, part_costs
from plait.testing import tiny_backbone

NAMES = ("semseg", "depth", "normals")
Picks = list[dict[str, str]]
PICKS: Picks = [  # of each stage, for each task
    {"semseg": "normals", "depth": "normals", "normals": "normals"},
    {"semseg": "depth", "depth": "semseg", "normals": "semseg"},
    {"semseg": "depth", "depth": "depth", "normals": "depth"},  # semseg has been apart before
    {"semseg": "depth", "depth": "depth", "normals": "normals"},
]
TREE = ("semseg depth normals",) * 2 + ("semseg | depth normals",) * 2 + ("semseg | depth | normals",)


def images(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def make(**options: float) -> BMTAS:
    torch.manual_seed(0)
    return BMTAS(make_backbone=tiny_backbone, tasks=NAMES, **options)


@torch.no_grad()
def decide(encoder: BMTAS, picks: Picks, by: float = 200.0) -> None:
    for place, row in zip(encoder.logits, picks, strict=True):
        for task, chosen in row.items():
            place[task].zero_()[encoder.nodes.index(chosen)] = by


def branched_from(encoder: BMTAS) -> Branched:
    """The discrete network of the tree, with the weights and statistics of the chosen copies."""
    branched = Branched(make_backbone=tiny_backbone, tasks=encoder.tasks, tree=encoder.tree().text())
    chosen = encoder.choices()
    for part, partition in enumerate(encoder.tree().partitions):
        for group in partition:
            backbone = cast("Backbone", branched.backbones[min(group)])
            mine = backbone.stages[part - 1] if part else backbone.stem
            mine.load_state_dict(encoder.part(chosen[group[0]][part], part).state_dict())
    return branched


def test_the_costs_of_the_parts_are_their_multiply_accumulates() -> None:
    costs = part_costs(tiny_backbone(channels=(4, 6), strides=(4, 8)))
    assert costs == (
        3 * 8 * 9 * 32 * 32,
        (8 * 4 + 4 * 4) * 9 * 16 * 16,
        (4 * 6 + 6 * 6) * 9 * 8 * 8,
    )


@pytest.mark.parametrize(("tasks", "parts"), [(2, 3), (3, 2)])
def test_the_expected_number_of_copies_is_the_mean_over_all_draws(tasks: int, parts: int) -> None:
    torch.manual_seed(0)
    chances = torch.randn(parts, tasks, tasks, dtype=torch.float64).mul(2).softmax(-1)
    mean = torch.zeros(parts, dtype=torch.float64)
    for draw in product(range(tasks), repeat=parts * tasks):
        picks = torch.tensor(draw).view(parts, tasks)
        chance = chances.gather(-1, picks[..., None]).prod()
        copies = [len({tuple(picks[: part + 1, t].tolist()) for t in range(tasks)}) for part in range(parts)]
        mean += chance * torch.tensor(copies)
    torch.testing.assert_close(expected_copies(chances), mean)


@settings(max_examples=20)
@given(
    st.lists(st.fixed_dictionaries({name: st.sampled_from(NAMES) for name in NAMES}), min_size=4, max_size=4)
)
def test_with_clear_logits_the_penalty_is_the_cost_of_the_tree(picks: Picks) -> None:
    encoder = make(resource_weight=0.3)
    decide(encoder, picks)
    separate = len(NAMES) * sum(encoder.costs)
    expected = torch.tensor(0.3 * encoder.tree().cost(encoder.costs) / separate)
    torch.testing.assert_close(encoder.penalties(), {"resources": expected})


def test_the_penalty_lies_between_sharing_all_and_nothing_and_its_gradient_makes_tasks_share() -> None:
    encoder = make(resource_weight=1.0)
    with torch.no_grad():
        for logits in encoder.logits.parameters():
            logits.normal_()
    cost = encoder.penalties()["resources"]
    assert 1 / 3 < cost < 1
    optimizer = torch.optim.Adam(encoder.logits.parameters(), lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        encoder.penalties()["resources"].backward()
        optimizer.step()
    assert encoder.penalties()["resources"] < 0.34 < cost
    assert encoder.tree().text() == ("semseg depth normals",) * 5


def test_the_temperature_falls_evenly_after_the_warm_up() -> None:
    encoder = make(warmup=0.2, temperature=5.0, final_temperature=1.0)
    for step, warming, temperature in [
        (0, True, 5),
        (1, True, 5),
        (2, False, 5),
        (6, False, 3),
        (10, False, 1),
    ]:
        encoder.at_step(step, 10)
        assert (encoder.warming, encoder.temperature.item()) == (warming, temperature)
    resumed = make(warmup=0.2, temperature=5.0, final_temperature=1.0)
    resumed.at_step(6, 10)
    assert resumed.temperature.item() == 3


def test_tasks_share_a_part_only_if_they_chose_alike_before() -> None:
    encoder = make()
    assert encoder.tree().text() == ("semseg depth normals",) * 5  # equal chances: the first by name
    decide(encoder, PICKS)
    assert encoder.tree().text() == TREE


@pytest.mark.parametrize("size", [(64, 64), (33, 65)])
def test_in_evaluation_it_is_its_discrete_network_to_the_bit(size: tuple[int, int]) -> None:
    encoder = make().train()
    encoder(images())
    decide(encoder, PICKS)
    made, expected = encoder.eval()(images(*size)), branched_from(encoder).eval()(images(*size))
    for task in NAMES:
        assert all(torch.equal(a, b) for a, b in zip(made[task], expected[task], strict=True))


@pytest.mark.parametrize("hard", [True, False])
def test_in_training_with_clear_logits_it_computes_what_its_discrete_network_does(hard: bool) -> None:
    encoder = make(temperature=1e-3, final_temperature=1e-3, hard=hard)
    decide(encoder, PICKS)
    branched = branched_from(encoder).train()
    torch.testing.assert_close(encoder.train()(images()), branched(images()))


def test_running_statistics_count_only_batches_of_tasks_that_prefer_the_copy() -> None:
    encoder = make(temperature=1e-3, final_temperature=1e-3)
    decide(encoder, PICKS)
    encoder.train()(images())
    counted = {
        (node, part): int(next(b for n, b in encoder.part(node, part).named_buffers() if "tracked" in n))
        for node in NAMES
        for part in range(1, 5)
    }
    expected = dict.fromkeys(counted, 0)
    expected["normals", 1] = 1  # one stem, so one batch for all tasks
    for part, picks in enumerate(PICKS[1:], start=2):
        for chosen in picks.values():
            expected[chosen, part] += 1
    assert counted == expected


def test_statistics_that_do_not_count_change_nothing_but_the_buffers() -> None:
    norm, features = nn.BatchNorm1d(3), torch.randn(5, 3, requires_grad=True)
    with counted_if(norm, torch.tensor(False)):
        made = norm(features)
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.zeros(3))
    made.square().sum().backward()
    assert torch.equal(made, norm(features))


def test_in_the_warm_up_each_task_has_its_own_copies() -> None:
    encoder = make(warmup=0.5).train()
    encoder.at_step(0, 10)
    pyramids = encoder(images())
    parameters = list(encoder.parameters())
    for task in NAMES:
        total = sum(level.square().sum() for level in pyramids[task])
        gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
        reached = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
        own = [encoder.part("depth", 0), *(encoder.part(task, part) for part in range(1, 5))]
        assert reached == {id(p) for part in own for p in part.parameters()}
    assert not encoder.penalties()["resources"].requires_grad


@pytest.mark.parametrize("hard", [True, False])
@pytest.mark.parametrize("names", [NAMES, ("depth",)])
def test_in_training_every_parameter_is_reached_and_by_whom_is_told(
    names: tuple[str, ...], hard: bool
) -> None:
    torch.manual_seed(0)
    encoder = BMTAS(make_backbone=tiny_backbone, tasks=names, hard=hard).train()
    pyramids, shared = encoder(images()), encoder.shared_parameters()
    listed = [id(p) for parameters in shared.values() for p in parameters]
    assert sorted(listed) == sorted(id(p) for p in encoder.parameters())
    parameters = list(encoder.parameters())
    for task in names:
        total = sum(level.square().sum() for level in pyramids[task])
        gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
        reached = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
        assert reached == {id(p) for users, some in shared.items() if task in users for p in some}


@pytest.mark.parametrize("hard", [True, False])
def test_every_choice_gets_a_gradient(hard: bool) -> None:
    encoder = make(hard=hard).train()
    sum(level.square().sum() for levels in encoder(images()).values() for level in levels).backward()
    assert all(logits.grad.abs().sum() > 0 for logits in encoder.logits.parameters())


def test_order_and_subset_of_tasks_change_no_draw() -> None:
    encoder = make().train()
    turned = BMTAS(make_backbone=tiny_backbone, tasks=NAMES[::-1]).train()
    turned.load_state_dict(encoder.state_dict())

    def draw(network: BMTAS, tasks: list[str] | None = None) -> dict[str, list[Tensor]]:
        torch.manual_seed(3)
        made: dict[str, list[Tensor]] = network(images(), tasks)
        return made

    everything = draw(encoder)
    for other in (draw(turned), draw(encoder, ["normals"])):
        for task, levels in other.items():
            assert all(torch.equal(a, b) for a, b in zip(levels, everything[task], strict=True))
    assert torch.equal(turned.penalties()["resources"], encoder.penalties()["resources"])


def test_one_task_is_the_plain_network_at_its_whole_cost() -> None:
    encoder = BMTAS(make_backbone=tiny_backbone, tasks=["depth"], resource_weight=1.0)
    backbone = cast("Backbone", encoder.backbones["depth"])
    for mode in (True, False):
        encoder.train(mode)
        for one, other in zip(encoder(images())["depth"], backbone(images()), strict=True):
            torch.testing.assert_close(one, other)
    assert encoder.penalties()["resources"] == 1


def test_logits_learn_at_their_own_rate_and_are_vectors() -> None:
    encoder = make(lr_multiplier=7.0)
    assert encoder.lr_multipliers() == dict.fromkeys(encoder.logits.parameters(), 7.0)
    assert {logits.ndim for logits in encoder.logits.parameters()} == {1}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"warmup": -0.1}, "warmup"),
        ({"resource_weight": -1.0}, "resource_weight"),
        ({"resource_weight": math.nan}, "resource_weight"),
        ({"resource_weight": math.inf}, "resource_weight"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        make(**options)


def test_a_backbone_without_stages_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="bmtas"):
        BMTAS(make_backbone=lambda: create_backbone("test_vit"), tasks=NAMES)


def test_gradient_checkpointing_changes_neither_gradients_nor_statistics() -> None:
    def trained(checkpointing: bool) -> tuple[list[Tensor], list[Tensor]]:
        torch.manual_seed(0)
        encoder = BMTAS(
            make_backbone=lambda: create_backbone("test_efficientnet", gradient_checkpointing=checkpointing),
            tasks=NAMES[:2],
        ).train()
        sum(level.square().mean() for levels in encoder(images()).values() for level in levels).backward()
        return [p.grad for p in encoder.parameters()], list(encoder.buffers())

    torch.testing.assert_close(trained(True), trained(False), rtol=1e-4, atol=1e-5)


def test_the_compiler_takes_training_and_evaluation() -> None:
    encoder = BMTAS(make_backbone=lambda: tiny_backbone((4, 6), (4, 8)), tasks=NAMES[:2])
    torch.compiler.reset()
    compiled = cast("nn.Module", torch.compile(encoder, backend="eager"))
    for mode in (True, False):
        encoder.train(mode)
        torch.manual_seed(2)
        expected = encoder(images())
        torch.manual_seed(2)
        torch.testing.assert_close(compiled(images()), expected)
