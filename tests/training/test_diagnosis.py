"""What gradients say: exact small cases, the truth about a step, and that training does not feel it."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.balancing.tiny import TASKS, part, tiny_batch, tiny_network, tiny_tasks
from tests.processes import run_both
from torch import Tensor

import plait
import plait.balancing
from plait.config import Recipe
from plait.data.sample import Batch
from plait.errors import ConfigurationError
from plait.models.network import MultiTaskNetwork
from plait.testing import tiny_backbone
from plait.training.checkpoint import read_tensors
from plait.training.diagnosis import (
    Measurement,
    condition_number,
    conflicts,
    cosines,
    effective_weights,
    explained,
    magnitude_similarity,
    norms,
    numbers,
    shares,
    stages_of,
    update_cosines,
)
from plait.training.fit import train
from plait.training.logs import read_log
from plait.training.step import StepReport, training_step

MakeRecipe = Callable[..., Recipe]
Array = np.ndarray[Any, Any]


# Functions of a Gramian.


def test_orthogonal_gradients() -> None:
    gramian = np.diag([4.0, 9.0])
    assert norms(gramian).tolist() == [2, 3]
    assert np.array_equal(cosines(gramian), np.eye(2))
    assert conflicts(cosines(gramian)) == 0
    assert magnitude_similarity(gramian)[0, 1] == pytest.approx(12 / 13)
    assert condition_number(gramian) == 1.5


@pytest.mark.parametrize("sign", [1, -1])
def test_parallel_and_opposite_gradients(sign: int) -> None:
    jacobian = np.array([[3.0, 4.0], [sign * 3.0, sign * 4.0]])
    gramian = jacobian @ jacobian.T
    assert cosines(gramian)[0, 1] == pytest.approx(sign)
    assert conflicts(cosines(gramian)) == (sign < 0)
    assert magnitude_similarity(gramian)[0, 1] == 1
    assert condition_number(gramian) == math.inf
    update = jacobian[0]  # of the weights that make it, the smallest
    assert effective_weights(gramian, jacobian @ update) == pytest.approx([0.5, sign * 0.5])


def test_a_gradient_that_is_zero_has_a_length_and_no_direction() -> None:
    gramian = np.diag([4.0, 0.0])
    found = numbers(gramian, np.ones((2, 2), dtype=bool), ["a", "b"], update=(np.array([8.0, 0.0]), 16.0))
    assert found == {
        "norm": {"a": 2, "b": 0},
        "cosine": {"a": {"b": None}},
        "conflicts": None,
        "similarity": {"a": {"b": 0}},
        "condition": None,
        "update": {"a": 1, "b": None},
        "effective": {"a": 2, "b": 0},
        "share": {"a": 1, "b": 0},
        "explained": 1,
    }


def test_one_task() -> None:
    found = numbers(np.array([[4.0]]), np.ones((1, 1), dtype=bool), ["a"], moved=(np.array([-2.0]), 4.0))
    assert found == {
        "norm": {"a": 2}, "cosine": {}, "conflicts": None, "similarity": {}, "condition": 1,
        "moved": {"a": -0.5},
    }  # fmt: skip


def test_what_is_not_shared_or_not_there_has_no_number() -> None:
    """Tasks a and b share something, c shares with a only, d is absent."""
    shared = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]], dtype=bool)
    gramian = np.diag([1.0, 4.0, 9.0, 0.0])
    gramian[0, 1] = gramian[1, 0] = -1
    found = numbers(gramian, shared, list("abcd"), update=(np.zeros(4), 0.0))
    assert found["cosine"] == {
        "a": {"b": -0.5, "c": 0, "d": None}, "b": {"c": None, "d": None}, "c": {"d": None},
    }  # fmt: skip
    assert found["conflicts"] == 0.5
    assert found["norm"] == {"a": 1, "b": 2, "c": 3, "d": None}
    assert found["effective"] == {"a": 0, "b": 0, "c": 0, "d": None}
    assert found["update"] == found["share"] == dict.fromkeys("abcd")
    assert found["explained"] is None
    json.dumps(found, allow_nan=False)


def test_a_gradient_that_is_not_finite_has_no_number_and_the_others_have() -> None:
    gramian = np.array([[1.0, math.nan, 0.0], [math.nan, math.inf, math.nan], [0.0, math.nan, 4.0]])
    products = np.array([3.0, math.nan, 4.0])
    found = numbers(gramian, np.ones((3, 3), dtype=bool), list("abc"), update=(products, 13.0))
    json.dumps(found, allow_nan=False)
    assert found["norm"] == {"a": 1, "b": None, "c": 2}
    assert found["effective"] == {"a": 3, "b": None, "c": 1}
    assert found["cosine"] == {"a": {"b": None, "c": 0}, "b": {"c": None}}
    assert found["condition"] == 2
    assert found["explained"] == 1
    broken = numbers(gramian, np.ones((3, 3), dtype=bool), list("abc"), update=(products, math.nan))
    assert broken["update"] == dict.fromkeys("abc")
    assert broken["explained"] is None


jacobians = st.tuples(st.integers(1, 6), st.integers(0, 10**6), st.floats(0, 4)).map(
    lambda drawn: (
        np.random.default_rng(drawn[1]).normal(size=(drawn[0], 24))
        * np.logspace(0, drawn[2], drawn[0])[:, None]
    )
)


@settings(max_examples=60)
@given(jacobians, st.integers(0, 10**6))
def test_weights_that_made_an_update_are_found_again(jacobian: Array, seed: int) -> None:
    """For norms up to 1e4 apart; and what is orthogonal to all gradients changes nothing but the rest."""
    generator = np.random.default_rng(seed)
    weights = generator.normal(size=len(jacobian))
    update = weights @ jacobian
    gramian = jacobian @ jacobian.T
    assert effective_weights(gramian, jacobian @ update) == pytest.approx(weights, rel=1e-6, abs=1e-9)
    assert explained(weights, jacobian @ update, float(update @ update)) == pytest.approx(1)
    beside = generator.normal(size=24)
    beside -= np.linalg.pinv(jacobian) @ (jacobian @ beside)
    longer = update + beside
    found = effective_weights(gramian, jacobian @ longer)
    assert found == pytest.approx(weights, rel=1e-5, abs=1e-8)
    part = update @ update / (longer @ longer)
    assert explained(found, jacobian @ longer, float(longer @ longer)) == pytest.approx(part)


@settings(max_examples=60)
@given(jacobians)
def test_each_number_is_its_definition(jacobian: Array) -> None:
    gramian, length = jacobian @ jacobian.T, np.linalg.norm(jacobian, axis=1)
    unit = jacobian / length[:, None]
    update = jacobian.mean(0)
    assert norms(gramian) == pytest.approx(length)
    assert cosines(gramian) == pytest.approx(unit @ unit.T, abs=1e-12)
    assert condition_number(gramian) == pytest.approx(np.linalg.cond(jacobian), rel=1e-5)
    upper = [(i, j) for i in range(len(unit)) for j in range(i)]
    if upper:
        assert conflicts(cosines(gramian)) == np.mean([unit[i] @ unit[j] < 0 for i, j in upper])
    cosine = unit @ update / np.linalg.norm(update)
    assert update_cosines(gramian, jacobian @ update, update @ update) == pytest.approx(cosine)
    share = shares(np.ones(len(jacobian)), gramian)
    assert share == pytest.approx(length / length.sum())


# Which parameters.


def network(encoder: str = "shared", tasks: int = 3, **options: Any) -> MultiTaskNetwork:
    torch.manual_seed(0)
    kinds = {"depth": {"kind": "depth"}, "normals": {"kind": "normals"}, "saliency": {"kind": "saliency"}}
    return plait.create_model(
        backbone=options.pop("backbone", "test_resnet"),
        tasks=dict(list(kinds.items())[:tasks]),
        encoder=encoder,
        encoder_options=options,
        decoder_options={"head": "linear"},
    )


STAGES = ["stem", "stage 1", "stage 2", "stage 3", "stage 4"]


@pytest.mark.parametrize(
    ("encoder", "options", "expected"),
    [
        ("shared", {}, STAGES),
        ("branched", {"tree": ["depth normals saliency", "depth normals | saliency"]}, STAGES),
        ("branched", {"tree": ["depth normals saliency"] * 2 + ["depth | normals | saliency"]}, STAGES[:2]),
        ("astmt", {}, STAGES),
        ("cross_stitch", {}, [*STAGES, "units.0", "units.1", "units.2"]),
        ("mtan", {"backbone": tiny_backbone}, [*STAGES, "refine.0", "refine.1", "refine.2"]),
    ],
)
def test_stages_hold_each_shared_parameter_once(
    encoder: str, options: dict[str, Any], expected: list[str]
) -> None:
    model = network(encoder, **options)
    stages = stages_of(model)
    assert list(stages) == expected
    shared = [
        p for users, listed in model.encoder.shared_parameters().items() if len(users) > 1 for p in listed
    ]
    found = [parameter for parameters in stages.values() for parameter in parameters]
    assert len(found) == len(set(found))
    assert set(found) == set(shared)


def test_other_families_and_other_encoders_have_stages_too() -> None:
    assert list(stages_of(network(backbone="test_vit"))) == [
        "stem",
        *(f"block {k}" for k in range(1, 7)),
        "neck",
    ]
    assert list(stages_of(tiny_network())) == ["stem", "branches"]


def test_frozen_parameters_are_left_out() -> None:
    model = network()
    (backbone,) = set(model.encoder.columns().values())
    backbone.stem.requires_grad_(False)
    assert list(stages_of(model)) == STAGES[1:]


@pytest.mark.parametrize(("encoder", "tasks"), [("separate", 2), ("shared", 1)])
def test_networks_that_share_nothing_are_refused_before_training(
    make_recipe: MakeRecipe, tmp_path: Path, encoder: str, tasks: int
) -> None:
    given = dict(list(make_recipe().tasks.items())[:tasks])
    recipe = make_recipe(**{"model.encoder": encoder, "tasks": given, "training.diagnose_every": 1})
    with pytest.raises(ConfigurationError, match="shares none that is trained: use encoder 'shared'"):
        train(recipe, tmp_path / "run", progress=False)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


# A measurement.


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers by dotted name; ``nan`` for None."""
    found: dict[str, float] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = math.nan if value is None else value
    return found


def near(tree: Mapping[str, Any], rel: float = 1e-5, abs: float = 1e-6) -> Any:  # noqa: A002
    """What numbers of the same names are held against, to six digits."""
    return pytest.approx(leaves(tree), rel=rel, abs=abs, nan_ok=True)


def step_and_numbers(
    balancer: str = "equal",
    *,
    batches: list[Batch] | None = None,
    clip_norm: float | None = None,
    lr: float = 0.1,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> tuple[MultiTaskNetwork, dict[str, Any], StepReport]:
    model = tiny_network(dtype=dtype)
    made = plait.balancing.create(balancer, tasks=tiny_tasks(), **options)
    given = batches or [tiny_batch(dtype=dtype)]
    measured = Measurement.take(model, given)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    report = training_step(model, given, made, optimizer, clip_norm=clip_norm)
    return model, measured.after(report, clip_norm=clip_norm), report


def gradients_by_hand(batch: Batch) -> dict[str, dict[str, Tensor]]:
    """Each task's gradient of each parameter of the encoder, by a network of its own."""
    found: dict[str, dict[str, Tensor]] = {}
    for task in TASKS:
        model = tiny_network()
        loss = plait.tasks.losses(model.tasks, model(batch.images), batch.targets)[task]
        loss.backward()  # type: ignore[no-untyped-call]
        found[task] = {n: p.grad for n, p in model.encoder.named_parameters() if p.grad is not None}
    return found


def test_the_numbers_are_those_of_gradients_taken_by_hand() -> None:
    """The first two tasks share a branch, all three the stem."""
    gradients = gradients_by_hand(tiny_batch())
    _, found, report = step_and_numbers()

    def flat(task: str, beginning: str) -> Tensor:
        return torch.cat([g.flatten() for n, g in gradients[task].items() if n.startswith(beginning)])

    assert list(found["stages"]) == ["stem", "branches"]
    stem, branch = found["stages"]["stem"], found["stages"]["branches"]
    for task in TASKS:
        assert stem["norm"][task] == pytest.approx(float(flat(task, "stem").norm()), rel=1e-5)
    one, other = flat("semseg", "stem"), flat("depth", "stem")
    assert stem["cosine"]["semseg"]["depth"] == pytest.approx(
        float(torch.cosine_similarity(one, other, 0)), rel=1e-5
    )
    assert branch["norm"]["depth"] == pytest.approx(float(flat("depth", "branches.first").norm()), rel=1e-5)
    assert branch["norm"]["normals"] is None
    assert branch["cosine"]["depth"]["normals"] is None
    everything = torch.cat([flat("depth", "stem"), flat("depth", "branches.first")])
    assert found["whole"]["norm"]["depth"] == pytest.approx(float(everything.norm()), rel=1e-5)
    assert found["loss"] == pytest.approx({t: float(v.detach()) for t, v in report.losses.items()}, rel=1e-5)


@pytest.mark.parametrize(
    ("balancer", "options", "weights"),
    [
        ("equal", {}, {"semseg": 1, "depth": 1, "normals": 1}),
        ("fixed", {"weights": {"semseg": 2, "depth": 0.25}}, {"semseg": 2, "depth": 0.25, "normals": 1}),
    ],
)
@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_effective_weights_are_what_the_balancer_did(
    balancer: str, options: Mapping[str, Any], weights: Mapping[str, float], clip_norm: float | None
) -> None:
    """Clipped or not; and a step of plain descent moves the parameters where the update points."""
    _, found, _ = step_and_numbers(balancer, clip_norm=clip_norm, **options)
    for place in (found["whole"], *found["stages"].values()):
        expected = {task: weights[task] if place["norm"][task] is not None else None for task in TASKS}
        assert leaves(place["effective"]) == near(expected, rel=1e-4)
        assert place["explained"] == pytest.approx(1, abs=1e-6)
        assert leaves(place["moved"]) == near(place["update"], abs=1e-5)
    assert found["weight"] == pytest.approx(weights)
    part = {task: weights[task] * found["whole"]["norm"][task] for task in TASKS}
    assert found["whole"]["share"] == pytest.approx(
        {task: value / sum(part.values()) for task, value in part.items()}, rel=1e-4
    )


SCOPES = [
    (name, scope)
    for name in ("mgda", "pcgrad", "nash_mtl", "upgrad", "gls", "gradnorm")
    for scope in ("parameters", "features", None)
    if (scope is None) == (name == "gls")
]


@pytest.mark.parametrize(("name", "scope"), SCOPES)
def test_the_weights_of_any_rule_are_found_in_its_update(name: str, scope: str | None) -> None:
    """Wherever it looks for them; at each stage too."""
    options: dict[str, Any] = {} if scope is None else {"scope": scope}
    _, found, report = step_and_numbers(name, **options)
    own = dict(zip(TASKS, report.weights.tolist(), strict=True))
    assert found["whole"]["effective"] == pytest.approx(own, rel=1e-4, abs=1e-5)
    assert leaves(found["stages"]["stem"]["effective"]) == near(own, rel=1e-4, abs=1e-5)
    assert found["whole"]["explained"] == pytest.approx(1, abs=1e-6)
    if (name, scope) in (("mgda", "parameters"), ("upgrad", "parameters")):
        assert min(found["whole"]["update"].values()) >= -1e-6


def test_a_rule_on_single_elements_is_not_a_weighted_sum() -> None:
    _, found, _ = step_and_numbers("graddrop", scope="parameters")
    assert found["whole"]["explained"] < 0.99


def test_a_penalty_is_no_task_s() -> None:
    batch, balancer = tiny_batch(), plait.balancing.create("equal", tasks=tiny_tasks())
    model = tiny_network(penalty=True)
    measured = Measurement.take(model, [batch])
    report = training_step(model, [batch], balancer, torch.optim.SGD(model.parameters(), lr=0.1))
    assert measured.after(report, clip_norm=None)["whole"]["explained"] < 0.999


def test_parts_of_a_batch_give_what_the_whole_gives() -> None:
    batch = tiny_batch(4)
    _, whole, _ = step_and_numbers(batches=[batch])
    _, split, _ = step_and_numbers(batches=[part(batch, [0]), part(batch, [1, 2, 3])])
    assert leaves(split) == near(whole, rel=1e-4, abs=1e-5)


def test_a_task_without_labels_has_no_number() -> None:
    batch = tiny_batch(4, absent={"depth": range(4)})
    _, found, _ = step_and_numbers(batches=[batch])
    numbers_of_depth = {name: value for name, value in leaves(found).items() if "depth" in name.split(".")}
    assert len(numbers_of_depth) > 10
    assert all(math.isnan(value) for value in numbers_of_depth.values())
    assert found["whole"]["effective"]["semseg"] == pytest.approx(1)


def test_nothing_is_changed_by_measuring() -> None:
    model, batch = network().train(), None
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    batch = Batch(
        images=images,
        targets={"depth": torch.rand(4, 1, 32, 32, generator=generator) + 1},
        present={task: torch.full((4,), task == "depth") for task in ("depth", "normals", "saliency")},
        ids=list("abcd"),
        geometry=[],
    )
    plait.tasks.losses(model.tasks, model(images), batch.targets)["depth"].backward()  # type: ignore[no-untyped-call]

    def everything() -> list[Tensor]:
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        return [t.clone() for t in (*model.state_dict().values(), *grads, torch.get_rng_state())]

    kept = everything()
    Measurement.take(model, [batch])
    assert len(kept) > 50
    assert all(torch.equal(a, b) for a, b in zip(everything(), kept, strict=True))
    assert model.training


@pytest.mark.parametrize(
    "changes",
    [
        {"model.backbone_options": {"drop_path_rate": 0.5}},
        {"training.accumulate": 2, "balancer": "mgda", "optimizer.name": "sgd", "training.precision": "bf16"},
        {"training.alternate_tasks": True, "training.affinity_every": 2},
    ],
)
def test_a_run_that_measures_ends_with_the_same_bits_as_one_that_does_not(
    make_recipe: MakeRecipe, tmp_path: Path, changes: dict[str, Any]
) -> None:
    train(make_recipe(**changes), tmp_path / "plain", progress=False)
    train(make_recipe(**changes, **{"training.diagnose_every": 2}), tmp_path / "measured", progress=False)
    for file in ("model", "training"):
        plain, other = (
            read_tensors(tmp_path / name / "checkpoints" / "last" / f"{file}.safetensors")
            for name in ("plain", "measured")
        )
        assert plain.keys() == other.keys()
        assert [key for key in plain if not torch.equal(plain[key], other[key])] == []
    lines = [row for row in read_log(tmp_path / "measured") if "gradients" in row]
    assert [line["step"] for line in lines] == [2, 4, 6]
    for line in lines:
        whole = line["gradients"]["whole"]
        assert all(value > 0 for value in whole["norm"].values())
        assert set(whole["moved"]) == {"semantic", "depth"}
        assert ("update" in whole) == ("training.alternate_tasks" not in changes)
        assert list(line["gradients"]["stages"]) == STAGES
    tables = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("plain", "measured")]
    assert tables[0][0] == tables[1][0]
    assert {line.count(",") for line in tables[1]} == {tables[0][0].count(",")}


def test_a_run_may_begin_to_measure_on_the_way(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """What decides neither weights nor scores may change when a run goes on."""

    def stop(step: int, steps: int, losses: Mapping[str, float]) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_recipe(), tmp_path / "run", progress=stop)
    train(make_recipe(**{"training.diagnose_every": 2}), tmp_path / "run", progress=False)
    measured = [row["step"] for row in read_log(tmp_path / "run") if "gradients" in row]
    assert measured == [4, 6]  # it went on from the checkpoint of step 2


# The journal.


def test_a_balancer_s_own_gramian_is_logged_without_a_measurement(
    make_recipe: MakeRecipe, tmp_path: Path
) -> None:
    run = train(make_recipe(balancer="mgda"), tmp_path / "mgda", progress=False)
    for row in run.log:
        if "loss" in row:
            assert all(value > 0 for value in row["gradient_norm"].values())
            assert row["conflicts"] in (0, 1)
    header = (run.path / "log.csv").read_text().splitlines()[0]
    assert ",gradient_norm.semantic,gradient_norm.depth,conflicts" in header
    plain = train(make_recipe(), tmp_path / "equal", progress=False)
    assert "conflicts" not in (plain.path / "log.csv").read_text()
    assert not any("gradient_norm" in row for row in plain.log)


# Several processes.

PROCESS = """
import sys, json, torch, torch.distributed as dist
from tests.balancing.tiny import part, tiny_batch
from tests.training.test_diagnosis import step_and_numbers
torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
batch = part(tiny_batch(8, absent={"depth": range(4, 8)}), range(4 * rank, 4 * rank + 4))
found = step_and_numbers("mgda", scope="parameters", batches=[batch], clip_norm=0.05)[1]
open(f"{folder}/{rank}.json", "w").write(json.dumps(found))
dist.destroy_process_group()
"""


def test_two_processes_measure_what_one_does_on_the_doubled_batch(tmp_path: Path) -> None:
    run_both(["-c", PROCESS], tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    batch = tiny_batch(8, absent={"depth": range(4, 8)})
    _, expected, _ = step_and_numbers("mgda", scope="parameters", batches=[batch], clip_norm=0.05)
    assert leaves(first) == near(expected)
