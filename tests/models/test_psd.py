"""PSD: local structures are row-stochastic, reach a known distance, and are transferred by how they match."""

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from tests.models.pyramids import SHAPES, changed, gradients, make_decoder, make_pyramids, make_tasks, moved
from torch import Tensor

from plait.errors import ConfigurationError
from plait.models.decoders.psd import PSD, Diffusion, Transfer, spread, structures
from plait.study.live_tensors import LiveTensors
from plait.testing import reordered_state

NAMES = ("semseg", "depth", "normals")


def embedded(seed: int = 0, height: int = 5, width: int = 6) -> Tensor:
    return torch.randn(2, 4, height, width, generator=torch.Generator().manual_seed(seed)).double()


def transfer(receiver: str = "depth") -> Transfer:
    module = Transfer(NAMES, receiver).double()
    for place, parameter in enumerate(module.parameters()):
        parameter.data += 0.4 * place - 0.5
    return module


def made(*auxiliary: str, **options: Any) -> PSD:
    return cast("PSD", make_decoder("psd", make_tasks(*NAMES, auxiliary=auxiliary), **options))


@pytest.mark.parametrize(("window", "height", "width"), [(3, 5, 6), (5, 5, 6), (5, 2, 1), (3, 1, 1)])
def test_structures_sum_to_one_at_borders_too_and_have_nothing_outside(
    window: int, height: int, width: int
) -> None:
    found = structures(embedded(height=height, width=width), window)
    assert found.shape == (2, window**2, height, width)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(2, height, width).double(), rtol=0, atol=1e-12)
    assert (found[:, :window, 0] == 0).all()  # the window's first row, seen from the map's first row
    assert (found[:, ::window, :, 0] == 0).all()


def test_structures_and_their_spread_are_written_out_sums() -> None:
    features, values = embedded(), torch.randn(2, 3, 5, 6).double()
    found, result = structures(features, 3), spread(structures(features, 3), values)
    for row, column in [(0, 0), (2, 3), (4, 5), (0, 4)]:
        near = [
            (y, x)
            for y in range(row - 1, row + 2)
            for x in range(column - 1, column + 2)
            if 0 <= y < 5 and 0 <= x < 6
        ]
        here = features[:, :, row, column]
        scores = torch.stack([(here * features[:, :, y, x]).sum(1) / 2 for y, x in near], 1)
        shares = scores.softmax(1)
        for place, (y, x) in enumerate(near):
            offset = 3 * (y - row + 1) + x - column + 1
            torch.testing.assert_close(found[:, offset, row, column], shares[:, place])
        mean = sum(shares[:, place, None] * values[:, :, y, x] for place, (y, x) in enumerate(near))
        torch.testing.assert_close(result[:, :, row, column], mean)


def test_transferred_structures_sum_to_one_and_follow_the_formula() -> None:
    module, mined = transfer(), {task: structures(embedded(seed), 3) for seed, task in enumerate(NAMES)}
    joint = module(mined)
    torch.testing.assert_close(joint.sum(1), torch.ones(2, 5, 6).double(), rtol=0, atol=1e-12)
    own = mined["depth"][1, :, 2, 3]
    weights = {"depth": torch.ones(()).double()}
    for sender in ("semseg", "normals"):
        theirs = mined[sender][1, :, 2, 3]
        match = own @ theirs / own.norm() / theirs.norm()
        weights[sender] = (module.scales[sender] * match + module.biases[sender]).sigmoid()
    total = torch.stack([*weights.values()]).sum()
    expected = torch.stack([weight / total * mined[task][1, :, 2, 3] for task, weight in weights.items()])
    torch.testing.assert_close(joint[1, :, 2, 3], expected.sum(0))


@pytest.mark.parametrize("window", [3, 5])
def test_diffusion_keeps_constants(window: int) -> None:
    joint = transfer()({task: structures(embedded(seed), window) for seed, task in enumerate(NAMES)})
    constant = torch.tensor([2.0, -3.0]).double().view(1, 2, 1, 1).expand(2, 2, 5, 6)
    torch.testing.assert_close(Diffusion(4, 0.7)(constant, joint), constant, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("window", "iterations"), [(3, 1), (3, 3), (5, 2)])
def test_each_step_reaches_half_a_window_and_no_further(window: int, iterations: int) -> None:
    impulse = torch.zeros(1, 1, 17, 17).double()
    impulse[..., 8, 8] = 1
    found = structures(embedded(height=17, width=17)[:1], window)
    reached = Diffusion(iterations, 0.5)(impulse, found)[0, 0] != 0
    reach = iterations * (window // 2)
    expected = torch.zeros(17, 17, dtype=torch.bool)
    expected[8 - reach : 9 + reach, 8 - reach : 9 + reach] = True
    assert torch.equal(reached, expected)


@pytest.mark.parametrize("closed", [False, True])
def test_a_task_that_accepts_no_structures_does_not_hear_the_others(closed: bool) -> None:
    decoder, pyramids = made(), make_pyramids(make_tasks(*NAMES))
    if closed:
        for module in decoder.transfer.values():
            for bias in cast("Transfer", module).biases.values():
                bias.data.fill_(-torch.inf)
    before, after = decoder(pyramids, (64, 64)), decoder(moved(pyramids, "normals"), (64, 64))
    assert changed(before, after) == ({"normals"} if closed else set(NAMES))


def test_auxiliary_tasks_give_structures_and_have_no_final_prediction() -> None:
    decoder, pyramids = made("normals"), make_pyramids(make_tasks(*NAMES))
    before = decoder(pyramids, (64, 64))
    assert list(before.final) == ["semseg", "depth"]
    assert [list(level) for level in before.intermediate] == [list(NAMES)]
    assert changed(before, decoder(moved(pyramids, "normals"), (64, 64))) == {"semseg", "depth"}


@pytest.mark.parametrize(("channels", "strides", "size"), SHAPES)
def test_any_pyramid_is_taken(channels: Sequence[int], strides: Sequence[int], size: tuple[int, int]) -> None:
    tasks = make_tasks(*NAMES, auxiliary=["normals"])
    predictions = made("normals", channels=channels, strides=strides, window=5)(
        make_pyramids(tasks, channels, strides, size), size
    )
    assert {task: tuple(map_.shape) for task, map_ in predictions.final.items()} == {
        "semseg": (2, 5, *size),
        "depth": (2, 1, *size),
    }


def peak(side: int, window: int = 3) -> int:
    """Bytes alive while a network is trained on a map of ``side * side`` positions."""
    decoder = made(window=window, width=16).train()
    pyramids = make_pyramids(make_tasks(*NAMES), size=(4 * side, 4 * side))
    with LiveTensors() as live:
        gradients(decoder, pyramids)
    return live.peak


def test_memory_grows_with_the_positions_and_not_with_windows_of_features() -> None:
    small = peak(24)
    assert peak(48) < 4.2 * small
    windows_of_features = 2 * 3 * 3 * 16 * 24**2 * 4 * (25 - 9)  # images, tasks, steps, channels, bytes
    assert peak(24, window=5) - small < windows_of_features / 2


@pytest.mark.parametrize("auxiliary", [(), ("depth",)])
def test_every_parameter_takes_part_and_order_does_not_matter(auxiliary: tuple[str, ...]) -> None:
    decoder, pyramids = made(*auxiliary), make_pyramids(make_tasks(*NAMES))
    assert [name for name, gradient in gradients(decoder, pyramids).items() if gradient is None] == []
    turned = make_decoder("psd", make_tasks(*NAMES[::-1], auxiliary=auxiliary))
    turned.load_state_dict(reordered_state(decoder, NAMES, NAMES[::-1]))
    straight, reverse = decoder(pyramids, (64, 64)), turned(pyramids, (64, 64))
    assert list(reverse.final) == [task for task in NAMES[::-1] if task not in auxiliary]
    torch.testing.assert_close(dict(reverse.final), dict(straight.final))
    torch.testing.assert_close(dict(reverse.intermediate[0]), dict(straight.intermediate[0]))


def test_tasks_of_one_group_share_one_map() -> None:
    assert set(made(groups={"semseg": "a", "depth": "b", "normals": "a"}).maps) == {"a", "b"}


def test_gradient_checkpointing_changes_neither_gradients_nor_statistics() -> None:
    pyramids = make_pyramids(make_tasks(*NAMES))
    plain, again = made().train(), made(gradient_checkpointing=True).train()
    torch.testing.assert_close(gradients(again, pyramids), gradients(plain, pyramids))
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), again.buffers(), strict=True))


def test_one_task_alone_spreads_along_its_own_structures() -> None:
    own = structures(embedded(), 3)
    assert torch.equal(Transfer(["depth"], "depth")({"depth": own}), own)
    tasks = make_tasks("depth")
    assert list(make_decoder("psd", tasks)(make_pyramids(tasks), (64, 64)).final) == ["depth"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_structures_are_float32_whatever_the_network_computes_in(dtype: torch.dtype) -> None:
    found = structures(embedded().to(dtype), 3)
    assert found.dtype == torch.float32
    assert Diffusion(2, 0.5)(torch.ones(2, 3, 5, 6, dtype=dtype), found).dtype == dtype


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("width", 0),
        ("stride", 0),
        ("iterations", 0),
        ("window", 1),
        ("window", 4),
        ("beta", 0.0),
        ("beta", 1.5),
        ("head", "hed"),
    ],
)
def test_a_wrong_option_is_refused(option: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=option):
        made(**{option: value})
