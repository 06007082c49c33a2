"""A visitor of the demo: a browser that opens addresses, points, drags, and gives pictures."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.study.reporting.devtools import Browser

FLAGS = (
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",  # a camera
    "--enable-unsafe-swiftshader", "--use-angle=swiftshader", "--ignore-gpu-blocklist",  # WebGL, slowly
)  # fmt: skip


class Visitor(Browser):
    """A browser's tab at a demo."""

    def visit(self, address: str, width: int, height: int, *, dark: bool = False) -> None:
        """Opens an address in a window of a size; forgets what was complained of and asked for."""
        self.resize(width, height)
        self.scheme(dark=dark)
        self.complaints.clear()
        self.requests.clear()
        self._call("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")
        self.until("document.querySelector('.plait-examples button') !== null")

    def resize(self, width: int, height: int) -> None:
        """Gives the window another size; narrow ones are phones."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        self._call("Emulation.setTouchEmulationEnabled", enabled=width < 500)

    def give(self, file: Path) -> None:
        """Chooses a file to look at."""
        root = self._call("DOM.getDocument", depth=-1)["root"]["nodeId"]
        found = self._call("DOM.querySelector", nodeId=root, selector="input[type=file]")["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=found, files=[str(file)])

    def seen(self) -> int:
        """How many predictions were shown; 0 before the first."""
        return int(self.ask("document.querySelector('.plait-shown').dataset.count || 0"))

    def until_seen(self, before: int) -> None:
        """Waits for the next prediction."""
        self.until(
            f"Number(document.querySelector('.plait-shown').dataset.count || 0) > {before} && "
            "!document.querySelector('.plait-shown').hidden"
        )
        self.settle()

    def settle(self) -> None:
        """Waits for the next two frames."""
        self.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of the first element, scrolled into view."""
        box = self.ask(
            f"(() => {{ const e = document.querySelector({selector!r});"
            "e.scrollIntoView({block: 'center', behavior: 'instant'}); const b = e.getBoundingClientRect();"
            "return [b.left, b.top, b.width, b.height]; })()"
        )
        return tuple(box)

    def point(self, selector: str, x: float, y: float) -> None:
        """Moves the mouse to a place in an element, in parts of its width and height."""
        left, top, width, height = self.box(selector)
        self._call("Input.dispatchMouseEvent", type="mouseMoved", x=left + x * width, y=top + y * height)
        self.settle()

    def drag(self, selector: str, right: float, down: float) -> None:
        """Drags from the middle of an element, in pixels."""
        left, top, width, height = self.box(selector)
        x, y = left + width / 2, top + height / 2
        for kind, dx, dy in (
            ("mousePressed", 0.0, 0.0),
            ("mouseMoved", right, down),
            ("mouseReleased", right, down),
        ):
            self._call(
                "Input.dispatchMouseEvent",
                type=kind, x=x + dx, y=y + dy, button="left", buttons=1, clickCount=1,
            )  # fmt: skip
        self.settle()

    def click(self, selector: str) -> None:
        """Clicks the middle of an element."""
        self.drag(selector, 0, 0)

    def slide(self, selector: str, value: float) -> None:
        """Moves a slider, as its thumb being dragged does."""
        self.ask(
            f"(() => {{ const e = document.querySelector({selector!r}); e.value = {value};"
            "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )
        self.settle()

    def choose(self, selector: str, value: str) -> None:
        """Chooses from a list."""
        self.ask(
            f"(() => {{ const e = document.querySelector({selector!r}); e.value = {value!r};"
            "e.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )
        self.settle()

    def pixels(self, selector: str) -> bytes:
        """What a canvas shows, as PNG."""
        address = self.ask(f"document.querySelector({selector!r}).toDataURL()")
        return base64.b64decode(address.split(",")[1])

    def words(self) -> dict[str, str]:
        """What each map says at the place that is read."""
        found: dict[str, str] = self.ask(
            "Object.fromEntries([...document.querySelectorAll('.plait-map')]"
            ".filter(m => m.querySelector('.plait-word')).map(m =>"
            " [m.querySelector('.plait-name').textContent, m.querySelector('.plait-word').value]))"
        )
        return found

    def foreign(self, address: str) -> list[str]:
        """Requests to other places than the demo."""
        own = urlsplit(address).netloc
        return [r for r in self.requests if urlsplit(r).netloc != own and not r.startswith("blob:")]

    def photograph_part(self, selector: str, path: Path) -> None:
        """Takes a picture of one element."""
        self.box(selector)
        box: dict[str, Any] = self.ask(
            f"(() => {{ const b = document.querySelector({selector!r}).getBoundingClientRect();"
            "return {x: b.left + scrollX, y: b.top + scrollY, width: b.width, height: b.height,"
            "scale: 1}; })()"
        )
        found = self._call("Page.captureScreenshot", format="png", clip=box, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _hear(self, heard: dict[str, Any]) -> None:
        """Keeps errors; what parts of the page merely note is not complained of."""
        about = heard.get("params", {})
        noted = about.get("type") in ("log", "debug", "info", "warning", "timeEnd")
        warned = about.get("entry", {}).get("level") in ("verbose", "info", "warning")
        if not (heard.get("method") == "Runtime.consoleAPICalled" and noted) and not warned:
            super()._hear(heard)


@contextmanager
def visitor(chromium: str, folder: Path) -> Iterator[Visitor]:
    """A visitor with a camera, whose browser's profile is kept in a folder."""
    wrapped = folder / "chromium"
    wrapped.write_text(f'#!/bin/sh\nexec {shlex.quote(chromium)} {shlex.join(FLAGS)} "$@"\n')
    wrapped.chmod(0o700)
    made = Visitor(str(wrapped), folder / "profile")
    try:
        yield made
    finally:
        made.close()
