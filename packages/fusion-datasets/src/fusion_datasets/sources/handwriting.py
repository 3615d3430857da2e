"""Handwriting without the hand: digits rendered from jittered strokes in MNIST's own geometry.

A digit starts as a skeleton of control points in the unit square. The points are jittered, the strokes drawn
through them bent, sheared, turned and stretched; a pen of varying pressure follows. As in MNIST, the result fills
20×20 pixels along its longer side and is centred by mass in 28×28.

Letters: `n` digits, `p` control points, `m` samples along the strokes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.sources import CleanImages
from fusion_datasets.sources.mnist import SIDE_PX
from fusion_datasets.spec import SPLITS, Split

RENDERER: Final = 1
"""Counts up whenever the same seed comes to mean other images."""

_BOX_PX: Final = 20
_BLOCK: Final = 64  # digits rendered at once: their distance maps stay in the processor's cache
_STEP: Final = 0.03  # between samples along a stroke, for a digit of height 1
_MAX_POINTS: Final = 12

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Skeleton:
    """One way of writing a digit.

    Arguments:
        digit: 0 … 9.
        weight: How often it is chosen, relative to the digit's other skeletons.
        points: Control points (x to the right, y down) in the unit square.
        strokes: Indices of the points that each stroke passes; an index given twice makes a corner.
    """

    digit: int
    weight: float
    points: Points
    strokes: tuple[tuple[int, ...], ...]

    def basis(self) -> NDArray[np.float64]:
        """Catmull-Rom weights `[m, p]`: what takes p control points to m samples along the strokes."""
        return _basis(self)


@cache
def _basis(skeleton: Skeleton) -> NDArray[np.float64]:
    unit, points = np.eye(len(skeleton.points)), np.array(skeleton.points)
    samples = []
    for stroke in skeleton.strokes:
        before, after = stroke[:1] + stroke[:-1], stroke[1:] + stroke[-1:]
        tangents = {i: (unit[after[i]] - unit[before[i]]) / 2 for i in range(len(stroke))}
        for i, (a, b) in enumerate(pairwise(stroke)):
            if a == b:
                continue
            steps = max(2, round(float(np.linalg.norm(points[b] - points[a])) / _STEP))
            t = np.linspace(0, 1, steps, endpoint=i + 2 == len(stroke))[:, None]
            samples.append(
                (1 + 2 * t) * (1 - t) ** 2 * unit[a]
                + t * (1 - t) ** 2 * tangents[i]
                + t**2 * (3 - 2 * t) * unit[b]
                - t**2 * (1 - t) * tangents[i + 1]
            )
    return np.concatenate(samples)


# fmt: off
SKELETONS: Final = (
    # digit, weight, control points, strokes
    Skeleton(0, 3, ((.56, .01), (.16, .26), (.12, .74), (.48, .99), (.86, .72), (.84, .24), (.46, .02)),
             ((0, 1, 2, 3, 4, 5, 6),)),
    Skeleton(0, 1, ((.66, .12), (.38, .03), (.1, .42), (.24, .88), (.62, .96), (.9, .5), (.72, .06),
             (.4, .14)), ((0, 1, 2, 3, 4, 5, 6, 7),)),
    Skeleton(1, 6, ((.5, 0), (.5, .5), (.5, 1)), ((0, 1, 2),)),
    Skeleton(1, 1, ((.3, .22), (.52, 0), (.51, .5), (.5, 1)), ((0, 1, 1, 2, 3),)),
    Skeleton(1, .5, ((.28, .22), (.52, 0), (.51, .5), (.5, 1), (.22, 1), (.78, 1)),
             ((0, 1, 1, 2, 3), (4, 5))),
    Skeleton(2, 2, ((.1, .22), (.38, .02), (.76, .12), (.78, .36), (.5, .68), (.12, .97), (.5, .95),
             (.95, .96)), ((0, 1, 2, 3, 4, 5, 5, 6, 7),)),
    Skeleton(2, 2, ((.12, .2), (.42, .02), (.76, .16), (.68, .45), (.42, .78), (.18, .96), (.06, .84),
             (.22, .73), (.55, .88), (.97, .92)), ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9),)),
    Skeleton(3, 3, ((.12, .14), (.42, .01), (.76, .14), (.7, .36), (.36, .47), (.72, .56), (.84, .78),
             (.5, .99), (.08, .86)), ((0, 1, 2, 3, 4, 4, 5, 6, 7, 8),)),
    Skeleton(3, 1, ((.12, .05), (.45, .03), (.8, .04), (.42, .4), (.78, .56), (.8, .82), (.45, .99),
             (.08, .88)), ((0, 1, 2, 2, 3, 3, 4, 5, 6, 7),)),
    Skeleton(4, 2, ((.18, .03), (.1, .52), (.5, .52), (.88, .47), (.76, .05), (.72, .5), (.68, 1)),
             ((0, 1, 1, 2, 3), (4, 5, 6))),
    Skeleton(4, 2, ((.15, .05), (.1, .36), (.32, .53), (.72, .42), (.82, .05), (.72, .5), (.66, 1)),
             ((0, 1, 2, 3), (4, 5, 6))),
    Skeleton(4, 1, ((.66, 0), (.38, .3), (.08, .62), (.5, .62), (.95, .6), (.64, .5), (.62, 1)),
             ((0, 1, 2, 2, 3, 4), (0, 5, 6))),
    Skeleton(5, 2, ((.88, .04), (.58, .05), (.28, .06), (.2, .42), (.5, .38), (.82, .58), (.74, .88),
             (.42, 1), (.08, .9)), ((0, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8),)),
    Skeleton(5, 1, ((.9, .06), (.5, .06), (.26, .24), (.38, .43), (.72, .58), (.72, .86), (.38, 1),
             (.08, .9)), ((0, 1, 2, 3, 4, 5, 6, 7),)),
    Skeleton(6, 2, ((.7, .02), (.36, .26), (.13, .64), (.28, .96), (.64, .95), (.78, .7), (.52, .53),
             (.2, .74)), ((0, 1, 2, 3, 4, 5, 6, 7),)),
    Skeleton(6, 1, ((.5, 0), (.24, .34), (.15, .74), (.4, .98), (.74, .86), (.7, .62), (.42, .6), (.2, .8)),
             ((0, 1, 2, 3, 4, 5, 6, 7),)),
    Skeleton(7, 4, ((.08, .1), (.48, .07), (.88, .06), (.62, .48), (.42, 1)), ((0, 1, 2, 2, 3, 4),)),
    Skeleton(7, 1, ((.08, .1), (.48, .07), (.88, .06), (.62, .48), (.42, 1), (.32, .54), (.8, .5)),
             ((0, 1, 2, 2, 3, 4), (5, 6))),
    Skeleton(7, 1, ((.08, .24), (.1, .06), (.48, .08), (.9, .06), (.66, .46), (.56, 1)),
             ((0, 1, 1, 2, 3, 3, 4, 5),)),
    Skeleton(8, 3, ((.76, .14), (.46, .01), (.18, .2), (.46, .46), (.82, .76), (.5, .99), (.16, .78),
             (.5, .5), (.82, .22), (.7, .08)), ((0, 1, 2, 3, 4, 5, 6, 7, 8, 9),)),
    Skeleton(8, 1, ((.52, .02), (.22, .2), (.5, .46), (.8, .22), (.12, .74), (.5, .99), (.88, .74)),
             ((0, 1, 2, 3, 0), (2, 4, 5, 6, 2))),
    Skeleton(9, 2, ((.8, .16), (.5, .02), (.14, .24), (.3, .5), (.66, .42), (.84, .12), (.78, .55),
             (.62, 1)), ((0, 1, 2, 3, 4, 5, 5, 6, 7),)),
    Skeleton(9, 2, ((.78, .2), (.5, .03), (.2, .2), (.28, .46), (.6, .44), (.74, .56), (.66, 1)),
             ((0, 1, 2, 3, 4, 0, 5, 6),)),
    Skeleton(9, 1, ((.8, .2), (.5, .02), (.16, .22), (.34, .48), (.68, .4), (.82, .16), (.8, .7),
             (.5, .99), (.16, .9)), ((0, 1, 2, 3, 4, 5, 5, 6, 7, 8),)),
)
# fmt: on


def render_digits(seed: int, split: Split, start: int, stop: int) -> CleanImages:
    """Render digits `start … stop − 1` of an endless row of them; each depends on (seed, split, index) alone.

    Arguments:
        seed: ≥ 0.
        split: Splits share no digit.
        start: First index.
        stop: Index after the last.

    Returns:
        uint8 `[n, 28, 28, 1]` and labels 0 … 9.
    """
    count = stop - start
    uniform, normal = np.empty((count, 8)), np.empty((count, 2 * _MAX_POINTS + 24))
    grain = np.empty((count, SIDE_PX, SIDE_PX), np.float32)
    for i in range(count):
        stream = np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), start + i, RENDERER))
        generator = np.random.default_rng(stream)
        uniform[i], normal[i] = generator.random(8), generator.standard_normal(normal.shape[1])
        grain[i] = generator.standard_normal((SIDE_PX, SIDE_PX), dtype=np.float32)
    labels = (10 * uniform[:, 0]).astype(np.int64)
    images = np.empty((count, SIDE_PX, SIDE_PX, 1), np.uint8)
    for skeleton, rows in _choose_skeletons(labels, uniform[:, 1]):
        for block in np.array_split(rows, max(1, -(-len(rows) // _BLOCK))):
            path, radius, softness = _write(skeleton, uniform[block], normal[block])
            images[block, ..., 0] = _ink(path, radius, softness, grain[block])
    return CleanImages(images, labels)


def _choose_skeletons(
    labels: NDArray[np.int64], choice: NDArray[np.float64]
) -> Iterator[tuple[Skeleton, NDArray[np.int64]]]:
    for digit in range(10):
        variants = [skeleton for skeleton in SKELETONS if skeleton.digit == digit]
        edges = np.cumsum([0.0] + [skeleton.weight for skeleton in variants])
        for skeleton, low, high in zip(variants, edges[:-1] / edges[-1], edges[1:] / edges[-1], strict=True):
            rows = np.flatnonzero((labels == digit) & (choice >= low) & (choice < high))
            if len(rows):
                yield skeleton, rows


def _write(
    skeleton: Skeleton, uniform: NDArray[np.float64], normal: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Move the pen: its path `[n, m, 2]` and radius `[n, m]`, and the softness `[n]` of its edge, in pixels."""
    control = np.array(skeleton.points)
    jitter, style = np.split(normal, [2 * _MAX_POINTS], axis=1)
    wildness = 0.02 + 0.05 * uniform[:, 2, None, None]
    points = control + wildness * jitter.reshape(-1, _MAX_POINTS, 2)[:, : len(control)]
    path = np.einsum("mp,npd->nmd", skeleton.basis(), points) - 0.5

    # A smooth elastic warp: two slow waves along each axis, displacing both coordinates.
    phase, amplitude = 2 * np.pi * uniform[:, None, 3:7], 0.03 * style[:, :8].reshape(-1, 2, 4)
    axes = np.concatenate([path, path[..., ::-1] * 0.7], axis=-1)
    path = path + np.einsum("nmw,ndw->nmd", np.sin(2 * np.pi * 0.8 * axes + phase), amplitude)

    width = (0.3 if skeleton.digit == 1 else 0.86) * np.exp(0.2 * style[:, 8])
    slant, angle = 0.2 + 0.25 * style[:, 9], 0.07 * style[:, 10]
    x, y = path[..., 0] * width[:, None], path[..., 1]
    x = x - slant[:, None] * y
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    path = np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)

    base = np.clip(1.2 * np.exp(0.26 * style[:, 11]), 0.75, 2.4)
    progress = np.linspace(0, 1, path.shape[1])
    pressure = 0.1 * style[:, 12, None] * np.sin(2 * np.pi * (progress * 1.5 + uniform[:, 7, None]))
    radius = base[:, None] * np.clip(1 + pressure - 0.1 * style[:, 13, None] * (progress - 0.5), 0.7, 1.35)

    # MNIST's geometry: the inked box fills 20 pixels along its longer side, whatever the pen.
    low, high = path.min(axis=1), path.max(axis=1)
    scale = (_BOX_PX - 0.8 - 2 * base) / np.maximum((high - low).max(axis=1), 1e-6)
    path = (path - (low + high)[:, None] / 2) * scale[:, None, None] + (SIDE_PX - 1) / 2
    return path, radius, np.clip(1.25 + 0.2 * style[:, 14], 0.9, 1.8)


def _ink(
    path: NDArray[np.float64],
    radius: NDArray[np.float64],
    softness: NDArray[np.float64],
    grain: NDArray[np.float32],
) -> NDArray[np.uint8]:
    """Draw a path with a round pen on grainy paper, `[n, 28, 28]`, and centre it by mass to the nearest pixel."""
    # float32 from here on, elementwise and free of sums: the levels are the same on every machine.
    pixels = np.arange(SIDE_PX, dtype=np.float32)
    reach = radius.astype(np.float32)[..., None]
    across, down = (((pixels - path[..., i, None].astype(np.float32)) / reach) ** 2 for i in (0, 1))
    nearest = np.full((len(path), SIDE_PX, SIDE_PX), np.float32(1e9))
    distance = np.empty_like(nearest)
    for m in range(path.shape[1]):
        np.add(down[:, m, :, None], across[:, m, None, :], out=distance)
        np.minimum(nearest, distance, out=nearest)
    width = radius.mean(axis=1).astype(np.float32)[:, None, None]
    edge = (1 - np.sqrt(nearest)) * width / softness.astype(np.float32)[:, None, None]
    edge += np.float32(0.07) * grain * (edge > -0.5)  # roughens the outline; inside and outside saturate
    levels = np.rint(255 * np.clip(edge + np.float32(0.55), 0, 1)).astype(np.uint8)

    mass = levels.sum(axis=(1, 2), dtype=np.float64)
    middle = (SIDE_PX - 1) / 2
    rows, columns = (
        np.rint(middle - (levels.sum(axis=axis, dtype=np.float64) @ np.arange(SIDE_PX)) / mass).astype(int)
        for axis in (2, 1)
    )
    room = (SIDE_PX - _BOX_PX) // 2
    rows, columns = np.clip(rows, -room, room), np.clip(columns, -room, room)
    framed = np.pad(levels, ((0, 0), (room, room), (room, room)))
    grid = np.arange(SIDE_PX) + room
    n = np.arange(len(path))[:, None, None]
    shifted: NDArray[np.uint8] = framed[n, (grid - rows[:, None])[:, :, None], (grid - columns[:, None])[:, None, :]]
    return shifted
