"""Each image's scores as CSV: written on request beside a result, read back to compare two models image by image."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fusionvae_bench.atomic import write_atomically
from fusionvae_bench.errors import ResultError
from fusionvae_bench.results import Result
from fusionvae_bench.tiles import SCORE, Scores

if TYPE_CHECKING:
    from fusion_datasets import FusionBatch


@dataclass(frozen=True)
class PerImage:
    """The scores of each image.

    Attributes:
        index: [n] positions in the source.
        num_inputs: numbers of inputs, ascending.
        scores: [n, numbers of inputs]; NaN where there is none.
    """

    index: tuple[int, ...]
    num_inputs: tuple[int, ...]
    scores: Scores


def per_image_path(result_path: Path) -> Path:
    """Return where the scores of each image lie beside a result file."""
    return result_path.with_name(f"{result_path.stem}.per-image.csv")


def write_per_image(result: Result, rows: FusionBatch, path: Path | str) -> None:
    """Write the scores of each image and number of inputs as CSV; what could not be had stays empty.

    Args:
        result: fresh from `evaluate`.
        rows: the images scored, for their positions and labels in the source.
        path: of the CSV file.
    """
    assert result.per_image is not None
    assert SCORE.names is not None
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["row", "index", "label", "num_inputs", *SCORE.names])
    for row, image in enumerate(result.per_image):
        label = "" if rows.label is None else rows.label[row]
        for k, score in zip(result.num_inputs, image, strict=True):
            values = ["" if math.isnan(value) else repr(float(value)) for value in score]
            table.writerow([row, rows.index[row], label, k, *values])
    write_atomically(Path(path), text.getvalue().encode())


def read_per_image(result_path: Path) -> PerImage:
    """Read the scores of each image beside a result file.

    Raises:
        ResultError: if there are none, or the file is damaged.
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
        for position, row in enumerate(rows):
            for name in SCORE.names or ():
                if row.get(name):
                    scores.flat[position][name] = float(row[name])
        index = tuple(int(row["index"]) for row in rows[:: len(counts)])
    except FileNotFoundError as error:
        raise ResultError(
            f"{result_path} has no scores of each image beside it ({path.name}); score it again with --per-image"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{path} is damaged ({error}); score it again with --per-image") from error
    return PerImage(index, counts, scores)
