"""MNIST's four IDX files, plain or gzipped, under the names that the field uses for them."""

import gzip
import hashlib
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.sources import CleanImages, stand_in_note
from fusion_datasets.spec import BENCHMARKS, Split

LAYOUT: Final = "mnist-idx"
SIDE_PX: Final = 28
NUM_CLASSES: Final = 10
ORIGINAL_DIGEST: Final = "0290f04aac6fbf3b90472aafca05d0bc7a5f26aea88d321e81ada4b76a2d05d7"
"""Digest of MNIST as published in 1998."""

FILE_PREFIX: Final[dict[Split, str]] = {"train": "train", "test": "t10k"}
_FOLDERS: Final = ("", "MNIST/raw")
_MAX_ITEMS: Final = 300_000  # larger than any relative of MNIST in this layout; bounds what is read into memory
_UNSIGNED_BYTE: Final = 0x08
_GZIP_MAGIC: Final = b"\x1f\x8b"


def read_idx(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes.

    Arguments:
        path: The file; gzip is recognised by its first bytes.
        shape: What every item must look like: `(28, 28)` for images, `()` for labels.

    Returns:
        uint8 `[n, *shape]`.

    Raises:
        FusionDatasetsError: If the file is anything else, shorter or longer than it claims, or too large.
    """
    try:
        with path.open("rb") as file:
            zipped = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        if path.suffix == ".gz" and not zipped:
            raise FusionDatasetsError(f"{path} is not a gzip file, in spite of its name; fetch it again")
        with cast(BinaryIO, gzip.open(path)) if zipped else path.open("rb") as stream:
            return _parse_idx(stream, path, shape)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FusionDatasetsError(f"{path} is a damaged or truncated gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise FusionDatasetsError(f"{path} cannot be read: {error.strerror or error}") from error


def _parse_idx(stream: BinaryIO, path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    ndim = 1 + len(shape)
    head = stream.read(4 + 4 * ndim)
    if head[:4] != bytes((0, 0, _UNSIGNED_BYTE, ndim)):
        raise FusionDatasetsError(
            f"{path} starts with the bytes {head[:4].hex(' ') or 'of an empty file'}; expected "
            f"00 00 08 {ndim:02x}, an IDX file of unsigned bytes in {ndim} dimension{'s' * (ndim > 1)}"
        )
    if len(head) < 4 + 4 * ndim:
        raise FusionDatasetsError(f"{path} ends within its header; fetch it again")
    count, *item = struct.unpack(f">{ndim}I", head[4:])
    if tuple(item) != shape:
        got, expected = ("×".join(map(str, side)) for side in (item, shape))
        raise FusionDatasetsError(f"{path} holds images of {got} pixels; expected {expected}")
    if count > _MAX_ITEMS:
        raise FusionDatasetsError(f"{path} claims {count} items; at most {_MAX_ITEMS} are accepted")
    size = count * int(np.prod(shape, dtype=np.int64))
    content = stream.read(size + 1)  # a byte more than claimed: enough to know, however much there is
    if len(content) != size:
        got = f"{len(content)}" if len(content) < size else "more"
        raise FusionDatasetsError(f"{path} claims {count} items, {size} bytes, but holds {got}; fetch it again")
    return np.frombuffer(content, np.uint8).reshape(count, *shape)


@dataclass(frozen=True)
class MnistSource:
    """MNIST, or anything in its layout, in a folder.

    Arguments:
        folder: Holds the four files, or a folder `MNIST/raw` with them. Names such as `train-images-idx3-ubyte`
            and `train-images.idx3-ubyte` are recognised, each with or without `.gz`.

    Raises:
        FusionDatasetsError: If a file is missing, or (on reading) is not what its name says.
    """

    folder: Path
    _cache: dict[Split, CleanImages] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for split in FILE_PREFIX:
            for kind in ("images", "labels"):
                self._find(split, kind)

    def __reduce__(self) -> tuple[type["MnistSource"], tuple[Path]]:
        return MnistSource, (self.folder,)  # another process reads for itself instead of being sent the images

    @cached_property
    def description(self) -> dict[str, Any]:
        """Name, layout and digest; the name is `mnist` only for the very images published under it."""
        sha = hashlib.sha256()
        for split, prefix in FILE_PREFIX.items():
            clean = self._load(split)
            assert clean.labels is not None
            for kind, array in (("images", clean.images), ("labels", clean.labels.astype(np.uint8))):
                content = hashlib.sha256(array.tobytes()).hexdigest()
                sha.update(f"{prefix}-{kind} {len(array)} {content}\n".encode())
        digest = sha.hexdigest()
        about = {"layout": LAYOUT, "digest": digest, "stand_in": False}
        if note := self._stand_in_note():
            return {"name": "mnist-stand-in"} | about | {"stand_in": True} | note
        return {"name": "mnist" if digest == ORIGINAL_DIGEST else "mnist-like"} | about

    @property
    def license(self) -> str:
        """Licence of these images; `unknown` for others than MNIST's own in its layout."""
        if note := self._stand_in_note():
            return str(note["license"])
        return BENCHMARKS["fusion-mnist"].license if self.description["name"] == "mnist" else "unknown"

    @property
    def has_labels(self) -> bool:
        """Every digit has one."""
        return True

    @property
    def fingerprint(self) -> str:
        """The digest itself: MNIST is small."""
        return self.digest({})

    def num_images(self, split: Split) -> int:
        """Images in a split."""
        return len(self._load(split).images)

    def read(self, split: Split, start: int, stop: int) -> CleanImages:
        """Read images `start … stop − 1` of a split: uint8 `[n, 28, 28, 1]` and labels 0 … 9."""
        clean = self._load(split)
        assert clean.labels is not None
        return CleanImages(clean.images[start:stop], clean.labels[start:stop])

    def digest(self, rows: Mapping[str, int]) -> str:
        """Digest of all images and labels, however many rows are taken of them."""
        return str(self.description["digest"])

    def _load(self, split: Split) -> CleanImages:
        if split not in self._cache:
            images_path, labels_path = self._find(split, "images"), self._find(split, "labels")
            images, labels = read_idx(images_path, (SIDE_PX, SIDE_PX)), read_idx(labels_path, ())
            if len(images) != len(labels):
                raise FusionDatasetsError(
                    f"{images_path} holds {len(images)} images but {labels_path} {len(labels)} labels; "
                    "the files do not belong together"
                )
            if labels.size and labels.max() >= NUM_CLASSES:
                raise FusionDatasetsError(f"{labels_path} holds the label {labels.max()}; expected 0 … 9")
            self._cache[split] = CleanImages(images[..., None], labels.astype(np.int64))
        return self._cache[split]

    def _find(self, split: Split, kind: str) -> Path:
        prefix, rank = FILE_PREFIX[split], {"images": 3, "labels": 1}[kind]
        names = [f"{prefix}-{kind}{dash}idx{rank}-ubyte" for dash in "-."]
        candidates = [self.folder / sub / (name + end) for sub in _FOLDERS for end in ("", ".gz") for name in names]
        for path in candidates:
            if path.is_file():
                return path
        if not self.folder.is_dir():
            raise FusionDatasetsError(f"{self.folder} is no folder; expected one with MNIST's four files")
        raise FusionDatasetsError(
            f"{self.folder} lacks {names[0]}.gz; expected MNIST's four files there, plain or gzipped"
        )

    def _stand_in_note(self) -> dict[str, Any] | None:
        return stand_in_note(self._find("train", "images").parent, "seed", "counts", "renderer", "license")
