"""The gallery shows all arms on the same images, finds the extreme ones, and stays small."""

import base64
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.study.reporting.trained import trained

import plait.tasks
from plait.study.qualitative import Pixels, Prediction, Row
from plait.study.report import whole_dataset
from plait.study.reporting import gallery
from plait.study.results import StudyResults
from plait.tasks import Task


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    """Single-task networks and one arm, one seed, with five test images."""
    return trained(tmp_path_factory.mktemp("study"), seeds=1, names=["shared"])


@pytest.fixture(scope="module")
def tasks() -> Mapping[str, Task]:
    parsed = plait.tasks.parse({
        "semantic": {"kind": "semantic", "classes": 20}, "depth": {"kind": "depth"},
    })  # fmt: skip
    return {task.name: task for task in parsed}


def decoded(uri: str) -> Pixels:
    file = io.BytesIO(base64.b64decode(uri.removeprefix("data:image/webp;base64,")))
    return np.asarray(Image.open(file).convert("RGB"))


def test_all_arms_are_shown_on_the_same_images_with_every_task(study: StudyResults) -> None:
    found = gallery.draw(study, images=2)
    assert [each.why for each in found.shown] == [
        "evenly spread", "evenly spread",
        *(f"{which} for {task}" for task in study.tasks for which in ("worst", "best")),
    ]  # fmt: skip
    for each in found.shown[:2]:
        assert each.tasks == tuple(study.tasks)
        for task in study.tasks:
            assert list(each.row.predictions[task]) == ["single-task", "shared"]
            assert all(p.error is not None and p.score for p in each.row.predictions[task].values())
        assert set(each.row.targets) == set(study.tasks)
    assert all(each.tasks == (each.why.split()[-1],) for each in found.shown[2:])
    assert "the 5 of the test split" in found.notes[0]


def test_the_extremes_are_those_of_the_mean_over_arms(study: StudyResults) -> None:
    found = gallery.draw(study, images=0)
    shown = {each.why: each.row.id for each in found.shown}
    arm = study.arm("shared")
    dataset = whole_dataset(list(arm.seeds[0].runs), "test")
    for name, task in study.tasks.items():
        means: dict[str, float] = {}
        for place in range(len(dataset)):
            values = []
            for one in study.arms:
                run = one.seeds[0].run_of(name)
                row = next(
                    iter(
                        gallery.rows(dataset, [place], {"": [run.model()]}, evaluation=run.recipe.evaluation)
                    )
                )
                text = row.predictions[name][""].score
                values.append(float(text.removeprefix(task.headline.title).strip(" %m°")))
            means[dataset.id(place)] = sum(values) / len(values)
        worst, best = (means[shown[f"{which} for {name}"]] for which in ("worst", "best"))
        ends = min(means.values()), max(means.values())
        assert (worst, best) == pytest.approx(ends if task.headline.higher_is_better else ends[::-1])


def test_a_run_without_statistics_of_images_is_looked_at_again(
    study: StudyResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = study.arms
    dataset = whole_dataset([run for arm in arms for run in arm.runs], "test")
    kept = gallery.extremes(study, arms, dataset, "cpu")
    (arms[1].seeds[0].runs[0].path / "images.safetensors").unlink()
    assert gallery.extremes(study, arms, dataset, "cpu") == kept
    monkeypatch.setattr(gallery, "LOOKED_AT", 2)
    some, among = gallery.extremes(study, arms, dataset, "cpu")
    assert among == 2
    assert {choice.place for choice in some} <= {1, 3}


@pytest.mark.parametrize("name", ["semantic", "depth"])
def test_worst_and_best_go_by_the_measure_s_direction_over_images_that_all_have(
    tasks: Mapping[str, Task], name: str
) -> None:
    values = np.array([[0.9, 0.1, 0.5, np.nan], [0.7, 0.2, 0.5, 5.0]])
    worst, best = gallery.worst_and_best(tasks[name], values)
    higher = tasks[name].headline.higher_is_better
    assert (worst.place, best.place) == ((1, 0) if higher else (0, 1))
    assert list(gallery.worst_and_best(tasks[name], values[:, 3:])) == []


def noise(height: int, width: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def made_up_gallery(tasks: Mapping[str, Task], arms: int, size: tuple[int, int]) -> gallery.Gallery:
    """Pictures of noise, which nothing makes small."""
    predicted = {
        task: {f"arm {n}": Prediction(noise(*size, n), noise(*size, n + 1), "1") for n in range(arms)}
        for task in tasks
    }
    row = Row("a <room>", noise(*size, 0), {task: noise(*size, 1) for task in tasks}, predicted)
    shown = gallery.Shown(row=row, why="evenly spread", tasks=tuple(tasks))
    return gallery.Gallery(shown=(shown,), tasks=tasks, notes=())


def test_pictures_are_made_smaller_until_they_fit(
    tasks: Mapping[str, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_up_gallery(tasks, 3, (192, 256))
    monkeypatch.setattr(gallery, "BYTES", 600_000)
    (image,) = gallery.shown(made)
    assert sum(map(len, gallery.addresses(image))) <= 600_000
    assert gallery.SMALLEST <= image["picture"]["width"] < 256
    assert image["picture"]["width"] / image["picture"]["height"] == pytest.approx(4 / 3, rel=0.02)


def test_named_colours_stay_exact_when_a_picture_is_made_smaller(tasks: Mapping[str, Task]) -> None:
    label = torch.randint(0, 20, (1, 90, 400), generator=torch.Generator().manual_seed(0))
    pixels = tasks["semantic"].picture(label)
    found = decoded(gallery.picture(pixels, tasks["semantic"].legend, 100, "")["image"])
    assert max(found.shape) == 100
    known = {tuple(colour) for colour in pixels.reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in found.reshape(-1, 3).tolist()} <= known


def test_what_is_shown_says_what_it_is(tasks: Mapping[str, Task]) -> None:
    (image,) = gallery.shown(made_up_gallery(tasks, 2, (24, 32)))
    assert image["id"] == "a <room>"
    for task in image["tasks"]:
        assert [cell["title"] for cell in task["cells"]] == ["label", "arm 0", "arm 1"]
        alts: list[Any] = [
            found["alt"] for cell in task["cells"] for found in (cell["picture"], cell["error"]) if found
        ]
        assert len(set(alts)) == 5
        assert all(task["name"] in alt and "a <room>" in alt for alt in alts)


def test_a_study_without_a_finished_arm_has_no_pictures(tmp_path: Path, study: StudyResults) -> None:
    bare = replace(study, arms=tuple(replace(arm, seeds=()) for arm in study.arms))
    found = gallery.draw(bare)
    assert (found.shown, found.notes) == ((), ("No arm has finished.",))
