"""Croissant metadata (MLCommons, version 1.1): what the published files are, for machines."""

import re
from datetime import date
from typing import Any, Final

from fusion_datasets.publication.citation import VERSION, bibliography
from fusion_datasets.publication.parquet import column_meanings, image_columns
from fusion_datasets.publication.terms import Terms
from fusion_datasets.store import FusionDataset

_CONTEXT: Final = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


def croissant(
    splits: list[FusionDataset],
    terms: Terms,
    *,
    title: str,
    description: str,
    authors: tuple[str, ...],
    released: date,
    files: dict[str, tuple[int, str]],
) -> dict[str, Any]:
    """Describe a publication.

    Arguments:
        splits: Every split of the benchmark.
        terms: Of what is published.
        title: Of the publication.
        description: One paragraph.
        authors: Who answer for it.
        released: The day of publication.
        files: Path of each data file → bytes and SHA-256: HDF5 and Parquet, or a recipe.

    Returns:
        JSON-LD, to be stored beside the files. Each split is one record set; of a recipe, the one that is evaluated,
        for readers want record sets of one JSON file to be equally long.
    """
    parquet = [data for data in splits if any(path.startswith(f"data/{data.split}-") for path in files)]
    recipe = next((path for path in files if path.endswith(".json")), None)
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": re.sub(r"\W+", "_", title, flags=re.ASCII).strip("_") or "benchmark",
        "description": description,
        "keywords": ["image fusion", "occlusion", "uncertainty", "benchmark"],
        "license": terms.url or terms.license,
        "url": "https://arxiv.org/abs/2209.11277",
        "creator": [{"@type": "Organization", "name": author} for author in authors],
        "datePublished": released.isoformat(),
        "version": VERSION,
        "citeAs": bibliography(splits[0]),
        "distribution": [_file_object(path, size, sha256) for path, (size, sha256) in files.items()]
        + [_file_set(data.split) for data in parquet],
        "recordSet": [_rows_of(data) for data in parquet]
        + ([_positions_in(recipe, splits[0].spec.default_split)] if recipe else []),
    }


_KINDS: Final = {".parquet": "application/x-parquet", ".h5": "application/x-hdf5", ".json": "application/json"}


def _file_object(path: str, size: int, sha256: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path,
        "contentSize": f"{size} B",
        "encodingFormat": next(kind for ending, kind in _KINDS.items() if path.endswith(ending)),
        "sha256": sha256,
    }


def _file_set(split: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{split}-parquet",
        "name": f"{split}-parquet",
        "description": f"The Parquet files of the split {split}.",
        "encodingFormat": _KINDS[".parquet"],
        "includes": f"data/{split}-*.parquet",
    }


def _rows_of(data: FusionDataset) -> dict[str, Any]:
    """The record set of a split, from its Parquet files."""
    images, name = image_columns(data), data.split
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"Rows of the split {name}.",
        "field": [_field(name, column, text, column in images) for column, text in column_meanings(data).items()],
    }


def _field(split: str, column: str, meaning: str, is_image: bool) -> dict[str, Any]:
    source: dict[str, Any] = {"fileSet": {"@id": f"{split}-parquet"}, "extract": {"column": column}}
    if is_image:
        source["transform"] = {"jsonPath": "bytes"}
    return {
        "@type": "cr:Field",
        "@id": f"{split}/{column}",
        "name": column,
        "description": f"{meaning[0].upper()}{meaning[1:]}.",
        "dataType": "sc:ImageObject" if is_image else "cr:Int64",
        "source": source,
    }


def _positions_in(recipe: str, split: str) -> dict[str, Any]:
    """The record set of a split of which nothing but the originals' positions is told."""
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": f"Rows of the split {split}, without their images.",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{split}/index",
                "name": "index",
                "description": "Position of the original in its source.",
                "dataType": "cr:Int64",
                "source": {"fileObject": {"@id": recipe}, "extract": {"jsonPath": f"$.index.{split}[*]"}},
            }
        ],
    }
