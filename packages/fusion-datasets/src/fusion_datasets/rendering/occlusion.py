"""How much of the surroundings each point of an object sees: light that is soft in the creases and dark in holes."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.rendering.compiled import compiled
from fusion_datasets.rendering.mesh import Mesh
from fusion_datasets.rendering.rasterizer import rasterize

_NUM_DIRECTIONS: Final = 96
_SIDE: Final = 320  # samples across the object in each direction's depth map


def openness(mesh: Mesh) -> NDArray[np.float32]:
    """Measure the cosine-weighted share of the hemisphere above each corner that the object itself leaves open.

    Depth maps from directions spread evenly over the sphere say what is in the way.

    Arguments:
        mesh: Any surface; a solid gives the truest values.

    Returns:
        float32 `[t, 3]`, 0 (enclosed) … 1 (a convex surface), for each corner of each triangle.
    """
    texel = 2 * mesh.radius / (_SIDE - 3)
    middle = np.array([(_SIDE - 1) / 2, (_SIDE - 1) / 2, 0])
    corners = mesh.vertices[mesh.triangles]
    inward = corners.mean(1, keepdims=True) - corners
    inward *= np.minimum(0.5, 1.5 * texel / np.maximum(np.linalg.norm(inward, axis=2, keepdims=True), 1e-300))
    points = corners + inward + 1.5 * texel * mesh.corner_normals  # clear of the surface and of walls beside it
    seen, all_round = np.zeros((2, *points.shape[:2]))
    for direction in _spread(_NUM_DIRECTIONS):
        axes = _frame(direction) / texel
        surface = rasterize(mesh.vertices @ axes.T + middle, mesh.triangles, (_SIDE, _SIDE), one_sided=mesh.is_solid)
        _observe(points, mesh.corner_normals, axes, direction, surface.nearness, surface.origin, seen, all_round)
    shares = (seen / np.maximum(all_round, 1e-9)).ravel()
    # What one point of a smooth surface sees does not depend on the triangle that it is asked for.
    keys = np.column_stack([mesh.triangles.ravel(), np.rint(8 * mesh.corner_normals.reshape(-1, 3))])
    _, group = np.unique(keys, axis=0, return_inverse=True)
    mean = np.bincount(group, shares) / np.bincount(group)
    return mean[group].reshape(mesh.triangles.shape).astype(np.float32)


@compiled
def _observe(
    points: NDArray[np.float64],
    normals: NDArray[np.float32],
    axes: NDArray[np.float64],
    direction: NDArray[np.float64],
    height: NDArray[np.float32],
    origin: tuple[int, int],
    seen: NDArray[np.float64],
    all_round: NDArray[np.float64],
) -> None:
    """Add one direction to what each corner sees, and to what it would see of an open hemisphere."""
    rows, columns = height.shape
    for t in range(len(points)):
        for i in range(3):
            cosine = 0.0
            for c in range(3):
                cosine += normals[t, i, c] * direction[c]
            if cosine <= 0:
                continue
            x, y, z = points[t, i, 0], points[t, i, 1], points[t, i, 2]
            column = int(np.rint(axes[0, 0] * x + axes[0, 1] * y + axes[0, 2] * z + (_SIDE - 1) / 2)) - origin[1]
            row = int(np.rint(axes[1, 0] * x + axes[1, 1] * y + axes[1, 2] * z + (_SIDE - 1) / 2)) - origin[0]
            level = axes[2, 0] * x + axes[2, 1] * y + axes[2, 2] * z
            inside = 0 <= row < rows and 0 <= column < columns
            all_round[t, i] += cosine
            if not inside or level + 0.5 > height[row, column]:
                seen[t, i] += cosine


def _frame(direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Right, down and towards the viewer, for somebody who looks against the direction."""
    side = np.cross(direction, np.eye(3)[np.abs(direction).argmin()])
    side /= np.linalg.norm(side)
    return np.stack([side, -np.cross(direction, side), direction])


def _spread(count: int) -> NDArray[np.float64]:
    """Directions `[count, 3]`, spread over the sphere by a Fibonacci spiral."""
    i = np.arange(count) + 0.5
    z, phi = 1 - 2 * i / count, np.pi * (1 + 5**0.5) * i
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(phi), radius * np.sin(phi), z], axis=1)
