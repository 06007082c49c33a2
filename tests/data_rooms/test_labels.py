"""Labels are exact: against formulas, against a slow ray caster of our own, and against the packaged set."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from plait.data.rooms.assembly import ATLAS, Assembly, assemble
from plait.data.rooms.build import encode_labels
from plait.data.rooms.camera import Camera, look, sample
from plait.data.rooms.classes import CLASS_ID, CLASSES, FIXED
from plait.data.rooms.dataset import CONVERT
from plait.data.rooms.labels import Labels, RayCaster, edges, saliency
from plait.data.rooms.layout import Room

pytest.importorskip("embreex")


def triangles(corners: NDArray[np.float64], semantic: list[int]) -> Assembly:
    """A scene of loose triangles ``[F, 3, 3]`` with classes; each triangle is an instance."""
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    count = len(corners)
    return Assembly(
        vertices=corners.reshape(-1, 3),
        normals=np.repeat(normal, 3, 0),
        uv=np.zeros((3 * count, 2)),
        semantic=np.array(semantic, np.uint8),
        instance=np.arange(1, count + 1),
        group=np.zeros(count, np.int64),
        radiance=np.zeros((5, 3)),
        albedo=np.full((ATLAS, ATLAS, 3), 0.5, np.float32),
        surface=np.zeros((ATLAS, ATLAS, 2), np.float32),
        parents={},
    )


def straight(position: tuple[float, float, float], field_of_view: float = 60.0) -> Camera:
    """A camera that looks along +y."""
    start = np.array(position)
    return look(start, start + np.array([0.0, 1.0, 0.0]), field_of_view)


def test_a_wall_and_a_floor_have_the_depth_and_normals_of_the_formula() -> None:
    far, big = 3.0, 100.0
    wall = np.array([[-big, far, -big], [big, far, -big], [0, far, big]])
    floor = np.array([[-big, -big, 0], [big, -big, 0], [0, 2 * big, 0]], float)
    camera = straight((0.0, 0.0, 1.2))
    labels = RayCaster(triangles(np.stack([wall, floor]), [0, 1])).labels(camera, (48, 64))
    y = (np.arange(48) + 0.5 - 24) / camera.focal(64)
    expected = np.minimum(far, np.where(y > 0, 1.2 / np.maximum(y, 1e-9), np.inf))
    np.testing.assert_allclose(labels.depth, np.repeat(expected[:, None], 64, 1), rtol=1e-6)
    on_wall = labels.semantic == 0
    assert on_wall[0].all()
    assert not on_wall[-1].any()
    np.testing.assert_allclose(labels.normals[on_wall], [[0, 0, -1]] * int(on_wall.sum()), atol=1e-6)
    np.testing.assert_allclose(labels.normals[~on_wall], [[0, -1, 0]] * int((~on_wall).sum()), atol=1e-6)


def test_what_no_ray_meets_is_unknown() -> None:
    labels = RayCaster(triangles(np.array([[[0.0, 3, 0], [1, 3, 0], [0, 3, 1]]]), [4])).labels(
        straight((0.0, 0.0, 0.3)), (32, 32)
    )
    unknown = labels.semantic == 255
    assert 0 < unknown.sum() < unknown.size
    np.testing.assert_array_equal(unknown, np.isnan(labels.depth))
    np.testing.assert_array_equal(unknown, np.isnan(labels.normals).all(-1))
    np.testing.assert_array_equal(unknown, labels.instance == 0)


def slow_cast(
    scene: Assembly, camera: Camera, size: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest face and its depth for every pixel, by Moeller and Trumbore over all triangles."""
    rays = camera.rays(*size) @ camera.rotation
    a, b, c = np.moveaxis(scene.vertices.reshape(-1, 3, 3), 1, 0)
    first, second, origin = b - a, c - a, camera.position - a
    faces, depths = [], []
    for ray in rays:
        p = np.cross(ray, second)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1 / (first * p).sum(1)
            u = (origin * p).sum(1) * inverse
            q = np.cross(origin, first)
            v = (q @ ray) * inverse
            t = (second * q).sum(1) * inverse
            hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 1e-6)
        t = np.where(hit, t, np.inf)
        faces.append(int(t.argmin()))
        depths.append(float(t.min()))
    return np.array(faces).reshape(size), np.array(depths).reshape(size)


@pytest.fixture(scope="module")
def furnished() -> tuple[Assembly, Camera, Labels]:
    room = Room([11, 2])
    scene = assemble(room)
    camera = sample(room, np.random.default_rng(1))
    assert camera is not None
    return scene, camera, RayCaster(scene).labels(camera, (24, 32))


def test_a_furnished_room_agrees_with_a_slow_ray_caster(furnished: tuple[Assembly, Camera, Labels]) -> None:
    scene, camera, labels = furnished
    face, depth = slow_cast(scene, camera, (24, 32))
    close = np.abs(labels.depth - depth) < 1e-4 * depth
    assert close.mean() > 0.998  # a ray along an edge may meet either face
    assert (labels.semantic == scene.semantic[face])[close].mean() > 0.998
    assert (labels.instance == scene.instance[face])[close].mean() > 0.998


def test_normals_have_unit_length_and_face_the_camera(furnished: tuple[Assembly, Camera, Labels]) -> None:
    _, camera, labels = furnished
    np.testing.assert_allclose(np.linalg.norm(labels.normals, axis=-1), 1, atol=1e-5)
    rays = camera.rays(24, 32).reshape(24, 32, 3)
    assert ((labels.normals * rays).sum(-1) < 1e-5).all()


def test_instances_have_one_class_each(furnished: tuple[Assembly, Camera, Labels]) -> None:
    _, _, labels = furnished
    for instance in np.unique(labels.instance):
        assert len(np.unique(labels.semantic[labels.instance == instance])) == 1


def test_edges_mark_the_left_or_upper_side_of_a_boundary() -> None:
    instance = np.array([[1, 1, 2], [1, 1, 2], [3, 3, 3]])
    expected = [[False, True, False], [True, True, True], [False, False, False]]
    np.testing.assert_array_equal(edges(instance), expected)


def view(instance: NDArray[Any], kinds: dict[int, str], shade: dict[int, float]) -> Labels:
    """Flat labels from an instance map, with a class and a grey for each instance."""
    semantic = np.vectorize(lambda number: CLASS_ID[kinds[number]])(instance).astype(np.uint8)
    grey = np.vectorize(shade.__getitem__)(instance).astype(np.float32)
    return Labels(
        semantic=semantic,
        instance=instance.astype(np.uint16),
        depth=np.full(instance.shape, 2.0, np.float32),
        normals=np.tile(np.float32([0, 0, -1]), (*instance.shape, 1)),
        albedo=np.repeat(grey[..., None], 3, -1),
        group=np.zeros(instance.shape, np.int64),
    )


def test_the_central_the_larger_and_the_distinct_object_is_salient() -> None:
    def winner(first: tuple[slice, slice], second: tuple[slice, slice], shades: dict[int, float]) -> set[int]:
        instance = np.ones((48, 64), int)
        instance[first], instance[second] = 2, 3
        labels = view(instance, {1: "wall", 2: "chair", 3: "plant"}, shades)
        return set(np.unique(instance[saliency(labels, {})]))

    equal = {1: 0.8, 2: 0.2, 3: 0.2}
    assert winner(np.s_[18:30, 26:38], np.s_[2:14, 2:14], equal) == {2}
    assert winner(np.s_[14:34, 10:30], np.s_[20:26, 38:44], equal) == {2}
    assert winner(np.s_[18:30, 12:24], np.s_[18:30, 40:52], {1: 0.8, 2: 0.1, 3: 0.7}) == {2}
    assert winner(np.s_[18:30, 12:24], np.s_[18:30, 40:52], equal) == {2, 3}


def test_what_is_fixed_is_never_salient_and_children_go_with_their_parent() -> None:
    instance = np.ones((48, 64), int)
    instance[10:40, 10:50], instance[12:20, 20:30] = 2, 3
    shades = {1: 0.8, 2: 0.2, 3: 0.3}
    picture = view(instance, {1: "wall", 2: "picture", 3: "window"}, shades)
    assert not saliency(picture, {}).any()
    bed = view(instance, {1: "wall", 2: "bed", 3: "pillow"}, shades)
    np.testing.assert_array_equal(saliency(bed, {2: 2, 3: 2}), instance > 1)


@given(st.integers(0, 2**32 - 1))
def test_saliency_never_marks_fixed_classes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    instance = np.kron(rng.integers(1, 9, (6, 8)), np.ones((4, 4), int))
    kinds = {number: str(rng.choice(CLASSES)) for number in range(1, 9)}
    labels = view(instance, kinds, {number: float(rng.random()) for number in kinds})
    mask = saliency(labels, {})
    np.testing.assert_array_equal(mask, saliency(labels, {}))
    assert not np.isin(labels.semantic[mask], [CLASS_ID[name] for name in FIXED]).any()


def test_encoding_keeps_labels_to_half_a_millimetre_and_half_a_degree(
    furnished: tuple[Assembly, Camera, Labels],
) -> None:
    scene, _, labels = furnished
    columns = {
        name: np.array(Image.open(io.BytesIO(content)))
        for name, content in encode_labels(labels, scene.parents).items()
    }
    np.testing.assert_array_equal(columns["semantic"], labels.semantic)
    np.testing.assert_array_equal(columns["instances"], labels.instance)
    np.testing.assert_array_equal(columns["edges"] == 255, edges(labels.instance))
    assert np.abs(columns["depth"] / 1000 - labels.depth).max() <= 5.1e-4
    normals = columns["normals"] / 127.5 - 1
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    assert (normals * labels.normals).sum(-1).min() > np.cos(np.radians(0.5))


def test_unknown_pixels_are_stored_as_zero_depth_and_no_normal() -> None:
    labels = view(np.ones((4, 4), int), {1: "wall"}, {1: 0.5})
    labels.depth[0] = np.nan
    labels.normals[0] = np.nan
    columns = encode_labels(labels, {})
    depth = np.array(Image.open(io.BytesIO(columns["depth"])))
    normals = np.array(Image.open(io.BytesIO(columns["normals"])))
    np.testing.assert_array_equal(depth[:, 0], [0, 2000, 2000, 2000])
    np.testing.assert_array_equal(normals[0], 0)
    assert normals[1:].any(-1).all()


def test_an_object_of_any_id_is_known_when_read_and_only_zero_is_not() -> None:
    stored = np.array([[[0, 1, 254, 255, 256, 65535]]], dtype=np.uint16)
    read = CONVERT["instances"](stored)
    assert type(read).known(read).tolist() == [[[False, True, True, True, True, True]]]
    assert read.tolist() == [[[255, 1, 254, 256, 257, 65536]]]
