"""Triangle meshes: surfaces of objects, in millimetres.

Letters: `v` vertices, `t` triangles.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.rendering.compiled import compiled

CREASE_DEGREES: Final = 35.0
"""Faces that meet at a flatter angle than this belong to one rounded surface; at a sharper one, to an edge."""

_LARGEST_FAN: Final = 128  # triangles around a vertex beyond which each keeps its own normal: bounds the work


@dataclass(frozen=True, eq=False)
class Mesh:
    """A surface of triangles.

    Arguments:
        vertices: float64 `[v, 3]`, millimetres in the object's own frame.
        triangles: int32 `[t, 3]`, indices of vertices, counter-clockwise seen from outside.

    Raises:
        FusionDatasetsError: If an array has another shape or type, there is no triangle, an index has no vertex, or a
            coordinate is not finite.
    """

    vertices: NDArray[np.float64]
    triangles: NDArray[np.int32]

    def __post_init__(self) -> None:
        _check("vertices", self.vertices, "fiu", "real numbers [v, 3]")
        _check("triangles", self.triangles, "iu", "whole numbers [t, 3]; cut polygons into triangles")
        if not len(self.triangles):
            raise FusionDatasetsError("got a mesh without triangles; expected at least one")
        low, high = int(self.triangles.min()), int(self.triangles.max())
        if low < 0 or high >= len(self.vertices):
            raise FusionDatasetsError(
                f"got a triangle with vertex {low if low < 0 else high}; expected 0 … {len(self.vertices) - 1}"
            )
        if not np.isfinite(self.vertices).all():
            raise FusionDatasetsError("got a mesh with infinite or undefined coordinates; expected millimetres")

    @cached_property
    def radius(self) -> float:
        """Distance of the farthest vertex from the origin, in millimetres."""
        return float(np.linalg.norm(self.vertices, axis=1).max())

    @cached_property
    def is_solid(self) -> bool:
        """Whether the surface is closed and its outside well-defined, so that faces turned away are never seen."""
        forward = np.concatenate([self.triangles[:, [i, (i + 1) % 3]] for i in range(3)]).astype(np.int64)
        keys, reverse = (np.sort(edge[:, 0] * len(self.vertices) + edge[:, 1]) for edge in (forward, forward[:, ::-1]))
        a, b, c = (self.vertices[self.triangles[:, i]] for i in range(3))
        volume = np.einsum("ij,ij->", a, np.cross(b, c)) / 6
        return bool(np.array_equal(keys, reverse) and volume > 0)

    @cached_property
    def corner_normals(self) -> NDArray[np.float32]:
        """Unit normals `[t, 3, 3]` at each corner of each triangle: smooth on rounded surfaces, sharp at creases."""
        a, b, c = (self.vertices[self.triangles[:, i]] for i in range(3))
        weighted = np.cross(b - a, c - a)  # as long as twice the area
        length = np.linalg.norm(weighted, axis=1, keepdims=True)
        unit = weighted / np.maximum(length, 1e-300)
        corners = np.argsort(self.triangles.ravel(), kind="stable")
        starts = np.searchsorted(self.triangles.ravel()[corners], np.arange(len(self.vertices) + 1))
        normals = np.empty((len(self.triangles), 3, 3), np.float32)
        _smooth(weighted, unit, corners, starts, float(np.cos(np.radians(CREASE_DEGREES))), normals)
        return normals


def merged(parts: Sequence[Mesh]) -> Mesh:
    """Put meshes together into one; where solids overlap, what lies inside another is never seen."""
    offsets = np.cumsum([0, *(len(part.vertices) for part in parts)])
    return Mesh(
        np.concatenate([part.vertices for part in parts]),
        np.concatenate([part.triangles + offset for part, offset in zip(parts, offsets, strict=False)]).astype("i4"),
    )


@compiled
def _smooth(
    weighted: NDArray[np.float64],
    unit: NDArray[np.float64],
    corners: NDArray[np.int64],
    starts: NDArray[np.int64],
    flattest: float,
    normals: NDArray[np.float32],
) -> None:
    for vertex in range(len(starts) - 1):
        around = corners[starts[vertex] : starts[vertex + 1]]
        for corner in around:
            face = corner // 3
            x, y, z = weighted[face, 0], weighted[face, 1], weighted[face, 2]
            if len(around) <= _LARGEST_FAN:
                for other in around // 3:
                    near = (
                        unit[face, 0] * unit[other, 0] + unit[face, 1] * unit[other, 1] + unit[face, 2] * unit[other, 2]
                    )
                    if other != face and near > flattest:
                        x += weighted[other, 0]
                        y += weighted[other, 1]
                        z += weighted[other, 2]
            length = max(np.sqrt(x * x + y * y + z * z), 1e-300)
            normals[face, corner % 3, 0] = x / length
            normals[face, corner % 3, 1] = y / length
            normals[face, corner % 3, 2] = z / length


def _check(name: str, array: Any, kinds: str, expected: str) -> None:
    """Check what code that is compiled without bounds would not."""
    if not isinstance(array, np.ndarray):
        raise FusionDatasetsError(f"got {name} as a {type(array).__name__}; expected an array of {expected}")
    if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in kinds:
        raise FusionDatasetsError(f"got {name} as {array.dtype} {list(array.shape)}; expected {expected}")
