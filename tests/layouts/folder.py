"""Tiny data of one's own in every form that `folder` reads, and ways to break it."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from PIL import Image

from plait.testing import PlaneScene

Array = NDArray[Any]

SIZE = (48, 64)
CLASSES = ["left of the top", "right of the top", "left of the bottom", "right of the bottom"]
FIELDS: dict[str, dict[str, Any]] = {
    "semantic": {},
    "depth": {"scale": 0.001},
    "normals": {"encoding": "rgb"},
    "edges": {},
    "saliency": {},
}
TRAIN = ["a/000", "a/001", "b/002", "b/003", "c/004", "c/005"]
VAL = ["d/006", "d/007"]
TEST = ["e/008", "e/009", "f/010"]
NAMES = [*TRAIN, *VAL, *TEST]
ABSENT = {("a/001", "depth"), ("c/004", "normals"), ("e/009", "edges")}
"""What a sample has no label of."""

GREY, UPRIGHT, UNKNOWN = "b/002", "b/003", "c/005"
"""A picture of one channel, one higher than wide, and one whose classes are unknown everywhere."""


def scene(name: str) -> PlaneScene:
    """A plane before the camera, another for every sample."""
    number = int(name[-3:])
    normal = np.array([0.3 - 0.05 * number, -0.4 + 0.03 * number, -1.0])
    size = SIZE[::-1] if name == UPRIGHT else SIZE
    return PlaneScene(size, 60.0, normal / np.linalg.norm(normal), 2.0 + 0.1 * number)


def stored(name: str) -> dict[str, Array]:
    """A sample's picture and labels, as the numbers in files."""
    plane = scene(name)
    x, y = plane.grid()
    picture = (255 * plane.texture_at(x, y)).astype(np.uint8).transpose(1, 2, 0)
    semantic = plane.class_at(x, y).astype(np.uint8)
    semantic[:2] = 255
    if name == UNKNOWN:
        semantic[:] = 255
    depth = np.round(1000 * plane.depth_at(x, y)).astype(np.uint16)
    depth[-3:] = 0
    normals = np.empty((*plane.size, 3), np.uint8)
    normals[:] = np.round((plane.normal + 1) * 127.5)
    normals[:, -2:] = 0
    edges = 255 * (np.abs(x - plane.size[1] / 2) < 1).astype(np.uint8)
    maps = {
        "image": picture[..., 0] if name == GREY else picture,
        "semantic": semantic,
        "depth": depth,
        "normals": normals,
        "edges": edges,
        "saliency": (255 * plane.mask_at(x, y)).astype(np.uint8),
    }
    return {field: pixels for field, pixels in maps.items() if (name, field) not in ABSENT}


def png(pixels: Array) -> bytes:
    """A picture's file."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(stream, "PNG")
    return stream.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    """A file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def describe(root: Path, **options: Any) -> Path:
    """The description that lets the folder be opened without options."""
    told = {"fields": FIELDS, "classes": {"semantic": CLASSES}, **options}
    put(root / "plait.yaml", yaml.safe_dump(told, sort_keys=False))
    return root


def folders(root: Path, where: str = "{field}/{name}.png") -> Path:
    """One folder a field; a sample's place by its split, field and name."""
    for split, names in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        for name in names:
            for field, pixels in stored(name).items():
                folder = "images" if field == "image" else field
                put(root / where.format(split=split, field=folder, name=name), png(pixels))
    return root


def by_shares(root: Path) -> Path:
    """Nothing says the splits: they are shares."""
    return describe(folders(root), splits={"val": 0.2, "test": 0.2}, group="/")


def splits_above(root: Path) -> Path:
    """``train/images``, ``train/depth``, ..."""
    return describe(folders(root, "{split}/{field}/{name}.png"))


def splits_below(root: Path) -> Path:
    """``images/train``, ``depth/train``, ..."""
    return describe(folders(root, "{field}/{split}/{name}.png"))


def lists(root: Path) -> Path:
    """``splits/train.txt``, ...: names with and without endings."""
    folders(root)
    put(root / "splits" / "train.txt", "\n".join(TRAIN) + "\n")
    put(root / "splits" / "val.txt", "\n".join(f"{name}.png" for name in VAL))
    put(root / "splits" / "test.txt", "\n".join(TEST) + "\n\n")
    return root


def patterns(root: Path) -> Path:
    """All files of a sample beside each other: ``all/a/000_depth.png``."""
    folders(root, "all/{name}_{field}.png")
    told = {field: {**options, "source": f"all/*_{field}.png"} for field, options in FIELDS.items()}
    return describe(
        root,
        image="all/*_images.png",
        fields=told,
        splits={"val": 0.2, "test": 0.2},
        group="/",
    )


def rows() -> list[dict[str, str]]:
    """The rows of a manifest, for what :func:`folders` wrote."""
    made = []
    for split, names in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        for name in names:
            there = stored(name)
            row = {field: f"{field}/{name}.png" if field in there else "" for field in FIELDS}
            made.append({"image": f"images/{name}.png", "split": split, **row})
    return made


def manifest_csv(root: Path) -> Path:
    """A CSV manifest."""
    folders(root)
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows()[0]))
    writer.writeheader()
    writer.writerows(rows())
    put(root / "samples.csv", stream.getvalue())
    return describe(root, manifest="samples.csv")


def manifest_parquet(root: Path) -> Path:
    """A Parquet manifest, empty cells being null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folders(root)
    table = pa.Table.from_pylist([{key: cell or None for key, cell in row.items()} for row in rows()])
    pq.write_table(table, root / "samples.parquet")
    return describe(root, manifest="samples.parquet")


def manifest_jsonl(root: Path) -> Path:
    """A manifest of lines of JSON, absent labels being absent keys."""
    folders(root)
    kept = [{key: cell for key, cell in row.items() if cell} for row in rows()]
    put(root / "samples.jsonl", "\n".join(map(json.dumps, kept)) + "\n")
    return describe(root, manifest="samples.jsonl")


def tar(members: Mapping[str, bytes]) -> bytes:
    """A plain tar file."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def members(names: list[str]) -> dict[str, bytes]:
    """The members of a shard: ``000.png``, ``000.depth.png``, ..."""
    return {
        f"{name}.png" if field == "image" else f"{name}.{field}.png": png(pixels)
        for name in names
        for field, pixels in stored(name).items()
    }


def shards(root: Path) -> Path:
    """Two shards to learn from, one for each other split."""
    put(root / "train-000.tar", tar(members(TRAIN[:4])))
    put(root / "train-001.tar", tar(members(TRAIN[4:])))
    put(root / "val.tar", tar(members(VAL)))
    put(root / "test.tar", tar(members(TEST)))
    told = {"train": "train-{000..001}.tar", "val": "val.tar", "test": ["test.tar"]}
    return describe(root, shards=told)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "folder/by_shares": by_shares,
    "folder/splits_above": splits_above,
    "folder/splits_below": splits_below,
    "folder/lists": lists,
    "folder/patterns": patterns,
    "folder/manifest_csv": manifest_csv,
    "folder/manifest_parquet": manifest_parquet,
    "folder/manifest_jsonl": manifest_jsonl,
    "folder/shards": shards,
}
"""A form of `folder` and the function that writes it, mostly with a description: its root is enough."""

OPTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "folder/lists": lambda _: {"fields": FIELDS, "classes": {"semantic": CLASSES}},
}
"""What a recipe must say beside the root."""


# --- breaking one ---------------------------------------------------------------------------------------


def truncated(root: Path) -> Path:
    """A label cut short."""
    path = root / "depth" / "a" / "000.png"
    return put(path, path.read_bytes()[:60])


def wrong_size(root: Path) -> Path:
    """A label of another size than its picture."""
    return put(root / "depth" / "a" / "000.png", png(stored("a/000")["depth"][:-1]))


def class_out_of_range(root: Path) -> Path:
    """A class that the set does not have."""
    return put(root / "semantic" / "a" / "000.png", png(np.full(SIZE, 4, np.uint8)))


def pickled(root: Path) -> Path:
    """Python objects in place of numbers."""
    (root / "depth" / "a" / "000.png").unlink()
    stream = io.BytesIO()
    np.save(stream, np.array([[{}]], dtype=object), allow_pickle=True)
    return put(root / "depth" / "a" / "000.npy", stream.getvalue())


def infinite_depth(root: Path) -> Path:
    """Depth that is infinite."""
    (root / "depth" / "a" / "000.png").unlink()
    stream = io.BytesIO()
    np.save(stream, np.full(SIZE, np.inf, np.float32))
    return put(root / "depth" / "a" / "000.npy", stream.getvalue())


def wrong_variable(root: Path) -> Path:
    """An archive of two arrays, of which none was named."""
    (root / "depth" / "a" / "000.png").unlink()
    stream = io.BytesIO()
    np.savez(stream, depth=np.ones(SIZE), mask=np.ones(SIZE))
    return put(root / "depth" / "a" / "000.npz", stream.getvalue())


def jpeg_classes(root: Path) -> Path:
    """Class ids in a format that changes them, under another ending."""
    stream = io.BytesIO()
    Image.fromarray(stored("a/000")["semantic"]).save(stream, "JPEG")
    return put(root / "semantic" / "a" / "000.png", stream.getvalue())


def no_picture(root: Path) -> Path:
    """Text in place of a picture."""
    return put(root / "images" / "a" / "000.png", "no picture")


BROKEN: dict[str, Callable[[Path], Path]] = {
    "truncated": truncated,
    "wrong size": wrong_size,
    "class out of range": class_out_of_range,
    "pickled": pickled,
    "infinite depth": infinite_depth,
    "wrong variable": wrong_variable,
    "JPEG classes": jpeg_classes,
    "no picture": no_picture,
}
"""Each breaks the sample a/000 of :func:`folders`, and returns the file that the error must name."""
