"""Croissant metadata (MLCommons, version 1.1): what the published files are, for machines."""

from typing import Any, Final

from fusion_datasets.publication.parquet import image_columns, integer_columns
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
    description: str,
    citation: str,
    version: str,
    files: dict[str, tuple[int, str]],
) -> dict[str, Any]:
    """Describe a publication.

    Arguments:
        splits: Every split of the benchmark.
        terms: Of its images.
        description: One paragraph.
        citation: BibTeX of what to cite.
        version: Of the publication, `MAJOR.MINOR.PATCH`.
        files: Path of each data file → bytes and SHA-256.

    Returns:
        JSON-LD, to be stored beside the files.
    """
    spec = splits[0].spec
    distribution = [_file_object(path, size, sha256) for path, (size, sha256) in files.items()]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": spec.title.replace("-", "_"),
        "description": description,
        "license": terms.url or terms.license,
        "url": "https://arxiv.org/abs/2209.11277",
        "creator": {"@type": "Organization", "name": "The fusionvae maintainers"},
        "version": version,
        "citeAs": citation,
        "distribution": distribution,
        "recordSet": [record_set for data in splits for record_set in _record_sets(data, list(files))],
    }


def _file_object(path: str, size: int, sha256: str) -> dict[str, Any]:
    kind = "application/x-parquet" if path.endswith(".parquet") else "application/x-hdf5"
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path,
        "contentSize": f"{size} B",
        "encodingFormat": kind,
        "sha256": sha256,
    }


def _record_sets(data: FusionDataset, paths: list[str]) -> list[dict[str, Any]]:
    parts = [path for path in paths if path.startswith(f"data/{data.split}-")]
    names = [data.split] if len(parts) == 1 else [f"{data.split}_{i}" for i in range(len(parts))]
    return [
        {
            "@type": "cr:RecordSet",
            "@id": name,
            "name": name,
            "description": f"Rows of the split {data.split}, as in {part}.",
            "field": [_field(name, column, part, image=True) for column in image_columns(data)]
            + [_field(name, column, part, image=False) for column in integer_columns(data)],
        }
        for name, part in zip(names, parts, strict=True)
    ]


_MEANINGS: Final = {
    "target": "The clean image.",
    "input": "A noisy, occluded view of the target.",
    "mask": "White where the input shows the target.",
    "index": "Position of the original in its source.",
    "label": "Class of the original.",
}


def _field(record_set: str, column: str, part: str, *, image: bool) -> dict[str, Any]:
    source: dict[str, Any] = {"fileObject": {"@id": part}, "extract": {"column": column}}
    if image:
        source["transform"] = {"jsonPath": "bytes"}
    return {
        "@type": "cr:Field",
        "@id": f"{record_set}/{column}",
        "name": column,
        "description": _MEANINGS[column.partition("_")[0]],
        "dataType": "sc:ImageObject" if image else "cr:Int64",
        "source": source,
    }
