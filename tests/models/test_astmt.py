"""One task at a time: shared weights, each task's own beside them, and a discriminator of their gradients."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from tests.balancing.tiny import TASKS, part, tiny_batch, tiny_tasks
from torch import Tensor, nn

from plait import balancing
from plait.data.sample import Batch
from plait.errors import ConfigurationError
from plait.models.backbones import Backbone, create_backbone
from plait.models.decoders.astmt import ASTMTDecoder, GradientDiscriminator, Reversed, reversal_strength
from plait.models.encoders.astmt import ASTMT
from plait.models.modulation import Adapted, PerTask, own_parameters
from plait.models.network import MultiTaskNetwork, create_model
from plait.models.parameters import freeze_batch_norm
from plait.tasks.objective import losses as task_losses
from plait.testing import reordered_state, tiny_backbone
from plait.training.precision import LossScaler
from plait.training.step import alternating_step, training_step

FAMILIES = ["test_resnet", "resnet26", "test_efficientnet", "test_convnext", "swin_tiny_patch4_window7_224"]


def backbone(name: str = "test_resnet") -> Backbone:
    torch.manual_seed(0)
    made = create_backbone(name)
    for parameter in made.parameters():  # norms that differ from their usual start
        nn.init.normal_(parameter, std=0.2) if parameter.ndim == 1 else None
    return made


def images(height: int = 33, width: int = 65, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def encoder(name: str = "test_resnet", tasks: Sequence[str] = TASKS, **options: Any) -> ASTMT:
    return ASTMT(make_backbone=lambda: backbone(name), tasks=tasks, **options).eval()


# -------------------------------------------------------------------------------------------------- encoder


@pytest.mark.parametrize("name", FAMILIES)
def test_zero_adapters_and_copied_norms_leave_the_plain_backbone(name: str) -> None:
    made = encoder(name, TASKS[:2], squeeze_excite=False)
    assert sum(isinstance(part, Adapted) for part in made.modules()) > 0
    with torch.no_grad():
        pyramids, plain = made(images()), backbone(name).eval()(images())
    for task in TASKS[:2]:
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(pyramids[task], plain, strict=True))


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext"])
def test_gates_at_the_output_of_a_block_are_open_at_first(name: str) -> None:
    with torch.no_grad():
        levels = encoder(name)(images())["depth"]
        plain = backbone(name).eval()(images())
    torch.testing.assert_close(levels, plain)


@pytest.mark.parametrize("name", ["test_resnet", "resnet26"])
def test_gates_scale_the_residual_branch_of_a_resnet_before_the_shortcut(name: str) -> None:
    """With gates of a half everywhere: what the block does by hand with half its last norm."""
    made = encoder(name, TASKS[:1])
    for gate in own_parameters(made, TASKS[:1])["semseg"]:
        if gate.ndim == 2:
            nn.init.zeros_(gate)
    for module in made.modules():
        if hasattr(module, "gate") and isinstance(module.gate, nn.Sequential):
            for layer in module.gate.parameters():
                nn.init.zeros_(layer)
    plain = backbone(name).eval()
    for stage in plain.stages:
        for block in stage:
            last = block.bn3 if hasattr(block, "bn3") else block.bn2
            last.weight.data /= 2
            last.bias.data /= 2
    with torch.no_grad():
        torch.testing.assert_close(made(images())["semseg"], plain(images()))


def test_the_attention_of_a_backbone_is_copied_for_each_task() -> None:
    with torch.no_grad():
        levels = encoder("test_efficientnet")(images())["depth"]
    torch.testing.assert_close(levels, backbone("test_efficientnet").eval()(images()))
    made = encoder("seresnet18", adapters=False, task_norm=False)
    slots = [block.block.se for stage in made.backbone.stages for block in stage]
    original = [block.se for stage in backbone("seresnet18").stages for block in stage]
    for slot, se in zip(slots, original, strict=True):
        assert isinstance(slot, PerTask)
        copies = [list(slot.of[task].parameters()) for task in TASKS]
        assert all(torch.equal(a, b) for copy in copies for a, b in zip(copy, se.parameters(), strict=True))
        assert len({id(p) for copy in copies for p in copy}) == 3 * len(list(se.parameters()))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_what_belongs_to_a_task_changes_that_task_only(name: str) -> None:
    made = encoder(name)
    own = own_parameters(made, TASKS)
    with torch.no_grad():
        before = made(images())
        for parameter in own["depth"]:
            parameter += 0.1
        after = made(images())
    for task in TASKS:
        same = [torch.equal(a, b) for a, b in zip(before[task], after[task], strict=True)]
        assert not any(same) if task == "depth" else all(same)
    kinds = {
        "se": lambda part: type(part).__name__ in ("SqueezeExcite", "SEModule"),
        "adapter": lambda part: isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1),
        "norm": lambda part: "Norm" in type(part).__name__,
    }
    copies = [copy for part in made.modules() if isinstance(part, PerTask) for copy in part.of.values()]
    assert all(any(kind(copy) for copy in copies) for kind in kinds.values())


def test_running_statistics_are_those_of_the_tasks_that_passed() -> None:
    made = encoder().train()
    before = {name: buffer.clone() for name, buffer in made.named_buffers()}
    made(images(), tasks=["depth"])
    for name, buffer in made.named_buffers():
        passed = "depth" in name or "stem" in name
        assert torch.equal(buffer, before[name]) != passed, name
    counted = encoder(task_norm=False).train()
    counted(images())
    counts = {name: int(b) for name, b in counted.named_buffers() if name.endswith("num_batches_tracked")}
    assert {count for name, count in counts.items() if "stem" in name} == {1}
    assert {count for name, count in counts.items() if "stem" not in name} == {3}


def test_blocks_computed_again_are_those_of_their_own_task() -> None:
    """In the backward pass the last task's forward pass is over, and another is the active one."""

    def gradients(checkpointing: bool) -> tuple[list[Tensor], list[Tensor]]:
        torch.manual_seed(0)
        made = ASTMT(
            make_backbone=lambda: create_backbone("test_resnet", gradient_checkpointing=checkpointing),
            tasks=TASKS,
        )
        pyramids = made(images())
        torch.stack(
            [level.square().mean() for levels in pyramids.values() for level in levels]
        ).sum().backward()
        return [p.grad for p in made.parameters() if p.grad is not None], list(made.buffers())

    (plain, statistics), (again, kept) = gradients(False), gradients(True)
    torch.testing.assert_close(again, plain)
    torch.testing.assert_close(kept, statistics, rtol=0, atol=0)


def test_parameters_are_counted_as_the_page_says() -> None:
    """Each task adds two values a norm channel, C/16 (2C + 1) + C an SE of C channels, a ninth a 3x3."""
    plain, made = backbone("resnet18"), encoder("resnet18")
    own = sum(p.numel() for p in own_parameters(made, TASKS)["depth"])
    blocks = [block for stage in plain.stages for block in stage]
    norms = sum(2 * m.num_features for b in blocks for m in b.modules() if isinstance(m, nn.BatchNorm2d))
    adapters = sum(
        m.weight.numel() // 9
        for b in blocks
        for m in b.modules()
        if isinstance(m, nn.Conv2d) and m.padding != (0, 0)
    )
    widths = [b.bn2.num_features for b in blocks]
    gates = sum(c // 16 * (2 * c + 1) + c for c in widths)
    assert own == norms + adapters + gates
    assert sum(p.numel() for p in made.parameters()) == (
        sum(p.numel() for p in plain.parameters()) - norms + 3 * own
    )


def test_a_task_learns_at_as_many_times_the_rate_as_there_are_tasks() -> None:
    made = encoder()
    own = {p for parameters in own_parameters(made, TASKS).values() for p in parameters}
    assert made.lr_multipliers() == dict.fromkeys(own, 3.0)
    assert set(encoder(lr_multiplier=1.5).lr_multipliers().values()) == {1.5}
    depths = made.backbone.depths()
    last = max(name for name in depths if name.startswith("stages.3"))
    assert depths[last] == 0


def test_one_task_is_one_network() -> None:
    made = encoder(tasks=["depth"])
    assert list(made.shared_parameters()) == [("depth",)]
    assert len(made.shared_parameters()[("depth",)]) == len(list(made.parameters()))
    small = ASTMT(make_backbone=tiny_backbone, tasks=["depth"]).eval()
    assert [level.shape[1] for level in small(images())["depth"]] == [8, 12, 16, 20]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"squeeze_excite": False, "adapters": False, "task_norm": False}, "got none of them"),
        ({"reduction": 0}, "reduction .* must be 1 or more, got 0"),
        ({"lr_multiplier": 0.0}, "lr_multiplier must be positive"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ASTMT(make_backbone=tiny_backbone, tasks=TASKS, **options)


def test_the_backbone_may_be_made_on_another_device() -> None:
    encoder = ASTMT(make_backbone=lambda: tiny_backbone().to("meta"), tasks=TASKS)
    assert encoder.channels["depth"] == (8, 12, 16, 20)


def test_backbones_without_stages_are_refused() -> None:
    for name in ("test_vit", "hrnet_w18_small_v2"):
        with pytest.raises(ConfigurationError, match=f"'astmt' acts between the stages .* '{name}' has none"):
            encoder(name)


# -------------------------------------------------------------------------------------------------- decoder


def decoder(
    channels: Sequence[int] = (8, 12, 16), strides: Sequence[int] = (4, 8, 8), **options: Any
) -> ASTMTDecoder:
    torch.manual_seed(0)
    return ASTMTDecoder(
        tasks=tiny_tasks(),
        channels=dict.fromkeys(TASKS, channels),
        strides=dict.fromkeys(TASKS, strides),
        **{"width": 16, **options},
    )


def pyramid(channels: Sequence[int] = (8, 12, 16), strides: Sequence[int] = (4, 8, 8)) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(2, c, 32 // s, 48 // s) for c, s in zip(channels, strides, strict=True)]


@pytest.mark.parametrize("shape", [((8, 12, 16), (4, 8, 8)), ((6, 8), (8, 16)), ((8,), (4,))])
def test_every_parameter_of_the_decoder_takes_part(shape: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    made = decoder(*shape)
    predictions = made(dict.fromkeys(TASKS, pyramid(*shape)), (32, 48))
    assert list(predictions.final) == list(TASKS)
    assert predictions.features == {}
    torch.stack([final.square().sum() for final in predictions.final.values()]).sum().backward()
    assert [name for name, p in made.named_parameters() if p.grad is None] == []


def test_tasks_do_not_meet_in_the_decoder() -> None:
    made = decoder().eval()
    same = pyramid()
    with torch.no_grad():
        before = made(dict.fromkeys(TASKS, same), (32, 48)).final
        alone = made({"depth": same}, (32, 48)).final
        other = made({**dict.fromkeys(TASKS, same), "depth": [2 * level for level in same]}, (32, 48)).final
        for parameter in own_parameters(made, TASKS)["normals"]:
            parameter += 0.1
        after = made(dict.fromkeys(TASKS, same), (32, 48)).final
    assert torch.equal(alone["depth"], before["depth"])
    assert [torch.equal(other[task], before[task]) for task in TASKS] == [True, False, True]
    assert [torch.equal(after[task], before[task]) for task in TASKS] == [True, True, False]


@pytest.mark.parametrize(("stride", "dilations"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [6, 12, 18])])
def test_its_parts_are_those_of_the_paper(stride: int, dilations: list[int]) -> None:
    made = decoder((8, 16), (4, stride), width=64)
    rates = [branch[0].shared.dilation[0] for branch in made.branches][1:]
    assert rates == dilations
    assert made.reduce[0].shared.out_channels == 12
    assert made.reduce[2].of["depth"].gate[0].out_features == 3
    assert made.project[2].of["depth"].gate[0].out_features == 4
    assert isinstance(made.pooling[1], nn.Conv2d)
    assert isinstance(made.pooling[2], PerTask)
    adapters = [
        part.adapters.of[task] for part in made.modules() if isinstance(part, Adapted) for task in TASKS
    ]
    assert len(adapters) == 3 * (4 + 1 + 1 + 2)
    assert all(adapter.kernel_size == (1, 1) and not adapter.weight.any() for adapter in adapters)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width and rates of 1 or more, got 0"),
        ({"adversarial_weight": -0.1}, "adversarial_weight must be 0 or more"),
        ({"adversarial_weight": 0.1, "kernel": 2}, "kernel must be odd"),
    ],
)
def test_options_of_the_decoder_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        decoder(**options)


def test_a_batch_of_one_is_refused_in_training() -> None:
    made, one = decoder(), [level[:1] for level in pyramid()]
    with pytest.raises(ConfigurationError, match="at least 2 images at a time in training, got 1"):
        made({"depth": one}, (32, 48))
    assert made.eval()({"depth": one}, (32, 48)).final["depth"].shape == (1, 1, 32, 48)
    freeze_batch_norm(made)  # then nothing is normalised over the batch
    assert made.train()({"depth": one}, (32, 48)).final["depth"].shape == (1, 1, 32, 48)


# -------------------------------------------------------------------------------------------- discriminator


def network(encoder_name: str = "shared", **options: Any) -> MultiTaskNetwork:
    torch.manual_seed(0)
    return create_model(
        backbone="test_resnet",
        tasks=tiny_tasks(),
        encoder=encoder_name,
        decoder="astmt",
        decoder_options={"width": 8, **options},
    )


def batch_of(images_: int = 2, absent: dict[str, Sequence[int]] | None = None) -> Batch:
    """Images of 32 x 48 pixels with the labels of small ones, enlarged."""
    small = tiny_batch(images_, absent=absent, dtype=torch.float32)

    def enlarge(tensor: Tensor) -> Tensor:
        return tensor.repeat_interleave(8, -2).repeat_interleave(8, -1)

    targets = {name: enlarge(target) for name, target in small.targets.items()}
    return Batch(enlarge(small.images), targets, small.present, small.ids, small.geometry)


def penalties(model: MultiTaskNetwork, batch: Batch) -> dict[str, Tensor]:
    predictions = model(batch.images)
    return model.decoder.loss_penalties(predictions, task_losses(model.tasks, predictions, batch.targets))


def test_the_reversal_grows_from_nothing_to_nearly_one() -> None:
    strengths = [reversal_strength(place / 10) for place in range(11)]
    assert strengths[0] == 0
    assert strengths[5] == pytest.approx(2 / (1 + math.exp(-5)) - 1)
    assert strengths[-1] == pytest.approx(1, abs=1e-4)
    assert all(earlier < later for earlier, later in pairwise(strengths))
    made = decoder(adversarial_weight=0.01)
    made.at_step(30, 100)
    assert made.reversal == reversal_strength(0.3)


def test_the_gradient_is_reversed_and_scaled() -> None:
    values = torch.randn(3, requires_grad=True)
    made = Reversed.apply(values, 0.25)
    assert torch.equal(made, values)
    (gradient,) = torch.autograd.grad(made, values, torch.tensor([1.0, -2.0, 3.0]))
    assert gradient.tolist() == [-0.25, 0.5, -0.75]


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_discriminator_learns_and_the_network_gets_the_reverse(kernel: int) -> None:
    """Against the same loss with plain gradients, written out."""
    torch.manual_seed(0)
    discriminator = GradientDiscriminator(6, 3, kernel).double()
    features = torch.randn(2, 6, 4, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        mixed = (features * weight[:, None, None]).sum(1).sin()
        return mixed[:, :3].mean()  # the last row is out of reach

    (gradient,) = torch.autograd.grad(loss(), features, create_graph=True)
    direction = gradient / (gradient.norm(dim=1, keepdim=True) + 1e-300)
    logits = discriminator.classify(discriminator.hidden(direction).relu())[:, :, :3]
    plain = nn.functional.cross_entropy(logits, torch.full_like(logits[:, 0], 1, dtype=torch.long))
    parameters = list(discriminator.parameters())
    expected = torch.autograd.grad(plain, [*parameters, weight, features])
    ours = discriminator(loss(), features, 1, 0.3)
    torch.testing.assert_close(ours, plain)
    got = torch.autograd.grad(ours, [*parameters, weight, features])
    torch.testing.assert_close(got[:4], expected[:4])
    torch.testing.assert_close(got[4:], tuple(-0.3 * each for each in expected[4:]))
    assert float(expected[4].abs().max()) > 1e-3


def test_nothing_reaches_the_network_before_the_reversal_begins() -> None:
    model = network(adversarial_weight=0.5, kernel=3)
    penalties(model, batch_of())["discriminator"].backward()
    for name, parameter in model.named_parameters():
        moved = parameter.grad is not None and bool(parameter.grad.any())
        assert moved == ("discriminator" in name), name
    model.zero_grad()
    model.at_step(9, 10)
    penalties(model, batch_of())["discriminator"].backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert any(name.startswith("encoder") for name in reached)


def test_the_penalty_is_weighted_and_counts_the_tasks_with_a_loss() -> None:
    def value(weight: float, **labels: Any) -> float:
        found = penalties(network(adversarial_weight=weight), batch_of(**labels))
        return float(found["discriminator"].detach())

    everything = value(1.0)
    assert value(0.01) == pytest.approx(0.01 * everything)
    chance = 3 * math.log(3)
    assert everything == pytest.approx(chance, rel=0.3)
    assert value(1.0, absent={"depth": [0, 1]}) == pytest.approx(2 / 3 * chance, rel=0.3)
    unknown = batch_of()
    unknown.targets["depth"][:] = torch.nan
    model = network(adversarial_weight=1.0)
    without = network(adversarial_weight=1.0)
    labelled = {name: target for name, target in unknown.targets.items() if name != "depth"}
    fewer = Batch(unknown.images, labelled, unknown.present, unknown.ids, unknown.geometry)
    torch.testing.assert_close(penalties(model, unknown), penalties(without, fewer))


def test_the_order_of_tasks_does_not_matter_to_the_discriminator() -> None:
    straight = network("astmt", adversarial_weight=1.0)
    turned = create_model(
        backbone="test_resnet",
        tasks=tiny_tasks(TASKS[::-1]),
        encoder="astmt",
        decoder="astmt",
        decoder_options={"width": 8, "adversarial_weight": 1.0},
    )
    turned.load_state_dict(reordered_state(straight, TASKS, TASKS[::-1]))
    torch.testing.assert_close(penalties(turned, batch_of()), penalties(straight, batch_of()))


def test_there_is_no_penalty_without_weight_or_without_gradients() -> None:
    model = network()
    assert penalties(model, batch_of()) == {}
    assert not any("discriminator" in name for name in model.state_dict())
    assert network("astmt").decoder.lr_multipliers().keys() & set(model.parameters()) == set()
    adversarial = network(adversarial_weight=0.1).eval()
    with torch.no_grad():
        assert penalties(adversarial, batch_of()) == {}
    tens = [p for p, factor in adversarial.lr_multipliers().items() if factor == 10]
    assert tens == list(adversarial.decoder.discriminator.parameters())
    with pytest.raises(ConfigurationError, match="two tasks or more to tell apart"):
        create_model(
            backbone="test_resnet",
            tasks=tiny_tasks(("depth",)),
            decoder="astmt",
            decoder_options={"adversarial_weight": 0.1},
        )


RULES: dict[str, dict[str, Any]] = {
    "equal": {},
    "mgda parameters": {"scope": "parameters"},
    "mgda features": {"scope": "features"},
}


def gradients(rule: str, encoder_name: str, batches: Sequence[Batch], **options: Any) -> dict[str, Tensor]:
    """The gradients of a step, normed by the statistics that the network starts with."""
    model = network(encoder_name, adversarial_weight=0.5).double()
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    model.at_step(1, 2)
    balancer = balancing.create(rule.split()[0], tasks=TASKS, **RULES[rule])
    training_step(model, batches, balancer, torch.optim.SGD(model.parameters(), lr=0.0), **options)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def double(batch: Batch) -> Batch:
    return part(
        Batch(
            batch.images.double(),
            {n: t if n == "semseg" else t.double() for n, t in batch.targets.items()},
            batch.present,
            batch.ids,
            batch.geometry,
        ),
        range(len(batch.images)),
    )


def test_rules_on_gradients_add_the_penalty_outside() -> None:
    """At the cut and without one; the discriminator's own gradient is the same under every rule."""
    batch = double(batch_of(4))
    plain = gradients("equal", "shared", [batch])
    cut = gradients("mgda features", "shared", [batch])
    uncut = gradients("mgda parameters", "astmt", [batch])
    scaled = gradients("equal", "shared", [batch], scaler=LossScaler(2.0**8))
    names = [name for name in plain if "discriminator" in name]
    assert len(names) == 4
    for name in names:
        torch.testing.assert_close(cut[name], plain[name])
        assert name in uncut
    for name, gradient in plain.items():
        torch.testing.assert_close(scaled[name], gradient)
    # One direction for the encoder: the rule's mixture, and the penalty with weight one on top of it.
    model = network("shared", adversarial_weight=0.5)
    assert cut.keys() == {name for name, _ in model.named_parameters()}


def test_the_cut_gives_the_penalty_of_the_whole_network() -> None:
    """MGDA over parameters is exact with and without the cut, so it must see the same penalty in both."""
    batch = double(batch_of(4))
    with_cut = gradients("mgda parameters", "shared", [batch])
    balancer = balancing.create("mgda", tasks=TASKS, scope="parameters")
    model = network("shared", adversarial_weight=0.5).double().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    model.at_step(1, 2)
    model.encoder.has_cut = False
    training_step(model, [batch], balancer, torch.optim.SGD(model.parameters(), lr=0.0))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(with_cut[name], parameter.grad)


def test_parts_of_a_batch_give_their_shares_of_the_penalty() -> None:
    batch = double(batch_of(4))
    whole = gradients("equal", "astmt", [batch])
    parts = gradients("equal", "astmt", [part(batch, [0, 1]), part(batch, [2, 3])])
    assert parts.keys() == whole.keys()
    flat = [torch.cat([found[name].flatten() for name in whole]) for found in (parts, whole)]
    assert float(torch.cosine_similarity(*flat, dim=0)) > 0.99  # means over the known locations of each part


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_direction_of_gradients_survives_half_precision(precision: Any) -> None:
    batch, found = batch_of(4), []
    for each in ("fp32", precision):
        model = network(adversarial_weight=1.0)
        scaler = LossScaler(2.0**8) if each == "fp16" else None
        balancer = balancing.create("equal", tasks=TASKS)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        report = training_step(model, [batch], balancer, optimizer, precision=each, scaler=scaler)
        assert bool(report.updated)
        found.append(torch.cat([p.grad.flatten() for p in model.decoder.discriminator.parameters()]))
    assert float(torch.cosine_similarity(*found, dim=0)) > 0.99


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize(("checkpointing", "make_step"), [(False, training_step), (True, alternating_step)])
def test_compiled_it_makes_the_same_step(checkpointing: bool, make_step: Any) -> None:
    """Graphs as the compiler sees them, run by torch itself: generating code takes minutes."""
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = create_model(
            backbone="test_resnet",
            backbone_options={"gradient_checkpointing": checkpointing},
            tasks=tiny_tasks(TASKS[:2]),
            encoder="astmt",
            decoder="astmt",
            decoder_options={"width": 8, "adversarial_weight": 0.5},
        )
        model.at_step(1, 2)
        if compiled:
            model.encoder.compile(backend="aot_eager")
            model.decoder.compile(backend="aot_eager")
        balancer = balancing.create("equal", tasks=TASKS[:2])
        batch = batch_of()
        del batch.targets["normals"]
        make_step(model, [batch], balancer, torch.optim.SGD(model.parameters(), lr=0.1))
        found.append(dict(model.state_dict()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    torch.compiler.reset()
