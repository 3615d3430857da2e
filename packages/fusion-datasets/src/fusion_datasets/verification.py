"""Is a file what it says? Layout, ranges and digests; with the source at hand, every pixel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.progress import Progress
from fusion_datasets.schema import FileHeader, occluder_section, sections_of, validate
from fusion_datasets.seal import is_sealed
from fusion_datasets.shards import render_rows
from fusion_datasets.sources import OccluderSource, Source
from fusion_datasets.spec import Split
from fusion_datasets.store import ContentDigest, blocks, opened

_ROWS_AT_ONCE = 500


def verify(
    path: Path, source: Source | None = None, *, sample: int | None = None, seed: int = 0, progress: bool = True
) -> FileHeader:
    """Read a whole file and check it; a sealed one in every byte.

    Arguments:
        path: A benchmark file.
        source: The original files, opened, to compare targets with, and to render inputs again from.
        sample: How many rows of each evaluation split are compared with the source; None compares every row of the
            file, and the digest of the source with the one that the file records.
        seed: Draws the sample.
        progress: Report on stderr.

    Returns:
        The file's attributes.

    Raises:
        FusionDatasetsError: At the first mismatch, naming the array and, where it can be known, the row.
    """
    with opened(path) as file:
        header = validate(file)
        compared = (
            0 if source is None else sum(header.rows.values()) if sample is None else sampled_rows(header, sample)
        )
        total = sum(header.rows.values()) + sum(header.occluders.values()) + compared
        with Progress(f"verifying {path.name}", total, shown=progress) as bar:
            if source is not None and sample is None:
                _check_source(path, header, source)
                for split in header.spec.splits:
                    if header.occluders:
                        _check_occluders(file, header, source, split)
                    _check_rows(file, header, source, split, bar)
            elif source is not None and sample is not None:
                _check_sample(file, header, source, sample, np.random.default_rng(seed), bar)
            for section in sections_of(header.spec):
                for name in file[section]:
                    _check_array(file, header, f"{section}/{name}")
                bar.advance(len(file[section]["index"]))
    if is_sealed(path) is False:
        raise FusionDatasetsError(
            f"{path} has sound arrays, but other bytes of it are not those that were sealed; it was altered or damaged"
        )
    return header


def _check_source(path: Path, header: FileHeader, source: Source) -> None:
    for split in header.spec.splits:
        rows = header.originals[split]
        if rows > source.num_images(split):
            raise FusionDatasetsError(f"{path} was built from {rows} {split} images, more than the source given has")
    got, recorded = source.digest(header.originals), header.source.get("digest")
    if got != recorded:
        raise FusionDatasetsError(
            f"{path} was built from another source (digest {str(recorded)[:12]}…) than the one given ({got[:12]}…)"
        )


def sampled_rows(header: FileHeader, sample: int) -> int:
    """How many evaluation rows are compared by a sample of so many of each split."""
    return sum(min(sample, rows) for split, rows in header.rows.items() if split != "train")


def _check_sample(
    file: h5py.File, header: FileHeader, source: Source, sample: int, generator: np.random.Generator, bar: Progress
) -> None:
    """Compare random evaluation rows with the source's, rendered again."""
    for split in header.spec.splits:
        if split == "train":
            continue
        originals, place = header.originals[split], {int(index): row for row, index in enumerate(file[split]["index"])}
        if originals > source.num_images(split):
            raise FusionDatasetsError(
                f"{file.filename} was built from {originals} {split} images, more than the source given has"
            )
        occluders = file[occluder_section(split)]["rgba"] if header.occluders else None
        for position in np.sort(generator.permutation(originals)[: min(sample, header.rows[split])]).tolist():
            clean = source.read(split, position, position + 1)
            arrays = render_rows(clean, header.spec, header.seed, split, position, occluders)
            for index in arrays["index"].tolist():  # none, where the original was left out
                if index not in place:
                    raise FusionDatasetsError(f"{file.filename}: /{split} lacks the image {index} of its source")
                _compare(file, header, split, place[index], arrays)
            bar.advance(1)


def _check_rows(file: h5py.File, header: FileHeader, source: Source, split: Split, bar: Progress) -> None:
    """Compare rows with the source's, rendered again."""
    occluders = file[occluder_section(split)]["rgba"] if header.occluders else None
    row, total = 0, header.originals[split]
    for start in range(0, total, _ROWS_AT_ONCE):
        clean = source.read(split, start, min(start + _ROWS_AT_ONCE, total))
        arrays = render_rows(clean, header.spec, header.seed, split, start, occluders)
        _compare(file, header, split, row, arrays)
        row += len(clean.images)
        bar.advance(len(clean.images))


def _check_occluders(file: h5py.File, header: FileHeader, source: Source, split: Split) -> None:
    """Compare occluders with the source's, cut out again."""
    assert isinstance(source, OccluderSource)
    section = occluder_section(split)
    row, total = 0, header.originals[section]
    for start in range(0, total, _ROWS_AT_ONCE):
        crops = source.read_occluders(split, start, min(start + _ROWS_AT_ONCE, total))
        _compare(file, header, section, row, crops.arrays)
        row += len(crops.rgba)


def _compare(file: h5py.File, header: FileHeader, section: str, row: int, arrays: dict[str, NDArray[Any]]) -> None:
    for name, expected in arrays.items():
        stored = file[section][name][row : row + len(expected)]
        if len(stored) != len(expected):
            raise FusionDatasetsError(f"{file.filename}: /{section} lacks rows that its source yields")
        differing = (stored != expected).reshape(len(stored), -1).any(axis=1)
        if differing.any():
            raise FusionDatasetsError(
                f"{file.filename}: /{section}/{name}, row {row + int(differing.argmax())}, differs from what "
                f"its source yields (rendered with NumPy {header.numpy_version}, compared with {np.__version__})"
            )


_RANGES: dict[str, tuple[Callable[[NDArray[Any]], NDArray[np.bool_]], str]] = {
    "masks": (lambda rows: rows <= 1, "0 or 1"),
    "index": (lambda rows: rows >= 0, "a position from 0 up"),
    "label": (lambda rows: rows >= 0, "a class from 0 up"),
}


def _check_array(file: h5py.File, header: FileHeader, path: str) -> None:
    """Check the range of an array's values, and its digest."""
    array = file[path]
    digest = ContentDigest(array.dtype, array.shape)
    in_range, expected = _RANGES.get(path.rpartition("/")[2], (None, ""))
    for start, rows in blocks(array):
        if in_range is not None:
            bad = ~in_range(rows).reshape(len(rows), -1).all(axis=1)
            if bad.any():
                raise FusionDatasetsError(
                    f"{file.filename}: /{path}, row {start + int(bad.argmax())}, is out of range; expected {expected}"
                )
        digest.update(rows)
    if digest.hexdigest() != header.content_sha256[path]:
        raise FusionDatasetsError(
            f"{file.filename}: /{path} does not have the digest that the file records; it was altered or damaged"
        )
