"""Builds a set of rendered rooms: several processes, each room written once, resumable, then finalised.

``OUT/parts/room-000123.parquet`` holds the finished views of a room; when all are there they are merged into
``OUT/{train,val,test}.parquet`` beside ``OUT/manifest.json``.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from plait.data.rooms import render
from plait.data.rooms.assembly import assemble
from plait.data.rooms.camera import Camera, views
from plait.data.rooms.classes import CLASSES
from plait.data.rooms.labels import Labels, RayCaster, edges, saliency
from plait.data.rooms.layout import Room
from plait.errors import ConfigurationError, DataError, PlaitError

FORMAT = 1
"""Version of the layout on disk."""

CONTENT = 1
"""Version of the rooms: raised whenever the same seed gives other pictures."""

LICENCE = "MIT"
SPLITS = ("train", "val", "test")
WEBP_QUALITY = 88

Quality = Literal["draft", "default", "fine"]


@dataclass(frozen=True)
class Sampling:
    """How well a picture is rendered: samples a pixel and the longest light path."""

    samples: int
    bounces: int


QUALITIES: Mapping[str, Sampling] = {
    "draft": Sampling(2, 4),
    "default": Sampling(4, 5),
    "fine": Sampling(16, 6),
}

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("room", pa.int32()),
        ("view", pa.int32()),
        *((name, pa.binary()) for name in ("image", "semantic", "instances", "depth", "normals", "edges")),
        ("saliency", pa.binary()),
        *((name, pa.float64()) for name in ("fx", "fy", "cx", "cy")),
    ]
)


@dataclass(frozen=True)
class Settings:
    """What decides the content of a room's file."""

    size: tuple[int, int]
    quality: str
    seed: int
    views: int
    albedo: bool
    variant: str
    denoised: bool = True
    content: int = CONTENT


def split_counts(images: int, splits: Mapping[str, float | int] | None = None) -> dict[str, int]:
    """How many images each split gets.

    Args:
        images: All images.
        splits: Fractions (floats that sum to 1) or counts (integers that sum to ``images``) of train, val and
            test; by default 3/4, 1/12 and 1/6.

    Raises:
        ConfigurationError: If a split is unknown or negative, or the sum is wrong.
    """
    splits = splits or {"train": 0.75, "val": 1 / 12, "test": 1 / 6}
    unknown = [name for name in splits if name not in SPLITS]
    if unknown or any(share < 0 for share in splits.values()):
        raise ConfigurationError(
            f"splits must be non-negative shares of {', '.join(SPLITS)}, got {dict(splits)}"
        )
    if all(isinstance(share, int) for share in splits.values()):
        counts = {name: int(splits.get(name, 0)) for name in SPLITS}
        if sum(counts.values()) != images:
            raise ConfigurationError(f"the split's counts must sum to images={images}, got {counts}")
        return counts
    if abs(sum(splits.values()) - 1) > 1e-6:
        raise ConfigurationError(f"the split's fractions must sum to 1, got {dict(splits)}")
    counts = {name: round(images * splits.get(name, 0)) for name in ("val", "test")}
    counts = {name: min(count, images) for name, count in counts.items()}
    return {"train": images - counts["val"] - counts["test"], **counts}


def build_rooms(
    out: Path,
    *,
    images: int,
    size: tuple[int, int] = (192, 256),
    quality: Quality = "default",
    seed: int = 0,
    processes: int = 2,
    views_per_room: int = 2,
    splits: Mapping[str, float | int] | None = None,
    albedo: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Renders a set of rooms into a folder; after an interruption, run it again and it goes on.

    The splits share no room. The same arguments give the same labels everywhere, and the same pictures with
    the same renderer on the same kind of processor.

    Args:
        out: The folder; made if absent.
        images: How many images in all.
        size: Height and width in pixels, each 32..4096.
        quality: ``draft`` (2 samples a pixel), ``default`` (4) or ``fine`` (16), all denoised.
        seed: Of everything, not negative.
        processes: How many processes, one thread each.
        views_per_room: Images of each room.
        splits: See `split_counts`.
        albedo: Whether to store reflectance too (PNG sRGB column ``albedo``).
        progress: Called with (finished images, all images) after each room.

    Returns:
        The manifest's path.

    Raises:
        ConfigurationError: If an argument makes no sense.
        DataError: If the folder was begun with other settings.
        MissingExtraError: If the renderer is not installed.
        PlaitError: If a rendering process died.
    """
    _check(images, size, quality, seed, processes, views_per_room)
    counts = split_counts(images, splits)
    render.require_renderer()
    variant, denoised = render.fastest_variant(), render.denoiser_installed()
    settings = Settings((size[0], size[1]), quality, seed, views_per_room, albedo, variant, denoised)
    parts = out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    _same_settings(parts / "settings.json", settings)
    rooms = {name: -(-count // views_per_room) for name, count in counts.items()}
    total = sum(rooms.values())
    todo = [number for number in range(total) if not _part(parts, number).exists()]
    done = total - len(todo)

    def report(finished: int) -> None:
        if progress is not None:
            progress(min(finished * views_per_room, images), images)

    report(done)
    for _ in _render_all(parts, todo, settings, min(processes, max(len(todo), 1))):
        done += 1
        report(done)
    return _finalise(out, settings, counts, rooms)


def _check(
    images: int, size: tuple[int, int], quality: str, seed: int, processes: int, views_per_room: int
) -> None:
    if quality not in QUALITIES:
        raise ConfigurationError(f"quality must be one of {', '.join(QUALITIES)}, got {quality!r}")
    if len(size) != 2 or not all(32 <= side <= 4096 for side in size):
        raise ConfigurationError(f"size must be (height, width), each 32..4096 pixels, got {size}")
    positive = {"images": images, "processes": processes, "views_per_room": views_per_room}
    for name, value in positive.items():
        if value < 1:
            raise ConfigurationError(f"{name} must be at least 1, got {value}")
    if seed < 0:
        raise ConfigurationError(f"seed must not be negative, got {seed}")


def _part(parts: Path, number: int) -> Path:
    return parts / f"room-{number:06d}.parquet"


def _same_settings(path: Path, settings: Settings) -> None:
    wanted = json.dumps(asdict(settings), indent=2)
    if not path.exists():
        _write(path, wanted.encode())
    elif path.read_text(encoding="utf-8") != wanted:
        raise DataError(
            f"{path.parent.parent} was begun with other settings, see {path}; "
            f"build into another folder or delete it"
        )


def _write(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _render_all(parts: Path, todo: list[int], settings: Settings, processes: int) -> Iterator[int]:
    if not todo:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        jobs = [pool.submit(_render_part, parts, number, settings) for number in todo]
        try:
            for job in as_completed(jobs):
                yield job.result()
        except BrokenProcessPool as error:
            raise PlaitError(
                "a rendering process died (out of memory, or killed); the finished rooms are kept: run the "
                "same command again, with fewer processes if it was memory"
            ) from error
        finally:
            for job in jobs:
                job.cancel()


# ------------------------------------------------------------------------------------- in a process

_RENDERERS: dict[str, render.Renderer] = {}


def _renderer(variant: str) -> render.Renderer:
    """The renderer of this process; starting one takes seconds."""
    if variant not in _RENDERERS:
        _RENDERERS[variant] = render.Renderer("llvm_ad_rgb" if variant == "llvm_ad_rgb" else "scalar_rgb")
    return _RENDERERS[variant]


def _render_part(parts: Path, number: int, settings: Settings) -> int:
    rows = render_room(number, settings)
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_schema(settings)), buffer, compression="none")
    _write(_part(parts, number), buffer.getvalue())
    return number


def _schema(settings: Settings) -> pa.Schema:
    return SCHEMA.append(pa.field("albedo", pa.binary())) if settings.albedo else SCHEMA


def furnished(seed: int, number: int, count: int) -> tuple[Room, RayCaster, list[Camera]]:
    """Room ``number`` of a seed with ``count`` views.

    A plan that offers too few good views is thrown away, and the next of this room's own sequence is taken.
    """
    for attempt in range(100):
        room = Room([seed, number, attempt])
        caster = RayCaster(assemble(room))
        found = views(room, np.random.default_rng([seed, number, attempt, 1]), count, caster.labels)
        if len(found) == count:
            return room, caster, found
    raise DataError(f"room {number} of seed {seed}: no plan with {count} good views; choose another seed")


def render_room(number: int, settings: Settings) -> list[dict[str, Any]]:
    """The finished rows of one room."""
    sampling, renderer = QUALITIES[settings.quality], _renderer(settings.variant)
    _, caster, cameras = furnished(settings.seed, number, settings.views)
    assembly = caster.assembly
    scene = renderer.scene(assembly)
    rows = []
    for view, camera in enumerate(cameras):
        labels = caster.labels(camera, settings.size)
        noise = int(np.random.default_rng([settings.seed, number, view, 2]).integers(2**31))
        picture = renderer.picture(
            scene, camera, labels, samples=sampling.samples, bounces=sampling.bounces, seed=noise
        )
        row: dict[str, Any] = {"id": f"room-{number:06d}-{view}", "room": number, "view": view}
        row["image"] = _encode(picture, "WEBP")
        row |= encode_labels(labels, assembly.parents)
        focal = camera.focal(settings.size[1])
        row |= {"fx": focal, "fy": focal, "cx": settings.size[1] / 2, "cy": settings.size[0] / 2}
        if settings.albedo:
            row["albedo"] = _encode(np.round(labels.albedo ** (1 / 2.2) * 255).astype(np.uint8))
        rows.append(row)
    return rows


def _encode(pixels: NDArray[Any], kind: Literal["PNG", "WEBP"] = "PNG") -> bytes:
    buffer = io.BytesIO()
    if kind == "WEBP":
        Image.fromarray(pixels).save(buffer, "WEBP", quality=WEBP_QUALITY, method=4)
    else:
        Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def encode_labels(labels: Labels, parents: Mapping[int, int]) -> dict[str, bytes]:
    """The label columns of one view as PNG."""
    known = np.isfinite(labels.depth)
    millimetres = np.where(known, np.round(np.nan_to_num(labels.depth) * 1000), 0)
    normals = np.round((np.nan_to_num(labels.normals) + 1) * 127.5)
    normals = np.where(known[..., None], normals, 0)  # no unit vector is stored as (0, 0, 0)
    small = labels.instance.max() <= 255
    return {
        "semantic": _encode(labels.semantic),
        "instances": _encode(labels.instance.astype(np.uint8 if small else np.uint16)),
        "depth": _encode(np.clip(millimetres, 0, 65535).astype(np.uint16)),
        "normals": _encode(normals.astype(np.uint8)),
        "edges": _encode(edges(labels.instance).astype(np.uint8) * 255),
        "saliency": _encode(saliency(labels, dict(parents)).astype(np.uint8) * 255),
    }


# ----------------------------------------------------------------------------------------- the end


def _finalise(out: Path, settings: Settings, counts: Mapping[str, int], rooms: Mapping[str, int]) -> Path:
    """Merges the rooms into one file a split and writes the manifest last, as the sign that all is there."""
    entries, first = {}, 0
    for name in SPLITS:
        numbers = range(first, first + rooms[name])
        first += rooms[name]
        tables = [pq.read_table(_part(out / "parts", number)) for number in numbers]
        table = pa.concat_tables(tables) if tables else _schema(settings).empty_table()
        buffer = io.BytesIO()
        # the columns are compressed pictures already
        pq.write_table(
            table.slice(0, counts[name]), buffer, compression="none", use_dictionary=False, row_group_size=64
        )
        content = buffer.getvalue()
        path = out / f"{name}.parquet"
        _write(path, content)
        entries[name] = {
            "file": path.name,
            "images": counts[name],
            "rooms": rooms[name],
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    manifest = {
        "format": FORMAT,
        "content": settings.content,
        "size": list(settings.size),
        "classes": list(CLASSES),
        "seed": settings.seed,
        "quality": settings.quality,
        "views_per_room": settings.views,
        "command": _command(settings, counts),
        "licence": LICENCE,
        "splits": entries,
        "renderer": {"variant": settings.variant, **render.versions()},
    }
    path = out / "manifest.json"
    _write(path, (json.dumps(manifest, indent=2) + "\n").encode())
    return path


def _command(settings: Settings, counts: Mapping[str, int]) -> str:
    """What makes this set again: a shell command, or Python for what the command line does not offer."""
    images, (height, width) = sum(counts.values()), settings.size
    if settings.views == 2 and not settings.albedo and dict(counts) == split_counts(images):
        return (
            f"plait data build rooms --images {images} --size {height}x{width} "
            f"--quality {settings.quality} --seed {settings.seed}"
        )
    return (
        f"plait.data.rooms.build.build_rooms(out, images={images}, size={settings.size}, "
        f"quality={settings.quality!r}, seed={settings.seed}, views_per_room={settings.views}, "
        f"splits={dict(counts)}, albedo={settings.albedo})"
    )
