"""The pieces that a build is made of: rendered here or by several processes, journalled, never half-written."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from fusion_datasets.corruptions import OccluderPool, render_examples
from fusion_datasets.processes import spread
from fusion_datasets.schema import OCCLUDERS, fields_of
from fusion_datasets.sources import CleanImages, OccluderSource, Omission, Source
from fusion_datasets.spec import BenchmarkSpec, Split
from fusion_datasets.store import write_atomically

ORIGINALS: Final = "originals_sha256"
"""Name of the array, in a shard alone, with the digest of each original."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Originals `start … stop − 1` of a section of the file."""

    section: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.section.replace('/', '-')}-{self.start:07d}.shard"


class Rendered(NamedTuple):
    """What became of a shard.

    Arguments:
        crc32: Checksum of its file.
        rows: Rows in it.
        unreadable: Originals that are missing or broken, and not among them.
        rejected: Originals that could not be cut out, and are not among them either.
    """

    crc32: int
    rows: int
    unreadable: tuple[Omission, ...] = ()
    rejected: tuple[Omission, ...] = ()

    @property
    def flaws(self) -> tuple[Omission, ...]:
        """Originals without a row."""
        return self.unreadable + self.rejected


class Journal:
    """Which shards of a build are done, one line of JSON each.

    Nobody waits until they are on the disk: what a power cut loses is found by its checksum and rendered again.

    Arguments:
        folder: Where shards and journal lie. Entries whose shard is missing, altered or lacks unreadable originals are
            dropped: those may have been mended.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "journal.jsonl"
        self.done: dict[str, Rendered] = {}
        for name, rendered in self._read():
            shard = folder / name
            if not rendered.unreadable and shard.is_file() and isal_zlib.crc32(shard.read_bytes()) == rendered.crc32:
                self.done[name] = rendered
        write_atomically(self._path, "".join(map(self._line, self.done, self.done.values())).encode())

    def record(self, shard: str, rendered: Rendered) -> None:
        """Note that a shard is done."""
        self.done[shard] = rendered
        with self._path.open("a", encoding="utf-8") as file:
            file.write(self._line(shard, rendered))

    def _read(self) -> Iterator[tuple[str, Rendered]]:
        if self._path.is_file():
            # The last line may be torn: it was being written when the build was killed.
            with contextlib.suppress(ValueError):
                for line in self._path.read_text(encoding="utf-8").splitlines():
                    name, crc32, rows, *omissions = json.loads(line)
                    yield name, Rendered(crc32, rows, *(tuple(Omission(*one) for one in some) for some in omissions))

    @staticmethod
    def _line(shard: str, rendered: Rendered) -> str:
        return json.dumps([shard, *rendered]) + "\n"


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> int:
    """Write arrays one after the other, behind a line of JSON that says what they are; return the file's CRC-32."""
    layout = {name: (array.dtype.str, array.shape) for name, array in arrays.items()}
    head = json.dumps(layout).encode() + b"\n"
    crc32 = isal_zlib.crc32(head)
    with path.open("wb") as file:
        file.write(head)
        for array in map(np.ascontiguousarray, arrays.values()):
            file.write(array.data)
            crc32 = isal_zlib.crc32(array.data, crc32)
    return crc32


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Map the arrays of a file of `write_arrays` into memory."""
    with path.open("rb") as file:
        layout, start = json.loads(file.readline()), file.tell()
    content = np.memmap(path, np.uint8, "r")
    arrays = {}
    for name, (kind, shape) in layout.items():
        stop = start + np.dtype(kind).itemsize * prod(shape)
        arrays[name] = content[start:stop].view(np.ndarray).view(kind).reshape(shape)
        start = stop
    return arrays


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class ShardRenderer:
    """Renders shards of one build into its folder; small and picklable, to be sent to other processes.

    Arguments:
        folder: Where the shards go.
        source: Original files.
        spec: The benchmark.
        seed: Seed of the frozen inputs.
    """

    folder: Path
    source: Source
    spec: BenchmarkSpec
    seed: int

    def render(self, shard: Shard) -> Rendered:
        """Render one shard into its file."""
        arrays, unreadable, rejected = self._arrays(shard)
        # The name is this process's own: one orphaned by a killed build may still be finishing the same shard.
        temporary = self.folder / f"{shard.name}.{os.getpid()}"
        crc32 = write_arrays(temporary, arrays)
        temporary.replace(self.folder / shard.name)
        return Rendered(crc32, len(arrays["index"]), unreadable, rejected)

    def pool_path(self, split: str) -> Path:
        """Where the occluders for a split lie, all in one array, while its rows are rendered."""
        return self.folder / f"{OCCLUDERS}-{split}.npy"

    def _arrays(self, shard: Shard) -> tuple[dict[str, NDArray[Any]], tuple[Omission, ...], tuple[Omission, ...]]:
        group, _, name = shard.section.rpartition("/")
        split = cast(Split, name)
        if group == OCCLUDERS:
            assert isinstance(self.source, OccluderSource)
            crops = self.source.read_occluders(split, shard.start, shard.stop)
            return crops.arrays | {ORIGINALS: crops.sha256}, crops.unreadable, crops.rejected
        path = self.pool_path(split)
        occluders = np.load(path, mmap_mode="r", allow_pickle=False) if path.is_file() else None
        clean = self.source.read(split, shard.start, shard.stop)
        arrays = render_rows(clean, self.spec, self.seed, split, shard.start, occluders)
        return arrays if clean.sha256 is None else arrays | {ORIGINALS: clean.sha256}, clean.unreadable, ()

    def render_all(self, shards: list[Shard], workers: int) -> Iterator[tuple[Shard, Rendered]]:
        """Render shards here or in several processes, and yield each with what became of it as it is done."""
        return spread(self.render, shards, workers)


def render_rows(
    clean: CleanImages,
    spec: BenchmarkSpec,
    seed: int,
    split: Split,
    start: int,
    occluders: OccluderPool | None = None,
) -> dict[str, NDArray[Any]]:
    """Make the rows of a split from what its source yields, complete as the file holds them.

    Arguments:
        clean: The images from position `start` of the split on.
        spec: The benchmark.
        seed: Seed of the frozen inputs.
        split: The split.
        start: Position in the split.
        occluders: What an `ObjectLaw` lays over the targets.

    Returns:
        Name of the array → its rows, in the types of `schema.FIELDS`.
    """
    target = clean.images
    if spec.padding_px:
        border = (spec.padding_px, spec.padding_px)
        target = np.pad(target, ((0, 0), border, border, (0, 0)))
    index = np.arange(start, start + len(target)) if clean.index is None else clean.index
    arrays: dict[str, NDArray[Any]] = {"target": target, "index": index}
    if clean.labels is not None:
        arrays["label"] = clean.labels
    if split != "train":
        arrays |= render_examples(target, spec, seed, split, index, occluders)._asdict()
    fields = [field for field in fields_of(split) if field.name in arrays]
    return {field.name: arrays[field.name].astype(field.dtype, copy=False) for field in fields}
