"""A diagnosis says what its numbers say, and its page is whole, readable and needs nothing else."""

import json
import math
import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from tests.study.test_browser import CHROMIUM, chromium, framed

from plait.cli import main
from plait.config import Recipe, parse, replace
from plait.errors import ConfigurationError
from plait.study.diagnosis.findings import Findings
from plait.study.diagnosis.measure import measure_now
from plait.study.diagnosis.page import QUANTITIES, diagnose, diagnosis_section
from plait.study.diagnosis.parts import ROWS
from plait.testing import write_tiny_rooms
from plait.training.fit import train
from plait.training.run import Run, load_run

MakeRecipe = Callable[..., Recipe]

TASKS = {
    "semantic": {"kind": "semantic", "classes": 20},
    "depth": {"kind": "depth"},
    "edges": {"kind": "edges"},
}


@pytest.fixture(scope="module")
def make_recipe(tmp_path_factory: pytest.TempPathFactory) -> MakeRecipe:
    rooms = write_tiny_rooms(tmp_path_factory.mktemp("rooms"), images=(6, 2, 2), size=(32, 48))
    tree = {
        "data": {"root": str(rooms)},
        "tasks": TASKS,
        "model": {
            "backbone": "test_resnet",
            "pretrained": False,
            "decoder": {"name": "independent", "head": "linear"},
        },
        "schedule": {"name": "constant"},
        "augmentation": {"size": [32, 32]},
        "training": {
            "steps": 6, "batch_size": 4, "checkpoint_every": 6, "log_every": 1,
            "threads": 1, "precision": "fp32", "channels_last": False,
        },
    }  # fmt: skip

    def make(**changes: Any) -> Recipe:
        return replace(parse(tree), changes)

    return make


@pytest.fixture(scope="module")
def measured(make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that measured at each of its six steps."""
    folder = tmp_path_factory.mktemp("runs") / "measured <&> run"
    return train(make_recipe(**{"training.diagnose_every": 1}), folder, progress=False)


@pytest.fixture(scope="module")
def unmeasured(make_recipe: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One that measured nothing, of a balancer that takes gradients."""
    recipe = make_recipe(balancer={"name": "mgda", "scope": "parameters"})
    return train(recipe, tmp_path_factory.mktemp("runs") / "unmeasured", progress=False)


# What is said.


def line(
    step: int,
    cosine: Mapping[str, Mapping[str, float | None]],
    stages: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    return {"step": step, "gradients": {"whole": {"cosine": cosine, **more}, "stages": dict(stages or {})}}


def said(*lines: dict[str, Any], tasks: tuple[str, ...] = ("a", "b", "c")) -> list[str]:
    return Findings(tasks=tasks, log=[], lines=lines, trained=True).sentences()


def test_conflicts_are_counted_and_the_worst_pair_named() -> None:
    found = said(
        line(1, {"a": {"b": 0.5, "c": -0.2}, "b": {"c": None}}),
        line(2, {"a": {"b": -0.1, "c": -0.4}, "b": {"c": 0.3}}),
    )
    assert found == [
        "In 60 % of 5 comparisons of two tasks their gradients pointed against each other. Most often those "
        "of a and c did: in 2 of 2 measurements (mean cosine −0.30, from −0.40 to −0.20)."
    ]


def test_two_tasks_and_no_conflict() -> None:
    assert said(line(1, {"a": {"b": 0.25}}), line(2, {"a": {"b": 0.0}}), tasks=("a", "b")) == [
        "No two tasks' gradients pointed against each other in the 2 comparisons; the lowest cosine was "
        "0.00, of a and b."
    ]


def test_nothing_compared_is_said() -> None:
    assert said(line(1, {"a": {"b": None, "c": None}, "b": {"c": None}})) == [
        "No two tasks had a gradient of the same layers at the same time, so none were compared."
    ]


def test_stages_lengths_and_parts_are_named_by_their_extremes() -> None:
    stages = {"stem": {"conflicts": 0.0}, "stage 1": {"conflicts": 0.5}, "stage 2": {"conflicts": None}}
    found = said(
        line(
            1,
            {"a": {"b": -0.5}},
            stages,
            norm={"a": 1.0, "b": 8.0},
            share={"a": -0.25, "b": 0.75},
            update={"a": -0.1, "b": 0.9},
            moved={"a": 0.1, "b": 0.2},
        ),
        line(
            2,
            {"a": {"b": -0.1}},
            stages,
            norm={"a": 1.0, "b": 2.0},
            share={"a": 0.25, "b": 0.75},
            update={"a": 0.2, "b": 0.9},
            moved={"a": 0.1, "b": None},
        ),
        tasks=("a", "b"),
    )
    assert found[1:] == [
        "By stage, they conflict most often in stage 1 (50 % of comparisons) and least often in stem (0 %).",
        "The gradient of b is the longest, 4 times as long as that of a, the shortest, before any weight.",
        "Of what the tasks bring into the update (effective weight times length), b has the largest part, "
        "75 % on average, and a the smallest, 25 %.",
        "The update went against the gradient of a (1 of 2 measurements); the step that the optimizer took "
        "went against no task's gradient.",
    ]


def test_lengths_that_hardly_differ_are_not_ranked() -> None:
    found = said(line(1, {"a": {"b": 1.0}}, norm={"a": 1.0, "b": 1.05}), tasks=("a", "b"))
    assert found[-1] == "The tasks' gradients are about equally long (within a factor of 1.05)."


# Pages.


class Checked(HTMLParser):
    """Takes a page apart: ids, tables with captions and heads, what is loaded; every tag is closed."""

    VOID = ("meta", "link", "line", "circle", "polyline", "br", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.referred: list[str] = []
        self.open: list[str] = []
        self.headings: list[str] = []
        self.rows = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids += [given["id"]] if "id" in given else []
        self.referred += [given["aria-labelledby"]] if "aria-labelledby" in given else []
        assert tag not in ("script", "iframe", "img", "object")
        assert tag != "link" or given["href"] == "data:,"
        if tag == "th":
            assert given["scope"] in ("row", "col", "colgroup")
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append(tag)
        self.rows += tag == "tr"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(page: str) -> Checked:
    found = Checked(page)
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    assert set(found.referred) <= set(found.ids)
    assert page.count("<table") == page.count("<caption") == page.count('role="region"')
    for svg in re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL):
        drawn = ElementTree.fromstring(svg)
        assert drawn.get("aria-label") or drawn.get("aria-hidden") == "true"
    assert "url(" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"<style>.*</style>", "", page, flags=re.DOTALL))
    return found


def test_a_run_that_measured_is_drawn_over_time_and_by_stage(measured: Run, tmp_path: Path) -> None:
    found, page = diagnose(measured.path, out=tmp_path / "page.html")
    assert found.trained
    text = page.read_text()
    checked(text)
    assert "Gradients of measured &lt;&amp;&gt; run" in text
    assert "6 measurements while the run trained, from step 1 to step 6" in text
    for title in (
        "Loss", "Weight the balancer gave", "Effective weight in the update", "Part in the update",
        "Length of the gradient", "Magnitude similarity, mean over pairs", "Condition number",
        *(f"Cosine with {task}" for task in TASKS), "Share of conflicting pairs", "Cosine of the update",
        "Cosine of the optimizer&#39;s step", "Share of conflicting pairs by stage",
    ):  # fmt: skip
        assert f"<figcaption>{title}</figcaption>" in text, title
    for name in ("all shared layers", "stem", "stage 1", "stage 2", "stage 3", "stage 4"):
        assert text.count(f'<th scope="row">{name}</th>') == 5, name
    for quantity in QUANTITIES.values():
        assert f">{quantity}</th>".replace("'", "&#39;") in text


def test_every_number_of_the_log_is_in_a_table(measured: Run, tmp_path: Path) -> None:
    text = diagnose(measured.path, out=tmp_path / "page.html")[1].read_text()
    cells = set(re.findall(r"<td>([^<]+)</td>", text))
    for row in measured.log:
        whole = row.get("gradients", {}).get("whole", {})
        for quantity in ("norm", "effective", "share", "update", "moved"):
            for value in whole.get(quantity, {}).values():
                assert f"{value:.3g}".replace("-", "−") in cells
        for value in (v for inside in whole.get("cosine", {}).values() for v in inside.values()):
            assert f"{value:.3g}".replace("-", "−") in cells


def test_means_by_stage_are_those_of_the_log(measured: Run) -> None:
    found = Findings(tuple(TASKS), [], [row for row in measured.log if "gradients" in row], trained=True)
    logged = [row["gradients"]["stages"]["stage 2"] for row in measured.log if "gradients" in row]
    assert len(logged) == 6
    cosine = [row["cosine"]["semantic"]["edges"] for row in logged]
    assert found.mean("cosine", "stage 2")["semantic and edges"] == pytest.approx(sum(cosine) / 6)
    assert found.negative("stage 2")["semantic and edges"] == sum(value < 0 for value in cosine) / 6
    product = math.prod(row["norm"]["depth"] for row in logged)
    assert found.mean("norm", "stage 2")["depth"] == pytest.approx(product ** (1 / 6))


def test_a_run_that_measured_nothing_is_measured_now(
    unmeasured: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main(["diagnose", str(unmeasured.path), "--out", str(page), "--batches", "2"]) == 0
    told = capsys.readouterr().out
    assert "they were taken now, at its checkpoint" in told
    assert "comparisons" in told
    assert f"the page is {page}" in told
    text = page.read_text()
    checked(text)
    assert "taken now at the checkpoint of step 6, on 2 training batches of 4 images" in text
    assert "Length of the gradient, where the balancer took it</figcaption>" in text  # from the log
    assert "Cosine with depth" not in text
    assert "Effective weight" not in text
    assert "all shared layers" in text


@pytest.mark.parametrize("balancer", ["equal", "sdmgrad"])  # a batch a step, or several
def test_measuring_now_gives_what_the_next_step_would_have_measured(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, balancer: str
) -> None:
    monkeypatch.setattr("plait.study.diagnosis.measure.idle_threads", lambda cores: 1)
    short = {"training.checkpoint_every": 2, "balancer": balancer}
    before = train(make_recipe(**short, **{"training.steps": 2}), tmp_path / "before", progress=False)
    longer = make_recipe(**short, **{"training.steps": 3, "training.diagnose_every": 3})
    (logged,) = (row for row in train(longer, tmp_path / "after", progress=False).log if "gradients" in row)
    state = torch.get_rng_state()
    (now,) = measure_now(before, 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert now["step"] == 2
    for quantity in ("norm", "cosine", "conflicts", "similarity", "condition"):
        assert now["gradients"]["whole"][quantity] == logged["gradients"]["whole"][quantity]
    assert measure_now(before, 2)[:1] == [now]


def test_it_is_a_part_of_another_page(measured: Run, unmeasured: Run) -> None:
    one = diagnosis_section(measured, prefix="first", level=3)
    other = diagnosis_section(unmeasured, prefix="second", level=3, batches=1)
    found = checked(f"{one}{other}")
    assert set(found.headings) == {"h3"}
    assert all(name.startswith(("first-", "second-")) for name in found.ids)
    for part in (one, other):
        assert "<style" not in part
        assert "<html" not in part
        assert part.lstrip().startswith("<section")


def test_tasks_with_an_update_each_have_no_common_one(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe(**{"training.alternate_tasks": True, "training.diagnose_every": 2})
    _, page = diagnose(train(recipe, tmp_path / "run", progress=False).path)
    assert page == tmp_path / "run" / "diagnosis.html"
    text = page.read_text()
    checked(text)
    assert "Each task has an update of its own here" in text
    assert "Cosine of the update" not in text
    assert "Cosine of the optimizer" in text


def test_long_tables_say_what_they_leave_out(measured: Run, tmp_path: Path) -> None:
    copy = Run(tmp_path / "run", measured.recipe)
    copy.path.mkdir()
    (copy.path / "recipe.yaml").write_text((measured.path / "recipe.yaml").read_text())
    row = next(row for row in measured.log if "gradients" in row)
    rows = [{**row, "step": step} for step in range(1, 3 * ROWS - 1)]
    (copy.path / "log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    text = diagnose(copy.path)[1].read_text()
    assert f"By step: {ROWS} of {3 * ROWS - 2} steps, log.jsonl has them all" in text
    assert f'<th scope="row">{3 * ROWS - 2}</th>' in text
    checked(text)


# What cannot be.


def test_what_cannot_be_diagnosed_is_refused_in_a_sentence(
    make_recipe: MakeRecipe, measured: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert main(["diagnose", *words]) == 2
        sentence = capsys.readouterr().err.strip()
        assert sentence.startswith("plait: ")
        assert "\n" not in sentence
        return sentence

    assert "is not a run's folder" in refused(str(tmp_path))
    assert "a name that ends in .html" in refused(str(measured.path), "--out", str(tmp_path / "page.txt"))
    alone = make_recipe(tasks={"depth": TASKS["depth"]})
    train(alone, tmp_path / "alone", progress=False)
    assert "encoder Shared for depth shares none" in refused(str(tmp_path / "alone"))
    train(make_recipe(**{"model.encoder": "separate"}), tmp_path / "separate", progress=False)
    assert "encoder Separate for semantic, depth, edges shares none" in refused(str(tmp_path / "separate"))
    assert "at least 1 batch" in refused(str(tmp_path / "separate"), "--batches", "0")
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "recipe.yaml").write_text((tmp_path / "separate" / "recipe.yaml").read_text())
    assert "has no checkpoint yet: train it first with `plait train" in refused(str(begun))
    with pytest.raises(ConfigurationError, match="at least 1 batch"):
        measure_now(load_run(begun), 0)


# In a browser.

PROBE = """
<script>
addEventListener("load", () => {
  parent.postMessage(JSON.stringify({
    width: document.documentElement.clientWidth, overflow: document.documentElement.scrollWidth,
    small: [...document.querySelectorAll("td, th, p, li, figcaption, caption")]
      .filter(part => parseFloat(getComputedStyle(part).fontSize) < 12).length,
    requests: performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length,
  }), "*");
});
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)")
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_overflows_a_phone(measured: Run, tmp_path: Path, width: int) -> None:
    page = diagnose(measured.path, out=tmp_path / "page.html")[1]
    said = chromium(page, tmp_path / "profile", f"--screenshot={tmp_path / 'page.png'}")
    assert "CONSOLE" not in said.stderr, said.stderr
    # The page forbids scripts; the probe is ours, so its copy of the page goes without that rule.
    text = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text()).replace("<details>", "<details open>")
    page.write_text(text.replace("</body>", PROBE + "</body>"))
    dump = chromium(framed(page, width), tmp_path / "profile", "--dump-dom", "--virtual-time-budget=8000")
    found = json.loads(re.search(r'<pre id="probe">(.*?)</pre>', dump.stdout).group(1))  # type: ignore[union-attr]
    assert found["small"] == found["requests"] == 0
    assert found["overflow"] <= found["width"] == width, found
