"""Files on disk: the lazy reader, and the writer that leaves a whole file or none."""

import contextlib
import hashlib
import json
import operator
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import h5py
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from fusion_datasets.composition import grey_levels
from fusion_datasets.corruptions import OccluderPool, RenderedExample, render_example
from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.flushing import Flusher
from fusion_datasets.schema import (
    FIELDS,
    FORMAT,
    FORMAT_VERSION,
    ArrayField,
    FileHeader,
    fields_of,
    occluder_section,
    validate,
)
from fusion_datasets.seal import SEAL_BYTES, begins_with_seal, seal
from fusion_datasets.spec import MAX_INPUTS_PER_ROW, BenchmarkSpec, Split

_CHUNK_BYTES: Final = 32 * 1024  # small enough for single rows, large enough for batches
_GZIP_LEVEL: Final = 1
_SAMPLE_ROWS: Final = 4
_PAYING_SHARE: Final = 0.5  # photographs hardly shrink, and inflating them would cost more than reading them
_READ_BYTES: Final = 32 * 1024 * 1024
_FLUSH_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FusionExample:
    """One row.

    Arguments:
        target: The clean image, uint8 `[h, w, c]`.
        inputs: The frozen inputs, uint8 `[3, h, w, c]`; None in the split `train`.
        masks: Where they show the target, bool `[3, h, w]`; None in the split `train`.
        index: Position in the source.
        label: Class, or None where the source has none.
    """

    target: NDArray[np.uint8]
    inputs: NDArray[np.uint8] | None
    masks: NDArray[np.bool_] | None
    index: int
    label: int | None


@dataclass(frozen=True, slots=True)
class FusionBatch:
    """Several rows: the arrays of `FusionExample`, each with the rows as its first dimension."""

    target: NDArray[np.uint8]
    inputs: NDArray[np.uint8] | None
    masks: NDArray[np.bool_] | None
    index: NDArray[np.int64]
    label: NDArray[np.int64] | None


class FusionDataset:
    """A split of a benchmark file, read lazily.

    It may be pickled, and used from forked and spawned processes: each process opens the file for itself when it
    first reads. Training inputs are not stored but rendered live: see `fusion_datasets.torch.render_inputs`.

    Arguments:
        path: A file made by `fusion-datasets build`, or `hf://owner/name@revision`, fetched and verified once.
        split: One of its splits, or None for the one that its benchmark is evaluated on. `train` has targets only:
            its `inputs` and `masks` are None.
        grey: Turn the colours of targets and inputs to grey; None does as the benchmark is usually seen.

    Raises:
        FusionDatasetsError: If the file is missing, damaged, foreign, or lacks the split.

    Example:
        >>> with FusionDataset("fusion-mnist.h5") as data:          # doctest: +SKIP
        ...     example = data[0]
    """

    def __init__(self, path: str | os.PathLike[str], split: Split | None = None, *, grey: bool | None = False) -> None:
        from fusion_datasets.hub import located  # which reads files with this module

        self.path: Final = located(path)
        self._absolute: Final = self.path.absolute()  # the same file wherever the process goes
        self._file: h5py.File | None = None
        self._owner = 0
        with opened(self.path) as file:
            self.header: Final[FileHeader] = validate(file)
        self.split: Final[Split] = self.header.spec.default_split if split is None else split
        spec = self.header.spec
        self.grey: Final[bool] = (spec.grey if grey is None else grey) and spec.channels > 1
        if self.split not in self.header.rows:
            raise FusionDatasetsError(f"{self.path} has no split {self.split!r}; it has {', '.join(self.header.rows)}")

    @property
    def spec(self) -> BenchmarkSpec:
        """The benchmark's spec, as the file records it."""
        return self.header.spec

    @property
    def benchmark(self) -> str:
        """Name of the benchmark."""
        return self.header.benchmark

    @property
    def seed(self) -> int:
        """Seed of the frozen inputs."""
        return self.header.seed

    @property
    def source(self) -> dict[str, Any]:
        """Name, layout and digest of the original files."""
        return dict(self.header.source)

    @property
    def is_stand_in(self) -> bool:
        """Whether the images are rendered look-alikes."""
        return bool(self.header.source.get("stand_in"))

    @property
    def content_sha256(self) -> dict[str, str]:
        """Path of each array → digest of its type, shape and bytes."""
        return dict(self.header.content_sha256)

    @property
    def digest(self) -> str:
        """One digest for the whole content."""
        lines = (f"{path} {sha}\n" for path, sha in sorted(self.header.content_sha256.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits in the file."""
        return tuple(self.header.rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image as it is read."""
        height, width, channels = self.spec.shape
        return height, width, 1 if self.grey else channels

    @property
    def occluders(self) -> OccluderPool | None:
        """What an `ObjectLaw` lays over this split's targets, read lazily, uint8 `[m, p, p, 4]`; otherwise None."""
        return _StatedDamage(self._rgba, self.path) if self.header.occluders else None

    def occluder_blocks(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the occluders in blocks of bounded size, uint8 `[n, p, p, 4]`; none where there are none."""
        if self.header.occluders:
            with _stated_damage(self.path, self._rgba.name):
                yield from (rgba for _, rgba in blocks(self._rgba))

    @property
    def _rgba(self) -> h5py.Dataset:
        return self._open()[f"{occluder_section(self.split)}/rgba"]

    def with_channels(self, channels: int) -> "FusionDataset":
        """This split as a model of so many channels sees it: one turns colours to grey; else it is as it is stored."""
        grey = channels == 1
        return self if grey == self.grey or self.spec.channels == 1 else FusionDataset(self.path, self.split, grey=grey)

    def __len__(self) -> int:
        return self.header.rows[self.split]

    def __getitem__(self, row: int) -> FusionExample:
        """Read one row; `read` reads several at once."""
        row = self._row(row)
        batch = self.read(row, row + 1)
        return FusionExample(
            target=batch.target[0],
            inputs=None if batch.inputs is None else batch.inputs[0],
            masks=None if batch.masks is None else batch.masks[0],
            index=int(batch.index[0]),
            label=None if batch.label is None else int(batch.label[0]),
        )

    def __iter__(self) -> Iterator[FusionExample]:
        return (self[row] for row in range(len(self)))

    def read(self, start: int, stop: int) -> FusionBatch:
        """Read rows `start … stop − 1`, `0 ≤ start ≤ stop ≤ len(self)`."""
        if not 0 <= start <= stop <= len(self):
            raise FusionDatasetsError(f"got rows {start} … {stop}; expected 0 ≤ start ≤ stop ≤ {len(self)}")
        arrays = self._arrays(start, stop)
        if self.grey:
            arrays |= {name: grey_levels(arrays[name]) for name in ("target", "inputs") if name in arrays}
        masks = arrays.get("masks")
        return FusionBatch(
            target=arrays["target"],
            inputs=arrays.get("inputs"),
            masks=None if masks is None else masks.astype(np.bool_),
            index=arrays["index"],
            label=arrays.get("label"),
        )

    def inputs_beyond(self, row: int, num_inputs: int) -> NDArray[np.uint8]:
        """Render the first inputs of an evaluation row, uint8 `[num_inputs, h, w, c]`; `render` has their masks too."""
        return self.render(row, num_inputs).inputs

    def render(self, row: int, num_inputs: int) -> RenderedExample:
        """Render the first inputs of an evaluation row and their masks, also more of them than are stored.

        Arguments:
            row: The row.
            num_inputs: 1 … 8; the first three equal the stored ones.

        Returns:
            The row's target, uint8 `[h, w, c]`, its inputs, uint8 `[num_inputs, h, w, c]`, and where they show it, bool
            `[num_inputs, h, w]`.

        Raises:
            FusionDatasetsError: If the split is `train`, or there are not as many inputs.
            IndexError: If there is no such row.
        """
        if self.split == "train":
            raise FusionDatasetsError("the split 'train' has no frozen inputs; render them live")
        if not 1 <= num_inputs <= MAX_INPUTS_PER_ROW:
            raise FusionDatasetsError(f"got {num_inputs} inputs; a row yields 1 … {MAX_INPUTS_PER_ROW}")
        row = self._row(row)
        stored = self._arrays(row, row + 1)
        target, index = stored["target"][0], int(stored["index"][0])
        example = render_example(
            target, self.spec, self.seed, self.split, index, num_inputs, self.occluders, placed=True
        )
        if not self.grey:
            return example
        return RenderedExample(grey_levels(example.target), grey_levels(example.inputs), example.masks)

    def close(self) -> None:
        """Close the file; reading opens it again."""
        if self._file is not None and self._owner == os.getpid():
            self._file.close()
        self._file = None

    def __enter__(self) -> "FusionDataset":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., "FusionDataset"], tuple[str, Split]]:
        return partial(FusionDataset, grey=self.grey), (str(self._absolute), self.split)

    def __repr__(self) -> str:
        return f"FusionDataset({str(self.path)!r}, split={self.split!r}): {self.spec.title}, {len(self)} rows"

    def _arrays(self, start: int, stop: int) -> dict[str, NDArray[Any]]:
        group = self._open()[self.split]
        with _stated_damage(self.path, f"/{self.split}, rows {start} … {stop}"):
            return {field.name: group[field.name][start:stop] for field in FIELDS if field.name in group}

    def _row(self, row: int) -> int:
        try:
            row = operator.index(row)
        except TypeError:
            raise FusionDatasetsError(
                f"got {row!r:.60} as a row; expected a whole number: read(start, stop) reads several rows at once"
            ) from None
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return row % len(self)

    def _open(self) -> h5py.File:
        # A handle inherited over fork shares state with the parent's: leave it alone and open another.
        if self._file is None or self._owner != os.getpid():
            file = _open_hdf5(self._absolute)
            if json.loads(str(file.attrs.get("content_sha256", "{}"))) != self.header.content_sha256:
                file.close()
                raise FusionDatasetsError(f"{self.path} was replaced after it had been opened; open the new one")
            self._file, self._owner = file, os.getpid()
        return self._file


@contextlib.contextmanager
def _stated_damage(path: Path, where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FusionDatasetsError(f"{path} is damaged in {where} ({error}); rebuild it") from error


@dataclass(frozen=True)
class _StatedDamage:
    """An array in a file, of which what cannot be read becomes a `FusionDatasetsError`."""

    array: h5py.Dataset
    path: Path

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        with _stated_damage(self.path, f"{self.array.name}, row {index}"):
            return np.asarray(self.array[index])

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows, height, width and four channels."""
        return tuple(self.array.shape)


def _open_hdf5(path: Path) -> h5py.File:
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise FusionDatasetsError(f"{path} {what}; make it with `fusion-datasets build`")
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise FusionDatasetsError(
            f"{path} cannot be read ({error}); it may be truncated, or no HDF5 file at all: rebuild it"
        ) from error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; what HDF5 finds damaged while it is open becomes a `FusionDatasetsError`."""
    with _open_hdf5(path) as file:
        try:
            yield file
        except (OSError, RuntimeError, KeyError) as error:
            raise FusionDatasetsError(f"{path} is damaged ({error}); rebuild it") from error


class ContentDigest:
    """SHA-256 over an array's type, shape and bytes in C order, fed row by row.

    Arguments:
        dtype: Type of the array.
        shape: Shape of the whole array.
    """

    def __init__(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
        self._dtype = dtype
        self._sha = hashlib.sha256(f"{dtype.str} {list(shape)}\n".encode())

    def update(self, rows: NDArray[Any]) -> None:
        """Feed the next rows."""
        self._sha.update(np.ascontiguousarray(rows, dtype=self._dtype).data)

    def hexdigest(self) -> str:
        """The digest of what was fed."""
        return self._sha.hexdigest()


def blocks(array: h5py.Dataset) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield an array's rows in blocks of bounded size, each with the position of its first row."""
    rows = max(1, _READ_BYTES // max(1, array.dtype.itemsize * int(np.prod(array.shape[1:]))))
    for start in range(0, len(array), rows):
        yield start, array[start : start + rows]


class DatasetWriter:
    """Writes a benchmark file under a temporary name; `publish` gives it the final one.

    Arguments:
        path: The temporary file, on the file system of the final one.
        rows: Section → number of rows.
        spec: The benchmark.
        has_labels: Whether the source has labels.
    """

    def __init__(self, path: Path, rows: dict[str, int], spec: BenchmarkSpec, *, has_labels: bool) -> None:
        self._path, self._spec = path, spec
        self._file = h5py.File(path, "w", track_order=False, userblock_size=SEAL_BYTES)
        self._arrays: dict[str, h5py.Dataset] = {}
        self._fields: dict[str, tuple[ArrayField, tuple[int, ...]]] = {}
        self._digests: dict[str, ContentDigest] = {}
        self._filled: dict[str, int] = {}
        self._held: dict[str, NDArray[Any]] = {}
        self._flusher, self._unflushed = Flusher(path), 0
        for section, count in rows.items():
            for field in fields_of(section):
                if field.required or has_labels:
                    self._declare(f"{section}/{field.name}", field, field.shape(count, spec, section))

    def _declare(self, path: str, field: ArrayField, shape: tuple[int, ...]) -> None:
        self._fields[path] = field, shape
        self._digests[path] = ContentDigest(field.dtype, shape)
        self._filled[path] = 0

    def _array(self, path: str, rows: NDArray[Any]) -> h5py.Dataset:
        """The array at a path, made when its first rows come: compressed where these say that it pays."""
        if path not in self._arrays:
            field, shape = self._fields[path]
            sample = rows[:_SAMPLE_ROWS].tobytes()
            layout: dict[str, Any] = {}
            if len(isal_zlib.compress(sample, _GZIP_LEVEL)) <= _PAYING_SHARE * len(sample):
                row_bytes = field.dtype.itemsize * int(np.prod(shape[1:]))
                chunk = (max(1, min(shape[0], _CHUNK_BYTES // row_bytes)), *shape[1:])
                layout = {"chunks": chunk, "compression": "gzip", "compression_opts": _GZIP_LEVEL}
            self._arrays[path] = self._file.create_dataset(path, shape, field.dtype, track_times=False, **layout)
        return self._arrays[path]

    def append(self, section: str, arrays: Iterable[tuple[str, NDArray[Any]]]) -> None:
        """Append rows to a section: pairs of an array's name and its next rows, of which no view is kept."""
        for name, rows in arrays:
            path = f"{section}/{name}"
            start = self._filled[path]
            array = self._array(path, rows)
            if array.chunks is None:
                array[start : start + len(rows)] = rows
            else:
                self._write_chunks(array, path, rows)
            self._digests[path].update(rows)
            self._filled[path] = start + len(rows)
            self._unflushed += rows.nbytes
        if self._unflushed >= _FLUSH_BYTES:
            self._flusher.flush()
            self._unflushed = 0

    def _write_chunks(self, array: h5py.Dataset, path: str, rows: NDArray[Any]) -> None:
        """Compress the rows that complete chunks, each once, several times faster than HDF5 does; hold the others."""
        start = self._filled[path]
        if (held := self._held.pop(path, None)) is not None:
            start, rows = start - len(held), np.concatenate((held, rows))
        count, others = array.chunks[0], (0,) * (rows.ndim - 1)
        is_last = start + len(rows) == len(array)
        whole = len(rows) if is_last else len(rows) // count * count
        for first in range(0, whole, count):
            chunk = np.ascontiguousarray(rows[first : min(first + count, whole)])
            if len(chunk) < count:
                chunk = np.concatenate((chunk, np.zeros((count - len(chunk), *chunk.shape[1:]), chunk.dtype)))
            array.id.write_direct_chunk((start + first, *others), isal_zlib.compress(chunk.data, _GZIP_LEVEL))
        if whole < len(rows):
            self._held[path] = rows[whole:].copy()  # a view would keep a whole shard mapped into memory

    def publish(self, output: Path, *, seed: int, source: dict[str, Any], license_name: str) -> None:
        """Write the attributes, seal the file, see the bytes on disk, and put the file under its final name."""
        assert all(self._filled[path] == shape[0] for path, (_, shape) in self._fields.items())
        for path, (field, shape) in self._fields.items():
            self._array(path, np.empty((0, *shape[1:]), field.dtype))  # those that no row came to
        self._file.attrs.update(
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "benchmark": self._spec.name,
                "spec": self._spec.to_json(),
                "seed": seed,
                "source": json.dumps(source, sort_keys=True),
                "created_with": f"fusion-datasets {version('fusion-datasets')}",
                "numpy_version": np.__version__,
                "license": license_name,
                "content_sha256": json.dumps(
                    {path: digest.hexdigest() for path, digest in self._digests.items()}, sort_keys=True
                ),
            }
        )
        validate(self._file)
        self._flusher.wait()
        try:
            self._file.close()
        except RuntimeError as error:  # what h5py makes of a disk that refuses
            raise OSError(reason_of(error)) from error
        self._flusher.flush()  # beside the sealing, which reads all of it once more
        seal(self._path)
        self._flusher.wait()
        self.close()
        replace_durably(self._path, output)

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the temporary file, if `publish` has not; then it is given up."""
        self._flusher.close()
        if self._file:
            _close_without_disk(self._file)


def _close_without_disk(file: h5py.File) -> None:
    """Close a file that is given up, wherever HDF5 may still write it to.

    A file that it cannot close, as on a full disk, makes it crash when Python ends. So what is left to write goes to
    memory.
    """
    if hasattr(os, "memfd_create"):
        memory = os.memfd_create("given up")
        os.dup2(memory, file.id.get_vfd_handle())
        os.close(memory)
    with contextlib.suppress(OSError, RuntimeError):
        file.close()


def replace_durably(temporary: Path, final: Path) -> None:
    """Give a finished file its final name once its bytes are on disk; a crash leaves the old file or the new."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(final)
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def reason_of(error: Exception) -> str:
    """Say in a few words what a disk refused; HDF5 says it in many lines."""
    told = getattr(error, "errno", None)
    if told is None and (found := re.search(r"errno = (\d+)", str(error))):
        told = int(found[1])
    return os.strerror(told) if told else " ".join(str(error).split())[:200]


def copy_durably(source: Path, final: Path) -> None:
    """Copy a file whole or not at all, whoever else does so."""
    temporary = final.with_name(f"{final.name}.{os.getpid()}.unfinished")
    try:
        shutil.copyfile(source, temporary)
        replace_durably(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)


def require_replaceable(path: Path) -> None:
    """Check that a benchmark file may take a name: one that is free, or another benchmark file's, sound or damaged.

    Raises:
        FusionDatasetsError: If anything else has it, but for an empty file.
    """
    if not path.exists():
        return
    try:
        replaceable = path.is_file() and (path.stat().st_size == 0 or begins_with_seal(path))
    except OSError as error:
        raise FusionDatasetsError(f"{path} cannot be replaced: {reason_of(error)}; choose another output") from error
    if not replaceable and path.is_file():
        with contextlib.suppress(OSError), h5py.File(path, "r", locking=False) as file:  # of another writer
            replaceable = file.attrs.get("format") == FORMAT
    if not replaceable:
        raise FusionDatasetsError(
            f"{path} is no benchmark file, and nothing else is ever replaced; choose another output"
        )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        replace_durably(temporary, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # the name that the caller knows
    finally:
        temporary.unlink(missing_ok=True)
