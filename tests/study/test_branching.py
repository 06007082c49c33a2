"""Trees found: against brute force, within the budget, always the same; and from runs to a trained tree."""

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import plait.study.branching.networks as networks
from plait.cli import main
from plait.config import Model, dump, load_recipe, parse
from plait.data.sample import DataSet
from plait.errors import ConfigurationError
from plait.models.backbones import create_backbone
from plait.models.encoders.trees import Tree
from plait.study.branching.branch import affinity, branch
from plait.study.branching.budget import Budget, part_costs
from plait.study.branching.drawing import HeatMap, tree_svg
from plait.study.branching.fafs import branch_affinity, fafs, separation, tree_separation
from plait.study.branching.partitions import Blocks, merged, partitions, singletons, spectral
from plait.study.branching.search import search
from plait.study.branching.tag import best_groups, group_score, groupings, mean_affinity
from plait.testing import write_tiny_rooms
from plait.training.fit import train
from plait.training.run import Run, load_run

Array = np.ndarray[Any, Any]

PARTS = [1, 1, 2, 4, 8]


def names(count: int) -> list[str]:
    return [f"t{place}" for place in range(count)]


def random_affinity(tasks: int, locations: int = 4, seed: int = 0) -> Array:
    found = np.random.default_rng(seed).uniform(-0.2, 1, (locations, tasks, tasks))
    found = (found + found.transpose(0, 2, 1)) / 2
    for location in found:
        np.fill_diagonal(location, 1)
    return found


def separable(groups: Sequence[Sequence[Blocks]] | Sequence[Blocks], tasks: int) -> Array:
    """Affinity 0.9 inside the groups of each location, 0.1 between them."""
    found = np.full((len(groups), tasks, tasks), 0.1)
    for location, blocks in zip(found, groups, strict=True):
        for block in blocks:
            location[np.ix_(block, block)] = 0.9
        np.fill_diagonal(location, 1)
    return found


def every_tree(tasks: int, stages: int) -> Iterator[Tree]:
    """All trees, from nothing but the definition."""
    lines = [
        " | ".join(" ".join(names(tasks)[place] for place in block) for block in blocks)
        for blocks in partitions(tasks)
    ]
    for chain in itertools.product(lines, repeat=stages):
        try:
            yield Tree.parse([chain[0], *chain], tasks=names(tasks), parts=1 + stages)
        except ConfigurationError:
            continue


def score_by_hand(tree: Tree, found: Array) -> float:
    total = 0.0
    for location, partition in zip(found, tree.partitions[1:], strict=True):
        worst = [
            max((1 - location[int(a[1:]), int(b[1:])] for a in group for b in group if a != b), default=0.0)
            for group in partition
        ]
        total += sum(worst) / len(worst)
    return total


# ----------------------------------------------------------------------------------------------- partitions


def test_there_are_bells_number_of_partitions() -> None:
    assert [len(partitions(count)) for count in range(1, 8)] == [1, 2, 5, 15, 52, 203, 877]
    assert len(set(partitions(6))) == 203


def test_a_merged_partition_is_coarser() -> None:
    for below in partitions(4):
        for of_blocks in partitions(len(below)):
            coarse = merged(below, of_blocks)
            assert sorted(place for block in coarse for place in block) == [0, 1, 2, 3]
            assert all(any(set(block) <= set(union) for union in coarse) for block in below)
            assert coarse in partitions(4)


@pytest.mark.parametrize(
    "groups", [((0, 1, 2), (3, 4)), ((0, 4), (1, 3), (2,)), ((0, 2, 5), (1, 7), (3, 4, 6)), singletons(5)]
)
def test_spectral_clustering_finds_groups_that_are_there(groups: Blocks) -> None:
    tasks = sum(map(len, groups))
    noise = random_affinity(tasks, 1)[0] * 0.1
    assert spectral(separable([groups], tasks)[0] + noise, len(groups)) == groups


@given(st.integers(1, 7), st.integers(0, 20))
def test_spectral_clustering_gives_partitions_for_any_number_of_groups(tasks: int, seed: int) -> None:
    found = random_affinity(tasks, 1, seed)[0]
    for count in range(1, tasks + 1):
        groups = spectral(found, count)
        assert groups in partitions(tasks)
        assert len(groups) == count
    assert spectral(found, tasks) == singletons(tasks)
    assert spectral(np.ones((tasks, tasks)), 1) == (tuple(range(tasks)),)


# ------------------------------------------------------------------------------- representation similarity


@pytest.mark.parametrize(("tasks", "stages"), [(1, 3), (2, 4), (3, 3), (4, 2)])
@pytest.mark.parametrize("budget", [1.0, 1.4, 2.1, math.inf])
def test_exhaustive_search_is_brute_force(tasks: int, stages: int, budget: float) -> None:
    found = random_affinity(tasks, stages)
    parts = PARTS[: 1 + stages]
    trees = search(found, tasks=names(tasks), parts=parts, limit=budget * sum(parts))
    expected = {
        tree: score_by_hand(tree, found)
        for tree in every_tree(tasks, stages)
        if tree.cost(parts) <= budget * sum(parts)
    }
    assert {candidate.tree for candidate in trees} == set(expected)
    for candidate in trees:
        assert candidate.score == pytest.approx(expected[candidate.tree])
        assert candidate.cost == candidate.tree.cost(parts)
    scores = [candidate.score for candidate in trees]
    assert scores == pytest.approx(sorted(scores))
    assert trees[0].score == pytest.approx(min(expected.values()))


@given(st.integers(2, 5), st.floats(1, 6), st.integers(0, 30))
def test_the_budget_is_kept_by_both_searches_and_the_beam_is_never_better(
    tasks: int, budget: float, seed: int
) -> None:
    found, limit = random_affinity(tasks, 2, seed), budget * sum(PARTS[:3])
    options = {"tasks": names(tasks), "parts": PARTS[:3], "limit": limit}
    exhaustive, beam = search(found, **options), search(found, beam=64, **options)  # type: ignore[arg-type]
    assert all(candidate.cost <= limit for candidate in (*exhaustive, *beam))
    assert beam[0].score >= exhaustive[0].score - 1e-12
    assert {candidate.tree for candidate in beam} <= {candidate.tree for candidate in exhaustive}


@pytest.mark.parametrize("tasks", [1, 4, 8])
def test_the_smallest_budget_gives_the_shared_tree_and_any_budget_separate_networks(tasks: int) -> None:
    found, all_names = random_affinity(tasks), names(tasks)
    (shared,) = search(found, tasks=all_names, parts=PARTS, limit=sum(PARTS))
    assert shared.tree == Tree.shared(all_names, parts=5)
    separate = search(found, tasks=all_names, parts=PARTS)[0]
    assert separate.tree == Tree.parse([" | ".join(all_names)], tasks=all_names, parts=5)
    assert separate.score == 0


GROUPS: list[list[Blocks]] = [
    [((0, 1, 2, 3, 4, 5, 6),), ((0, 1, 2, 3), (4, 5, 6)), ((0, 1), (2, 3), (4, 5, 6))],
    [((0, 3, 5), (1, 2, 4, 6)), ((0, 3, 5), (1, 2), (4, 6)), ((0, 3), (5,), (1, 2), (4, 6))],
]


@pytest.mark.parametrize("groups", GROUPS)
def test_beam_search_finds_a_tree_that_is_there(groups: list[Blocks]) -> None:
    ordered = [tuple(sorted(blocks)) for blocks in groups]
    found = separable(ordered, 7) + 0.02 * random_affinity(7, 3)
    expected = Tree.parse(
        [" | ".join(" ".join(f"t{p}" for p in block) for block in blocks) for blocks in [groups[0], *groups]],
        tasks=names(7),
        parts=4,
    )
    limit = expected.cost([1, 1, 2, 4])
    best = search(found, tasks=names(7), parts=[1, 1, 2, 4], limit=limit)[0]
    assert best.tree == expected


@pytest.mark.parametrize("tasks", [3, 5, 6])
def test_beam_search_agrees_with_the_exhaustive_one_on_separable_tasks(tasks: int) -> None:
    blocks = (tuple(range(tasks // 2)), tuple(range(tasks // 2, tasks)))
    whole = (tuple(range(tasks)),)
    found = separable([whole, whole, blocks, blocks], tasks)
    options = {"tasks": names(tasks), "parts": PARTS, "limit": 1.8 * sum(PARTS)}
    assert search(found, **options)[0] == search(found, beam=32, **options)[0]  # type: ignore[arg-type]


def test_equal_trees_are_ranked_by_cost_and_then_always_the_same() -> None:
    alike = np.ones((2, 3, 3))
    trees = search(alike, tasks=names(3), parts=[1, 1, 1])
    assert trees[0].tree == Tree.shared(names(3), parts=3)
    assert [candidate.cost for candidate in trees] == sorted(candidate.cost for candidate in trees)
    assert trees == search(alike, tasks=names(3), parts=[1, 1, 1])


def test_the_number_of_branches_can_be_asked_for() -> None:
    for beam in (None, 64):
        for count in range(1, 5):
            found = search(random_affinity(4), tasks=names(4), parts=PARTS, groups=count, beam=beam)
            assert {len(candidate.tree.partitions[-1]) for candidate in found} == {count}


def test_what_cannot_be_had_is_answered_in_a_sentence() -> None:
    found, options = random_affinity(3), {"tasks": names(3), "parts": PARTS}
    with pytest.raises(ConfigurationError, match=r"no tree fits the budget of 15: .* already costs 16"):
        search(found, limit=15, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="3 branches in the last stage fits the budget of 24"):
        search(found, limit=24, groups=3, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="3 tasks can be in 1 to 3 groups, got 4"):
        search(found, groups=4, **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- FAFS


def test_branch_affinity_is_the_papers_formula() -> None:
    found = random_affinity(5, 1)[0]
    branches = ((0, 1), (2,), (3, 4))
    between = branch_affinity(found, branches)
    one_way = np.mean([min(found[i, j] for j in (3, 4)) for i in (0, 1)])
    other_way = np.mean([min(found[i, j] for j in (0, 1)) for i in (3, 4)])
    assert between[0, 2] == between[2, 0] == pytest.approx((one_way + other_way) / 2)
    assert between.diagonal().tolist() == [1, 1, 1]


def test_separation_is_none_where_all_are_alone_or_alike() -> None:
    found = random_affinity(4, 1)[0]
    assert separation(found, singletons(4)) == 0
    assert separation(np.ones((4, 4)), ((0, 1, 2), (3,))) == 0
    assert separation(found, ((0, 1), (2, 3))) == pytest.approx(1 - (found[0, 1] + found[2, 3]) / 2)


def test_fafs_branches_where_it_pays_and_lower_branches_cost_more() -> None:
    found = np.where(separable([((0, 1), (2, 3))], 4)[0] > 0.5, 1.0, 0.4)
    options = {"tasks": names(4), "strides": (4, 8, 16, 32)}
    shared = Tree.shared(names(4), parts=5)
    two = "t0 t1 | t2 t3"
    whole = "t0 t1 t2 t3"
    # Keeping the groups together costs alpha * 0.6 at a stage; parting them 1, 2, 4 and 8, the last first.
    for alpha, stages in [(1.6, 0), (1.7, 1), (3.3, 1), (3.4, 2), (6.6, 2), (6.7, 3), (13.3, 3), (13.4, 4)]:
        tree = fafs(found, alpha=alpha, **options)  # type: ignore[arg-type]
        expected = [whole] * (4 - stages) + [two] * stages
        assert tree.text() == (expected[0], *expected)
    assert fafs(found, alpha=0, **options) == shared  # type: ignore[arg-type]
    # At strides that stay the same a branch costs the same everywhere.
    dilated = fafs(found, tasks=names(4), strides=(4, 8, 8, 8), alpha=1.7)
    assert dilated.text() == (whole, whole, two, two, two)


def test_fafs_gives_a_tree_for_any_affinity() -> None:
    for tasks in (1, 2, 5, 9):
        found = random_affinity(tasks, 1)[0]
        for alpha in (0.0, 1.0, 10.0, 1000.0):
            tree = fafs(found, tasks=names(tasks), strides=(4, 8, 16, 32), alpha=alpha)
            assert Tree.parse(tree.text(), tasks=names(tasks), parts=5) == tree
        assert tree_separation(found, tree, names(tasks)) == pytest.approx(0, abs=1e-12)


# ----------------------------------------------------------------------------------------------------- TAG


@pytest.mark.parametrize("tasks", [1, 2, 4, 6])
def test_the_best_groups_are_those_of_brute_force(tasks: int) -> None:
    found = np.random.default_rng(tasks).normal(size=(tasks, tasks))
    for count, groups in enumerate(best_groups(found), start=1):
        assert groups in partitions(tasks)
        assert len(groups) == count
        every = [group_score(found, p) for p in partitions(tasks) if len(p) == count]
        assert group_score(found, groups) == pytest.approx(max(every))


def test_a_groups_score_is_what_each_task_gets_from_the_others() -> None:
    found = np.array([[9.0, 1.0, 2.0], [3.0, 9.0, 4.0], [5.0, 6.0, 9.0]])
    assert group_score(found, ((0, 1, 2),)) == pytest.approx((4 + 3.5 + 3) / 3)
    assert group_score(found, ((0, 2), (1,))) == pytest.approx((5 + 2) / 3)
    assert group_score(found, singletons(3)) == 0


def test_groupings_part_at_the_stem_and_keep_the_budget() -> None:
    found = np.where(separable([((0, 2), (1, 3))], 4)[0] > 0.5, 0.1, -0.1)
    trees = groupings(found, tasks=names(4), parts=PARTS, limit=3.5 * sum(PARTS))
    assert [candidate.cost for candidate in trees] == [16, 32, 48]
    assert trees[1].tree.text() == ("t0 t2 | t1 t3",) * 5
    assert trees[1].score == pytest.approx(0.1)
    with pytest.raises(ConfigurationError, match="one network for all tasks already costs 16"):
        groupings(found, tasks=names(4), parts=PARTS, limit=15)


def test_equal_groupings_are_chosen_alike_and_too_many_tasks_refused() -> None:
    assert best_groups(np.zeros((4, 4))) == best_groups(np.zeros((4, 4)))
    with pytest.raises(ConfigurationError, match="up to 18 tasks, got 19"):
        best_groups(np.zeros((19, 19)))


def test_the_log_s_affinities_are_averaged_over_the_steps_that_have_them() -> None:
    log: list[dict[str, Any]] = [
        {"step": 1, "loss": {"a": 1}},
        {"step": 2, "affinity": {"a": {"a": 0.5, "b": 0.1}, "b": {"a": None, "b": 0.2}}},
        {"step": 4, "affinity": {"a": {"a": 0.5, "b": 0.3}, "b": {"a": -0.1, "b": 0.2}}},
    ]
    np.testing.assert_allclose(mean_affinity(log, ["a", "b"]), [[0.5, 0.2], [-0.1, 0.2]])
    with pytest.raises(ConfigurationError, match=r"no affinities of tasks: .*affinity_every"):
        mean_affinity(log[:1], ["a", "b"])
    with pytest.raises(ConfigurationError, match=r"of b onto a at any of the 1 steps .*affinity_every"):
        mean_affinity(log[:2], ["a", "b"])


# --------------------------------------------------------------------------------------------------- budget


@pytest.mark.parametrize(
    ("text", "limit"), [("1.5x", 150), ("1x", 100), ("2×", 200), ("123", 123), ("1e3", 1000)]
)
def test_a_budget_is_a_number_or_a_multiple(text: str, limit: float) -> None:
    assert Budget.parse(text).limit(100) == pytest.approx(limit)
    assert Budget.parse(text).limit(100) >= limit


@pytest.mark.parametrize("text", ["", "x", "-1", "0x", "much", "nan"])
def test_another_budget_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="a budget of macs is a positive number"):
        Budget.parse(text, "macs")


@pytest.mark.parametrize(
    ("name", "options"), [("test_resnet", {"output_stride": 16}), ("test_efficientnet", {})]
)
def test_parts_cost_what_the_network_costs(name: str, options: dict[str, Any]) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    costs = part_costs(Model(backbone=name, backbone_options=options), (64, 96))
    backbone = create_backbone(name, **options).eval()
    assert sum(costs.parameters) == sum(p.numel() for p in backbone.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, 3, 64, 96))
    assert sum(costs.macs) == counter.get_total_flops() // 2
    with pytest.raises(ConfigurationError, match="acts between the stages"):
        part_costs(Model(backbone="test_vit"), (64, 64))


# -------------------------------------------------------------------------------------------------- drawing


def test_a_drawn_tree_has_a_box_for_every_copy_and_names_every_task() -> None:
    tree = Tree.parse(["a b c", "a c | b", "a | c | b"], tasks=["a", "b", "c"], parts=4)
    drawn = tree_svg(tree)
    assert drawn.count("<rect") == 1 + 2 + 3 + 3
    assert drawn.count('class="branch"') == 2 + 3 + 3 + 3
    assert re.findall(r'class="task"[^>]*>([^<]*)<', drawn) == ["a", "c", "b"]
    assert 'aria-label="stem: a b c; stage 1: a c; ' in drawn


def test_the_cells_of_a_heat_map_carry_sign_and_strength() -> None:
    values = np.array([[0.9, -0.2], [0.1, 0.9]])
    rows = HeatMap("x", ("a", "b"), values, strongest=None, digits=1).rows()
    cells = [cell for row in rows for cell in row["cells"]]
    assert [cell["text"] for cell in cells] == ["0.9", "−0.2", "0.1", "0.9"]
    assert [cell["percent"] for cell in cells] == [100, 100, 50, 100]
    assert cells[1]["classes"] == "minus deep bright"
    assert cells[2]["classes"] == "plus"
    assert HeatMap("x", ("a",), np.zeros((1, 1)), strongest=None).rows()[0]["cells"][0]["percent"] == 0


# --------------------------------------------------------------------------------------- from runs to a tree

TASKS: dict[str, dict[str, Any]] = {
    "semantic": {"kind": "semantic", "classes": 20},
    "depth": {"kind": "depth"},
    "normals": {"kind": "normals"},
}
MakeRun = Callable[..., Run]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rooms, a single-task run for each task, and a joint one that measured affinity."""
    place = tmp_path_factory.mktemp("branching")
    write_tiny_rooms(place / "rooms", images=(4, 5, 2), size=(32, 48))
    for task in TASKS:
        train(tiny_recipe(place, [task]), place / "single" / task, progress=False)
    joint = tiny_recipe(place, list(TASKS), training={"affinity_every": 1})
    train(joint, place / "joint", progress=False)
    train(tiny_recipe(place, list(TASKS), model={"encoder": "separate"}), place / "apart", progress=False)
    return place


def tiny_recipe(place: Path, tasks: list[str], **parts: dict[str, Any]) -> Any:
    tree: dict[str, dict[str, Any]] = {
        "data": {"root": str(place / "rooms")},
        "tasks": {task: TASKS[task] for task in tasks},
        "model": {
            "backbone": "test_resnet",
            "pretrained": False,
            "decoder": {"name": "independent", "head": "linear"},
        },
        "augmentation": {"size": [32, 32]},
        "training": {"steps": 2, "batch_size": 2, "threads": 1, "precision": "fp32"},
    }
    return parse({key: {**value, **parts.get(key, {})} for key, value in tree.items()})


def singles(folder: Path) -> list[Path]:
    return [folder / "single" / task for task in TASKS]


def test_affinity_of_runs_is_that_of_their_features(folder: Path, tmp_path: Path) -> None:
    from scipy import stats

    found, page = affinity(singles(folder), images=5, out=tmp_path / "a.html")
    assert found.values.shape == (4, 3, 3)
    assert (found.images, found.split, found.tasks) == (5, "val", tuple(TASKS))
    seen = []
    for path in singles(folder)[:2]:
        run = load_run(path)
        model, dataset = run.model(), run.dataset("val")
        mean, deviation = (torch.tensor(part)[:, None, None] for part in model.normalisation)
        with torch.no_grad():
            levels = [
                model.encoder((dataset[place].image[None] / 255 - mean) / deviation)[run.tasks[0].name][2]
                for place in range(5)
            ]
        matrix = 1 - np.corrcoef(torch.cat(levels).flatten(1).double().numpy())
        seen.append(matrix[np.triu_indices(5, 1)])
    assert found.values[2, 0, 1] == pytest.approx(stats.spearmanr(*seen).statistic, abs=1e-9)
    text = page.read_text()
    assert text.count('<table class="heat">') == 4
    assert not re.search(r"(src|href)=\"(?!data:)", text)


def test_little_memory_changes_no_affinity(folder: Path) -> None:
    asked = networks.subjects([load_run(path) for path in singles(folder)])
    whole, told = networks.dissimilarities(asked), []
    split = networks.dissimilarities(asked, memory=1, progress=lambda done, total: told.append((done, total)))
    np.testing.assert_allclose(split, whole, atol=1e-5)
    assert whole.shape == (4, 3, 5, 5)
    assert told[-1][0] == told[-1][1] == 3 * (5 + 4 + 3 + 2 + 1)


def test_only_the_validation_split_is_looked_at(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, splits = Run.dataset, []

    def watched(self: Run, split: str) -> DataSet:
        splits.append(split)
        return original(self, split)

    monkeypatch.setattr(Run, "dataset", watched)
    affinity(singles(folder), out=tmp_path / "a.html")
    for by in ("rsa", "fafs"):
        branch(singles(folder), by=by, out=tmp_path / "a.yaml")
    assert set(splits) == {"val"}


def test_margins_are_the_losses_of_single_images(folder: Path) -> None:
    runs = [load_run(path) for path in singles(folder)]
    found = networks.margins(networks.subjects(runs), images=5)
    assert found.shape == (5, 3)
    for column, run in enumerate(runs):
        from plait.training.selection import split_loss

        task = run.tasks[0].name
        for place in range(5):
            dataset = networks.Part(run.dataset("val"), [place])
            loss = split_loss(run.model(), dataset, size=None, batch_size=1, device=torch.device("cpu"))
            assert found[place, column] == pytest.approx(loss[task], rel=1e-4)


def test_a_run_of_separate_networks_is_taken_too(folder: Path, tmp_path: Path) -> None:
    found, _ = affinity([folder / "apart"], out=tmp_path / "a.html")
    assert found.tasks == tuple(TASKS)
    assert (np.abs(found.values) <= 1).all()


@pytest.mark.parametrize(
    ("runs", "options"),
    [
        ("single", ["--budget", "1.5x"]),
        ("single", ["--by", "fafs", "--macs", "2.5x"]),
        ("joint", ["--by", "tag", "--groups", "2"]),
    ],
)
def test_a_tree_is_found_drawn_written_and_trains(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], runs: str, options: list[str]
) -> None:
    out = tmp_path / "tree.yaml"
    paths = [str(path) for path in (singles(folder) if runs == "single" else [folder / "joint"])]
    assert main(["branch", *paths, *options, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    recipe = load_recipe(out)
    assert list(recipe.tasks) == list(TASKS)
    encoder = recipe.model.encoder
    assert isinstance(encoder, dict)
    tree = Tree.parse(encoder["tree"], tasks=list(TASKS), parts=5)
    assert all(line in said for line in tree.lines())
    page = out.with_suffix(".html").read_text()
    assert tree_svg(tree) in page
    assert recipe.training.affinity_every is None
    trained = train(recipe, tmp_path / "run", progress=False)
    assert set(trained.scores.measures) == set(TASKS)
    assert trained.model().encoder.tree == tree


def test_searching_twice_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        branch(singles(folder), out=tmp_path / name / "tree.yaml")
    for file in ("tree.yaml", "tree.html"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("by", ["rsa", "fafs"])
def test_it_is_said_that_only_the_shared_tree_fits_where_that_is_so(
    folder: Path, tmp_path: Path, by: str
) -> None:
    def said(budget: float) -> bool:
        found = branch(
            singles(folder), by=by, budget=Budget(amount=budget), groups=1, out=tmp_path / "tree.yaml"
        )
        return any(note.startswith("Only the shared tree fits") for note in found.notes)

    assert said(1)
    assert not said(3)


def test_the_recipe_takes_the_order_of_the_runs_and_says_what_they_differ_in(
    folder: Path, tmp_path: Path
) -> None:
    other = tiny_recipe(folder, ["depth"], training={"seed": 3})
    train(other, tmp_path / "depth", progress=False)
    found = branch(
        [folder / "single" / "normals", tmp_path / "depth"],
        budget=Budget.parse("1x"),
        out=tmp_path / "tree.yaml",
    )
    assert list(found.recipe.tasks) == ["normals", "depth"]
    assert found.tree == Tree.shared(["normals", "depth"], parts=5)
    assert any("differ in training.seed: the recipe has it from" in note for note in found.notes)


def test_a_learned_tree_is_taken_from_its_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = Tree.parse(["semantic depth normals", "semantic | depth normals"], tasks=list(TASKS), parts=5)
    run = load_run(folder / "joint")
    model = run.model()
    model.encoder.tree = lambda: learned  # type: ignore[assignment]
    monkeypatch.setattr(Run, "model", lambda self, device="cpu": model)
    found = branch([folder / "joint"], by="learned", out=tmp_path / "tree.yaml")
    assert found.tree == learned
    with pytest.raises(ConfigurationError, match=r"found has 3 branches .*, only 2: leave --groups out$"):
        branch([folder / "joint"], by="learned", groups=3, out=tmp_path / "tree.yaml")
    with pytest.raises(
        ConfigurationError, match=r"has learned costs .* more than 1.1× the shared parameters"
    ):
        branch([folder / "joint"], by="learned", budget=Budget.parse("1.1x"), out=tmp_path / "tree.yaml")


@pytest.mark.parametrize("by", ["rsa", "fafs"])
@pytest.mark.parametrize("asked", [{"groups": 0}, {"groups": 4}, {"budget": Budget(amount=0.5)}])
def test_what_no_tree_can_have_is_refused_before_an_image_is_looked_at(
    folder: Path, tmp_path: Path, by: str, asked: dict[str, Any]
) -> None:
    told: list[int] = []
    with pytest.raises(ConfigurationError):
        branch(singles(folder), by=by, out=tmp_path / "t.yaml", progress=lambda *n: told.extend(n), **asked)
    assert not told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["affinity", "/nonexistent"], "/nonexistent holds no run"),
        (["affinity", "{joint}"], "has no backbone for each of its tasks (semantic, depth, normals)"),
        (["affinity", "{depth}"], "knows only depth: give runs that know at least two tasks"),
        (["affinity", "{depth}", "{normals}", "--images", "0"], "needs at least 3 of them, got 0"),
        (["affinity", "{depth}", "{joint}"], "both know task 'depth': give one run for each task"),
        (["affinity", "{depth}", "{normals}", "--images", "2"], "needs at least 3 of them, got 2"),
        (["affinity", "{depth}", "{normals}", "--out", "x.txt"], "a name that ends in .html, got x.txt"),
        (["branch", "{depth}"], "knows only depth: give runs that know at least two tasks"),
        (["branch", "{depth}", "{normals}", "--by", "fafs", "--images", "-1"], "at least 3 of them, got -1"),
        (["branch", "{depth}", "{normals}", "--budget", "0.5x"], "no tree fits 0.5× the shared parameters"),
        (["branch", "{depth}", "{normals}", "--by", "fafs", "--macs", "9"], "no tree fits 9 multiply"),
        (["branch", "{depth}", "{normals}", "--by", "tag"], "--by tag reads one run that trains the tasks"),
        (["branch", "{joint}", "{apart}", "--by", "tag"], "--by tag reads one run that trains the tasks"),
        (["branch", "{apart}", "--by", "tag"], "has no affinities of tasks: train them together with"),
        (
            ["branch", "{joint}", "--by", "tag", "--groups", "2", "--macs", "1.1x"],
            "no tree that was found within 1.1× the shared multiply-accumulates has 2 branches in the last "
            "stage, only 1: leave --groups out, or give more",
        ),
        (["branch", "{joint}", "--by", "learned"], "encoder 'shared', which learns no tree"),
        (["branch", "{depth}", "{normals}", "--by", "fasf"], "did you mean 'fafs'?"),
        (["branch", "{depth}", "{normals}", "--budget", "much"], "such as 1.5x; got 'much'"),
        (["branch", "{depth}", "{normals}", "--groups", "3"], "2 tasks can be in 1 to 2 groups, got 3"),
        (["branch", "{depth}", "--out", "x.html"], "give --out a name that ends in .yaml, got x.html"),
        (
            ["branch", "{depth}", "{normals}", "--out", "{depth}/recipe.yaml"],
            "is the recipe of a run: give --out another name",
        ),
        (["branch", "{unfinished}"], "is not finished: `plait train"),
        (["branch", "{depth}", "{other}"], "their model.backbone are"),
    ],
)
def test_wrong_input_is_answered_in_one_sentence(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {name: str(folder / "single" / name) for name in TASKS}
    for name, tree in (("unfinished", {}), ("other", {"model": {"backbone": "test_efficientnet"}})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(dump(tiny_recipe(folder, ["normals"], **tree)))
    (tmp_path / "other" / "scores.json").write_text(json.dumps({}))
    places |= {name: str(folder / name) for name in ("joint", "apart")}
    places |= {name: str(tmp_path / name) for name in ("unfinished", "other")}
    assert main([argument.format_map(places) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not list(tmp_path.glob("*.yaml")) + list(tmp_path.glob("*.html"))
