"""DTP: the focal weight of a performance, its running mean, and who has none."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.balancing.on_losses import shuffled, unknowing
from tests.balancing.tiny import tiny_tasks
from torch import Tensor

from plait.balancing.dtp import DTP, dtp_weights
from plait.errors import ConfigurationError
from plait.tasks import parse

NAN = math.nan
KPIS = {"a": "accuracy", "b": "iou", "c": "share"}
performances = st.lists(st.floats(0.02, 0.98), min_size=1, max_size=8).map(
    lambda values: torch.tensor(values, dtype=torch.float64)
)


def scores(**values: float) -> dict[str, dict[str, float]]:
    return {task: {KPIS[task]: value, "other": 7.0} for task, value in values.items()}


def weights_of(balancer: DTP, places: tuple[int, ...] = (0, 1, 2)) -> Tensor:
    return balancer.weights(unknowing(places, 3))


def abc(**options: float) -> DTP:
    return DTP(tasks=list("abc"), kpis=KPIS, **options)


@given(performances, st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]))
def test_weights_are_the_focal_loss_of_the_performance(kpi: Tensor, gamma: float) -> None:
    expected = [-((1 - k) ** gamma) * math.log(k) for k in kpi.tolist()]
    assert dtp_weights(kpi, gamma=gamma).tolist() == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(
        dtp_weights(kpi.float(), gamma=gamma).double(), dtp_weights(kpi, gamma=gamma), rtol=1e-4, atol=1e-7
    )


@given(performances, st.integers(0, 100))
def test_harder_tasks_have_larger_weights_in_any_order(kpi: Tensor, seed: int) -> None:
    harder = kpi.sort().values
    assert (dtp_weights(harder).diff() <= 0).all()
    order = shuffled(len(kpi), seed)
    torch.testing.assert_close(dtp_weights(kpi[order]), dtp_weights(kpi)[order])


def test_the_ends_are_clamped() -> None:
    weights = dtp_weights(torch.tensor([0.0, 0.01, 0.99, 1.0]))
    assert weights.isfinite().all()
    assert (weights > 0).all()
    assert weights[0] == weights[1]
    assert weights[2] == weights[3]
    assert float(dtp_weights(torch.tensor([0.0]), gamma=1, margin=0.1)) == pytest.approx(-0.9 * math.log(0.1))


def test_before_the_first_evaluation_weights_are_equal() -> None:
    assert weights_of(abc()).tolist() == [1, 1, 1]
    rows = torch.eye(3, 4)
    torch.testing.assert_close(abc().direction(rows), rows.sum(0))


def test_performance_is_a_running_mean() -> None:
    balancer = abc(smoothing=0.25, gamma=1.0)
    balancer.see_scores(scores(a=0.2, b=0.5, c=0.9))
    torch.testing.assert_close(balancer.performance, torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64))
    balancer.see_scores(scores(a=0.6, b=NAN))
    expected = torch.tensor([0.3, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(balancer.performance, expected)
    torch.testing.assert_close(weights_of(balancer), dtp_weights(expected, gamma=1.0))
    torch.testing.assert_close(weights_of(balancer, (0, 2)), dtp_weights(expected[[0, 2]], gamma=1.0))


def test_who_has_no_performance_has_the_mean_weight() -> None:
    balancer = abc()
    balancer.see_scores(scores(a=0.2, c=0.9))
    weights = weights_of(balancer)
    assert float(weights[1]) == pytest.approx(float(weights[0] + weights[2]) / 2)
    assert weights_of(balancer, (1,)).tolist() == [1]


def test_tasks_say_their_own_measure() -> None:
    tasks = tiny_tasks()
    balancer = DTP(tasks=tasks, kpis={"normals": "within_30"})
    balancer.see_scores(
        {
            "semseg": {"miou": 0.3, "pixel_accuracy": 0.9},
            "depth": {"rmse": 3.0, "delta1": 0.8},
            "normals": {"within_11_25": 0.1, "within_30": 0.5},
        }
    )
    torch.testing.assert_close(balancer.performance, torch.tensor([0.3, 0.8, 0.5], dtype=torch.float64))


def test_what_is_reported_is_a_share_and_not_a_percentage() -> None:
    """The metrics themselves, on random maps: each kind's kpi is in [0, 1]."""
    declared = {"semantic": {"classes": 3}, "depth": {}, "normals": {}, "edges": {}, "saliency": {}}
    tasks = parse({kind: {"kind": kind, **options} for kind, options in declared.items()})
    generator = torch.Generator().manual_seed(0)
    found = {}
    for task in tasks:
        target = torch.rand(2, task.label_type.channels, 6, 6, generator=generator) + 0.1
        if task.kind == "semantic":
            target = (target * 2).long()
        elif task.kind == "normals":
            target = torch.nn.functional.normalize(target, dim=1)
        elif task.kind in ("edges", "saliency"):
            target = (target > 0.5).float()
        metric = task.metric()
        metric.update(task.decode(torch.rand(2, task.channels, 6, 6, generator=generator)), target)
        found[task.name] = metric.compute()
    balancer = DTP(tasks=tasks)
    balancer.see_scores(found)
    assert ((balancer.performance >= 0) & (balancer.performance <= 1)).all()


def test_auxiliary_tasks_are_not_scored() -> None:
    tasks = parse({"depth": {"kind": "depth"}, "normals": {"kind": "normals", "auxiliary": True}})
    balancer = DTP(tasks=tasks)
    balancer.see_scores({"depth": {"delta1": 0.5}})
    weights = balancer.weights(unknowing((0, 1), 2))
    assert weights.tolist() == pytest.approx([0.25 * math.log(2)] * 2)


def test_training_goes_on_where_it_was() -> None:
    whole, resumed = abc(), abc()
    whole.see_scores(scores(a=0.2, b=0.5))
    resumed.load_state_dict(whole.state_dict())
    for balancer in (whole, resumed):
        balancer.see_scores(scores(a=0.4, b=0.7, c=0.1))
    assert torch.equal(weights_of(resumed), weights_of(whole))


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ConfigurationError, match=r"pass tasks="):
        DTP()
    with pytest.raises(ConfigurationError, match=r"how well 'b' is done: name its measure.*kpis=.'b'"):
        DTP(tasks=["a", "b"], kpis={"a": "iou"})
    with pytest.raises(ConfigurationError, match=r"a kpi is given for 'd'; the tasks are a, b, c"):
        DTP(tasks=list("abc"), kpis={**KPIS, "d": "iou"})
    with pytest.raises(ConfigurationError, match=r"got 2.0, 0.0 and 0.01"):
        abc(smoothing=0.0)
    with pytest.raises(ConfigurationError, match=r"kpi of 'a' is 'accuracy', but it was scored by rmse"):
        abc().see_scores({"a": {"rmse": 0.1}})
    with pytest.raises(ConfigurationError, match=r"must be in \[0, 1\], got accuracy = 45.0"):
        abc().see_scores(scores(a=45.0))
