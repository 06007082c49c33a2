"""Colour, randomness and the way back."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from plait.data.labels import Depth, InverseDepth, Semantic
from plait.data.sample import Geometry, Sample
from plait.data.transforms import Augmentation, EvaluationResize, random_numbers, undo, warp_label
from plait.data.warp import Memory, Warp
from plait.errors import ConfigurationError, DataError
from plait.training.fit import make_augmentation


def random_sample(size: tuple[int, int] = (24, 32), seed: int = 0) -> Sample:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(60, 190, (3, *size), generator=generator, dtype=torch.uint8)
    return Sample(
        "one", image, {"depth": Depth(torch.rand(1, *size, generator=generator) + 1)}, Geometry(size)
    )


@pytest.mark.parametrize("size", [(48, 64), (33, 50), (17, 21), (7, 64), (24, 32)])
def test_resizing_is_torchs_antialiased_bilinear_resize(size: tuple[int, int]) -> None:
    image = torch.rand(3, 24, 32)
    ours = Warp.identity((24, 32)).resized(size).bilinear(image.numpy(), np.zeros(3))
    torchs = torch.nn.functional.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]
    np.testing.assert_allclose(ours, torchs.numpy(), atol=2e-5)


def test_a_rotated_picture_is_grid_sampled() -> None:
    image = torch.rand(2, 24, 32)
    ours = Warp.identity((24, 32)).rotated(33).bilinear(image.numpy(), np.zeros(2))
    torchs = F.rotate(image, 33.0, interpolation=F.InterpolationMode.BILINEAR)
    inside = F.rotate(torch.ones(1, 24, 32), 33.0, interpolation=F.InterpolationMode.BILINEAR)[0] == 1
    np.testing.assert_allclose(ours[:, inside], torchs[:, inside].numpy(), atol=2e-5)


def test_colour_is_brightness_then_contrast_then_saturation() -> None:
    sample = random_sample()
    augmentation = Augmentation((24, 32), scale=(1, 1), flip=0, colour=0.2)
    after = augmentation(sample, random_numbers(0, 0, "one"))
    random = random_numbers(0, 0, "one")
    random.random(5)  # drawn for the geometry
    brightness, contrast, saturation = 1 + 0.2 * (2 * random.random(3) - 1)
    image = sample.image.double() / 255 * brightness
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    image = contrast * image + (1 - contrast) * torch.tensordot(luma, image, 1).mean()
    image = saturation * image + (1 - saturation) * torch.tensordot(luma, image, 1)
    torch.testing.assert_close(after.image.double(), image.clamp(0, 1), atol=1e-5, rtol=0)


def test_hue_keeps_luma_and_greys() -> None:
    matrix, _ = Augmentation((8, 8), colour=0, hue=0.3).colours(random_numbers(1, 0, "one"))
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(luma @ matrix, luma, atol=1e-4)
    np.testing.assert_allclose(matrix @ np.ones(3), 1, atol=1e-4)
    assert abs(matrix - np.eye(3)).max() > 0.01


def test_an_unscaled_crop_is_a_copy() -> None:
    sample = random_sample()
    after = Augmentation((10, 12), scale=(1, 1), flip=0, colour=0)(sample, random_numbers(0, 0, "one"))
    left, top = (-after.geometry.matrix[:2, 2]).int().tolist()
    window = sample.image[:, top : top + 10, left : left + 12]
    torch.testing.assert_close(after.image, window.float() / 255)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 1000),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    crop=st.booleans(),
    rotation=st.sampled_from([0.0, 15.0]),
)
def test_a_view_has_its_size_and_its_range(
    seed: int, size: tuple[int, int], crop: bool, rotation: float
) -> None:
    augmentation = Augmentation(size, scale=(0.7, 1.5), crop=crop, rotation=rotation, hue=0.1)
    after = augmentation(random_sample(), random_numbers(seed, 0, "one"))
    assert after.image.shape == (3, *size)
    assert after.image.dtype == torch.float32
    assert 0 <= after.image.min() <= after.image.max() <= 1
    assert after.targets["depth"].shape == (1, *size)


def test_the_survey_s_zoom_on_nyud_is_about_the_middle_and_brings_depth_closer() -> None:
    """Flip, a zoom by 1, 1.2 or 1.5 without a crop at random, nearest labels, depth over the zoom."""
    height, width = 30, 41
    places = torch.arange(height * width).view(1, height, width)
    sample = Sample(
        "a",
        torch.zeros(3, height, width, dtype=torch.uint8),
        {"semantic": Semantic(places), "depth": Depth(1 + places.float())},
        Geometry((height, width)),
    )
    view = Augmentation((height, width), scales=(1.0, 1.2, 1.5), crop=False, colour=0)
    seen: Counter[tuple[float, bool]] = Counter()
    for epoch in range(120):
        made = view(sample, random_numbers(0, epoch, "a"))
        found = made.targets["semantic"].as_subclass(Tensor)[0]
        for factor, flipped in itertools.product((1.0, 1.2, 1.5), (False, True)):
            rows, columns = (
                (torch.arange(side, dtype=torch.float64) + 0.5 - side / 2) / factor + side / 2
                for side in (height, width)
            )
            columns = columns.flip(0) if flipped else columns
            expected = places[0][rows.floor().long()][:, columns.floor().long()]
            clear = [(where - where.round()).abs() > 1e-9 for where in (rows, columns)]  # of a pixel's border
            sure = clear[0][:, None] & clear[1]
            if torch.equal(found[sure], expected[sure]):
                seen[factor, flipped] += 1
                depth = made.targets["depth"].as_subclass(Tensor)[0]
                torch.testing.assert_close(depth, (1 + found.float()) / factor)
    assert sum(seen.values()) == 120
    assert len(seen) == 6
    assert min(seen.values()) > 8


def test_the_options_that_the_docs_give_for_papers_are_options() -> None:
    page = Path(__file__).parents[2] / "docs" / "training.md"
    given = re.findall(r"^\| (?:the survey|ATRC).*`({size.*})` \|$", page.read_text(encoding="utf-8"), re.M)
    assert len(given) == 4
    for options in given:
        assert make_augmentation(yaml.safe_load(options)).flip == 0.5


def test_every_window_is_equally_likely_and_both_borders_are_reached() -> None:
    augmentation = Augmentation((22, 30), scale=(1, 1), flip=0, colour=0)
    tops = [
        int(-augmentation.warp((24, 32), random_numbers(seed, 0, "one")).matrix[1, 2]) for seed in range(300)
    ]
    counts = np.bincount(tops)
    assert len(counts) == 3
    assert counts.min() > 60


def test_random_numbers_depend_on_seed_epoch_and_sample_alone() -> None:
    first = random_numbers(1, 2, "a").random(4)
    np.testing.assert_array_equal(first, random_numbers(1, 2, "a").random(4))
    for other in (
        random_numbers(2, 2, "a"),
        random_numbers(1, 3, "a"),
        random_numbers(1, 2, "b"),
        random_numbers(1, 2, "a", repeat=1),
    ):
        assert (other.random(4) != first).all()
    np.testing.assert_allclose(
        first[:3],
        [0.4991688729930054, 0.5270954653850838, 0.3575436922452818],
        rtol=1e-15,
        err_msg="stored results rest on these",
    )


def test_inverse_depth_is_the_inverse_of_depth_from_closer_as_well() -> None:
    depth = torch.rand(1, 24, 32) + 1
    depth[:, :5] = torch.nan
    for warp in (
        Warp.identity((24, 32)).scaled(1.7).windowed(3, 4, (20, 20)),
        Warp.identity((24, 32)).scaled(0.6).mirrored(),
        Warp.identity((24, 32)).rotated(12).resized((30, 30)),
    ):
        nearer = warp_label(InverseDepth(1 / depth), warp)
        assert type(nearer) is InverseDepth
        torch.testing.assert_close(
            1 / nearer.as_subclass(torch.Tensor),
            warp_label(Depth(depth), warp).as_subclass(torch.Tensor),
            equal_nan=True,
        )


def test_results_in_one_block_of_memory_do_not_touch_each_other() -> None:
    random = np.random.default_rng(0)
    values, image = random.random((2, 24, 32)), random.integers(0, 256, (3, 24, 32), dtype=np.uint8)
    start = Warp.identity((24, 32))
    for warp in (start.scaled(1.3).windowed(2, 3, (24, 32)), start.rotated(20)):
        memory = Memory(22_000)  # enough for the image and once for the values
        shared = warp.into(memory)
        results = [shared.bilinear(image, np.zeros(3)), *(shared.nearest(values, -1) for _ in range(3))]
        expected = [warp.bilinear(image, np.zeros(3)), *(warp.nearest(values, -1) for _ in range(3))]
        inside = [np.shares_memory(result, memory.block) for result in results]
        assert inside == [True, True, False, False]
        for one, other in zip(results, expected, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def test_a_view_shares_nothing_with_its_sample() -> None:
    sample = random_sample()
    kept = sample.targets["depth"].clone(), sample.image.clone()
    after = Augmentation((24, 32), scale=(1, 1), flip=0, colour=0)(sample, random_numbers(0, 0, "one"))
    after.image.zero_()
    after.targets["depth"].as_subclass(torch.Tensor).zero_()
    assert torch.equal(sample.targets["depth"], kept[0])
    assert torch.equal(sample.image, kept[1])


@settings(deadline=None, max_examples=40)
@given(
    source=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    size=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    keep_aspect=st.booleans(),
)
def test_a_prediction_comes_back_to_its_place(
    source: tuple[int, int], size: tuple[int, int], keep_aspect: bool
) -> None:
    """A ramp over the original, seen by the network at any size, comes back as the same ramp."""
    after = EvaluationResize(size, keep_aspect)(
        Sample("one", torch.zeros(3, *source, dtype=torch.uint8), {}, Geometry(source))
    )
    assert after.image.shape[-2:] == size
    inverse = torch.linalg.inv(after.geometry.matrix)
    x = torch.arange(size[1]) + 0.5
    ramp = (x * inverse[0, 0] + inverse[0, 2]).float().expand(1, *size)
    back = undo(ramp, after.geometry)
    assert back.shape == (1, *source)
    expected = (torch.arange(source[1]) + 0.5).expand(1, *source)
    fitted = float(after.geometry.matrix[0, 0])
    margin = int(2 * max(1, 1 / fitted)) + 1  # the outermost pixels lean on the border
    if source[1] > 2 * margin:
        torch.testing.assert_close(
            back[..., margin:-margin], expected[..., margin:-margin], atol=0.5, rtol=0.02
        )


def test_an_untouched_prediction_comes_back_untouched() -> None:
    prediction = torch.rand(4, 24, 32)
    assert torch.equal(undo(prediction, Geometry((24, 32))), prediction)


def test_a_flipped_prediction_comes_back_mirrored() -> None:
    prediction = torch.rand(4, 24, 32)
    matrix = torch.from_numpy(Warp.identity((24, 32)).mirrored().matrix)
    assert torch.equal(undo(prediction, Geometry((24, 32), matrix)), prediction.flip(-1))


def test_a_prediction_that_lacks_a_part_is_refused() -> None:
    for warp in (Warp.identity((24, 32)).rotated(10), Warp.identity((24, 32)).windowed(2, 2, (24, 32))):
        with pytest.raises(DataError, match=r"rotated|whole picture"):
            undo(torch.rand(1, 24, 32), Geometry((24, 32), torch.from_numpy(warp.matrix)))


@pytest.mark.parametrize(
    "options",
    [
        {"size": (0, 4)},
        {"scale": (1.5, 1.0)},
        {"scale": (0.0, 1.0)},
        {"scales": (1.0, -1.0)},
        {"flip": 1.5},
        {"colour": 1.0},
        {"hue": 0.7},
        {"rotation": -3.0},
        {"size": 128},
        {"size": (128,)},
        {"size": (8.5, 8)},
        {"size": "88"},
        {"scale": 2},
        {"scale": (1, float("nan"))},
        {"scales": 1.5},
        {"scales": (1.0, "2")},
        {"crop": "yes"},
        {"flip": None},
        {"flip": True},
        {"colour": "abc"},
        {"hue": "red"},
        {"rotation": (0, 10)},
    ],
)
def test_impossible_options_are_named(options: dict[str, object]) -> None:
    ((option, value),) = options.items()
    with pytest.raises(
        ConfigurationError, match=rf"^augmentation\.{option} must be .*, got {re.escape(repr(value))}$"
    ):
        Augmentation(**{"size": (8, 8), **options})  # type: ignore[arg-type]
