"""Rows as Parquet with PNG images, which viewers of data sets show as they are; needs the extra `[publish]`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.store import FusionDataset, replace_durably

ROWS_PER_FILE: Final = 20_000
_ROWS_PER_GROUP: Final = 1000


def image_columns(data: FusionDataset) -> list[str]:
    """Names of the columns that hold images."""
    if data.split == "train":
        return ["target"]
    numbers = range(1, data.spec.max_inputs + 1)
    return ["target", *(f"input_{k}" for k in numbers), *(f"mask_{k}" for k in numbers)]


def integer_columns(data: FusionDataset) -> list[str]:
    """Names of the columns that hold integers."""
    return ["index", "label"] if f"{data.split}/label" in data.content_sha256 else ["index"]


def column_meanings(data: FusionDataset) -> dict[str, str]:
    """Name of each column → what stands in it."""
    seen = (
        "the target as it is seen in input"
        if data.spec.noise_std == 0
        else "the target as it is seen, with noise, in input"
    )
    meanings = {"target": "the clean image", "index": "position of the original in its source", "label": _label(data)}
    for k in range(1, data.spec.max_inputs + 1):
        meanings |= {f"input_{k}": f"{seen} {k}", f"mask_{k}": f"white where input {k} shows the target"}
    return {name: meanings[name] for name in (*image_columns(data), *integer_columns(data))}


def _label(data: FusionDataset) -> str:
    known = {
        "fusion-mnist": "the digit",
        "fusion-celeba": "number of the person",
        "fusion-tless": "number of the object",
    }
    names = ", ".join(f"{number} {name}" for number, name in enumerate(data.source.get("classes") or ()))
    return known.get(data.benchmark, "class of the original" + f": {names}" * bool(names))


def file_names(data: FusionDataset) -> list[str]:
    """Names of a split's Parquet files."""
    count = max(1, -(-len(data) // ROWS_PER_FILE))
    return [f"{data.split}-{i:05d}-of-{count:05d}.parquet" for i in range(count)]


def write_parquet(data: FusionDataset, path: Path, start: int, stop: int) -> Iterator[int]:
    """Write rows `start … stop − 1` of a split, whole or not at all, and yield how many after each group.

    Raises:
        FusionDatasetsError: If pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise FusionDatasetsError(
            "Parquet needs pyarrow; install it with: pip install 'fusion-datasets[publish]'"
        ) from error
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images, integers = image_columns(data), integer_columns(data)
    features = {name: {"_type": "Image"} for name in images}
    features |= {name: {"dtype": "int64", "_type": "Value"} for name in integers}
    fields = [(name, image) for name in images] + [(name, pa.int64()) for name in integers]
    notes = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema(fields, metadata=notes)
    temporary = path.with_name(f"{path.name}.unfinished")
    with pq.ParquetWriter(temporary, schema, compression="none") as writer:  # PNG does not shrink any further
        for first in range(start, stop, _ROWS_PER_GROUP):
            last = min(first + _ROWS_PER_GROUP, stop)
            writer.write_table(pa.table(_columns(data, first, last), schema=schema), row_group_size=_ROWS_PER_GROUP)
            yield last - first
    replace_durably(temporary, path)


def _columns(data: FusionDataset, start: int, stop: int) -> dict[str, list[Any]]:
    batch = data.read(start, stop)
    columns: dict[str, list[Any]] = {"target": [_png(image) for image in batch.target]}
    if batch.inputs is not None and batch.masks is not None:
        for k in range(batch.inputs.shape[1]):
            columns[f"input_{k + 1}"] = [_png(image) for image in batch.inputs[:, k]]
            columns[f"mask_{k + 1}"] = [_png(mask.astype(np.uint8)[..., None] * 255) for mask in batch.masks[:, k]]
    columns["index"] = batch.index.tolist()
    if batch.label is not None:
        columns["label"] = batch.label.tolist()
    return columns


def _png(levels: NDArray[np.uint8]) -> dict[str, Any]:
    shown = levels if levels.shape[-1] == 1 else cv2.cvtColor(levels, cv2.COLOR_RGB2BGR)
    _, content = cv2.imencode(".png", shown)
    return {"bytes": content.tobytes(), "path": None}
