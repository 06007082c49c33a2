"""Photographs the demo of a run of all five tasks: the pictures of docs/demo.md.

Run by hand from the repository's root, with Chromium installed, after
`plait train rooms_five --out runs/five`:

    .venv/bin/python -m docs.demo_pictures runs/five
"""

import io
import shutil
import sys
import tempfile
import time
from pathlib import Path

import skimage.data
from PIL import Image
from tests.demo.visitor import Visitor, visitor

import plait
from plait.demo import serving

OUT = Path(__file__).parent / "images"
ROOMS = (10, 30, 50, 70)
"""Places in the test split of the packaged rooms, spread evenly: chosen by position, not by result."""
PHOTOS = {"coffee": skimage.data.coffee, "cat": skimage.data.chelsea}
"""Both CC0: a table by Rachel Michetti, a cat by Stefan van der Walt."""


def save(shot: Path, name: str, width: int | None = None) -> None:
    """Keeps a photograph as JPEG, shrunk to a width."""
    with Image.open(shot) as opened:
        picture = opened.convert("RGB")
    if width is not None:
        picture = picture.resize(
            (width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS
        )
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=82, optimize=True, progressive=True)
    (OUT / name).write_bytes(stream.getvalue())
    print(f"{name}: {picture.width}x{picture.height}, {len(stream.getvalue()) // 1024} kB")


def give(
    browser: Visitor, address: str, picture: Path, *, width: int, height: int, dark: bool = False
) -> None:
    """Opens the page and gives it a picture."""
    browser.visit(address, width, height, dark=dark)
    browser.give(picture)
    browser.until_seen(0)
    time.sleep(1)  # what fades in has


def beside(browser: Visitor, shot: Path, places: list[tuple[str, str | None]]) -> None:
    """Photographs the window at several places of the page, beside each other; colours the surface before."""
    parts = []
    for selector, colour in places:
        if colour is not None:
            browser.choose(".plait-colour", colour)
        browser.ask(f"document.querySelector({selector!r}).scrollIntoView({{behavior: 'instant'}})")
        time.sleep(0.5)
        browser.photograph(shot)
        with Image.open(shot) as opened:
            parts.append(opened.convert("RGB"))
    width = sum(part.width for part in parts) + 16 * (len(parts) - 1)
    together = Image.new("RGB", (width, parts[0].height), "white")
    for number, part in enumerate(parts):
        together.paste(part, (number * (part.width + 16), 0))
    together.save(shot)


def main() -> None:
    """Makes all pictures."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if len(sys.argv) != 2 or chromium is None:
        sys.exit("give a run's folder, and install Chromium")
    OUT.mkdir(exist_ok=True)
    rooms = plait.data.create("rooms", split="test", labels=(), cache="none")
    predictor = plait.load(sys.argv[1], device="cpu")
    with tempfile.TemporaryDirectory() as kept, visitor(chromium, Path(kept)) as browser:
        folder = Path(kept)
        shot = folder / "shot.png"
        pictures = {f"room-{number}": folder / f"{number}.png" for number in range(1, 5)}
        for place, path in zip(ROOMS, pictures.values(), strict=True):
            Image.fromarray(rooms[place].image.permute(1, 2, 0).numpy()).save(path)
        for name, photo in PHOTOS.items():
            pictures[name] = folder / f"{name}.png"
            Image.fromarray(photo()).save(pictures[name])
        with serving(predictor, port=0) as demo:
            give(browser, demo.address, pictures["room-4"], width=1280, height=900)
            browser.point(".plait-map:nth-of-type(3) canvas", 0.62, 0.47)
            browser.ask("scrollTo(0, 0)")
            browser.resize(1280, 1420)
            browser.settle()
            browser.photograph(shot)
            save(shot, "demo-desktop.jpg")

            browser.ask("document.querySelector('.plait-viewer').style.width = '1180px'")
            browser.photograph_part(".plait-space", shot)
            with Image.open(shot) as first:
                first.load()
            browser.choose(".plait-colour", "semantic")
            browser.drag(".plait-canvas", 110, 20)
            browser.settle()
            browser.photograph_part(".plait-canvas", shot)
            with Image.open(shot) as second:
                both = Image.new("RGB", (first.width, first.height + second.height + 12), "white")
                both.paste(first, (0, 0))
                both.paste(second, (0, first.height + 12))
            both.save(shot)
            save(shot, "demo-3d.jpg", 1000)

            give(browser, demo.address, pictures["room-1"], width=390, height=844, dark=True)
            beside(browser, shot, [("header", None), (".plait-bar", None), (".plait-space", "semantic")])
            save(shot, "demo-phone.jpg")

            for name, picture in pictures.items():
                give(browser, demo.address, picture, width=1280, height=900)
                browser.photograph_part(".plait-maps", shot)
                save(shot, f"demo-gallery-{name}.jpg", 1100)
    print(f"{sum(path.stat().st_size for path in OUT.glob('demo-*')) // 1024} kB in all")


if __name__ == "__main__":
    main()
