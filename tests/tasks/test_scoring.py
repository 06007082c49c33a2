"""Protocols: one choice that decides the measures of every task."""

import dataclasses
from typing import Any, get_args

import pytest
import torch

from plait import config
from plait.errors import ConfigurationError
from plait.metrics import PROTOCOLS, BoundaryF, MeanIoU
from plait.registry import TASKS
from plait.tasks import Task, parse

HEADLINES = {
    "plain": {"semantic": "miou", "depth": "rmse", "normals": "mean", "edges": "ods", "saliency": "miou"},
    "survey": {"semantic": "miou", "depth": "rmse", "normals": "mean", "edges": "ods", "saliency": "miou"},
    "invpt": {
        "semantic": "miou",
        "depth": "rmse",
        "normals": "mean",
        "edges": "ods",
        "saliency": "max_f_pooled_second_sigmoid",
    },
    "mtan": {"semantic": "miou", "depth": "abs_err", "normals": "mean", "inverse_depth": "abs_err"},
}


def made(kind: str, **options: Any) -> Task:
    options = {"classes": 7, **options} if kind == "semantic" else options
    (task,) = parse({"mine": {"kind": kind, **options}})
    return task


def metric_of(kind: str, protocol: str, measuring: dict[str, Any] | None = None, **options: Any) -> Any:
    return made(kind, **options).scored(protocol, measuring).metric()


def test_a_recipe_can_choose_every_protocol() -> None:
    assert get_args(config.Protocol) == tuple(PROTOCOLS)
    assert config.Evaluation().protocol == "plain"
    with pytest.raises(ConfigurationError, match=r"evaluation\.protocol must be plain or survey or"):
        config.parse({"evaluation": {"protocol": "ours"}})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_headline_of_each_kind_is_the_protocol_s(protocol: str) -> None:
    for kind, name in HEADLINES[protocol].items():
        headline = made(kind).scored(protocol).headline
        assert (headline.name, headline.protocol) == (name, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_kind_that_a_protocol_does_not_score_keeps_plain_measures_and_says_so(protocol: str) -> None:
    for kind in set(TASKS) - set(HEADLINES[protocol]):
        task = made(kind)
        assert task.scored(protocol).measures == task.measures
        assert {measure.protocol for measure in task.scored(protocol).measures} == {"plain"}


def test_a_task_of_one_s_own_without_scoring_is_scored_as_it_says() -> None:
    task = dataclasses.replace(made("depth"), scoring={})
    assert task.scored("survey") is task


def test_a_protocol_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"unknown protocol 'surve' .did you mean 'survey'"):
        made("depth").scored("surve")


def test_different_numbers_have_different_names() -> None:
    found = {m.name for p in PROTOCOLS for m in made("saliency").scored(p).measures}
    assert found == {"miou", "max_f", "max_f_pooled", "max_f_pooled_second_sigmoid"}


@pytest.mark.parametrize(
    ("protocol", "absent", "skip_empty"),
    [
        ("plain", "skip", True),
        ("survey", "zero", "single_value"),
        ("invpt", "zero", True),
        ("mtan", "skip", True),
    ],
)
def test_human_parts_follow_each_code_s_rules(protocol: str, absent: str, skip_empty: object) -> None:
    metric = metric_of("semantic", protocol, skip_empty=True)
    assert isinstance(metric, MeanIoU)
    assert (metric.absent, metric.skip_empty) == (absent, skip_empty)
    assert metric_of("semantic", protocol).skip_empty is False


def test_how_absent_classes_count_is_an_option_of_plain_alone() -> None:
    assert metric_of("semantic", "plain", absent="present").absent == "present"
    assert metric_of("semantic", "survey", absent="present").absent == "zero"


def test_edges_take_their_distance_from_the_data_unless_the_task_says_it() -> None:
    data = {"max_distance": 0.011, "outline": True}
    for protocol in ("plain", "survey", "invpt"):
        metric = metric_of("edges", protocol, data)
        assert isinstance(metric, BoundaryF)
        assert metric.max_distance == 0.011
        assert metric.protocol.outline == (protocol == "invpt")
        assert metric_of("edges", protocol, {}).max_distance == 0.0075
        assert metric_of("edges", protocol, data, max_distance=0.02).max_distance == 0.02


def test_inverse_depth_of_zero_is_far_away_in_plain_and_unknown_in_mtan() -> None:
    prediction, target = torch.full((1, 1, 1, 4), 0.5), torch.tensor([[[[0.0, 0.0, 0.5, 1.0]]]])
    for protocol, error in (("plain", 1.5 / 4), ("mtan", 0.5 / 2)):
        metric = metric_of("inverse_depth", protocol)
        metric.update(prediction, target)
        assert metric.compute()["abs_err"] == error


QUANTISED = {
    ("saliency", "plain"): False,
    ("saliency", "survey"): True,
    ("saliency", "invpt"): False,
    ("edges", "plain"): False,
    ("edges", "survey"): True,
}


@pytest.mark.parametrize(("kind", "protocol"), QUANTISED)
def test_only_a_named_protocol_quantises(kind: str, protocol: str) -> None:
    """0.9001 and 0.8999 lie on two sides of a threshold, and are both 229 in 8 bits."""
    prediction, target = torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 9, 9)
    prediction[..., 2, 2], prediction[..., 6, 6] = 0.9001, 0.8999
    target[..., 2, 2] = 1
    metric = metric_of(kind, protocol)
    metric.update(prediction, target)
    name = {"edges": "ods", "saliency": "max_f_pooled" if protocol == "invpt" else "max_f"}[kind]
    assert (metric.compute()[name] < 0.999) == QUANTISED[kind, protocol]


def test_edges_by_invpt_s_protocol_are_quantised_too() -> None:
    stroke = torch.zeros(1, 1, 32, 32)
    stroke[..., 12:20, 16] = 0.5
    noise = 0.5 / 255 * torch.rand(stroke.shape, generator=torch.Generator().manual_seed(0)) * (stroke > 0)
    found = []
    for prediction in (stroke + noise, (stroke + noise).mul(255).to(torch.uint8)):
        metric = metric_of("edges", "invpt")
        metric.update(prediction, (stroke > 0).float())
        found.append(metric.counts)
    assert torch.equal(*found)


def test_normals_are_quantised_by_the_survey_s_protocol_alone() -> None:
    vectors = torch.nn.functional.normalize(
        torch.randn(1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    )
    for protocol in PROTOCOLS:
        metric = metric_of("normals", protocol)
        metric.update(vectors, vectors)
        assert (metric.compute()["mean"] > 0.01) == (protocol == "survey")
