"""Which triangle is seen where: a depth buffer over a regular grid of samples.

Letters: `v` vertices, `t` triangles.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.rendering.compiled import compiled

NOTHING = -1
"""Stands for the background among the indices of triangles."""


@dataclass(frozen=True, eq=False)
class Visibility:
    """What is seen at each sample of a window.

    Arguments:
        triangle: int32 `[rows, columns]`, index of the nearest triangle, or `NOTHING`.
        nearness: float32 `[rows, columns]`, that triangle's interpolated nearness; −inf where there is nothing.
        origin: Row and column of the window's first sample in the whole grid.
    """

    triangle: NDArray[np.int32]
    nearness: NDArray[np.float32]
    origin: tuple[int, int]


def rasterize(
    points: NDArray[np.float64],
    triangles: NDArray[np.int32],
    shape: tuple[int, int],
    *,
    align: int = 1,
    one_sided: bool = False,
) -> Visibility:
    """Find the nearest triangle at each sample.

    Arguments:
        points: float64 `[v, 3]`, each vertex's column, row (in samples, integers at their centres) and nearness.
            Nearness is interpolated affinely in the image, so it is 1/z in perspective and −z in parallel projection.
        triangles: int32 `[t, 3]`, indices of points.
        shape: Rows and columns of the whole grid.
        align: The window starts and ends at multiples of this.
        one_sided: Skip triangles that turn their back; right for solids alone.

    Returns:
        The window of the grid that the triangles may touch.
    """
    low = np.floor(points[:, 1::-1].min(0)).astype(np.int64)
    high = np.ceil(points[:, 1::-1].max(0)).astype(np.int64) + 1
    first = np.clip(low // align * align, 0, shape)
    last = np.clip(-(-high // align) * align, first, shape)
    size = tuple(last - first)
    triangle, nearness = np.full(size, NOTHING, np.int32), np.full(size, -np.inf, np.float32)
    _scan(points, triangles, int(first[0]), int(first[1]), one_sided, triangle, nearness)
    return Visibility(triangle, nearness, (int(first[0]), int(first[1])))


@compiled
def _scan(
    points: NDArray[np.float64],
    triangles: NDArray[np.int32],
    first_row: int,
    first_column: int,
    one_sided: bool,
    triangle: NDArray[np.int32],
    nearness: NDArray[np.float32],
) -> None:
    rows, columns = triangle.shape
    for t in range(len(triangles)):
        i0, i1, i2 = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        x0, y0, q0 = points[i0, 0] - first_column, points[i0, 1] - first_row, points[i0, 2]
        x1, y1, q1 = points[i1, 0] - first_column, points[i1, 1] - first_row, points[i1, 2]
        x2, y2, q2 = points[i2, 0] - first_column, points[i2, 1] - first_row, points[i2, 2]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)  # negative: seen from outside, for y points down
        if area == 0 or (one_sided and area > 0):
            continue
        left, right = max(0, int(np.ceil(min(x0, x1, x2)))), min(columns - 1, int(np.floor(max(x0, x1, x2))))
        top, bottom = max(0, int(np.ceil(min(y0, y1, y2)))), min(rows - 1, int(np.floor(max(y0, y1, y2))))
        # Barycentric weights a, b, c and the nearness q are affine in (column, row).
        a_x, a_y = (y1 - y2) / area, (x2 - x1) / area
        b_x, b_y = (y2 - y0) / area, (x0 - x2) / area
        for row in range(top, bottom + 1):
            a = a_x * (left - x2) + a_y * (row - y2)
            b = b_x * (left - x2) + b_y * (row - y2)
            for column in range(left, right + 1):
                c = 1 - a - b
                if a >= 0 and b >= 0 and c >= 0:
                    q = np.float32(a * q0 + b * q1 + c * q2)
                    if q > nearness[row, column]:
                        nearness[row, column] = q
                        triangle[row, column] = t
                a += a_x
                b += b_x
