"""HDF5 layout, version 1: what a file must hold, as data, and the check that it does."""

import json
from dataclasses import dataclass
from typing import Any, Final

import h5py
import numpy as np

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.spec import BenchmarkSpec

FORMAT: Final = "fusion-datasets"
FORMAT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class ArrayField:
    """One array of a split; all arrays of a split have a row per example.

    Arguments:
        name: Its name within the split's group.
        dtype: Its type, byte order included: the digests depend on it.
        axes: Letters of the dimensions after the first: `k` inputs, `h`, `w`, `c`.
        in_train: Whether the training split has it too; frozen inputs are for evaluation alone.
        required: Whether a split may lack it.
    """

    name: str
    dtype: np.dtype[Any]
    axes: str
    in_train: bool = True
    required: bool = True

    def shape(self, rows: int, spec: BenchmarkSpec) -> tuple[int, ...]:
        """Its shape in a split of so many rows."""
        sizes = {"k": spec.max_inputs, "h": spec.height, "w": spec.width, "c": spec.channels}
        return rows, *(sizes[axis] for axis in self.axes)


FIELDS: Final = (
    ArrayField("target", np.dtype("u1"), "hwc"),
    ArrayField("inputs", np.dtype("u1"), "khwc", in_train=False),
    ArrayField("masks", np.dtype("u1"), "khw", in_train=False),  # 1 = target visible
    ArrayField("index", np.dtype("<i8"), ""),  # position in the source
    ArrayField("label", np.dtype("<i8"), "", required=False),
)

ATTRIBUTES: Final = {
    "format": str,
    "format_version": int,
    "benchmark": str,
    "spec": str,  # JSON
    "seed": int,
    "source": str,  # JSON: name, layout, digest, stand_in
    "created_with": str,
    "numpy_version": str,  # random streams are promised for one version of NumPy
    "license": str,
    "content_sha256": str,  # JSON: path → hex
}
"""Attributes of the root: name → type."""


@dataclass(frozen=True, slots=True)
class FileHeader:
    """The attributes of a file, parsed, and the rows of each split."""

    benchmark: str
    spec: BenchmarkSpec
    seed: int
    source: dict[str, Any]
    created_with: str
    numpy_version: str
    license: str
    content_sha256: dict[str, str]
    rows: dict[str, int]


def fields_of(split: str) -> tuple[ArrayField, ...]:
    """The arrays that a split may hold."""
    return tuple(field for field in FIELDS if split != "train" or field.in_train)


def validate(file: h5py.File) -> FileHeader:
    """Check a file's attributes, paths, shapes and types; its content is left alone.

    Arguments:
        file: An open HDF5 file.

    Returns:
        What the attributes say.

    Raises:
        FusionDatasetsError: At the first thing that is not as it must be, naming it.
    """
    header = _read_attributes(file)
    for split in sorted(file):
        if split not in header.spec.splits:
            raise FusionDatasetsError(f"{file.filename} holds /{split}; expected only {', '.join(header.spec.splits)}")
    stored = set()
    for split in header.spec.splits:
        group = file.get(split)
        if not isinstance(group, h5py.Group) or not isinstance(group.get("target"), h5py.Dataset):
            raise FusionDatasetsError(f"{file.filename} lacks /{split}/target; rebuild it")
        header.rows[split] = len(group["target"])
        allowed = fields_of(split)
        if unknown := sorted(set(group) - {field.name for field in allowed}):
            raise FusionDatasetsError(f"{file.filename} holds /{split}/{unknown[0]}, which has no place there")
        for field in allowed:
            path = f"{split}/{field.name}"
            array = group.get(field.name)
            if array is None and not field.required:
                continue
            if not isinstance(array, h5py.Dataset):
                raise FusionDatasetsError(f"{file.filename} lacks /{path}; rebuild it")
            shape = field.shape(header.rows[split], header.spec)
            if array.shape != shape or array.dtype != field.dtype:
                raise FusionDatasetsError(
                    f"{file.filename}: /{path} is {array.dtype} {list(array.shape)}; expected "
                    f"{field.dtype} {list(shape)}"
                )
            stored.add(path)
    if differing := sorted(stored ^ set(header.content_sha256)):
        raise FusionDatasetsError(
            f"{file.filename}: the digests in content_sha256 do not match the arrays (/{differing[0]}); rebuild it"
        )
    return header


def _read_attributes(file: h5py.File) -> FileHeader:
    attributes = dict(file.attrs)
    if attributes.get("format") != FORMAT:
        raise FusionDatasetsError(
            f"{file.filename} is an HDF5 file of another kind; expected one made by `fusion-datasets build`"
        )
    if attributes.get("format_version") != FORMAT_VERSION:
        raise FusionDatasetsError(
            f"{file.filename} has format version {attributes.get('format_version')}; this release reads version "
            f"{FORMAT_VERSION}: install the release that wrote it, or rebuild the file"
        )
    values: dict[str, Any] = {}
    for name, kind in ATTRIBUTES.items():
        value = attributes.get(name)
        value = value.item() if isinstance(value, np.integer) else value
        if not isinstance(value, kind):
            raise FusionDatasetsError(f"{file.filename}: attribute {name} is {value!r}; expected {kind.__name__}")
        values[name] = value
    for name in ("source", "content_sha256"):
        try:
            values[name] = json.loads(values[name])
        except ValueError:
            values[name] = None
        if not isinstance(values[name], dict):
            raise FusionDatasetsError(f"{file.filename}: attribute {name} is no JSON object; rebuild it")
    spec = BenchmarkSpec.from_json(values["spec"])
    return FileHeader(
        benchmark=values["benchmark"],
        spec=spec,
        seed=values["seed"],
        source=values["source"],
        created_with=values["created_with"],
        numpy_version=values["numpy_version"],
        license=values["license"],
        content_sha256=values["content_sha256"],
        rows={},
    )
