"""Checkpoints: tensors as safetensors, the rest as JSON; nothing that could run code when it is opened.

A checkpoint is a folder::

    model.safetensors      the weights to use (their average, where the run keeps one)
    training.safetensors   what only going on needs: optimizer, balancer, and the weights behind an average
    state.json             step, tasks, choices made at the start, and the checksums of the two files

It is written beside the one it replaces and then takes its name; the old one is removed last. So at every
moment one complete checkpoint exists, wherever a run is killed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from plait.errors import CheckpointError, DiskFullError
from plait.tasks.base import Task

FORMAT = 1
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        place: Its folder.
        tensors: ``{file: {name: tensor}}``, on the CPU.
        state: Step, tasks, and whatever else was written.
    """

    place: Path
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Updates made before it was written."""
        return int(self.state["step"])


def find(place: Path) -> Path | None:
    """The folder of the complete checkpoint called ``place``, or None.

    It is ``<place>.previous`` for a run that was killed between the two renames that replace it.
    """
    candidates = (place, place.with_name(f"{place.name}.previous"))
    return next((candidate for candidate in candidates if (candidate / STATE).is_file()), None)


def write(place: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Replaces the checkpoint at ``place``, or leaves it as it was.

    Args:
        place: The folder.
        tensors: ``{file name without ending: {name: tensor}}``.
        state: What JSON can hold.

    Raises:
        DiskFullError: If the disk is full; the checkpoint that was there still is.
    """
    fresh = place.with_name(f"{place.name}.writing")
    previous = place.with_name(f"{place.name}.previous")
    with explained_full_disk(f"the checkpoint {place}", discard=fresh):
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        digests = {}
        for name, values in tensors.items():
            content = safetensors.torch.save({key: stored(value) for key, value in values.items()})
            write_durably(fresh / f"{name}.safetensors", content)
            digests[name] = hashlib.sha256(content).hexdigest()
        described = {"format": FORMAT, **state, "sha256": digests}
        write_durably(fresh / STATE, json.dumps(described, indent=1).encode())
        synchronise(fresh)
    if place.exists():
        shutil.rmtree(previous, ignore_errors=True)
        place.rename(previous)
    fresh.rename(place)
    synchronise(place.parent)
    shutil.rmtree(previous, ignore_errors=True)


def read(place: Path, tasks: Sequence[Task] | None = None, files: Sequence[str] | None = None) -> Checkpoint:
    """Reads and verifies a checkpoint.

    Args:
        place: Its folder.
        tasks: The tasks it must be of, in order; None accepts any.
        files: Which tensor files to read; None reads all.

    Raises:
        CheckpointError: If there is none, or it is damaged, of other tasks, or a pickle in disguise.
    """
    found = find(place)
    if found is None:
        raise CheckpointError(
            f"{place} holds no complete checkpoint (expected {STATE} and its tensors): train that run first"
        )
    try:
        state = json.loads((found / STATE).read_bytes())
        digests = {str(name): str(digest) for name, digest in state["sha256"].items()}
        form, _ = state["format"], int(state["step"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{found / STATE} is damaged ({error}); remove the folder to start again"
        ) from None
    if form != FORMAT:
        raise CheckpointError(
            f"{found} has format {form!r}, this version of plait reads format {FORMAT}: install the version "
            f"that wrote it"
        )
    if tasks is not None and state.get("tasks") != described_tasks(tasks):
        raise CheckpointError(
            f"{found} is of the tasks {told(state.get('tasks'))}, expected {told(described_tasks(tasks))}"
        )
    names = digests if files is None else files
    return Checkpoint(
        found,
        {name: read_tensors(found / f"{name}.safetensors", digests.get(name)) for name in names},
        state,
    )


def read_tensors(path: Path, digest: str | None = None) -> dict[str, Tensor]:
    """Reads a safetensors file, by its content and not by its name.

    Raises:
        CheckpointError: If it is missing, a pickle, truncated, or differs from its SHA-256 ``digest``.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    damaged = digest is not None and hashlib.sha256(content).hexdigest() != digest
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
    except SafetensorError as error:
        # Only now: the length that a safetensors file begins with can look like a pickle's first bytes.
        if content[:2] == b"PK" or (content[:1] == b"\x80" and content[1:2] in b"\x02\x03\x04\x05"):
            raise CheckpointError(
                f"{path} is a pickle, which may run code when it is opened, and was not: expected "
                f"safetensors, as plait writes them"
            ) from None
        if not damaged:
            raise CheckpointError(f"{path} is not a complete safetensors file: {error}") from error
    if damaged:
        raise CheckpointError(
            f"{path} is damaged: {len(content)} bytes that differ from what was written; take another copy"
        )
    return tensors


def described_tasks(tasks: Sequence[Task]) -> list[list[Any]]:
    """Name, kind and channels of each task, in order, as a checkpoint stores them."""
    return [[task.name, task.kind, task.channels] for task in tasks]


def told(tasks: Any) -> str:
    """Stored tasks for a sentence."""
    try:
        return ", ".join(f"{name} ({kind}, {channels} channels)" for name, kind, channels in tasks)
    except (TypeError, ValueError):
        return repr(tasks)


@torch.no_grad()
def restore(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Copies tensors over a module's state of exactly the same names, shapes and types.

    Raises:
        CheckpointError: If they do not fit; names the first that does not.
    """
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    for name in sorted(own.keys() ^ tensors.keys()):
        missing = "lacks" if name in own else "has, but the recipe's network has not,"
        raise CheckpointError(f"{what} {missing} {name!r}: it is of another network")
    for name, value in own.items():
        if value.shape != tensors[name].shape:
            raise CheckpointError(
                f"{what}: {name!r} is {list(tensors[name].shape)}, expected {list(value.shape)}"
            )
        value.copy_(tensors[name])


def load_state(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Gives a module its state back where it decides itself what fits, such as state sized at the first step.

    Raises:
        CheckpointError: If it does not fit.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{what} is of another {type(module).__name__}: {reason}") from error


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors as ``{"<parameter's place>.<key>": tensor}``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{place}.{key}": value
        for place, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


@torch.no_grad()
def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], what: str) -> None:
    """Gives an optimizer its tensors back, in the memory layout of their parameters.

    Raises:
        CheckpointError: If a tensor is of no parameter, or of another shape.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for name, stored_value in tensors.items():
        place, _, key = name.partition(".")
        if not place.isdigit() or int(place) >= len(parameters):
            raise CheckpointError(f"{what}: {name!r} belongs to no parameter of the optimizer")
        parameter = parameters[int(place)]
        if stored_value.ndim == 0:  # a count of steps: the fused kernels want it where the parameter is
            count = stored_value.to(parameter.device) if parameter.device.type != "cpu" else stored_value
            optimizer.state[parameter][key] = count.clone()
            continue
        if stored_value.shape != parameter.shape:
            raise CheckpointError(
                f"{what}: {name!r} is {list(stored_value.shape)}, expected {list(parameter.shape)}"
            )
        moment = torch.empty_like(parameter, dtype=stored_value.dtype, memory_format=torch.preserve_format)
        optimizer.state[parameter][key] = moment.copy_(stored_value)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under ``prefix.``."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that :func:`prefixed` put under ``prefix.``, by their own names."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def stored(tensor: Tensor) -> Tensor:
    """A plain, contiguous copy on the CPU: safetensors refuses shared memory."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def write_durably(path: Path, content: bytes) -> None:
    """Writes a file and waits until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file that is there whole or not at all."""
    fresh = path.with_name(f"{path.name}.writing")
    write_durably(fresh, content.encode() if isinstance(content, str) else content)
    fresh.replace(path)


def synchronise(folder: Path) -> None:
    """Waits until the disk has a folder's entries, where the system can tell."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def explained_full_disk(what: str, discard: Path | None = None) -> Iterator[None]:
    """Turns "no space left" into one sentence, and removes what was half written.

    Raises:
        DiskFullError: If the disk, or the user's quota on it, is full.
    """
    try:
        yield
    except OSError as error:
        if discard is not None:
            shutil.rmtree(discard, ignore_errors=True)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(
            f"the disk is full: {what} could not be written; what was saved before is intact, so free some "
            f"space and start the same command again"
        ) from error
