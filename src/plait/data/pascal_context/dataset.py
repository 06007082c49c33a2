"""PASCAL-Context for several tasks: classes, parts of people, saliency, normals and boundaries."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from plait.data import files
from plait.data.encodings import Encoding, read_label, read_numbers
from plait.data.labels import UNKNOWN_CLASS, Label, Mask, Normals, Semantic
from plait.data.pascal_context.human_parts import CLASSES as PART_CLASSES
from plait.data.pascal_context.human_parts import part_map
from plait.data.pascal_context.normals_classes import CONTEXT, CONTEXT_CLASSES, NYU, normals_classes
from plait.data.pascal_context.people import Progress, images_with_people, listed_people
from plait.data.published import Layout, Missing, Part, PublishedDataSet, first_file, read_list
from plait.errors import ConfigurationError, DataError
from plait.registry import nearest

Array = NDArray[Any]
EdgeRule = Literal["auto", "training", "evaluation"]

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus",
    "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip

FIELDS: Mapping[str, type[Label]] = {
    "semantic": Semantic,
    "parts": Semantic,
    "saliency": Mask,
    "normals": Normals,
    "edges": Mask,
}
FOLDERS: Mapping[str, str] = {
    "semantic": "semseg",
    "parts": "human_parts",
    "saliency": "sal_distill",
    "normals": "normals_distill",
    "edges": "pascal-context/trainval",
}
COUNTS: Mapping[Part, int] = {"train": 4998, "test": 5105}
CLASSES: Mapping[str, Sequence[str]] = {"semantic": VOC_CLASSES, "parts": PART_CLASSES}
MEASURING: Mapping[str, Any] = {"max_distance": 0.0075}
LISTS: Mapping[Part, str] = {"train": "train.txt", "test": "val.txt"}
ID = re.compile(r"\d{4}_\d{6}")


class PascalMT(Layout):
    """The archive PASCAL_MT, which ASTMT made and the survey and its successors use.

    ======== ============================================ ==========================================
    field    stored as                                    given as
    ======== ============================================ ==========================================
    image    ``JPEGImages/ID.jpg``                        uint8, also where the file is grey
    semantic ``semseg/VOC12/ID.png``, else                :class:`Semantic`, the 21 classes of VOC
             ``semseg/pascal-context/ID.png``; 255
             unknown
    parts    ``human_parts/ID.mat``, of PASCAL-Part       :class:`Semantic`, 7 classes; all unknown
                                                          where no pixel is a part of a person
    saliency ``sal_distill/ID.png``, 0 to 255             :class:`Mask`, 1 above 127.5
    normals  ``normals_distill/ID.png``, RGB,             :class:`Normals`, unknown outside the
             n = 2 v / 255 - 1                            classes that NYUD has too
    edges    ``pascal-context/trainval/ID.mat``,          :class:`Mask`, the boundaries of that map
             ``LabelMap`` of 459 classes
    ======== ============================================ ==========================================
    """

    name = "pascal_mt"
    about = "PASCAL_MT of ASTMT and the survey: JPEGImages, semseg, human_parts, ... and ImageSets/Context"
    counts = COUNTS
    classes = CLASSES

    def __init__(self, root: Path, options: Mapping[str, Any]) -> None:
        super().__init__(root, options)
        axes = options.get("normals_axes", "+x+y+z")
        self.normals = Encoding("normals", scale=2 / 255, offset=-1, unknown=(127, 128), axes=axes)
        self.normals_classes = normals_classes(options.get("normals_classes", "auto"), root)
        absent = {field for field in FIELDS if self._unusable(field) or self._not_there(field)}
        if options.get("missing") == "allow":
            absent = {field for field in FIELDS if self._unusable(field)}
        self.fields = {field: kind for field, kind in FIELDS.items() if field not in absent}

    @classmethod
    def evidence(cls, root: Path) -> str:
        images, lists = root / "JPEGImages", root / "ImageSets" / "Context"
        if not images.is_dir() or not (lists.is_dir() or (root / "pascal-context").is_dir()):
            return ""
        return "the folders JPEGImages and ImageSets/Context or pascal-context"

    def ids(self, part: Part) -> list[str]:
        path = self.root / "ImageSets" / "Context" / LISTS[part]
        names = read_list(path)
        wrong = next((name for name in names if not ID.fullmatch(name)), None)
        if wrong is not None:
            raise DataError(f"{path}: expected names such as 2008_000002, found {wrong!r}")
        if not names:
            raise DataError(f"{path}: names no image; get it again")
        return names

    def path(self, field: str, sample: str) -> Path | None:
        root = self.root
        if field == "image":
            return first_file(root / "JPEGImages" / f"{sample}.jpg")
        if field == "semantic":
            semseg = root / "semseg"
            return first_file(semseg / "VOC12" / f"{sample}.png", semseg / "pascal-context" / f"{sample}.png")
        if field == "normals" and self._needs_label_map() and self.path("edges", sample) is None:
            return None
        ending = "mat" if field in ("parts", "edges") else "png"
        return first_file(root / FOLDERS[field] / f"{sample}.{ending}")

    def image(self, sample: str) -> Array:
        return files.read_rgb(self._at("image", sample))

    def label(self, field: str, sample: str, part: Part) -> Label:
        path = self._at(field, sample)
        if field == "semantic":
            return _semantic(path)
        if field == "parts":
            return self._parts(path, sample)
        if field == "saliency":
            levels = files.read_map(path, modes=("L",))
            return Mask(torch.from_numpy((levels > 127.5).astype(np.float32)[None]))
        if field == "normals":
            return self._normals(path, sample)
        return self._edges(sample, part)

    def _at(self, field: str, sample: str) -> Path:
        path = self.path(field, sample)
        if path is None:
            raise DataError(f"{self.root}: has no {field} file of {sample}; is the folder complete?")
        return path

    def _parts(self, path: Path, sample: str) -> Label:
        classes = part_map(path)
        if classes is None:
            height, width = self.image(sample).shape[:2]
            return Semantic(Semantic.unknown_like(height, width))
        return Semantic(torch.from_numpy(classes[None]))

    def _normals(self, path: Path, sample: str) -> Label:
        assert self.normals_classes is not None, "without the classes there is no such field"
        normals = read_label(path, self.normals)
        if self.normals_classes.ids is None:
            return normals
        label_map, where = self._label_map(sample)
        found, expected = tuple(normals.shape[-2:]), label_map.shape
        if found != expected:
            raise DataError(
                f"{path}: expected the size of {where}, {expected[0]}x{expected[1]} (height x width), found "
                f"{found[0]}x{found[1]}"
            )
        known = np.zeros(CONTEXT_CLASSES + 1, dtype=bool)
        known[list(self.normals_classes.ids)] = True
        normals.as_subclass(torch.Tensor)[:, torch.from_numpy(~known[label_map])] = torch.nan
        return normals

    def _needs_label_map(self) -> bool:
        return self.normals_classes is not None and self.normals_classes.ids is not None

    def _edges(self, sample: str, part: Part) -> Label:
        from plait.metrics.boundary.labels import label_boundaries, laplacian_boundaries

        rule = self.options.get("edge_rule", "auto")
        if rule == "auto":
            rule = "training" if part == "train" else "evaluation"
        boundaries = laplacian_boundaries if rule == "training" else label_boundaries
        label_map, _ = self._label_map(sample)
        return Mask(torch.from_numpy(boundaries(label_map).astype(np.float32)[None]))

    def _label_map(self, sample: str) -> tuple[Array, Path]:
        """The context classes, int64 ``[H, W]``, and the file that they come from."""
        path = self._at("edges", sample)
        stored = read_numbers(path, "LabelMap")
        if stored.ndim != 2 or not stored.size:
            raise DataError(f"{path}: expected LabelMap as [H, W], found the shape {stored.shape}")
        with np.errstate(invalid="ignore"):
            ids = stored.astype(np.int64)
        if (ids != stored).any() or not 0 <= ids.min() <= ids.max() <= CONTEXT_CLASSES:
            raise DataError(
                f"{path}: expected whole class ids from 0 to {CONTEXT_CLASSES} in LabelMap, found values "
                f"from {stored.min()} to {stored.max()}"
            )
        return ids, path

    def hint(self, field: str) -> str:
        return self._unusable(field) or self._not_there(field)

    def _unusable(self, field: str) -> str:
        if field == "normals" and self.normals_classes is None:
            return (
                f"normals are labels only on the classes that NYUD has too: put {CONTEXT} and {NYU} of the "
                f"reference's data/db_info into {self.root / 'db_info'}, or set normals_classes"
            )
        return ""

    def _not_there(self, field: str) -> str:
        if field not in FOLDERS:
            return ""
        uploads = ", as in some re-uploads of PASCAL_MT" if field in ("normals", "saliency") else ""
        if not (self.root / FOLDERS[field]).is_dir():
            return f"the folder {FOLDERS[field]} is not there{uploads}"
        if field == "normals" and self._needs_label_map() and not (self.root / FOLDERS["edges"]).is_dir():
            return f"normals need the context classes, and the folder {FOLDERS['edges']} is not there"
        return ""

    def notes(self) -> Mapping[str, str]:
        notes = {f"no {field}": self.hint(field) for field in FIELDS if self.hint(field)}
        if self.normals_classes is not None:
            notes["normals are known on"] = self.normals_classes.source
        return notes


class PascalContext(PublishedDataSet):
    """PASCAL-Context, 4998 images for training and 5105 for testing, with up to five labels.

    Args:
        split: ``train``, ``val``, ``test`` or ``trainval``; ``test`` is what the archive and papers call val.
        labels: Of ``semantic``, ``parts``, ``saliency``, ``normals`` and ``edges``.
        root: The folder of PASCAL_MT.
        variant: ``auto`` or ``pascal_mt``, the only layout there is.
        validation: The share of the training part that is ``val``.
        missing: ``refuse`` or ``allow`` samples without the file of a label.
        edge_rule: How boundaries are drawn: ``training`` (thinned Laplacian, as the survey trains on),
            ``evaluation`` (as SEISM scores against), or ``auto``: training for ``train`` and ``trainval``,
            evaluation for ``val`` and ``test``.
        normals_classes: The context classes on which normals are labels: ``auto`` for the reference's two
            lists in the folder, ``all``, the path of them or of a JSON list of ids, or ids.
        normals_axes: What the three channels of the normals are, as :class:`plait.data.encodings.Encoding`
            has it; by default as they are stored, which the archive does not document.
        people_only: Keep only the images with a person, as the reference does where parts are the only task.
        progress: Told of the annotation files read and in all, while people are looked for the first time.

    Raises:
        ConfigurationError: If a split, label or option does not exist; names the nearest.
        DataError: If the folder is not PASCAL_MT, or files are missing or damaged.

    Source:
        Mottaghi et al., The Role of Context for Object Detection and Semantic Segmentation in the Wild, CVPR
        2014; Chen et al., Detect What You Can, CVPR 2014 (parts); Maninis et al., Attentive Single-Tasking of
        Multiple Tasks, CVPR 2019 (the archive).
    """

    name = "pascal_context"
    layouts = (PascalMT,)
    fields = FIELDS
    licence = "none stated; images from Flickr under its terms, as in PASCAL VOC; for research"
    page = (
        "https://cs.stanford.edu/~roozbeh/pascal-context/; with all labels as PASCAL_MT: "
        "https://github.com/facebookresearch/astmt"
    )
    measuring = MEASURING

    def __init__(
        self,
        split: str,
        labels: Sequence[str],
        root: Path | str | None = None,
        variant: str = "auto",
        validation: float = 0.1,
        missing: Missing = "refuse",
        edge_rule: EdgeRule = "auto",
        normals_classes: str | Sequence[int] = "auto",
        normals_axes: str = "+x+y+z",
        people_only: bool = False,
        progress: Progress | None = None,
    ) -> None:
        rules = get_args(EdgeRule)
        if edge_rule not in rules:
            raise ConfigurationError(
                f"edge_rule must be one of {', '.join(rules)}; got {edge_rule!r}{nearest(edge_rule, rules)}"
            )
        if edge_rule == "auto":  # without edges, an image is the same in every split
            edge_rule = "evaluation" if split in ("val", "test") and "edges" in labels else "training"
        super().__init__(
            split,
            labels,
            root,
            variant=variant,
            validation=validation,
            missing=missing,
            options={
                "edge_rule": edge_rule,
                "normals_classes": normals_classes,
                "normals_axes": normals_axes,
                "missing": missing,
            },
        )
        if people_only:
            people = self._people(progress)
            self.ids = [name for name in self.ids if name in people]

    def _people(self, progress: Progress | None) -> frozenset[str]:
        ids = self.layout.ids(self.part)
        index = self.layout.root / "ImageSets" / "Parts" / LISTS[self.part]
        listed = listed_people(index, ids)
        if listed is not None:
            return listed
        annotations = {name: self.layout.path("parts", name) for name in ids}
        lost = [name for name, path in annotations.items() if path is None]
        if lost and self.missing == "refuse":
            raise DataError(
                f"{self.layout.root}: {len(lost)} of {len(ids)} images have no parts file "
                f"({', '.join(lost[:3])}), so whether they show a person is not known: complete the folder, "
                f"or set missing: allow to leave them out"
            )
        return images_with_people({k: path for k, path in annotations.items() if path}, progress=progress)


def _semantic(path: Path) -> Label:
    ids = files.read_map(path, modes=("L", "P"))
    known = ids[ids != UNKNOWN_CLASS]
    if known.size and known.max() >= len(VOC_CLASSES):
        raise DataError(
            f"{path}: class id {known.max()} found, expected 0..{len(VOC_CLASSES) - 1}, or 255 for unknown"
        )
    return Semantic(torch.from_numpy(ids.astype(np.int64)[None]))
