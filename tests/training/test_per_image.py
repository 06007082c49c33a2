"""What each image adds to the scores: it sums to them, whoever counted it, and outlives the run."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.processes import run_both
from torch import Tensor
from torchmetrics import Metric

from plait.config import Evaluation, Recipe
from plait.data.sample import Sample
from plait.errors import DataError
from plait.metrics.additive import additive
from plait.testing import write_tiny_rooms
from plait.training.checkpoint import read_tensors
from plait.training.evaluate import evaluate, evaluate_images, scored_tasks
from plait.training.fit import train
from plait.training.per_image import LARGE, Collector, PerImage
from plait.training.run import Run, load_run

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of every kind of label that rooms have."""
    from plait.config import parse

    folder = tmp_path_factory.mktemp("run")
    rooms = write_tiny_rooms(folder / "rooms", images=(4, 3, 5), size=(32, 48))
    kinds = ("depth", "normals", "edges", "saliency")
    tree = {
        "data": {"root": str(rooms)},
        "tasks": {
            "semantic": {"kind": "semantic", "classes": 20},
            **{kind: {"kind": kind} for kind in kinds},
        },
        "model": {
            "backbone": "test_resnet",
            "pretrained": False,
            "decoder": {"name": "independent", "head": "linear"},
        },
        "augmentation": {"size": [32, 32]},
        "training": {"steps": 2, "batch_size": 2, "threads": 1},
    }
    return train(parse(tree), folder / "run", progress=False)


def found(run: Run) -> PerImage:
    images = run.per_image
    assert images is not None
    return images


def test_a_run_keeps_what_each_image_adds_to_its_scores(run: Run) -> None:
    images, scores = found(run), run.scores
    dataset = run.dataset("test")
    assert images.ids == tuple(dataset.id(place) for place in range(5))
    assert list(images.statistics) == ["depth", "edges", "normals", "saliency", "semantic"]
    for task in scored_tasks(run.tasks, "plain", dataset):
        metric = task.metric()
        assert additive(metric)
        rows = images.statistics[task.name]
        assert (rows.dtype, rows.shape) == (torch.float64, (5, len(metric.statistics())))
        assert rows.any(1).all()
        measures = metric.measures_of(rows.sum(0))
        for name, value in scores[task.name].items():
            away = 0.25 if (task.name, name) == ("normals", "median") else 1e-12
            assert measures[name].item() == pytest.approx(value, rel=1e-12, abs=away), (task.name, name)


def test_a_row_is_the_image_alone(run: Run) -> None:
    """Scored as a split of one image, it has the same statistics."""
    dataset: Any = run.dataset("test")

    class Only:
        split, fields, classes = dataset.split, dataset.fields, dataset.classes

        def __len__(self) -> int:
            return 1

        def __getitem__(self, place: int) -> Sample:
            sample: Sample = dataset[3]
            return sample

        def id(self, place: int) -> str:
            return str(dataset.id(3))

    _, alone = evaluate_images(run.model(), Only(), run.tasks)
    for task, rows in found(run).statistics.items():
        torch.testing.assert_close(alone.statistics[task][0], rows[3], rtol=1e-5, atol=1e-4)


def test_the_scores_are_those_of_evaluate(run: Run) -> None:
    dataset, evaluation = run.dataset("val"), Evaluation(batch_size=2)
    scores, images = evaluate_images(run.model(), dataset, evaluation=evaluation)
    assert scores == evaluate(run.model(), dataset, evaluation=evaluation)
    assert len(images.ids) == 3


def test_an_image_without_a_label_has_a_row_of_zeros(run: Run) -> None:
    dataset: Any = run.dataset("val")
    labels = dataset[0].targets

    class Partial(type(dataset)):  # type: ignore[misc]
        def __getitem__(self, place: int) -> Sample:
            sample: Sample = super().__getitem__(place)
            if place == 1:
                del sample.targets["depth"]
            return sample

    dataset.__class__ = Partial
    scores, images = evaluate_images(run.model(), dataset, run.tasks)
    assert "depth" in labels
    assert not images.statistics["depth"][1].any()
    assert images.statistics["depth"][[0, 2]].any(1).all()
    assert images.statistics["normals"].any(1).all()
    assert scores["depth"]["rmse"] > 0


def test_an_image_that_is_not_finite_spoils_no_other(run: Run) -> None:
    """A difference of running sums would be NaN from there on."""
    task = next(task for task in run.tasks if task.name == "depth")
    collector = Collector([task], 3, torch.device("cpu"))
    target = torch.ones(1, 1, 2, 2)
    for place, value in enumerate((2.0, torch.nan, 3.0)):
        collector.update("depth", place, torch.full_like(target, value), target)
    rows = collector.gathered(("a", "b", "c")).statistics["depth"]
    assert rows.isnan().any(1).tolist() == [False, True, False]


class LastSum(Metric):
    """A metric of somebody's own, without statistics of images."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), "sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        self.total += prediction.sum()

    def compute(self) -> dict[str, float]:
        return {"rmse": self.total.item()}


def test_a_metric_without_statistics_is_scored_and_left_out(run: Run) -> None:
    tasks = [
        dataclasses.replace(task, metric=LastSum, scoring={}) if task.name == "depth" else task
        for task in run.tasks
    ]
    scores, images = evaluate_images(run.model(), run.dataset("val"), tasks)
    assert scores["depth"]["rmse"] != 0
    assert "depth" not in images.statistics
    assert "normals" in images.statistics


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = PerImage(
        ("a", "ü/b", "c"), {"depth": torch.rand(3, 4).double(), "ids": torch.ones(3, 1).double()}
    )
    written.save(tmp_path / "images.safetensors")
    again = PerImage.load(tmp_path / "images.safetensors")
    assert again.ids == written.ids
    assert all(torch.equal(again.statistics[task], rows) for task, rows in written.statistics.items())
    assert [path.name for path in tmp_path.iterdir()] == ["images.safetensors"]


def test_large_files_are_halved_and_keep_counts(tmp_path: Path) -> None:
    rows = torch.zeros(2, LARGE // 16 + 1, dtype=torch.float64)
    rows[:, 0] = torch.tensor([2**24, 1 / 3])
    PerImage(("a", "b"), {"depth": rows}).save(tmp_path / "images.safetensors")
    assert (tmp_path / "images.safetensors").stat().st_size < 0.51 * 8 * rows.numel()
    again = PerImage.load(tmp_path / "images.safetensors").statistics["depth"]
    assert again.dtype == torch.float64
    assert again[0, 0] == 2**24
    assert again[1, 0].item() == pytest.approx(1 / 3, rel=1e-7)


@pytest.mark.parametrize("damage", ["missing", "cut", "pickle", "foreign", "rows", "names"])
def test_a_damaged_file_is_told_in_a_sentence(tmp_path: Path, damage: str) -> None:
    import safetensors.torch

    path = tmp_path / "images.safetensors"
    PerImage(("a", "b"), {"depth": torch.ones(2, 4).double()}).save(path)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "pickle":
        torch.save({"depth": torch.ones(2)}, path)
    elif damage == "foreign":
        safetensors.torch.save_file({"weight": torch.ones(2)}, path)
    else:
        tensors = read_tensors(path)
        changed = {"statistics.depth": torch.ones(3, 4)} if damage == "rows" else {"ids": tensors["ids"][:-2]}
        safetensors.torch.save_file({**tensors, **changed}, path)
    with pytest.raises(DataError, match=r"images\.safetensors does not hold the statistics") as caught:
        PerImage.load(path)
    assert "\n" not in str(caught.value)


def test_a_run_of_before_has_none(run: Run, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text((run.path / "recipe.yaml").read_text())
    assert load_run(tmp_path).per_image is None


def test_a_run_whose_scoring_was_cut_short_has_both_files_in_the_end(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from plait.training import fit

    original = fit.write_atomically

    def killed(path: Path, content: str) -> None:
        if path.name == "scores.json":
            raise KeyboardInterrupt
        original(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            train(make_recipe(), tmp_path / "run", progress=False)
    assert (tmp_path / "run/images.safetensors").is_file(), "it is written before the scores"
    assert not load_run(tmp_path / "run").finished
    again = train(make_recipe(), tmp_path / "run", progress=False)
    assert again.finished
    assert len(found(again).ids) == again.scores.images


def main() -> None:
    """Scores a run's test split in one of two processes; each writes what it found."""
    torch.set_num_threads(1)
    place, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=place, world_size=2)
    try:
        run = load_run(Path((folder / "run").read_text()))
        _, images = evaluate_images(run.model(), run.dataset("test"), evaluation=Evaluation(batch_size=1))
        images.save(folder / f"{place}.safetensors")
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_write_the_file_that_one_does(run: Run, tmp_path: Path) -> None:
    (tmp_path / "run").write_text(str(run.path))
    run_both(["-c", "from tests.training.test_per_image import main; main()"], tmp_path)
    _, images = evaluate_images(run.model(), run.dataset("test"), evaluation=Evaluation(batch_size=1))
    images.save(tmp_path / "alone.safetensors")
    expected = (tmp_path / "alone.safetensors").read_bytes()
    for place in range(2):
        assert (tmp_path / f"{place}.safetensors").read_bytes() == expected
