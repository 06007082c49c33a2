"""Messages between tasks' features, and what both decoders made of them have in common."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import plait
from plait import registry
from plait.errors import ConfigurationError
from plait.models.decoders.base import Decoder
from plait.models.decoders.distillation import Messages, distillation_module
from plait.models.encoders.separate import Separate
from plait.models.encoders.shared import Shared
from plait.tasks.base import Task
from plait.testing import reordered_state, tiny_backbone

VARIANTS = ["attention", "concatenation", "message"]
SMALL: dict[str, dict[str, Any]] = {"pad_net": {"width": 8}, "mti_net": {}}
over_variants = pytest.mark.parametrize("variant", VARIANTS)
over_decoders = pytest.mark.parametrize("name", SMALL)

KINDS: dict[str, dict[str, Any]] = {
    "semseg": {"kind": "semantic", "classes": 5},
    "depth": {"kind": "depth"},
    "normals": {"kind": "normals", "auxiliary": True},
    "edges": {"kind": "edges", "auxiliary": True},
}
"""NYUD as published: normals and edges are predicted on the way only."""


def make_tasks(*names: str) -> tuple[Task, ...]:
    return plait.tasks.parse({name: KINDS[name] for name in names or KINDS})


def make_features(*names: str, channels: int = 4, size: int = 5) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    return {name: torch.randn(2, channels, size, size, generator=random).double() for name in names}


def make_decoder(name: str, tasks: tuple[Task, ...], encoder: Any, **options: Any) -> Decoder:
    torch.manual_seed(0)
    decoder: Decoder = registry.build(
        "decoder",
        name,
        SMALL[name] | options,
        tasks=tasks,
        channels=encoder.channels,
        strides=encoder.strides,
        groups=encoder.groups,
        default_head=encoder.default_head,
    )
    return decoder.double().eval()


def make_encoder(encoder: type, tasks: tuple[Task, ...]) -> Any:
    torch.manual_seed(0)
    made = encoder(make_backbone=tiny_backbone, tasks=[task.name for task in tasks])
    return made.double().eval()


def images(height: int = 32, width: int = 64) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0)).double()


# ----------------------------------------------------------------------------------------------- messages


@over_variants
def test_a_receiver_hears_what_the_variant_says(variant: str) -> None:
    features = make_features("a", "b", "c")
    module = distillation_module(variant, ["a", "b", "c"], ["b"], 4).double()
    (refined,) = module(features).values()
    weights = dict(module.named_parameters())

    def message(sender: str, part: str = "") -> Tensor:
        return F.conv2d(features[sender], weights[f"messages.{sender} to b{part}.weight"], padding=1)

    if variant == "message":
        expected = features["b"] + message("a") + message("c")
    elif variant == "attention":
        expected = features["b"] + sum(
            message(sender, ".message") * message(sender, ".gate").sigmoid() for sender in "ac"
        )
    else:
        a, b, c = weights["convolutions.b.weight"].chunk(3, 1)
        pairs = zip("abc", (a, b, c), strict=True)
        expected = sum(F.conv2d(features[task], weight, padding=1) for task, weight in pairs)
    torch.testing.assert_close(refined, expected)


@over_variants
@pytest.mark.parametrize("sender", ["a", "b", "c"])
def test_every_task_is_heard_by_every_receiver_and_only_receivers_are_refined(
    variant: str, sender: str
) -> None:
    features = make_features("a", "b", "c")
    module = distillation_module(variant, ["a", "b", "c"], ["a", "b"], 4).double()
    before, after = module(features), module(features | {sender: features[sender] + 1})
    assert list(before) == ["a", "b"]
    assert all(not torch.allclose(after[receiver], before[receiver]) for receiver in before)


@over_variants
def test_a_task_that_is_alone_keeps_its_features(variant: str) -> None:
    features = make_features("a")
    module = distillation_module(variant, ["a"], ["a"], 4)
    assert module(features)["a"] is features["a"]
    assert list(module.parameters()) == []


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [("attention", 2 * 9 * 16 * 6), ("message", 9 * 16 * 6), ("concatenation", 9 * 16 * 4 * 2)],
)
def test_pairs_of_sender_and_receiver_have_parameters_of_their_own(variant: str, parameters: int) -> None:
    module = distillation_module(variant, ["a", "b", "c", "d"], ["a", "b"], 4)
    assert sum(p.numel() for p in module.parameters()) == parameters


@over_variants
def test_messages_do_not_depend_on_the_order_of_tasks(variant: str) -> None:
    features = make_features("a", "b", "c")
    module = distillation_module(variant, ["a", "b", "c"], ["a", "b"], 4).double()
    turned = distillation_module(variant, ["c", "b", "a"], ["b", "a"], 4).double()
    turned.load_state_dict(reordered_state(module, ["a", "b", "c"], ["c", "b", "a"]))
    straight, reverse = module(features), turned(features)
    for task in straight:
        torch.testing.assert_close(reverse[task], straight[task])


def test_recomputed_messages_have_the_same_gradients() -> None:
    def trained(checkpointing: bool) -> tuple[list[Tensor | None], int]:
        torch.manual_seed(0)
        module = distillation_module(
            "attention", ["a", "b"], ["a"], 4, gradient_checkpointing=checkpointing
        ).double()
        calls: list[nn.Module] = []
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                part.register_forward_hook(lambda part, given, made: calls.append(part))
        leaves = {task: made.requires_grad_() for task, made in make_features("a", "b").items()}
        module(leaves)["a"].square().sum().backward()
        return [p.grad for p in (*module.parameters(), *leaves.values())], len(calls)

    (gradients, calls), (again, more_calls) = trained(False), trained(True)
    torch.testing.assert_close(again, gradients)
    assert (calls, more_calls) == (2, 4)


@over_decoders
def test_an_unknown_distillation_is_answered_with_the_known_ones(name: str) -> None:
    tasks = make_tasks()
    with pytest.raises(
        ConfigurationError, match=r"'atention' \(did you mean 'attention'\?\); known are .*, message"
    ):
        make_decoder(name, tasks, make_encoder(Shared, tasks), distillation="atention")


# ----------------------------------------------------------------------------------------- both decoders


@over_decoders
@over_variants
def test_finals_hear_all_tasks_and_auxiliary_tasks_only_send(name: str, variant: str) -> None:
    tasks = make_tasks()
    encoder = make_encoder(Separate, tasks)
    decoder = make_decoder(name, tasks, encoder, distillation=variant)
    with torch.no_grad():
        pyramids = encoder(images())
        before = decoder(pyramids, (32, 64))
        assert list(before.final) == ["semseg", "depth"]
        assert [tuple(before.final[t.name].shape) for t in tasks[:2]] == [(2, 5, 32, 64), (2, 1, 32, 64)]
        assert all(list(level) == list(KINDS) for level in before.intermediate)
        for moved in KINDS:
            other = pyramids | {moved: [level + torch.rand_like(level) for level in pyramids[moved]]}
            after = decoder(other, (32, 64))
            assert all(not torch.allclose(after.final[task], before.final[task]) for task in before.final)
            coarsest = {
                task
                for task in KINDS
                if not torch.equal(after.intermediate[-1][task], before.intermediate[-1][task])
            }
            assert coarsest == {moved}


@over_decoders
@over_variants
def test_the_order_of_tasks_does_not_matter(name: str, variant: str) -> None:
    order, other = list(KINDS), ["edges", "depth", "normals", "semseg"]
    encoder = make_encoder(Shared, make_tasks())
    decoder = make_decoder(name, make_tasks(), encoder, distillation=variant)
    turned = make_decoder(name, make_tasks(*other), encoder, distillation=variant)
    turned.load_state_dict(reordered_state(decoder, order, other))
    with torch.no_grad():
        pyramids = encoder(images())
        straight, reverse = decoder(pyramids, (32, 64)), turned(pyramids, (32, 64))
    assert list(reverse.final) == ["depth", "semseg"]
    assert list(reverse.intermediate[0]) == other
    torch.testing.assert_close(dict(reverse.final), dict(straight.final))
    for level, expected in zip(reverse.intermediate, straight.intermediate, strict=True):
        torch.testing.assert_close(dict(level), dict(expected))


@over_decoders
@over_variants
@pytest.mark.parametrize("names", [(), ("semseg", "normals"), ("depth",)])
@pytest.mark.parametrize("kind", [Shared, Separate])
def test_every_parameter_takes_part(name: str, variant: str, names: tuple[str, ...], kind: type) -> None:
    tasks = make_tasks(*names)
    encoder = make_encoder(kind, tasks)
    decoder = make_decoder(name, tasks, encoder, distillation=variant).train()
    out = decoder(encoder(images()), (32, 64))
    maps = [map_ for level in (out.final, *out.intermediate) for map_ in level.values()]
    sum(map_.square().sum() for map_ in maps).backward()
    parameters = dict(decoder.named_parameters()) | dict(encoder.named_parameters())
    assert [name for name, p in parameters.items() if p.grad is None] == []


@over_decoders
@over_variants
def test_gradient_checkpointing_changes_neither_gradients_nor_statistics(name: str, variant: str) -> None:
    tasks = make_tasks()
    encoder = make_encoder(Shared, tasks)

    def trained(checkpointing: bool) -> tuple[list[Tensor | None], list[Tensor], int]:
        decoder = make_decoder(
            name, tasks, encoder, distillation=variant, gradient_checkpointing=checkpointing
        ).train()
        calls: list[nn.Module] = []
        for module in decoder.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda module, given, made: calls.append(module))
        out = decoder(encoder(images()), (32, 64))
        maps = [map_ for level in (out.final, *out.intermediate) for map_ in level.values()]
        sum(map_.square().mean() for map_ in maps).backward()
        return [p.grad for p in decoder.parameters()], list(decoder.buffers()), len(calls)

    (gradients, buffers, calls), (again, kept, more_calls) = trained(False), trained(True)
    torch.testing.assert_close(again, gradients)
    torch.testing.assert_close(kept, buffers, rtol=0, atol=0)
    assert more_calls > 1.5 * calls


@over_decoders
def test_auxiliary_tasks_are_supervised_at_every_level(name: str) -> None:
    tasks = make_tasks()
    encoder = make_encoder(Shared, tasks)
    decoder = make_decoder(name, tasks, encoder)
    predictions = decoder(encoder(images()), (32, 64))
    random = torch.Generator().manual_seed(1)
    targets = {
        "semseg": torch.randint(5, (2, 1, 32, 64), generator=random),
        "depth": torch.rand(2, 1, 32, 64, generator=random).double() + 1,
        "normals": F.normalize(torch.randn(2, 3, 32, 64, generator=random).double(), dim=1),
        "edges": (torch.rand(2, 1, 32, 64, generator=random) < 0.2).double(),
    }
    losses = plait.tasks.losses(tasks, predictions, targets)
    levels = predictions.intermediate
    assert len(levels) == (1 if name == "pad_net" else 4)
    for task in tasks:
        maps = [level[task.name] for level in levels]
        gradients = torch.autograd.grad(losses[task.name], maps, retain_graph=True)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)
        resized = [F.interpolate(map_, (32, 64), mode="bilinear", align_corners=False) for map_ in maps]
        if not task.auxiliary:
            resized.append(predictions.final[task.name])
        expected = sum(task.loss(map_, targets[task.name]) for map_ in resized)
        torch.testing.assert_close(losses[task.name], expected)


@over_decoders
def test_a_task_that_is_alone_is_predicted_without_messages(name: str) -> None:
    tasks = make_tasks("depth")
    encoder = make_encoder(Shared, tasks)
    decoder = make_decoder(name, tasks, encoder)
    assert not any(isinstance(m, Messages) and len(m.messages) for m in decoder.modules())
    assert decoder(encoder(images()), (32, 64)).final["depth"].shape == (2, 1, 32, 64)


@over_decoders
def test_a_missing_pyramid_and_unlike_pyramids_are_refused(name: str) -> None:
    tasks = make_tasks()
    encoder = make_encoder(Shared, tasks)
    pyramids = encoder(images(), tasks=["semseg", "edges", "normals"])
    with pytest.raises(ConfigurationError, match=f"'{name}' .* depth is missing"):
        make_decoder(name, tasks, encoder)(pyramids, (32, 64))
    encoder.channels["depth"] = (8, 8, 8, 8)
    with pytest.raises(ConfigurationError, match=f"'{name}' needs pyramids of the same channels"):
        make_decoder(name, tasks, encoder)


@over_decoders
@pytest.mark.parametrize(
    ("channels", "strides"), [((8, 12, 16, 20), (4, 8, 8, 8)), ((8,), (4,)), ((6, 8), (2, 4))]
)
def test_other_pyramids_and_odd_sizes_are_taken(
    name: str, channels: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    tasks = make_tasks()
    torch.manual_seed(0)
    encoder = Shared(
        make_backbone=lambda: tiny_backbone(channels, strides), tasks=[task.name for task in tasks]
    )
    decoder = make_decoder(name, tasks, encoder.double().eval())
    with torch.no_grad():
        batch = images(33, 65)
        out = decoder(encoder(batch), (33, 65))
        last = batch.contiguous(memory_format=torch.channels_last)
        again = decoder.to(memory_format=torch.channels_last)(encoder(last), (33, 65))
    assert [tuple(map_.shape[-2:]) for map_ in out.final.values()] == [(33, 65), (33, 65)]
    assert all(level["edges"].shape[1] == 1 for level in out.intermediate)
    torch.testing.assert_close(dict(again.final), dict(out.final))
