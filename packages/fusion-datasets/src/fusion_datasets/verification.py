"""Is a file what it says? Layout, ranges and digests; with the source at hand, every pixel."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.progress import Progress
from fusion_datasets.schema import FileHeader, validate
from fusion_datasets.shards import render_rows
from fusion_datasets.sources import Source
from fusion_datasets.spec import Split
from fusion_datasets.store import ContentDigest, blocks, opened

_ROWS_AT_ONCE = 500


def verify(path: Path, source: Source | None = None, *, progress: bool = True) -> FileHeader:
    """Read a whole file and check it.

    Arguments:
        path: A benchmark file.
        source: The original files, opened, to compare every target with, and to render every input again from.
        progress: Report on stderr.

    Returns:
        The file's attributes.

    Raises:
        FusionDatasetsError: At the first mismatch, naming the array and, where it can be known, the row.
    """
    with opened(path) as file:
        header = validate(file)
        total = sum(rows * (1 + (source is not None)) for rows in header.rows.values())
        with Progress(f"verifying {path.name}", total, shown=progress) as bar:
            if source is not None:
                _check_source(path, header, source)
                for split in header.spec.splits:
                    _check_rows(file, header, source, split, bar)
            for split in header.spec.splits:
                for name in file[split]:
                    _check_array(file, header, f"{split}/{name}")
                bar.advance(header.rows[split])
    return header


def _check_source(path: Path, header: FileHeader, source: Source) -> None:
    got, recorded = source.description["digest"], header.source.get("digest")
    if got != recorded:
        raise FusionDatasetsError(
            f"{path} was built from another source (digest {str(recorded)[:12]}…) than the one given ({got[:12]}…)"
        )
    for split in header.spec.splits:
        rows = header.rows[split]
        if rows > source.num_images(split):
            raise FusionDatasetsError(f"{path} holds {rows} {split} rows, more than its source")


def _check_rows(file: h5py.File, header: FileHeader, source: Source, split: Split, bar: Progress) -> None:
    """Compare rows with the source's, rendered again."""
    for start in range(0, header.rows[split], _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, header.rows[split])
        for name, expected in render_rows(source, header.spec, header.seed, split, start, stop).items():
            differing = (file[split][name][start:stop] != expected).reshape(stop - start, -1).any(axis=1)
            if differing.any():
                raise FusionDatasetsError(
                    f"{file.filename}: /{split}/{name}, row {start + int(differing.argmax())}, differs from what "
                    f"its source yields (rendered with NumPy {header.numpy_version}, compared with {np.__version__})"
                )
        bar.advance(stop - start)


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
