"""Each image's scores as CSV: written on request beside a result, read back to compare two models image by image."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fusionvae_bench.atomic import write_atomically
from fusionvae_bench.errors import ResultError
from fusionvae_bench.results import AVERAGE, PAPER_NUM_INPUTS, Result
from fusionvae_bench.tiles import SCORE, Scores, tiles

if TYPE_CHECKING:
    from fusion_datasets import FusionDataset


_RESULT = "result"
"""Column that says of which result a line is: the beginning of its fingerprint."""


@dataclass(frozen=True)
class PerImage:
    """The scores of each image.

    Attributes:
        images: [n] row in the data set and position in the source of each.
        num_inputs: numbers of inputs, ascending.
        scores: [n, numbers of inputs]; NaN where there is none.
    """

    images: tuple[tuple[int, int], ...]
    num_inputs: tuple[int, ...]
    scores: Scores

    @property
    def rows(self) -> list[int]:
        """Row in the data set of each image."""
        return [row for row, _ in self.images]

    def by_num_inputs(self, metric: str) -> dict[str, NDArray[np.float64]]:
        """Return what is known of a metric, [n] each: by number of inputs, and "avg" where 0–3 are."""
        columns: dict[str, NDArray[np.float64]] = {
            str(k): self.scores[metric][:, column] for column, k in enumerate(self.num_inputs)
        }
        known = {k: values for k, values in columns.items() if not np.isnan(values).any()}
        paper = [known[str(k)] for k in PAPER_NUM_INPUTS if str(k) in known]
        if len(paper) == len(PAPER_NUM_INPUTS):
            known[AVERAGE] = np.mean(paper, 0)
        return known


def shared_images(first: PerImage, second: PerImage) -> tuple[PerImage, PerImage]:
    """Return the scores of the images that both hold, in the order of the first."""
    places = {image: place for place, image in enumerate(second.images)}
    shared = [(place, places[image]) for place, image in enumerate(first.images) if image in places]
    of_first, of_second = ([pair[side] for pair in shared] for side in (0, 1))
    images = tuple(first.images[place] for place in of_first)
    return (
        PerImage(images, first.num_inputs, first.scores[of_first]),
        PerImage(images, second.num_inputs, second.scores[of_second]),
    )


def per_image_path(result_path: Path) -> Path:
    """Return where the scores of each image lie beside a result file."""
    return result_path.with_name(f"{result_path.stem}.per-image.csv")


def write_per_image(result: Result, data: FusionDataset, path: Path | str) -> None:
    """Write the scores of each image and number of inputs as CSV; what could not be had stays empty.

    Args:
        result: fresh from `evaluate`.
        data: the split that was scored, for the positions and labels of its images in the source.
        path: of the CSV file.
    """
    assert result.per_image is not None
    assert SCORE.names is not None
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["row", "index", "label", "num_inputs", _RESULT, *SCORE.names])
    images = iter(result.per_image)
    for tile in tiles(result.num_images, len(data), evenly_spaced=result.evenly_spaced):
        rows = data.read(tile.start, tile.start + tile.kept)
        for offset, image in zip(range(tile.kept), images, strict=False):
            label = "" if rows.label is None else rows.label[offset]
            for k, score in zip(result.num_inputs, image, strict=True):
                values = ["" if math.isnan(value) else repr(float(value)) for value in score]
                table.writerow([tile.start + offset, rows.index[offset], label, k, _mark_of(result), *values])
    write_atomically(Path(path), text.getvalue().encode())


def read_per_image(result_path: Path, result: Result) -> PerImage:
    """Read the scores of each image beside a result file.

    Args:
        result_path: the result file.
        result: what it holds; the scores of all its images must have its means.

    Raises:
        ResultError: if there are none, they are another result's, or the file is damaged.
    """
    path = per_image_path(result_path)
    if not path.is_file():
        path = path if not (plain := result_path.with_name("per-image.csv")).is_file() else plain
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        counts = tuple(dict.fromkeys(int(row["num_inputs"]) for row in rows))
        scores = np.full((len(rows) // max(1, len(counts)), len(counts)), np.nan, SCORE)
        if len(rows) != scores.size or not rows:
            raise ValueError(f"{len(rows)} lines for {len(counts)} numbers of inputs")
        images = tuple((int(row["row"]), int(row["index"])) for row in rows[:: len(counts)])
        for position, row in enumerate(rows):
            image, column = divmod(position, len(counts))
            if (int(row["row"]), int(row["index"]), int(row["num_inputs"])) != (*images[image], counts[column]):
                raise ValueError(f"line {position + 2} is not where its image's number of inputs belongs")
            if len(row.get(_RESULT) or _mark_of(result)) != len(_mark_of(result)):
                raise ValueError(f"line {position + 2} ends early")
            for name in SCORE.names or ():
                if row.get(name):
                    scores.flat[position][name] = _finite(row[name])
        if len(set(images)) < len(images):
            raise ValueError("an image stands in it twice")
    except FileNotFoundError as error:
        raise ResultError(
            f"{result_path} has no scores of each image beside it ({path.name}); score it again with --per-image "
            "--force"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ResultError(f"{path} is damaged ({error}); score it again with --per-image --force") from error
    marks = {row.get(_RESULT) or _mark_of(result) for row in rows}  # files of earlier versions have none
    if marks != {_mark_of(result)} or not _has_means_of(result, counts, scores):
        raise ResultError(
            f"{path} holds the scores of another result than {result_path.name}; score it again with --per-image "
            "--force"
        )
    return PerImage(images, counts, scores)


def _mark_of(result: Result) -> str:
    return result.fingerprint[:12]


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a score is {text}")
    return value


def _has_means_of(result: Result, counts: tuple[int, ...], scores: Scores) -> bool:
    """Tell whether scores can be those of a result: of some of its images, or of all with its means."""
    if len(scores) != result.num_images:
        return len(scores) < result.num_images and set(counts) <= set(result.num_inputs)
    return counts == result.num_inputs and all(
        math.isclose(float(scores[metric][:, column].mean()), mean, rel_tol=1e-6)
        for column, k in enumerate(counts)
        for metric in ("nll_nats", "mse_min")
        if (mean := getattr(result.scores[str(k)], metric)) is not None
    )
