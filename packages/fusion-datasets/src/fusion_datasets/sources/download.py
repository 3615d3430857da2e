"""Fetching one file from its mirrors: resumed after a cut, checked before it gets its name, never taken on trust.

The request itself is the standard library's; pooch, which hashes and caches well, neither resumes nor tries mirrors.
"""

import contextlib
import email.utils
import gzip
import hashlib
import html
import json
import re
import shutil
import ssl
import sys
import time
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.progress import Progress
from fusion_datasets.sources.archive import Archive
from fusion_datasets.store import replace_durably, write_atomically

MAX_BYTES: Final = 16 << 30
"""Most bytes that are accepted of a file whose size is not known."""

_CHUNK: Final = 1 << 17
_PAGE_BYTES: Final = 1 << 16
_FRUITFUL_BYTES: Final = 1 << 20  # an attempt that brought less does not count as progress
_SLOWEST_BYTES: Final = 1 << 10
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAGIC: Final = {"gzip": b"\x1f\x8b", "zip": b"PK", "text": b""}


class _RefusedError(Exception):
    """A mirror will not give the file, however often it is asked."""


class _BrokenError(Exception):
    """An attempt failed; the next one may not. Knows for how long the server asks to be left alone."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class _OtherVersionError(_BrokenError):
    """The part that was received before does not belong to what the mirror has now."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A published file.

    Arguments:
        name: Its name on disk.
        urls: Mirrors, tried in order.
        kind: How it begins: a gzip, a zip, or text.
        size: Its length in bytes, or None if that is not known.
        sha256: Its SHA-256, or None if that is not known.
        md5: Its MD5, for files of which no more is known.
        confirmed: Whether these checksums are trusted; one that is not makes a warning of a difference, not a refusal.
    """

    name: str
    urls: tuple[str, ...]
    kind: Literal["gzip", "zip", "text"]
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    confirmed: bool = True

    @property
    def has_checksum(self) -> bool:
        """Whether a wrong file would be noticed for certain."""
        return self.confirmed and bool(self.sha256 or self.md5)

    def mismatch(self, path: Path) -> str | None:
        """Say how a file on disk differs from this one, or None if it does not, as far as is known."""
        size = path.stat().st_size
        if self.size is not None and size != self.size:
            return f"has {size} bytes; expected {self.size}"
        trusted = (self.sha256, self.md5) if self.confirmed else (None, None)
        for name, expected in zip(("sha256", "md5"), trusted, strict=True):
            if expected and (got := _checksum(path, name)) != expected:
                return f"has the {name.upper()} {got}; expected {expected}"
        with path.open("rb") as file:
            head = file.read(_PAGE_BYTES)
        if page := _web_page(head):
            return f"is {page}"
        if not head.startswith(_MAGIC[self.kind]) or (self.kind == "text" and b"\0" in head):
            return f"starts with the bytes {head[:4].hex(' ')}; expected a {self.kind} file"
        if self.size is None and not any(trusted) and not _is_whole(path, self.kind):
            return f"ends early, after {size} bytes"
        return None


@dataclass(frozen=True)
class Downloader:
    """Fetches files, with patience.

    Arguments:
        timeout_s: How long a server may say nothing.
        stall_s: How long it may take over a kibibyte.
        attempts: Attempts at a mirror, one after another, that bring next to nothing.
        max_wait_s: Longest pause between two attempts; a server that asks for a longer one is given up.
        sleep: What pauses.
    """

    timeout_s: float = 30.0
    stall_s: float = 60.0
    attempts: int = 5
    max_wait_s: float = 120.0
    sleep: Callable[[float], None] = time.sleep

    def fetch(self, file: RemoteFile, folder: Path, *, page: str, progress: bool = True) -> Path:
        """See that a file lies in a folder, whole and verified.

        What was received before a cut lies beside it as `NAME.part`, and is continued from. Where no confirmed checksum
        is known, that is said on stderr, and the SHA-256 that was found is recorded beside the file as `NAME.sha256`.

        Arguments:
            file: What to fetch.
            folder: Where to; it exists.
            page: Where a person finds the file, for the message if it cannot be had.
            progress: Report on stderr.

        Returns:
            The file's path.

        Raises:
            FusionDatasetsError: If no mirror gives it, if it cannot be written, or if what lies there is another file.
        """
        final = folder / file.name
        if final.exists():
            if difference := file.mismatch(final) or (None if file.has_checksum else _changed_since(final)):
                raise FusionDatasetsError(f"{final} {difference}; move it away to have it fetched again")
            return final
        reasons = []
        for url in file.urls:
            try:
                self._fetch_from(url, file, final, progress)
            except _RefusedError as error:
                reasons.append(f"{urlsplit(url).netloc} {error}")
            else:
                if not file.has_checksum:
                    _record(file, final)
                return final
        raise FusionDatasetsError(
            f"{file.name} could not be fetched ({'; '.join(reasons) or 'no address is known'}); get it by hand from "
            f"{page}, put it into {folder}, and run the same command again"
        )

    def _fetch_from(self, url: str, file: RemoteFile, final: Path, progress: bool) -> None:
        part = _Part(final, url, file)
        fruitless, furthest = 0, part.size
        while True:
            before = part.size
            try:
                self._receive(url, file, part, progress)
            except _BrokenError as error:
                if isinstance(error, _OtherVersionError):
                    part.forget()
                # Bytes that came before and were thrown away are no progress: they could come and go for ever.
                fruitless = 0 if part.size >= furthest + _FRUITFUL_BYTES else fruitless + 1
                furthest = max(furthest, part.size)
                pause = 2.0**fruitless if error.retry_after_s is None else error.retry_after_s
                if fruitless >= self.attempts or pause > self.max_wait_s:
                    raise _RefusedError(str(error)) from error
                self.sleep(pause)
                continue
            difference = file.mismatch(part.path)
            if difference is None:
                replace_durably(part.path, final)
                part.forget()
                return
            part.forget()
            if not before:
                raise _RefusedError(f"sent a file that {difference}")
            # The earlier part may be another file's: once more, from the first byte.

    def _receive(self, url: str, file: RemoteFile, part: "_Part", progress: bool) -> None:
        have = part.size
        if have and have == file.size:
            return
        headers = {"User-Agent": f"fusion-datasets/{version('fusion-datasets')}", "Accept-Encoding": "identity"}
        with self._open(urllib.request.Request(url, headers=headers | part.range_headers())) as response:
            try:
                total, chunk = _expected(response, have), response.read1(_CHUNK)
                have = have if response.status == 206 else 0
                if not have and (page := _web_page(chunk, response.headers)):
                    raise _RefusedError(f"answers with {page}")
                if file.size is not None and total not in (None, file.size):
                    raise _RefusedError(f"offers {total} bytes; expected {file.size}")
                most = file.size or total or MAX_BYTES
                _see_room(part.path, most - have if total or file.size else 0)
                with Progress(file.name, most, done=have, unit="B", shown=progress) as bar, part.opened(have) as stream:
                    if not have:
                        part.remember(response.headers)
                    began, brought = time.monotonic(), 0
                    while chunk:
                        have += len(chunk)
                        if have > most:
                            part.forget()
                            raise _RefusedError(f"sends more than {most} bytes")
                        part.write(stream, chunk)
                        bar.advance(len(chunk))
                        brought += len(chunk)
                        if time.monotonic() - began > self.stall_s:
                            if brought < _SLOWEST_BYTES:
                                raise _BrokenError(f"sent {brought} bytes in {self.stall_s:.0f} s")
                            began, brought = time.monotonic(), 0
                        chunk = response.read1(_CHUNK)
            except (OSError, HTTPException) as error:
                raise _BrokenError(f"stopped after {have} bytes ({_reason(error)})") from error
        if total is not None and have < total:
            raise _BrokenError(f"stopped after {have} of {total} bytes")

    def _open(self, request: urllib.request.Request) -> HTTPResponse:
        opener = urllib.request.OpenerDirector()  # without the handlers of file:, ftp: and data:
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            _BoundedRedirects(),
        ):
            opener.add_handler(handler)
        try:
            response: HTTPResponse = opener.open(request, timeout=self.timeout_s)
        except HTTPError as error:
            with error:
                if error.code in _PASSING:
                    raise _BrokenError(f"answers {error.code}", _retry_after_s(error.headers)) from error
                if error.code == 416:
                    raise _OtherVersionError("has another file than the one begun") from error
                page = _web_page(error.read(_PAGE_BYTES), error.headers) if error.code in (401, 403) else None
                raise _RefusedError(f"answers {error.code}" + (f", {page}" if page else "")) from error
        except URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise _RefusedError("has no valid certificate") from error
            raise _BrokenError(f"cannot be reached ({_reason(error.reason)})") from error
        except (OSError, HTTPException) as error:
            raise _BrokenError(f"gives no answer ({_reason(error)})") from error
        return response


class _BoundedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, never from https to http, nor to a file."""

    max_redirections = 5

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in {"https", req.type}:
            raise _RefusedError(f"redirects from {req.type} to {urlsplit(newurl).scheme}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Part:
    """What has been received of a file, and a note of which version of it that was."""

    def __init__(self, final: Path, url: str, file: RemoteFile) -> None:
        self.path = final.with_name(f"{final.name}.part")
        self._note = final.with_name(f"{final.name}.part.json")
        self._url, self._file = url, file

    @property
    def size(self) -> int:
        """Bytes to continue from. Without a checksum, only the very version that was begun is continued."""
        if not self.path.is_file() or not (self._file.has_checksum or self._validator()):
            return 0
        return self.path.stat().st_size

    def range_headers(self) -> dict[str, str]:
        """The headers that ask for the rest."""
        if not self.size:
            return {}
        validator = self._validator()
        return {"Range": f"bytes={self.size}-"} | ({"If-Range": validator} if validator else {})

    def remember(self, headers: Message) -> None:
        """Note the version that is being received."""
        etag = headers.get("ETag", "")
        validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
        try:
            write_atomically(self._note, json.dumps({"url": self._url, "validator": validator}).encode())
        except OSError as error:
            raise _unwritable(self._note, error) from error

    def opened(self, have: int) -> Any:
        """The file, to be written from byte `have` on."""
        try:
            return self.path.open("ab" if have else "wb")
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def write(self, stream: Any, chunk: bytes) -> None:
        """Append; a full disk is the user's to mend, not a reason to try another mirror."""
        try:
            stream.write(chunk)
            stream.flush()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def forget(self) -> None:
        """Remove what is left of it."""
        for path in (self.path, self._note):
            path.unlink(missing_ok=True)

    def _validator(self) -> str | None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            note = json.loads(self._note.read_bytes())
            if note.get("url") == self._url and isinstance(note.get("validator"), str):
                validator: str = note["validator"]
                return validator
        return None


def _is_whole(path: Path, kind: str) -> bool:
    """Whether a file of which neither length nor checksum is known ends as its kind does."""
    try:
        if kind == "zip":
            return bool(Archive(path).names)
        if kind == "gzip":
            with gzip.open(path) as content:
                while content.read(_CHUNK):
                    pass
    except (FusionDatasetsError, OSError, EOFError, zlib.error):
        return False
    return True


def _record_of(final: Path) -> Path:
    return final.with_name(f"{final.name}.sha256")


def _record(file: RemoteFile, final: Path) -> None:
    """Note the SHA-256 of a file that no confirmed checksum vouches for, and say so."""
    got = _checksum(final, "sha256")
    write_atomically(_record_of(final), f"{got}  {final.name}\n".encode())
    if file.sha256 == got:
        said = f"its SHA-256 is {got}, as others state it; its publisher confirms none"
    elif file.sha256:
        said = f"its SHA-256 is {got}; others state {file.sha256}, which its publisher does not confirm"
    else:
        said = f"no checksum of it is known, so size and kind alone were compared; its SHA-256 is {got}"
    sys.stderr.write(f"{file.name}: {said}\n")


def _changed_since(final: Path) -> str | None:
    """Say how a file differs from what was recorded when it came, or None."""
    with contextlib.suppress(FileNotFoundError, IndexError):
        expected, got = _record_of(final).read_text(encoding="utf-8").split(maxsplit=1)[0], _checksum(final, "sha256")
        return None if got == expected else f"has the SHA-256 {got}; when it was fetched, it had {expected}"
    return None


def _unwritable(path: Path, error: OSError) -> FusionDatasetsError:
    return FusionDatasetsError(
        f"{path} cannot be written ({error.strerror or error}); make room, and the same command continues from there"
    )


def _see_room(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise FusionDatasetsError(f"{path.parent} has {free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB are to come")


def _expected(response: HTTPResponse, have: int) -> int | None:
    """Length of the whole file as the server states it, or None."""
    length = response.headers.get("Content-Length", "")
    if response.status == 206:
        place = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
        if place is None or int(place[1]) != have:
            raise _OtherVersionError("answers with another part than the one asked for")
        return None if place[3] == "*" else int(place[3])
    if response.status != 200:
        raise _RefusedError(f"answers {response.status}")
    return int(length) if length.isdigit() else None


def _web_page(head: bytes, headers: Message | None = None) -> str | None:
    """Describe a web page that stands in place of a file, or None if the bytes are no such page."""
    declared = headers is not None and headers.get_content_type() == "text/html"
    if not declared and not re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head)", head, re.IGNORECASE):
        return None
    text = head.decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>(.{0,200}?)</title", text, re.IGNORECASE | re.DOTALL)
    said = f" titled “{' '.join(html.unescape(title[1]).split())}”" if title else ""
    for word, meaning in (
        ("quota", "its quota is spent"),
        ("sign in", "it wants a login"),
        ("login", "it wants a login"),
    ):
        if word in text.lower():
            return f"a web page{said} in place of the file, probably because {meaning}"
    return f"a web page{said} in place of the file"


def _retry_after_s(headers: Message) -> float | None:
    value = headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "it fell silent"
    return " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())


def _checksum(path: Path, name: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(name, usedforsecurity=False)).hexdigest()
