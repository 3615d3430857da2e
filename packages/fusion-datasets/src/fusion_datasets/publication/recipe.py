"""Recipes: all of a file but its pixels, from which a user's own copy of the originals gives the identical content.

A recipe holds the spec, the seed, what the source was, which originals went into which row, and a digest of every
array and every row. Masks follow from spec, seed and index alone.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.build import BuildPlan
from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.spec import BenchmarkSpec
from fusion_datasets.store import FusionDataset, opened

FORMAT: Final = "fusion-datasets-recipe"
FORMAT_VERSION: Final = 1

_DIGEST_BYTES: Final = 16
_ROWS_AT_ONCE: Final = 500


@dataclass(frozen=True)
class Recipe:
    """A recipe that was read.

    Arguments:
        spec: The benchmark.
        seed: Seed of the frozen inputs.
        originals: Section → how many originals it was made from.
        may_omit: Whether originals were left out.
        content_sha256: Path of each array → its digest.
        rows: Split → digests of its rows, uint8 `[n, 16]`.
        about: What else it says, for reports.
    """

    spec: BenchmarkSpec
    seed: int
    originals: dict[str, int]
    may_omit: bool
    content_sha256: dict[str, str]
    rows: dict[str, NDArray[np.uint8]]
    about: dict[str, Any]

    def applied_to(self, plan: BuildPlan) -> BuildPlan:
        """The plan that makes this file from the plan's source.

        Raises:
            FusionDatasetsError: If the recipe is for another benchmark, or the source has too few images.
        """
        if plan.spec != self.spec:
            raise FusionDatasetsError(f"the recipe is for {self.spec.title}, not for {plan.spec.title} as built here")
        whole = replace(plan, seed=self.seed, limit=None, skip_bad=self.may_omit)
        wanted = next((p for p in (whole, *self._limited(whole)) if p.originals == self.originals), None)
        if wanted is None:
            raise FusionDatasetsError(
                f"the recipe needs {_counts(self.originals)} originals; the source has {_counts(whole.originals)}"
            )
        return wanted

    def _limited(self, plan: BuildPlan) -> list[BuildPlan]:
        return [replace(plan, limit=limit) for limit in sorted(set(self.originals.values())) if limit]

    def differing_rows(self, path: Path) -> dict[str, list[int]]:
        """Compare a file with the recipe.

        Returns:
            Split → the rows that are not as the recipe says; empty where the file is the very one.
        """
        differing = {}
        for split, expected in self.rows.items():
            got = row_digests(FusionDataset(path, split))  # type: ignore[arg-type]
            if len(got) != len(expected):
                raise FusionDatasetsError(f"{path} has {len(got)} {split} rows; the recipe has {len(expected)}")
            if rows := np.flatnonzero((got != expected).any(axis=1)).tolist():
                differing[split] = rows
        return differing


def recipe_of(path: Path) -> bytes:
    """Write down how a file is made, without any pixel of it.

    Arguments:
        path: A benchmark file.

    Returns:
        JSON.
    """
    splits = [FusionDataset(path, split) for split in FusionDataset(path).spec.splits]
    header = splits[0].header
    with opened(path) as file:
        index = {data.split: file[data.split]["index"][:].tolist() for data in splits}
    about = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "benchmark": header.benchmark,
        "spec": json.loads(header.spec.to_json()),
        "seed": header.seed,
        "source": header.source,
        "created_with": header.created_with,
        "numpy_version": header.numpy_version,
        "license": header.license,
        "content_sha256": header.content_sha256,
        "originals": header.originals,
        "index": index,
        "row_sha256": {data.split: base64.b64encode(row_digests(data).tobytes()).decode() for data in splits},
    }
    return json.dumps(about).encode()


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        FusionDatasetsError: If the file is no recipe of this version.
    """
    try:
        about = json.loads(path.read_bytes())
        if about["format"] != FORMAT or about["format_version"] != FORMAT_VERSION:
            raise ValueError(f"it has format {about['format']!r}, version {about['format_version']}")
        rows = {split: _unpacked(text) for split, text in about["row_sha256"].items()}
        originals = {str(section): int(count) for section, count in about["originals"].items()}
        return Recipe(
            spec=BenchmarkSpec.from_json(json.dumps(about["spec"])),
            seed=int(about["seed"]),
            originals=originals,
            may_omit=bool(about["source"].get("omitted")),
            content_sha256=dict(about["content_sha256"]),
            rows=rows,
            about=about,
        )
    except OSError as error:
        raise FusionDatasetsError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FusionDatasetsError(
            f"{path} is no recipe of version {FORMAT_VERSION} ({error}); expected the recipe.json of a publication"
        ) from error


def row_digests(data: FusionDataset) -> NDArray[np.uint8]:
    """The first 16 bytes of the SHA-256 of every row, its arrays one after the other.

    Returns:
        uint8 `[n, 16]`.
    """
    digests = np.empty((len(data), _DIGEST_BYTES), np.uint8)
    for start in range(0, len(data), _ROWS_AT_ONCE):
        batch = data.read(start, min(start + _ROWS_AT_ONCE, len(data)))
        arrays = (batch.target, batch.inputs, batch.masks, batch.index, batch.label)
        for row in range(len(batch.target)):
            sha = hashlib.sha256(b"".join(array[row].tobytes() for array in arrays if array is not None))
            digests[start + row] = np.frombuffer(sha.digest()[:_DIGEST_BYTES], np.uint8)
    return digests


def _unpacked(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(base64.b64decode(text, validate=True), np.uint8).reshape(-1, _DIGEST_BYTES)


def _counts(originals: dict[str, int]) -> str:
    return " and ".join(f"{count} {section}" for section, count in originals.items())
