"""Downloads: whatever a server does, a whole verified file appears, or one sentence."""

import gzip
import hashlib
import io
import random
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Literal

import pytest
from bad_server import BadServer, bad_server, dripping, endless, lying, silent, status, unannounced, whole
from click.testing import CliRunner

from fusion_datasets import BENCHMARKS, FusionDataset, FusionDatasetsError
from fusion_datasets.cli import main
from fusion_datasets.sources import download, originals
from fusion_datasets.sources.download import Downloader, RemoteFile
from fusion_datasets.sources.originals import PublishedFiles, fetch


def zipped(seed: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a", random.Random(seed).randbytes(399_904))
    return stream.getvalue()


CONTENT, OTHER = zipped(0), zipped(1)
PAGE = b"<!DOCTYPE html><html><head><title>Google Drive &ndash;\n Quota exceeded</title></head>Too many</html>"


@pytest.fixture
def server() -> Iterator[BadServer]:
    with bad_server() as running:
        yield running


def remote(*urls: str, known: bool = True, **fields: Any) -> RemoteFile:
    about: dict[str, Any] = {"size": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()} if known else {}
    return RemoteFile("a.zip", urls, "zip", **about | fields)


class Pauses(list[float]):
    """Sleeps that take no time."""

    def downloader(self, **settings: Any) -> Downloader:
        return Downloader(sleep=self.append, **{"timeout_s": 5.0} | settings)


def get(folder: Path, file: RemoteFile, pauses: Pauses | None = None, **settings: Any) -> bytes:
    downloader = (Pauses() if pauses is None else pauses).downloader(**settings)
    path = downloader.fetch(file, folder, page="https://example.org/a", progress=False)
    assert {found.name for found in folder.iterdir()} - {"a.zip.sha256"} == {"a.zip"}
    return path.read_bytes()


def refusal(folder: Path, file: RemoteFile, pauses: Pauses | None = None, **settings: Any) -> str:
    with pytest.raises(FusionDatasetsError) as caught:
        get(folder, file, pauses, **settings)
    assert not (folder / "a.zip").exists()
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_a_file_is_fetched_once(server: BadServer, tmp_path: Path) -> None:
    file = remote(server.at("/a", whole(CONTENT)))
    assert get(tmp_path, file) == get(tmp_path, file) == CONTENT
    assert server.ranges == [None]


def test_after_a_cut_the_rest_is_asked_for(server: BadServer, tmp_path: Path) -> None:
    file = remote(server.at("/a", whole(CONTENT, cut=100_000), whole(CONTENT, cut=200_000), whole(CONTENT)))
    pauses = Pauses()
    assert get(tmp_path, file, pauses) == CONTENT
    assert server.ranges == [None, "bytes=100000-", "bytes=300000-"]
    assert pauses == [2.0, 4.0]


def test_another_process_continues_where_one_was_killed(server: BadServer, tmp_path: Path) -> None:
    cut = remote(server.at("/a", whole(CONTENT, cut=100_000), status(404)))
    assert "answers 404" in refusal(tmp_path, cut)
    assert (tmp_path / "a.zip.part").stat().st_size == 100_000
    assert get(tmp_path, remote(server.at("/b", whole(CONTENT)))) == CONTENT
    assert server.ranges[-1] == "bytes=100000-"


def test_servers_without_ranges_start_over(server: BadServer, tmp_path: Path) -> None:
    file = remote(server.at("/a", whole(CONTENT, cut=99_999), whole(CONTENT, ranges=False)))
    assert get(tmp_path, file) == CONTENT


def test_a_server_that_cuts_for_ever_is_given_up(server: BadServer, tmp_path: Path) -> None:
    pauses = Pauses()
    sentence = refusal(tmp_path, remote(server.at("/a", whole(CONTENT, cut=1))), pauses)
    assert f"stopped after 5 of {len(CONTENT)} bytes" in sentence
    assert pauses == [2.0, 4.0, 8.0, 16.0]
    for hint in ("by hand from https://example.org/a", f"put it into {tmp_path}", "run the same command again"):
        assert hint in sentence


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (status(404), "answers 404"),
        (status(403, PAGE, Content_Type="text/html"), "answers 403, a web page titled “Google Drive – Quota exceeded”"),
        (status(200, PAGE), "answers with a web page titled “Google Drive – Quota exceeded” in place of the file, pro"),
        (status(200, b"Please sign in", Content_Type="text/html"), "a web page in place of the file, probably becau"),
        (status(204), "answers 204"),
        (whole(OTHER), "sent a file that has the SHA256 "),
        (whole(CONTENT + b"1"), f"offers {len(CONTENT) + 1} bytes; expected {len(CONTENT)}"),
        (lying(CONTENT, len(CONTENT) - 1), f"offers {len(CONTENT) - 1} bytes"),
        (lying(CONTENT, len(CONTENT) + 9), f"offers {len(CONTENT) + 9} bytes"),
        (endless(CONTENT), f"sends more than {len(CONTENT)} bytes"),
        (status(302, Location="file:///etc/passwd"), "answers 302"),
        (status(302, Location="ftp://127.0.0.1/a"), "redirects from http to ftp"),
        (status(302, Location="/0"), "answers 302"),
        (status(302), "answers 302"),
    ],
)
def test_the_next_mirror_is_asked(server: BadServer, tmp_path: Path, answer: Any, reason: str) -> None:
    bad = server.at("/a", answer)
    for i in range(9):
        server.at(f"/{i}", status(302, Location=f"/{i + 1}"))
    assert reason in refusal(tmp_path, remote(bad))
    assert get(tmp_path, remote(bad, server.at("/b", whole(CONTENT)))) == CONTENT


def test_redirects_are_followed(server: BadServer, tmp_path: Path) -> None:
    server.at("/b", status(301, Location="/c"))
    server.at("/c", whole(CONTENT, cut=7), whole(CONTENT))
    assert get(tmp_path, remote(server.at("/a", status(302, Location="/b")))) == CONTENT


def test_https_never_becomes_http() -> None:
    follow = download._BoundedRedirects().redirect_request
    request = urllib.request.Request("https://example.org/a")
    with pytest.raises(download._RefusedError, match="from https to http"):
        follow(request, None, 302, "", Message(), "http://example.org/a")
    again = follow(request, None, 302, "", Message(), "https://example.net/a")
    assert again is not None
    assert again.full_url == "https://example.net/a"


def test_nobody_there(server: BadServer, tmp_path: Path) -> None:
    assert "127.0.0.1:1 cannot be reached" in refusal(tmp_path, remote("http://127.0.0.1:1/a"))
    assert "no address is known" in refusal(tmp_path, remote())


def test_silence_is_a_cut(server: BadServer, tmp_path: Path) -> None:
    file = remote(server.at("/a", silent(CONTENT), whole(CONTENT)))
    assert get(tmp_path, file, timeout_s=0.2) == CONTENT
    assert server.ranges == [None, f"bytes={len(CONTENT) // 2}-"]


def test_a_drip_is_a_cut(server: BadServer, tmp_path: Path) -> None:
    file = remote(server.at("/a", dripping(CONTENT), whole(CONTENT)))
    assert get(tmp_path, file, stall_s=0.2) == CONTENT
    assert len(server.ranges) == 2


def test_busy_servers_are_left_alone_for_as_long_as_they_ask(server: BadServer, tmp_path: Path) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=50), usegmt=True)
    busy = [status(503, Retry_After=7), status(429, Retry_After=soon), status(500)]
    pauses = Pauses()
    assert get(tmp_path, remote(server.at("/a", *busy, whole(CONTENT))), pauses) == CONTENT
    assert pauses[0] == 7.0
    assert 0 < pauses[1] <= 50
    assert pauses[2] == 8.0
    pauses.clear()
    (tmp_path / "a.zip").unlink()
    assert "answers 503" in refusal(tmp_path, remote(server.at("/b", status(503, Retry_After=86_400))), pauses)
    assert not pauses


def test_an_earlier_part_of_another_file_is_thrown_away(server: BadServer, tmp_path: Path) -> None:
    for part in (OTHER[:1000], OTHER + OTHER, CONTENT[:-1] + b"?"):
        (tmp_path / "a.zip.part").write_bytes(part)
        assert get(tmp_path, remote(server.at("/a", whole(CONTENT)))) == CONTENT
        (tmp_path / "a.zip").unlink()


def test_without_a_checksum_only_the_same_version_is_continued(
    server: BadServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = server.at("/a", whole(OTHER, etag='"1"', cut=999), whole(CONTENT, etag='"2"'))
    assert get(tmp_path, remote(changed, known=False)) == CONTENT
    assert server.ranges == [None, "bytes=999-"]
    assert hashlib.sha256(CONTENT).hexdigest() in capsys.readouterr().err
    (tmp_path / "a.zip").unlink()
    nameless = server.at("/b", whole(OTHER, cut=999), whole(CONTENT))
    assert get(tmp_path, remote(nameless, known=False)) == CONTENT
    assert server.ranges[2:] == [None, None]


@pytest.mark.parametrize("kind", ["zip", "gzip"])
def test_a_cut_of_which_no_server_tells_is_found_out(
    server: BadServer, tmp_path: Path, kind: Literal["zip", "gzip"]
) -> None:
    content = CONTENT if kind == "zip" else gzip.compress(CONTENT, 1)
    cut = RemoteFile("a.zip", (server.at("/a", unannounced(content[: len(content) // 2])),), kind)
    assert f"ends early, after {len(content) // 2} bytes" in refusal(tmp_path, cut)
    assert get(tmp_path, RemoteFile("a.zip", (server.at("/b", unannounced(content)),), kind)) == content


def test_bytes_that_come_and_go_are_no_progress(
    server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_FRUITFUL_BYTES", 1000)
    pauses = Pauses()
    endlessly = [whole(CONTENT, cut=100_000), status(416)] * 20
    sentence = refusal(tmp_path, remote(server.at("/a", *endlessly)), pauses)
    assert "has another file than the one begun" in sentence or "stopped after" in sentence
    assert len(pauses) < 8


def test_without_a_size_there_is_a_limit(server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 1 << 20)
    assert "sends more than 1048576 bytes" in refusal(tmp_path, remote(server.at("/a", endless(CONTENT)), known=False))
    text = remote(server.at("/b", whole(b"hello")), known=False)
    assert "sent a file that starts with the bytes 68 65 6c 6c; expected a zip file" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("stated", "said"), [(CONTENT, "as others state it"), (OTHER, "others state 3"), (b"", "known")]
)
def test_an_unconfirmed_checksum_warns_and_is_recorded(
    server: BadServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], stated: bytes, said: str
) -> None:
    sha256, claimed = (hashlib.sha256(content).hexdigest() for content in (CONTENT, stated))
    file = remote(server.at("/a", whole(CONTENT)), sha256=claimed if stated else None, confirmed=False)
    assert get(tmp_path, file) == CONTENT
    warning = capsys.readouterr().err
    assert sha256 in warning
    assert said.replace("state 3", f"state {claimed}") in warning
    assert (tmp_path / "a.zip.sha256").read_text() == f"{sha256}  a.zip\n"
    assert get(tmp_path, file) == CONTENT
    assert not capsys.readouterr().err
    (tmp_path / "a.zip").write_bytes(OTHER)
    with pytest.raises(FusionDatasetsError, match=f"when it was fetched, it had {sha256}; move it away"):
        get(tmp_path, file)
    (tmp_path / "a.zip").unlink()
    assert "offers 400004 bytes; expected 7" in refusal(tmp_path, remote(*file.urls, size=7, confirmed=False))


def test_what_lies_there_is_never_replaced(server: BadServer, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"my thesis")
    with pytest.raises(FusionDatasetsError, match=r"a.zip has 9 bytes; expected 400004; move it away"):
        Downloader().fetch(remote(server.at("/a", whole(CONTENT))), tmp_path, page="")
    assert (tmp_path / "a.zip").read_bytes() == b"my thesis"
    assert not server.ranges


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from fusion_datasets.sources.download import Downloader, RemoteFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
try:
    file = RemoteFile("a.zip", (sys.argv[1],), "zip", int(sys.argv[3]), sys.argv[4])
    Downloader().fetch(file, Path(sys.argv[2]), page="")
except ValueError as error:
    print(error)
"""


def test_a_full_disk_keeps_what_came(server: BadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = remote(server.at("/a", whole(CONTENT)))
    command = [sys.executable, "-c", FULL_DISK, file.urls[0], str(tmp_path), str(file.size), str(file.sha256)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "a.zip.part cannot be written (File too large); make room, and the same command continues" in said
    assert (tmp_path / "a.zip.part").stat().st_size == 150_000
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
        assert "has 0 MB free" in refusal(tmp_path, file)
    assert get(tmp_path, file) == CONTENT
    assert server.ranges[-1] == "bytes=150000-"


def test_the_table_of_originals() -> None:
    mnist = originals.originals("mnist")
    assert tuple(file.name for file in mnist.files) == BENCHMARKS["fusion-mnist"].source_files
    assert len(originals.originals("tless-v2").files) == 30
    for name in ("mnist", "celeba", "tless", "tless-v2"):
        for file in originals.originals(name).files:
            assert file.urls
            assert all(url.startswith("http") and "{" not in url for url in file.urls)
            assert file.has_checksum == (name in ("mnist", "celeba"))
    with pytest.raises(FusionDatasetsError, match="expected one of mnist, celeba, tless"):
        originals.originals("imagenet")


@pytest.mark.originals
def test_the_original_files_have_the_checksums_of_the_table(mnist_root: Path) -> None:
    assert fetch("mnist", mnist_root.parent) == mnist_root


@pytest.fixture
def published_digits(server: BadServer, digits_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for name in BENCHMARKS["fusion-mnist"].source_files:
        content = (digits_folder / name).read_bytes()
        url = server.at(f"/{name}", whole(content))
        files.append(RemoteFile(name, (url,), "gzip", len(content), hashlib.sha256(content).hexdigest()))
    published = PublishedFiles("mnist", "MNIST", "https://example.org", "CC0-1.0", tuple(files))
    monkeypatch.setattr(originals, "originals", lambda _: published)
    monkeypatch.setattr("fusion_datasets.commands.build.originals", lambda _: published)


@pytest.mark.usefixtures("published_digits")
def test_build_fetches_its_source(server: BadServer, tmp_path: Path) -> None:
    root, output = tmp_path / "data", tmp_path / "a.h5"
    command = ["build", "mnist", "--source", "download", "--data-root", str(root), "--output", str(output)]
    planned = CliRunner().invoke(main, [*command, "--dry-run"])
    assert "would fetch train-images-idx3-ubyte.gz, " in planned.stdout
    assert not list(tmp_path.iterdir())
    for wording in ("built", "already built"):
        made = CliRunner().invoke(main, command)
        assert (made.exit_code, made.stderr) == (0, "")
        assert f"a.h5: {wording}, FusionMNIST from mnist-like, 90 train rows" in made.stdout
    assert len(server.ranges) == 4
    assert FusionDataset(output).header.rows == {"train": 90, "test": 40}
    assert "would keep" in CliRunner().invoke(main, [*command, "--dry-run"]).stdout
    (root / "mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"x")
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 1
    assert "move it away to have it fetched again" in refused.stderr
