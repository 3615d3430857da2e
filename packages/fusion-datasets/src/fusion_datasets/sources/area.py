"""Area averaging of many images of one size: each level is the one nearest to the exact mean.

A pixel of the result is the mean of the rectangle behind it, whose edges cut pixels of the image in ratios of whole
numbers. So are the weights here, and every sum stays below 2²⁴: float32 holds it exactly, in whatever order a matrix
product adds. Letters: `n` images, `h`, `w`, `c` height, width and channels.
"""

from collections.abc import Iterable
from functools import cache
from itertools import islice
from math import gcd
from typing import Final

import numpy as np
from numpy.typing import NDArray

_AT_ONCE: Final = 4  # images whose sums stay in a core's cache
_BAND: Final = 4  # lines of the result in one product: more would multiply by more zeros, and wake BLAS's threads
_EXACT: Final = 1 << 24
_WHITE_LEVEL: Final = 255


def area_means(
    images: Iterable[NDArray[np.uint8]], most: int, shape: tuple[int, int, int], height: int, width: int
) -> NDArray[np.uint8]:
    """Scale images down, a few at a time; each is done with before the next one is asked for.

    Arguments:
        images: uint8 `[h, w, c]`, n of them.
        most: A bound on n.
        shape: h, w and c. The sums stay below 2²⁴ where `255·(h/gcd(h, height))·(w/gcd(w, width))` does.
        height: Rows of the result, at most h.
        width: Columns of the result, at most w.

    Returns:
        uint8 `[n, height, width, c]`.
    """
    h, w, c = shape
    total = (h // gcd(h, height)) * (w // gcd(w, width))
    assert height <= h
    assert width <= w
    assert total * _WHITE_LEVEL < _EXACT
    # Row by row of all images, so that one product sums a row of each. The weights recur after a period.
    levels = np.zeros((h, _AT_ONCE, w, c), np.float32)
    low = np.empty((height, _AT_ONCE, w, c), np.float32)
    sums = np.empty((height, _AT_ONCE, width, c), np.float32)
    down, across = gcd(h, height), gcd(w, width)
    tall, short = levels.reshape(down, h // down, -1), low.reshape(down, height // down, -1)
    wide, narrow = (lines.reshape(height * _AT_ONCE, across, -1).swapaxes(0, 1) for lines in (low, sums))
    means, done = np.empty((most, height, width, c), np.uint8), 0
    remaining = iter(images)
    while count := _fill(levels, islice(remaining, _AT_ONCE)):
        for source, into, weights in _bands(h // down, height // down, 1):
            np.matmul(weights, tall[:, source], out=short[:, into])
        for source, into, weights in _bands(w // across, width // across, c):
            np.matmul(wide[..., source], weights.T, out=narrow[..., into])
        np.rint(np.divide(sums, np.float32(total), out=sums), out=sums)
        means[done : done + count] = sums[:, :count].swapaxes(0, 1)
        done += count
    return means[:done]


def _fill(levels: NDArray[np.float32], images: Iterable[NDArray[np.uint8]]) -> int:
    """Put images beside each other, each while it is still in a core's cache, and say how many they were."""
    count = 0
    for image in images:
        levels[:, count] = image
        count += 1
    return count


@cache
def _bands(length: int, count: int, channels: int) -> list[tuple[slice, slice, NDArray[np.float32]]]:
    """Which numbers of a line make some neighbouring ones of the result, and the weights from ones to others.

    A line has `length` pixels of so many interleaved channels; that of the result has `count`.
    """
    starts, ends = np.arange(count) * length, np.arange(length) * count  # in units that both lengths are whole in
    overlap = np.minimum.outer(starts + length, ends + count) - np.maximum.outer(starts, ends)
    weights = (np.maximum(overlap, 0) // gcd(length, count)).astype(np.float32)
    bands = []
    for first in range(0, count, _BAND):
        band = weights[first : first + _BAND]
        used = np.flatnonzero(band.any(axis=0))
        start, stop = int(used[0]), int(used[-1]) + 1
        source = slice(start * channels, stop * channels)
        into = slice(first * channels, (first + len(band)) * channels)
        bands.append((source, into, np.kron(band[:, start:stop], np.eye(channels, dtype=np.float32))))
    return bands
