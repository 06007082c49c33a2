"""The demo as a visitor uses it, in a browser: pictures in, words under the cursor, sliders, 3D, phones."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.demo.visitor import Visitor, visitor
from tests.study.test_browser import CHROMIUM

import plait
from plait.demo import Demo, serving
from plait.inference import Prediction, Predictor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)"),
    pytest.mark.filterwarnings("ignore::Warning"),  # of Gradio and its server, in threads of their own
]

MAPS = ("semantic", "depth", "normals", "edges", "saliency")


def figure(task: str) -> str:
    """The selector of a map."""
    return f".plait-map:nth-of-type({MAPS.index(task) + 2})"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    assert CHROMIUM is not None
    with visitor(CHROMIUM, tmp_path_factory.mktemp("browser")) as made:
        yield made


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture in which something differs from place to place."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    rows, columns = np.mgrid[:48, :64]
    picture = np.stack([4 * columns, 5 * rows, 40 * ((rows // 8 + columns // 8) % 5)], -1)
    Image.fromarray(picture.astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def made(predictor: Predictor, photo: Path) -> Prediction:
    return predictor(photo)


@pytest.fixture
def looking(served: Demo, browser: Visitor, photo: Path) -> Visitor:
    """A visitor who has given the photo and sees its maps."""
    browser.visit(served.address, 1280, 900)
    browser.give(photo)
    browser.until_seen(0)
    return browser


@pytest.fixture
def content(looking: Visitor, served: Demo) -> Iterator[None]:
    """Nothing was complained of, and nothing was asked of another host."""
    yield
    assert looking.complaints == []
    assert looking.requests
    assert looking.foreign(served.address) == []


def shown_maps(browser: Visitor) -> list[str]:
    found: list[str] = browser.ask("[...document.querySelectorAll('.plait-name')].map(e => e.textContent)")
    return found


@pytest.mark.usefixtures("content")
def test_all_tasks_are_shown_side_by_side_with_their_legends(looking: Visitor, made: Prediction) -> None:
    assert shown_maps(looking) == ["photo", *MAPS]
    tops = looking.ask(
        "[...document.querySelectorAll('.plait-frame')].map(e => e.getBoundingClientRect().left)"
    )
    assert len(set(tops[:3])) == 3  # three in a row
    entries = looking.ask(f"document.querySelector('{figure('semantic')} .plait-legend').textContent")
    for name in {made["semantic"].classes[number] for number in np.unique(made["semantic"].values)}:
        assert name in entries
    bar = looking.ask(f"document.querySelector('{figure('depth')} .plait-scale').getAttribute('aria-label')")
    assert bar == "Colours of depth: from 0 m to 8 m"
    assert "faces up" in looking.ask(f"document.querySelector('{figure('normals')}').textContent")


@pytest.mark.usefixtures("content")
def test_pictures_are_those_of_the_tasks(looking: Visitor, made: Prediction, tmp_path: Path) -> None:
    for task in MAPS:
        path = tmp_path / f"{task}.png"
        path.write_bytes(looking.pixels(f"{figure(task)} canvas"))
        found = np.asarray(Image.open(path).convert("RGB")).astype(int)
        assert np.abs(found - made[task].picture).max() <= 3  # at most one step of a colour bar
        assert np.abs(found - made[task].picture).mean() < 0.1


@pytest.mark.usefixtures("content")
def test_the_word_under_the_cursor_is_the_one_of_the_prediction(looking: Visitor, made: Prediction) -> None:
    for over, row, column in (
        ("depth", 3, 5),
        ("semantic", 47, 0),
        ("saliency", 20, 63),
        ("normals", 30, 31),
    ):
        looking.point(f"{figure(over)} canvas", (column + 0.5) / 64, (row + 0.5) / 48)
        assert looking.words() == {task: found.at(row, column) for task, found in made.items()}
        crosses = looking.ask(
            "[...document.querySelectorAll('.plait-map')].map(e =>"
            "[e.querySelector('.plait-down').style.left, e.querySelector('.plait-across').style.top])"
        )
        assert len(crosses) == 6
        assert len({tuple(cross) for cross in crosses}) == 1
        assert float(crosses[0][0][:-1]) == pytest.approx(100 * (column + 0.5) / 64, abs=1e-3)


@pytest.mark.usefixtures("content")
def test_words_are_read_by_the_keyboard_too(looking: Visitor, made: Prediction) -> None:
    looking.ask(f"document.querySelector('{figure('edges')} canvas').focus()")
    looking.press("ArrowRight")
    looking.press("ArrowDown")
    assert looking.words() == {task: found.at(25, 33) for task, found in made.items()}
    told = looking.ask("document.querySelector('.plait-reading').textContent")
    assert told == "; ".join(f"{task}: {found.at(25, 33)}" for task, found in made.items())


@pytest.mark.usefixtures("content")
def test_sliders_change_what_is_shown_without_the_network(looking: Visitor) -> None:
    asked = len(looking.requests)

    def pictures() -> dict[str, bytes]:
        return {task: looking.pixels(f"{figure(task)} canvas") for task in MAPS}

    before = pictures()
    looking.slide(f"{figure('edges')} input[type=range]", 50)
    after = pictures()
    assert {task for task in MAPS if after[task] != before[task]} == {"edges"}
    assert looking.ask(f"document.querySelector('{figure('edges')} .plait-slider output').value") == "50 %"
    looking.slide(f"{figure('depth')} .plait-slider:nth-of-type(2) input", 20)
    assert (
        looking.ask(f"document.querySelector('{figure('depth')} .plait-scale').textContent") == "0.00 m2.00 m"
    )
    assert pictures()["depth"] != before["depth"]
    looking.click(f"{figure('depth')} .plait-button")
    before = pictures()
    looking.click(f"{figure('semantic')} .plait-entry")
    assert looking.ask(f"document.querySelector('{figure('semantic')} [aria-pressed=true]') !== null")
    looking.slide(".plait-opacity", 40)
    after = pictures()
    assert all(after[task] != before[task] for task in MAPS)
    looking.slide(".plait-opacity", 0)
    assert len(set(pictures().values())) == 1  # only the photo
    assert len(looking.requests) == asked


@pytest.mark.usefixtures("content")
def test_the_surface_is_coloured_by_any_task_and_turns(looking: Visitor, tmp_path: Path) -> None:
    time.sleep(0.3)
    options = looking.ask("[...document.querySelector('.plait-colour').options].map(o => o.value)")
    assert options == ["photo", *MAPS]
    asked, seen = len(looking.requests), {looking.pixels(".plait-canvas")}
    for task in MAPS:
        looking.choose(".plait-colour", task)
        seen.add(looking.pixels(".plait-canvas"))
    assert len(seen) == 1 + len(MAPS)
    last = looking.pixels(".plait-canvas")
    for change in (
        lambda: looking.drag(".plait-canvas", 80, 30),
        lambda: looking.slide(".plait-view", 90),
        lambda: looking.ask("document.querySelector('.plait-canvas').focus()") or looking.press("ArrowRight"),
    ):
        change()
        looking.settle()
        now = looking.pixels(".plait-canvas")
        assert now != last
        last = now
    (tmp_path / "space.png").write_bytes(last)
    drawn = np.asarray(Image.open(tmp_path / "space.png"))[..., 3] > 0
    assert drawn.mean() > 0.05
    assert len(looking.requests) == asked


@pytest.mark.usefixtures("content")
@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_needs_no_scrolling_to_the_side(looking: Visitor, dark: bool, tmp_path: Path) -> None:
    looking.scheme(dark=dark)
    looking.resize(390, 844)
    time.sleep(0.5)
    looking.ask("document.querySelector('details').open = true")
    assert looking.ask("document.documentElement.scrollWidth") <= 390
    sides = looking.ask(
        "[...document.querySelectorAll('.plait-map, .plait-canvas')]"
        ".map(e => e.getBoundingClientRect().right)"
    )
    assert max(sides) <= 390
    looking.photograph(tmp_path / "phone.png", whole=True)
    assert (tmp_path / "phone.png").stat().st_size > 50_000


@pytest.mark.usefixtures("content")
def test_every_control_is_reached_by_the_keyboard_and_has_a_name(looking: Visitor) -> None:
    wanted = looking.ask(
        "[...document.querySelectorAll('.plait-viewer :is(input, select, button, canvas[tabindex]),"
        ".plait-examples button')].filter(e => e.offsetParent).length"
    )
    reached = set()
    looking.ask("document.body.focus()")
    for _ in range(wanted + 40):
        looking.press("Tab")
        where = looking.ask(
            "(() => { const all = [...document.querySelectorAll('.plait-viewer *, .plait-examples *')];"
            "const e = document.activeElement; const place = all.indexOf(e);"
            "if (place < 0) return null;"
            "const name = e.ariaLabel || e.textContent.trim() || e.closest('label')?.textContent.trim()"
            " || e.querySelector('img')?.alt || '';"
            "return [place, name]; })()"
        )
        if where is not None:
            assert where[1], f"element {where[0]} has no name"
            reached.add(where[0])
    assert len(reached) == wanted
    without = looking.ask("[...document.images].filter(i => i.offsetParent && !i.alt).length")
    assert without == 0


def test_an_example_is_looked_at_and_what_is_no_picture_is_told(
    served: Demo, browser: Visitor, tmp_path: Path
) -> None:
    browser.visit(served.address, 1280, 900)
    bad = tmp_path / "bad.png"
    bad.write_text("no picture")
    browser.give(bad)
    browser.until("/This is not a PNG, JPEG, WebP or TIFF picture/.test(document.body.innerText)")
    assert not re.search(r"Traceback|File \"|Error:", browser.ask("document.body.innerText"))
    browser.click(".plait-examples button:nth-of-type(2)")
    browser.until_seen(0)
    assert shown_maps(browser) == ["photo", *MAPS]
    assert browser.complaints == []
    assert browser.foreign(served.address) == []


def test_a_strip_is_no_higher_than_the_window(served: Demo, browser: Visitor, tmp_path: Path) -> None:
    Image.new("RGB", (2, 600), (200, 150, 90)).save(tmp_path / "strip.png")
    browser.visit(served.address, 1280, 900)
    browser.give(tmp_path / "strip.png")
    browser.until_seen(0)
    assert browser.box(".plait-frame")[3] <= 900


def test_the_camera_gives_a_picture(served: Demo, browser: Visitor) -> None:
    browser.visit(served.address, 1280, 900)
    browser.click("button[aria-label='Capture from camera']")
    browser.until("[...document.querySelectorAll('button')].some(b => /Access Webcam/.test(b.textContent))")
    browser.ask(
        "[...document.querySelectorAll('button')].find(b => /Access Webcam/.test(b.textContent)).click()"
    )
    browser.until("document.querySelector('button[aria-label=\"capture photo\"]') !== null")
    time.sleep(1)  # until the camera's first picture is there
    browser.ask("document.querySelector('button[aria-label=\"capture photo\"]').click()")
    browser.until_seen(0)
    assert shown_maps(browser) == ["photo", *MAPS]
    assert browser.foreign(served.address) == []


def test_a_network_without_depth_says_why_there_is_no_3d_view(
    run: Path, browser: Visitor, photo: Path
) -> None:
    with serving(plait.load(run, tasks=["semantic", "edges"], device="cpu"), port=0) as demo:
        browser.visit(demo.address, 1280, 900)
        browser.give(photo)
        browser.until_seen(0)
        assert shown_maps(browser) == ["photo", "semantic", "edges"]
        assert "predicts no depth in metres" in browser.ask(
            "document.querySelector('.plait-space').innerText"
        )
        assert browser.ask("document.querySelector('.plait-canvas').offsetParent === null")
        assert browser.complaints == []


def test_a_class_called_like_a_script_runs_none(
    run: Path, browser: Visitor, photo: Path, tmp_path: Path
) -> None:
    import shutil

    hostile = tmp_path / "<img src=x onerror=document.title='pwned'>"
    shutil.copytree(run, hostile)
    recipe = hostile / "recipe.yaml"
    names = [
        f"<img src=x onerror=\"document.title='pwned'\">${{{number}}}{{{{{number}}}}}" for number in range(20)
    ]
    text = recipe.read_text()
    assert "classes: 20" in text
    recipe.write_text(text.replace("classes: 20", f"classes: {json.dumps(names)}"))
    with serving(plait.load(hostile, device="cpu"), port=0) as demo:
        browser.visit(demo.address, 1280, 900)
        browser.give(photo)
        browser.until_seen(0)
        browser.ask("document.querySelector('details').open = true")
        assert "<img src=x" in browser.ask("document.querySelector('.plait-legend').textContent")
        assert "pwned" not in browser.ask("document.title").replace("document.title='pwned'", "")
        assert browser.ask("document.querySelectorAll('.plait-viewer img, .plait-header img').length") == 0
