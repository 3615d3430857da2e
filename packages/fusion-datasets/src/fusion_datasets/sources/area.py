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
_BAND: Final = 8  # lines of the result in one product: more would multiply by more zeros, and wake BLAS's threads
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
    rows, columns = list(_bands(h, height)), list(_bands(w, width))
    levels = np.zeros((_AT_ONCE, h, w * c), np.float32)
    turned = np.empty((_AT_ONCE, w * c, height), np.float32)  # so that columns are summed as fast as rows
    sums = np.empty((_AT_ONCE, width, c * height), np.float32)
    means: list[NDArray[np.uint8]] = []
    remaining = iter(images)
    while some := list(islice(remaining, _AT_ONCE)):
        for place, image in zip(levels.reshape(-1, *shape), some, strict=False):
            place[...] = image
        for source, into, weights in rows:
            np.matmul(levels.swapaxes(1, 2)[..., source], weights.T, out=turned[..., into])
        for source, into, weights in columns:
            np.matmul(weights, turned.reshape(_AT_ONCE, w, -1)[:, source], out=sums[:, into])
        np.rint(np.divide(sums, np.float32(total), out=sums), out=sums)
        nearest = sums.astype(np.uint8).reshape(-1, width, c, height)
        means.append(nearest.transpose(0, 3, 1, 2)[: len(some)])
    return np.concatenate(means) if means else np.empty((0, height, width, c), np.uint8)


def _bands(length: int, count: int) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
    """Which lines of an image make some neighbouring ones of the result, and the weights from ones to others."""
    starts, ends = np.arange(count) * length, np.arange(length) * count  # in units that both lengths are whole in
    overlap = np.minimum.outer(starts + length, ends + count) - np.maximum.outer(starts, ends)
    weights = (np.maximum(overlap, 0) // gcd(length, count)).astype(np.float32)
    for first in range(0, count, _BAND):
        band = weights[first : first + _BAND]
        used = np.flatnonzero(band.any(axis=0))
        source = slice(int(used[0]), int(used[-1]) + 1)
        yield source, slice(first, first + len(band)), band[:, source].copy()
