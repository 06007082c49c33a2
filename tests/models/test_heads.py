"""What each head computes."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from plait.errors import ConfigurationError
from plait.models.heads import DeepLabHead, FPNHead, HRNetHead, LinearHead

CHANNELS, STRIDES = (6, 8, 10), (4, 8, 16)


def pyramid() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, c, 64 // s, 96 // s, generator=generator, dtype=torch.float64)
        for c, s in zip(CHANNELS, STRIDES, strict=True)
    ]


def enlarged(levels: list[Tensor]) -> Tensor:
    size = levels[0].shape[-2:]
    return torch.cat([F.interpolate(level, size=size, mode="bilinear") for level in levels], 1)


def test_the_linear_head_is_one_convolution_of_the_concatenated_pyramid() -> None:
    head = LinearHead(channels=CHANNELS, strides=STRIDES, outputs=3).double()
    torch.testing.assert_close(head(pyramid()), head.last_layer(enlarged(pyramid())))


def test_the_hrnet_head_is_two_convolutions_of_the_concatenated_pyramid() -> None:
    head = HRNetHead(channels=CHANNELS, strides=STRIDES, outputs=3).double().eval()
    torch.testing.assert_close(head(pyramid()), head.last_layer(head.fuse(enlarged(pyramid()))))
    widths = [p.numel() for p in head.parameters()]
    assert widths == [24 * 24, 24, 24, 24, 3 * 24, 3]


def test_the_deeplab_head_sees_the_last_level_only() -> None:
    head = DeepLabHead(channels=CHANNELS, strides=STRIDES, outputs=3, width=4).double().eval()
    levels = pyramid()
    changed = [torch.zeros_like(level) for level in levels[:-1]] + levels[-1:]
    assert torch.equal(head(levels), head(changed))
    assert head(levels).shape == (2, 3, 4, 6)


def test_the_deeplab_head_pools_over_the_whole_image() -> None:
    torch.manual_seed(0)
    head = DeepLabHead(channels=(8,), strides=(8,), outputs=1, width=4, rates=(1,)).double().eval()
    features = torch.randn(1, 8, 20, 20, dtype=torch.float64, requires_grad=True)
    head([features])[0, 0, 0, 0].backward()
    assert features.grad is not None
    assert features.grad[0, :, -1, -1].abs().sum() > 0


def test_the_deeplab_head_says_that_it_cannot_train_on_one_image() -> None:
    torch.manual_seed(0)
    head = DeepLabHead(channels=(8,), strides=(8,), outputs=1, width=4, rates=(1,))
    one = [torch.randn(1, 8, 20, 20)]
    with pytest.raises(ConfigurationError, match=r"at least 2 images .* got 1; raise training\.batch_size"):
        head(one)
    head.aspp.pooling.eval()
    assert head(one).shape == head.eval()(one).shape == (1, 1, 20, 20)


def test_coarse_levels_reach_the_fpn_head_and_few_parameters_do() -> None:
    head = FPNHead(channels=(24, 40, 112, 320), strides=(4, 8, 16, 32), outputs=13)
    assert sum(p.numel() for p in head.parameters()) < 75_000
    small = FPNHead(channels=CHANNELS, strides=STRIDES, outputs=3, width=5).double().eval()
    levels = pyramid()
    before = small(levels)
    assert before.shape == (2, 3, 16, 24)
    for place in range(len(levels)):
        changed = [level + (place == k) for k, level in enumerate(levels)]
        assert not torch.allclose(small(changed), before)
