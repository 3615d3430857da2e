"""Area averaging of many images of one size: each level is the one nearest to the exact mean.

A pixel of the result is the mean of the rectangle behind it, whose edges cut pixels of the image in ratios of whole
numbers. So are the weights here, and every sum stays below 2²⁴: float32 holds it exactly, in whatever order a matrix
product adds. Letters: `n` images, `h`, `w`, `c` height, width and channels.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from math import gcd
from typing import Final

import numpy as np
from numpy.typing import NDArray

_AT_ONCE: Final = 6  # images whose sums stay in a core's cache
_ROWS, _COLUMNS = 8, 4  # of the result in one product: more would multiply by more zeros, and wake BLAS's threads
_EXACT: Final = 1 << 24
_WHITE_LEVEL: Final = 255


def area_means(
    images: Iterable[NDArray[np.uint8]], shape: tuple[int, int, int], height: int, width: int
) -> NDArray[np.uint8]:
    """Scale images down, a few at a time.

    Arguments:
        images: Any number of them, uint8 `[h, w, c]`.
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
    rows, columns = list(_bands(h, height, 1, _ROWS)), list(_bands(w, width, c, _COLUMNS))
    levels = np.zeros((_AT_ONCE, *shape), np.float32)
    tall = np.empty((_AT_ONCE, height, w * c), np.float32)
    sums = np.empty((_AT_ONCE * height, width * c), np.float32)
    lines = tall.reshape(-1, w * c)
    means: list[NDArray[np.uint8]] = []
    remaining = iter(images)
    while some := list(islice(remaining, _AT_ONCE)):
        for place, image in zip(levels, some, strict=False):
            place[...] = image
        for source, into, weights in rows:
            np.matmul(weights, levels.reshape(_AT_ONCE, h, -1)[:, source], out=tall[:, into])
        for source, into, weights in columns:
            np.matmul(lines[:, source], weights.T, out=sums[:, into])
        np.rint(np.divide(sums, np.float32(total), out=sums), out=sums)
        means.append(sums.astype(np.uint8).reshape(-1, height, width, c)[: len(some)])
    return np.concatenate(means) if means else np.empty((0, height, width, c), np.uint8)


def _bands(length: int, count: int, channels: int, band: int) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
    """Which levels of a line make some neighbouring ones of the result, and the weights from the ones to the others."""
    starts, ends = np.arange(count) * length, np.arange(length) * count  # in units that both lengths are whole in
    overlap = np.minimum.outer(starts + length, ends + count) - np.maximum.outer(starts, ends)
    weights = np.maximum(overlap, 0) // gcd(length, count)
    for first in range(0, count, band):
        some = weights[first : first + band]
        used = np.flatnonzero(some.any(axis=0)).tolist()
        source = slice(channels * used[0], channels * (used[-1] + 1))
        part = np.kron(some[:, used[0] : used[-1] + 1], np.eye(channels)).astype(np.float32)
        yield source, slice(channels * first, channels * first + len(part)), part
