"""Originals in folders and zips: read in place, and nothing that an index claims is believed."""

import contextlib
import io
import pickle
import random
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_datasets import FusionDatasetsError
from fusion_datasets.sources import archive
from fusion_datasets.sources.archive import Archive, Folder, contents_of, open_originals

FILES = {
    "list.txt": b"000001.jpg 0\n" * 50,
    "img/000001.jpg": random.Random(1).randbytes(3000),
    "img/empty": b"",
    "img/größe.json": b"{}",
}


def zipped(files: dict[str, bytes] = FILES, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        file.mkdir("img")
        for name, content in files.items():
            file.writestr(name, content)
    return stream.getvalue()


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Archive]:
    def write(content: bytes) -> Archive:
        (tmp_path / "a.zip").write_bytes(content)
        return Archive(tmp_path / "a.zip")

    return write


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_reads_like_its_folder(tmp_path: Path, method: int) -> None:
    for name, content in FILES.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    (tmp_path / "a.zip").write_bytes(zipped(method=method))
    folder, packed = open_originals(tmp_path / "folder"), open_originals(tmp_path / "a.zip")
    assert (type(folder), type(packed)) == (Folder, Archive)
    assert folder.names == packed.names == tuple(sorted(FILES))
    for originals in (folder, packed, pickle.loads(pickle.dumps(folder)), pickle.loads(pickle.dumps(packed))):
        assert {name: originals.read(name) for name in originals.names} == FILES
        assert len(pickle.dumps(originals)) < 300
        with pytest.raises(FusionDatasetsError, match="nowhere"):
            originals.read("nowhere")
    with pytest.raises(FusionDatasetsError, match="does not exist"):
        open_originals(tmp_path / "nowhere")


def test_zip64_is_read(written: Callable[[bytes], Archive], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
    content = zipped()
    assert b"PK\x06\x06" in content
    source = written(content)
    assert {name: source.read(name) for name in source.names} == FILES


def test_comments_and_odd_names_are_no_hindrance(written: Callable[[bytes], Archive]) -> None:
    stream = io.BytesIO(zipped({"./a//b\\c.png": b"1"}))
    with zipfile.ZipFile(stream, "a") as file:
        file.comment = b"PK\5\6" * 9
    source = written(stream.getvalue())
    assert source.names == ("a/b/c.png",)
    assert source.read("a/b/c.png") == b"1"


def with_flags(content: bytes, name: bytes, flags: int) -> bytes:
    """Other general purpose bits for a member, in its local header and in the index."""
    changed = bytearray(content)
    for place in (content.index(name) - 30 + 6, content.rindex(name) - 46 + 8):
        changed[place : place + 2] = flags.to_bytes(2, "little")
    return bytes(changed)


def test_names_are_read_as_they_were_written(written: Callable[[bytes], Archive]) -> None:
    name = "kät zen/é.png"
    marked = zipped({name: b"1"})
    assert written(marked).names == (name,)
    raw = name.encode()
    assert written(with_flags(marked, raw, 0)).names == (name,)  # what macOS writes: UTF-8 that is not marked

    old = b"kat?zen/e.png"  # what Info-ZIP writes: another name, and the true one in an extra field
    field = b"\1" + zlib.crc32(old).to_bytes(4, "little") + raw
    info = zipfile.ZipInfo(old.decode())
    info.extra = struct.pack("<2H", 0x7075, len(field)) + field
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(info, b"1")
    assert written(stream.getvalue()).names == (name,)
    stale = stream.getvalue().replace(zlib.crc32(old).to_bytes(4, "little"), b"\0\0\0\0")  # of another name
    assert written(stale).names == (old.decode(),)

    dos_name = name.encode("cp437").ljust(len(raw), b"!")
    dos = marked.replace(raw, dos_name)
    assert written(with_flags(dos, dos_name, 0)).names == ("kät zen/é.png!!",)


def test_a_folder_follows_links_and_ends(tmp_path: Path) -> None:
    for name in ("there/dogs/1.png", "here/cats/2.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "here" / "dogs").symlink_to(tmp_path / "there" / "dogs")
    (tmp_path / "here" / "cats" / "up").symlink_to(tmp_path / "here")
    (tmp_path / "there" / "dogs" / "back").symlink_to(tmp_path / "here")
    (tmp_path / "here" / "gone").symlink_to(tmp_path / "nowhere")
    for again in ("all", "zoo"):  # of what is there, or linked to, already
        (tmp_path / "here" / f"{again} cats").symlink_to(tmp_path / "here" / "cats")
        (tmp_path / "here" / f"{again} dogs").symlink_to(tmp_path / "there" / "dogs")
    folder = Folder(tmp_path / "here")
    links = {"gone", "cats/up", "dogs/back"}
    assert [name for name in folder.names if name not in links] == ["all dogs/1.png", "cats/2.png"]
    assert folder.read("all dogs/1.png") == b"1"


def test_the_reason_is_said_of_what_cannot_be_used(written: Callable[[bytes], Archive], tmp_path: Path) -> None:
    content = with_flags(zipped({"an a": b"1"}), b"an a", 1)
    (tmp_path / "huge").mkdir()
    for source, reasons in (
        (written(content), ["encrypted: unpack the archive by hand and name the folder", "missing"]),
        (Folder(tmp_path / "huge"), ["missing", "missing"]),
    ):
        assert [str(error) for error in contents_of(source, ["an a", "b"])] == reasons
    (tmp_path / "huge" / "a").mkdir()
    assert str(next(contents_of(Folder(tmp_path / "huge"), ["a"]))) == "is a directory"


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "C:\\a", "..\\a", "a/.."])
def test_names_that_lead_out_are_refused(written: Callable[[bytes], Archive], name: str) -> None:
    source = written(zipped({name: b"1"}).replace(b"C:/a", b"C:\\a"))
    with pytest.raises(FusionDatasetsError, match="leads out of the archive"):
        _ = source.names


def test_names_that_come_twice_are_refused(written: Callable[[bytes], Archive]) -> None:
    source = written(zipped({"a": b"1", "./a": b"2"}))
    with pytest.raises(FusionDatasetsError, match="holds a twice"):
        source.read("a")


def peak_of(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_bombs_are_refused_unopened(written: Callable[[bytes], Archive]) -> None:
    source = written(zipped({"a.png": bytes(30 << 20), "b.png": bytes(65 << 20), "small": bytes(1 << 20)}))

    def read_all() -> None:
        with pytest.raises(FusionDatasetsError, match="at most 200 times"):
            source.read("a.png")
        with pytest.raises(FusionDatasetsError, match="claims 68157440 bytes; at most 67108864"):
            source.read("b.png")
        assert len(source.read("small")) == 1 << 20

    assert peak_of(read_all) < 4 << 20


def changed_entry(content: bytes, field: int, value: int) -> bytes:
    """The zip with a field of its last index entry changed, as `archive._ENTRY` counts them."""
    at = content.rfind(b"PK\1\2")
    entry = list(archive._ENTRY.unpack_from(content, at))
    entry[field] = value
    return content[:at] + archive._ENTRY.pack(*entry) + content[at + archive._ENTRY.size :]


LYING = {
    "encrypted": (3, 1, "is encrypted"),
    "method": (4, 12, "packed by method 12"),
    "checksum": (7, 5, "is damaged"),
    "packed less": (8, 9, "is damaged"),
    "packed more": (8, 1 << 20, "is damaged"),
    "shorter": (9, 9, "is damaged"),
    "longer": (9, 1 << 20, "is damaged"),
    "elsewhere": (16, 7, "is damaged"),
    "outside": (16, 1 << 30, "is damaged"),
}


@pytest.mark.parametrize("case", LYING)
def test_an_index_that_lies_is_found_out(written: Callable[[bytes], Archive], case: str) -> None:
    field, value, sentence = LYING[case]
    source = written(changed_entry(zipped({"a": b"content " * 20}), field, value))
    with pytest.raises(FusionDatasetsError, match=sentence) as caught:
        source.read("a")
    assert "\n" not in str(caught.value)


def test_a_bomb_that_denies_being_one_is_not_unpacked(written: Callable[[bytes], Archive]) -> None:
    source = written(changed_entry(zipped({"a": bytes(60 << 20)}), 9, 100))

    def read() -> None:
        with pytest.raises(FusionDatasetsError, match="is damaged"):
            source.read("a")

    assert peak_of(read) < 1 << 20


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is no zip"),
        (b"<html>quota</html>" * 9, "is no zip"),
        (zipped()[:-1], "is no zip"),
        (zipped()[100:], "damaged index|outside the file"),
        (zipped().replace(b"PK\1\2", b"PK\1\3"), "damaged index"),
        (struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 2**31, 0, 0), "outside the file"),
    ],
)
def test_what_is_no_zip_is_one_sentence(written: Callable[[bytes], Archive], content: bytes, sentence: str) -> None:
    with pytest.raises(FusionDatasetsError, match=sentence):
        _ = written(content).names


def test_a_huge_index_is_not_read(tmp_path: Path) -> None:
    size = archive.MAX_INDEX_BYTES + 1
    with (tmp_path / "a.zip").open("wb") as file:
        file.truncate(size)  # sparse
        file.seek(size)
        file.write(archive._END.pack(b"PK\5\6", 0, 0, 1, 1, size, 0, 0))

    def read() -> None:
        with pytest.raises(FusionDatasetsError, match="at most 268435456 are accepted"):
            _ = Archive(tmp_path / "a.zip").names

    assert peak_of(read) < 1 << 20


@settings(max_examples=300)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1000), st.binary(min_size=1, max_size=8)), max_size=6),
    cut=st.integers(0, 60),
)
def test_whatever_the_bytes_there_is_content_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]], cut: int
) -> None:
    content = bytearray(ZIP64 if cut % 2 else ZIP)
    for position, patch in changes:
        at = len(content) - 1 - position % len(content)
        content[at : at + len(patch)] = patch
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    path.write_bytes(content[: len(content) - max(0, cut - 40)])
    source = Archive(path)
    with contextlib.suppress(FusionDatasetsError):
        for name in source.names:
            assert not Path(name).is_absolute()
            assert ".." not in name.split("/")
            with contextlib.suppress(FusionDatasetsError):
                assert zlib.crc32(source.read(name)) == source.members[name].crc32


ZIP = zipped({"a.txt": b"abc" * 20, "b/c.bin": bytes(40)})
with pytest.MonkeyPatch.context() as patched:
    patched.setattr(zipfile, "ZIP64_LIMIT", 10)
    ZIP64 = zipped({"a.txt": b"abc" * 20, "b/c.bin": bytes(40)})
