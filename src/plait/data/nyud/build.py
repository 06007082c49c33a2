"""Builds NYU Depth v2 from its first sources: labels by stated rules, each picture written once, resumable.

Sources, in one folder:

======================== ==================================================================================
nyu_depth_v2_labeled.mat pictures, 894 classes, instances and depth, from the set's page
splits.mat               which 795 pictures are for training and which 654 for testing, from the set's page
classMapping40.mat       894 classes to 40 (Gupta et al.), from the benchmark's page of its authors
class13Mapping.mat       40 classes to 13 (Couprie et al.); may be absent, then there are only 40
======================== ==================================================================================

What is written, for each picture ``0001`` to ``1449`` (its number in the first file):

======================== ==================================================================================
images/ID.png            the picture, RGB
semantic40/ID.png        class ids 0..39, 255 unlabelled; ``semantic13`` alike
depth/ID.npy             float32 ``[H, W]``, metres along the optical axis, 0 unknown
normals/ID.npy           float16 ``[H, W, 3]``: x right, y down, z forward, facing the camera; 0 unknown
edges/ID.png             0 or 255: where two objects meet, one pixel wide
train.txt, test.txt      the numbers of the two parts
settings.json            what was asked for; building goes on only with the same
manifest.json            written last: rules, versions, checksums of the sources, scenes
======================== ==================================================================================

Rules. Depth is the file's in-painted or its raw one, unchanged. Normals are planes fitted to that depth
(:mod:`plait.data.surface_normals`), so in-painted depth gives in-painted normals. An object is one instance
of one of the 894 classes; unlabelled gaps of up to six pixels between objects, which polygons drawn by hand
leave, are given to the nearest object, and what is unlabelled beyond that is an object of its own; edges are
the boundaries of the objects.
"""

from __future__ import annotations

import io
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plait.data import files
from plait.data.cache import full_disk
from plait.data.labels import UNKNOWN_CLASS
from plait.data.matfiles import hdf5_dataset, opened_hdf5, read_mat
from plait.data.nyud import camera
from plait.data.surface_normals import KINECT_NOISE, surface_normals
from plait.errors import ConfigurationError, DataError, PlaitError
from plait.metrics.boundary.labels import label_boundaries

if TYPE_CHECKING:
    import h5py

Array = NDArray[Any]
WhichDepth = Literal["inpainted", "raw"]

FORMAT = 1
"""Version of the layout on disk."""

RULES = 1
"""Version of the rules: raised whenever the same sources give other labels."""

LABELLED = "nyu_depth_v2_labeled.mat"
SPLITS = "splits.mat"
MAPPING_40 = "classMapping40.mat"
MAPPING_13 = "class13Mapping.mat"

ORIGINS: Mapping[str, str] = {
    LABELLED: "the labelled set of https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html",
    SPLITS: "the train/test split of https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html",
    MAPPING_40: "the map of 894 classes to 40 that Gupta, Arbelaez and Malik published with their benchmark "
    "(CVPR 2013)",
}

DEPTHS: Mapping[str, str] = {"inpainted": "depths", "raw": "rawDepths"}
CLASSES_894 = 894
WINDOW = 15
GAP = 3
"""Half the width of the gaps between objects that are closed, in pixels."""


def build_nyud(
    source: Path,
    out: Path,
    *,
    depth: WhichDepth = "inpainted",
    crop: bool = True,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Builds the set into a folder; after an interruption, run it again and it goes on.

    Args:
        source: The folder of the sources.
        out: The folder to write; made if absent.
        depth: ``inpainted``, known everywhere, which papers train and test on, or ``raw``, what the sensor
            saw; normals are fitted to the same.
        crop: Whether the white border is cut off, which leaves 427x561 of 480x640.
        processes: How many pictures at once.
        progress: Called with (finished pictures, all pictures) after each.

    Returns:
        The manifest's path.

    Raises:
        ConfigurationError: If an argument makes no sense.
        DataError: If a source is missing or not what it should be (names the file), or the folder was begun
            with other settings.
        PlaitError: If a process died.
    """
    if depth not in get_args(WhichDepth):
        raise ConfigurationError(f"depth must be 'inpainted' or 'raw', got {depth!r}")
    if processes < 1:
        raise ConfigurationError(f"processes must be at least 1, got {processes}")
    job = _prepared(source, out, depth, crop)
    numbers = sorted(job.parts["train"] + job.parts["test"])
    settings = {
        "rules": RULES,
        "options": {"depth": depth, "crop": crop},
        "sources": {path.name: files.sha256(path) for path in job.sources},
    }
    _same_settings(out / "settings.json", settings)
    todo = [number for number in numbers if not job.path("images", number).exists()]
    done = len(numbers) - len(todo)
    for finished in _finished(job, todo, processes):
        if progress is not None:
            progress(done + finished, len(numbers))
    return _closed(job, settings)


@dataclass(frozen=True)
class _Job:
    """What is needed to build any picture.

    Attributes:
        labelled: The file with the pictures.
        sources: All source files.
        out: Where to write.
        tables: ``{classes: uint8 [895]}``, from a label of the file to a class id.
        parts: The numbers of each part's pictures, from 1.
        depth: The variable of depth.
        crop: Whether the border is cut off.
        size: Height and width of the pictures.
    """

    labelled: Path
    sources: tuple[Path, ...]
    out: Path
    tables: Mapping[int, Array]
    parts: Mapping[str, list[int]]
    depth: str
    crop: bool
    size: tuple[int, int]

    def path(self, folder: str, number: int) -> Path:
        """The file of a picture in one of the folders."""
        ending = ".npy" if folder in ("depth", "normals") else ".png"
        return self.out / folder / f"{number:04d}{ending}"


# --- the sources ----------------------------------------------------------------------------------------


def _prepared(source: Path, out: Path, depth: str, crop: bool) -> _Job:
    for name, origin in ORIGINS.items():
        if not (source / name).is_file():
            raise DataError(f"{source / name}: no such file; building NYUD needs {origin}")
    images, size = _pictures(source / LABELLED, DEPTHS[depth])
    if crop and size != camera.SIZE:
        raise DataError(
            f"{source / LABELLED}: its pictures are {size[0]}x{size[1]}, and the white border is known for "
            f"{camera.SIZE[0]}x{camera.SIZE[1]} only; build without cropping"
        )
    tables = {40: _table_40(source / MAPPING_40)}
    sources = [source / name for name in ORIGINS]
    if (source / MAPPING_13).is_file():
        tables[13] = _table_13(source / MAPPING_13, tables[40])
        sources.append(source / MAPPING_13)
    parts = {
        part: _part(source / SPLITS, variable, images)
        for part, variable in (("train", "trainNdxs"), ("test", "testNdxs"))
    }
    both = set(parts["train"]) & set(parts["test"])
    if both:
        raise DataError(f"{source / SPLITS}: picture {min(both)} is in both parts; get the file again")
    return _Job(source / LABELLED, tuple(sources), out, tables, parts, DEPTHS[depth], crop, size)


def _pictures(path: Path, depth: str) -> tuple[int, tuple[int, int]]:
    """How many pictures the file holds, and their size; its axes are those of MATLAB in reverse."""
    with opened_hdf5(path) as file:
        found = {name: hdf5_dataset(file, name, str(path)) for name in ("images", "labels", depth)}
        shape = found["images"].shape
        if len(shape) != 4 or shape[1] != 3 or found["images"].dtype != np.uint8:
            raise DataError(
                f"{path}: expected 'images' as uint8 [pictures, 3, width, height], found "
                f"{found['images'].dtype} {shape}; is it the labelled set?"
            )
        if "instances" in file:
            found["instances"] = hdf5_dataset(file, "instances", str(path))
        for name, variable in found.items():
            if name in ("labels", "instances") and variable.dtype.kind not in "ui":
                raise DataError(f"{path}: expected whole numbers in {name!r}, found {variable.dtype}")
            if name != "images" and variable.shape != (shape[0], *shape[2:]):
                raise DataError(
                    f"{path}: expected {name!r} of the pictures' shape {(shape[0], *shape[2:])}, "
                    f"found {variable.shape}"
                )
    return int(shape[0]), (int(shape[3]), int(shape[2]))


def _table_40(path: Path) -> Array:
    mapped = _whole_numbers(read_mat(path, "mapClass"), path, "mapClass")
    if len(mapped) != CLASSES_894 or mapped.min() < 0 or mapped.max() > 40:
        raise DataError(
            f"{path}: expected in 'mapClass' a class from 1 to 40 for each of {CLASSES_894}, found "
            f"{len(mapped)} from {mapped.min()} to {mapped.max()}"
        )
    return _table(mapped)


def _table_13(path: Path, to_40: Array) -> Array:
    structure = read_mat(path, "classMapping13")
    if not isinstance(structure, np.ndarray) or "labels13" not in (structure.dtype.names or ()):
        raise DataError(
            f"{path}: expected the structure 'classMapping13' with 'labels13', found another form"
        )
    mapped = _whole_numbers(structure["labels13"].item(), path, "labels13")
    if len(mapped) != 40 or mapped.min() < 0 or mapped.max() > 13:
        raise DataError(
            f"{path}: expected in 'labels13' a class from 1 to 13 for each of 40, found "
            f"{len(mapped)} from {mapped.min()} to {mapped.max()}"
        )
    from_40 = np.full(256, UNKNOWN_CLASS, np.uint8)
    from_40[:40] = _table(mapped)[1:]
    return from_40[to_40]


def _table(mapped: Array) -> Array:
    """From a stored label (0 unlabelled, then from 1) to a class id from 0, 255 where it has none."""
    table = np.full(len(mapped) + 1, UNKNOWN_CLASS, np.uint8)
    table[1:][mapped > 0] = mapped[mapped > 0] - 1
    return table


def _part(path: Path, variable: str, images: int) -> list[int]:
    numbers = _whole_numbers(read_mat(path, variable), path, variable)
    if not len(numbers) or numbers.min() < 1 or numbers.max() > images or len(set(numbers)) < len(numbers):
        raise DataError(
            f"{path}: expected in {variable!r} different numbers of pictures from 1 to {images}, found "
            f"{len(numbers)}" + (f" from {numbers.min()} to {numbers.max()}" if len(numbers) else "")
        )
    return [int(number) for number in np.sort(numbers)]


def _whole_numbers(found: Any, path: Path, variable: str) -> Array:
    numbers = np.asarray(found).ravel()
    if numbers.dtype.kind not in "iuf" or not len(numbers) or (numbers != np.round(numbers)).any():
        raise DataError(f"{path}: expected whole numbers in {variable!r}; is it the right file?")
    return numbers.astype(np.int64)


def _scenes(job: _Job) -> dict[str, str]:
    """The scene of each picture, by its id; nothing if the file does not say."""
    import h5py

    with opened_hdf5(job.labelled) as file:
        held = file.get("scenes")
        if not isinstance(held, h5py.Dataset) or held.dtype != h5py.ref_dtype:
            return {}
        references = held[()].ravel()
        if not all(references):  # some lead nowhere
            return {}
        texts = [file[reference] for reference in references]
        if not all(isinstance(text, h5py.Dataset) and text.dtype.kind == "u" for text in texts):
            return {}
        names = ["".join(map(chr, text[()].ravel())) for text in texts]
    return {f"{number:04d}": name for number, name in enumerate(names, start=1)}


# --- one picture ----------------------------------------------------------------------------------------


def build_picture(job: _Job, number: int) -> None:
    """Writes all files of a picture, the picture itself last, as the sign that all are there."""
    maps = _read(job, number)
    labels, metres = maps["labels"], maps["depth"]
    for classes, table in job.tables.items():
        _write_png(job.path(f"semantic{classes}", number), table[labels])
    known = np.isfinite(metres) & (metres > 0)
    metres = np.where(known, metres, 0).astype(np.float32)
    _write_npy(job.path("depth", number), metres)
    size = (metres.shape[0], metres.shape[1])
    normals = surface_normals(metres, camera.intrinsics(size), window=WINDOW, noise=KINECT_NOISE)
    _write_npy(job.path("normals", number), np.nan_to_num(normals).transpose(1, 2, 0).astype(np.float16))
    edges = object_edges(labels, maps.get("instances"))
    _write_png(job.path("edges", number), edges.astype(np.uint8) * 255)
    _write_png(job.path("images", number), maps["image"])


def _read(job: _Job, number: int) -> dict[str, Array]:
    variables = {"image": "images", "labels": "labels", "depth": job.depth, "instances": "instances"}
    with opened_hdf5(job.labelled) as file:
        maps = {
            name: _one(file, variable, number, job.labelled)
            for name, variable in variables.items()
            if variable in file
        }
    lowest, highest = maps["labels"].min(), maps["labels"].max()
    if lowest < 0 or highest > CLASSES_894:
        raise DataError(
            f"{job.labelled}: expected labels from 0 to {CLASSES_894}, found "
            f"{highest if highest > CLASSES_894 else lowest} in picture {number}"
        )
    rows, columns = camera.VALID if job.crop else (slice(None), slice(None))
    return {name: np.ascontiguousarray(values[rows, columns]) for name, values in maps.items()}


def _one(file: h5py.File, variable: str, number: int, path: Path) -> Array:
    try:
        values: Array = np.asarray(hdf5_dataset(file, variable, str(path))[number - 1])
    except OSError as error:
        raise DataError(f"{path}: picture {number} of {variable!r} cannot be read ({error})") from error
    return values.T  # [width, height] or [3, width, height], as MATLAB's axes in reverse


def object_edges(labels: Array, instances: Array | None = None) -> NDArray[np.bool_]:
    """Where two objects meet, one pixel wide.

    Args:
        labels: Class of each pixel, whole numbers ``[H, W]``, 0 unlabelled.
        instances: Which of its class's objects, ``[H, W]``; None takes each class to be one object.

    Returns:
        bool ``[H, W]``.
    """
    objects = labels.astype(np.int64) << 16
    if instances is not None:
        objects += np.where(labels > 0, instances, 0)
    return label_boundaries(_without_gaps(objects))


def _without_gaps(objects: Array) -> Array:
    """Gives unlabelled (0) pixels to the nearest object where the unlabelled region is narrow."""
    from scipy.ndimage import distance_transform_edt

    unlabelled = objects == 0
    if not unlabelled.any() or unlabelled.all():
        return objects
    distance, nearest = distance_transform_edt(unlabelled, return_indices=True)
    core = distance > GAP
    wide = distance_transform_edt(~core) <= GAP if core.any() else core  # the core with its rim again
    filled: Array = np.where(wide, objects, objects[tuple(nearest)])
    return filled


def _write_png(path: Path, pixels: Array) -> None:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    _write(path, stream.getvalue())


def _write_npy(path: Path, values: Array) -> None:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(values), allow_pickle=False)
    _write(path, stream.getvalue())


def _write(path: Path, content: bytes) -> None:
    with full_disk(path.parent):
        files.write_atomically(path, content)


# --- all pictures ---------------------------------------------------------------------------------------


def _same_settings(path: Path, settings: Mapping[str, Any]) -> None:
    wanted = json.dumps(settings, indent=2)
    if not path.exists():
        _write(path, wanted.encode())
    elif path.read_text(encoding="utf-8") != wanted:
        raise DataError(
            f"{path}: {path.parent} was begun with other options or sources; build into another folder or "
            f"delete it"
        )


def _finished(job: _Job, numbers: list[int], processes: int) -> Iterator[int]:
    """Builds pictures and yields how many are finished."""
    if processes == 1 or len(numbers) < 2:
        for finished, number in enumerate(numbers, start=1):
            build_picture(job, number)
            yield finished
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        pending = [pool.submit(build_picture, job, number) for number in numbers]
        try:
            for finished, result in enumerate(as_completed(pending), start=1):
                result.result()
                yield finished
        except BrokenProcessPool as error:
            raise PlaitError(
                "a process died (out of memory, or killed); the finished pictures are kept: run the same "
                "command again, with fewer processes if it was memory"
            ) from error
        finally:
            for result in pending:
                result.cancel()


def _closed(job: _Job, settings: Mapping[str, Any]) -> Path:
    """Writes the lists of the parts, and the manifest last."""
    import scipy

    from plait import __version__

    for part, numbers in job.parts.items():
        content = "".join(f"{number:04d}\n" for number in numbers)
        _write(job.out / f"{part}.txt", content.encode())
    rows, columns = camera.VALID
    size = (rows.stop - rows.start, columns.stop - columns.start) if job.crop else job.size
    manifest = {
        "set": "nyud",
        "format": FORMAT,
        **settings,
        "classes": list(job.tables),
        "size": list(size),
        "camera": dict(zip(("fx", "fy", "cx", "cy"), camera.intrinsics(size), strict=True)),
        "normals": {"window": WINDOW, "noise": KINECT_NOISE},
        "counts": {part: len(numbers) for part, numbers in job.parts.items()},
        "scenes": _scenes(job),
        "versions": {"plait": __version__, "numpy": np.__version__, "scipy": scipy.__version__},
    }
    path = job.out / "manifest.json"
    _write(path, (json.dumps(manifest, indent=2) + "\n").encode())
    return path
