"""A real picture with dense depth as one's own data: Middlebury 2014 Motorcycle, packed by scikit-image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from plait.config import parse
from plait.data.folder.dataset import Folder
from plait.data.folder.propose import propose
from plait.training.fit import train

FOCAL, OFFSET, BASELINE = 994.978, 31.086, 0.193001
"""Pixels, pixels and metres, of the pictures at a quarter of their size (scikit-image's docstring)."""

CUTS = [(top, left) for top in (0, 160, 320) for left in (0, 185, 370, 555)]
SIZE = (160, 176)


@pytest.fixture(scope="module")
def motorcycle() -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The left picture, and its depth in metres: focal length x baseline / (disparity + offset).

    A disparity that is not known is NaN, or infinite, as the copy of scikit-image has it.
    """
    data = pytest.importorskip("skimage.data")
    here = Path(data.__file__).parent
    needed = ("motorcycle_left.png", "motorcycle_right.png", "motorcycle_disp.npz")
    if not all((here / name).is_file() for name in needed):
        pytest.skip("this scikit-image does not pack the motorcycle, and nothing is downloaded")
    left, _, disparity = data.stereo_motorcycle()
    known = np.where(np.isfinite(disparity), disparity, np.nan).astype(np.float64)
    return left, FOCAL * BASELINE / (known + OFFSET)


@pytest.fixture(scope="module")
def root(motorcycle: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of it as a folder: depth as 16-bit millimetres, and again as metres in .npy."""
    picture, depth = motorcycle
    folder = tmp_path_factory.mktemp("motorcycle")
    for name in ("images", "depth", "metres"):
        (folder / name).mkdir()
    for number, (top, left) in enumerate(CUTS):
        window = np.s_[top : top + SIZE[0], left : left + SIZE[1]]
        metres = depth[window]
        millimetres = np.nan_to_num(np.round(1000 * metres)).astype(np.uint16)
        Image.fromarray(picture[window]).save(folder / "images" / f"{number:02d}.png")
        Image.fromarray(millimetres).save(folder / "depth" / f"{number:02d}.png")
        np.save(folder / "metres" / f"{number:02d}.npy", metres.astype(np.float32))
    lists = {"train": range(8), "val": range(8, 10), "test": range(10, 12)}
    (folder / "splits").mkdir()
    for split, numbers in lists.items():
        (folder / "splits" / f"{split}.txt").write_text("\n".join(f"{n:02d}" for n in numbers))
    return folder


FIELDS: dict[str, Any] = {"depth": {"scale": 0.001}, "metres": {"kind": "depth"}}


def test_both_encodings_give_the_same_depth_to_half_a_millimetre(root: Path) -> None:
    dataset = Folder("train", ["depth", "metres"], root, fields=FIELDS)
    for place in range(len(dataset)):
        sample = dataset[place]
        packed, plain = (sample.targets[name].as_subclass(Tensor) for name in FIELDS)
        assert torch.equal(packed.isnan(), plain.isnan())
        torch.testing.assert_close(packed, plain, rtol=0, atol=5.1e-4, equal_nan=True)


def test_depth_is_that_of_a_room(root: Path) -> None:
    known = []
    for split in ("train", "val", "test"):
        dataset = Folder(split, ["depth"], root, fields=FIELDS)
        known += [dataset[place].targets["depth"].as_subclass(Tensor) for place in range(len(dataset))]
    depth = torch.stack(known)
    share = depth.isfinite().float().mean().item()
    assert 0.85 < share < 0.95  # the cameras do not see everything twice
    values = depth[depth.isfinite()]
    assert 1.8 < values.min() < 2.5
    assert 4 < values.max() < 6.5


def test_a_proposal_finds_the_unit(root: Path) -> None:
    proposal = propose(root)
    assert proposal.options["fields"]["depth"] == {"kind": "depth", "source": "depth", "scale": 0.001}
    assert proposal.options["fields"]["metres"] == {"kind": "depth", "source": "metres"}
    assert parse(yaml.safe_load(proposal.yaml)).tasks["metres"]["label"] == "metres"
    assert "splits: train 8, val 2, test 2" in proposal.lines


def test_a_few_steps_of_training_on_it(root: Path, tmp_path: Path) -> None:
    recipe = parse(
        {
            "data": {"name": "folder", "root": str(root), "options": {"fields": FIELDS}},
            "tasks": {"depth": {"kind": "depth", "loss": "log_l1", "parametrisation": "exp"}},
            "model": {
                "backbone": "test_resnet",
                "pretrained": False,
                "decoder": {"name": "independent", "head": "linear"},
            },
            "optimizer": {"lr": 0.01},
            "augmentation": {"size": [96, 96]},
            "training": {
                "steps": 12,
                "batch_size": 4,
                "threads": 1,
                "precision": "fp32",
                "channels_last": False,
                "log_every": 1,
            },
            "evaluation": {"size": list(SIZE)},
        }
    )
    run = train(recipe, tmp_path / "run")
    losses = [line["loss"]["depth"] for line in run.log if "loss" in line]
    assert losses[-1] < losses[0] / 2
    assert run.scores["depth"]["rmse"] < 1.0  # metres, of 2 to 5
