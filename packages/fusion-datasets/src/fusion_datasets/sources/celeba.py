"""CelebA's aligned photographs: a folder of JPEGs, its zip read in place, with the lists that split and label them."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.sources import CleanImages, Omission, originals_digest, stand_in_note
from fusion_datasets.sources.archive import Archive, Folder, Originals, contents_of, sha256_row
from fusion_datasets.sources.area import area_means
from fusion_datasets.sources.pictures import JPEG_DECODER, decode_jpeg
from fusion_datasets.spec import BENCHMARKS, SPLITS, Split

LAYOUT: Final = "celeba-aligned"
IMAGE_HEIGHT, IMAGE_WIDTH = 218, 178
ZIP: Final = "img_align_celeba.zip"
PARTITION: Final = "list_eval_partition"
IDENTITIES: Final = "identity_CelebA.txt"
ORIGINAL_COUNTS: Final[dict[Split, int]] = {"train": 162_770, "valid": 19_867, "test": 19_962}

_SPEC: Final = BENCHMARKS["fusion-celeba"]
_ROOTS: Final = ("", "celeba", "..", "../..")
_IMAGE_FOLDERS: Final = ("img_align_celeba", "img_align_celeba/img_align_celeba", "Img/img_align_celeba", "")
_LIST_FOLDERS: Final = ("", "Eval", "Anno")
_MAX_LIST_BYTES: Final = 64 << 20


class Listing(NamedTuple):
    """The images of a split.

    Arguments:
        names: Names of the files.
        positions: Lines of the partition file, counted from 0, int64 `[n]`: image `000001.jpg` is 0.
        labels: Identities, int64 `[n]`, or None.
    """

    names: tuple[str, ...]
    positions: NDArray[np.int64]
    labels: NDArray[np.int64] | None


@dataclass(frozen=True)
class CelebaSource:
    """CelebA, or anything in its layout.

    Arguments:
        path: `img_align_celeba.zip`, the folder of the JPEGs, or the folder above either, as it is downloaded, as
            torchvision arranges it, or as on Kaggle. `list_eval_partition.txt` (or `.csv`) lies in that folder or
            beside the images. Identities become labels where `identity_CelebA.txt` is there.

    Raises:
        FusionDatasetsError: If the partition or the images are missing, or the lists are not what they should be.
    """

    path: Path

    def __post_init__(self) -> None:
        _ = self._images

    def __reduce__(self) -> tuple[type["CelebaSource"], tuple[Path]]:
        return CelebaSource, (self.path,)  # another process reads the lists for itself

    @cached_property
    def description(self) -> dict[str, Any]:
        """Name, layout and decoder; the name is `celeba` only where the splits have the published sizes."""
        about = {"layout": LAYOUT, "decoder": JPEG_DECODER, "stand_in": False}
        if note := self._note:
            return {"name": "celeba-stand-in"} | about | {"stand_in": True} | note
        counts = {split: self.num_images(split) for split in SPLITS}
        return {"name": "celeba" if counts == ORIGINAL_COUNTS else "celeba-like"} | about

    @property
    def license(self) -> str:
        """Licence of these images: CelebA's own, unless they were rendered."""
        return str(self._note["license"]) if self._note else _SPEC.license

    @property
    def has_labels(self) -> bool:
        """Whether identities are known."""
        return self._listings["train"].labels is not None

    @cached_property
    def fingerprint(self) -> str:
        """Names, sizes and times of the files; of a zip its index, which holds checksums."""
        sha = hashlib.sha256(self._partition_file.read_bytes())
        originals, prefix = self._images
        for listing in self._listings.values():
            if listing.labels is not None:
                sha.update(listing.labels.tobytes())
            for name in listing.names:
                sha.update(f"{name} {originals.state(prefix + name)}\n".encode())
        return sha.hexdigest()

    def num_images(self, split: Split) -> int:
        """Images in a split."""
        return len(self._listings[split].names)

    def read(self, split: Split, start: int, stop: int) -> CleanImages:
        """Decode, crop and scale images `start … stop − 1` of a split: uint8 `[n, 64, 64, 3]`, RGB."""
        listing = self._listings[split]
        assert _SPEC.window_px is not None
        (top, bottom), (left, right) = _SPEC.window_px
        rows: list[int] = []
        sha256, unreadable = [], []

        def windows() -> Iterator[NDArray[np.uint8]]:
            for row, content in enumerate(self._contents(split, start, stop), start):
                sha256.append(sha256_row(content))
                try:
                    image = decode_jpeg(content, IMAGE_HEIGHT, IMAGE_WIDTH)
                except FusionDatasetsError as error:
                    unreadable.append(Omission(int(listing.positions[row]), listing.names[row], str(error)))
                else:
                    rows.append(row)
                    yield image[top : bottom + 1, left : right + 1]

        shape = (bottom - top + 1, right - left + 1, _SPEC.channels)
        images = area_means(windows(), stop - start, shape, _SPEC.height, _SPEC.width)
        return CleanImages(
            images,
            None if listing.labels is None else listing.labels[rows],
            listing.positions[rows],
            np.array(sha256, np.uint8).reshape(-1, 32),
            tuple(unreadable),
        )

    def digest(self, rows: Mapping[str, int]) -> str:
        """Digest of the first JPEGs of each split, read anew."""
        parts = (
            (split, [sha256_row(content) for content in self._contents(split, 0, rows[split])]) for split in SPLITS
        )
        return originals_digest((split, np.array(part, np.uint8).reshape(-1, 32)) for split, part in parts)

    def _contents(self, split: Split, start: int, stop: int) -> Iterator[bytes | FusionDatasetsError]:
        originals, prefix = self._images
        return contents_of(originals, (prefix + name for name in self._listings[split].names[start:stop]))

    @cached_property
    def _note(self) -> dict[str, Any] | None:
        return stand_in_note(self._partition_file.parent, "seed", "counts", "renderer", "license")

    @cached_property
    def _base(self) -> Path:
        if not self.path.exists():
            raise FusionDatasetsError(f"{self.path} does not exist; expected CelebA's aligned images, zipped or not")
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def _partition_file(self) -> Path:
        for end in (".txt", ".csv"):
            if path := self._find_list(PARTITION + end):
                return path
        raise FusionDatasetsError(
            f"{self._base} lacks {PARTITION}.txt, which says what is for training, validation and test; fetch it "
            "from where the images come from and put it beside them"
        )

    def _find_list(self, name: str) -> Path | None:
        candidates = (self._base / root / folder / name for root in _ROOTS for folder in _LIST_FOLDERS)
        return next((path for path in candidates if path.is_file()), None)

    @cached_property
    def _listings(self) -> dict[Split, Listing]:
        entries = _read_list(self._partition_file, "a name and 0, 1 or 2")
        if any(part >= len(SPLITS) for _, part in entries):
            raise FusionDatasetsError(f"{self._partition_file} names a part that is none of 0, 1, 2; fetch it again")
        identities: dict[str, int] | None = None
        if path := self._find_list(IDENTITIES):
            identities = dict(_read_list(path, "a name and an identity"))
        listings: dict[Split, Listing] = {}
        for number, split in enumerate(SPLITS):
            chosen = [(i, name) for i, (name, part) in enumerate(entries) if part == number]
            names = tuple(name for _, name in chosen)
            if not names:
                raise FusionDatasetsError(f"{self._partition_file} lists no image for {split}; expected some")
            labels = None
            if identities is not None and not (lacking := [name for name in names if name not in identities]):
                labels = np.array([identities[name] for name in names], np.int64)
            elif identities is not None:
                raise FusionDatasetsError(f"{path} lacks {lacking[0]}; fetch it again, or put it away")
            listings[split] = Listing(names, np.array([i for i, _ in chosen], np.int64), labels)
        return listings

    @cached_property
    def _images(self) -> tuple[Originals, str]:
        """Where the images lie, and what goes before their names there."""
        names = [listing.names[0] for listing in self._listings.values()]
        if self.path.is_file():
            return _in_archive(self.path, names)
        for root in _ROOTS[:2]:
            for folder in _IMAGE_FOLDERS:
                place = self._base / root / folder
                if any((place / name).is_file() for name in names):
                    return Folder(place), ""
            for zipped in (ZIP, f"Img/{ZIP}"):
                if (self._base / root / zipped).is_file():
                    return _in_archive(self._base / root / zipped, names)
        raise FusionDatasetsError(
            f"{self.path} holds neither {ZIP} nor a folder with {names[0]}; expected CelebA's aligned images"
        )


def _in_archive(path: Path, names: list[str]) -> tuple[Archive, str]:
    archive = Archive(path)
    for member in archive.members:
        folder, _, name = member.rpartition("/")
        if name in names:
            return archive, f"{folder}/" if folder else ""
    raise FusionDatasetsError(f"{path} holds no {names[0]}; expected {ZIP} as it is published")


def _read_list(path: Path, expected: str) -> list[tuple[str, int]]:
    """Read lines of a name and a number, separated by spaces or a comma; a header line is passed over."""
    if path.stat().st_size > _MAX_LIST_BYTES:
        raise FusionDatasetsError(f"{path} is larger than {_MAX_LIST_BYTES} bytes; expected a list of images")
    entries: list[tuple[str, int]] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise FusionDatasetsError(f"{path} is no text; expected lines of {expected}") from None
    for number, line in enumerate(lines, 1):
        name, *rest = line.replace(",", " ").split() or [""]
        if len(rest) == 1 and rest[0].isdecimal() and "/" not in name and "\\" not in name:
            entries.append((name, int(rest[0])))
        elif name and number > 1:
            raise FusionDatasetsError(f"{path}, line {number}, is {line[:40]!r}; expected {expected}")
    if len({name for name, _ in entries}) != len(entries):
        raise FusionDatasetsError(f"{path} names an image twice; fetch it again")
    return entries
