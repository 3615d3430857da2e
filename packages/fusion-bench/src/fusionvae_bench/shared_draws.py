"""How far a mean over images may be off where groups of them share their draws.

Without inputs the prior knows nothing of the image, so all images of a tile are compared with one pool of S draws: a
lucky pool makes MSE_min smaller for all of them. Cluster sampling (Cochran 1977, ch. 9A) tells by how much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusionvae_bench.metrics import mean_and_standard_error
from fusionvae_bench.results import AVERAGE, PAPER_NUM_INPUTS
from fusionvae_bench.tiles import TILE_ROWS

FEWEST_TILES = 10
"""Groups of images that share draws, from which on their own spread tells how far their mean may be off."""


@dataclass(frozen=True)
class Gain:
    """What a change brings, image by image.

    Attributes:
        mean: average decrease; positive is better.
        standard_error: of ``mean``, from the paired differences; NaN for a single image.
        share_improved: share of the images that decrease, in [0, 1].
    """

    mean: float
    standard_error: float
    share_improved: float


def with_shared_draws(metric: str, by_num_inputs: Mapping[str, NDArray[np.float64]]) -> dict[str, NDArray[np.float64]]:
    """Return which part of some values comes from draws that a tile shares, [n] each; nothing where none does.

    Args:
        metric: key of `comparison.METRICS`.
        by_num_inputs: number of inputs, or "avg" → values [n].
    """
    if metric != "mse_min" or "0" not in by_num_inputs:
        return {}
    alone = by_num_inputs["0"]
    return {"0": alone, AVERAGE: alone / len(PAPER_NUM_INPUTS)}


def spread_of_mean(
    values: NDArray[np.float64], rows: Sequence[int], shared: NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """Return the variance of the mean of [n] values, and the degrees of freedom of its estimate (Welch, Satterthwaite).

    Where tiles are fewer than ten, or their spread is no larger than chance would have it, images count as independent.

    Args:
        values: one per image.
        rows: of the images in the data set.
        shared: the part of each value that comes from draws which a tile shares; None where there is none.
    """
    count = len(values)
    alone = mean_and_standard_error(values)[1] ** 2
    tiles, tile = np.unique(np.asarray(rows) // TILE_ROWS, return_inverse=True)
    if shared is None or not FEWEST_TILES <= len(tiles) < count:
        return alone, count - 1
    sums = np.bincount(tile, shared - shared.mean())
    freedom = len(tiles) - 1
    together = float(np.square(sums).sum()) * len(tiles) / freedom / count**2
    apart = mean_and_standard_error(shared)[1] ** 2
    if together <= apart:
        return alone, count - 1
    variance = alone + together - apart
    return variance, variance**2 / (together**2 / freedom + (alone**2 + apart**2) / (count - 1))


def standard_error(
    values: NDArray[np.float64], rows: Sequence[int], shared: NDArray[np.float64] | None = None
) -> float:
    """Return the standard error of the mean of [n] values, whose arguments :func:`spread_of_mean` explains."""
    return float(np.sqrt(spread_of_mean(values, rows, shared)[0]))


def paired_gain(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    rows: Sequence[int] = (),
    shared: NDArray[np.float64] | None = None,
) -> Gain:
    """Compare two losses of the same images, [b] each; ``rows`` and ``shared`` as :func:`spread_of_mean` takes them."""
    difference = before - after
    return Gain(
        mean=float(difference.mean()),
        standard_error=standard_error(difference, rows, shared),
        share_improved=float((difference > 0).mean()),
    )
