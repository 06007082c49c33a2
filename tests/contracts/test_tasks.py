"""What every kind of task promises, checked over the whole list of kinds."""

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from plait.metrics import PROTOCOLS
from plait.models.predictions import Predictions
from plait.registry import TASKS
from plait.tasks import Task, losses, parse

DECLARED = {
    "semantic": {"classes": ["floor", "wall", "chair", "lamp"]},
    "depth": {},
    "inverse_depth": {},
    "normals": {},
    "edges": {},
    "saliency": {},
}


@pytest.fixture(params=list(TASKS))
def task(request: pytest.FixtureRequest) -> Task:
    (made,) = parse({"mine": {"kind": request.param, **DECLARED[request.param]}})
    return made


@pytest.fixture(params=list(PROTOCOLS))
def scored_task(request: pytest.FixtureRequest, task: Task) -> Task:
    """Every kind under every protocol."""
    return task.scored(request.param)


def random_label(task: Task, images: int = 3, seed: int = 0) -> Tensor:
    """A batch of valid labels, some pixels unknown."""
    random = torch.Generator().manual_seed(seed)
    uniform = torch.rand(images, task.label_type.channels, 8, 10, generator=random)
    hidden = torch.rand(images, 1, 8, 10, generator=random) < 0.2
    if task.kind == "semantic":
        return (uniform * task.channels).long().masked_fill(hidden, 255)
    if task.kind == "normals":
        uniform = torch.nn.functional.normalize(uniform - 0.5, dim=1)
    elif task.kind == "depth":
        uniform = uniform * 6 + 0.3
    elif task.kind == "inverse_depth":
        uniform = uniform / 2 + 0.01
    else:
        uniform = (uniform > 0.7).float()
    return uniform.masked_fill(hidden, torch.nan)


def random_logits(task: Task, images: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(images, task.channels, 8, 10, generator=torch.Generator().manual_seed(seed))


def scored(task: Task, decoded: Tensor, target: Tensor, sizes: list[int]) -> dict[str, float]:
    """The reported measures of maps that come in batches of these sizes."""
    metric = task.metric()
    for prediction, label in zip(decoded.split(sizes), target.split(sizes), strict=True):
        metric.update(prediction, label)
    computed = metric.compute()
    return {measure.name: computed[measure.name] for measure in task.measures}


def test_the_list_of_kinds_is_the_list_of_this_test() -> None:
    assert list(TASKS) == list(DECLARED)


def test_a_task_says_its_kind_label_and_direction(task: Task) -> None:
    assert task.name == "mine"
    assert task.kind in TASKS
    assert task.label == task.kind
    assert not task.auxiliary
    assert task.headline is task.measures[0]
    assert len({measure.name for measure in task.measures}) == len(task.measures)
    assert all(measure.unit in {"%", "m", "°", ""} for measure in task.measures)
    assert {measure.protocol for measure in task.measures} == {"plain"}


def test_a_protocol_changes_the_scoring_and_nothing_else(task: Task, scored_task: Task) -> None:
    assert scored_task.decide is task.decide
    assert scored_task.loss is task.loss
    headline = scored_task.headline
    assert headline.protocol == "plain" or task.scoring[headline.protocol].measures == scored_task.measures
    back = scored_task.scored("plain")
    assert (back.measures, back.kpi) == (task.measures, task.kpi)


def test_a_performance_is_a_reported_share(scored_task: Task) -> None:
    shares = {m.name for m in scored_task.measures if m.unit == "%" and m.higher_is_better}
    assert scored_task.kpi is None or scored_task.kpi in shares


def test_a_task_survives_pickling(scored_task: Task) -> None:
    task = scored_task
    again: Task = pickle.loads(pickle.dumps(task))
    logits, target = random_logits(task), random_label(task)
    assert torch.equal(again.loss(logits, target), task.loss(logits, target))
    assert again.measures == task.measures
    assert again.scored("survey").measures == task.scored("survey").measures


def test_decoding_gives_units(task: Task) -> None:
    decoded = task.decode(random_logits(task).bfloat16())
    assert decoded.shape == (3, task.label_type.channels, 8, 10)
    assert decoded.dtype == (torch.int64 if task.kind == "semantic" else torch.float32)
    activated = task.activate(random_logits(task))
    assert activated.shape == (3, task.channels, 8, 10)
    # Averaging activated maps (flips, scales) gives something that can be decided again.
    assert task.decide((activated + task.activate(random_logits(task, seed=5))) / 2).shape == decoded.shape


def test_flipping_twice_changes_nothing(task: Task) -> None:
    activated = task.activate(random_logits(task))
    assert torch.equal(task.flip(task.flip(activated)), activated)


def test_loss_falls_along_its_gradient(task: Task) -> None:
    logits, target = random_logits(task).requires_grad_(), random_label(task)
    loss = task.loss(logits, target)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss > 0
    assert task.loss(logits - 1e-2 * gradient, target) < loss


def test_counts_are_zero_exactly_when_nothing_is_known(task: Task) -> None:
    unknown = task.label_type.unknown_like(8, 10).expand(2, -1, -1, -1)
    counts = task.loss.counts(random_label(task))
    assert counts.dtype == torch.float64
    assert counts.ndim == 1
    assert counts.any()
    assert not task.loss.counts(unknown).any()


def test_an_absent_task_has_zero_loss_and_zero_gradient(task: Task) -> None:
    logits = random_logits(task, 2).requires_grad_()
    unknown = task.label_type.unknown_like(8, 10).expand(2, -1, -1, -1)
    result = losses([task], Predictions({"mine": logits}), {"mine": unknown})["mine"]
    (gradient,) = torch.autograd.grad(result, logits)
    assert result == 0
    assert not gradient.any()


def test_the_metric_reports_the_measures(scored_task: Task) -> None:
    task = scored_task
    scores = scored(task, task.decode(random_logits(task)), random_label(task), [3])
    assert all(isinstance(value, float) and np.isfinite(value) for value in scores.values())
    assert isinstance(task.metric(), Metric)


def test_a_perfect_prediction_beats_a_random_one(scored_task: Task) -> None:
    task = scored_task
    target = random_label(task)
    perfect = target if task.kind == "semantic" else target.nan_to_num(0.0)
    best = scored(task, perfect, target, [3])[task.headline.name]
    other = scored(task, task.decode(random_logits(task)), target, [3])[task.headline.name]
    assert (best > other) == task.headline.higher_is_better
    if (task.kind, task.headline.protocol) == ("normals", "survey"):
        assert best < 0.6, "8 bits lose up to two steps of 255 a component"
    elif (task.kind, task.headline.protocol) != ("edges", "invpt"):  # which fades the image's border
        assert best == pytest.approx(1.0 if task.headline.higher_is_better else 0.0, abs=1e-6)


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [3, 4], [6, 1]])
def test_batching_does_not_change_a_score(scored_task: Task, sizes: list[int]) -> None:
    task = scored_task
    decoded, target = task.decode(random_logits(task, 7)), random_label(task, 7)
    target[2] = task.label_type.unknown_like(8, 10)
    expected = scored(task, decoded, target, [2, 2, 3])
    assert scored(task, decoded, target, sizes) == pytest.approx(expected, rel=1e-12, abs=0)


def test_states_of_processes_add_up(scored_task: Task) -> None:
    """What torchmetrics does across processes: gather the states and reduce them by their own rule."""
    task = scored_task
    decoded, target = task.decode(random_logits(task, 4)), random_label(task, 4)
    whole, first, second = task.metric(), task.metric(), task.metric()
    whole.update(decoded, target)
    first.update(decoded[:1], target[:1])
    second.update(decoded[1:], target[1:])
    first.merge_state(second)
    assert first.compute() == pytest.approx(whole.compute(), rel=1e-12, abs=0)


def test_a_metric_without_known_pixels_says_so(scored_task: Task) -> None:
    task = scored_task
    unknown = task.label_type.unknown_like(8, 10).expand(3, -1, -1, -1)
    scores = scored(task, task.decode(random_logits(task)), unknown, [3])
    assert all(np.isnan(value) for value in scores.values())


def test_a_metric_can_be_reset(scored_task: Task) -> None:
    task = scored_task
    metric = task.metric()
    metric.update(task.decode(random_logits(task, seed=8)), random_label(task, seed=9))
    metric.reset()
    decoded, target = task.decode(random_logits(task)), random_label(task)
    metric.update(decoded, target)
    computed = metric.compute()
    assert {m.name: computed[m.name] for m in task.measures} == scored(task, decoded, target, [3])


def test_pictures_are_rgb_and_unknown_is_grey(task: Task) -> None:
    decoded, target = task.decode(random_logits(task))[0], random_label(task)[0]
    unknown = ~torch.as_tensor(task.label_type.known(target))[0].numpy()
    for drawn in (task.picture(decoded), task.picture(target), task.error(decoded, target)):
        assert drawn.dtype == np.uint8
        assert drawn.shape == (8, 10, 3)
    assert (task.picture(target)[unknown] == 128).all()
    assert (task.error(decoded, target)[unknown] == 128).all()
    assert task.legend.entries or task.legend.bar is not None


def test_the_constant_is_a_decoded_pixel(task: Task) -> None:
    labels = random_label(task)
    pixel = task.constant(list(labels))
    assert pixel.shape == (task.label_type.channels,)
    assert pixel.dtype == (torch.int64 if task.kind == "semantic" else torch.float32)
    everywhere = pixel[None, :, None, None].expand(3, -1, 8, 10)
    assert np.isfinite(scored(task, everywhere, labels, [3])[task.headline.name])


def test_a_decoded_value_has_a_meaning_and_perhaps_a_unit(task: Task) -> None:
    assert task.meaning
    assert not task.meaning.endswith(".")
    assert task.unit in {"", "m"}
    assert (task.unit == "m") == (task.kind == "depth")


def test_classes_are_named_by_id(task: Task) -> None:
    assert len(task.classes) == (task.channels if task.kind == "semantic" else 0)
    colours = dict(task.legend.entries)
    for number, name in enumerate(task.classes):
        drawn = task.picture(torch.full((1, 1, 1), number))[0, 0]
        assert tuple(drawn.tolist()) == colours[name]
        assert task.told(torch.tensor([number])) == name


def test_every_decoded_pixel_can_be_told(task: Task) -> None:
    decoded = task.decode(3 * random_logits(task))[0]
    told = {task.told(pixel) for pixel in decoded.flatten(1).T}
    assert all(told)
    assert all(task.unit in text for text in told)
    unknown = task.label_type.unknown_like(1, 1)[:, 0, 0]
    assert task.told(unknown) == "unknown"


def test_a_step_covers_what_the_picture_shows(task: Task) -> None:
    """Sixteen bits hold the range of the colours, and finer than the eye tells them apart."""
    assert (task.step is not None) == (task.channels == 1)
    if task.step is None:
        assert not task.zero_is_unknown
        return
    full = 65535 * task.step
    at = torch.linspace(0, full * (1 - 1e-6), 4096)[None, None]
    colours = task.picture(at)[0]
    beyond = task.picture(at.new_full((1, 1, 1), 100 * full))[0, 0]
    assert (colours[-1] == beyond).all(), "the high end of the bar is within the picture"
    assert len(np.unique(colours, axis=0)) > 100, "and the bar is resolved"


def test_what_predictions_say_survives_pickling(task: Task) -> None:
    again: Task = pickle.loads(pickle.dumps(task))
    for field in ("unit", "meaning", "classes", "step", "zero_is_unknown"):
        assert getattr(again, field) == getattr(task, field)
    pixel = task.decode(random_logits(task))[0, :, 0, 0]
    assert again.told(pixel) == task.told(pixel)


@pytest.mark.parametrize("far", [0.5, 8.0, 60.0, 61.0, 200.0])
def test_the_step_of_depth_suits_its_range(far: float) -> None:
    (depth,) = parse({"depth": {"kind": "depth", "far": far}})
    assert depth.step is not None
    assert 65535 * depth.step >= far
