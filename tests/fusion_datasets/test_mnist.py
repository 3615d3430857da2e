"""Reading MNIST's files: what they may be called, and everything that may be wrong with them."""

import contextlib
import gzip
import pickle
import shutil
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion_datasets import BENCHMARKS, FusionDatasetsError
from fusion_datasets.sources import STAND_IN_NOTE
from fusion_datasets.sources.mnist import ORIGINAL_DIGEST, MnistSource, read_idx

FILES = BENCHMARKS["fusion-mnist"].source_files
TRAIN_IMAGES, TRAIN_LABELS, _, TEST_LABELS = FILES


def idx(*shape: int, content: bytes | None = None) -> bytes:
    head = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    return head + (bytes(int(np.prod(shape))) if content is None else content)


@pytest.fixture
def folder(digits_folder: Path, tmp_path: Path) -> Path:
    """A copy of the files to break."""
    return Path(shutil.copytree(digits_folder, tmp_path / "mnist"))


def test_values_and_labels_come_back(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    (tmp_path / "images").write_bytes(idx(3, 28, 28, content=pixels.tobytes()))
    (tmp_path / "labels").write_bytes(gzip.compress(idx(3, content=bytes([4, 0, 9]))))
    assert np.array_equal(read_idx(tmp_path / "images", (28, 28)), pixels)
    assert read_idx(tmp_path / "labels", ()).tolist() == [4, 0, 9]


@pytest.mark.parametrize("sub", [".", "MNIST/raw"])
@pytest.mark.parametrize("dash", ["-", "."])
@pytest.mark.parametrize("zipped", [True, False])
def test_names_that_are_in_use(folder: Path, tmp_path: Path, sub: str, dash: str, zipped: bool) -> None:
    renamed = tmp_path / "renamed"
    (renamed / sub).mkdir(parents=True)
    for name in FILES:
        content = (folder / name).read_bytes()
        name = name.replace("-idx", f"{dash}idx")
        (renamed / sub / (name if zipped else name.removesuffix(".gz"))).write_bytes(
            content if zipped else gzip.decompress(content)
        )
    again, original = MnistSource(renamed), MnistSource(folder)
    assert again.description["digest"] == original.description["digest"]
    assert np.array_equal(again.read("test", 3, 9).images, original.read("test", 3, 9).images)


def test_digest_depends_on_contents_alone(folder: Path) -> None:
    before = MnistSource(folder).description["digest"]
    labels = bytearray(gzip.decompress((folder / TEST_LABELS).read_bytes()))
    (folder / TEST_LABELS).write_bytes(gzip.compress(bytes(labels), 1))
    assert MnistSource(folder).description["digest"] == before
    labels[-1] ^= 1
    (folder / TEST_LABELS).write_bytes(gzip.compress(bytes(labels)))
    assert MnistSource(folder).description["digest"] != before


def test_look_alikes_never_pass_for_the_original(folder: Path) -> None:
    about = MnistSource(folder).description
    assert (about["name"], about["stand_in"]) == ("mnist-stand-in", True)
    assert MnistSource(folder).license == "CC0-1.0"
    (folder / STAND_IN_NOTE).unlink()
    about = MnistSource(folder).description
    assert about["name"] == "mnist-like"
    assert MnistSource(folder).license == "unknown"
    assert about["digest"] != ORIGINAL_DIGEST


def test_sources_travel_without_their_images(folder: Path) -> None:
    source = MnistSource(folder)
    source.read("train", 0, 9)
    assert len(pickle.dumps(source)) < 500
    assert pickle.loads(pickle.dumps(source)) == source


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


IMAGES = idx(90, 28, 28)
BROKEN = {
    "missing": (TRAIN_IMAGES, None, "lacks train-images-idx3-ubyte.gz"),
    "not gzip": (TRAIN_IMAGES, b"<html>404</html>", "not a gzip file"),
    "empty": (TRAIN_IMAGES, b"", "not a gzip file"),
    "empty inside": (TRAIN_IMAGES, gzip.compress(b""), "an empty file"),
    "gzip cut": (TRAIN_IMAGES, truncated(gzip.compress(IMAGES)), "damaged or truncated gzip"),
    "gzip checksum": (TRAIN_IMAGES, gzip.compress(IMAGES)[:-8] + bytes(8), "damaged or truncated gzip"),
    "gzip body": (TRAIN_IMAGES, gzip.compress(IMAGES)[:10] + b"\xff" * 90, "damaged or truncated gzip"),
    "gzip head": (TRAIN_IMAGES, b"\x1f\x8b\x08\x00junk", "damaged or truncated gzip"),
    "magic": (TRAIN_IMAGES, gzip.compress(b"\x00\x00\x0d" + IMAGES[3:]), "00 00 0d 03"),
    "labels as images": (TRAIN_IMAGES, gzip.compress(idx(90)), "expected 00 00 08 03"),
    "images as labels": (TRAIN_LABELS, gzip.compress(IMAGES), "expected 00 00 08 01"),
    "header cut": (TRAIN_IMAGES, gzip.compress(IMAGES[:9]), "ends within its header"),
    "size": (TRAIN_IMAGES, gzip.compress(idx(90, 32, 28)), "32×28 pixels; expected 28×28"),
    "short": (TRAIN_IMAGES, gzip.compress(IMAGES[:-1]), "claims 90 items, 70560 bytes, but holds 70559"),
    "long": (TRAIN_IMAGES, gzip.compress(IMAGES + b"\0"), "but holds more"),
    "count": (TRAIN_IMAGES, gzip.compress(idx(89, 28, 28)), "89 images but .* 90 labels"),
    "too many": (TRAIN_IMAGES, gzip.compress(idx(2**32 - 1, 28, 28, content=b"")), "at most 300000"),
    "labels": (TRAIN_LABELS, gzip.compress(idx(90, content=bytes([10] * 90))), "the label 10"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused_in_one_sentence(folder: Path, case: str) -> None:
    name, content, sentence = BROKEN[case]
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(FusionDatasetsError, match=sentence) as caught:
        MnistSource(folder).read("train", 0, 1)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_bomb_is_refused_without_being_unpacked(tmp_path: Path) -> None:
    bomb = tmp_path / "images.gz"
    with gzip.open(bomb, "wb", 1) as file:
        file.write(idx(10, 28, 28, content=b""))
        for _ in range(64):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(FusionDatasetsError, match="holds more"):
        read_idx(bomb, (28, 28))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FusionDatasetsError, match="is no folder"):
        MnistSource(tmp_path / "nowhere")
    with pytest.raises(FusionDatasetsError, match="lacks train-images"):
        MnistSource(tmp_path)


@given(
    content=st.one_of(
        st.binary(max_size=60),
        st.builds(lambda n, tail: idx(n, content=tail), st.integers(0, 2**32 - 1), st.binary(max_size=40)),
    ),
    zipped=st.booleans(),
    cut=st.integers(0, 80),
)
def test_whatever_the_bytes_there_is_an_array_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, zipped: bool, cut: int
) -> None:
    path = tmp_path_factory.mktemp("idx", numbered=True) / "labels"
    path.write_bytes((gzip.compress(content) if zipped else content)[: cut or None])
    with contextlib.suppress(FusionDatasetsError):
        labels = read_idx(path, ())
        assert idx(len(labels), content=labels.tobytes()) == content


@pytest.mark.originals
def test_the_original_is_known_by_its_digest(mnist_root: Path) -> None:
    source = MnistSource(mnist_root)
    assert source.description["name"] == "mnist"
    assert source.description["digest"] == ORIGINAL_DIGEST
    assert (source.num_images("train"), source.num_images("test")) == (60_000, 10_000)
    images = source.read("train", 0, 60_000).images / 255
    assert images.mean() == pytest.approx(0.1307, abs=1e-4)
    assert images.std() == pytest.approx(0.3081, abs=1e-4)
