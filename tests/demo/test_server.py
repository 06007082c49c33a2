"""The running demo, asked over HTTP: what it gives, and above all what it does not."""

import http.client
import json
import os
import socket
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
from PIL import Image

from plait.demo import Demo, app, serving
from plait.demo.gate import MAX_QUESTION
from plait.demo.uploads import MAX_BYTES, make_room
from plait.errors import ConfigurationError, MissingExtraError
from plait.inference import Predictor

pytestmark = pytest.mark.filterwarnings(
    "ignore::Warning"
)  # of Gradio and its server, in threads of their own


def ask(
    demo: Demo, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes, Mapping[str, str]]:
    """One request, with its path as it is: nothing in it is tidied up."""
    connection = http.client.HTTPConnection(urlsplit(demo.address).netloc, timeout=60)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    finally:
        connection.close()


def upload(demo: Demo, content: bytes, name: str = "picture.png") -> tuple[int, Any]:
    """Gives a file under a name; answers the status and where it went."""
    border = uuid.uuid4().hex
    body = (
        (
            f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n'
            "Content-Type: image/png\r\n\r\n"
        ).encode()
        + content
        + f"\r\n--{border}--\r\n".encode()
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={border}"}
    status, answer, _ = ask(demo, "POST", "/gradio_api/upload", body, headers)
    return status, json.loads(answer)


def join(demo: Demo, given: Any, number: int) -> tuple[int, str]:
    """Asks the network; answers the status and by which name the answer is fetched."""
    session = uuid.uuid4().hex[:10]
    question = {"data": [given], "fn_index": number, "session_hash": session, "event_data": None}
    headers = {"Content-Type": "application/json"}
    return ask(demo, "POST", "/gradio_api/queue/join", json.dumps(question).encode(), headers)[0], session


def answer_of(demo: Demo, session: str) -> dict[str, Any]:
    """Waits for what the network says."""
    _, stream, _ = ask(demo, "GET", f"/gradio_api/queue/data?session_hash={session}")
    messages = [json.loads(line[6:]) for line in stream.decode().splitlines() if line.startswith("data: ")]
    return next(message for message in messages if message["msg"] == "process_completed")


def picture(folder: Path, size: tuple[int, int] = (60, 40)) -> bytes:
    path = folder / "made.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(
        path
    )
    return path.read_bytes()


def file_data(path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "orig_name": "picture.png", "meta": {"_type": "gradio.FileData"}, **more}


LOOK = 1
"""The number of the page's function that looks at a picture."""


def test_a_picture_that_is_given_is_looked_at(served: Demo, predictor: Predictor, tmp_path: Path) -> None:
    status, paths = upload(served, picture(tmp_path))
    assert status == 200
    status, session = join(served, file_data(paths[0], url="http://127.0.0.1:1/never-fetched"), LOOK)
    assert status == 200
    message = answer_of(served, session)
    assert message["success"], message
    shown = json.loads(message["output"]["data"][0])
    made = predictor(tmp_path / "made.png")
    assert [task["name"] for task in shown["tasks"]] == list(made)
    assert shown["size"] == [40, 60]
    assert set(shown["tasks"][0]["words"]["table"]) <= set(made["semantic"].classes)


def test_the_page_may_load_nothing_from_elsewhere_and_tells_nothing_of_this_machine(
    served: Demo, run: Path
) -> None:
    status, page, headers = ask(served, "GET", "/")
    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "http" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    for secret in (
        str(run.parent),
        str(Path.cwd()),
        str(Path.home()),
        str(served.folder),
        os.environ["XDG_CACHE_HOME"],
    ):
        assert secret.encode() not in page


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "etc/passwd",
        "../../../../../../etc/passwd",
        "{folder}/../../etc/passwd",
        "{folder}/%2e%2e/%2e%2e/etc/passwd",
        "{folder}/..%2f..%2fetc%2fpasswd",
        "{folder}",
        "{folder}/nothing.png",
        "file:///etc/passwd",
        "http://127.0.0.1:1/a.png",
        "https://example.org/a.png",
        "{package}",
        "{run}",
        "room-1.png",
        "~/.bashrc",
        "%00",
    ],
)
def test_no_file_outside_its_folder_is_given_out(served: Demo, run: Path, path: str) -> None:
    import gradio

    full = path.format(folder=served.folder, run=run / "recipe.yaml", package=gradio.__file__)
    for route in ("/gradio_api/file=", "/gradio_api/file/", "/file="):
        status, content, _ = ask(served, "GET", f"{route}{full}")
        assert status == 404
        assert json.loads(content)["detail"] == "not found"


def test_a_file_of_its_folder_is_given_out_but_runs_nothing(served: Demo) -> None:
    status, content, headers = ask(served, "GET", f"/gradio_api/file={served.folder}/examples/room-1.png")
    assert (status, content[:4]) == (200, b"\x89PNG")
    _, paths = upload(served, b"<script>alert(1)</script>", "page.html")
    status, _, headers = ask(served, "GET", f"/gradio_api/file={quote(paths[0])}")
    assert status == 200
    assert "attachment" in headers["content-disposition"]
    assert "sandbox" in headers["content-security-policy"]


@pytest.mark.parametrize("up", ["/static/", "/assets/", "/gradio_api/heartbeat/"])
@pytest.mark.parametrize(
    "rest", ["../../../pyproject.toml", "%2e%2e/%2e%2e/index.html", "..%5c..%5cindex.html", "/etc/passwd"]
)
def test_the_pages_own_files_lead_nowhere_else(served: Demo, up: str, rest: str) -> None:
    assert ask(served, "GET", up + rest)[0] in (403, 404)


@pytest.mark.parametrize(
    "name",
    [
        "../../../../escaped.png",
        "/escaped.png",
        "..\\\\escaped.png",
        "a/../../escaped.png",
        "%2e%2e%2fescaped.png",
        "..",
    ],
)
def test_an_uploaded_file_stays_in_the_folder_whatever_its_name(served: Demo, name: str) -> None:
    status, paths = upload(served, b"content", name)
    assert status in (200, 400, 500)
    if status == 200:
        assert Path(paths[0]).resolve().is_relative_to(served.folder.resolve())
    for folder in (served.folder.parent, Path("/"), Path.cwd()):
        assert not (folder / "escaped.png").exists()


@pytest.mark.parametrize(
    "given",
    [
        file_data("/etc/passwd"),
        file_data("../../etc/passwd"),
        file_data(str(Path(__file__))),
        file_data("http://127.0.0.1:{port}/secret.png"),
        file_data("file:///etc/passwd"),
        file_data("\0"),
        {"path": None, "meta": {"_type": "gradio.FileData"}},
        {"path": ["/etc/passwd"]},
        [[{"deep": file_data("/etc/passwd")}]],
    ],
)
def test_the_network_looks_at_no_other_file_and_fetches_nothing(served: Demo, given: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.2)
        port = other.getsockname()[1]
        filled = json.loads(json.dumps(given).replace("{port}", str(port)))
        assert join(served, filled, LOOK)[0] == 403
        with pytest.raises(TimeoutError):
            other.accept()


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:{port}/a.png", "data:image/svg+xml,<svg/>", "file:///etc/passwd"]
)
def test_an_address_beside_a_picture_is_not_fetched(served: Demo, tmp_path: Path, url: str) -> None:
    _, paths = upload(served, picture(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(0.2)
        _, session = join(served, file_data(paths[0], url=url.format(port=other.getsockname()[1])), LOOK)
        assert answer_of(served, session)["success"]
        with pytest.raises(TimeoutError):
            other.accept()


@pytest.mark.parametrize("given", ["/etc/passwd", {"no": "path"}, 5, [], {}])
def test_what_is_no_file_gets_no_picture(served: Demo, given: Any) -> None:
    status, session = join(served, given, LOOK)
    if status == 200:
        message = answer_of(served, session)
        assert not message["success"] or message["output"]["data"] == [None]
        assert "Traceback" not in json.dumps(message)
        assert "passwd" not in json.dumps(message)


@pytest.mark.parametrize(
    "content", [b"no picture", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0"]
)
def test_a_visitor_is_told_in_one_sentence(served: Demo, content: bytes) -> None:
    _, paths = upload(served, content)
    _, session = join(served, file_data(paths[0]), LOOK)
    message = answer_of(served, session)
    assert not message["success"]
    assert message["output"]["error"].startswith("This is not a PNG, JPEG, WebP or TIFF picture")


@pytest.mark.parametrize("choice", ["7", "-1", "../1", "x", "", "²", "9" * 5000, None, 3.5, {}])
def test_there_are_no_other_examples(served: Demo, choice: Any) -> None:
    status, session = join(served, choice, 0)
    assert status == 200
    assert answer_of(served, session)["output"]["data"] == [None]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/proxy=https://example.hf.space/"),
        ("GET", "/gradio_api/deep_link?session_hash=x"),
        ("GET", "/gradio_api/openapi.json"),
        ("GET", "/gradio_api/info"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/run-history/buckets"),
        ("GET", "/gradio_api/dev/reload"),
        ("GET", "/gradio_api/custom_component/a/client/b/c.js"),
        ("GET", "/gradio_api/vibe-code"),
        ("GET", "/config"),
        ("GET", "/monitoring"),
        ("GET", "/docs"),
        ("GET", "/svelte/a.js"),
        ("GET", "/login"),
        ("POST", "/login"),
        ("POST", "/gradio_api/run/predict"),
        ("POST", "/gradio_api/api/predict"),
        ("POST", "/gradio_api/call/seen"),
        ("POST", "/gradio_api/call/v2/seen"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/gradio_api/stream/x"),
        ("POST", "/"),
        ("PUT", "/gradio_api/upload"),
        ("DELETE", "/gradio_api/upload"),
        ("OPTIONS", "/gradio_api/queue/join"),
        ("TRACE", "/"),
    ],
)
def test_what_the_page_does_not_need_is_not_there(served: Demo, method: str, path: str) -> None:
    assert ask(served, method, path, b"{}" if method == "POST" else None)[0] == 404


@pytest.mark.parametrize(
    "host", ["example.org", "demo.example.org:7860", "127.0.0.1.example.org", "", "192.168.0.1"]
)
def test_a_web_site_with_this_machines_address_is_refused(served: Demo, host: str) -> None:
    assert ask(served, "GET", "/", headers={"Host": host})[0] in (400, 403)


@pytest.mark.parametrize("origin", ["https://example.org", "null", "http://127.0.0.1:1", "http://localhost"])
def test_other_web_sites_are_not_answered(served: Demo, origin: str) -> None:
    status, _, headers = ask(served, "POST", "/gradio_api/upload", b"", {"Origin": origin})
    assert status == 403
    assert "access-control-allow-origin" not in headers


def test_uploads_have_a_limit_also_if_they_do_not_tell_their_size(served: Demo) -> None:
    before = sorted(served.folder.rglob("*"))
    status, _, _ = ask(served, "POST", "/gradio_api/upload", b"", {"Content-Length": str(MAX_BYTES * 2)})
    assert status == 413
    connection = http.client.HTTPConnection(urlsplit(served.address).netloc, timeout=60)
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    parts = (head if not number else bytes(2**20) for number in range(24))
    try:
        connection.request(
            "POST",
            "/gradio_api/upload",
            parts,
            {"Content-Type": "multipart/form-data; boundary=b"},
            encode_chunked=True,
        )
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # refused before all was sent
    finally:
        connection.close()
    assert (
        sum(path.stat().st_size for path in served.folder.rglob("*") if path not in before)
        <= MAX_BYTES + 2**21
    )


@pytest.mark.parametrize(
    "body", [b"{" + b" " * MAX_QUESTION + b"}", b"[" * 60_000, b"no json", b"", b"\xff", b"[1]"]
)
def test_odd_questions_are_refused(served: Demo, body: bytes) -> None:
    status, answer, _ = ask(
        served, "POST", "/gradio_api/queue/join", body, {"Content-Type": "application/json"}
    )
    assert status in (400, 413, 422)
    assert b"Traceback" not in answer


def test_one_picture_is_looked_at_and_few_wait(
    served: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, looking, most = threading.Event(), 0, 0

    def slow(*_: object) -> str:
        nonlocal looking, most
        looking += 1
        most = max(most, looking)
        assert go_on.wait(60)
        looking -= 1
        return "{}"

    monkeypatch.setattr(app, "look", slow)
    _, paths = upload(served, picture(tmp_path))
    found = [join(served, file_data(paths[0]), LOOK) for _ in range(2 * app.WAITING)]
    go_on.set()
    statuses = [status for status, _ in found]
    assert app.WAITING <= statuses.count(200) <= app.WAITING + 1
    assert set(statuses) == {200, 503}
    assert all(answer_of(served, session)["success"] for status, session in found if status == 200)
    assert most == 1


def test_it_listens_on_this_machine_alone(served: Demo) -> None:
    assert urlsplit(served.address).hostname == "127.0.0.1"


def test_at_its_end_nothing_is_left(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "before")
    threads = set(threading.enumerate())
    with serving(predictor, port=0) as demo:
        assert demo.folder.is_dir()
        assert oct(demo.folder.stat().st_mode)[-3:] == "700"
        upload(demo, b"content")
        assert os.environ["GRADIO_TEMP_DIR"] == str(demo.folder)
    assert not demo.folder.exists()
    assert os.environ["GRADIO_TEMP_DIR"] == "before"
    assert not demo.thread.is_alive()
    assert not {thread for thread in set(threading.enumerate()) - threads if not thread.daemon}
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", urlsplit(demo.address).port or 0), timeout=1)


def test_a_page_without_depth_is_served_too(run: Path) -> None:
    import plait

    with serving(plait.load(run, tasks=["semantic"], device="cpu"), port=0) as demo:
        assert ask(demo, "GET", "/")[0] == 200


def test_a_port_in_use_is_told_in_one_sentence(predictor: Predictor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port {port} of 127.0.0.1 is in use: choose another"):
            serving(predictor, port=port).__enter__()


@pytest.mark.parametrize(("host", "port"), [("no such host.", 0), ("127.0.0.1", 70_000), ("192.0.2.1", 0)])
def test_an_address_that_cannot_be_had_is_told_in_one_sentence(
    predictor: Predictor, host: str, port: int
) -> None:
    with pytest.raises(ConfigurationError, match=r"no address to listen at|cannot listen at|a port is"):
        serving(predictor, host=host, port=port).__enter__()


def test_without_gradio_the_extra_is_named(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'plait\[demo\]'"):
        serving(predictor, port=0).__enter__()


def test_examples_stay_however_much_is_uploaded(served: Demo, tmp_path: Path) -> None:
    _, paths = upload(served, picture(tmp_path))
    make_room(served.folder, room=1, kept=0)
    assert not Path(paths[0]).exists()
    _, session = join(served, "0", 0)
    given = answer_of(served, session)["output"]["data"][0]
    _, session = join(served, file_data(given["path"]), LOOK)
    assert answer_of(served, session)["success"]


@pytest.mark.parametrize("host", ["[::1", "[", "a]b", "[v1.x]"])
def test_a_host_that_is_no_address_is_refused(served: Demo, host: str) -> None:
    assert ask(served, "GET", "/", headers={"Host": host})[0] in (400, 403)
    assert ask(served, "GET", "/", headers={"Origin": f"http://{host}"})[0] in (400, 403)
