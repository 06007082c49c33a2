"""PAP-Net: affinities are row-stochastic, computed without the matrix, and mixed across tasks."""

from collections.abc import Sequence
from typing import Any, cast

import pytest
import torch
from tests.models.pyramids import SHAPES, changed, gradients, make_decoder, make_pyramids, make_tasks, moved
from torch import Tensor

from plait.errors import ConfigurationError
from plait.models.decoders.pap_net import Affinity, Diffusion, PAPNet, affinity
from plait.study.live_tensors import LiveTensors
from plait.testing import reordered_state

NAMES = ("semseg", "depth", "normals")


def positions(seed: int, count: int = 20, channels: int = 6) -> Tensor:
    """Features of two images, float64, none negative; the third position of the first has none."""
    features = torch.randn(2, count, channels, generator=torch.Generator().manual_seed(seed)).double().relu()
    features[0, 2] = 0
    return features


def diffusion(iterations: int = 3, beta: float = 0.4) -> Diffusion:
    module = Diffusion(NAMES, iterations, beta).double()
    for place, logit in enumerate(module.logits.values()):
        logit.data += place - 0.7
    return module


def made(*auxiliary: str, **options: Any) -> PAPNet:
    return cast("PAPNet", make_decoder("pap_net", make_tasks(*NAMES, auxiliary=auxiliary), **options))


def test_affinities_are_positive_and_each_row_sums_to_one() -> None:
    matrix = affinity(positions(0)).matrix()
    assert (matrix >= 0).all()
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 20).double(), rtol=0, atol=1e-12)


def test_affinities_of_three_positions() -> None:
    features = torch.tensor([[[3.0, 0.0], [1.0, 1.0], [0.0, 0.0]]], dtype=torch.float64)
    cosine = 2**-0.5
    expected = torch.tensor([[[1, cosine, 0], [cosine, 1, 0], [0, 0, 1 + cosine]]]).double() / (1 + cosine)
    torch.testing.assert_close(affinity(features).matrix(), expected)


def test_a_position_without_features_keeps_its_value_and_has_a_finite_gradient() -> None:
    features = positions(0).requires_grad_()
    values = torch.randn(2, 20, 3).double()
    propagated = affinity(features).propagate(values)
    assert torch.equal(propagated[0, 2], values[0, 2])
    propagated.square().sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_the_product_without_the_matrix_is_the_product() -> None:
    found, values = affinity(positions(0)), torch.randn(2, 20, 3).double()
    torch.testing.assert_close(found.propagate(values), found.matrix() @ values, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        found.propagate(values, 0.3), 0.3 * found.matrix() @ values, rtol=0, atol=1e-12
    )


def test_diffusion_is_its_formula() -> None:
    module = diffusion()
    affinities = {task: affinity(positions(seed)) for seed, task in enumerate(NAMES)}
    features = torch.randn(2, 3, 4, 5).double()
    mixed = sum(weight * affinities[task].matrix() for task, weight in module.weights().items())
    start = state = features.flatten(2).mT
    for _ in range(3):
        state = 0.4 * mixed @ state + 0.6 * start
    expected = state.mT.reshape(features.shape)
    torch.testing.assert_close(module(features, affinities), expected, rtol=0, atol=1e-12)


def test_diffusion_keeps_constants() -> None:
    affinities = {task: affinity(positions(seed)) for seed, task in enumerate(NAMES)}
    constant = torch.tensor([2.0, -3.0, 0.5]).double().view(1, 3, 1, 1).expand(2, 3, 4, 5)
    torch.testing.assert_close(diffusion()(constant, affinities), constant, rtol=0, atol=1e-12)


def test_diffusion_moves_with_the_positions() -> None:
    shuffle, module = torch.randperm(20, generator=torch.Generator().manual_seed(5)), diffusion()
    features = torch.randn(2, 3, 4, 5).double()

    def run(order: Tensor) -> Tensor:
        affinities = {task: affinity(positions(seed)[:, order]) for seed, task in enumerate(NAMES)}
        given = features.flatten(2)[..., order].view_as(features)
        return cast("Tensor", module(given, affinities)).flatten(2)

    torch.testing.assert_close(run(shuffle), run(torch.arange(20))[..., shuffle], rtol=0, atol=1e-12)


def test_weights_are_positive_and_sum_to_one() -> None:
    weights = torch.stack([*diffusion().weights().values()])
    assert (weights > 0).all()
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("closed", [False, True])
def test_a_task_that_only_trusts_itself_does_not_hear_the_others(closed: bool) -> None:
    decoder, pyramids = made(), make_pyramids(make_tasks(*NAMES))
    for task, module in decoder.diffusion.items():
        for sender, logit in cast("Diffusion", module).logits.items():
            if closed and sender != task:
                logit.data.fill_(-torch.inf)
    before, after = decoder(pyramids, (64, 64)), decoder(moved(pyramids, "normals"), (64, 64))
    assert changed(before, after) == ({"normals"} if closed else set(NAMES))


def test_auxiliary_tasks_give_affinities_and_have_no_final_prediction() -> None:
    decoder, pyramids = made("normals"), make_pyramids(make_tasks(*NAMES))
    before = decoder(pyramids, (64, 64))
    assert list(before.final) == ["semseg", "depth"]
    assert [list(level) for level in before.intermediate] == [list(NAMES)]
    assert changed(before, decoder(moved(pyramids, "normals"), (64, 64))) == {"semseg", "depth"}


def test_what_a_task_gives_is_row_stochastic_in_the_network_too() -> None:
    found = made().affinities(make_pyramids(make_tasks(*NAMES), size=(32, 48)))
    for task in NAMES:
        matrix = found[task].matrix()
        assert matrix.shape == (2, 8 * 12, 8 * 12)
        torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 96))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_affinities_are_summed_in_float32_whatever_the_network_computes_in(dtype: torch.dtype) -> None:
    features = torch.rand(1, 5000, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found: Affinity = affinity(features)
        kept = Diffusion(["depth"], 2, 0.5)(torch.ones(1, 4, 50, 100, dtype=dtype), {"depth": found})
    assert found.left.dtype == torch.float32
    sums = found.propagate(torch.ones(1, 5000, 1))
    assert (sums - 1).abs().max() < 1e-5
    assert kept.dtype == dtype
    assert (kept == 1).all()


def peak(side: int) -> int:
    """Bytes alive while a network is trained on a map of ``side * side`` positions."""
    decoder = made().train()
    pyramids = make_pyramids(make_tasks(*NAMES), size=(4 * side, 4 * side))
    with LiveTensors() as live:
        gradients(decoder, pyramids)
    return live.peak


def test_memory_grows_with_the_number_of_positions_and_not_with_its_square() -> None:
    small, large = peak(24), peak(48)
    assert large < 4.2 * small
    assert large < 4 * (48**2) ** 2  # bytes of one matrix


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


@pytest.mark.parametrize(("stride", "side"), [(1, 16), (4, 16), (8, 8), (64, 2)])
def test_stride_chooses_the_level(stride: int, side: int) -> None:
    predictions = made(stride=stride)(make_pyramids(make_tasks(*NAMES)), (64, 64))
    assert predictions.intermediate[0]["depth"].shape[-2:] == (side, side)
    assert predictions.final["depth"].shape[-2:] == (64, 64)


def test_tasks_of_one_group_share_one_map() -> None:
    groups = {"semseg": "a", "depth": "b", "normals": "a"}
    decoder = made(groups=groups)
    assert set(decoder.maps) == {"a", "b"}
    levels = make_pyramids(make_tasks("semseg", "depth"))
    pyramids = {task: levels["semseg" if group == "a" else "depth"] for task, group in groups.items()}
    assert set(decoder(pyramids, (64, 64)).final) == set(NAMES)


@pytest.mark.parametrize("auxiliary", [(), ("depth",)])
def test_every_parameter_takes_part_and_order_does_not_matter(auxiliary: tuple[str, ...]) -> None:
    decoder, pyramids = made(*auxiliary), make_pyramids(make_tasks(*NAMES))
    assert [name for name, gradient in gradients(decoder, pyramids).items() if gradient is None] == []
    turned = make_decoder("pap_net", make_tasks(*NAMES[::-1], auxiliary=auxiliary))
    turned.load_state_dict(reordered_state(decoder, NAMES, NAMES[::-1]))
    straight, reverse = decoder(pyramids, (64, 64)), turned(pyramids, (64, 64))
    assert list(reverse.final) == [task for task in NAMES[::-1] if task not in auxiliary]
    torch.testing.assert_close(dict(reverse.final), dict(straight.final))
    torch.testing.assert_close(dict(reverse.intermediate[0]), dict(straight.intermediate[0]))


def test_gradient_checkpointing_changes_neither_gradients_nor_statistics() -> None:
    pyramids = make_pyramids(make_tasks(*NAMES))
    plain, again = made().train(), made(gradient_checkpointing=True).train()
    torch.testing.assert_close(gradients(again, pyramids), gradients(plain, pyramids))
    assert all(torch.equal(a, b) for a, b in zip(plain.buffers(), again.buffers(), strict=True))


def test_one_task_alone_is_diffused_along_its_own_affinities() -> None:
    tasks = make_tasks("depth")
    decoder = cast("PAPNet", make_decoder("pap_net", tasks))
    assert list(decoder(make_pyramids(tasks), (64, 64)).final) == ["depth"]
    assert cast("Diffusion", decoder.diffusion["depth"]).weights()["depth"].item() == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [("width", 1), ("stride", 0), ("iterations", 0), ("beta", 0.0), ("beta", 1.5), ("head", "hed")],
)
def test_a_wrong_option_is_refused(option: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=option):
        made(**{option: value})
