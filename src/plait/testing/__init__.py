"""Small made-up scenes with exactly known labels and a tiny backbone, for tests: plait's own and yours."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from plait.models.backbones import Backbone

Array = NDArray[Any]

FOCAL = 0.6  # of the width: a wide angle, so that walls, floor and ceiling are all seen


@dataclass(frozen=True)
class PlaneScene:
    """A tilted, textured plane before a pinhole camera; every label is a formula of the pixel.

    The plane is ``normal . X = -distance`` in the camera frame (x right, y down, z forward). Pixel centres
    lie at half-integers: the pixel in column ``i`` has ``x = i + 0.5``.

    Attributes:
        size: Height and width.
        focal: Focal length in pixels, the same for both axes.
        normal: Unit vector facing the camera, ``[3]``.
        distance: From the camera to the plane, in metres.
    """

    size: tuple[int, int]
    focal: float
    normal: Array
    distance: float

    def grid(self) -> tuple[Array, Array]:
        """The coordinates ``x`` and ``y`` of all pixel centres, each ``[H, W]``."""
        height, width = self.size
        x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        return x, y

    def depth_at(self, x: Array, y: Array) -> Array:
        """Metres along the optical axis at image coordinates (principal point in the middle)."""
        height, width = self.size
        ray = np.stack([(x - width / 2) / self.focal, (y - height / 2) / self.focal, np.ones_like(x)])
        return np.asarray(-self.distance / np.tensordot(self.normal, ray, 1))

    def texture_at(self, x: Array, y: Array) -> Array:
        """Smooth colours in [0, 1] at image coordinates: ``[3, *x.shape]``, linear in x and in y."""
        height, width = self.size
        return np.stack([x / width, y / height, (x / width + y / height) / 2])

    def class_at(self, x: Array, y: Array) -> Array:
        """Class ids 0..3: the quadrant of the image."""
        height, width = self.size
        return np.asarray((x > width / 2) + 2 * (y > height / 2), dtype=np.int64)

    def mask_at(self, x: Array, y: Array) -> Array:
        """1 inside the left third of the image, 0 elsewhere."""
        return np.asarray(x < self.size[1] / 3, dtype=np.float32)


def analytic_scene(size: tuple[int, int] = (48, 64), focal: float = 60.0) -> PlaneScene:
    """A plane tilted about both axes, about two metres away and visible in the whole image."""
    normal = np.array([0.3, -0.4, -1.0])
    return PlaneScene(size, focal, normal / np.linalg.norm(normal), 2.0)


def write_tiny_rooms(
    root: Path | str,
    *,
    images: tuple[int, int, int] = (8, 4, 4),
    size: tuple[int, int] = (48, 64),
    seed: int = 0,
) -> Path:
    """Writes a data set in the layout of ``rooms``: boxes in a box, drawn by intersecting rays.

    Args:
        root: Folder, made if missing.
        images: How many for train, val and test; two views of every room.
        size: Height and width.
        seed: Same seed, same bytes.

    Returns:
        ``root`` as a path.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from plait.data.rooms.classes import CLASSES

    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    splits = {}
    for place, (split, count) in enumerate(zip(("train", "val", "test"), images, strict=True)):
        rows = [_tiny_row(size, seed, room=1000 * place + i // 2, view=i % 2) for i in range(count)]
        path = root / f"{split}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path, compression="none")
        content = path.read_bytes()
        splits[split] = {
            "file": path.name,
            "images": count,
            "rooms": (count + 1) // 2,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    manifest = {
        "format": 1,
        "size": list(size),
        "classes": list(CLASSES),
        "licence": "MIT",
        "command": "plait.testing.write_tiny_rooms",
        "seed": seed,
        "splits": splits,
    }
    (root / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return root


def tiny_backbone(
    channels: Sequence[int] = (8, 12, 16, 20), strides: Sequence[int] = (4, 8, 16, 32)
) -> Backbone:
    """A backbone of a stem at stride 2 and a stage of two convolution blocks for each level, at random.

    The same structure as a real one, small enough to train in a moment.

    Args:
        channels: Of each level.
        strides: Of each level: each is that of the one before (2 before the first), or twice it.
    """
    from types import SimpleNamespace

    from torch import nn

    from plait.models.backbones import Backbone

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    inputs = [8, *channels[:-1]]
    steps = [after // before for before, after in zip([2, *strides[:-1]], strides, strict=True)]
    return Backbone(
        "tiny",
        network=SimpleNamespace(pretrained_cfg={"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}),
        channels=channels,
        strides=strides,
        weights=None,
        stem={"block": block(3, 8, 2)},
        stages=[
            [block(before, after, step), block(after, after, 1)]
            for before, after, step in zip(inputs, channels, steps, strict=True)
        ],
    )


def reordered_state(module: nn.Module, before: Sequence[str], after: Sequence[str]) -> dict[str, Tensor]:
    """The state of a network made for tasks in one order, for one made for them in another.

    Parameters that are laid out by task (``task_axes`` of their module) have their blocks moved.

    Args:
        module: An encoder, a decoder or a network.
        before: The order of tasks it was made for.
        after: The order of tasks the state is for.
    """
    import torch

    state = dict(module.state_dict())
    places = [list(before).index(task) for task in after]
    for prefix, part in module.named_modules():
        for name, axes in getattr(part, "task_axes", {}).items():
            key = f"{prefix}.{name}" if prefix else name
            for axis in axes:
                blocks = state[key].chunk(len(places), axis)
                state[key] = torch.cat([blocks[place] for place in places], axis)
    return state


def _tiny_row(size: tuple[int, int], seed: int, room: int, view: int) -> dict[str, Any]:
    maps = _tiny_maps(size, np.random.default_rng([seed, room]), np.random.default_rng([seed, room, view]))
    height, width = size
    return {
        "id": f"{room:06d}_{view}",
        "room": room,
        "view": view,
        "image": _encoded(maps["image"], "WEBP"),
        **{field: _encoded(maps[field], "PNG") for field in maps if field != "image"},
        "fx": FOCAL * width,
        "fy": FOCAL * width,
        "cx": width / 2,
        "cy": height / 2,
    }


def _tiny_maps(
    size: tuple[int, int], room: np.random.Generator, view: np.random.Generator
) -> dict[str, Array]:
    height, width = size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    focal = FOCAL * width
    yaw = view.uniform(-0.5, 0.5)
    to_room = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    rays = to_room @ np.stack([(x - width / 2) / focal, (y - height / 2) / focal, np.ones_like(x)]).reshape(
        3, -1
    )

    # The room: the far faces of the box around the camera; walls, floor (y down) and ceiling.
    half = np.array([room.uniform(1.8, 2.5), 1.3, room.uniform(3.0, 4.0)])[:, None]
    leaving = half / np.maximum(np.abs(rays), 1e-9)
    axis = leaving.argmin(0)
    depth = leaving.min(0)
    columns = np.arange(rays.shape[1])
    normal = np.zeros_like(rays)
    normal[axis, columns] = -np.sign(rays[axis, columns])
    semantic = np.where(axis == 1, np.where(rays[1] > 0, 1, 2), 0)
    instances = semantic + 1

    # Furniture: boxes standing on the floor in front of the camera.
    boxes = 3
    for box in range(boxes):
        extent = room.uniform(0.2, 0.5, 3)
        centre = np.array([room.uniform(-1.5, 1.5), 1.3 - extent[1], room.uniform(1.4, 2.8)])
        faces = (centre + np.array([[-1.0], [1.0]]) * extent)[..., None] / np.where(rays == 0, 1e-9, rays)
        entering, exiting = faces.min(0), faces.max(0)
        near = entering.max(0)
        hit = (near > 0.1) & (near < exiting.min(0)) & (near < depth)
        depth[hit] = near[hit]
        side = entering.argmax(0)
        normal[:, hit] = 0
        normal[side[hit], columns[hit]] = -np.sign(rays[side[hit], columns[hit]])
        semantic[hit] = 3 + (room.integers(17) + box) % 17
        instances[hit] = 4 + box

    in_camera = (to_room.T @ normal).reshape(3, height, width)
    shape = (height, width)
    shade = 0.6 + 0.4 * np.abs(in_camera[2])
    colours = np.random.default_rng(7).uniform(60, 230, (20, 3))
    image = colours[semantic].reshape(height, width, 3) * shade[..., None] + view.normal(
        0, 4, (height, width, 3)
    )
    parts = instances.reshape(shape)
    edges = np.zeros(shape, dtype=bool)
    edges[:, 1:] |= parts[:, 1:] != parts[:, :-1]
    edges[1:] |= parts[1:] != parts[:-1]
    sizes = [(parts == 4 + box).sum() for box in range(boxes)]
    return {
        "image": image.clip(0, 255).round().astype(np.uint8),
        "semantic": semantic.reshape(shape).astype(np.uint8),
        "instances": parts.astype(np.uint16),
        "depth": (1000 * depth).round().reshape(shape).astype(np.uint16),
        "normals": ((in_camera + 1) * 127.5).round().transpose(1, 2, 0).astype(np.uint8),
        "edges": (255 * edges).astype(np.uint8),
        "saliency": (255 * (parts == 4 + int(np.argmax(sizes)))).astype(np.uint8),
    }


def _encoded(pixels: Array, kind: str) -> bytes:
    stream = io.BytesIO()
    options = {"quality": 90} if kind == "WEBP" else {}
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, kind, **options)
    return stream.getvalue()
