"""plait: multi-task learning for dense prediction, compared like with like.

Importing plait imports no torch; each part is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from plait import registry

if TYPE_CHECKING:
    from plait import balancing, data, inference, metrics, models, study, tasks, testing, training
    from plait.inference.load import load
    from plait.models import create_model
    from plait.training.evaluate import evaluate
    from plait.training.fit import train
    from plait.training.run import load_run

__version__ = _version("plait")
__all__ = [
    "balancing",
    "create_model",
    "data",
    "evaluate",
    "inference",
    "list_balancers",
    "list_datasets",
    "list_decoders",
    "list_encoders",
    "list_heads",
    "list_tasks",
    "load",
    "load_run",
    "metrics",
    "models",
    "study",
    "tasks",
    "testing",
    "train",
    "training",
]

_MODULES = ("balancing", "data", "inference", "metrics", "models", "study", "tasks", "testing", "training")
_OBJECTS = {
    "create_model": "plait.models",
    "evaluate": "plait.training.evaluate",
    "load": "plait.inference.load",
    "load_run": "plait.training.run",
    "train": "plait.training.fit",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"plait.{name}")
    if name in _OBJECTS:
        return getattr(importlib.import_module(_OBJECTS[name]), name)
    raise AttributeError(f"module 'plait' has no attribute {name!r}")


def __dir__() -> Sequence[str]:
    return sorted({*globals(), *__all__})


def list_encoders() -> list[str]:
    """The names of the encoders: where tasks may share or exchange features on the way up."""
    return list(registry.ENCODERS)


def list_decoders() -> list[str]:
    """The names of the decoders: where tasks may exchange features on the way to predictions."""
    return list(registry.DECODERS)


def list_heads() -> list[str]:
    """The names of the heads that the ``independent`` decoder can use."""
    return list(registry.HEADS)


def list_balancers() -> list[str]:
    """The names of the balancers: how losses or gradients become one update."""
    return list(registry.BALANCERS)


def list_datasets() -> list[str]:
    """The names of the data sets."""
    return list(registry.DATASETS)


def list_tasks() -> list[str]:
    """The kinds of task."""
    return list(registry.TASKS)
