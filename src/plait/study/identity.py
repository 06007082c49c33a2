"""What makes two runs the same run: what their recipes decide, the code that carries it out, and the seed."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from plait.config import Recipe, may_change, plain

DECIDING = (
    "balancing", "data", "metrics", "models", "tasks", "training", "config.py", "registry.py",
)  # fmt: skip
"""The parts of plait whose code decides a run's weights or scores."""


def identity(
    recipe: Recipe,
    *,
    split: str | None = None,
    processes: int = 1,
    starts_from: Mapping[str, str] | None = None,
) -> str:
    """A name that two runs share if they come out alike: 16 hexadecimal digits.

    Args:
        recipe: Everything that decides the run, the seed included. What may change when a run goes on, such
            as loader processes, has no part in it.
        split: The split that is scored; None for the test split.
        processes: How many processes train it: each draws random numbers of its own.
        starts_from: The identities of the runs whose weights it starts from, by task.
    """
    from plait.training.logs import flat

    decided = {key: value for key, value in flat(plain(recipe)) if not may_change(key)}
    if starts_from is not None:
        decided = {k: v for k, v in decided.items() if not k.startswith("model.init_from")}
    parts = {
        "recipe": decided,
        "order of tasks": list(recipe.tasks),
        "code": code_version(),
        "own code": {path: source_hash(path) for path in import_paths(plain(recipe))},
        "split": split,
        "processes": processes,
        "starts from": dict(starts_from or {}),
    }
    return digest(json.dumps(parts, sort_keys=True, default=str))


@cache
def code_version() -> str:
    """A hash of the code of plait that decides a run; comments, docstrings and layout have no part in it."""
    root = Path(__file__).parent.parent
    files = [
        file
        for part in DECIDING
        for file in ([root / part] if part.endswith(".py") else sorted((root / part).rglob("*.py")))
    ]
    return digest("\n".join(f"{file.relative_to(root).as_posix()} {meaning(file)}" for file in files))


def source_hash(path: str) -> str:
    """A hash of the module of an import path ``module:attribute``; empty where it has no source."""
    try:
        found = importlib.util.find_spec(path.partition(":")[0])
    except (ImportError, ValueError):
        return ""
    origin = Path(found.origin) if found is not None and found.origin else None
    return meaning(origin) if origin is not None and origin.suffix == ".py" else ""


def meaning(file: Path) -> str:
    """A hash of what a source file does."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return digest(ast.dump(tree))


def import_paths(tree: Any) -> Iterator[str]:
    """The import paths ``module:attribute`` among nested values."""
    if isinstance(tree, Mapping):
        for value in tree.values():
            yield from import_paths(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from import_paths(value)
    elif isinstance(tree, str):
        module, colon, attribute = tree.partition(":")
        if colon and all(part.isidentifier() for part in (*module.split("."), attribute)):
            yield tree


def digest(text: str) -> str:
    """Sixteen hexadecimal digits of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
