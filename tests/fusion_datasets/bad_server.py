"""A local HTTP server that cuts, lies, stalls, redirects and sends web pages."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Request"], None]


@dataclass
class BadServer:
    """Answers each path by its script, one entry per request; the last entry answers all further ones."""

    scripts: dict[str, list[Answer]] = field(default_factory=dict)
    ranges: list[str | None] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def at(self, path: str, *answers: Answer) -> str:
        """Put a script at a path, and return its URL."""
        self.scripts[path] = list(answers)
        return self.url + path


class Request(BaseHTTPRequestHandler):
    """One request; answers are functions of it."""

    bad_server: BadServer

    def do_GET(self) -> None:
        script = self.bad_server.scripts.get(self.path, [status(404)])
        self.bad_server.ranges.append(self.headers.get("Range"))
        answer = script.pop(0) if len(script) > 1 else script[0]
        answer(self)

    def begin(self, code: int, headers: dict[str, Any]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def bad_server() -> Iterator[BadServer]:
    """Run one in a thread."""
    state = BadServer()
    with serving(type("Bound", (Request,), {"bad_server": state})) as state.url:
        try:
            yield state
        finally:
            state.released.set()


class _Server(ThreadingHTTPServer):
    """A server that never speaks: what it prints would be taken for a command's words; its clients see what failed."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a free local port, in a thread; yield the address."""
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def whole(content: bytes, *, etag: str | None = None, ranges: bool = True, cut: int | None = None) -> Answer:
    """Send content, or the rest of it that is asked for; `cut` ends the connection after so many bytes."""

    def answer(request: Request) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        unchanged = request.headers.get("If-Range") in (None, etag)
        headers = {"ETag": etag} if etag else {}
        if asked and ranges and unchanged:
            start = int(asked[1])
            if start >= len(content):
                request.begin(416, {"Content-Length": 0})
                return
            place = f"bytes {start}-{len(content) - 1}/{len(content)}"
            request.begin(206, headers | {"Content-Range": place, "Content-Length": len(content) - start})
        else:
            start = 0
            request.begin(200, headers | {"Content-Length": len(content)})
        request.wfile.write(content[start:] if cut is None else content[start : start + cut])

    return answer


def lying(content: bytes, length: int) -> Answer:
    """Claim another length."""

    def answer(request: Request) -> None:
        request.begin(200, {"Content-Length": length})
        request.wfile.write(content)

    return answer


def endless(content: bytes) -> Answer:
    """State no length, and send content until nobody listens."""

    def answer(request: Request) -> None:
        request.begin(200, {})
        while not request.bad_server.released.is_set():
            request.wfile.write(content)

    return answer


def unannounced(content: bytes) -> Answer:
    """State no length, send content, and end the connection."""

    def answer(request: Request) -> None:
        request.begin(200, {})
        request.wfile.write(content)

    return answer


def silent(content: bytes) -> Answer:
    """Begin, then say nothing more."""

    def answer(request: Request) -> None:
        request.begin(200, {"Content-Length": len(content)})
        request.wfile.write(content[: len(content) // 2])
        request.bad_server.released.wait(30)

    return answer


def dripping(content: bytes) -> Answer:
    """Send byte after byte, slowly."""

    def answer(request: Request) -> None:
        request.begin(200, {"Content-Length": len(content)})
        for i in range(len(content)):
            request.wfile.write(content[i : i + 1])
            if request.bad_server.released.wait(0.01):
                return

    return answer


def status(code: int, content: bytes = b"", **headers: Any) -> Answer:
    """Answer a status; header names are given with `_` for `-`."""

    def answer(request: Request) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request.begin(code, {"Content-Length": len(content)} | named)
        request.wfile.write(content)

    return answer
