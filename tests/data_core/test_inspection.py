"""The report names what is wrong; the tiny rooms are what they claim to be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from PIL import Image
from torch import Tensor

import plait.data
from plait.data.inspection import _sheet, default_declaration, default_tasks
from plait.data.rooms.dataset import FIELDS, Rooms
from plait.errors import ConfigurationError
from plait.tasks import parse
from plait.testing import analytic_scene, write_tiny_rooms


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tiny_rooms(tmp_path / "rooms", images=(4, 2, 2), size=(24, 32))


def test_a_report_says_what_is_there(root: Path) -> None:
    report = plait.data.check("rooms", root)
    text = "\n".join(report.lines)
    assert report.good
    for expected in (
        "licence: MIT",
        "checksums: each split's file is verified against the manifest's SHA-256",
        "train: 4 samples",
        "val: 2",
        "wall, floor",
        " m, median ",
        "lengths 1.000",
    ):
        assert expected in text


def test_problems_are_named_and_the_rest_is_still_checked(root: Path) -> None:
    (root / "train.parquet").write_bytes(b"other")
    (root / "val.parquet").unlink()
    report = plait.data.check("rooms", root)
    assert not report.good
    assert len(report.problems) == 2
    assert "SHA-256" in report.problems[0]
    assert "no such file" in report.problems[1]
    assert any(line.startswith("test: 2 samples") for line in report.lines)


def test_samples_in_two_splits_are_a_problem(root: Path) -> None:
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["splits"]["val"] = manifest["splits"]["test"]
    (root / "manifest.json").write_text(json.dumps(manifest))
    report = plait.data.check("rooms", root)
    assert report.problems[0].startswith("test: sample 002000_0 is already in val")


def test_a_sheet_has_a_row_a_sample_and_a_column_a_task(root: Path, tmp_path: Path) -> None:
    tasks = parse({"depth": {"kind": "depth"}})
    few = plait.data.show("rooms", root, samples=2, out=tmp_path / "few.png", tasks=tasks)
    many = plait.data.show("rooms", root, samples=4, out=tmp_path / "many.png")
    with Image.open(few) as small, Image.open(many) as large:
        assert small.width < large.width
        assert small.height < large.height


def test_a_sheet_says_how_to_read_it_and_depth_fills_its_colours(root: Path) -> None:
    rooms = Rooms("train", tuple(FIELDS), root)
    shown = [rooms[0], rooms[1]]
    tasks = default_tasks(rooms, shown)
    texts = {text.get_text() for text in _sheet(shown, tasks).findobj(Text)}
    depths = torch.cat([sample.targets["depth"].as_subclass(Tensor).flatten() for sample in shown])
    far = f"{depths.quantile(0.99):.2g} m"
    assert {"0 m", far, *rooms.classes["semantic"], "faces up", "0", "1"} <= texts
    depth = next(task for task in tasks if task.name == "depth")
    assert depth.legend.high == far != default_tasks(rooms)[1].legend.high


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'rooms'"):
        plait.data.check("room")
    with pytest.raises(ConfigurationError, match="'rooms'"):
        plait.data.show("room", out=tmp_path / "a.png")


@pytest.mark.parametrize("samples", [0, -1])
def test_a_sheet_of_nothing_is_refused(root: Path, tmp_path: Path, samples: int) -> None:
    with pytest.raises(ConfigurationError, match=f"at least 1 sample to draw, got {samples}"):
        plait.data.show("rooms", root, samples=samples, out=tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.foo", "a"])
def test_a_picture_of_no_known_format_is_refused(root: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"such as samples.png, got .*{name}"):
        plait.data.show("rooms", root, out=tmp_path / name)


def test_tiny_rooms_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    first, again, other = (
        write_tiny_rooms(tmp_path / str(k), images=(2, 1, 1), size=(12, 16), seed=seed)
        for k, seed in enumerate((0, 0, 1))
    )
    manifests = [(folder / "manifest.json").read_text() for folder in (first, again, other)]
    assert manifests[0] == manifests[1] != manifests[2]


def test_tiny_rooms_depth_and_normals_describe_one_surface(root: Path) -> None:
    """Normals computed from the depth by the camera agree with the stored ones, away from edges."""
    rooms = Rooms("train", ["depth", "normals", "edges"], root)
    fx, fy, cx, cy = rooms.camera(0)
    for place in range(len(rooms)):
        targets = {name: label.as_subclass(Tensor).double() for name, label in rooms[place].targets.items()}
        y, x = torch.meshgrid(torch.arange(24) + 0.5, torch.arange(32) + 0.5, indexing="ij")
        points = targets["depth"] * torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x)])
        right = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
        down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
        normal = torch.nn.functional.normalize(torch.linalg.cross(down, right, dim=0), dim=0)
        agreement = (normal * targets["normals"][:, 1:-1, 1:-1]).sum(0)
        edges = torch.nn.functional.max_pool2d(targets["edges"], 5, 1, 2)[0, 1:-1, 1:-1]
        # Two walls that meet are one solid without an edge, so a few pixels straddle a corner.
        assert agreement[edges == 0].median() > 0.999
        assert (agreement[edges == 0] > 0.98).double().mean() > 0.8


def test_the_analytic_plane_faces_the_camera_and_fits_its_depth() -> None:
    scene = analytic_scene()
    x, y = scene.grid()
    depth = scene.depth_at(x, y)
    rays = np.stack([(x - 32) / scene.focal, (y - 24) / scene.focal, np.ones_like(x)])
    np.testing.assert_allclose(np.tensordot(scene.normal, depth * rays, 1), -scene.distance)
    assert 1 < depth.min() < depth.max() < 5
    assert (np.tensordot(scene.normal, rays, 1) < 0).all()


def test_classes_without_names_are_drawn_by_number_where_no_class_has_one(tmp_path: Path) -> None:
    for name in range(6):
        for folder, pixels in (
            ("images", np.full((20, 30, 3), name, np.uint8)),
            ("classes", np.full((20, 30), name % 4, np.uint8)),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{name}.png")
    fields = {"semantic": {"source": "classes"}}
    dataset = plait.data.create("folder", split="train", labels=["semantic"], root=tmp_path, fields=fields)
    shown = [dataset[place] for place in range(len(dataset))]
    (task,) = default_tasks(dataset, shown)
    highest = max(int(sample.targets["semantic"].max()) for sample in shown)
    assert task.classes == tuple(f"class {number}" for number in range(max(highest + 1, 2)))
    assert default_declaration(dataset) == {}
