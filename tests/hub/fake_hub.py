"""A server that answers what the Hugging Face hub's client asks when a network is pushed and fetched."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "t" * 34


@dataclass
class Repository:
    """Files by commit; ``main`` is the last one."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]

    @property
    def head(self) -> str:
        return list(self.commits)[-1]

    def commit(self, files: dict[str, bytes], message: str = "") -> str:
        self.messages.append(message)
        sha = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[sha] = dict(files)
        return sha


@dataclass
class FakeHub:
    """What the server holds, and what it was asked."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)
    broken: bool = False
    claimed_sizes: dict[str, int] = field(default_factory=dict)
    card_errors: list[str] = field(default_factory=list)
    read_only: bool = False
    full: bool = False
    endpoint: str = ""

    def add(self, name: str, files: dict[str, bytes], **about: Any) -> Repository:
        made = self.repositories[name] = Repository(**about)
        made.commit(files)
        return made

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for."""
        return [
            path.rpartition("/")[2] for method, path in self.asked if method == "GET" and "/resolve/" in path
        ]


class Answers(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def send(self, status: int, body: bytes | dict[str, Any] | list[Any] = b"", **headers: str) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def error(self, status: int, code: str, said: str) -> None:
        self.send(status, {"error": said}, X_Error_Code=code, X_Error_Message=said)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    @property
    def known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def handle_any(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path))
        if self.hub.broken:
            self.body()
            self.error(500, "", "the server is on fire")
            return
        for method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                answer(self, **found.groupdict())
                return
        self.body()
        self.error(404, "", f"no such route {path}")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    def repository(self, name: str, revision: str | None) -> tuple[Repository, str] | None:
        """The repository and the commit, or None if an error was sent."""
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.known):
            self.error(401, "RepoNotFound", "Repository not found")
            return None
        if found.gated:
            self.error(403, "GatedRepo", "Access to this repository is restricted")
            return None
        commit = found.head if revision in (None, "main") else revision
        if commit not in found.commits:
            self.error(404, "RevisionNotFound", "Invalid rev id")
            return None
        return found, commit

    def info(self, name: str, revision: str | None = None) -> None:
        if found := self.repository(name, revision):
            repository, commit = found
            siblings = [
                {
                    "rfilename": file,
                    "size": self.hub.claimed_sizes.get(file, len(content)),
                    "blobId": "0" * 40,
                }
                for file, content in repository.commits[commit].items()
            ]
            self.send(
                200,
                {"id": name, "sha": commit, "private": repository.private, "tags": [], "siblings": siblings},
            )

    def tree(self, name: str, revision: str) -> None:
        if found := self.repository(name, revision):
            repository, commit = found
            self.send(200, [
                {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for file, content in repository.commits[commit].items()
            ])  # fmt: skip

    def resolve(self, name: str, revision: str, file: str) -> None:
        if found := self.repository(name, revision):
            repository, commit = found
            content = repository.commits[commit].get(file)
            if content is None:
                self.error(404, "EntryNotFound", "Entry not found")
                return
            self.send(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=commit)

    def create(self) -> None:
        wanted = json.loads(self.body())
        name = f"{wanted['organization']}/{wanted['name']}"
        url = {"url": f"{self.hub.endpoint}/{name}"}
        if not self.known or self.hub.read_only:
            self.error(403, "", "you may not write here")
        elif name in self.hub.repositories:
            self.send(409, url)
        else:
            private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            self.hub.add(name, {".gitattributes": b""}, private=private)
            self.send(200, url)

    def validate(self) -> None:
        self.body()
        errors = [{"message": said} for said in self.hub.card_errors]
        self.send(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, name: str) -> None:
        files = json.loads(self.body())["files"]
        self.send(200, {"files": [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
            }
            for file in files
        ]})  # fmt: skip

    def batch(self, name: str) -> None:
        objects = json.loads(self.body())["objects"]
        made = [
            {**each, "actions": {"upload": {"href": f"{self.hub.endpoint}/lfs/{each['oid']}"}}}
            for each in objects
        ]
        self.send(200, {"transfer": "basic", "objects": made})

    def put(self, oid: str) -> None:
        content = self.body()
        if self.hub.full:
            self.error(507, "", "no room")
            return
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.large[oid] = content
        self.send(200)

    def commit(self, name: str) -> None:
        lines = [json.loads(line) for line in self.body().splitlines()]
        repository = self.hub.repositories[name]
        files, message = dict(repository.files), ""
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files, message)
        self.send(200, {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{sha}", "commitOid": sha})


MODEL = r"(?P<name>[\w.-]+/[\w.-]+)"
ROUTES = [
    ("GET", rf"/api/models/{MODEL}", Answers.info),
    ("GET", rf"/api/models/{MODEL}/revision/(?P<revision>.+)", Answers.info),
    ("GET", rf"/api/models/{MODEL}/tree/(?P<revision>.+)", Answers.tree),
    ("HEAD GET", rf"/{MODEL}/resolve/(?P<revision>[^/]+)/(?P<file>.+)", Answers.resolve),
    ("POST", r"/api/repos/create", Answers.create),
    ("POST", r"/api/validate-yaml", Answers.validate),
    ("POST", rf"/api/models/{MODEL}/preupload/main", Answers.preupload),
    ("POST", rf"/{MODEL}\.git/info/lfs/objects/batch", Answers.batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", Answers.put),
    ("POST", rf"/api/models/{MODEL}/commit/main", Answers.commit),
]


@contextmanager
def serving() -> Iterator[FakeHub]:
    """A hub on the loopback, while the context lasts."""
    hub = FakeHub()
    answers = type("OwnAnswers", (Answers,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
