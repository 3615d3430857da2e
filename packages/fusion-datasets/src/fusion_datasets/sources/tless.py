"""T-LESS's training photographs by the Primesense sensor: one object each, on black, in either published layout."""

import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.occluders import CutError, cut_occluder, fit_crop
from fusion_datasets.schema import occluder_section
from fusion_datasets.sources import CleanImages, Occluders, Omission, originals_digest, stand_in_note
from fusion_datasets.sources.archive import Archive, Originals, UnusableFileError, open_originals
from fusion_datasets.sources.pictures import DECODER, scaled
from fusion_datasets.spec import BENCHMARKS, Split

IMAGE_SIDE_PX: Final = 400
TARGET_OBJECTS: Final = (19, 20, 21, 22, 23, 24)
"""Objects with power sockets, which are to be seen (Sec. 5.1)."""

OCCLUDER_OBJECTS: Final[Mapping[str, tuple[int, ...]]] = {
    "train": (1, 2, 5, 6, 7, 11, 12, 13, 14, 25, 26, 27),
    "test": (3, 4, 8, 9, 10, 15, 16, 17, 18, 28, 29, 30),
}
"""Objects that are laid over them."""

HELD_OUT: Final = (9, 10)
"""Of each object's images, in order, those at positions ≡ 9 (mod 10), counted from 0, are for evaluation."""

NOTE_KEYS: Final = ("seed", "renderer", "license", "models", "photography", "views")
"""What a file records of rendered views."""

_MARGINS_PX: Final = dict(zip(TARGET_OBJECTS, (95, 95, 100, 100, 60, 110), strict=True))
"""What is cut off each side of a photograph so that the object fills the frame (published settings)."""

_OBJECTS: Final = range(1, 31)
_VIEWS: Final = {object_id: 648 if object_id in (19, 20) else 1296 for object_id in _OBJECTS}
_INDEX_STRIDE: Final = 1_000_000
_PNG_HEAD: Final = struct.Struct(">8sI4s2I")
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"


class Layout(NamedTuple):
    """How the files of a release are named.

    Arguments:
        name: What a file records.
        image: Matches the name of an image: the folder of its object, the object, and its number.
        truth: File with the poses, beside the images' folder: it knows which images there are.
        numbers: Reads these numbers from its text.
        image_name: Name of an image, from its number, within the folder of its object.
    """

    name: str
    image: re.Pattern[str]
    truth: str
    numbers: Callable[[str], list[int]]
    image_name: str


LAYOUTS: Final = (
    Layout(
        "tless-v2",
        re.compile(r"((?:.*/)?(\d{2}))/rgb/(\d{4})\.png"),
        "gt.yml",
        lambda text: [int(number) for number in re.findall(r"^(\d{1,6}):", text, re.MULTILINE)],
        "rgb/{:04d}.png",
    ),
    Layout(
        "tless-bop",
        re.compile(r"((?:.*/)?(\d{6}))/rgb/(\d{6})\.png"),
        "scene_gt.json",
        lambda text: [int(number) for number in json.loads(text)],
        "rgb/{:06d}.png",
    ),
)


@dataclass(frozen=True, slots=True)
class _Photograph:
    object_id: int
    number: int
    originals: Originals
    name: str

    @property
    def index(self) -> int:
        return self.object_id * _INDEX_STRIDE + self.number


@dataclass(frozen=True)
class TlessSource:
    """T-LESS's Primesense training images, or anything in their layout.

    An image's position in the source is a million times its object plus its number.

    Arguments:
        path: A folder, or a zip that is read in place, with `train_primesense/05/rgb/0123.png` (release v2) or
            `train_primesense/000005/rgb/000123.png` (BOP) for the objects 1 … 30; or a folder with the zips of release
            v2. Where `gt.yml` or `scene_gt.json` lies beside the images, it says which there must be.

    Raises:
        FusionDatasetsError: If there is no such layout, or an object is not there.
    """

    path: Path

    def __post_init__(self) -> None:
        _ = self._photographs

    def __reduce__(self) -> tuple[type["TlessSource"], tuple[Path]]:
        return TlessSource, (self.path,)  # another process looks for itself

    @cached_property
    def description(self) -> dict[str, Any]:
        """Name, layout and decoder; the name is `tless` only where each object has its published number of images."""
        about = {"layout": self._found[0].name, "decoder": DECODER, "stand_in": False}
        if note := self._note:
            return {"name": "tless-stand-in"} | about | {"stand_in": True} | note
        counts = {object_id: len(some) for object_id, some in self._photographs.items()}
        return {"name": "tless" if counts == _VIEWS else "tless-like"} | about

    @property
    def license(self) -> str:
        """Licence of these images."""
        return str(self._note["license"]) if self._note else BENCHMARKS["fusion-tless"].license

    @property
    def has_labels(self) -> bool:
        """A target's label is its object, 19 … 24."""
        return True

    @cached_property
    def fingerprint(self) -> str:
        """Names, sizes and times of the files; of a zip its index, which holds checksums."""
        sha = hashlib.sha256()
        for some in self._photographs.values():
            for one in some:
                sha.update(f"{one.index} {one.name} {one.originals.state(one.name)}\n".encode())
        return sha.hexdigest()

    def num_images(self, split: Split) -> int:
        """Targets in a split."""
        return len(self._section(split))

    def num_occluders(self, split: Split) -> int:
        """Photographs of the objects that are laid over the targets of a split."""
        return len(self._section(occluder_section(split)))

    def read(self, split: Split, start: int, stop: int) -> CleanImages:
        """Crop and scale targets `start … stop − 1` of a split: uint8 `[n, 128, 128, 3]`, RGB."""
        side, *_ = BENCHMARKS["fusion-tless"].target_shape("train")
        chosen = self._section(split)[start:stop]
        images, kept, unreadable = [], [], []
        sha256 = np.zeros((len(chosen), hashlib.sha256().digest_size), np.uint8)
        for i, (one, image) in enumerate(_decoded(chosen, sha256)):
            if isinstance(image, Omission):
                unreadable.append(image)
                continue
            margin = _MARGINS_PX[one.object_id]
            window = (margin, IMAGE_SIDE_PX - margin - 1)
            images.append(scaled(image, (window, window), side, side))
            kept.append(i)
        labels, index = (np.array([getattr(chosen[i], key) for i in kept], np.int64) for key in ("object_id", "index"))
        stacked = np.array(images, np.uint8).reshape(len(kept), side, side, 3)
        return CleanImages(stacked, labels, index, sha256, tuple(unreadable))

    def read_occluders(self, split: Split, start: int, stop: int) -> Occluders:
        """Cut out the objects of photographs `start … stop − 1`: uint8 `[m, 100, 100, 4]`, RGBA."""
        chosen = self._section(occluder_section(split))[start:stop]
        crops, kept, unreadable, rejected = [], [], [], []
        sha256 = np.zeros((len(chosen), hashlib.sha256().digest_size), np.uint8)
        for i, (one, image) in enumerate(_decoded(chosen, sha256)):
            if isinstance(image, Omission):
                unreadable.append(image)
                continue
            try:
                crops.append(fit_crop(cut_occluder(image).rgba))
            except CutError as error:
                rejected.append(Omission(one.index, one.name, str(error)))
            else:
                kept.append(i)
        objects, index = (np.array([getattr(chosen[i], key) for i in kept], np.int64) for key in ("object_id", "index"))
        rgba = np.array(crops, np.uint8).reshape(len(kept), *fit_crop(np.zeros((1, 1, 4), np.uint8)).shape)
        return Occluders(rgba, objects, index, sha256, tuple(unreadable), tuple(rejected))

    def digest(self, rows: Mapping[str, int]) -> str:
        """Digest of the first photographs of each section, read anew."""
        return originals_digest((section, self._digests(section, count)) for section, count in rows.items())

    def _digests(self, section: str, count: int) -> NDArray[np.uint8]:
        sha256 = np.zeros((count, hashlib.sha256().digest_size), np.uint8)
        for _ in _contents(self._section(section)[:count], sha256):
            pass
        return sha256

    def _section(self, section: str) -> tuple[_Photograph, ...]:
        return self._sections[section]

    @cached_property
    def _sections(self) -> dict[str, tuple[_Photograph, ...]]:
        """Photographs of each section, one of each object in turn: the first few of a section are of every kind."""
        held_out, period = HELD_OUT
        sections = {}
        for split, objects in OCCLUDER_OBJECTS.items():
            sections[occluder_section(split)] = _in_turn([self._photographs[object_id] for object_id in objects])
            wanted = split == "test"
            sections[split] = _in_turn(
                [
                    [one for at, one in enumerate(self._photographs[object_id]) if (at % period == held_out) == wanted]
                    for object_id in TARGET_OBJECTS
                ]
            )
        return sections

    @cached_property
    def _photographs(self) -> dict[int, list[_Photograph]]:
        """The images that each object has, or should have, by number."""
        layout, folders = self._found
        photographs = {}
        for object_id in _OBJECTS:
            if object_id not in folders:
                raise FusionDatasetsError(
                    f"{self.path} has no images of object {object_id}; expected those of 1 … 30, laid out as "
                    f"{layout.name}"
                )
            originals, folder, numbers = folders[object_id]
            expected = self._numbers(layout, originals, folder, numbers)
            photographs[object_id] = [
                _Photograph(object_id, number, originals, f"{folder}/{layout.image_name.format(number)}")
                for number in expected
            ]
        for object_id in TARGET_OBJECTS:
            if len(photographs[object_id]) <= HELD_OUT[0]:
                raise FusionDatasetsError(
                    f"{self.path} has {len(photographs[object_id])} images of object {object_id}; expected at least "
                    f"{HELD_OUT[0] + 1}, for every tenth one is held out for evaluation"
                )
        return photographs

    def _numbers(self, layout: Layout, originals: Originals, folder: str, numbers: list[int]) -> list[int]:
        """Which images an object must have: those of the poses' file, or else all up to the last one."""
        truth = f"{folder}/{layout.truth}"
        if originals.state(truth) is None:
            if max(numbers) >= 2 * len(numbers) + 1:
                raise FusionDatasetsError(
                    f"{originals.path} has only {len(numbers)} images numbered up to {max(numbers)} in {folder}; "
                    "more than half are missing: fetch it again"
                )
            return list(range(max(numbers) + 1))
        try:
            expected = layout.numbers(originals.read(truth).decode())
        except (ValueError, TypeError) as error:
            if isinstance(error, FusionDatasetsError):
                raise
            raise FusionDatasetsError(f"{originals.path}: {truth} cannot be read ({error}); fetch it again") from error
        if not expected or max(expected) >= _INDEX_STRIDE or min(expected) < 0:
            raise FusionDatasetsError(f"{originals.path}: {truth} names no images; fetch it again")
        return sorted(set(expected))

    @cached_property
    def _found(self) -> tuple[Layout, dict[int, tuple[Originals, str, list[int]]]]:
        """The layout, and for each object where it lies, its folder there, and the numbers of its images."""
        for originals in (lambda: [open_originals(self.path)], self._archives):
            places = [(part, name) for part in originals() for name in part.names]
            for layout in LAYOUTS:
                folders: dict[int, tuple[Originals, str, list[int]]] = {}
                for part, name in places:
                    if match := layout.image.fullmatch(name):
                        folder, object_id, number = match[1], int(match[2]), int(match[3])
                        known = folders.setdefault(object_id, (part, folder, []))
                        if known[:2] != (part, folder):
                            raise FusionDatasetsError(
                                f"{self.path} has images of object {object_id} in {known[1]} and in {folder}; name the "
                                "folder of the Primesense training images alone"
                            )
                        known[2].append(number)
                if folders:
                    return layout, folders
        raise FusionDatasetsError(
            f"{self.path} holds T-LESS in no layout known; expected train_primesense/05/rgb/0123.png or "
            "train_primesense/000005/rgb/000123.png and so on, in a folder or a zip"
        )

    def _archives(self) -> list[Originals]:
        return [Archive(path) for path in sorted(self.path.glob("*primesense*.zip"))] if self.path.is_dir() else []

    @cached_property
    def _note(self) -> dict[str, Any] | None:
        base = self.path if self.path.is_dir() else self.path.parent
        return stand_in_note(base, *NOTE_KEYS)


def _in_turn(lists: list[list[_Photograph]]) -> tuple[_Photograph, ...]:
    return tuple(one for several in zip_longest(*lists) for one in several if one is not None)


def _contents(
    chosen: tuple[_Photograph, ...], sha256: NDArray[np.uint8]
) -> Iterator[tuple[_Photograph, bytes | Omission]]:
    """Read photographs, noting the digest of each that can be read."""
    for i, one in enumerate(chosen):
        try:
            content = one.originals.read(one.name)
        except UnusableFileError as error:
            yield one, Omission(one.index, one.name, error.reason)
        else:
            sha256[i] = np.frombuffer(hashlib.sha256(content).digest(), np.uint8)
            yield one, content


def _decoded(
    chosen: tuple[_Photograph, ...], sha256: NDArray[np.uint8]
) -> Iterator[tuple[_Photograph, NDArray[np.uint8] | Omission]]:
    for one, content in _contents(chosen, sha256):
        if isinstance(content, Omission):
            yield one, content
            continue
        try:
            yield one, _decode_png(content)
        except FusionDatasetsError as error:
            yield one, Omission(one.index, one.name, str(error))


def _decode_png(content: bytes) -> NDArray[np.uint8]:
    """Decode a photograph to uint8 `[400, 400, 3]`, RGB; its header is read first, so that none can be too large."""
    head = content[: _PNG_HEAD.size]
    if len(head) < _PNG_HEAD.size or not head.startswith(_PNG_SIGNATURE):
        raise FusionDatasetsError("no PNG" if content else "empty")
    *_, width, height = _PNG_HEAD.unpack(head)
    if (width, height) != (IMAGE_SIDE_PX, IMAGE_SIDE_PX):
        raise FusionDatasetsError(f"{width}×{height} pixels instead of {IMAGE_SIDE_PX}×{IMAGE_SIDE_PX}")
    if not content.rstrip(b"\0").endswith(b"IEND\xaeB`\x82"):
        raise FusionDatasetsError("cut short")
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise FusionDatasetsError("cannot be decoded")
    return np.ascontiguousarray(image[..., ::-1]).astype(np.uint8, copy=False)
