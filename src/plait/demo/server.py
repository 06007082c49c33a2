"""The demo's server: its own folder, one address, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plait.demo.app import head, import_gradio, make_blocks
from plait.demo.gate import LOOPBACK, Gate
from plait.demo.uploads import MAX_BYTES
from plait.errors import ConfigurationError
from plait.inference import Predictor

PORT = 7860
CONNECTIONS = 100
"""At a time; further ones are told to come back."""


@dataclass(frozen=True)
class Demo:
    """A demo that is being served.

    Attributes:
        address: Where.
        folder: The only folder that it reads pictures from and writes them to.
        thread: What serves it.
    """

    address: str
    folder: Path
    thread: threading.Thread

    def wait(self) -> None:
        """Returns when it ends; can be interrupted."""
        while self.thread.is_alive():
            self.thread.join(0.2)


@contextmanager
def serving(predictor: Predictor, *, host: str = "127.0.0.1", port: int = PORT) -> Iterator[Demo]:
    """Serves a network's page; at the end, its folder is removed with all that was uploaded.

    One demo a process: while it is served, Gradio's folder is set in the process's environment.

    Args:
        predictor: The network.
        host: The address to listen at. Any other than that of this machine to itself lets others in, for
            there is no password.
        port: 0 takes one that is free.

    Raises:
        ConfigurationError: If the address cannot be had.
        MissingExtraError: If Gradio is not installed.
    """
    import_gradio()
    listener = listening(host, port)
    folder = Path(tempfile.mkdtemp(prefix="plait-demo-"))
    try:
        with _environment(GRADIO_TEMP_DIR=str(folder), GRADIO_ANALYTICS_ENABLED="False"):
            served = _Served(predictor, folder, listener, loopback=is_loopback(host))
            served.start()
            try:
                served.until_started()
                shown = f"[{host}]" if ":" in host else host
                yield Demo(f"http://{shown}:{listener.getsockname()[1]}", folder, served)
            finally:
                served.stop()
    finally:
        listener.close()
        shutil.rmtree(folder, ignore_errors=True)


class _Served(threading.Thread):
    """Builds the page and serves it, in a thread and an event loop of its own: Gradio keeps to that loop."""

    def __init__(
        self, predictor: Predictor, folder: Path, listener: socket.socket, *, loopback: bool
    ) -> None:
        super().__init__(name="plait demo", daemon=True)
        self._asked = (predictor, folder, listener, loopback)
        self._server: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._serve(*self._asked))
        except BaseException as error:  # noqa: BLE001  told to the thread that waits for the start
            self._error = error

    async def _serve(
        self, predictor: Predictor, folder: Path, listener: socket.socket, loopback: bool
    ) -> None:
        self._server = _server(predictor, folder, loopback=loopback)
        await self._server.serve([listener])

    def until_started(self) -> None:
        """Waits until requests are answered.

        Raises:
            BaseException: What kept it from starting.
        """
        while self.is_alive() and not (self._server is not None and self._server.started):
            self.join(0.02)
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Ends it, and waits for the end."""
        if self._server is not None:
            self._server.should_exit = True
        self.join(10)


def is_loopback(host: str) -> bool:
    """Whether an address reaches only the machine itself.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("::1")
    (True, True, False, True)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in LOOPBACK


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        ConfigurationError: If it cannot be had; the sentence says why.
    """
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"a port is a number from 0 (any that is free) to 65535, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigurationError(f"{host!r}, port {port}, is no address to listen at ({error})") from error
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two programs have one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except (OSError, OverflowError) as error:
        listener.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"port {port} of {host} is in use: choose another with --port, or 0 for any that is free"
            ) from error
        raise ConfigurationError(f"cannot listen at {host}, port {port}: {error}") from error
    return listener


def _server(predictor: Predictor, folder: Path, *, loopback: bool) -> Any:
    import fastapi
    import uvicorn

    gr = import_gradio()
    blocks = make_blocks(predictor, folder)
    blocks.state_session_capacity = 16
    front = gr.mount_gradio_app(
        fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        blocks,
        path="",
        allowed_paths=[],
        blocked_paths=[],
        max_file_size=MAX_BYTES,
        footer_links=[],
        run_history=False,
        show_error=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(
            primary_hue="blue",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ),
        head=head(),
    )
    gradio_app = next(route.app for route in front.routes if getattr(route, "app", None) is not None)

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            gradio_app.stop_event.set()  # ends the connections by which pages show that they are open
            await asyncio.sleep(0)
            await super().shutdown(sockets)

    return Server(
        uvicorn.Config(
            Gate(front, folder, loopback=loopback),
            log_config=None,
            log_level="critical",
            access_log=False,
            ws="none",
            lifespan="on",
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=2,
            server_header=False,
        )
    )


@contextmanager
def _environment(**names: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
