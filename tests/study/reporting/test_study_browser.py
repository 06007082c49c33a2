"""The page in a browser: charts are drawn, nothing overflows or is fetched, and a keyboard is enough."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.study.reporting.devtools import Browser, browser
from tests.study.reporting.made_up import analysis, worked_out
from tests.study.reporting.trained import trained
from tests.study.test_browser import CHROMIUM

from plait.study.reporting import gallery
from plait.study.reporting.page import render

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)"),
]

SIZES = {"desktop": (1280, 800), "phone": (390, 844)}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    assert CHROMIUM is not None
    with browser(CHROMIUM, tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks that were trained for a few steps, with pictures, and a made-up study beside them."""
    folder = tmp_path_factory.mktemp("study")
    results = trained(folder)
    other = analysis(9, 3, larger=["mti_net"], published=True, logs=True, name="made up")
    file = folder / "study.html"
    file.write_text(render([worked_out(results), other], [gallery.draw(results, images=2)]))
    return file


def scroll_through(tab: Browser) -> None:
    """Looks at the whole page, so that all charts are drawn."""
    tab.ask("""(async () => {
      document.documentElement.style.scrollBehavior = "auto";
      for (let y = 0; y < document.body.scrollHeight; y += innerHeight) {
        scrollTo(0, y);
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)));
      }
      scrollTo(0, 0);
    })()""")


def drawn(tab: Browser) -> str:
    """Charts that have room, and those of them that are drawn."""
    return str(
        tab.ask("""JSON.stringify((() => {
      const shown = [...document.querySelectorAll(".plot")].filter((plot) => plot.clientWidth);
      return [shown.length, shown.filter((plot) => plot.querySelector("svg.main-svg .trace")).length];
    })())""")
    )


def focus(tab: Browser, selector: str) -> None:
    tab.ask(f"document.querySelector({json.dumps(selector)}).focus()")


def column(tab: Browser, place: int, table: str = "s2-headline") -> list[Any]:
    """What a column is sorted by, from top to bottom."""
    return list(tab.ask(
        f"[...document.getElementById('{table}').tBodies[0].rows].map((row) => "
        f"row.cells[{place}].dataset.value === undefined ? null : Number(row.cells[{place}].dataset.value))"
    ))  # fmt: skip


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", list(SIZES))
def test_charts_are_drawn_and_nothing_overflows_or_is_fetched(
    chromium: Browser, page: Path, tmp_path: Path, size: str, dark: bool
) -> None:
    chromium.open(page, *SIZES[size], dark=dark)
    scroll_through(chromium)
    ready = "(plot) => !plot.clientWidth || plot.querySelector('svg')"
    chromium.until(f"[...document.querySelectorAll('.plot')].every({ready})")
    count, done = json.loads(drawn(chromium))
    assert count == done > 20
    found = chromium.ask("""({
      width: document.documentElement.clientWidth,
      overflow: document.documentElement.scrollWidth,
      broken: [...document.images].filter((image) => image.complete && !image.naturalWidth).length,
      images: document.images.length,
      small: [...document.querySelectorAll("td, th, p, li, figcaption, caption, button, label")]
        .filter((part) => part.checkVisibility() && parseFloat(getComputedStyle(part).fontSize) < 12).length,
      dark: getComputedStyle(document.body).backgroundColor === "rgb(21, 21, 23)",
    })""")
    assert found["overflow"] == found["width"] == SIZES[size][0]
    assert found["images"] > 50
    assert found["broken"] == found["small"] == 0
    assert found["dark"] is dark
    chromium.ask("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert chromium.ask("document.documentElement.scrollWidth") == SIZES[size][0]
    chromium.photograph(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000
    assert chromium.complaints == []
    assert chromium.requests == []


def test_a_key_sorts_and_the_table_says_so(chromium: Browser, page: Path) -> None:
    chromium.open(page, *SIZES["desktop"])
    place = 2
    head = f"#s2-headline .heads th:nth-child({place + 1})"
    focus(chromium, f"{head} button")
    orders = []
    for key in ("Enter", " "):
        chromium.press(key)
        orders.append(chromium.ask(f"document.querySelector('{head}').getAttribute('aria-sort')"))
        values = column(chromium, place)
        assert None not in values
        assert values == sorted(values, reverse=orders[-1] == "descending")
        assert orders[-1] in chromium.ask("document.getElementById('said').textContent")
        assert chromium.ask("document.querySelectorAll('#s2-headline [aria-sort]').length") == 1
    assert orders == ["ascending", "descending"]
    focus(chromium, "#s2-headline .heads th:first-child button")
    chromium.press("Enter")
    names = chromium.ask(
        "[...document.querySelectorAll('#s2-headline tbody th')].map((head) => head.textContent.trim())"
    )
    assert names == sorted(names, key=str.lower)
    assert chromium.ask(f"document.querySelector('{head}').hasAttribute('aria-sort')") is False


def test_arms_are_filtered_by_text_and_by_role(chromium: Browser, page: Path) -> None:
    def rows(table: str) -> int:
        return int(chromium.ask(
            f"[...document.querySelectorAll('#{table} tbody tr')].filter((row) => !row.hidden).length"
        ))  # fmt: skip

    chromium.open(page, *SIZES["desktop"])
    every = rows("s1-headline"), rows("s2-headline"), rows("s2-cost"), rows("s2-pairs-1-1")
    focus(chromium, "#s2 .find")
    chromium.write("MTI")
    assert rows("s2-headline") == rows("s2-cost") == 2  # mti_net, and the larger networks made for it
    assert rows("s2-pairs-1-1") == 2 * (every[1] - 2) + 1
    assert rows("s1-headline") == every[0]
    assert chromium.ask("document.querySelector('#s2 output').textContent") == f"2 of {every[1]} arms"
    chromium.ask("""(() => { const role = document.querySelector("#s2 .role");
      role.value = "arm"; role.dispatchEvent(new Event("change")); })()""")
    assert rows("s2-headline") == 1
    chromium.ask("""(() => {
      const find = document.querySelector("#s2 .find"), role = document.querySelector("#s2 .role");
      find.value = ""; role.value = ""; find.dispatchEvent(new Event("input")); })()""")
    assert (rows("s1-headline"), rows("s2-headline"), rows("s2-cost"), rows("s2-pairs-1-1")) == every


def test_a_row_s_intervals_are_seen_when_it_has_the_focus(chromium: Browser, page: Path) -> None:
    def seen(which: str) -> float:
        return float(chromium.ask(
            f"getComputedStyle(document.querySelector('#s2-headline tbody tr:nth-child(3) .{which}')).opacity"
        ))  # fmt: skip

    chromium.open(page, *SIZES["desktop"])
    assert (seen("mean"), seen("ends")) == (1, 0)
    focus(chromium, "#s2-headline tbody tr:nth-child(3) a")
    assert (seen("mean"), seen("ends")) == (0, 1)
    chromium.ask("document.activeElement.blur()")
    focus(chromium, "#s2 input.ends")
    chromium.press(" ")
    assert (seen("mean"), seen("ends")) == (0, 1)


def test_arms_leave_all_charts_and_pictures_and_come_back(chromium: Browser, page: Path) -> None:
    chromium.open(page, *SIZES["desktop"])
    scroll_through(chromium)
    counted = """JSON.stringify([
      document.querySelectorAll("#s1-front-macs .scatterlayer .trace").length,
      [...document.querySelectorAll("#s1 figure[data-arm=mgda]")].filter((figure) => figure.hidden).length,
      [...document.querySelectorAll("#s1 .key [data-arm=mgda]")].map((button) => button.ariaPressed),
    ])"""
    before = json.loads(chromium.ask(counted))
    focus(chromium, "#s1 .key [data-arm=mgda]")
    chromium.press(" ")
    chromium.until(f"JSON.parse({counted})[0] < {before[0]}")
    traces, away, pressed = json.loads(chromium.ask(counted))
    assert traces == before[0] - 1
    assert away > before[1] == 0
    assert set(pressed) == {"false"}
    chromium.press("Enter")
    chromium.until(f"JSON.parse({counted})[0] === {before[0]}")
    assert json.loads(chromium.ask(counted)) == before
    assert chromium.complaints == []


def test_the_switch_of_costs_works_by_arrow_keys(chromium: Browser, page: Path) -> None:
    chromium.open(page, *SIZES["phone"])
    focus(chromium, "#s2 .switch input:checked")
    chromium.press("ArrowRight")
    shown = "[...document.querySelectorAll('#s2 .choice:not([hidden])')].map((part) => part.dataset.choice)"
    assert chromium.ask(shown) == ["s2-front-parameters"]
    chromium.until("document.querySelector('#s2-front-parameters svg.main-svg') !== null")


def test_colours_of_charts_follow_the_system_and_the_button(chromium: Browser, page: Path) -> None:
    line = """getComputedStyle(document.querySelector("#s1-front-macs .scatterlayer .point")).fill"""
    chromium.open(page, *SIZES["desktop"])
    chromium.ask("document.getElementById('s1-front-macs').scrollIntoView({behavior: 'instant'})")
    chromium.until("document.querySelector('#s1-front-macs .scatterlayer .point') !== null")
    light = chromium.ask(line)
    chromium.scheme(dark=True)
    chromium.until(f"{line} !== '{light}'")
    dark = chromium.ask(line)
    focus(chromium, "button.theme")
    chromium.press("Enter")  # light, whatever the system says
    chromium.until(f"{line} === '{light}'")
    chromium.press("Enter")
    chromium.until(f"{line} === '{dark}'")
    chromium.scheme(dark=False)
    assert chromium.ask(line) == dark
    assert chromium.ask("getComputedStyle(document.body).backgroundColor") == "rgb(21, 21, 23)"


@pytest.mark.parametrize("size", list(SIZES))
def test_everything_that_does_something_is_reached_by_tab(chromium: Browser, page: Path, size: str) -> None:
    chromium.open(page, *SIZES[size])
    chromium.ask("""(() => {
      const all = document.querySelectorAll("a, button, input, select, summary, pre, .scroll");
      const other = (part) => part.type === "radio" && !part.checked; // reached by arrow keys
      window.wanted = new Set([...all].filter((part) => part.checkVisibility() && !other(part)));
      window.unseen = 0;
      document.addEventListener("focusin", ({target}) => {
        wanted.delete(target);
        const style = getComputedStyle(target);
        if (style.outlineStyle === "none" || parseFloat(style.outlineWidth) === 0) unseen += 1;
      });
    })()""")
    assert chromium.ask("[...document.querySelectorAll('[tabindex]')].every((part) => part.tabIndex <= 0)")
    for _ in range(chromium.ask("wanted.size") + 5):
        chromium.press("Tab")
        if chromium.ask("wanted.size") == 0:
            break
    left = chromium.ask("[...wanted].map((part) => part.outerHTML.slice(0, 120))")
    assert left == []
    assert chromium.ask("unseen") == 0
