"""``plait demo``: what it says, and how it ends."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from plait.cli import main
from plait.demo import Demo

pytestmark = pytest.mark.filterwarnings(
    "ignore::Warning"
)  # of Gradio and its server, in threads of their own


def stopped(demo: Demo) -> None:
    """A person presses Ctrl-C."""
    assert demo.folder.is_dir()
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _signals() -> object:
    """The command's answer to SIGTERM is its own."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_it_prints_its_address_and_ends_without_an_error(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Demo, "wait", stopped)
    assert main(["demo", str(run), "--port", "0", "--device", "cpu", "--size", "32x48"]) == 0
    said = capsys.readouterr()
    assert re.search(r" at http://127\.0\.0\.1:\d+ +\(Ctrl-C ends it\)", said.out)
    assert "password" not in said.out
    assert said.err == ""


def test_another_host_is_warned_of(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Demo, "wait", stopped)
    assert main(["demo", str(run), "--port", "0", "--host", "0.0.0.0", "--tile", "32x32"]) == 0
    assert (
        "everybody who can reach this machine can use this demo, without a password"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nothing"], "nothing is not a run's folder"),
        (["{run}", "--size", "large"], "a size is HEIGHTxWIDTH"),
        (["{run}", "--port", "x"], "invalid int value"),
        (["{run}", "--port", "65536"], "a port is a number from 0"),
        (["{run}", "--device", "abacus"], "--device abacus cannot be used"),
        (["{run}", "--hots", "x"], "did you mean '--host'?"),
        ([], "RUN"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    run: Path, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", *(word.format(run=run) for word in words)]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_without_gradio_the_extra_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", str(run)]) == 2
    assert "the demo needs the package gradio: pip install 'plait[demo]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_real_one_serves_and_ends_cleanly(run: Path, tmp_path: Path, how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "plait", "demo", str(run), "--port", "0", "--device", "cpu"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            address = re.search(r"http://\S+", process.stdout.readline())
            assert address is not None
            with urllib.request.urlopen(address.group(), timeout=60) as page:
                assert page.status == 200
            process.send_signal(how)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, err) == (0, "")
    assert "ended" in out
    assert list(tmp_path.glob("plait-demo-*")) == []
