"""What balancing rules ask of a task: whose negative logarithm its loss is, and how well it is done."""

import dataclasses

import pytest

from plait.errors import ConfigurationError
from plait.tasks import Task, parse

KINDS = {
    "semantic": ({"classes": 3}, "classification", "miou"),
    "depth": ({}, "laplace", "delta1"),
    "normals": ({}, "laplace", "within_11_25"),
    "inverse_depth": ({}, "laplace", None),
    "edges": ({}, "classification", "ods"),
    "saliency": ({}, "classification", "miou"),
}


def made(kind: str, **options: object) -> Task:
    (task,) = parse({"mine": {"kind": kind, **options}})
    return task


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_says_its_likelihood_and_its_performance(kind: str) -> None:
    options, likelihood, kpi = KINDS[kind]
    task = made(kind, **options)
    assert (task.likelihood, task.kpi) == (likelihood, kpi)


@pytest.mark.parametrize(
    ("loss", "likelihood"),
    [
        ("silog", "gaussian"),
        ({"silog": 2.0, "l1": 0.0}, "gaussian"),
        ({"silog": 1.0, "l1": 1.0}, "laplace"),
        ({"l1": 1.0, "sobel": 1.0}, "laplace"),
        ("berhu", "laplace"),
    ],
)
def test_depth_is_gaussian_if_its_error_is_squared(loss: object, likelihood: str) -> None:
    assert made("depth", loss=loss).likelihood == likelihood


def test_a_task_of_one_s_own_is_checked() -> None:
    task = made("depth")
    with pytest.raises(ConfigurationError, match="one of gaussian, laplace, classification, got 'l1'"):
        dataclasses.replace(task, likelihood="l1")  # type: ignore[arg-type]
    for measure in ("rmse", "delta4"):
        with pytest.raises(ConfigurationError, match=rf"\(delta1, delta2, delta3\), got '{measure}'"):
            dataclasses.replace(task, kpi=measure)
    assert dataclasses.replace(task, kpi=None).kpi is None
