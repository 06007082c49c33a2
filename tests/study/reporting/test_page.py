"""The page stands alone, says all that was worked out and nothing else, and can be read by any reader."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest
from tests.study.reporting.made_up import MadeUpRun, analysis
from tests.study.reporting.test_figures import with_lines
from tests.study.reporting.test_gallery import made_up_gallery

from plait.study.analysis import Analysis
from plait.study.reporting import score_tables
from plait.study.reporting.gallery import BYTES
from plait.study.reporting.page import HERE, render
from plait.study.reporting.questions import answers
from plait.study.reporting.reading import facts
from plait.study.reporting.words import summary

VOID = {"meta", "link", "img", "br", "input", "line", "circle", "rect", "path"}
DRAWN_INLINE = {"line", "circle", "rect", "path"}


class Page(HTMLParser):
    """A page as a reader's program takes it: whole elements, names that exist, tables with heads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.referred: list[str] = []
        self.headings: list[int] = []
        self.scripts: list[str] = []
        self.data: dict[str, Any] = {}
        self.policy = ""
        self.plots: dict[str, str] = {}
        self.summaries: list[str] = []
        self.bold: list[str] = []
        self.tables = 0
        self.captions = 0
        self._script: dict[str, str] | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids += [given["id"]] if "id" in given else []
        for name in ("aria-labelledby", "aria-controls"):
            self.referred += given.get(name, "").split()
        if given.get("href", "").startswith("#"):
            self.referred.append(given["href"][1:])
        if tag == "link":
            assert given["href"] == "data:,"
        if tag == "img":
            assert given["src"].startswith("data:image/webp;base64,")
            assert given["alt"]
        assert tag not in ("iframe", "object", "base", "form")
        assert not [name for name in given if name.startswith("on")]
        if tag == "th":
            assert given["scope"] in ("row", "col", "colgroup")
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "meta" and given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        if given.get("class") == "plot":
            assert given["role"] == "img"
            self.plots[given["id"]] = given["aria-label"]
        self.tables += tag == "table"
        self.captions += tag == "caption"
        if tag == "script":
            self._script = given
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in DRAWN_INLINE

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            if self._script.get("type") == "application/json":
                self.data[self._script["data-chart"]] = json.loads(data)
            else:
                self.scripts.append(data)
        elif self.open and self.open[-1] == "summary":
            self.summaries.append(data)
        elif self.open and self.open[-1] == "strong":
            self.bold.append(data)


@cache
def plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def own(text: str) -> str:
    """The page without plotly's source."""
    assert text.count(plotly()) == 1
    return text.replace(plotly(), "PLOTLY")


def checked(analyses: Sequence[Analysis], *more: Any) -> tuple[Page, str]:
    """The page, read, with what holds of every page made sure of; and its text without plotly's source."""
    text = own(render(analyses, *more))
    page = Page(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert set(page.referred) <= set(page.ids)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    assert page.tables == page.captions == text.count('role="region"')
    assert set(page.data) == set(page.plots)
    assert "url(" not in text
    assert "http" not in text.replace("http-equiv", "")
    words = re.sub(r"<(style|script|pre).*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r"\b(nan|inf|Undefined)\b|>\s*None\s*<", words)
    return page, text


@pytest.fixture(scope="module")
def study() -> Analysis:
    return analysis(7, 3, larger=["mti_net"], published=True, logs=True)


@pytest.fixture(scope="module")
def whole(study: Analysis) -> tuple[Page, str]:
    return checked([study], [made_up_gallery({"semantic": study.results.tasks["semantic"]}, 2, (24, 32))])


def test_the_page_s_rules_name_its_scripts_and_no_other(whole: tuple[Page, str]) -> None:
    page, _ = whole
    scripts = [plotly() if text == "PLOTLY" else text for text in page.scripts]
    named = re.findall(r"'sha256-([^']+)'", page.policy)
    made = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert sorted(named) == sorted(made)
    assert len(made) == 3
    assert "default-src 'none'" in page.policy
    script_rule = next(rule for rule in page.policy.split(";") if "script-src" in rule)
    assert "unsafe" not in script_rule


def test_the_page_s_own_script_makes_no_code_and_asks_for_nothing() -> None:
    script = (HERE / "study.js").read_text()
    for word in ("eval", "Function(", "innerHTML", "outerHTML", "insertAdjacent", "document.write", "fetch(",
                 "XMLHttpRequest", "import(", "localStorage", "document.cookie"):  # fmt: skip
        assert word not in script


def test_every_part_is_there(whole: tuple[Page, str], study: Analysis) -> None:
    page, text = whole
    for name in ("numbers", "gain", "tests", "learning", "balancing", "affinity", "images", "costs", "fair",
                 "published", "how"):  # fmt: skip
        assert f"s1-{name}" in page.ids, name
    told = html.unescape(re.sub(r"<[^>]*>", "", text)).replace("−", "-")
    for sentence in summary([study]):
        assert sentence in told
    for answer in answers([study]):
        assert answer.question in told
        assert answer.text in told
    for sentence in (*study.results.alike, *study.results.unlike):
        assert sentence in told
    for what, value in facts(study.results):
        assert f"<dt>{what}</dt><dd>{value}</dd>" in text
    assert "<dt>Backbone and weights</dt>" in text
    for arm in study.results.arms:
        assert f"Recipe of {arm.name}" in page.summaries


def test_every_number_of_the_tables_is_on_the_page(whole: tuple[Page, str], study: Analysis) -> None:
    cells = {html.unescape(re.sub(r"<[^>]*>", "", text)).strip().replace("−", "-") for text in
             re.findall(r"<td[^>]*>(.*?)</td>", whole[1], flags=re.DOTALL)}  # fmt: skip
    for table in (score_tables.headline(study), *score_tables.measures(study)):
        for row in table.rows:
            for cell in row[1:]:
                assert any(found.startswith(cell.text) for found in cells), cell.text
                assert any(cell.interval in found for found in cells), cell.interval


def test_bold_is_what_the_analysis_calls_best_and_nothing_else() -> None:
    apart = analysis(4, 3, noise=1e-4, names=["mtl", "mti_net", "mgda"])
    assert apart.best
    tables = [score_tables.headline(apart), *score_tables.measures(apart)]
    page, text = checked([apart])
    bold = [cell.text for table in tables for row in table.rows for cell in row if cell.bold]
    assert len(bold) >= len(apart.best)
    assert [found for found in bold if found.replace("-", "−") not in page.bold] == []
    even = replace(apart, best={})
    assert checked([even])[0].bold == []
    assert text.count("<b>") == text.count("<caption>") - text.count('class="heat"')  # titles of tables


def test_names_are_text_and_never_mark_up() -> None:
    found = analysis(3, 2, logs=True)
    odd = "</script><img src=x onerror=alert(1)> & 'quotes\" -- 1"

    def named(name: Any) -> Any:
        return odd if name == "mtl" else name

    results = replace(
        found.results,
        arms=tuple(replace(arm, name=named(arm.name)) for arm in found.results.arms),
        unlike=(f"{odd} failed",),
    )
    comparisons = {
        key: tuple(
            replace(pair, first=named(pair.first), second=named(pair.second), better=named(pair.better))
            for pair in pairs
        )
        for key, pairs in found.comparisons.items()
    }  # fmt: skip
    assert found.ranks is not None
    ranks = replace(
        found.ranks,
        mean={named(name): rank for name, rank in found.ranks.mean.items()},
        cliques=tuple(tuple(map(named, group)) for group in found.ranks.cliques),
    )
    page, text = checked([
        replace(
            found, results=results, comparisons=comparisons, ranks=ranks,
            estimates={named(name): of for name, of in found.estimates.items()},
            best={key: named(arm) for key, arm in found.best.items()},
            fronts={cost: tuple(map(named, arms)) for cost, arms in found.fronts.items()},
        )
    ])  # fmt: skip
    assert "<img" not in text
    drawn = {
        trace["meta"]["arm"] for chart in page.data.values() for trace in chart["data"] if "meta" in trace
    }
    assert odd in drawn
    arms = [json.loads(html.unescape(given)) for given in re.findall(r'data-arms="([^"]*)"', text)]
    assert [odd] in arms


def test_several_studies_stand_apart_under_one_summary(study: Analysis) -> None:
    other = analysis(4, 2, name="other", data="nyud")
    page, text = checked([study, other])
    assert {"s1-numbers", "s2-numbers", "s1-study", "s2-study"} <= set(page.ids)
    assert page.ids.count("summary") == 1
    assert "<title>Studies compared</title>" in text
    assert render([study], title="Mine").count("<h1>Mine</h1>") == 1


def test_what_was_not_logged_or_measured_is_said(study: Analysis) -> None:
    bare = analysis(3, 2)
    arms = tuple(replace(arm, cost=None) for arm in bare.results.arms)
    page, text = checked([replace(bare, results=replace(bare.results, arms=arms), ranks=None)])
    assert "No losses were logged." in text
    assert "No weights were logged by mtl and mti_net." in text
    assert "Nothing was measured: runs with <code>training.affinity_every</code>" in text
    for name in ("costs", "published", "images"):
        assert f"s1-{name}" not in page.ids
    assert not [plot for plot in page.plots if "front" in plot or "rank" in plot]


def test_an_unfinished_study_has_a_page_all_the_same() -> None:
    begun = analysis(3, 1)
    arms = tuple(
        replace(arm, seeds=(), cost=None, missing=(0,), failed={0: "out of <memory>"})
        for arm in begun.results.arms
    )
    results = replace(begun.results, arms=arms, unlike=("mtl, seed 0, failed: out of <memory>",))
    empty = replace(begun, results=results, estimates={}, comparisons={}, ranks=None, best={}, fronts={})
    _, text = checked([empty])
    assert "No arm has finished" in text
    assert "out of &lt;memory&gt;" in text


def test_measured_affinities_and_gradients_are_tables_of_colours(study: Analysis) -> None:
    from tests.study.test_diagnosis_page import line  # a line of measured gradients

    lines = [
        {"step": 2, "affinity": {"depth": {"depth": 0.02, "normals": -0.01}, "normals": {"depth": -0.00001}}},
        {"step": 2, "loss": {"depth": 1.0, "normals": 1.0}, "weight": {"depth": 1.0, "normals": 1.0}},
    ]
    measured = [*lines, line(2, {"depth": {"normals": -0.5}}, norm={"depth": 1.0, "normals": 2.0})]
    arms = tuple(
        with_lines(arm, dict.fromkeys(range(3), measured)) if arm.name == "mtl" else arm
        for arm in study.results.arms
    )
    page, text = checked([replace(study, results=replace(study.results, arms=arms))])
    assert "mtl: affinity, of row onto column (%)" in text
    for cell in ("2.00", "−1.00", "−0.50"):
        assert f">{cell}</td>" in text
    assert ">−0.00<" not in text
    assert "Gradients of mtl, first seed" in page.summaries


def test_published_numbers_stand_in_their_own_table_alone(whole: tuple[Page, str]) -> None:
    _, text = whole
    start = text.index('id="s1-published"')
    end = text.index("</section>", start)
    assert "0.587" in text[start:end]
    assert "A Paper, Table 1" in text[start:end]
    rest = re.sub(r"<pre.*?</pre>", "", text[:start] + text[end:], flags=re.DOTALL)  # recipes hold them, too
    assert ">0.587" not in rest
    assert "A Paper" not in rest


def test_each_log_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    lines = [{"step": 1, "loss": {"depth": 1.0}}]
    monkeypatch.setattr(MadeUpRun, "log", property(lambda run: reads.append(str(run.path)) or lines))
    found = analysis(4, 2)
    render([found])
    assert sorted(reads) == sorted(str(run.path) for arm in found.results.arms for run in arm.runs)


def test_twelve_arms_with_pictures_make_less_than_twelve_megabytes() -> None:
    found = analysis(12, 3, logs=True)
    pictures = made_up_gallery({"depth": found.results.tasks["depth"]}, 12, (96, 128))
    size = len(render([found], [replace(pictures, shown=pictures.shown * 8)]).encode())
    assert size < 12e6
    assert size - len(render([found]).encode()) > 0.5 * BYTES  # there are pictures to make small
