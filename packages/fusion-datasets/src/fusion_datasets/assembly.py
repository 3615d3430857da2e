"""From shards to the file, which grows while later shards are still being rendered."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.progress import Progress
from fusion_datasets.shards import ORIGINALS, Rendered, Shard, ShardRenderer, read_arrays
from fusion_datasets.sources import Omission, originals_digest
from fusion_datasets.store import DatasetWriter


class Assembly:
    """A benchmark file in the making, under a temporary name in the folder of its shards.

    Every run makes it anew: what a killed build left of one is overwritten, never opened again.

    Arguments:
        renderer: Of the shards.
        shards: All of them, in the order of the file's sections and rows.
    """

    def __init__(self, renderer: ShardRenderer, shards: Sequence[Shard]) -> None:
        self._renderer, self._shards = renderer, shards
        self._begin({})

    def _begin(self, omitted: Mapping[str, list[Omission]]) -> None:
        """Begin with the rows that remain without these originals: an array's digest starts from its shape."""
        rows = Counter[str]()
        for shard in self._shards:
            rows[shard.section] += shard.stop - shard.start
        rows.subtract({section: len(flaws) for section, flaws in omitted.items()})
        self._omitted, self._left = omitted, deque(self._shards)
        self._originals: dict[str, list[NDArray[np.uint8]]] = {section: [] for section in rows}
        renderer = self._renderer
        self._writer = DatasetWriter(
            renderer.folder / "assembled.h5", rows, renderer.spec, has_labels=renderer.source.has_labels
        )

    def extend(self, done: Mapping[str, Rendered]) -> Iterator[int]:
        """Append the next shards as far as they are done, and yield the rows of each.

        Before a shard that lacks originals it ends for good: until all are done, nobody knows how many rows there are.

        Arguments:
            done: Shards that are on disk, by name.
        """
        while self._left and (rendered := done.get(self._left[0].name)):
            shard = self._left[0]
            if rendered.flaws and shard.section not in self._omitted:
                return
            arrays = read_arrays(self._renderer.folder / shard.name)
            if ORIGINALS in arrays:
                # A view would keep the whole shard mapped into memory.
                self._originals[shard.section].append(arrays.pop(ORIGINALS).copy())
            self._writer.append(shard.section, arrays.items())
            self._left.popleft()
            yield rendered.rows

    def publish(self, output: Path, done: Mapping[str, Rendered], *, progress: bool) -> None:
        """Append what is left, and give the file its final name.

        Arguments:
            output: That name.
            done: All shards.
            progress: Report on stderr.
        """
        if omitted := omissions(self._shards, done):
            self.close()
            self._begin(omitted)
        title, rows = self._renderer.spec.title, sum(done[shard.name].rows for shard in self._left)
        with Progress(f"{title} file", rows, shown=progress) as bar:
            for appended in self.extend(done):
                bar.advance(appended)
        source = self._renderer.source
        about = dict(source.description)
        if "digest" not in about:
            about["digest"] = originals_digest((name, np.concatenate(part)) for name, part in self._originals.items())
        if omitted:
            about["omitted"] = omitted
        self._writer.publish(output, seed=self._renderer.seed, source=about, license_name=source.license)

    def close(self) -> None:
        """Close the temporary file."""
        self._writer.close()

    def __enter__(self) -> "Assembly":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def omissions(shards: Sequence[Shard], done: Mapping[str, Rendered]) -> dict[str, list[Omission]]:
    """Section → its originals that yielded no row, where there are any."""
    omitted: dict[str, list[Omission]] = {}
    for shard in shards:
        if flaws := done[shard.name].flaws:
            omitted.setdefault(shard.section, []).extend(flaws)
    return omitted
