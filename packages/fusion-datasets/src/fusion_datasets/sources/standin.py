"""Stand-ins for MNIST: rendered look-alikes in the original's files, marked as what they are."""

import gzip
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.progress import Progress
from fusion_datasets.sources.handwriting import RENDERER, render_digits
from fusion_datasets.sources.mnist import FILE_PREFIX, LAYOUT, SIDE_PX, STAND_IN_NOTE, MnistSource
from fusion_datasets.spec import BENCHMARKS, Split
from fusion_datasets.store import write_atomically

LICENSE: Final = "CC0-1.0"

_RENDERED_AT_ONCE: Final = 1000


@dataclass(frozen=True)
class StandInMnist:
    """A recipe for look-alikes of MNIST's files.

    Arguments:
        num_train: Training digits.
        num_test: Test digits.
        seed: ≥ 0.
    """

    num_train: int
    num_test: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_train < 1 or self.num_test < 1 or self.seed < 0:
            raise FusionDatasetsError(f"got {self}; expected at least one digit per split and a seed from 0 up")

    @property
    def description(self) -> dict[str, Any]:
        """What a file built from it records of its source, but for the digest."""
        return {"name": "mnist-stand-in", "layout": LAYOUT, "stand_in": True} | self._note()

    def num_images(self, split: Split) -> int:
        """Digits in a split."""
        return {"train": self.num_train, "test": self.num_test}[split]

    def write(self, folder: Path, *, progress: bool = True) -> MnistSource:
        """Render the digits into MNIST's four files; those that are there already are kept.

        Arguments:
            folder: Made if missing; holds nothing but this very stand-in.
            progress: Report on stderr.

        Returns:
            The files, opened.

        Raises:
            FusionDatasetsError: If the folder holds other files in MNIST's layout.
        """
        names = BENCHMARKS["fusion-mnist"].source_files
        note, wanted = folder / STAND_IN_NOTE, json.dumps(self._note(), indent=1).encode()
        if note.is_file():
            if note.read_bytes() != wanted:
                raise FusionDatasetsError(f"{folder} holds another stand-in; choose another folder")
        elif any((folder / name).exists() for name in names):
            raise FusionDatasetsError(f"{folder} holds files of MNIST that are no stand-in; choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(note, wanted)  # first of all: no look-alike lies anywhere without it
        if not all((folder / name).is_file() for name in names):
            with Progress("stand-in digits", self.num_train + self.num_test, shown=progress) as bar:
                for split in FILE_PREFIX:
                    self._write_split(folder, split, bar)
        return MnistSource(folder)

    def _write_split(self, folder: Path, split: Split, bar: Progress) -> None:
        prefix, count, parts = FILE_PREFIX[split], self.num_images(split), []
        for start in range(0, count, _RENDERED_AT_ONCE):
            parts.append(render_digits(self.seed, split, start, min(start + _RENDERED_AT_ONCE, count)))
            bar.advance(len(parts[-1].images))
        images = np.concatenate([part.images for part in parts])
        labels = np.concatenate([part.labels for part in parts if part.labels is not None])
        head = struct.pack(">HBBIII", 0, 8, 3, count, SIDE_PX, SIDE_PX)
        for name, content in (
            (f"{prefix}-images-idx3-ubyte.gz", head + images.tobytes()),
            (f"{prefix}-labels-idx1-ubyte.gz", struct.pack(">HBBI", 0, 8, 1, count) + labels.astype("u1").tobytes()),
        ):
            write_atomically(folder / name, gzip.compress(content, 6, mtime=0))

    def _note(self) -> dict[str, Any]:
        counts = {"train": self.num_train, "test": self.num_test}
        return {"seed": self.seed, "counts": counts, "renderer": RENDERER, "license": LICENSE}
