"""Bad input: exit status 1, one sentence on stderr, no traceback, nothing left behind."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import pytest

from fusionvae_bench.results import FORMAT, FORMAT_VERSION
from fusionvae_model import PRESETS, FusionVAE

Words = list[object]


@dataclass(frozen=True)
class Place:
    """The folder of a test, with a good data set and a good model to spoil copies of."""

    folder: Path
    data: Path
    weights: Path

    def idx(self, **changes: bytes) -> Path:
        """A folder of four small IDX files, some of them replaced."""
        folder = self.folder / "idx"
        folder.mkdir()
        for part in ("train", "t10k"):
            good = {"images": idx((3, 28, 28)), "labels": idx((3,))}
            for (kind, content), rank in zip(good.items(), (3, 1), strict=True):
                (folder / f"{part}-{kind}-idx{rank}-ubyte").write_bytes(changes.get(f"{part}_{kind}", content))
        return folder

    def gzipped_idx(self, *, missing: int) -> Path:
        """The same with the test images gzipped, and the end of that file missing."""
        folder = self.idx()
        plain = folder / "t10k-images-idx3-ubyte"
        plain.with_suffix(".gz").write_bytes(gzip.compress(plain.read_bytes())[:-missing])
        plain.unlink()
        return folder

    def build(self, source: Path) -> Words:
        return ["fusion-datasets", "build", "mnist", "--source", source, "--output", self.folder / "out.h5"]

    def train(self, data: Path) -> Words:
        words = ["fusionvae", "train", "--preset", "fusion-mnist-small", "--epochs", 1]
        return [*words, "--data", data, "--output", self.folder / "run"]

    def run(self, *, weights: Path | None = None, data: Path | None = None) -> Words:
        words = ["fusion-bench", "run", "--num-samples", 2, "--limit", 2, "-o", self.folder / "result.json"]
        return [*words, "--weights", weights or self.weights, "--data", data or self.data]

    def file(self, name: str, content: bytes) -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def foreign(self) -> Path:
        """A sound HDF5 file of somebody else."""
        with h5py.File(self.folder / "foreign.h5", "w") as file:
            file["images"] = [1, 2, 3]
        return self.folder / "foreign.h5"

    def cut(self) -> Path:
        """A data set whose copying was interrupted."""
        content = self.data.read_bytes()
        return self.file("cut.h5", content[: len(content) // 2])

    def newer(self) -> Path:
        """A data set of a later format."""
        copy = Path(shutil.copy(self.data, self.folder / "newer.h5"))
        with h5py.File(copy, "r+") as file:
            file.attrs["format_version"] = 2
        return copy

    def flipped(self) -> Path:
        """A data set with one changed pixel."""
        copy = Path(shutil.copy(self.data, self.folder / "flipped.h5"))
        with h5py.File(copy, "r+") as file:
            file["test/target"][0, 16, 16, 0] ^= 1
        return copy

    def model(self, architecture: dict[str, Any] | None = None, **changes: Any) -> Path:
        """A copy of the model with other entries in its config.json."""
        copy = Path(shutil.copytree(self.weights, self.folder / "model"))
        config = json.loads((copy / "config.json").read_text("utf-8")) | changes
        config["model"] |= architecture or {}
        (copy / "config.json").write_text(json.dumps(config), "utf-8")
        return copy

    def larger_model(self) -> Path:
        """A sound model for images of another size than the data set's."""
        config = dataclasses.replace(PRESETS["fusion-mnist-small"].model, image_size=64, nll_size=64)
        FusionVAE(config).save_pretrained(self.folder / "larger")
        return self.folder / "larger"

    def result(self, **entries: Any) -> Path:
        """A folder with one result file."""
        return self.file("r.json", json.dumps({"format": FORMAT, **entries}).encode()).parent

    def cut_model(self) -> Path:
        copy = self.model()
        (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-1000])
        return copy

    def pickled_model(self) -> Path:
        """A checkpoint of the kind that could run code when it is read."""
        copy = self.model()
        (copy / "model.safetensors").write_bytes(b"\x80\x04\x95")
        return copy


def idx(shape: tuple[int, ...], *, magic: int | None = None, missing: int = 0) -> bytes:
    """An IDX file of zeros, `missing` bytes short."""
    head = struct.pack(f">I{len(shape)}I", 0x800 + len(shape) if magic is None else magic, *shape)
    return head + bytes(math.prod(shape) - missing)


CASES: dict[str, tuple[Callable[[Place], Words], str]] = {
    "folder without the files": (lambda p: p.build(p.file("notes.txt", b"x").parent), "train-images-idx3-ubyte"),
    "no such folder": (lambda p: p.build(p.folder / "nowhere"), "nowhere"),
    "wrong magic": (lambda p: p.build(p.idx(train_images=idx((3, 28, 28), magic=0x0D03))), "00 00 08 03"),
    "labels for images": (lambda p: p.build(p.idx(t10k_images=idx((3,)))), "t10k-images"),
    "empty file": (lambda p: p.build(p.idx(t10k_labels=b"")), "t10k-labels"),
    "truncated pixels": (lambda p: p.build(p.idx(t10k_images=idx((3, 28, 28), missing=1))), "t10k-images"),
    "truncated gzip": (lambda p: p.build(p.gzipped_idx(missing=10)), "t10k-images-idx3-ubyte.gz"),
    "images of another size": (lambda p: p.build(p.idx(train_images=idx((3, 20, 20)))), "20×20"),
    "labels of other images": (lambda p: p.build(p.idx(train_labels=idx((2,)))), "2 labels"),
    "output is a foreign file": (
        lambda p: [*p.build(p.idx())[:-1], p.file("out.txt", b"a letter")],
        "out.txt",
    ),
    "info on text": (lambda p: ["fusion-datasets", "info", p.file("a.h5", b"not HDF5")], "a.h5"),
    "info on nothing": (lambda p: ["fusion-datasets", "info", p.folder / "nowhere.h5"], "nowhere.h5"),
    "info on foreign HDF5": (lambda p: ["fusion-datasets", "info", p.foreign()], "another kind"),
    "verify a cut file": (lambda p: ["fusion-datasets", "verify", p.cut()], "cut.h5"),
    "verify a later format": (lambda p: ["fusion-datasets", "verify", p.newer()], "format version 2"),
    "verify a changed pixel": (lambda p: ["fusion-datasets", "verify", p.flipped()], "test/target"),
    "preview a cut file": (lambda p: ["fusion-datasets", "preview", p.cut(), "-o", p.folder / "s.png"], "cut.h5"),
    "train on foreign HDF5": (lambda p: p.train(p.foreign()), "another kind"),
    "train on a cut file": (lambda p: p.train(p.cut()), "cut.h5"),
    "weights of a later format": (lambda p: p.run(weights=p.model(format_version=2)), "format version 2"),
    "weights of another program": (lambda p: ["fusionvae", "info", p.model(format="gpt")], "'gpt'"),
    "weights of another shape": (lambda p: ["fusionvae", "info", p.model({"latent_channels": 7})], "model"),
    "cut weights": (lambda p: ["fusionvae", "info", p.cut_model()], "model.safetensors"),
    "pickled weights": (lambda p: ["fusionvae", "info", p.pickled_model()], "model.safetensors"),
    "fuse a text": (
        lambda p: ["fusionvae", "fuse", p.file("a.png", b"x"), "--weights", p.weights, "-o", p.folder / "s.png"],
        "a.png",
    ),
    "run on foreign HDF5": (lambda p: p.run(data=p.foreign()), "another kind"),
    "run without weights": (lambda p: p.run(weights=p.folder / "nowhere"), "nowhere"),
    "run a model of another image size": (lambda p: p.run(weights=p.larger_model()), "64×64"),
    "report on no folder": (lambda p: ["fusion-bench", "report", "--results", p.folder / "nowhere"], "nowhere"),
    "report on a later result": (
        lambda p: ["fusion-bench", "report", "--results", p.result(format_version=9)],
        "r.json",
    ),
    "report on a maimed result": (
        lambda p: ["fusion-bench", "report", "--results", p.result(format_version=FORMAT_VERSION)],
        "r.json",
    ),
}


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        yield str(path), path.read_bytes() if path.is_file() else b""


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence(
    case: str,
    end_of: Callable[..., object],
    tmp_path: Path,
    stand_in_file: Path,
    untrained: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    make, expected = CASES[case]
    words = make(Place(tmp_path, stand_in_file, untrained))
    before = dict(contents(tmp_path))
    capfd.readouterr()
    assert end_of(*words) == 1
    printed = capfd.readouterr()
    assert printed.out == ""
    (sentence,) = printed.err.strip().splitlines()
    assert sentence.startswith("Error: ")
    assert expected in sentence
    assert dict(contents(tmp_path)) == before
