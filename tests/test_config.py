"""Recipes: typed, refused with the nearest key, written out whole and read back the same."""

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plait.config import Recipe, dump, load_recipe, named, parse, replace
from plait.errors import ConfigurationError


@settings(max_examples=12, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "training.steps": st.integers(1, 10**6),
            "training.clip_norm": st.none() | st.floats(1e-3, 1e3),
            "training.precision": st.sampled_from(["auto", "fp32", "bf16", "fp16"]),
            "training.channels_last": st.sampled_from(["auto", True, False]),
            "optimizer.lr": st.floats(1e-12, 10),
            "optimizer.betas": st.tuples(*2 * [st.floats(0, 1, exclude_max=True)]),
            "evaluation.size": st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
            "evaluation.scales": st.lists(st.floats(0.1, 4), min_size=1, max_size=3),
            "model.encoder": st.sampled_from(["shared", {"name": "mine.part:Encoder", "alpha": 0.5}]),
            "data.options": st.dictionaries(st.text(min_size=1), st.integers() | st.text() | st.booleans()),
            "optimizer.groups": st.lists(
                st.builds(dict, pattern=st.text(), freeze=st.booleans()), max_size=2
            ),
        }
    )
)
@example({"optimizer.groups": [{"pattern": "a\x85b", "freeze": False}]})
def test_a_recipe_is_written_and_read_back_the_same(changes: dict[str, object]) -> None:
    recipe = replace(Recipe(tasks={"depth": {"kind": "depth"}}), changes)
    assert parse(yaml.safe_load(dump(recipe))) == recipe


def test_overrides_reach_every_level(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("balancer: equal\ntasks: {depth: {kind: depth}}\n")
    recipe = load_recipe(
        path,
        ["--training.steps", "7", "--balancer.name=mgda", "--optimizer.lr", "1e-3",
         "--tasks.edges.kind", "edges", "--model.encoder.width", "3"],
    )  # fmt: skip
    assert recipe.training.steps == 7
    assert recipe.optimizer.lr == 1e-3
    assert named(recipe.balancer) == ("mgda", {})
    assert list(recipe.tasks) == ["depth", "edges"]
    assert named(recipe.model.encoder) == ("shared", {"width": 3})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--training.stesp", "3"], r"unknown key 'training.stesp' \(did you mean 'steps'\?\)"),
        (["--trainig.steps", "3"], "did you mean 'training'"),
        (["--optimizer.groups", "[{patern: a}]"], "did you mean 'pattern'"),
        (["--training.steps", "many"], "training.steps"),
        (["--training.steps", "2.5"], "training.steps"),
        (["--training.steps", "0"], "training.steps must be at least 1, got 0"),
        (["--training.steps", ""], "training.steps has no value"),
        (["--training.affinity_every", "0"], "training.affinity_every must be at least 1, got 0"),
        (["--training.affinity_every", "1001"], r"at most training.steps \(1000\), or nothing is measured"),
        (["--training.diagnose_every", "0"], "training.diagnose_every must be at least 1, got 0"),
        (["--training.diagnose_every", "1001"], r"at most training.steps \(1000\), or nothing is measured"),
        (["--training.steps"], "--training.steps needs a value"),
        (["--training.s", "3"], "unknown key"),
        (["steps", "3"], "expected '--key value'"),
        (["--schedule.name", "ploy"], "schedule.name"),
        (["--training.accumulate", "3"], "a divisor of training.batch_size"),
        (["--training.ema", "1"], "between 0 and 1"),
        (["--optimizer.lr", "-1"], "positive"),
        (["--training.steps.more", "1"], "unknown key|must hold|training.steps"),
        (["--tasks.depth.classes", "3"], "tasks.depth has no kind"),
        (["--evaluation.size", "128"], r"size must be \[whole number, whole number\] or null, got 128$"),
        (["--evaluation.size", "[128]"], r"evaluation.size must be .* got \[128\]$"),
        (["--evaluation.size", "[0, 0]"], r"evaluation.size must be .* at least 1, got \[0, 0\]"),
        (["--evaluation.size", "[0, 48]"], r"evaluation.size must be .* at least 1, got \[0, 48\]"),
        (["--evaluation.window", "[48, -1]"], "evaluation.window must be .* at least 1"),
        (["--evaluation.stride", "[0, 4]"], "evaluation.stride must be .* at least 1"),
        (["--evaluation.window", "[4, 4]", "--evaluation.stride", "[5, 4]"], r"at most the window \[4, 4\]"),
        (["--evaluation.scales", "[]"], "one or more positive numbers"),
        (["--evaluation.scales", "[1, 0]"], "one or more positive numbers"),
        (["--evaluation.scales", "[1, .nan]"], "one or more positive numbers"),
        (["--training.threads", "x"], "training.threads must be a whole number or auto, got 'x'$"),
        (["--optimizer.lr", ".inf"], "optimizer.lr must be positive and finite"),
        (["--optimizer.betas", "[2, 3]"], r"optimizer.betas must be two numbers in \[0, 1\), got"),
        (["--optimizer.betas", "3"], r"optimizer.betas must be \[number, number\], got 3$"),
        (["--optimizer.eps", "-1"], "optimizer.eps must be zero or more"),
        (["--optimizer.momentum", "1"], r"optimizer.momentum must be in \[0, 1\)"),
        (
            ["--optimizer.nesterov", "true", "--optimizer.momentum", "0"],
            "false where optimizer.momentum is 0",
        ),
        (["--optimizer.groups", "[{pattern: a, lr_multiplier: -1}]"], "pattern 'a': lr_multiplier must be"),
        (["--optimizer.groups", "[{pattern: a, weight_decay: -1}]"], "pattern 'a': weight_decay must be"),
        (["--optimizer.groups", "[{pattern: 3}]"], r"optimizer.groups must be \[\{pattern: text, .*got"),
        (["--schedule.power", "-1"], "schedule.power must be zero or more"),
        (["--schedule.gamma", "0"], "schedule.gamma must be positive"),
        (["--schedule.milestones", "[0.5, 1.5]"], "milestones must be increasing, between 0 and 1"),
        (["--schedule.milestones", "[0.8, 0.4]"], "milestones must be increasing, between 0 and 1"),
        (["--tasks", "3"], r"tasks must be \{name: \{name: value, ...\}, ...\}, got 3$"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as caught:
        load_recipe(None, words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["train_split", "validation_split"])
def test_the_test_split_is_for_reporting_only(key: str) -> None:
    with pytest.raises(ConfigurationError, match="the test split"):
        load_recipe(None, [f"--data.{key}", "test"])


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "just words", ""])
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"broken\.yaml"):
        load_recipe(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nowhere\.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")


def test_every_general_recipe_of_the_package_is_valid(recipes: Path) -> None:
    for path in recipes.glob("*.yaml"):
        recipe = load_recipe(path)
        assert parse(yaml.safe_load(dump(recipe))) == recipe
