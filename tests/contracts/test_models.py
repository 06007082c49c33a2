"""What every backbone, encoder, decoder and head must do, run over one list of each."""

from collections.abc import Sequence
from functools import cache
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import plait
from plait import registry
from plait.errors import ConfigurationError
from plait.models.backbones import Backbone, create_backbone
from plait.models.decoders.base import Decoder
from plait.models.encoders.base import Encoder
from plait.models.heads import Head
from plait.tasks.base import Task
from plait.testing import reordered_state, tiny_backbone

BACKBONES: dict[str, dict[str, Any]] = {
    "resnet18": {},
    "test_resnet": {"output_stride": 32},
    "tf_efficientnet_lite0": {},
    "test_efficientnet": {},
    "test_convnext": {},
    "swin_tiny_patch4_window7_224": {},
    "hrnet_w18_small_v2": {},
    "test_vit": {},
    "vit_tiny_patch16_dinov3_qkvb": {},
}
ENCODERS = list(registry.ENCODERS)
DECODERS = list(registry.DECODERS)
HEADS = list(registry.HEADS)
NAMES = ("semseg", "depth", "normals")


@cache
def backbone_of(name: str) -> Backbone:
    """A backbone in evaluation mode, made once; tests leave it as it is."""
    torch.manual_seed(0)
    return create_backbone(name, **BACKBONES[name]).eval()


def make_encoder(name: str, tasks: Sequence[str] = NAMES) -> Encoder:
    """An encoder with no parameter at a special start: at random, in training only if it searches."""
    torch.manual_seed(0)
    encoder: Encoder = registry.build(
        "encoder", name, encoder_options(name, tasks), make_backbone=tiny_backbone, tasks=tasks
    )
    randomise(encoder)
    return encoder.train(encoder.searches)


def encoder_options(name: str, tasks: Sequence[str]) -> dict[str, Any]:
    """What an encoder must be told: here, that the first task by name branches off before the last stages."""
    if name != "branched":
        return {}
    first, *others = sorted(tasks) or ["none"]
    return {"tree": [" ".join(tasks)] * 3 + [f"{first} | {' '.join(others)}" if others else first]}


def decoder_options(name: str, tasks: Sequence[Task]) -> dict[str, Any]:
    """Small widths, and what must not depend on the order in which tasks are declared."""
    wide: dict[str, dict[str, Any]] = {
        "pad_net": {"width": 16},
        "pap_net": {"width": 16},
        "psd": {"width": 16},
    }
    wide |= {"mti_net": {"neck": "fpn", "width": 16}}
    return wide.get(name, {}) | (
        {"width": 16, "order": sorted(t.name for t in tasks)} if name == "jtrl" else {}
    )


def randomise(module: nn.Module) -> None:
    """Moves every parameter and running statistic a little, so that none is at a special value."""
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    for key, buffer in module.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_(std=0.1)


def encode(encoder: Encoder, *given: Any, **options: Any) -> dict[str, list[Tensor]]:
    """Runs an encoder with the same random draws each time."""
    torch.manual_seed(1)
    pyramids: dict[str, list[Tensor]] = encoder(*given, **options)
    return pyramids


def make_tasks(names: Sequence[str] = NAMES, auxiliary: Sequence[str] = ()) -> tuple[Task, ...]:
    kinds: dict[str, dict[str, Any]] = {
        "semseg": {"kind": "semantic", "classes": 5},
        "depth": {"kind": "depth"},
        "normals": {"kind": "normals"},
    }
    return plait.tasks.parse({name: {**kinds[name], "auxiliary": name in auxiliary} for name in names})


def make_decoder(name: str, tasks: Sequence[Task], encoder: Encoder) -> Decoder:
    torch.manual_seed(0)
    decoder: Decoder = registry.build(
        "decoder",
        name,
        decoder_options(name, tasks),
        tasks=tasks,
        channels=encoder.channels,
        strides=encoder.strides,
        groups=encoder.groups,
        default_head=encoder.default_head,
    )
    randomise(decoder)
    return decoder.eval()


def images(height: int = 64, width: int = 64, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def level_shapes(
    channels: Sequence[int], strides: Sequence[int], height: int, width: int
) -> list[tuple[int, ...]]:
    return [(2, c, -(-height // s), -(-width // s)) for c, s in zip(channels, strides, strict=True)]


# ---------------------------------------------------------------------------------------------- backbones


@pytest.mark.parametrize("name", BACKBONES)
def test_levels_have_the_stated_channels_and_strides_at_odd_sizes(name: str) -> None:
    backbone = backbone_of(name)
    with torch.no_grad():
        levels = backbone(images(65, 97))
    assert [tuple(level.shape) for level in levels] == level_shapes(
        backbone.channels, backbone.strides, 65, 97
    )
    assert all(level.isfinite().all() for level in levels)
    assert list(backbone.strides) == sorted(backbone.strides)


@settings(max_examples=12, deadline=None)
@given(
    name=st.sampled_from(["test_resnet", "test_efficientnet", "test_convnext", "test_vit"]),
    height=st.integers(8, 80),
    width=st.integers(8, 80),
)
def test_any_image_size_is_taken(name: str, height: int, width: int) -> None:
    backbone = backbone_of(name)
    with torch.no_grad():
        levels = backbone(images(height, width))
    expected = level_shapes(backbone.channels, backbone.strides, height, width)
    assert [tuple(level.shape) for level in levels] == expected


@pytest.mark.parametrize("name", BACKBONES)
def test_every_parameter_of_a_backbone_takes_part(name: str) -> None:
    backbone = backbone_of(name)
    levels = backbone(images())
    gradients = torch.autograd.grad(
        sum(level.square().sum() for level in levels), list(backbone.parameters()), allow_unused=True
    )
    unused = [n for (n, _), g in zip(backbone.named_parameters(), gradients, strict=True) if g is None]
    assert unused == []


@pytest.mark.parametrize("name", [name for name in BACKBONES if len(backbone_of(name).stages)])
def test_stages_run_one_by_one_give_the_pyramid(name: str) -> None:
    backbone, batch = backbone_of(name), images(65, 97)
    with torch.no_grad():
        features, levels = backbone.stem(backbone.pad(batch)), []
        for stage in backbone.stages:
            for block in stage:
                features = block(features)
            levels.append(features)
        expected = backbone(batch)
    for level, other in zip(backbone.crop(levels, batch.shape[-2:]), expected, strict=True):
        assert torch.equal(level, other)


@pytest.mark.parametrize("name", BACKBONES)
def test_gradient_checkpointing_changes_neither_gradients_nor_statistics(name: str) -> None:
    def trained(checkpointing: bool) -> tuple[list[Tensor], list[Tensor], int]:
        torch.manual_seed(0)
        backbone = create_backbone(name, gradient_checkpointing=checkpointing, **BACKBONES[name]).train()
        calls: list[nn.Module] = []
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(lambda module, given, made: calls.append(module))
        sum(level.square().mean() for level in backbone(images())).backward()
        gradients = [p.grad for p in backbone.parameters() if p.grad is not None]
        return gradients, list(backbone.buffers()), len(calls)

    (gradients, buffers, calls), (again, kept, more_calls) = trained(False), trained(True)
    torch.testing.assert_close(again, gradients, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(kept, buffers, rtol=0, atol=0)
    assert more_calls > 1.5 * calls


@pytest.mark.parametrize("name", BACKBONES)
def test_depths_cover_every_parameter_and_fall_towards_the_end(name: str) -> None:
    backbone = backbone_of(name)
    depths = backbone.depths()
    assert list(depths) == [name for name, _ in backbone.named_parameters()]
    assert set(depths.values()) == set(range(len(backbone.parts())))
    assert next(iter(depths.values())) == len(backbone.parts()) - 1


@pytest.mark.parametrize("name", BACKBONES)
def test_channels_last_gives_the_same_levels(name: str) -> None:
    backbone = backbone_of(name)
    with torch.no_grad():
        plain = backbone(images())
        last = backbone(images().contiguous(memory_format=torch.channels_last))
    for one, other in zip(last, plain, strict=True):
        assert (one - other).abs().max() < 1e-5 * other.abs().max()


# ----------------------------------------------------------------------------------------------- encoders


@pytest.mark.parametrize("name", ENCODERS)
def test_pyramids_are_as_declared(name: str) -> None:
    encoder = make_encoder(name)
    pyramids = encode(encoder, images(33, 65))
    assert tuple(pyramids) == encoder.tasks == NAMES
    for task, levels in pyramids.items():
        shapes = level_shapes(encoder.channels[task], encoder.strides[task], 33, 65)
        assert [tuple(level.shape) for level in levels] == shapes


@pytest.mark.parametrize("name", ENCODERS)
def test_tasks_of_one_group_get_the_very_same_tensors_and_others_do_not(name: str) -> None:
    encoder = make_encoder(name)
    pyramids = encode(encoder, images())
    assert set(encoder.groups) == set(NAMES)
    for one, other in combinations(NAMES, 2):
        same = [a is b for a, b in zip(pyramids[one], pyramids[other], strict=True)]
        assert all(same) if encoder.groups[one] == encoder.groups[other] else not all(same)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("asked", [(), ("depth",), ("normals", "semseg")])
def test_a_subset_of_tasks_gets_what_it_gets_among_all(name: str, asked: tuple[str, ...]) -> None:
    encoder = make_encoder(name)
    everything, subset = encode(encoder, images()), encode(encoder, images(), tasks=asked)
    assert list(subset) == [task for task in NAMES if task in asked]
    for task in asked:
        assert all(torch.equal(a, b) for a, b in zip(subset[task], everything[task], strict=True))


@pytest.mark.parametrize("name", ENCODERS)
def test_an_unknown_task_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="no task 'dpeth'"):
        make_encoder(name)(images(), tasks=["dpeth"])


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("names", [(), ("depth", "depth")])
def test_no_task_or_one_twice_is_refused(name: str, names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="task"):
        make_encoder(name, names)


@pytest.mark.parametrize("name", ENCODERS)
def test_shared_parameters_are_a_partition_and_say_who_uses_what(name: str) -> None:
    encoder = make_encoder(name)
    shared = encoder.shared_parameters()
    listed = [id(p) for parameters in shared.values() for p in parameters]
    assert sorted(listed) == sorted(id(p) for p in encoder.parameters())
    for users in shared:
        assert list(users) == [task for task in NAMES if task in users]
    pyramids, parameters = encode(encoder, images()), list(encoder.parameters())
    for task in NAMES:
        total = sum(level.square().sum() for level in pyramids[task])
        gradients = torch.autograd.grad(total, parameters, retain_graph=True, allow_unused=True)
        reached = {id(p) for p, g in zip(parameters, gradients, strict=True) if g is not None}
        assert reached == {id(p) for users, listed in shared.items() if task in users for p in listed}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_parameter_changes_the_tasks_that_use_it_and_no_other(name: str) -> None:
    encoder = make_encoder(name)
    if encoder.searches:
        pytest.skip("draws hard choices: what was not drawn changes nothing this time")
    for users, parameters in encoder.shared_parameters().items():
        before = encode(encoder, images())
        kept = [parameter.detach().clone() for parameter in parameters]
        for parameter in parameters:
            parameter.data += 0.1 * torch.randn_like(parameter)
        after = encode(encoder, images())
        changed = {t for t in NAMES if any(not torch.equal(a, b) for a, b in zip(before[t], after[t]))}
        assert changed == set(users)
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.data = value


@pytest.mark.parametrize("name", ENCODERS)
def test_penalties_are_scalars_of_the_parameters_and_only_without_a_cut(name: str) -> None:
    encoder = make_encoder(name)
    for penalty in encoder.penalties().values():
        assert penalty.shape == ()
        assert penalty.isfinite()
        assert penalty.requires_grad
        assert not encoder.has_cut


@pytest.mark.parametrize("name", ENCODERS)
def test_the_order_of_tasks_does_not_matter_to_an_encoder(name: str) -> None:
    encoder, turned = make_encoder(name).eval(), make_encoder(name, NAMES[::-1]).eval()
    turned.load_state_dict(reordered_state(encoder, NAMES, NAMES[::-1]))
    straight, reverse = encoder(images()), turned(images())
    assert list(reverse) == list(NAMES[::-1])
    for task in NAMES:
        torch.testing.assert_close(reverse[task], straight[task])


@pytest.mark.parametrize("name", ENCODERS)
def test_one_task_alone_is_taken(name: str) -> None:
    encoder = make_encoder(name, ("depth",))
    levels = encode(encoder, images(33, 65))["depth"]
    shapes = level_shapes(encoder.channels["depth"], encoder.strides["depth"], 33, 65)
    assert [tuple(level.shape) for level in levels] == shapes


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("backbone", ["hrnet_w18_small", "test_vit"])
def test_a_backbone_without_stages_is_taken_or_refused_with_both_names(name: str, backbone: str) -> None:
    with torch.device("meta"):
        try:
            made = registry.build(
                "encoder",
                name,
                encoder_options(name, NAMES),
                make_backbone=lambda: create_backbone(backbone),
                tasks=NAMES,
            )
        except ConfigurationError as error:
            assert repr(name) in str(error)  # noqa: PT017
            assert repr(backbone) in str(error)  # noqa: PT017
        else:
            assert tuple(made.channels) == NAMES


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_through_the_cut_are_the_gradients(name: str) -> None:
    encoder = make_encoder(name)
    if not encoder.has_cut:
        pytest.skip("has no cut")
    parameters = list(encoder.parameters())

    def loss(pyramids: dict[str, list[Tensor]]) -> Tensor:
        return torch.stack([level.sin().sum() for levels in pyramids.values() for level in levels]).sum()

    whole = torch.autograd.grad(loss(encoder(images())), parameters)
    pyramids = encode(encoder, images())
    heads = {encoder.groups[task]: levels for task, levels in pyramids.items()}
    leaves = {g: [level.detach().requires_grad_() for level in levels] for g, levels in heads.items()}
    loss({task: leaves[encoder.groups[task]] for task in NAMES}).backward()
    torch.autograd.backward(
        [level for levels in heads.values() for level in levels],
        [leaf.grad for levels in leaves.values() for leaf in levels],
    )
    torch.testing.assert_close([p.grad for p in parameters], list(whole))


# ------------------------------------------------------------------------------------- decoders and heads


@pytest.mark.parametrize("decoder_name", DECODERS)
@pytest.mark.parametrize("encoder_name", ENCODERS)
def test_final_predictions_have_the_asked_size_and_the_tasks_channels(
    encoder_name: str, decoder_name: str
) -> None:
    tasks, encoder = make_tasks(), make_encoder(encoder_name)
    final = make_decoder(decoder_name, tasks, encoder)(encoder(images(33, 65)), size=(33, 65)).final
    assert list(final) == list(NAMES)
    assert [tuple(final[t.name].shape) for t in tasks] == [(2, t.channels, 33, 65) for t in tasks]


@pytest.mark.parametrize("decoder_name", DECODERS)
def test_the_order_of_tasks_does_not_matter_to_a_decoder(decoder_name: str) -> None:
    encoder = make_encoder("separate")
    decoder = make_decoder(decoder_name, make_tasks(), encoder)
    turned = make_decoder(decoder_name, make_tasks(NAMES[::-1]), encoder)
    turned.load_state_dict(reordered_state(decoder, NAMES, NAMES[::-1]))
    pyramids = encoder(images())
    straight, reverse = decoder(pyramids, (64, 64)).final, turned(pyramids, (64, 64)).final
    assert list(reverse) == list(NAMES[::-1])
    for task in NAMES:
        torch.testing.assert_close(reverse[task], straight[task], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decoder_name", DECODERS)
@pytest.mark.parametrize("auxiliary", [(), ("normals",)])
def test_a_task_hears_of_the_others_exactly_where_the_decoder_says_so(
    decoder_name: str, auxiliary: tuple[str, ...]
) -> None:
    tasks, encoder = make_tasks(auxiliary=auxiliary), make_encoder("separate")
    try:
        decoder = make_decoder(decoder_name, tasks, encoder)
    except ConfigurationError as error:
        assert auxiliary
        assert "auxiliary" in str(error)  # noqa: PT017
        return
    pyramids = encoder(images())
    before = decoder(pyramids, (64, 64)).final
    assert list(before) == [task for task in NAMES if task not in auxiliary]
    for sender in NAMES:
        moved = {**pyramids, sender: [level + torch.rand_like(level) for level in pyramids[sender]]}
        after = decoder(moved, (64, 64)).final
        changed = {task for task in before if not torch.equal(before[task], after[task])}
        assert changed == set(before) if decoder.interacts else changed == {sender} & set(before)


@pytest.mark.parametrize("decoder_name", DECODERS)
def test_every_parameter_of_a_decoder_takes_part(decoder_name: str) -> None:
    tasks, encoder = make_tasks(), make_encoder("separate")
    decoder = make_decoder(decoder_name, tasks, encoder)
    made = decoder(encoder(images()), (64, 64))
    outputs = [logits for level in (made.final, *made.intermediate) for logits in level.values()]
    total = torch.stack([logits.square().sum() for logits in outputs]).sum()
    gradients = torch.autograd.grad(total, list(decoder.parameters()), allow_unused=True)
    unused = [n for (n, _), g in zip(decoder.named_parameters(), gradients, strict=True) if g is None]
    assert unused == []


@pytest.mark.parametrize("decoder_name", DECODERS)
def test_intermediate_predictions_have_the_tasks_channels(decoder_name: str) -> None:
    tasks, encoder = make_tasks(), make_encoder("shared")
    channels = {task.name: task.channels for task in tasks}
    for level in make_decoder(decoder_name, tasks, encoder)(encoder(images(33, 65)), (33, 65)).intermediate:
        assert set(level) <= set(NAMES)
        for task, logits in level.items():
            assert logits.shape[:2] == (2, channels[task])


@pytest.mark.parametrize("decoder_name", DECODERS)
def test_a_decoder_that_needs_all_pyramids_says_so(decoder_name: str) -> None:
    encoder = make_encoder("shared")
    decoder = make_decoder(decoder_name, make_tasks(), encoder)
    some = encoder(images(), tasks=["depth"])
    if decoder.interacts:
        with pytest.raises(ConfigurationError, match="needs all pyramids; semseg, normals is missing"):
            decoder(some, (64, 64))
    else:
        assert list(decoder(some, (64, 64)).final) == ["depth"]


PYRAMIDS = [((8, 12, 16, 20), (4, 8, 16, 32)), ((8, 12, 16, 20), (4, 8, 8, 8)), ((8,), (8,))]
over_heads = pytest.mark.parametrize("name", HEADS)
over_pyramids = pytest.mark.parametrize(("channels", "strides"), PYRAMIDS)


@over_pyramids
@over_heads
def test_a_head_ends_in_its_last_layer(
    name: str, channels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    head: Head = registry.build("head", name, {}, channels=channels, strides=strides, outputs=3)
    pyramid = [torch.randn(shape) for shape in level_shapes(channels, strides, 64, 96)]
    logits = head(pyramid)
    height, width = logits.shape[-2:]
    assert logits.shape[:2] == (2, 3)
    assert (height, width) in {tuple(level.shape[-2:]) for level in pyramid}
    assert isinstance(head.last_layer, nn.Conv2d)
    assert head.last_layer.bias is not None
    nn.init.zeros_(head.last_layer.weight)
    with torch.no_grad():
        head.last_layer.bias.copy_(torch.tensor([1.0, -2.0, 3.0]))
        constant = head(pyramid)
    assert torch.equal(constant, head.last_layer.bias.view(1, 3, 1, 1).expand_as(constant))


@over_pyramids
@over_heads
def test_every_parameter_of_a_head_takes_part(
    name: str, channels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    head: Head = registry.build("head", name, {}, channels=channels, strides=strides, outputs=3)
    head([torch.randn(shape) for shape in level_shapes(channels, strides, 64, 96)]).square().sum().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None] == []
