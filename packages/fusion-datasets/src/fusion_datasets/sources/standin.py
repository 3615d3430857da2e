"""Stand-ins for MNIST and CelebA: rendered look-alikes in the originals' files, marked as what they are."""

import gzip
import json
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.progress import Progress
from fusion_datasets.sources import STAND_IN_NOTE, celeba
from fusion_datasets.sources.celeba import CelebaSource
from fusion_datasets.sources.faces import RENDERER as FACE_RENDERER
from fusion_datasets.sources.faces import render_face
from fusion_datasets.sources.handwriting import RENDERER, render_digits
from fusion_datasets.sources.mnist import FILE_PREFIX, LAYOUT, SIDE_PX, MnistSource
from fusion_datasets.sources.pictures import JPEG_DECODER
from fusion_datasets.spec import BENCHMARKS, SPLITS, Split
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
        claim_folder(folder, self._note(), (folder / name for name in names))
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


PHOTOGRAPHS_PER_PERSON: Final = 5
_JPEG_QUALITY: Final = 92
_PEOPLE: Final = 2  # what the generator that chooses a photograph's person is for


@dataclass(frozen=True)
class StandInCelebA:
    """A recipe for look-alikes of CelebA's aligned photographs.

    Arguments:
        num_train: Training faces.
        num_valid: Validation faces.
        num_test: Test faces. No person is in two splits.
        seed: ≥ 0.
    """

    num_train: int
    num_valid: int
    num_test: int
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.num_train, self.num_valid, self.num_test) < 1 or self.seed < 0:
            raise FusionDatasetsError(f"got {self}; expected at least one face per split and a seed from 0 up")

    @property
    def description(self) -> dict[str, Any]:
        """What a file built from it records of its source, but for the digest."""
        return {
            "name": "celeba-stand-in",
            "layout": celeba.LAYOUT,
            "decoder": JPEG_DECODER,
            "stand_in": True,
        } | self._note()

    def num_images(self, split: Split) -> int:
        """Faces in a split."""
        return {"train": self.num_train, "valid": self.num_valid, "test": self.num_test}[split]

    def write(self, folder: Path, *, progress: bool = True) -> CelebaSource:
        """Render the faces into `img_align_celeba/000001.jpg` …, then the lists; what is there already is kept.

        Arguments:
            folder: Made if missing; holds nothing but this very stand-in.
            progress: Report on stderr.

        Returns:
            The files, opened.

        Raises:
            FusionDatasetsError: If the folder holds other files in CelebA's layout.
        """
        images, partition = folder / "img_align_celeba", folder / f"{celeba.PARTITION}.txt"
        claim_folder(folder, self._note(), (images, partition))
        images.mkdir(exist_ok=True)
        lists: tuple[list[str], list[str]] = [], []
        total = sum(map(self.num_images, SPLITS))
        with Progress("stand-in faces", total, shown=progress) as bar:
            for index, (part, person) in enumerate(self._people()):
                path = images / f"{index + 1:06d}.jpg"
                if not path.is_file():
                    self._photograph(person, index, path)
                for lines, number in zip(lists, (part, person + 1), strict=True):
                    lines.append(f"{path.name} {number}\n")
                bar.advance(1)
        for name, lines in ((celeba.IDENTITIES, lists[1]), (partition.name, lists[0])):
            write_atomically(folder / name, "".join(lines).encode())
        return CelebaSource(folder)

    def _people(self) -> Iterator[tuple[int, int]]:
        """The split of each photograph, and whom it shows."""
        first = 0
        for part, split in enumerate(SPLITS):
            count = self.num_images(split)
            people = -(-count // PHOTOGRAPHS_PER_PERSON)
            generator = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(_PEOPLE, part)))
            yield from ((part, first + int(person)) for person in generator.integers(people, size=count))
            first += people

    def _photograph(self, person: int, index: int, path: Path) -> None:
        face = render_face(self.seed, person, index)[..., ::-1]
        encoded = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
        # Renamed, but not seen onto the disk one by one: what a loss of power leaves broken, a build names.
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(encoded.tobytes())
        temporary.replace(path)

    def _note(self) -> dict[str, Any]:
        counts = {split: self.num_images(split) for split in SPLITS}
        return {"seed": self.seed, "counts": counts, "renderer": FACE_RENDERER, "license": LICENSE}


def claim_folder(folder: Path, note: dict[str, Any], files: Iterable[Path]) -> None:
    """Make a folder and mark it as that of one stand-in, first of all: no look-alike lies anywhere without the mark.

    Raises:
        FusionDatasetsError: If it holds another stand-in, or any of the files of what the stand-in looks like.
    """
    path, wanted = folder / STAND_IN_NOTE, json.dumps(note, indent=1).encode()
    if path.is_file():
        if path.read_bytes() != wanted:
            raise FusionDatasetsError(f"{folder} holds another stand-in; choose another folder")
    elif any(file.exists() for file in files):
        raise FusionDatasetsError(f"{folder} holds files that are no stand-in; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, wanted)
