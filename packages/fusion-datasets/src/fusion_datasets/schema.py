"""HDF5 layout, version 1: what a file must hold, as data, and the check that it does.

A file consists of sections, groups of arrays with one row per example: the splits, and, where the law of the benchmark
lays objects over the target, a set of occluders `/occluders/SPLIT` for each split.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import h5py
import numpy as np

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.spec import SPLITS, BenchmarkSpec, ObjectLaw

FORMAT: Final = "fusion-datasets"
FORMAT_VERSION: Final = 1
MAX_SEED: Final = 2**63 - 1
"""The attribute `seed` is a signed integer of 64 bits."""
_OMISSION_FIELDS: Final = 3  # position, name, reason


@dataclass(frozen=True, slots=True)
class ArrayField:
    """One array of a section.

    Arguments:
        name: Its name within the section's group.
        dtype: Its type, byte order included: the digests depend on it.
        axes: Letters of the dimensions after the first: `k` inputs, `h`, `w`, `c`, `o` the side of an occluder, `r`
            its red, green, blue and alpha.
        in_train: Whether the training split has it too; frozen inputs are for evaluation alone.
        required: Whether a section may lack it.
    """

    name: str
    dtype: np.dtype[Any]
    axes: str
    in_train: bool = True
    required: bool = True

    def shape(self, rows: int, spec: BenchmarkSpec, section: str) -> tuple[int, ...]:
        """Its shape in a section of so many rows."""
        h, w, c = spec.target_shape("train") if section == "train" else spec.shape
        crop = spec.law.crop_px if isinstance(spec.law, ObjectLaw) else 0
        sizes = {"k": spec.max_inputs, "h": h, "w": w, "c": c, "o": crop, "r": 4}
        return rows, *(sizes[axis] for axis in self.axes)


FIELDS: Final = (
    ArrayField("target", np.dtype("u1"), "hwc"),
    ArrayField("inputs", np.dtype("u1"), "khwc", in_train=False),
    ArrayField("masks", np.dtype("u1"), "khw", in_train=False),  # 1 = target visible
    ArrayField("index", np.dtype("<i8"), ""),  # position in the source
    ArrayField("label", np.dtype("<i8"), "", required=False),
)

OCCLUDER_FIELDS: Final = (
    ArrayField("rgba", np.dtype("u1"), "oor"),
    ArrayField("object_id", np.dtype("<i8"), ""),
    ArrayField("index", np.dtype("<i8"), ""),  # position in the source
)

OCCLUDERS: Final = "occluders"
"""The group of the sets of occluders."""

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
    """The attributes of a file, parsed, the rows of each split, and the occluders for each split."""

    benchmark: str
    spec: BenchmarkSpec
    seed: int
    source: dict[str, Any]
    created_with: str
    numpy_version: str
    license: str
    content_sha256: dict[str, str]
    rows: dict[str, int]
    occluders: dict[str, int]

    @property
    def omitted(self) -> dict[str, list[list[Any]]]:
        """Section → position, name and flaw of each original that yielded no row."""
        omitted: dict[str, list[list[Any]]] = self.source.get("omitted", {})
        return omitted

    @property
    def originals(self) -> dict[str, int]:
        """Section → how many originals it was made from."""
        rows = {occluder_section(split): count for split, count in self.occluders.items()} | self.rows
        return {section: count + len(self.omitted.get(section, ())) for section, count in rows.items()}


def occluder_section(split: str) -> str:
    """Path of the occluders for a split."""
    return f"{OCCLUDERS}/{split}"


def sections_of(spec: BenchmarkSpec) -> tuple[str, ...]:
    """Paths of all sections of a file, in its order: occluders before the splits."""
    occluders = spec.splits if isinstance(spec.law, ObjectLaw) else ()
    return *map(occluder_section, occluders), *spec.splits


def fields_of(section: str) -> tuple[ArrayField, ...]:
    """The arrays that a section may hold."""
    if section.startswith(f"{OCCLUDERS}/"):
        return OCCLUDER_FIELDS
    return tuple(field for field in FIELDS if section != "train" or field.in_train)


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
    sections = sections_of(header.spec)
    for section in sorted(_groups(file)):
        if section not in sections:
            raise FusionDatasetsError(f"{file.filename} holds /{section}; expected only {', '.join(sections)}")
    stored = set()
    for section in sections:
        group, allowed = file.get(section), fields_of(section)
        first = allowed[0].name
        if not isinstance(group, h5py.Group) or not isinstance(group.get(first), h5py.Dataset):
            raise FusionDatasetsError(f"{file.filename} lacks /{section}/{first}; rebuild it")
        rows = len(group[first])
        if section in header.spec.splits:
            header.rows[section] = rows
        else:
            header.occluders[section.rpartition("/")[2]] = rows
        if unknown := sorted(set(group) - {field.name for field in allowed}):
            raise FusionDatasetsError(f"{file.filename} holds /{section}/{unknown[0]}, which has no place there")
        for field in allowed:
            path = f"{section}/{field.name}"
            array = group.get(field.name)
            if array is None and not field.required:
                continue
            if not isinstance(array, h5py.Dataset):
                raise FusionDatasetsError(f"{file.filename} lacks /{path}; rebuild it")
            shape = field.shape(rows, header.spec, section)
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


def _groups(file: h5py.File) -> Iterator[str]:
    for name in file:
        nested = file[name] if name == OCCLUDERS and isinstance(file[name], h5py.Group) else ()
        yield from (f"{name}/{child}" for child in nested) if len(nested) else (name,)


def _read_attributes(file: h5py.File) -> FileHeader:
    attributes = {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in file.attrs.items()
    }
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
    if not isinstance(spec.splits, tuple) or not all(split in SPLITS for split in spec.splits):
        raise FusionDatasetsError(f"{file.filename} names the splits {spec.splits!r}; expected some of {SPLITS}")
    if spec.default_split not in spec.splits:
        raise FusionDatasetsError(
            f"{file.filename} is evaluated on {spec.default_split!r}; expected one of its splits, {spec.splits}"
        )
    omitted = values["source"].get("omitted", {})
    if not isinstance(omitted, dict) or not all(
        isinstance(flaws, list) and all(isinstance(flaw, list) and len(flaw) == _OMISSION_FIELDS for flaw in flaws)
        for flaws in omitted.values()
    ):
        raise FusionDatasetsError(f"{file.filename}: what it omitted is no table of lists; rebuild it")
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
        occluders={},
    )
