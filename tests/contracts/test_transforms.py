"""Every transform on every label type, on a plane whose depth and normals are a formula of the pixel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from plait.data.labels import Depth, Label, Mask, Normals, Semantic
from plait.data.sample import Geometry, Sample
from plait.data.transforms import (
    KERNELS,
    Augmentation,
    EvaluationResize,
    random_numbers,
    warp_label,
    warp_sample,
)
from plait.data.warp import Warp
from plait.testing import PlaneScene, analytic_scene

SCENE = analytic_scene((48, 64))
LABEL_TYPES: tuple[type[Label], ...] = (Semantic, Depth, Normals, Mask)


def sample_of(scene: PlaneScene) -> Sample:
    x, y = scene.grid()
    normals = np.broadcast_to(scene.normal[:, None, None], (3, *scene.size)).astype(np.float32)
    targets: dict[str, Label] = {
        "semantic": Semantic(torch.from_numpy(scene.class_at(x, y))[None]),
        "depth": Depth(torch.from_numpy(scene.depth_at(x, y)).float()[None]),
        "normals": Normals(torch.from_numpy(normals.copy())),
        "edges": Mask(torch.from_numpy(scene.mask_at(x, y))[None]),
    }
    image = torch.from_numpy((scene.texture_at(x, y) * 255).round().astype(np.uint8))
    return Sample("plane", image, targets, Geometry(scene.size))


@dataclass(frozen=True)
class Case:
    """A transform and what it does to the camera: the expectation, written without the code under test."""

    apply: Callable[[Sample], Sample]
    zoom: float = 1.0
    degrees: float = 0.0
    mirrored: bool = False


def warping(warp: Warp) -> Callable[[Sample], Sample]:
    return lambda sample: warp_sample(sample, warp)


def augmenting(**options: Any) -> Callable[[Sample], Sample]:
    return lambda sample: Augmentation(**options)(sample, random_numbers(3, 0, sample.id))


START = Warp.identity(SCENE.size)
CASES = {
    "identity": Case(warping(START)),
    "flip": Case(warping(START.mirrored()), mirrored=True),
    "zoom": Case(warping(START.scaled(1.5)), zoom=1.5),
    "shrink": Case(warping(START.scaled(0.6)), zoom=0.6),
    "window": Case(warping(START.windowed(5, 9, (30, 40)))),
    "window outside": Case(warping(START.windowed(-6, 40, (70, 50)))),
    "fractional window": Case(warping(START.windowed(3.3, 7.8, (20, 21)))),
    "resize": Case(warping(START.resized((72, 80)))),
    "resize down": Case(warping(START.resized((20, 31)))),
    "rotate": Case(warping(START.rotated(17)), degrees=17),
    "rotate and shrink": Case(warping(START.rotated(-25).scaled(0.5)), degrees=-25, zoom=0.5),
    "flip, rotate, zoom, crop": Case(
        warping(START.mirrored().rotated(12).scaled(1.3).windowed(4, 6, (40, 44))),
        mirrored=True,
        degrees=12,
        zoom=1.3,
    ),
    "augmentation, crop": Case(
        augmenting(size=(32, 40), scale=(1.4, 1.4), flip=1.0, colour=0.0), zoom=1.4, mirrored=True
    ),
    "augmentation, centre": Case(
        augmenting(size=(60, 80), scales=(1.2,), crop=False, flip=0.0, colour=0.0), zoom=1.2
    ),
    "evaluation, padded": Case(EvaluationResize((64, 64))),
    "evaluation, stretched": Case(EvaluationResize((40, 96), keep_aspect=False)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_plane_stays_the_plane_its_new_camera_sees(name: str) -> None:
    case, before = CASES[name], sample_of(SCENE)
    after = case.apply(before)
    height, width = after.image.shape[-2:]

    # Where each result pixel comes from, by the matrix that the sample itself reports.
    inverse = torch.linalg.inv(after.geometry.matrix).numpy()
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y, _ = np.tensordot(inverse, np.stack([columns, rows, np.ones_like(rows)]), 1)
    near = 1e-6
    inside = (x > near) & (x < SCENE.size[1] - near) & (y > near) & (y < SCENE.size[0] - near)
    beyond = (x < -near) | (x > SCENE.size[1] + near) | (y < -near) | (y > SCENE.size[0] + near)
    assert inside.any()

    for label in after.targets.values():
        assert label.shape[-2:] == (height, width)
        known = type(label).known(label.as_subclass(Tensor))[0].numpy()
        assert known[inside].all()
        assert not known[beyond].any(), "outside the picture nothing is known"

    # Labels come from the pixel that (x, y) falls in, so half a pixel is the most they can be off.
    depth = after.targets["depth"][0].numpy()
    around = [
        SCENE.depth_at(np.floor(x) + 0.5 + dx, np.floor(y) + 0.5 + dy) / case.zoom
        for dx in (-near, near)
        for dy in (-near, near)
    ]
    off = np.min([abs(depth - expected) for expected in around], axis=0)
    assert off[inside].max() < 1e-4

    angle = np.deg2rad(case.degrees)
    normal = SCENE.normal * np.array([-1 if case.mirrored else 1, 1, 1])
    # Seen turned counter-clockwise, with y down: right (1, 0) becomes up-right (cos, -sin).
    expected_normal = np.array(
        [
            np.cos(angle) * normal[0] + np.sin(angle) * normal[1],
            -np.sin(angle) * normal[0] + np.cos(angle) * normal[1],
            normal[2],
        ]
    )
    normals = after.targets["normals"].numpy()[:, inside]
    np.testing.assert_allclose(normals, np.broadcast_to(expected_normal[:, None], normals.shape), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-6)

    for field, formula in (("semantic", SCENE.class_at), ("edges", SCENE.mask_at)):
        found = after.targets[field][0].numpy()
        clear = inside & (abs(x - 32) > 0.5) & (abs(y - 24) > 0.5) & (abs(x - 64 / 3) > 0.5)
        np.testing.assert_array_equal(found[clear], formula(x, y)[clear])

    # The texture is linear, so interpolation (and smoothing, away from the border) leaves it as it is.
    margin = 2 / min(1, case.zoom) + 2
    far = inside & (np.minimum(x, 64 - x) > margin) & (np.minimum(y, 48 - y) > margin)
    image = after.image.numpy()
    assert abs(image - SCENE.texture_at(x, y))[:, far].max() < 0.012


def test_depth_and_normals_turn_as_the_turned_camera_sees_them() -> None:
    """A camera rolled about its axis sees the plane with the rolled normal: one scene, two derivations."""
    scene = analytic_scene((48, 48))
    after = warp_sample(sample_of(scene), Warp.identity(scene.size).rotated(90))
    turned = PlaneScene(
        scene.size, scene.focal, after.targets["normals"][:, 24, 24].double().numpy(), scene.distance
    )
    x, y = turned.grid()
    np.testing.assert_allclose(after.targets["depth"][0].numpy(), turned.depth_at(x, y), rtol=1e-5)


@pytest.mark.parametrize("label_type", LABEL_TYPES)
def test_flipping_twice_and_turning_around_change_nothing(label_type: type[Label]) -> None:
    label = next(t for t in sample_of(SCENE).targets.values() if type(t) is label_type)
    for there_and_back in (
        START.mirrored().mirrored(),
        START.mirrored(horizontally=False).mirrored(horizontally=False),
        START.rotated(180).rotated(180),
        START.windowed(-3, -4, (60, 70)).windowed(3, 4, SCENE.size),
    ):
        torch.testing.assert_close(warp_label(label, there_and_back), label, rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    degrees=st.floats(-180, 180),
    factor=st.floats(0.5, 2),
    mirrored=st.booleans(),
    top=st.integers(-10, 30),
    left=st.integers(-10, 30),
)
def test_composing_equals_the_composed_map(
    degrees: float, factor: float, mirrored: bool, top: int, left: int
) -> None:
    steps = START.mirrored() if mirrored else START
    steps = steps.rotated(degrees).scaled(factor).windowed(top, left, (32, 32))
    corner = np.array([3.0, 5.0, 1.0])
    moved = corner.copy()
    if mirrored:
        moved[0] = 64 - moved[0]
    angle = np.deg2rad(degrees)
    dx, dy = moved[0] - 32, moved[1] - 24
    moved[0] = 32 + np.cos(angle) * dx + np.sin(angle) * dy
    moved[1] = 24 - np.sin(angle) * dx + np.cos(angle) * dy
    canvas = (round(48 * factor), round(64 * factor))
    moved[0] = canvas[1] / 2 + factor * (moved[0] - 32) - left
    moved[1] = canvas[0] / 2 + factor * (moved[1] - 24) - top
    np.testing.assert_allclose(steps.matrix @ corner, moved, atol=1e-9)
    np.testing.assert_allclose(steps.turn @ steps.turn.T, np.eye(2), atol=1e-12)
    assert steps.zoom == factor


# --- torchvision's own transforms -----------------------------------------------------------------------

TORCHVISION: dict[str, Callable[[Any], Any]] = {
    "horizontal_flip": F.horizontal_flip,
    "vertical_flip": F.vertical_flip,
    "crop": lambda label: F.crop(label, 4, 6, 30, 28),
    "crop outside": lambda label: F.crop(label, -4, 50, 30, 28),
    "center_crop": lambda label: F.center_crop(label, [30, 20]),
    "pad": lambda label: F.pad(label, [3, 5], fill=9),
    "rotate 90": lambda label: F.rotate(label, 90.0),
    "rotate": lambda label: F.rotate(label, 31.0),
    "affine": lambda label: F.affine(label, angle=20.0, translate=[3, -2], scale=1.4, shear=[0.0, 0.0]),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_moves_labels_and_pictures_alike(name: str) -> None:
    """Class ids follow a picture of them, wherever torchvision's own rounding is not on an edge."""
    semantic = torch.randint(0, 5, (1, 48, 64), generator=torch.Generator().manual_seed(0))
    moved = TORCHVISION[name](Semantic(semantic)).as_subclass(Tensor)
    picture = TORCHVISION[name](semantic.float() + 1)
    known = (moved != 255) & (picture > 0) & (picture < 9)
    assert known.float().mean() > 0.2
    agree = (moved[known] + 1 == picture[known]).float().mean()
    assert agree > 0.98, "a rotation may round a few pixels differently"


def test_torchvision_resizes_labels_to_the_nearest_pixel() -> None:
    depth = torch.rand(1, 48, 64) + 1
    resized = F.resize(Depth(depth), [24, 32])
    assert type(resized) is Depth
    assert torch.isin(resized.as_subclass(Tensor), depth).all()
    assert F.resize(Depth(depth), 24).shape == (1, 24, 32)


def test_torchvision_zoom_divides_depth_and_rotation_turns_normals() -> None:
    sample = sample_of(SCENE)
    zoomed = F.affine(sample.targets["depth"], angle=0.0, translate=[0, 0], scale=2.0, shear=[0.0, 0.0])
    assert zoomed[0, 24, 32] == pytest.approx(float(sample.targets["depth"][0, 24, 32]) / 2, rel=1e-6)
    normals = F.rotate(sample.targets["normals"], 90.0)[:, 24, 32]
    x, y, z = SCENE.normal
    np.testing.assert_allclose(normals.numpy(), [y, -x, z], atol=1e-6)


@pytest.mark.parametrize("label_type", LABEL_TYPES)
@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomPerspective(distortion_scale=0.5, p=1.0),
        v2.ElasticTransform(),
        v2.RandomResizedCrop((20, 20)),
        v2.RandomAffine(0, shear=(10, 10)),
        v2.RandomRotation((20, 20), expand=True),
        v2.Pad(2, padding_mode="reflect"),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_geometry_without_a_kernel_is_refused(label_type: type[Label], transform: v2.Transform) -> None:
    label = next(t for t in sample_of(SCENE).targets.values() if type(t) is label_type)
    with pytest.raises(TypeError, match=r"label|kernel"):
        transform(tv_tensors.Image(torch.rand(3, 48, 64)), label)


def test_a_label_type_without_a_kernel_is_refused() -> None:
    class Heat(Mask):
        """A label type that nobody has described."""

    assert Heat not in KERNELS
    heat = Heat(torch.rand(1, 48, 64))
    for attempt in (lambda: warp_label(heat, START.mirrored()), lambda: F.horizontal_flip(heat)):
        with pytest.raises(TypeError, match="Heat"):
            attempt()


@pytest.mark.parametrize("label_type", LABEL_TYPES)
def test_colour_leaves_labels_alone(label_type: type[Label]) -> None:
    label = next(t for t in sample_of(SCENE).targets.values() if type(t) is label_type)
    changed = v2.ColorJitter(0.5, 0.5, 0.5)(label)
    torch.testing.assert_close(changed, label, equal_nan=True)
