"""Learning to branch: the draws, the schedule, and the tree that comes of it."""

import math
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from plait.errors import ConfigurationError
from plait.models.backbones import Backbone, create_backbone
from plait.models.encoders.branched import Branched
from plait.models.encoders.learned_branching import LearnedBranching
from plait.models.encoders.supergraph import gumbel_noise, mixed, sampled
from plait.testing import tiny_backbone

NAMES = ("semseg", "depth", "normals")
EDGES = [  # of each part: for each node of the next, and in the end for each task, who it continues
    {"depth": "depth", "normals": "semseg", "semseg": "depth"},
    {"depth": "normals", "normals": "semseg", "semseg": "normals"},
    {"depth": "semseg", "normals": "normals", "semseg": "depth"},
    {"depth": "depth", "normals": "semseg", "semseg": "semseg"},
    {"depth": "normals", "normals": "normals", "semseg": "depth"},
]
PATHS = {
    "semseg": ("semseg", "normals", "semseg", "depth", "depth"),
    "depth": ("semseg", "normals", "depth", "semseg", "normals"),
    "normals": ("semseg", "normals", "depth", "semseg", "normals"),
}


def images(height: int = 64, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def make(**options: float) -> LearnedBranching:
    torch.manual_seed(0)
    return LearnedBranching(make_backbone=tiny_backbone, tasks=NAMES, **options)


@torch.no_grad()
def decide(encoder: LearnedBranching, edges: list[dict[str, str]], by: float = 100.0) -> None:
    for place, row in zip(encoder.logits, edges, strict=True):
        for node, chosen in row.items():
            place[node][encoder.nodes.index(chosen)] = by


def branched_from(encoder: LearnedBranching) -> Branched:
    """The discrete network of the tree, with the weights and statistics of the chosen nodes."""
    branched = Branched(make_backbone=tiny_backbone, tasks=encoder.tasks, tree=encoder.tree().text())
    paths = encoder.choices()
    for part, partition in enumerate(encoder.tree().partitions):
        for group in partition:
            backbone = cast("Backbone", branched.backbones[min(group)])
            mine = backbone.stages[part - 1] if part else backbone.stem
            mine.load_state_dict(encoder.part(paths[group[0]][part], part).state_dict())
    return branched


def test_a_hard_draw_is_exactly_one_and_has_the_gradient_of_the_soft_one() -> None:
    logits = torch.tensor([[0.3, -1.0, 0.5], [2.0, 0.0, 0.0]], requires_grad=True)
    noise, temperature, weights = torch.randn(2, 3), torch.tensor(0.7), torch.randn(2, 3)
    hard = sampled(logits, noise, temperature, hard=True)
    soft = sampled(logits, noise, temperature, hard=False)
    assert hard.unique().tolist() == [0, 1]
    assert torch.equal(hard.argmax(-1), (logits + noise).argmax(-1))
    of_hard, of_soft = (torch.autograd.grad((s * weights).sum(), logits)[0] for s in (hard, soft))
    assert of_hard.abs().min() > 0
    torch.testing.assert_close(of_hard, of_soft)


def test_draws_follow_the_softmax_of_the_logits() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, -1.0])
    noise = gumbel_noise(20000, 3, device=logits.device)
    drawn = sampled(logits, noise, torch.tensor(2.0), hard=True).mean(0)
    torch.testing.assert_close(drawn, logits.softmax(-1), atol=0.015, rtol=0)


def test_a_mixture_with_one_weight_is_that_candidate_to_the_bit() -> None:
    candidates = [torch.randn(2, 3), torch.randn(2, 3)]
    assert torch.equal(mixed(torch.tensor([0.0, 1.0]), candidates), candidates[1])


def test_the_temperature_is_the_published_one() -> None:
    epochs = 200
    encoder = make(warmup=0.0, temperature=10.0, final_temperature=10 / math.sqrt(201))
    for epoch in (0, 1, 50, 199):
        encoder.at_step(epoch, epochs)
        expected = epochs / 20 / math.sqrt(epoch + 1)
        torch.testing.assert_close(encoder.temperature, torch.tensor(expected))


def test_the_schedule_is_a_function_of_the_step() -> None:
    straight, resumed = (make(warmup=0.1, temperature=8.0, final_temperature=0.5) for _ in range(2))
    for step in range(21):
        straight.at_step(step, 20)
        assert straight.warming == (step < 2)
        assert step > 2 or straight.temperature.item() == 8.0
    resumed.at_step(20, 20)
    assert resumed.temperature.item() == straight.temperature.item() == 0.5
    assert "temperature" not in straight.state_dict()


def test_paths_follow_the_likeliest_edges_and_drop_what_nobody_reaches() -> None:
    encoder = make()
    assert encoder.tree().text() == ("semseg depth normals",) * 5  # equal chances: the first by name
    decide(encoder, EDGES)
    assert encoder.choices() == PATHS
    assert encoder.tree().text() == (*["semseg depth normals"] * 2, *["semseg | depth normals"] * 3)


@pytest.mark.parametrize("size", [(64, 64), (33, 65)])
def test_in_evaluation_it_is_its_discrete_network_to_the_bit(size: tuple[int, int]) -> None:
    encoder = make().train()
    encoder(images())  # running statistics of its own
    decide(encoder, EDGES)
    made, expected = encoder.eval()(images(*size)), branched_from(encoder).eval()(images(*size))
    for task in NAMES:
        assert all(torch.equal(a, b) for a, b in zip(made[task], expected[task], strict=True))


def test_in_evaluation_only_the_nodes_on_the_paths_are_run() -> None:
    encoder = make().eval()
    decide(encoder, EDGES)
    ran = []
    for node in NAMES:
        for part in range(5):
            encoder.part(node, part).register_forward_hook(lambda *_, where=(node, part): ran.append(where))
    encoder(images())
    assert sorted(ran) == sorted({(node, part) for path in PATHS.values() for part, node in enumerate(path)})
    ran.clear()
    encoder(images(), tasks=["semseg"])
    assert ran == [(node, part) for part, node in enumerate(PATHS["semseg"])]


def test_in_training_with_clear_logits_it_trains_as_its_discrete_network() -> None:
    encoder = make(temperature=1e-3, final_temperature=1e-3)
    decide(encoder, EDGES)
    branched = branched_from(encoder).train()
    made, expected = encoder.train()(images()), branched(images())
    for pyramids in (made, expected):
        sum(level.square().mean() for levels in pyramids.values() for level in levels).backward()
    again = branched_from(encoder)  # the nodes' statistics after the step
    torch.testing.assert_close(made, expected)
    torch.testing.assert_close(dict(again.named_buffers()), dict(branched.named_buffers()))
    trained = cast("Backbone", branched.backbones["semseg"]).stages[3]
    for mine, other in zip(encoder.part("depth", 4).parameters(), trained.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.parametrize("names", [NAMES, ("depth",)])
def test_in_training_every_parameter_is_reached_and_by_whom_is_told(names: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    encoder = LearnedBranching(make_backbone=tiny_backbone, tasks=names).train()
    pyramids, shared = encoder(images()), encoder.shared_parameters()
    listed = [id(p) for parameters in shared.values() for p in parameters]
    assert sorted(listed) == sorted(id(p) for p in encoder.parameters())
    parameters = list(encoder.parameters())
    for task in names:
        total = sum(level.square().sum() for level in pyramids[task])
        gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
        reached = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
        assert reached == {id(p) for users, some in shared.items() if task in users for p in some}


def test_edges_get_a_gradient_except_in_the_warm_up() -> None:
    encoder = make(warmup=0.5).train()
    for step, learns in [(0, False), (5, True)]:
        encoder.zero_grad()
        encoder.at_step(step, 10)
        torch.manual_seed(1)
        sum(level.square().sum() for levels in encoder(images()).values() for level in levels).backward()
        # A node on nobody's path gets a gradient of zero; the tasks' own draws always count.
        assert all((logits.grad is not None) == learns for logits in encoder.logits.parameters())
        assert not learns or all(bool(g.grad.abs().sum() > 0) for g in encoder.logits[-1].parameters())
        assert encoder.part("depth", 0)[0][0].weight.grad is not None


def test_order_and_subset_of_tasks_change_no_draw() -> None:
    encoder = make().train()
    turned = LearnedBranching(make_backbone=tiny_backbone, tasks=NAMES[::-1]).train()
    turned.load_state_dict(encoder.state_dict())

    def draw(network: LearnedBranching, tasks: list[str] | None = None) -> dict[str, list[Tensor]]:
        torch.manual_seed(3)
        made: dict[str, list[Tensor]] = network(images(), tasks)
        return made

    everything = draw(encoder)
    assert list(draw(turned)) == list(NAMES[::-1])
    for other in (draw(turned), draw(encoder, ["normals"])):
        for task, levels in other.items():
            assert all(torch.equal(a, b) for a, b in zip(levels, everything[task], strict=True))


def test_one_task_is_the_plain_network() -> None:
    encoder = LearnedBranching(make_backbone=tiny_backbone, tasks=["depth"])
    backbone = cast("Backbone", encoder.backbones["depth"])
    for mode in (True, False):
        encoder.train(mode)
        for one, other in zip(encoder(images())["depth"], backbone(images()), strict=True):
            assert torch.equal(one, other)


def test_logits_learn_at_their_own_rate_and_are_vectors() -> None:
    encoder = make(lr_multiplier=7.0)
    assert set(encoder.lr_multipliers().values()) == {7.0}
    assert set(encoder.lr_multipliers()) == set(encoder.logits.parameters())
    assert {logits.ndim for logits in encoder.logits.parameters()} == {1}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"warmup": 1.0}, "warmup"),
        ({"final_temperature": 0.0}, "temperature"),
        ({"temperature": 0.1}, "temperature"),
        ({"temperature": math.inf}, "temperature"),
        ({"lr_multiplier": -1.0}, "lr_multiplier"),
        ({"lr_multiplier": math.nan}, "lr_multiplier"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        make(**options)


def test_a_backbone_without_stages_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="learned_branching"):
        LearnedBranching(make_backbone=lambda: create_backbone("test_vit"), tasks=NAMES)


def test_the_compiler_takes_training_and_evaluation() -> None:
    encoder = LearnedBranching(make_backbone=lambda: tiny_backbone((4, 6), (4, 8)), tasks=NAMES[:2])
    torch.compiler.reset()
    compiled = cast("nn.Module", torch.compile(encoder, backend="eager"))
    for mode in (True, False):
        encoder.train(mode)
        torch.manual_seed(2)
        expected = encoder(images())
        torch.manual_seed(2)
        torch.testing.assert_close(compiled(images()), expected)
