"""The grid of fixed weights: what is in it, what is not twice in it, and which point wins."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.balancing.fixed import Fixed
from plait.balancing.grid import Trial, grid_search, weight_grid
from plait.errors import ConfigurationError

THREE = ["semseg", "depth", "normals"]


def test_points_differ_in_more_than_a_factor() -> None:
    """Of 27 combinations, those without the smallest value are ten times another: 27 - 8 are left."""
    grid = weight_grid(THREE)
    proportions = {tuple(round(w / point["semseg"], 9) for w in point.values()) for point in grid}
    assert len(grid) == len(proportions) == 19
    assert grid[0] == {"semseg": 1.0, "depth": 1.0, "normals": 1.0}


@settings(max_examples=30)
@given(st.integers(1, 4), st.lists(st.sampled_from([0.1, 0.3, 1, 2, 3, 5, 10]), min_size=1, max_size=4))
def test_every_combination_is_there_once_with_mean_one(count: int, values: list[float]) -> None:
    tasks = [f"task{number}" for number in range(count)]
    grid = weight_grid(tasks, values=values)
    for point in grid:
        assert list(point) == tasks
        assert sum(point.values()) == pytest.approx(count)
        assert min(point.values()) > 0
    exact = {Fraction(str(value)) for value in values}
    directions = {()}
    for _ in tasks:
        directions = {(*start, value) for start in directions for value in exact}
    normal = {tuple(value / sum(direction) for value in direction) for direction in directions}
    assert len(grid) == len(normal)
    found = {tuple(round(w / count, 12) for w in point.values()) for point in grid}
    assert found == {tuple(round(float(share), 12) for share in direction) for direction in normal}


def test_a_budget_draws_the_same_points_again_and_keeps_equal_weights() -> None:
    whole, some = weight_grid(THREE), weight_grid(THREE, budget=6)
    assert len(some) == 6
    assert some[0] == whole[0]
    assert all(point in whole for point in some)
    assert len({tuple(point.values()) for point in some}) == 6
    assert weight_grid(THREE, budget=6) == some
    assert weight_grid(THREE, budget=6, seed=1) != some
    assert weight_grid(THREE, budget=19) == weight_grid(THREE, budget=100) == whole
    assert weight_grid(THREE, budget=1) == whole[:1]


def test_points_are_weights_of_the_fixed_balancer() -> None:
    point = weight_grid(THREE)[5]
    assert Fixed(weights=point).factors.tolist() == list(point.values())


def test_the_best_point_wins() -> None:
    """A toy whose best proportions are on the grid."""
    grid = weight_grid(THREE, values=(1, 2, 4))
    wanted = {"semseg": 1, "depth": 4, "normals": 2}

    def evaluate(weights: dict[str, float]) -> float:
        return -sum(math.log(3 * wanted[task] / (7 * weight)) ** 2 for task, weight in weights.items())

    trials = grid_search(evaluate, grid)  # type: ignore[arg-type]
    assert trials[0].score == pytest.approx(0, abs=1e-12)
    assert {task: round(7 * weight / 3, 9) for task, weight in trials[0].weights.items()} == wanted
    assert len(trials) == len(grid)
    assert [trial.score for trial in trials] == sorted((t.score for t in trials), reverse=True)


def test_failed_points_are_last_and_ties_stay_in_order() -> None:
    scores = iter([math.nan, 1.0, -math.inf, 1.0])
    grid = [{"a": float(number)} for number in range(4)]
    trials = grid_search(lambda _: next(scores), grid)
    assert [trial.weights["a"] for trial in trials] == [1, 3, 2, 0]
    assert trials[0] == Trial({"a": 1.0}, 1.0)
    with pytest.raises(ConfigurationError, match="none of the 2 points of the grid has a score"):
        grid_search(lambda _: math.nan, grid[:2])


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(ConfigurationError, match=r"positive values, got \['semseg'.*\] and \[0.0, 1.0\]"):
        weight_grid(THREE, values=(0.0, 1.0))
    with pytest.raises(ConfigurationError, match=r"needs tasks and positive values, got \[\]"):
        weight_grid([])
    with pytest.raises(ConfigurationError, match="budget of a grid is 1 or more points, got 0"):
        weight_grid(THREE, budget=0)
    with pytest.raises(ConfigurationError, match="3 values for 20 tasks are 3486784401 combinations"):
        weight_grid([f"task{number}" for number in range(20)])
