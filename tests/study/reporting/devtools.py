"""A browser without a screen that does as it is told: keys, sizes, colours, photographs. Over two pipes."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40, "ArrowRight": 39}


class Browser:
    """One tab.

    Attributes:
        complaints: What the console was told, and exceptions that nobody caught.
        requests: Addresses that were asked for, beside the page's own and ``data:``.
    """

    def __init__(self, executable: str, profile: Path) -> None:
        (self._theirs_in, self._out), (self._in, self._theirs_out) = os.pipe(), os.pipe()

        def pipes() -> None:  # the browser reads from 3 and writes to 4
            high_in, high_out = os.dup(self._theirs_in), os.dup(self._theirs_out)
            os.dup2(high_in, 3)
            os.dup2(high_out, 4)

        self._process = subprocess.Popen(
            [
                executable, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank",
            ],
            preexec_fn=pipes,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(self._theirs_in)
        os.close(self._theirs_out)
        self._buffer, self._count, self._session = b"", 0, None
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = next(t for t in self._call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._call(f"{domain}.enable")

    def open(self, page: Path, width: int, height: int, *, dark: bool = False) -> None:
        """Opens a page in a window of a size, in light or dark; forgets what was complained of."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        self.scheme(dark=dark)
        self.complaints.clear()
        self.requests.clear()
        self._call("Page.navigate", url=page.as_uri())
        self.until("document.readyState === 'complete'")

    def scheme(self, *, dark: bool) -> None:
        """Changes between light and dark while the page is open."""
        value = "dark" if dark else "light"
        features = [{"name": "prefers-color-scheme", "value": value}]
        self._call("Emulation.setEmulatedMedia", features=features)

    def ask(self, expression: str) -> Any:
        """What an expression is worth in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 60.0) -> None:
        """Waits until an expression holds."""
        end = time.monotonic() + seconds
        while not self.ask(expression):
            if time.monotonic() > end:
                raise AssertionError(f"{expression} did not come true in {seconds} s")
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Presses and releases a key."""
        about = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        typed = {"Enter": "\r", " ": " "}.get(key)
        self._call("Input.dispatchKeyEvent", type="keyDown", **about, **({"text": typed} if typed else {}))
        self._call("Input.dispatchKeyEvent", type="keyUp", **about)

    def write(self, text: str) -> None:
        """Types into what has the focus."""
        self._call("Input.insertText", text=text)

    def photograph(self, path: Path, *, whole: bool = False) -> None:
        """Takes a picture of the window, or of the whole page."""
        found = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def close(self) -> None:
        """Ends the browser."""
        try:
            self._session = None
            self._call("Browser.close")
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._out)
            os.close(self._in)

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": arguments}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._read()
            if heard.get("id") == message["id"]:
                if "error" in heard:
                    raise AssertionError(f"{method}: {heard['error']}")
                return dict(heard["result"])
            self._hear(heard)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], 120)[0]:
                raise AssertionError("the browser does not answer")
            more = os.read(self._in, 1 << 20)
            if not more:
                raise AssertionError("the browser has ended")
            self._buffer += more
        first, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(first))

    def _hear(self, heard: dict[str, Any]) -> None:
        about = heard.get("params", {})
        if heard.get("method") == "Runtime.consoleAPICalled":
            self.complaints.append(str(about["args"]))
        if heard.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(about["exceptionDetails"]))
        if heard.get("method") == "Log.entryAdded":
            self.complaints.append(str(about["entry"]))
        if heard.get("method") == "Network.requestWillBeSent":
            address = about["request"]["url"]
            if not address.startswith("data:") and about.get("type") != "Document":
                self.requests.append(address)


@contextmanager
def browser(executable: str, profile: Path) -> Iterator[Browser]:
    """A browser that is closed at the end."""
    made = Browser(executable, profile)
    try:
        yield made
    finally:
        made.close()
