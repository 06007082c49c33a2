"""Reports: which runs make a comparison, and a page that stands alone."""

import html
import io
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from plait.errors import ConfigurationError
from plait.study import report
from plait.study.comparison import Arm, Comparison
from plait.study.cost import Cost
from plait.study.qualitative import Row
from plait.tasks import Measure
from plait.training.run import Run
from plait.training.tuning import threads

MakeRun = Callable[..., Run]
TASKS = ["semantic", "depth", "normals"]


@pytest.fixture(autouse=True)
def _without_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """The made-up runs have no checkpoint to read their times from."""
    monkeypatch.setattr(Run, "train_seconds", 12.0)
    monkeypatch.setattr(Run, "train_cpu_seconds", 10.0)


def quick(make_run: MakeRun) -> list[Run]:
    multi = make_run("multi-task", TASKS, skill=0.6)
    return [multi, *(make_run(f"single-task {task}", [task], skill=0.5) for task in TASKS)]


def compared(runs: Sequence[Run]) -> tuple[list[report.Group], Comparison]:
    groups, notes = report.arms_of(runs)
    costs = {run.path: Cost(parameters=10**6, flops=2 * 10**8, latency=0.01, memory=10**7) for run in runs}
    return groups, report.compare(groups, costs, None, [*notes, *report.general_notes(runs, (128, 160))])


def page_of(runs: Sequence[Run], rows: Sequence[Row], out: Path, title: str = "Compared") -> str:
    groups, comparison = compared(runs)
    return report.render(comparison, groups, rows, title=title, command="plait quickstart", out=out)


def test_single_task_runs_become_one_arm_that_gains_refer_to(make_run: MakeRun) -> None:
    groups, comparison = compared(quick(make_run))
    assert [group.name for group in groups] == ["single-task", "multi-task"]
    assert comparison.reference == "single-task"
    assert comparison.columns == ("single-task (3 networks)", "multi-task")
    assert comparison.gains(comparison.arm("multi-task"))["mean"] == pytest.approx(20)
    cost = comparison.arm("single-task").cost
    assert cost is not None
    assert (cost.parameters, cost.macs) == (3 * 10**6, 3 * 10**8)


def test_another_recipe_gets_no_gain_and_says_what_differs(make_run: MakeRun) -> None:
    longer = make_run("longer", TASKS, training__steps=70)
    _, comparison = compared([*quick(make_run), longer])
    assert comparison.gains(comparison.arm("longer")) == {}
    assert any("longer" in note and "training.steps" in note for note in comparison.notes)
    assert comparison.gains(comparison.arm("multi-task"))


def test_another_way_of_sharing_is_compared(make_run: MakeRun) -> None:
    other = make_run("separate", TASKS, skill=0.75, model__encoder="separate", balancer="fixed")
    _, comparison = compared([*quick(make_run), other])
    assert comparison.gains(comparison.arm("separate"))["mean"] == pytest.approx(50)


@pytest.mark.parametrize("missing", [0, 1])
def test_without_a_single_task_run_for_each_task_there_is_no_gain(make_run: MakeRun, missing: int) -> None:
    runs = quick(make_run)
    runs = runs[:-1] if missing else [*runs, make_run("second", ["depth"])]
    _, comparison = compared(runs)
    assert comparison.reference is None
    assert any(note.startswith("No relative gain") for note in comparison.notes)


def test_one_seed_is_said(make_run: MakeRun) -> None:
    _, comparison = compared(quick(make_run))
    assert any(note.startswith("One seed (0)") for note in comparison.notes)


def test_runs_on_other_data_are_refused(make_run: MakeRun) -> None:
    runs = [make_run("a", ["depth"]), make_run("b", ["depth"], data__options={"size": 3})]
    with pytest.raises(ConfigurationError, match=r"data\.options"):
        report.check_one_split(runs)


@pytest.mark.parametrize(
    ("options", "other"),
    [
        ({"kind": "semantic", "classes": 20, "ignore": [0, 1]}, {"kind": "semantic", "classes": 20}),
        ({"kind": "semantic", "classes": 20, "absent": "zero"}, {"kind": "semantic", "classes": 20}),
        ({"kind": "edges", "max_distance": 0.011}, {"kind": "edges"}),
        ({"kind": "edges"}, {"kind": "edges", "label": "saliency"}),
    ],
)
def test_scores_by_different_rules_are_refused(
    make_run: MakeRun, options: dict[str, Any], other: dict[str, Any]
) -> None:
    runs = [make_run(name, [], tasks__map=given) for name, given in (("a", options), ("b", other))]
    with pytest.raises(ConfigurationError, match=r"their tasks\.map\.(ignore|absent|max_distance|label) are"):
        report.check_one_split(runs)


def test_scores_by_two_protocols_are_refused(make_run: MakeRun) -> None:
    runs = [make_run("a", ["depth"]), make_run("b", ["depth"], evaluation__protocol="survey")]
    with pytest.raises(ConfigurationError, match=r"their evaluation\.protocol are 'survey' and 'plain'"):
        report.check_one_split(runs)


def test_scores_of_other_measures_are_refused(make_run: MakeRun) -> None:
    """Scores that were written before a measure was renamed, for instance."""
    runs = [make_run(name, ["depth"]) for name in ("a", "b")]
    scores = runs[1].path / "scores.json"
    scores.write_text(scores.read_text().replace('"RMSE"', '"RMSE of images"'))
    with pytest.raises(
        ConfigurationError, match=r"measures of depth are \['RMSE of images, plain'.*'RMSE, plain'"
    ):
        report.check_one_split(runs)


@pytest.mark.parametrize(
    ("protocol", "variant"), [("plain", "survey"), ("survey", "survey"), ("mtan", "libmtl")]
)
def test_every_format_says_the_protocol_and_the_variant_of_the_gain(
    make_run: MakeRun, tmp_path: Path, protocol: str, variant: str
) -> None:
    runs = [
        make_run("multi-task", TASKS, skill=0.6, evaluation__protocol=protocol),
        *(make_run(f"single-task {t}", [t], skill=0.5, evaluation__protocol=protocol) for t in TASKS),
    ]
    _, comparison = compared(runs)
    assert (comparison.protocol, comparison.variant) == (protocol, variant)
    assert comparison.gains(comparison.arm("multi-task"))["mean"] == pytest.approx(20)
    page = html.unescape(page_of(runs, [], tmp_path / "report.html"))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(comparison.table())
    for text in (page, comparison.markdown(), comparison.csv(), comparison.to_json(), console.export_text()):
        assert f"mIoU (%), {protocol}" in text
        assert f"variant {variant}" in text
    assert f"the protocol {protocol} (" in page
    assert f"(variant {variant})" in comparison.sentences()[0]


def test_libmtl_s_gain_is_over_all_measures_of_a_task() -> None:
    measures = (Measure("abs_err", "", "", False, "mtan"), Measure("rel_err", "", "", False, "mtan"))
    arms = (
        Arm(name="single-task", scores={"depth": {"abs_err": 1.0, "rel_err": 1.0}}),
        Arm(name="shared", scores={"depth": {"abs_err": 0.8, "rel_err": 1.1}}),
    )
    made = Comparison(tasks={"depth": measures}, arms=arms, reference="single-task")
    assert made.gains(arms[1])["mean"] == pytest.approx(5)
    assert [line.title for line in made.gain_lines()] == [
        "depth, mean of 2 measures (%)",
        "mean (%), variant libmtl",
    ]


def test_measures_of_two_protocols_are_no_comparison() -> None:
    tasks = {name: (Measure("m", "m", "", True, name),) for name in ("survey", "plain", "invpt")}
    with pytest.raises(ConfigurationError, match="protocols invpt and survey cannot be in one comparison"):
        Comparison(tasks=tasks, arms=())


def test_the_same_rule_may_be_spelled_out_and_learned_otherwise(make_run: MakeRun) -> None:
    options: dict[str, Any] = {"kind": "depth", "far": 8.0, "label": "depth", "loss": "berhu"}
    report.check_one_split(
        [make_run("a", ["depth"]), make_run("b", [], tasks__depth={**options, "parametrisation": "softplus"})]
    )


@pytest.mark.parametrize(("option", "value"), [("loss", "berhu"), ("parametrisation", "softplus")])
def test_a_twin_that_learned_by_another_loss_gets_no_gain(make_run: MakeRun, option: str, value: str) -> None:
    other = make_run("other", TASKS, **{f"tasks__depth__{option}": value})
    _, comparison = compared([*quick(make_run), other])
    assert comparison.gains(comparison.arm("other")) == {}
    assert any("other" in note and f"tasks.depth.{option}" in note for note in comparison.notes)
    assert comparison.gains(comparison.arm("multi-task"))


def test_task_weights_are_a_way_of_sharing_and_defaults_may_be_spelled_out(make_run: MakeRun) -> None:
    weighted = make_run("weighted", TASKS, tasks__depth__weight=3.0, tasks__normals__exact_median=False)
    _, comparison = compared([*quick(make_run), weighted])
    assert comparison.gains(comparison.arm("weighted"))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, r"tf_efficientnet_lite0, ImageNet weights \(in1k\), licence apache-2.0 \(.+\)"),
        ({"model__weights": "mine.pth"}, r"tf_efficientnet_lite0, weights of mine.pth, licence not known.*"),
        (
            {"model__weights": "mine.pth", "model__pretrained": False},
            r"tf_efficientnet_lite0, weights of mine.pth, licence not known.*",
        ),
        ({"model__pretrained": False}, "tf_efficientnet_lite0, random weights"),
        (
            {"model__backbone": "vit_tiny_patch16_224"},
            r"vit_tiny_patch16_224, ImageNet weights \(.+\), licence apache-2.0 \(timm .+\)",
        ),
        (
            {"model__backbone": "vit_base_patch16_224.mae"},
            r"vit_base_patch16_224.mae, published weights \(mae\), licence cc-by-nc-4.0 \(timm .+\), "
            "which forbids commercial use",
        ),
    ],
)
def test_the_facts_say_what_the_backbone_started_from_and_its_licence(
    make_run: MakeRun, changes: dict[str, Any], text: str
) -> None:
    runs = [make_run("a", ["depth"], **changes)]
    backbone = dict(report.facts(runs, compared(runs)[1], None))["Backbone and weights"]
    assert re.fullmatch(text, backbone), backbone


def test_the_facts_name_every_start_once(make_run: MakeRun) -> None:
    runs = [make_run(name, ["depth"]) for name in ("a", "b")]
    runs += [make_run("c", ["depth"], model__weights="mine.pth")]
    starts = dict(report.facts(runs, compared(runs)[1], None))["Backbone and weights"].split("; ")
    assert len(starts) == 2
    assert "licence apache-2.0" in starts[0]
    assert starts[1].startswith("tf_efficientnet_lite0, weights of mine.pth")


def test_page_and_markdown_name_the_licence_of_the_weights(
    make_run: MakeRun, picture_rows: list[Row], tmp_path: Path
) -> None:
    runs = quick(make_run)
    page = page_of(runs, picture_rows, tmp_path / "report.html")
    for text in (page, report.markdown(compared(runs)[1], runs)):
        assert text.count("licence apache-2.0") == 1


def test_its_own_work_leaves_busy_cores_alone(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that wait for each other on a shared core are many times slower than one."""
    run = make_run("a", ["depth"])
    found: list[int] = []

    def constant_column(_: Sequence[Run]) -> None:
        found.append(torch.get_num_threads())
        raise InterruptedError

    monkeypatch.setattr(Run, "model", lambda run: None)
    monkeypatch.setattr(report, "whole_dataset", lambda runs, split: [])
    monkeypatch.setattr(report, "measure_costs", lambda runs, models, size: {})
    monkeypatch.setattr(report, "constant_column", constant_column)
    monkeypatch.setattr(report, "idle_threads", lambda cores: 1)
    with threads(2):
        with pytest.raises(InterruptedError):
            report.report([run.path])
        assert torch.get_num_threads() == 2
    assert found == [1]


def test_an_unfinished_run_is_refused(make_run: MakeRun) -> None:
    run = make_run("a", ["depth"])
    (run.path / "scores.json").unlink()
    with pytest.raises(ConfigurationError, match="not finished"):
        report.check_one_split([run])


def test_runs_are_found_in_folders_and_each_once(make_run: MakeRun, tmp_path: Path) -> None:
    runs = quick(make_run)
    assert {path.resolve() for path in report.find_runs([tmp_path, runs[0].path])} == {
        r.path.resolve() for r in runs
    }
    with pytest.raises(ConfigurationError, match="holds no run"):
        report.find_runs([tmp_path / "nothing"])


class Seen(HTMLParser):
    """Collects what a page refers to and how its pictures and tables are told."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.heads: list[str | None] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.addresses += [found[key] or "" for key in ("src", "href", "srcset", "action") if key in found]
        if tag == "img":
            self.images.append(found)
        if tag == "th":
            self.heads.append(found.get("scope"))


def test_the_page_asks_nothing_of_a_network_and_tells_every_picture(
    make_run: MakeRun, picture_rows: list[Row], tmp_path: Path
) -> None:
    page = page_of(quick(make_run), picture_rows, tmp_path / "report.html")
    seen = Seen()
    seen.feed(page)
    assert all(address.startswith("data:") for address in seen.addresses)
    assert "script" not in seen.tags
    assert not re.search(r"@import|url\(", page)
    assert len(seen.images) >= 2 * (1 + 3 * 5)
    assert all(image.get("alt") for image in seen.images)
    assert {"col", "row", "rowgroup"} == set(seen.heads)
    assert "caption" in seen.tags
    assert seen.tags.count("h1") == 1
    assert seen.tags.count("polyline") == len(TASKS) * 2


def test_names_are_text_and_never_markup(make_run: MakeRun, picture_rows: list[Row], tmp_path: Path) -> None:
    page = page_of(quick(make_run), picture_rows, tmp_path / "report.html", title="<script>alert(1)</script>")
    assert "<script" not in page
    assert "a &lt;made-up&gt; processor" in page


def test_runs_without_pictures_or_single_tasks_still_make_a_page(make_run: MakeRun, tmp_path: Path) -> None:
    page = page_of([make_run("alone", ["depth"])], [], tmp_path / "report.html")
    assert "no single-task networks" in page
    assert "<img" in page or "Held-out" not in page


def test_the_page_names_the_command_that_writes_it_again(make_run: MakeRun, tmp_path: Path) -> None:
    page = page_of([make_run("runs/depth 1", ["depth"])], [], tmp_path / "rep" / "all.html")
    footer = html.unescape(page[page.index("<footer") :])
    assert "<code>plait report '../runs/depth 1' --out all.html</code>, run in this page's folder," in footer


def test_one_logged_step_is_a_dot(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("short", ["depth"])
    run.path.joinpath("log.jsonl").write_text('{"step": 1, "loss": {"depth": 0.5}}\n')
    page = page_of([run], [], tmp_path / "report.html")
    assert page.count("<circle") == 1
    assert "<polyline" not in page
