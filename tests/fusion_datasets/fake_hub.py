"""A local server that answers as the Hugging Face Hub does, and fails, throttles and cuts on demand."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, Literal
from urllib.parse import unquote

from bad_server import serving

Fault = int | Literal["cut", "echo"]
"""A status; a connection that ends; or a refusal that repeats the token it was given."""

LARGE = (".h5", ".parquet", ".png")


@dataclass
class FakeHub:
    """What the Hub holds, and what goes wrong at each kind of request."""

    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)  # name → revision → files
    private: dict[str, bool] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[Fault]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    url: str = ""

    @staticmethod
    def commit_of(files: dict[str, bytes]) -> str:
        content = "".join(f"{name} {hashlib.sha256(data).hexdigest()}\n" for name, data in sorted(files.items()))
        return hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()

    def files(self, name: str, revision: str) -> dict[str, bytes] | None:
        revisions = self.repositories.get(name, {})
        by_commit = {self.commit_of(files): files for files in revisions.values()}
        return revisions.get(revision, by_commit.get(revision))


class Request(BaseHTTPRequestHandler):
    """One request."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        path = unquote(self.path.partition("?")[0])
        kind, answer, match = next(
            (kind, answer, found) for kind, pattern, answer in ROUTES if (found := re.fullmatch(pattern, path))
        )
        self.hub.requests.append(kind)
        self.hub.tokens.add(self.headers.get("Authorization"))
        waiting = self.hub.faults.get(kind, [])
        fault = waiting.pop(0) if waiting else None
        if fault == "cut":
            self.close_connection = True
        elif fault == "echo":
            self._send(400, {"error": f"bad {self.headers.get('Authorization')}"})
        elif isinstance(fault, int):
            self._send(fault, {"error": "trouble"}, {"Retry-After": "7"} if fault == 429 else {})
        else:
            answer(self, body, *match.groups())

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def create(self, body: bytes) -> None:
        about = json.loads(body)
        name = f"{about['organization']}/{about['name']}"
        assert about["type"] == "dataset"
        exists = name in self.hub.repositories
        self.hub.repositories.setdefault(name, {"main": {".gitattributes": b""}})
        self.hub.private.setdefault(name, about.get("visibility") == "private" or bool(about.get("private")))
        self._send(409 if exists else 200, {"url": f"{self.hub.url}/datasets/{name}"})

    def branch(self, body: bytes, name: str, branch: str) -> None:
        revisions = self.hub.repositories[name]
        exists = branch in revisions
        revisions.setdefault(branch, dict(revisions["main"]))
        self._send(409 if exists else 200, {})

    def info(self, body: bytes, name: str, revision: str) -> None:
        files = self.hub.files(name, revision)
        if files is None:
            self._send(404, {"error": "not found"}, {"X-Error-Code": "RevisionNotFound"})
            return
        siblings = [{"rfilename": path} for path in files]
        sha = self.hub.commit_of(files)
        self._send(200, {"id": name, "sha": sha, "siblings": siblings, "tags": [], "private": False})

    def yaml(self, body: bytes) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def preupload(self, body: bytes, name: str, revision: str) -> None:
        paths = [file["path"] for file in json.loads(body)["files"]]
        modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in paths}
        self._send(200, {"files": [{"path": path, "uploadMode": modes[path], "shouldIgnore": False} for path in paths]})

    def batch(self, body: bytes, name: str) -> None:
        answer = []
        for wanted in json.loads(body)["objects"]:
            upload = {"actions": {"upload": {"href": f"{self.hub.url}/upload/{wanted['oid']}"}}}
            answer.append(wanted | ({} if wanted["oid"] in self.hub.objects else upload))
        self._send(200, {"transfer": "basic", "objects": answer})

    def upload(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self._send(200, {})

    def commit(self, body: bytes, name: str, revision: str) -> None:
        files = dict(self.hub.repositories[name][revision])
        for line in map(json.loads, body.splitlines()):
            about = line["value"]
            if line["key"] == "file":
                files[about["path"]] = base64.b64decode(about["content"])
            elif line["key"] == "lfsFile":
                files[about["path"]] = self.hub.objects[about["oid"]]
            elif line["key"] == "deletedFile":
                del files[about["path"]]
        self.hub.repositories[name][revision] = files
        oid = self.hub.commit_of(files)
        self._send(200, {"commitUrl": f"{self.hub.url}/datasets/{name}/commit/{oid}", "commitOid": oid})

    def resolve(self, body: bytes, name: str, revision: str, path: str) -> None:
        files = self.hub.files(name, revision) or {}
        if path not in files:
            self._send(404, {"error": "no such file"}, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{hashlib.sha256(files[path]).hexdigest()}"', "X-Repo-Commit": self.hub.commit_of(files)}
        self._send(200, files[path], headers)

    def log_message(self, *_: Any) -> None:
        pass


ROUTES: Any = (
    ("create", r"/api/repos/create", Request.create),
    ("branch", r"/api/datasets/([\w-]+/[\w-]+)/branch/(.+)", Request.branch),
    ("info", r"/api/datasets/([\w-]+/[\w-]+)/revision/(.+)", Request.info),
    ("yaml", r"/api/validate-yaml", Request.yaml),
    ("preupload", r"/api/datasets/([\w-]+/[\w-]+)/preupload/(.+)", Request.preupload),
    ("batch", r"/datasets/([\w-]+/[\w-]+)\.git/info/lfs/objects/batch", Request.batch),
    ("upload", r"/upload/(\w+)", Request.upload),
    ("commit", r"/api/datasets/([\w-]+/[\w-]+)/commit/(.+)", Request.commit),
    ("resolve", r"/datasets/([\w-]+/[\w-]+)/resolve/([^/]+)/(.+)", Request.resolve),
)


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Run the server."""
    hub = FakeHub()
    with serving(type("Handler", (Request,), {"hub": hub})) as hub.url:
        yield hub
