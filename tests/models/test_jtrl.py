"""JTRL: who hears whom follows from the order of turns, and the fusion of two is the published one."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any, cast

import pytest
import torch
from tests.models.pyramids import SHAPES, changed, gradients, make_decoder, make_pyramids, make_tasks, moved
from torch import Tensor

from plait.errors import ConfigurationError
from plait.models.decoders.jtrl import JTRL, TaskAttention, Turn
from plait.testing import reordered_state

NAMES = ("semseg", "depth", "normals")


def made(*auxiliary: str, **options: Any) -> JTRL:
    return cast("JTRL", make_decoder("jtrl", make_tasks(*NAMES, auxiliary=auxiliary), **options))


def states(count: int, height: int = 5, width: int = 6) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, height, width, generator=generator).double() for _ in range(count)]


def attention(count: int) -> TaskAttention:
    torch.manual_seed(0)
    return TaskAttention(count, 4).double()


@pytest.mark.parametrize("height", [1, 5, 6])
def test_the_fusion_of_two_states_is_the_published_one(height: int) -> None:
    module = attention(2)
    a, b = states(2, height)
    balance = module.balance(torch.cat([a, b], 1)).sigmoid()
    merged = module.merge(balance * a + (1 - balance) * b)
    gate = (merged + module.up(module.down(merged), output_size=merged.shape[-2:])).sigmoid()
    expected = module.fuse(torch.cat([(1 + gate) * a, (1 + gate) * b], 1))
    torch.testing.assert_close(module([a, b]), expected)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_balances_are_shares_of_all_states(count: int) -> None:
    shares = attention(count).balances(states(count))
    assert shares.shape == (2, count, 4, 5, 6)
    assert (shares > 0).all()
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 4, 5, 6).double())


@pytest.mark.parametrize("order", list(permutations(NAMES)))
def test_a_finest_level_is_heard_by_those_whose_turn_comes_later(order: tuple[str, ...]) -> None:
    decoder, pyramids = made(order=order), make_pyramids(make_tasks(*NAMES))
    before = decoder(pyramids, (64, 64))
    for place, sender in enumerate(order):
        finest = decoder(moved(pyramids, sender, [0]), (64, 64))
        assert changed(before, finest) == set(order[place:])
        coarser = decoder(moved(pyramids, sender, [1]), (64, 64))
        assert changed(before, coarser) == set(NAMES)


def test_each_turn_is_predicted_in_order_from_coarse_to_fine_and_the_last_ones_are_final() -> None:
    order = ("depth", "normals", "semseg")
    predictions = made("normals", order=order)(make_pyramids(make_tasks(*NAMES)), (64, 64))
    turns = [(task, logits.shape[-1]) for step in predictions.intermediate for task, logits in step.items()]
    assert turns == [(task, side) for side in (2, 4, 8) for task in order] + [("normals", 16)]
    assert {len(step) for step in predictions.intermediate} == {1}
    assert list(predictions.final) == ["semseg", "depth"]


def test_a_prediction_depends_on_the_turns_before_it_only() -> None:
    decoder, pyramids = made(order=NAMES), make_pyramids(make_tasks(*NAMES))
    before = [*decoder(pyramids, (64, 64)).intermediate]
    after = [
        *decoder(moved(pyramids, "depth", [2]), (64, 64)).intermediate
    ]  # second turn of the second level
    kept = [torch.equal(a[task], b[task]) for a, b in zip(before, after) for task in a]
    assert kept == [True] * 4 + [False] * 5


def test_auxiliary_tasks_are_heard() -> None:
    decoder, pyramids = made("normals"), make_pyramids(make_tasks(*NAMES))
    before = decoder(pyramids, (64, 64))
    assert changed(before, decoder(moved(pyramids, "normals", [0]), (64, 64))) == {"semseg", "depth"}


def test_the_order_of_turns_does_not_follow_the_declaration() -> None:
    assert made().order == ("depth", "normals", "semseg")
    assert made("semseg").order == ("semseg", "depth", "normals")
    turned = make_decoder("jtrl", make_tasks(*NAMES[::-1], auxiliary=["semseg"]))
    assert cast("JTRL", turned).order == ("semseg", "depth", "normals")


@pytest.mark.parametrize("order", [None, ("semseg", "normals", "depth")])
@pytest.mark.parametrize("auxiliary", [(), ("depth",)])
def test_every_parameter_takes_part_and_declaring_tasks_otherwise_changes_nothing(
    auxiliary: tuple[str, ...], order: tuple[str, ...] | None
) -> None:
    decoder, pyramids = made(*auxiliary, order=order), make_pyramids(make_tasks(*NAMES))
    assert [name for name, gradient in gradients(decoder, pyramids).items() if gradient is None] == []
    turned = make_decoder("jtrl", make_tasks(*NAMES[::-1], auxiliary=auxiliary), order=order)
    turned.load_state_dict(reordered_state(decoder, NAMES, NAMES[::-1]))
    straight, reverse = decoder(pyramids, (64, 64)), turned(pyramids, (64, 64))
    assert list(reverse.final) == [task for task in NAMES[::-1] if task not in auxiliary]
    torch.testing.assert_close(dict(reverse.final), dict(straight.final))
    for one, other in zip(reverse.intermediate, straight.intermediate, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("channels", "strides", "size"), SHAPES)
def test_any_pyramid_is_taken(channels: Sequence[int], strides: Sequence[int], size: tuple[int, int]) -> None:
    tasks = make_tasks(*NAMES, auxiliary=["normals"])
    predictions = made("normals", channels=channels, strides=strides)(
        make_pyramids(tasks, channels, strides, size), size
    )
    assert {task: tuple(map_.shape) for task, map_ in predictions.final.items()} == {
        "semseg": (2, 5, *size),
        "depth": (2, 1, *size),
    }
    assert len(predictions.intermediate) == 3 * len(strides) - 2


def test_the_coarsest_levels_can_be_used_alone() -> None:
    decoder, pyramids = made(levels=2), make_pyramids(make_tasks(*NAMES))
    before = decoder(pyramids, (64, 64))
    assert [level["depth"].shape[-1] for level in before.intermediate if "depth" in level] == [2]
    assert changed(before, decoder(moved(pyramids, "depth", [0, 1]), (64, 64))) == set()
    assert changed(before, decoder(moved(pyramids, "depth", [3]), (64, 64))) == set(NAMES)


def test_tasks_of_one_group_share_the_reduction_of_levels() -> None:
    decoder = made(groups={"semseg": "a", "depth": "b", "normals": "a"})
    assert {name.split()[0] for name in decoder.reduce} == {"a", "b"}
    levels = make_pyramids(make_tasks("semseg", "depth"))
    pyramids = {"semseg": levels["semseg"], "depth": levels["depth"], "normals": levels["semseg"]}
    assert set(decoder(pyramids, (64, 64)).final) == set(NAMES)


def test_one_task_alone_is_refined_by_its_own_states() -> None:
    tasks = make_tasks("depth")
    decoder, pyramids = make_decoder("jtrl", tasks), make_pyramids(tasks)
    assert not any(isinstance(module, TaskAttention) for module in decoder.modules())
    predictions = decoder(pyramids, (64, 64))
    assert len(predictions.intermediate) == 3
    assert changed(predictions, decoder(moved(pyramids, "depth", [3]), (64, 64))) == {"depth"}


def test_a_turn_without_states_reads_the_level_alone() -> None:
    turn, (level,) = Turn(4, states=[], earlier=0).double().eval(), states(1)
    assert torch.equal(turn(level, [], []), turn.block(level))


def test_gradient_checkpointing_changes_neither_gradients_nor_statistics() -> None:
    pyramids = make_pyramids(make_tasks(*NAMES))
    plain, again = made().train(), made(gradient_checkpointing=True).train()
    torch.testing.assert_close(gradients(again, pyramids), gradients(plain, pyramids))
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), again.buffers(), strict=True))


def test_the_fusion_keeps_five_maps_of_each_state_for_the_backward_pass() -> None:
    def kept(count: int) -> int:
        module, given, sizes = attention(count), [state.requires_grad_() for state in states(count)], {}
        own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}

        def keep(saved: Tensor) -> Tensor:
            if saved.untyped_storage().data_ptr() not in own:
                sizes[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
            return saved

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
            made = module(given)
        assert made.requires_grad
        return sum(sizes.values())

    a_map = states(1)[0].untyped_storage().nbytes()
    # The state, its place in two concatenations and a stack, and its balance.
    assert kept(6) - kept(5) <= 5 * a_map


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("width", 0),
        ("levels", 0),
        ("levels", 5),
        ("order", ["depth", "semseg"]),
        ("order", ["depth", "depth", "semseg", "normals"]),
        ("order", []),
        ("head", "hed"),
    ],
)
def test_a_wrong_option_is_refused(option: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=option):
        made(**{option: value})
