"""The pieces that a build is made of: rendered here or by several processes, journalled, never half-written."""

import contextlib
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.corruptions import render_example
from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.sources import Source
from fusion_datasets.spec import BenchmarkSpec, Split
from fusion_datasets.store import replace_durably, write_atomically


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows `start … stop − 1` of a split."""

    split: Split
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.split}-{self.start:07d}.npz"


class Journal:
    """Which shards of a build are on disk, one line of JSON each.

    Arguments:
        folder: Where shards and journal lie. Entries whose shard is missing or altered are dropped.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "journal.jsonl"
        self.done: dict[str, str] = {}
        for name, sha256 in self._read():
            shard = folder / name
            if shard.is_file() and file_sha256(shard) == sha256:
                self.done[name] = sha256
        write_atomically(self._path, "".join(map(self._line, self.done.items())).encode())

    def record(self, shard: str, sha256: str) -> None:
        """Note that a shard is on disk."""
        self.done[shard] = sha256
        with self._path.open("a", encoding="utf-8") as file:
            file.write(self._line((shard, sha256)))
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> Iterator[tuple[str, str]]:
        if self._path.is_file():
            # The last line may be torn: it was being written when the build was killed.
            with contextlib.suppress(ValueError):
                for line in self._path.read_text(encoding="utf-8").splitlines():
                    name, sha256 = json.loads(line)
                    yield name, sha256

    @staticmethod
    def _line(entry: tuple[str, str]) -> str:
        return json.dumps(entry) + "\n"


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

    def render(self, shard: Shard) -> str:
        """Render one shard into its file.

        Returns:
            The file's SHA-256.
        """
        rows = render_rows(self.source, self.spec, self.seed, shard.split, shard.start, shard.stop)
        # The name is this process's own: one orphaned by a killed build may still be finishing the same shard.
        temporary = self.folder / f"{shard.name}.{os.getpid()}"
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **rows)
        sha256 = file_sha256(temporary)
        replace_durably(temporary, self.folder / shard.name)
        return sha256

    def render_all(self, shards: list[Shard], workers: int) -> Iterator[tuple[Shard, str]]:
        """Render shards here or in several processes, and yield each with its digest as it is done."""
        if workers <= 1:
            yield from ((shard, self.render(shard)) for shard in shards)
            return
        # Each process has a pipe of its own and its share of the work: if this one dies, they break, and all end.
        context = multiprocessing.get_context("spawn")
        processes: dict[Any, SpawnProcess] = {}
        try:
            for i in range(workers):
                here, there = context.Pipe(duplex=False)
                process = context.Process(target=self._work, args=(there, shards[i::workers]), daemon=True)
                process.start()
                there.close()
                processes[here] = process
            while processes:
                for connection in wait(list(processes)):
                    result = _receive(connection)
                    if result is None:
                        processes.pop(connection).join()
                    else:
                        yield result
        finally:
            for process in processes.values():
                process.terminate()
                process.join()

    def _work(self, connection: Any, shards: list[Shard]) -> None:
        try:
            for shard in shards:
                connection.send((shard, self.render(shard)))
            connection.send(None)
        except (FusionDatasetsError, OSError) as error:
            with contextlib.suppress(OSError):  # nobody may be listening any more
                connection.send(error)


def _receive(connection: Any) -> tuple[Shard, str] | None:
    try:
        result: tuple[Shard, str] | Exception | None = connection.recv()
    except EOFError:
        raise FusionDatasetsError(
            "a worker process ended early, perhaps for want of memory; run the same command again with fewer "
            "workers to continue"
        ) from None
    if isinstance(result, Exception):
        raise result
    return result


def render_rows(
    source: Source, spec: BenchmarkSpec, seed: int, split: Split, start: int, stop: int
) -> dict[str, NDArray[Any]]:
    """Make rows `start … stop − 1` of a split, complete as the file holds them.

    Returns:
        Name of the array → its rows, in the types of `schema.FIELDS`.
    """
    images, labels = source.read(split, start, stop)
    border = (spec.padding_px, spec.padding_px)
    target = np.pad(images, ((0, 0), border, border, (0, 0)))
    arrays: dict[str, NDArray[Any]] = {"target": target, "index": np.arange(start, stop, dtype="<i8")}
    if labels is not None:
        arrays["label"] = labels.astype("<i8")
    if split != "train":
        examples = [
            render_example(image, spec, seed, split, row, spec.max_inputs) for row, image in enumerate(target, start)
        ]
        arrays["inputs"] = np.stack([example.inputs for example in examples])
        arrays["masks"] = np.stack([example.masks for example in examples]).astype("u1")
    return arrays
