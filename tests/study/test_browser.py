"""The report opened in a browser: pictures decode, nothing overflows a phone, the console stays empty."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from plait.study import report
from plait.study.cost import Cost
from plait.study.qualitative import Row
from plait.training.run import Run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (apt-get install chromium)"),
]

PROBE = """
<script>
addEventListener("load", () => {
  const images = [...document.images];
  parent.postMessage(JSON.stringify({
    images: images.length, broken: images.filter(image => !image.naturalWidth).length,
    width: document.documentElement.clientWidth, overflow: document.documentElement.scrollWidth,
    small: [...document.querySelectorAll("td, th, p, figcaption")]
      .filter(part => parseFloat(getComputedStyle(part).fontSize) < 12).length,
    requests: performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length,
  }), "*");
});
</script>
"""


@pytest.fixture
def page(
    tmp_path: Path,
    make_run: Callable[..., Run],
    picture_rows: list[Row],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A report of made-up runs."""
    monkeypatch.setattr(Run, "train_seconds", 12.0)
    monkeypatch.setattr(Run, "train_cpu_seconds", 10.0)
    tasks = ["semantic", "depth", "normals"]
    runs = [make_run("multi-task", tasks, 0.6), *(make_run(f"single-task {t}", [t]) for t in tasks)]
    groups, notes = report.arms_of(runs)
    costs = {run.path: Cost(parameters=10**6, flops=2 * 10**8, latency=0.01, memory=10**7) for run in runs}
    constant = {
        name: {m.name: 0.1 for m in measures}
        for run in runs
        for name, measures in run.scores.measures.items()
    }
    comparison = report.compare(groups, costs, constant, notes)
    out = tmp_path / "report.html"
    out.write_text(
        report.render(comparison, groups, picture_rows, title="Compared", command="plait quickstart", out=out)
    )
    return out


def chromium(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Opens a page without a screen; everything it says comes back."""
    assert CHROMIUM is not None
    return subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--hide-scrollbars", f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0",
            *options, page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )  # fmt: skip


def framed(page: Path, width: int) -> Path:
    """A page that shows the report in a frame of a phone's width: windows cannot be that narrow."""
    frame = page.with_name(f"frame-{width}.html")
    frame.write_text(
        f'<!doctype html><body style="margin:0"><pre id="probe"></pre>'
        "<script>onmessage = said => document.getElementById('probe').textContent = said.data</script>"
        f'<iframe src="{page.name}" style="border:0;width:{width}px;height:2000px"></iframe>'
    )
    return frame


@pytest.mark.parametrize("width", [1280, 390])
def test_pictures_decode_and_nothing_overflows(page: Path, tmp_path: Path, width: int) -> None:
    # The page forbids scripts; the probe is ours, so its copy of the page goes without that rule.
    text = re.sub(r"<meta http-equiv=[^>]*>", "", page.read_text())
    probed = page.with_name("probed.html")
    text = text.replace("</body>", PROBE + "</body>").replace('loading="lazy"', "")
    probed.write_text(text)
    dump = chromium(framed(probed, width), tmp_path / "profile", "--dump-dom", "--virtual-time-budget=8000")
    found = json.loads(re.search(r'<pre id="probe">(.*?)</pre>', dump.stdout).group(1))  # type: ignore[union-attr]
    assert found["images"] >= 32
    assert found["broken"] == 0
    assert found["requests"] == 0
    assert found["small"] == 0
    assert found["overflow"] <= found["width"] == width, found


@pytest.mark.parametrize("width", [1280, 390])
def test_the_console_stays_empty_and_a_photograph_is_taken(page: Path, tmp_path: Path, width: int) -> None:
    photograph = tmp_path / f"{width}.png"
    shown = page if width > 500 else framed(page, width)
    said = chromium(shown, tmp_path / "profile", f"--screenshot={photograph}", f"--window-size={width},2000")
    assert "CONSOLE" not in said.stderr, said.stderr
    assert photograph.stat().st_size > 10_000
