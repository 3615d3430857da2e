"""A user's own pictures: any folder or zip, sub-folders as labels, split by a hash of each file's name."""

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL
from PIL import Image

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.occluders import fit_crop
from fusion_datasets.sources import CleanImages, Occluders, Omission, originals_digest
from fusion_datasets.sources.archive import Originals, contents_of, open_originals, sha256_row
from fusion_datasets.sources.pictures import (
    DECODER,
    JPEG_DECODER,
    decode_cutout,
    decode_picture,
    is_picture_name,
    scaled,
)
from fusion_datasets.spec import BenchmarkSpec, EllipseLaw, ObjectLaw, Split

LAYOUT: Final = "pictures"
TEST_SHARE: Final = 0.1
"""Share of the pictures whose names' hashes fall into the split `test`."""

MIN_SIZE, MAX_SIZE = 8, 512
_ALPHA_FLOOR: Final = 8

# FusionCelebA's ellipses and FusionT-LESS's objects, at the size that their benchmarks have.
_REFERENCE_PX: Final = 64
_RADIUS_PX, _MARGIN_PX = 14, (1, 3)
_LONGER_SIDE_PX, _CROP_PX = (30, 50), 100


def folder_spec(path: Path, *, size: int, objects: bool, grey: bool, flips: bool) -> BenchmarkSpec:
    """The spec of a benchmark of one's own: the published laws, scaled to the size of its images.

    Pictures fill their frame, unlike FusionT-LESS's objects on black: turned, resized or moved, they would show its
    corners and edges. So objects are laid over them as they are.

    Arguments:
        path: The folder, whose name becomes the title.
        size: Side of an image, in pixels, 8 … 512.
        objects: Lay objects over the targets, as FusionT-LESS does, instead of showing ellipses of them.
        grey: Keep one channel instead of three.
        flips: Flip training targets at random.
    """
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise FusionDatasetsError(f"got a size of {size} pixels; expected {MIN_SIZE} … {MAX_SIZE}")
    scale = size / _REFERENCE_PX
    law: EllipseLaw | ObjectLaw = EllipseLaw(
        count=4,
        radius_px=(0, round(_RADIUS_PX * scale)),
        centre_px=(_MARGIN_PX[0], size - _MARGIN_PX[1]),
        aspect=(0.5, 1.5),
    )
    if objects:
        low, high = (side * scale for side in _LONGER_SIDE_PX)
        law = ObjectLaw((5, 8), (low, high), resize_px=0, shift_px=0, crop_px=_CROP_PX, turns=False)
    return BenchmarkSpec(
        name="folder",
        title=_title(path),
        height=size,
        width=size,
        channels=1 if grey else 3,
        padding_px=0,
        nll_size=size,
        max_inputs=3,
        law=law,
        noise_std=0.0,
        splits=("train", "test"),
        source="a folder of pictures",
        source_files=(),
        license="unknown",
        train_size_px=2 * size if objects else None,
        flips=flips,
    )


@dataclass(frozen=True)
class FolderSource:
    """Pictures below a folder, or in a zip, in any of the usual formats.

    Arguments:
        path: The folder or zip. Where every picture lies in a sub-folder, the first-level ones are its labels.
        spec: Size and channels of the images.
        cutouts: Folder or zip of pictures with transparency to lay over the targets, for an `ObjectLaw`. Where one of
            the two folders lies in the other, its pictures are not the other's as well.
        license: Licence of the pictures.

    Raises:
        FusionDatasetsError: If there are too few pictures for both splits.
    """

    path: Path
    spec: BenchmarkSpec
    cutouts: Path | None = None
    license: str = "unknown"

    def __post_init__(self) -> None:
        splits = [(self.path, "picture", self._names)]
        if isinstance(self.spec.law, ObjectLaw):
            if self.cutouts is None:
                raise FusionDatasetsError(
                    "objects are to be laid over the pictures, but none are given; name their folder with --occluders"
                )
            splits.append((self.cutouts, "occluder", self._cutout_names))
        for path, kind, names in splits:
            for split, chosen in names.items():
                if not chosen:
                    total = sum(map(len, names.values()))
                    raise FusionDatasetsError(
                        f"{path} holds {total} {kind}s, and none of them falls into the split {split}; add some (one "
                        f"in {round(1 / TEST_SHARE)} is kept for testing, by a hash of its name)"
                    )

    def __reduce__(self) -> tuple[type["FolderSource"], tuple[Path, BenchmarkSpec, Path | None, str]]:
        return FolderSource, (self.path, self.spec, self.cutouts, self.license)

    @cached_property
    def description(self) -> dict[str, Any]:
        """Name, layout, decoders, the names of the labels, and whether there are cut-outs."""
        return {
            "name": _title(self.path),
            "layout": LAYOUT,
            "decoder": f"{DECODER}, Pillow {PIL.__version__}, {JPEG_DECODER}",
            "stand_in": False,
            "classes": self.classes,
        }

    @cached_property
    def classes(self) -> list[str]:
        """Names of the sub-folders, in the order of the labels; none where some picture lies in no sub-folder."""
        parents = {_label(name) for name in self._sorted}
        return [] if "" in parents else sorted(parents)

    @cached_property
    def unread(self) -> list[str]:
        """Names with endings of pictures in formats that are not read, such as .psd or .eps."""
        known = Image.registered_extensions()
        return [
            name for name in self._pictures.names if Path(name).suffix.lower() in known and not is_picture_name(name)
        ]

    @property
    def has_labels(self) -> bool:
        """Whether every picture lies in a sub-folder."""
        return bool(self.classes)

    @property
    def fingerprint(self) -> str:
        """Names, sizes and times of all pictures."""
        sha = hashlib.sha256()
        for originals, names in ((self._pictures, self._sorted), (self._cutouts, self._sorted_cutouts)):
            for name in names:
                assert originals is not None
                sha.update(f"{name} {originals.state(name)}\n".encode())
        return sha.hexdigest()

    def num_images(self, split: Split) -> int:
        """Pictures in a split."""
        return len(self._names[split])

    def num_occluders(self, split: Split) -> int:
        """Cut-outs for a split."""
        return len(self._cutout_names[split])

    def read(self, split: Split, start: int, stop: int) -> CleanImages:
        """Decode pictures `start … stop − 1` of a split, and scale their largest centred squares."""
        h, w, c = self.spec.target_shape("train")
        images = np.empty((stop - start, h, w, c), np.uint8)
        names = self._names[split][start:stop]
        kept: list[str] = []
        sha256, unreadable = [], []
        for name, content in zip(names, contents_of(self._pictures, names), strict=True):
            sha256.append(sha256_row(content))
            try:
                image = decode_picture(content)
            except FusionDatasetsError as error:
                unreadable.append(Omission(self._position[name], name, str(error)))
            else:
                if c == 1:
                    image = np.asarray(Image.fromarray(image).convert("L"))[..., None]
                images[len(kept)] = scaled(image, None, h, w)
                kept.append(name)
        return CleanImages(
            images[: len(kept)],
            np.array([self.classes.index(_label(name)) for name in kept], "i8") if self.classes else None,
            np.array([self._position[name] for name in kept], "i8"),
            np.array(sha256, np.uint8).reshape(-1, 32),
            tuple(unreadable),
        )

    def read_occluders(self, split: Split, start: int, stop: int) -> Occluders:
        """Decode cut-outs `start … stop − 1` of a split, and fit what is opaque of each into its square."""
        assert self._cutouts is not None
        assert isinstance(self.spec.law, ObjectLaw)
        side = self.spec.law.crop_px
        names, position = self._cutout_names[split][start:stop], {n: i for i, n in enumerate(self._sorted_cutouts)}
        crops, kept, sha256 = [], [], []
        unreadable, rejected = [], []
        for name, content in zip(names, contents_of(self._cutouts, names), strict=True):
            sha256.append(sha256_row(content))
            try:
                rgba = decode_cutout(content)
            except FusionDatasetsError as error:
                unreadable.append(Omission(position[name], name, str(error)))
                continue
            solid = rgba[..., 3] >= _ALPHA_FLOOR
            if not solid.any() or solid.all():
                flaw = "nothing of it is opaque" if not solid.any() else "nothing of it is transparent"
                rejected.append(Omission(position[name], name, flaw))
                continue
            rows, columns = (np.flatnonzero(solid.any(axis=axis)) for axis in (1, 0))
            crops.append(fit_crop(rgba[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], side))
            kept.append(position[name])
        index = np.array(kept, "i8")
        digests = np.array(sha256, np.uint8).reshape(-1, 32)
        squares = np.array(crops, np.uint8).reshape(-1, side, side, 4)
        return Occluders(squares, index, index, digests, tuple(unreadable), tuple(rejected))

    def digest(self, rows: Mapping[str, int]) -> str:
        """Digest of the first pictures and cut-outs of each section, read anew."""
        sections = []
        for section, count in rows.items():
            group, _, split = section.rpartition("/")
            originals, names = (self._cutouts, self._cutout_names) if group else (self._pictures, self._names)
            assert originals is not None
            digests = [sha256_row(content) for content in contents_of(originals, names[split][:count])]
            sections.append((section, np.array(digests, np.uint8).reshape(-1, 32)))
        return originals_digest(sections)

    @cached_property
    def _pictures(self) -> Originals:
        return open_originals(self.path)

    @cached_property
    def _cutouts(self) -> Originals | None:
        return None if self.cutouts is None else open_originals(self.cutouts)

    @cached_property
    def _sorted(self) -> list[str]:
        return _picture_names(self._pictures, but=self.cutouts)

    @cached_property
    def _sorted_cutouts(self) -> list[str]:
        if self._cutouts is None:
            return []
        return _picture_names(self._cutouts, but=self.path)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self._sorted)}

    @cached_property
    def _names(self) -> dict[str, list[str]]:
        return _split(self._sorted)

    @cached_property
    def _cutout_names(self) -> dict[str, list[str]]:
        return _split(self._sorted_cutouts)


def _title(path: Path) -> str:
    path = path.resolve()
    return path.name if path.is_dir() else path.stem


def _label(name: str) -> str:
    """The first-level folder of a picture, or an empty word where it lies in none."""
    return _spelled(name).partition("/")[0] if "/" in name else ""


def _spelled(name: str) -> str:
    """The name with composed letters: where a picture was copied or zipped decides whether an é is one sign or two."""
    return unicodedata.normalize("NFC", name)


def _picture_names(originals: Originals, *, but: Path | None) -> list[str]:
    """Names that end as pictures do; hidden files and what macOS leaves in archives are passed over.

    What lies in another folder, `but`, is left out where that is a part of this one, also through a link.
    """
    hidden = (".", "__MACOSX")
    names = [
        name
        for name in sorted(originals.names, key=lambda name: (_spelled(name), name))
        if is_picture_name(name) and not any(part.startswith(hidden) for part in name.split("/"))
    ]
    if but is None or not (but.is_dir() and originals.path.is_dir()) or _is_part(originals.path, but):
        return names
    folders = {name.rpartition("/")[0] for name in names}
    parts = {folder for folder in folders if _is_part(originals.path / folder, but)}
    return [name for name in names if name.rpartition("/")[0] not in parts]


def _is_part(folder: Path, of: Path) -> bool:
    return folder.resolve().is_relative_to(of.resolve())


def _split(names: list[str]) -> dict[str, list[str]]:
    """Sort names into splits by their hashes: a picture stays in its split whatever else comes or goes."""
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for name in names:
        digest = hashlib.sha256(_spelled(name).encode("utf-8", "surrogateescape")).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        parts["test" if share < TEST_SHARE else "train"].append(name)
    return parts
