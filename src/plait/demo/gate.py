"""Which requests the demo answers: those that its page makes, and no others.

Gradio's server can do much more than this page needs: read files by their path, fetch addresses for a
visitor, keep and replay runs. What is not needed is not reached: this stands in front of it, knows every
request that the page makes, and answers all others with "not found". It also keeps other web sites from using
a visitor's browser to reach a demo on the visitor's own machine.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from plait.demo.uploads import MAX_BYTES, inside, make_room

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

FILE = "/gradio_api/file="
JOIN = "/gradio_api/queue/join"
UPLOAD = "/gradio_api/upload"
KNOWN = {
    "HEAD": re.compile(r"/"),
    "GET": re.compile(
        r"/|/theme\.css|/favicon\.ico|/manifest\.json|/(assets|static)/[\w./@+-]+"
        r"|/gradio_api/(startup-events|upload_progress|heartbeat/\w+|queue/data|file=.+)"
    ),
    "POST": re.compile(r"/gradio_api/(upload|queue/join|cancel|reset)"),
}
"""Every request that the page makes."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_QUESTION = 64 * 2**10
"""Bytes of a request that is no upload."""

PAGE_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "connect-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'none'"
)
"""What the page may load: nothing from another host, whatever a part of it asks for."""
FILE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'"
"""What an uploaded file may load if it is opened by itself: nothing, and it runs no script."""


class RefusedError(Exception):
    """A request that is not answered; with its status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Gate:
    """An ASGI application in front of another one.

    Args:
        behind: The other one.
        folder: The only folder whose files are given out or taken as input.
        loopback: Whether only this machine is served; then a request must name this machine as its host, so
            that no web site can give its own name the address of this machine to get at the demo.
    """

    def __init__(self, behind: Application, folder: Path, *, loopback: bool) -> None:
        self.behind = behind
        self.folder = folder
        self.loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or passes it on."""
        if scope["type"] == "lifespan":
            await self.behind(scope, receive, send)
            return
        if scope["type"] != "http":  # a web socket: the page opens none
            await send({"type": "websocket.close", "code": 1008})
            return
        started = False
        refused: list[RefusedError] = []

        async def marked(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                policy = FILE_POLICY if scope["path"].startswith(FILE) else PAGE_POLICY
                message["headers"] = [*message.get("headers", []), *headers(policy)]
            await send(message)

        async def heard() -> Message:
            try:
                return await reader()
            except RefusedError as error:
                refused.append(error)
                raise

        async def unless_refused(message: Message) -> None:
            if not refused:
                await marked(message)

        try:
            reader = await self.checked(scope, receive)
            await self.behind(scope, heard, unless_refused)
        except RefusedError as error:
            refused.append(error)
        except Exception:  # a visitor gets a sentence, the terminal the rest
            if not refused:
                logging.getLogger(__name__).exception("a request of the demo failed")
                refused.append(RefusedError(500, "this went wrong; the terminal of the demo says where"))
        if refused and not started:
            await refuse(marked, refused[0].status, str(refused[0]))

    async def checked(self, scope: Scope, receive: Receive) -> Receive:
        """Reads as much of a request as it takes to know that it may pass; gives its body to read on.

        Raises:
            RefusedError: If it may not.
        """
        asked = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host = asked.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname
            origin = urlsplit(asked["origin"]).netloc if "origin" in asked else host
        except ValueError as error:  # half an IPv6 address
            raise RefusedError(400, "expected the address of this demo") from error
        if self.loopback and name not in LOOPBACK:
            raise RefusedError(403, "this demo is only for the machine that it runs on")
        if origin != host:
            raise RefusedError(403, "this demo answers no other web site")
        method, path = scope["method"], scope["path"]
        if method not in KNOWN or not KNOWN[method].fullmatch(path) or ".." in path.removeprefix(FILE):
            raise RefusedError(404, "not found")
        if path.startswith(FILE) and inside(path.removeprefix(FILE), self.folder) is None:
            raise RefusedError(404, "not found")
        most = MAX_BYTES + MAX_QUESTION if path == UPLOAD else MAX_QUESTION
        length = asked.get("content-length", "0")
        if not length.isdigit() or int(length) > most:
            raise RefusedError(413, f"expected at most {most} bytes")
        if path == UPLOAD:
            make_room(self.folder, MAX_BYTES)
        limited = _limited(receive, most)
        return await self._question(limited, scope) if path == JOIN else limited

    async def _question(self, receive: Receive, scope: Scope) -> Receive:
        """A question to the network, without anything that names a file elsewhere or an address."""
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, "the request has ended early")
            body += message.get("body", b"")
            more = message.get("more_body", False)
        try:
            content = json.dumps(self.harmless(json.loads(body))).encode()
        except (ValueError, RecursionError) as error:
            raise RefusedError(400, "expected JSON") from error
        scope["headers"] = [
            (name, str(len(content)).encode() if name.lower() == b"content-length" else value)
            for name, value in scope["headers"]
        ]
        parts = [{"type": "http.request", "body": content, "more_body": False}]

        async def again() -> Message:
            return parts.pop() if parts else await receive()

        return again

    def harmless(self, asked: Any) -> Any:
        """The same without addresses, for nothing is fetched.

        Raises:
            RefusedError: If it names a file that is not in the folder.
        """
        if isinstance(asked, list):
            return [self.harmless(part) for part in asked]
        if not isinstance(asked, dict):
            return asked
        if "path" in asked and (
            not isinstance(asked["path"], str) or inside(asked["path"], self.folder) is None
        ):
            raise RefusedError(403, "this demo reads no file but those that were given to it")
        return {name: self.harmless(part) for name, part in asked.items() if name != "url"}


def headers(policy: str) -> list[tuple[bytes, bytes]]:
    """What every answer says to the browser beside its content."""
    return [
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]


async def refuse(send: Send, status: int, sentence: str) -> None:
    """Answers with a status and a sentence, in the form in which the page expects errors."""
    content = json.dumps({"detail": sentence}).encode()
    told = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": told})
    await send({"type": "http.response.body", "body": content})


def _limited(receive: Receive, most: int) -> Receive:
    """The same body, refused once more than ``most`` bytes of it have come."""
    come = 0

    async def counted() -> Message:
        nonlocal come
        message = await receive()
        come += len(message.get("body", b""))
        if come > most:
            raise RefusedError(413, f"expected at most {most} bytes")
        return message

    return counted
