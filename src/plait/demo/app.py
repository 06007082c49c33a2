"""The page, in Gradio: a picture comes in, and what the network says of it goes to the viewer.

What the viewer does with it, ``page/viewer.js`` and ``page/scene.js``, needs no server.
"""

from __future__ import annotations

import html
import importlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

import plait.data
from plait.demo.uploads import MAX_BYTES, MAX_PIXELS, NOT_UPLOADED, fitted, read_upload
from plait.demo.view import as_address, view
from plait.errors import MissingExtraError, PlaitError
from plait.inference import Predictor
from plait.inference.load import HUB

PAGE = Path(__file__).parent / "page"
LONGEST = 640
"""Pictures are shrunk to this before the network sees them, or to its own input where that is larger."""
LONGEST_EVER = 1024
EXAMPLES = (7, 12, 19, 71)
"""Places in the test split of the packaged rooms, on which no recipe trains."""
WAITING = 8
"""Visitors that may wait; the network looks at one picture at a time."""


def import_gradio() -> Any:
    """Gradio.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        return importlib.import_module("gradio")
    except ImportError as error:
        raise MissingExtraError("the demo needs the package gradio: pip install 'plait[demo]'") from error


def name_of(predictor: Predictor) -> str:
    """What a visitor may know of where a network came from: its folder's name, or its name on a hub."""
    return predictor.name if predictor.name.startswith(HUB) else Path(predictor.name).resolve().name


def longest_side(predictor: Predictor) -> int:
    """To how many pixels a side pictures are shrunk for a network."""
    seen = predictor.sizing.size
    return LONGEST_EVER if seen is None else min(LONGEST_EVER, max(LONGEST, *seen))


def look(predictor: Predictor, path: str | None, folder: Path) -> str | None:
    """What the viewer shows of an uploaded picture, as JSON; None of none.

    Raises:
        DataError: If it is not a picture within the limits; the sentence is for the visitor.
    """
    if path is None:
        return None
    return json.dumps(view(predictor(fitted(read_upload(path, folder), longest_side(predictor)))))


def write_examples(folder: Path) -> list[Path]:
    """Writes a few packaged rooms as pictures into a folder, which is made."""
    folder.mkdir()
    rooms = plait.data.create("rooms", split="test", labels=(), cache="none")
    paths = []
    for number, place in enumerate(EXAMPLES, start=1):
        path = folder / f"room-{number}.png"
        Image.fromarray(rooms[place].image.permute(1, 2, 0).numpy()).save(path)
        paths.append(path)
    return paths


def make_blocks(predictor: Predictor, folder: Path) -> Any:
    """The page of a network, as Gradio's ``Blocks``.

    Args:
        predictor: The network.
        folder: Where uploads are, and where the examples are written to.

    Raises:
        MissingExtraError: If Gradio is not installed.
    """
    gr = import_gradio()
    examples = write_examples(folder / NOT_UPLOADED)

    def seen(given: dict[str, Any] | None) -> str | None:
        try:
            return look(predictor, None if given is None else given.get("path"), folder)
        except PlaitError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from error
        except Exception as error:  # a visitor gets a sentence, the terminal the rest
            logging.getLogger(__name__).exception("the network could not look at a picture")
            raise gr.Error("This went wrong; the terminal says where.", print_exception=False) from error

    numbered = {str(number): str(path) for number, path in enumerate(examples)}

    def example(chosen: Any) -> str | None:
        return numbered.get(str(chosen))

    with gr.Blocks(title=f"plait demo: {name_of(predictor)}", analytics_enabled=False) as blocks:
        gr.HTML(introduction(predictor), js_on_load=None, apply_default_css=False)
        with gr.Row(elem_classes="plait-input"):
            picture = gr.Image(
                label="Your picture",
                sources=["upload", "webcam", "clipboard"],
                type="filepath",
                height=260,
                buttons=["fullscreen"],
                alt_text="The picture that the network looks at",
                placeholder="Drop a picture here\nor click to choose one",
                webcam_options=gr.WebcamOptions(mirror=False),
            )
            choice = gr.HTML(
                "",
                html_template=example_buttons(examples),
                js_on_load=script("examples"),
                apply_default_css=False,
            )
        viewer = gr.HTML(
            None,
            html_template=script("viewer", "html"),
            js_on_load=viewer_script(),
            apply_default_css=False,
        )
        # Gradio does not touch what comes in: it would decode whatever Pillow knows, without our limits.
        private = {"api_visibility": "private", "preprocess": False, "show_progress": "hidden"}
        choice.click(example, choice, picture, **private)
        looked = picture.change(seen, picture, viewer, **{**private, "show_progress": "full"})
        looked.failure(lambda: None, None, picture, **private)  # no empty frame where a picture was refused
    blocks.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)
    return blocks


def introduction(predictor: Predictor) -> str:
    """What the page is, for somebody who has never heard of plait."""
    names = [html.escape(task.name.replace("_", " ")) for task in predictor.tasks]
    meanings = "".join(
        f"<li><b>{name}</b>: {html.escape(told(task.meaning, task.classes))}</li>"
        for name, task in zip(names, predictor.tasks, strict=True)
    )
    data, steps = html.escape(predictor.recipe.data.name), predictor.step
    seen = html.escape(predictor.sizing.told())
    return f"""
<header class="plait-header">
  <h1>What one network sees</h1>
  <p>Give it a picture. One neural network, <b>{html.escape(name_of(predictor))}</b>, says of every pixel:
  {_listed(names)}. Point at any of the maps to read all of them there.</p>
  <details>
    <summary>What it predicts, what it was trained on, and what happens to your picture</summary>
    <ul>{meanings}</ul>
    <p>It was trained for {steps} steps on the data set <b>{data}</b> and knows nothing else: on pictures of
    another kind, for instance on photographs if that set was rendered, its maps can be wrong without looking
    so. Metres hold for a camera like that of the training pictures.</p>
    <p>Pictures are {seen} for the network, after they were shrunk to at most {longest_side(predictor)} pixels
    a side. They may have {MAX_BYTES // 2**20} MB and {MAX_PIXELS // 10**6} million pixels. They stay on the
    machine that runs this demo, in a folder that is removed when it ends.</p>
  </details>
</header>"""


def told(meaning: str, classes: Sequence[str]) -> str:
    """What a task's values are.

    >>> told("class id", ("wall", "floor"))
    'one of 2 classes: wall, floor'
    """
    return f"one of {len(classes)} classes: {', '.join(classes)}" if classes else meaning


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def example_buttons(paths: Sequence[Path]) -> str:
    """A button an example."""
    buttons = []
    for number, path in enumerate(paths):
        with Image.open(path) as picture:
            address = as_address(_thumbnail(picture), "JPEG")
        buttons.append(
            f'<button type="button" data-number="{number}"><img src="{address}" width="128" height="96" '
            f'alt="Example {number + 1}: a rendered room"></button>'
        )
    return (
        '<div class="plait-examples" role="group" aria-label="Examples"><p>or try a rendered room that '
        f"the network was not trained on:</p>{''.join(buttons)}</div>"
    )


def _thumbnail(picture: Image.Image) -> Any:
    import numpy as np

    return np.asarray(picture.convert("RGB").resize((256, 192)))


def script(name: str, kind: str = "js") -> str:
    """A part of the page."""
    return (PAGE / f"{name}.{kind}").read_text(encoding="utf-8")


def viewer_script() -> str:
    """What the viewer does."""
    return f"{script('scene')}\n{script('viewer')}"


def head() -> str:
    """What goes into the page's head."""
    return f"<style>{script('page', 'css')}</style>"
