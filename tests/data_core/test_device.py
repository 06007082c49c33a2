"""Views made on the device are the loader's: same draws, same warps, same labels, images but for rounding."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plait.config import Recipe, parse, replace
from plait.data.device import DrawnBatch
from plait.data.labels import Depth, InverseDepth, Label, Mask, Normals, Semantic
from plait.data.loader import drawn_batches, evaluation_batches, train_batches
from plait.data.sample import Batch, Geometry, Sample
from plait.data.transforms import DEVICE_KERNELS, KERNELS, Augmentation
from plait.errors import ConfigurationError
from plait.study.diagnosis.measure import measure_now
from plait.tasks import parse as parse_tasks
from plait.testing import write_tiny_rooms
from plait.training.checkpoint import read_tensors
from plait.training.fit import train

TASKS = parse_tasks(
    {
        "semseg": {"kind": "semantic", "classes": 9},
        "depth": {"kind": "depth"},
        "disparity": {"kind": "inverse_depth"},
        "normals": {"kind": "normals"},
        "edges": {"kind": "edges"},
        "again": {"kind": "depth"},
    }
)
FIELDS: Mapping[str, type[Label]] = {
    "semantic": Semantic,
    "depth": Depth,
    "inverse_depth": InverseDepth,
    "normals": Normals,
    "edges": Mask,
}
NORMALISATION = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))


@dataclass
class Noise:
    """Noise, a fifth of it unknown; sample ``i`` lacks the label ``i mod 7``."""

    sizes: Sequence[tuple[int, int]] = ((33, 45),)
    count: int = 8
    split: str = "train"
    fields: Mapping[str, type[Label]] = field(default_factory=lambda: FIELDS)
    classes = {"semantic": [str(k) for k in range(9)]}  # noqa: RUF012

    def __len__(self) -> int:
        return self.count

    def id(self, place: int) -> str:
        return f"p{place}"

    def __getitem__(self, place: int) -> Sample:
        size = self.sizes[place % len(self.sizes)]
        random = torch.Generator().manual_seed(place)
        image = torch.randint(0, 256, (3, *size), generator=random, dtype=torch.uint8)
        unknown = torch.rand(1, *size, generator=random) < 0.2
        vectors = torch.nn.functional.normalize(torch.randn(3, *size, generator=random), dim=0)
        values = {
            "semantic": torch.randint(0, 9, (1, *size), generator=random).masked_fill(unknown, 255),
            "depth": torch.rand(1, *size, generator=random) + 1,
            "inverse_depth": torch.rand(1, *size, generator=random),
            "normals": vectors,
            "edges": (torch.rand(1, *size, generator=random) < 0.3).float(),
        }
        targets = {
            name: FIELDS[name](label if name == "semantic" else label.masked_fill(unknown, torch.nan))
            for number, (name, label) in enumerate(values.items())
            if number != place % 7
        }
        return Sample(self.id(place), image, targets, Geometry(size))


def take(batches: Iterator[Any], count: int) -> list[Any]:
    taken = list(itertools.islice(batches, count))
    batches.close()  # type: ignore[attr-defined]
    return taken


def both(data: Noise, view: Augmentation, count: int = 2, **options: Any) -> list[tuple[Batch, Batch]]:
    """The loader's batches, and those made by the device's operations on the processor."""
    options = {"batch_size": 4, "seed": 0, **options}
    expected = take(train_batches(data, TASKS, view, NORMALISATION, **options), count)
    drawn: list[DrawnBatch] = take(drawn_batches(data, TASKS, view, NORMALISATION, **options), count)
    return list(zip(expected, [batch.to("cpu") for batch in drawn], strict=True))


def assert_same(expected: Batch, found: Batch) -> None:
    assert list(found.ids) == list(expected.ids)
    for one, other in zip(expected.geometry, found.geometry, strict=True):
        assert one.size == other.size
        assert torch.equal(one.matrix, other.matrix)
    deviation = torch.tensor(NORMALISATION[1])[:, None, None]
    assert found.images.dtype == torch.float32
    assert ((found.images - expected.images) * deviation).abs().max() < 0.01 / 255
    assert found.targets.keys() == expected.targets.keys()
    for task, target in expected.targets.items():
        made = found.targets[task]
        assert type(made) is Tensor
        assert made.dtype == target.dtype
        torch.testing.assert_close(made, target, rtol=1e-6, atol=1e-6, equal_nan=True)
    for task, present in expected.present.items():
        assert torch.equal(found.present[task], present)


VIEWS: dict[str, dict[str, Any]] = {
    "as it is": {"scale": (1, 1), "flip": 0, "colour": 0},
    "flipped": {"scale": (1, 1), "flip": 1.0, "colour": 0},
    "closer, crops": {"scale": (1.0, 1.6)},
    "farther, smoothed": {"scale": (0.3, 0.9)},
    "both": {"scale": (0.5, 2.0)},
    "the survey's": {"scales": (1.0, 1.2, 1.5), "crop": False, "colour": 0},
    "whole, smoothed": {"scale": (0.4, 1.0), "crop": False},
    "turned": {"rotation": 40.0, "scale": (1.0, 1.3)},
    "turned and smoothed": {"rotation": 180.0, "scale": (0.4, 1.3)},
    "colour": {"colour": 0.9, "hue": 0.5},
}
"""With sizes below, above and beside the sample's."""


@pytest.mark.parametrize("size", [(33, 45), (20, 60), (70, 31)])
@pytest.mark.parametrize("name", VIEWS)
def test_a_batch_is_the_loader_s(name: str, size: tuple[int, int]) -> None:
    for expected, found in both(Noise(), Augmentation(size, **VIEWS[name])):
        assert_same(expected, found)


@pytest.mark.parametrize("name", ["both", "whole, smoothed", "turned and smoothed"])
def test_samples_of_several_sizes_are_laid_together(name: str) -> None:
    data = Noise(sizes=((33, 45), (50, 21), (12, 64)))
    for expected, found in both(data, Augmentation((30, 40), **VIEWS[name]), count=3):
        assert_same(expected, found)


def test_an_upright_view_among_turned_ones_is_made_as_well() -> None:
    """A rotation of exactly zero degrees hardly ever is drawn."""

    class Sometimes(Augmentation):
        def warp(self, source: tuple[int, int], random: Any) -> Any:
            warp = super().warp(source, random)
            return warp if random.random() < 0.5 else warp.rotated(20)

    for expected, found in both(Noise(), Sometimes((30, 40), scale=(1.0, 1.4))):
        assert_same(expected, found)


def test_there_is_a_kernel_for_every_label_type_on_either_side() -> None:
    assert {Semantic, Depth, InverseDepth, Normals, Mask} <= DEVICE_KERNELS.keys() <= KERNELS.keys()


def test_a_label_type_without_a_device_kernel_is_one_sentence() -> None:
    class Heat(Mask):
        """Known to the loader alone."""

    data = Noise(fields={**FIELDS, "edges": Heat})
    with pytest.raises(ConfigurationError, match=r"warps Heat, .*'edges'.*device_kernel\(Heat\)"):
        drawn_batches(data, TASKS, Augmentation((8, 8)))


def test_present_is_what_the_view_shows_though_nothing_was_made_yet() -> None:
    """Only a corner is labelled, so a crop may miss it; the strip that is looked at first misses it too."""

    class Corner(Noise):
        def __getitem__(self, place: int) -> Sample:
            sample = super().__getitem__(place)
            depth = torch.full((1, 160, 160), torch.nan)
            depth[:, :12, :12] = 2
            image = torch.zeros(3, 160, 160, dtype=torch.uint8)
            return Sample(sample.id, image, {"depth": Depth(depth)}, Geometry((160, 160)))

    view = Augmentation((128, 128), scale=(1.0, 1.0), colour=0)
    seen = []
    for drawn in take(drawn_batches(Corner(), TASKS, view, batch_size=4), 4):
        made = drawn.to("cpu")
        shown = made.targets["depth"].isfinite().flatten(1).any(1)
        assert torch.equal(drawn.present["depth"], shown)
        assert not drawn.present["normals"].any()
        seen += shown.tolist()
    assert 0 < sum(seen) < len(seen)


def test_what_is_shipped_is_what_was_read() -> None:
    data = Noise(sizes=((33, 45), (50, 21)))
    (drawn,) = take(drawn_batches(data, TASKS, Augmentation((16, 16)), batch_size=8), 1)
    assert drawn.images.dtype == torch.uint8
    assert drawn.images.shape == (8, 3, 50, 45)
    for row, name in enumerate(drawn.ids):
        sample = data[int(name[1:])]
        height, width = sample.geometry.size
        assert torch.equal(drawn.images[row, :, :height, :width], sample.image)
        for label, maps in drawn.labels.items():
            if label in sample.targets:
                torch.testing.assert_close(
                    maps[row, :, :height, :width],
                    sample.targets[label].as_subclass(Tensor),
                    rtol=0,
                    atol=0,
                    equal_nan=True,
                )


@pytest.mark.parametrize("name", ["as it is", "flipped", "colour", "turned and smoothed"])
def test_the_data_set_s_own_memory_is_left_alone(name: str) -> None:
    class Kept(Noise):
        def __init__(self) -> None:
            super().__init__(count=4)
            self.samples = [Noise.__getitem__(self, place) for place in range(4)]

        def __getitem__(self, place: int) -> Sample:
            return self.samples[place]

    data = Kept()
    before = [[sample.image, *sample.targets.values()] for sample in data.samples]
    copies = [[maps.clone() for maps in sample] for sample in before]
    view = Augmentation((33, 45), **VIEWS[name])
    for made in (
        *(batch for pair in both(data, view) for batch in pair),
        *evaluation_batches(data, TASKS, None, NORMALISATION),
    ):
        made.images.zero_()
        for target in made.targets.values():
            target.zero_()
    for sample, copy in zip(before, copies, strict=True):
        for maps, expected in zip(sample, copy, strict=True):
            torch.testing.assert_close(maps, expected, rtol=0, atol=0, equal_nan=True)


def test_processes_and_sampling_are_those_of_the_loader() -> None:
    view = Augmentation((16, 20))
    for rank in (0, 1):
        for expected, found in both(Noise(), view, parts=2, rank=rank, world_size=2, start_step=3):
            assert len(found.ids) == 2
            assert_same(expected, found)


@pytest.mark.slow
def test_workers_change_nothing(tmp_path: Path) -> None:
    from plait.data.rooms.dataset import Rooms

    root = write_tiny_rooms(tmp_path, images=(6, 2, 2), size=(24, 32))
    rooms = Rooms("train", ["depth", "normals"], root)
    tasks, view = TASKS[1:4:2], Augmentation((16, 20), rotation=5)
    alone, helped = (
        take(drawn_batches(rooms, tasks, view, batch_size=4, workers=workers), 3) for workers in (0, 2)
    )
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.to("cpu").images, other.to("cpu").images)


# --- in training ----------------------------------------------------------------------------------------


class Killed(BaseException):
    """As good as SIGKILL: nothing is saved on the way."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    root = write_tiny_rooms(tmp_path_factory.mktemp("rooms"), images=(6, 2, 2), size=(32, 48))
    return parse(
        {
            "data": {"root": str(root)},
            "tasks": {
                "semantic": {"kind": "semantic", "classes": 20},
                "depth": {"kind": "depth"},
                "normals": {"kind": "normals"},
            },
            "model": {
                "backbone": "test_resnet",
                "pretrained": False,
                "decoder": {"name": "independent", "head": "linear"},
            },
            "augmentation": {"size": [32, 32], "rotation": 5},
            "training": {
                "steps": 6,
                "batch_size": 4,
                "accumulate": 2,
                "checkpoint_every": 2,
                "log_every": 1,
                "threads": 1,
                "precision": "fp32",
                "channels_last": True,
                "augment_on": "device",
            },
        }
    )


def weights(run: Path) -> dict[str, Tensor]:
    return read_tensors(run / "checkpoints" / "last" / "model.safetensors")


def test_a_run_is_reproducible_and_resumes(recipe: Recipe, tmp_path: Path) -> None:
    def killed(step: int, *_: Any) -> None:
        if step == 3:
            raise Killed

    train(recipe, tmp_path / "whole", progress=False)
    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", progress=killed)
    train(recipe, tmp_path / "run", progress=False)
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_what_is_measured_beside_a_run_works_on_views_made_there(recipe: Recipe, tmp_path: Path) -> None:
    every = {"training.affinity_every": 3, "training.diagnose_every": 3, "training.steps": 3}
    run = train(replace(recipe, {**every, "balancer": "mgda"}), tmp_path / "run", progress=False)
    assert any("affinity" in line for line in run.log)
    assert any("gradients" in line for line in run.log)
    (line,) = measure_now(run, 1)
    assert set(line["gradients"]["whole"]["norm"]) == set(recipe.tasks)
    assert run.evaluate("val").keys() == recipe.tasks.keys()


def test_a_run_learns_what_the_loader_s_would(recipe: Recipe, tmp_path: Path) -> None:
    runs = [
        train(
            replace(recipe, {"training.augment_on": where, "training.steps": 2}),
            tmp_path / where,
            progress=False,
        )
        for where in ("device", "loader")
    ]
    losses = [[line["loss"] for line in run.log if "loss" in line] for run in runs]
    for one, other in zip(*losses, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
