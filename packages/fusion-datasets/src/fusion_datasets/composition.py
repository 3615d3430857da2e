"""Targets put into place and objects laid over them: parameters are drawn, then rendered (Sec. 5.1).

Letters: `e` occluders of an input, `h`, `w`, `c` height, width and channels of an image, `m` occluders of a pool,
`p` side of an occluder.

Colours are premultiplied by alpha, on the scale of 8-bit levels, so that interpolating never mixes in what is
transparent. Interpolation is bilinear in float32, here with NumPy and in `fusion_datasets.torch` on any device; on the
same parameters the two differ by one level at most: hardly ever in colour, and on a sixth of the pixels in grey, which
NumPy takes after composing and torch before.
"""

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.spec import BenchmarkSpec, ObjectLaw

SUPERSAMPLING: Final = 2
"""Points per pixel, along each axis, at which a target is interpolated: it is stored at twice the size of an image."""

GREY_WEIGHTS: Final = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the grey of a pixel (ITU-R BT.601)."""


class Placement(NamedTuple):
    """Where sources lie in an image, as arrays of NumPy or of torch.

    Arguments:
        centre: Row and column, in pixels of the image, where the source's centre lies, float32 `[..., 2]`.
        matrix: From an offset in the image, (row, column) from `centre`, to one in the source, float32 `[..., 2, 2]`.
    """

    centre: Any
    matrix: Any


class OccluderLayout(NamedTuple):
    """What lies over the target in one input, lowest first.

    Arguments:
        choice: Positions in the pool, int64 `[e]`.
        placement: Where each lies; the source is the halved crop.
    """

    choice: NDArray[np.int64]
    placement: Placement


def draw_target_placement(spec: BenchmarkSpec, generator: np.random.Generator) -> Placement:
    """Draw where a row's target lies: flipped or not, turned unless the law keeps it upright, resized and moved.

    Arguments:
        spec: A benchmark with an `ObjectLaw`.
        generator: Source of randomness; flip, angle, size and place are drawn in this order.
    """
    law = _object_law(spec)
    flip, angle = generator.random() < 0.5, generator.uniform(0, 2 * np.pi)
    if not law.turns:
        flip, angle = False, 0.0
    side = spec.height + generator.uniform(-law.resize_px, law.resize_px)
    shift = generator.uniform(-law.shift_px, law.shift_px, 2)
    centre = (np.array(spec.shape[:2]) - 1) / 2 + shift
    zoom = spec.target_shape("train")[0] / side
    return Placement(centre.astype(np.float32), _inverse_matrix(np.array(flip), np.array(angle), np.array(zoom)))


def draw_occluders(spec: BenchmarkSpec, pool_size: int, generator: np.random.Generator) -> OccluderLayout:
    """Draw which occluders lie where in one input.

    Arguments:
        spec: A benchmark with an `ObjectLaw`.
        pool_size: Occluders to choose from, ≥ 1; one may be chosen several times.
        generator: Source of randomness; number, choice, flips, angles, sizes and places are drawn in this order.
    """
    law = _object_law(spec)
    count = int(generator.integers(*law.count, endpoint=True))
    choice = generator.integers(pool_size, size=count)
    flip, angle = generator.random(count) < 0.5, generator.uniform(0, 2 * np.pi, count)
    longer_side = generator.uniform(*law.longer_side_px, count)
    centre = generator.random((count, 2)) * spec.shape[:2] - 0.5
    matrix = _inverse_matrix(flip, angle, law.crop_px / 2 / longer_side)
    return OccluderLayout(choice, Placement(centre.astype(np.float32), matrix))


def source_positions(placement: Placement, rows: Any, columns: Any, side_px: int) -> tuple[Any, Any]:
    """Say where in its source each pixel of an image looks; written once, for arrays of NumPy and of torch.

    Arguments:
        placement: With any leading dimensions.
        rows: Row coordinates of the image, float32 `[h]`.
        columns: Column coordinates of the image, float32 `[w]`.
        side_px: Side of the square source.

    Returns:
        Rows and columns in the source, `[..., h, w]`; whole numbers are centres of pixels.
    """
    centre, matrix = placement
    down = (rows - centre[..., 0, None])[..., :, None]
    across = (columns - centre[..., 1, None])[..., None, :]
    entry = matrix[..., None, None]
    middle = (side_px - 1) / 2
    return (
        entry[..., 0, 0, :, :] * down + entry[..., 0, 1, :, :] * across + middle,
        entry[..., 1, 0, :, :] * down + entry[..., 1, 1, :, :] * across + middle,
    )


def place_target(original: NDArray[np.uint8], placement: Placement, spec: BenchmarkSpec) -> NDArray[np.uint8]:
    """Render a target in its place, black around it.

    Arguments:
        original: In the size of a stored training target, uint8 `[s, s, c]`.
        placement: Where it lies.
        spec: The benchmark.

    Returns:
        uint8 `[h, w, c]`.
    """
    n, (height, width, channels) = SUPERSAMPLING, spec.shape
    rows, columns = (((np.arange(n * side) + 0.5) / n - 0.5).astype(np.float32) for side in (height, width))
    levels = _interpolate(original.astype(np.float32), *source_positions(placement, rows, columns, len(original)))
    return np.rint(levels.reshape(height, n, width, n, channels).mean(axis=(1, 3))).astype(np.uint8)


def lay_over(
    target: NDArray[np.uint8], crops: NDArray[np.uint8], placement: Placement
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Lay occluders over a target, one after the other.

    Arguments:
        target: uint8 `[h, w, c]`.
        crops: What `halved` makes of the occluders, uint8 `[e, p, p, c + 1]`.
        placement: Where each lies.

    Returns:
        The input, uint8 `[h, w, c]`, and its mask, bool `[h, w]`: where more of the target than of them is seen.
    """
    height, width, _ = target.shape
    levels: NDArray[Any] = target.astype(np.float32)
    seen: NDArray[Any] = np.ones((height, width, 1), np.float32)
    rows, columns = (np.arange(side, dtype=np.float32) for side in (height, width))
    positions = source_positions(placement, rows, columns, crops.shape[1])
    middle, reach = (crops.shape[1] - 1) / 2, (crops.shape[1] + 1) / 2
    for crop, y, x in zip(crops.astype(np.float32), *positions, strict=True):
        touched = (np.abs(y - middle) < reach) & (np.abs(x - middle) < reach)
        if not touched.any():
            continue
        around = tuple(_span(touched.any(axis=axis)) for axis in (1, 0))  # elsewhere the layer is nothing
        layer = _interpolate(crop, y[around], x[around])
        through = 1 - layer[..., -1:] / 255
        levels[around] = levels[around] * through + layer[..., :-1]
        seen[around] *= through
    return np.rint(np.clip(levels, 0, 255)).astype(np.uint8), seen[..., 0] >= 0.5


def halved(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Halve stored occluders, which are twice as large as one is ever shown, and premultiply their colours.

    Arguments:
        rgba: As a file holds them, uint8 `[..., 2p, 2p, 4]`; or `[..., 2p, 2p, 2]`, grey and alpha.

    Returns:
        Mean of each 2×2 pixels, rounded, uint8 `[..., p, p, 4]` or `[..., p, p, 2]`, no colour above its alpha.
    """
    *leading, height, width, channels = rgba.shape
    weighted = rgba.astype(np.float32)  # which holds all that follows exactly
    for channel in range(channels - 1):  # loops over the pixels are long, those over channels would be short
        weighted[..., channel] *= weighted[..., -1]
    weighted[..., -1] *= 255
    rows = weighted.reshape(*leading, height // 2, 2, width * channels)
    pairs = (rows[..., 0, :] + rows[..., 1, :]).reshape(*leading, height // 2, width // 2, 2, channels)
    means = np.empty((*leading, height // 2, width // 2, channels), np.float32)
    for channel in range(channels):
        np.add(pairs[..., 0, channel], pairs[..., 1, channel], out=means[..., channel])
    means /= 4 * 255
    return np.rint(means, out=means).astype(np.uint8)


def grey_levels(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Turn colours to grey (ITU-R BT.601), rounded to 8 bits.

    Arguments:
        rgb: uint8 `[..., 3]`.

    Returns:
        uint8 `[..., 1]`.
    """
    return np.rint(rgb @ np.array(GREY_WEIGHTS, np.float32)[:, None]).astype(np.uint8)


def _object_law(spec: BenchmarkSpec) -> ObjectLaw:
    if not isinstance(spec.law, ObjectLaw):
        raise FusionDatasetsError(f"{spec.title} shows ellipses of its targets; no objects are laid over them")
    return spec.law


def _inverse_matrix(flip: NDArray[Any], angle: NDArray[Any], zoom: NDArray[Any]) -> NDArray[np.float32]:
    """From offsets in the image to offsets in the source, `[..., 2, 2]`, for sources flipped first, then turned."""
    cos, sin, mirror = np.cos(angle) * zoom, np.sin(angle) * zoom, np.where(flip, -1, 1)
    rows = np.stack([cos, -sin], axis=-1), np.stack([mirror * sin, mirror * cos], axis=-1)
    return np.stack(rows, axis=-2).astype(np.float32)


def _span(touched: NDArray[np.bool_]) -> slice:
    """Return from the first to the last that is touched; at least one is."""
    return slice(int(touched.argmax()), len(touched) - int(touched[::-1].argmax()))


def _interpolate(source: NDArray[np.float32], y: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[Any]:
    """Interpolate a source bilinearly, nothing around it: float32 `[s, s, c]` at `[h, w]` points → `[h, w, c]`."""
    side = len(source)
    bordered = np.zeros((side + 3, side + 3, source.shape[-1]), np.float32)
    bordered[1:-2, 1:-2] = source
    y, x = (np.clip(at, -1, side) + 1 for at in (y, x))
    corner_y, corner_x = np.floor(y), np.floor(x)
    below, right = (y - corner_y)[..., None], (x - corner_x)[..., None]
    points, stride = bordered.reshape(-1, source.shape[-1]), side + 3
    corner = corner_y.astype(np.intp) * stride + corner_x.astype(np.intp)
    above = points.take(corner, axis=0) * (1 - right) + points.take(corner + 1, axis=0) * right
    under = points.take(corner + stride, axis=0) * (1 - right) + points.take(corner + stride + 1, axis=0) * right
    return above * (1 - below) + under * below
