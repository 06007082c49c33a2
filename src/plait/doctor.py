"""What this installation can do: versions, devices, caches, optional parts and what is missing for each."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

PARTS: Mapping[str, str] = {
    "offline": "ImageNet weights of tf_efficientnet_lite0 without a network",
    "render": "rendering rooms: plait data build rooms",
    "video": "videos: plait predict RUN VIDEO",
    "export": "plait export to ONNX and int8",
    "demo": "plait demo: a trained network in a browser",
    "tune": "searching hyperparameters in a study",
    "ray": "studies on a Ray cluster",
    "slurm": "studies as SLURM jobs",
    "energy": "energy of NVIDIA GPUs in reports",
    "tensorboard": "training.trackers: [tensorboard]",
    "wandb": "training.trackers: [wandb]",
    "trackio": "training.trackers: [trackio]",
    "mlflow": "training.trackers: [mlflow]",
}
"""The optional parts for users, and what each is for."""

Lines = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        versions: ``(what, version)``.
        devices: ``(what, description)``.
        caches: ``(what, where, how much and whether it can be written)``.
        parts: ``(extra, what it is for, what it lacks)``; nothing lacks where the part is ready.
    """

    versions: Lines
    devices: Lines
    caches: Lines
    parts: Sequence[tuple[str, str, Sequence[str]]]

    def lines(self) -> list[str]:
        """For a terminal."""
        found: list[str] = []
        for title, pairs in (
            ("versions", self.versions),
            ("devices", self.devices),
            ("caches", self.caches),
        ):
            width = max(len(name) for name, _ in pairs)
            found += [title, *(f"  {name:<{width}}  {text}" for name, text in pairs), ""]
        found.append("optional parts")
        for extra, purpose, missing in self.parts:
            state = f"missing {', '.join(missing)}: pip install 'plait[{extra}]'" if missing else "ready"
            found.append(f"  {extra:<12} {state:<8}  {purpose}" if not missing else f"  {extra:<12} {state}")
            if missing:
                found.append(f"  {'':<12} for {purpose}")
        return found


def examine() -> Diagnosis:
    """Looks at this installation; nothing is fetched, started or written."""
    return Diagnosis(
        versions=list(versions()),
        devices=list(devices()),
        caches=list(caches()),
        parts=[(extra, purpose, missing(extra)) for extra, purpose in PARTS.items()],
    )


def versions() -> Iterator[tuple[str, str]]:
    """Python, the system, and the packages that decide results."""
    from plait.training.environment import PACKAGES, version

    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "system", platform.platform()
    for name in PACKAGES:
        yield name, version(name) or "not installed"


def devices() -> Iterator[tuple[str, str]]:
    """Processor, memory and accelerators."""
    import psutil
    import torch

    from plait.training.environment import cores, processor

    memory = psutil.virtual_memory()
    here = f"cores for this process: {cores()}, threads of torch: {torch.get_num_threads()}"
    yield "processor", f"{processor()}; {here}"
    yield "memory", f"{size(memory.available)} free of {size(memory.total)}"
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None:
        built = f"; this torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else ""
        yield "accelerator", f"none that can be used{built}"
    elif found.type == "cuda":
        for place in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(place)
            yield f"cuda:{place}", f"{about.name}, {size(about.total_memory)}"
    else:
        yield "accelerator", found.type


def caches() -> Iterator[tuple[str, str]]:
    """Where things are kept that can be had again."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from plait.data.files import cache_folder

    for name, folder in (("plait", cache_folder()), ("hub", Path(HF_HUB_CACHE))):
        # Path.exists raises where a folder may not be looked into.
        nearest = next(place for place in (folder, *folder.parents) if os.path.exists(place))  # noqa: PTH110
        kept = f"{size(used(folder))}" if nearest == folder else "not there yet"
        writable = "" if os.access(nearest, os.W_OK) else ", cannot be written: set XDG_CACHE_HOME or HF_HOME"
        yield name, f"{folder} ({kept}; {size(shutil.disk_usage(nearest).free)} free on its disk{writable})"


def used(folder: Path) -> int:
    """Bytes of the files below a folder; links are not followed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # removed meanwhile
                found = Path(place, name).lstat()
                total += 0 if stat.S_ISLNK(found.st_mode) else found.st_size
    return total


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed, or too old, as ``gradio>=6``."""
    return [str(needed) for needed in requirements(extra) if not installed(needed)]


def requirements(extra: str) -> list[Requirement]:
    """What an extra needs beyond plait itself, by plait's own metadata."""
    found = []
    for text in importlib.metadata.requires("plait") or ():
        needed = Requirement(text)
        own = needed.marker is None or needed.marker.evaluate({"extra": ""})
        if not own and needed.marker is not None and needed.marker.evaluate({"extra": extra}):
            needed.marker = None
            found.append(needed)
    return found


def installed(needed: Requirement) -> bool:
    """Whether a package is there in a version that will do."""
    try:
        return needed.specifier.contains(importlib.metadata.version(needed.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def size(count: float) -> str:
    """Bytes for a person.

    >>> size(512), size(3_400_000), size(25_000_000_000)
    ('512 B', '3.4 MB', '25 GB')
    """
    units = ["B", "kB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.1f} {units[0]}" if count < 10 and units[0] != "B" else f"{count:.0f} {units[0]}"
