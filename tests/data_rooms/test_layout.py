"""Nothing is placed into anything else, nothing hangs in the air, and a room is a function of its seed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from plait.data.rooms.classes import CLASSES
from plait.data.rooms.furniture import ARCHETYPES, CURTAINS
from plait.data.rooms.furniture.things import RUG_HEIGHT
from plait.data.rooms.geometry import Boxes, Pose
from plait.data.rooms.layout import Room, Solid
from plait.data.rooms.textures import Palette

SEEDS = range(60)


@pytest.fixture(scope="module")
def rooms() -> list[Room]:
    return [Room([7, seed]) for seed in SEEDS]


def world_boxes(solid: Solid) -> list[tuple[NDArray[np.float64], float, float]]:
    """Plan corners ``[4, 2]``, bottom and top of every part, from the vertices alone."""
    c, s = math.cos(solid.pose.yaw), math.sin(solid.pose.yaw)
    found = []
    for part in solid.piece.parts:
        x0, y0, z0 = part.mesh.vertices.min(0)
        x1, y1, z1 = part.mesh.vertices.max(0)
        corners = [
            (solid.pose.x + c * x - s * y, solid.pose.y + s * x + c * y)
            for x, y in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))
        ]
        found.append((np.array(corners), solid.pose.z + z0, solid.pose.z + z1))
    return found


def plan_overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """By how much two rectangles ``[4, 2]`` overlap along their best separating axis; negative if apart."""
    least = math.inf
    for shape in (first, second):
        for k in (0, 1):
            side = shape[k + 1] - shape[k]
            axis = np.array([-side[1], side[0]]) / max(np.linalg.norm(side), 1e-12)
            a, b = first @ axis, second @ axis
            least = min(least, min(a.max(), b.max()) - max(a.min(), b.min()))
    return least


def depth_of_overlap(first: Solid, second: Solid) -> float:
    """How deep the boxes of two solids reach into each other, in metres."""
    deepest = 0.0
    for (p, p0, p1), (q, q0, q1) in itertools.product(world_boxes(first), world_boxes(second)):
        height = min(p1, q1) - max(p0, q0)
        if height > deepest:
            deepest = max(deepest, min(height, plan_overlap(p, q)))
    return deepest


def near(first: Solid, second: Solid) -> bool:
    low, high = first.boxes.bounds()
    other_low, other_high = second.boxes.bounds()
    return bool((low.min(0) < other_high.max(0)).all() and (other_low.min(0) < high.max(0)).all())


def test_no_two_solids_interpenetrate(rooms: list[Room]) -> None:
    for seed, room in zip(SEEDS, rooms, strict=True):
        for first, second in itertools.combinations(room.solids, 2):
            if near(first, second):
                names = f"seed {seed}: {first.piece.archetype} and {second.piece.archetype}"
                assert depth_of_overlap(first, second) < 5e-4, names


def test_everything_stays_in_the_room(rooms: list[Room]) -> None:
    for room in rooms:
        for solid in room.solids:
            if solid.piece.kind == "window":
                continue  # sits in its wall
            points = np.concatenate([solid.pose.apply(part.mesh.vertices) for part in solid.piece.parts])
            assert (points >= -1e-3).all(), solid.piece.archetype
            assert (points <= np.array(room.size) + 1e-3).all(), solid.piece.archetype


def test_no_door_overlaps_a_window_and_neither_overlaps_its_like(rooms: list[Room]) -> None:
    pairs = 0
    for room in rooms:
        openings = [solid for solid in room.solids if solid.piece.kind in ("door", "window")]
        for first, second in itertools.combinations(openings, 2):
            if first.wall == second.wall:
                pairs += 1
                assert first.span[1] < second.span[0] or second.span[1] < first.span[0]
    assert pairs > 10


def test_nothing_hangs_in_the_air(rooms: list[Room]) -> None:
    for room in rooms:
        for solid in room.solids:
            bottom = min(low for _, low, _ in world_boxes(solid))
            if solid.mount == "floor":
                assert min(abs(bottom), abs(bottom - RUG_HEIGHT)) < 6e-3, solid.piece.archetype
            elif solid.mount == "on":
                below = [
                    plan_overlap(plan, other_plan)
                    for other in room.solids
                    if other is not solid
                    for other_plan, _, top in world_boxes(other)
                    if abs(top - bottom) < 6e-3
                    for plan, _, _ in world_boxes(solid)
                ]
                assert max(below, default=-1.0) > 0, solid.piece.archetype


def test_a_room_is_a_function_of_its_seed() -> None:
    first, second, other = Room([3, 4]), Room([3, 4]), Room([3, 5])
    assert len(first.solids) == len(second.solids)
    for a, b in zip(first.solids, second.solids, strict=True):
        assert a.pose == b.pose
        assert a.piece.archetype == b.piece.archetype
        for part, twin in zip(a.piece.parts, b.piece.parts, strict=True):
            np.testing.assert_array_equal(part.mesh.vertices, twin.mesh.vertices)
            np.testing.assert_array_equal(part.material.texture, twin.material.texture)
    assert first.size != other.size


def test_every_class_has_at_least_three_designs() -> None:
    furniture = set(CLASSES) - {"wall", "floor", "ceiling", "curtain"}
    assert set(ARCHETYPES) == furniture
    assert all(len(designs) >= 3 for designs in [*ARCHETYPES.values(), CURTAINS])


def test_every_design_makes_a_piece_of_its_class() -> None:
    for kind, designs in ARCHETYPES.items():
        names = set()
        for seed, design in itertools.product(range(3), designs):
            piece = design(Palette(np.random.default_rng(seed)))
            names.add(piece.archetype)
            assert piece.kind == kind
            for part in piece.parts:
                assert np.isfinite(part.mesh.vertices).all()
                assert part.mesh.faces.max() < len(part.mesh.vertices)
                assert 0 <= part.material.texture.min() <= part.material.texture.max() <= 1
        assert len(names) >= 3


def test_boxes_meet_as_separating_axes_say() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        first, second = (
            Boxes.of(
                [(-rng.uniform(0.1, 0.6, 3), rng.uniform(0.1, 0.6, 3))],
                Pose(*rng.uniform(-0.6, 0.6, 3), yaw=rng.uniform(0, 7)),
            )
            for _ in range(2)
        )
        plans = []
        for box in (first, second):
            u, v = box.axes()[0]
            a, b = box.half[0, 0] * u, box.half[0, 1] * v
            plans.append(box.centre[0] + np.array([a + b, -a + b, -a - b, a - b]))
        height = min(first.z[0, 1], second.z[0, 1]) - max(first.z[0, 0], second.z[0, 0])
        overlap = min(height, plan_overlap(plans[0], plans[1]))
        if abs(overlap - 1e-4) > 1e-9:
            assert first.meet(second)[0, 0] == (overlap > 1e-4)
