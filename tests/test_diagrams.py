"""The methods' diagrams are what their script draws, and stand on their own."""

import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PICTURES = sorted((DOCS / "images" / "methods").glob("*.svg"))
SVG = "{http://www.w3.org/2000/svg}"


def test_the_script_draws_the_committed_pictures(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DOCS / "diagrams.py", tmp_path], check=True)
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert drawn == {path.name: path.read_bytes() for path in PICTURES}


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_a_picture_is_read_out_by_its_title_and_description(picture: Path) -> None:
    root = ElementTree.parse(picture).getroot()
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    named = {part.get("id"): part.text for part in root}
    for part in root.get("aria-labelledby", "").split():
        assert named[part]
    assert [part.tag for part in root[:2]] == [f"{SVG}title", f"{SVG}desc"]


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_a_picture_needs_nothing_from_outside(picture: Path) -> None:
    text = picture.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"href|url\(|@import|@font-face|//|<script|<style|<image|<!", text)


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.stem)
def test_all_shapes_lie_on_the_picture_and_all_text_is_large_enough(picture: Path) -> None:
    root = ElementTree.parse(picture).getroot()
    width, height = (float(number) for number in root.get("viewBox", "").split()[2:])
    for box in root.iter(f"{SVG}rect"):
        x, y, w, h = (float(box.get(side, "nan")) for side in ("x", "y", "width", "height"))
        assert min(x, y, width - x - w, height - y - h) >= 0
    for text in root.iter(f"{SVG}text"):
        assert float(text.get("font-size", "nan")) >= 12
