"""Where clean images come from: original files in, 8-bit images and labels out, one protocol for all."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.spec import Split

STAND_IN_NOTE: Final = "STAND-IN.json"
"""Lies beside files that were rendered, so that look-alikes never pass for the original."""


_NAMED_AT_MOST: Final = 5


class Omission(NamedTuple):
    """An original that yields no row.

    Arguments:
        position: Where it is in the source.
        name: Its name there.
        reason: What is wrong with it, in a few words.
    """

    position: int
    name: str
    reason: str


def named(omissions: Sequence[Sequence[Any]]) -> str:
    """The names of some originals, each with what is wrong with it, as many as fit into a sentence.

    Arguments:
        omissions: `Omission`s, or what a file says of them: position, name and reason.
    """
    names = ", ".join(f"{name} ({reason})" for _, name, reason in omissions[:_NAMED_AT_MOST])
    return names + ", …" * (len(omissions) > _NAMED_AT_MOST)


@dataclass(frozen=True)
class CleanImages:
    """Some images of a source, in the frame of the benchmark: cropped and scaled, not padded.

    Arguments:
        images: uint8 `[n, h, w, c]`.
        labels: int64 `[n]`, or None where the source has none.
        index: Position of each in the source, int64 `[n]`; None where it is that in the split.
        sha256: Digest of each original that was asked for, uint8 `[stop − start, 32]`, zero for a missing one; None
            where the source's description holds a digest of all.
        unreadable: What was asked for but is missing or broken, and not among the images.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    index: NDArray[np.int64] | None = None
    sha256: NDArray[np.uint8] | None = None
    unreadable: tuple[Omission, ...] = ()


@dataclass(frozen=True)
class Occluders:
    """Some cut-out objects of a source.

    Arguments:
        rgba: uint8 `[m, p, p, 4]`; p is the `crop_px` of the benchmark's law.
        object_id: What each is, int64 `[m]`.
        index: Position of each in the source, int64 `[m]`.
        sha256: Digest of each original that was asked for, uint8 `[stop − start, 32]`, zero for a missing one.
        unreadable: What was asked for but is missing or broken, and not among the crops.
        rejected: What could be read, but not be cut out, and is not among the crops either.
    """

    rgba: NDArray[np.uint8]
    object_id: NDArray[np.int64]
    index: NDArray[np.int64]
    sha256: NDArray[np.uint8]
    unreadable: tuple[Omission, ...] = ()
    rejected: tuple[Omission, ...] = ()

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """What a file holds of them, in the types of `schema.OCCLUDER_FIELDS`."""
        return {"rgba": self.rgba, "object_id": self.object_id, "index": self.index}


class Source(Protocol):
    """Original files, opened. Sources are small and picklable: worker processes read on their own."""

    @property
    def description(self) -> dict[str, Any]:
        """`name`, `layout`, `stand_in`, and what else tells it apart; `digest` where it is cheap to know."""
        ...

    @property
    def license(self) -> str:
        """Licence of these images."""
        ...

    @property
    def has_labels(self) -> bool:
        """Whether every image has one."""
        ...

    @property
    def fingerprint(self) -> str:
        """Changes whenever the files do, and is cheap: an interrupted build goes on only where it is the same."""
        ...

    def num_images(self, split: Split) -> int:
        """Images in a split."""
        ...

    def read(self, split: Split, start: int, stop: int) -> CleanImages:
        """Read images `start … stop − 1` of a split."""
        ...

    def digest(self, rows: Mapping[str, int]) -> str:
        """Digest of the first originals of each section, read anew; see `originals_digest`."""
        ...


@runtime_checkable
class HasOccluders(Protocol):
    """A source, or a recipe of one, that also has objects to lay over its targets."""

    def num_occluders(self, split: Split) -> int:
        """Originals of the occluders for the inputs of a split."""
        ...


@runtime_checkable
class OccluderSource(Source, HasOccluders, Protocol):
    """A source that yields these objects cut out."""

    def read_occluders(self, split: Split, start: int, stop: int) -> Occluders:
        """Read occluders `start … stop − 1` of a split."""
        ...


@runtime_checkable
class Recipe(Protocol):
    """A source that is rendered first, into files in the layout of the originals."""

    @property
    def description(self) -> dict[str, Any]:
        """What the files will say of themselves, but for their digest."""
        ...

    def num_images(self, split: Split) -> int:
        """Images in a split."""
        ...

    def write(self, folder: Path, *, progress: bool = True) -> Source:
        """Render what is not there yet, and open it."""
        ...


def stand_in_note(folder: Path, *keys: str) -> dict[str, Any] | None:
    """What the note beside rendered files says under these keys, or None where there is no note.

    Raises:
        FusionDatasetsError: If there is one, but it cannot be read.
    """
    path = folder / STAND_IN_NOTE
    if not path.is_file():
        return None
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return {key: note[key] for key in keys}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FusionDatasetsError(f"{path} cannot be read; render the stand-in again") from error


def originals_digest(sections: Iterable[tuple[str, NDArray[np.uint8]]]) -> str:
    """Digest of many originals.

    Arguments:
        sections: Splits and sets of occluders, each with the SHA-256 of its originals, uint8 `[n, 32]`, in order.
    """
    sha = hashlib.sha256()
    for section, digests in sections:
        sha.update(f"{section} {len(digests)}\n".encode() + digests.tobytes())
    return sha.hexdigest()
