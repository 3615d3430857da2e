"""From a clean target to its occluded, noisy inputs: parameters are drawn, then rendered (Sec. 5.1).

Letters: `b` rows, `k` inputs, `e` ellipses, `h`, `w`, `c` height, width and channels of an image.

Arithmetic is float32 on the scale of 8-bit levels, one rounded operation after the other, so that NumPy here and
torch in `fusion_datasets.torch` agree to the last bit on the same parameters.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.composition import draw_occluders, draw_target_placement, halved, lay_over, place_target
from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.spec import SPLITS, BenchmarkSpec, EllipseLaw, ObjectLaw, Split

WHITE_LEVEL = 255
"""The 8-bit level that stands for 1."""

_ROWS_AT_ONCE: Final = 16  # whose arrays stay in a core's cache


class Ellipses(NamedTuple):
    """Parameters of the ellipses that an input shows, as arrays of NumPy or of torch.

    Arguments:
        centre: Row and column of each centre, in pixels, float32 `[..., e, 2]`.
        radius: Radius at aspect 1, in pixels, float32 `[..., e]`.
        aspect: Squared ratio of the semi-axis along columns to the radius, float32 `[..., e]`.
    """

    centre: Any
    radius: Any
    aspect: Any


class OccluderPool(Protocol):
    """Occluders in memory, in a file or in a shard."""

    def __len__(self) -> int: ...

    def __getitem__(self, occluder: int, /) -> NDArray[np.uint8]:
        """One of them, uint8 `[p, p, 4]`."""
        ...


class RenderedExample(NamedTuple):
    """One row as it is stored.

    Arguments:
        target: uint8 `[h, w, c]`.
        inputs: uint8 `[k, h, w, c]`.
        masks: bool `[k, h, w]`, true where the target is visible.
    """

    target: NDArray[np.uint8]
    inputs: NDArray[np.uint8]
    masks: NDArray[np.bool_]


class Drawn(NamedTuple):
    """What is drawn for one input: plain numbers, turned into `Ellipses` many at a time.

    Arguments:
        radius: Radii in pixels, int64 `[e]`.
        centre: Row and column of each centre, in pixels, int64 `[e, 2]`.
        share: Where each aspect lies between its bounds, float32 in [0, 1) `[e]`.
    """

    radius: NDArray[np.int64]
    centre: NDArray[np.int64]
    share: NDArray[np.float32]


def draw(law: EllipseLaw, generator: np.random.Generator) -> Drawn:
    """Draw the ellipses of one input: radii, centres and aspects, in this order."""
    radius = generator.integers(*law.radius_px, endpoint=True, size=law.count)
    centre = generator.integers(*law.centre_px, endpoint=True, size=(law.count, 2))
    return Drawn(radius, centre, generator.random(law.count, dtype=np.float32))


def ellipses_of(law: EllipseLaw, drawn: Sequence[Drawn]) -> Ellipses:
    """The ellipses of some inputs: centres `[n, e, 2]`, radii and aspects `[n, e]`."""
    radius, centre, share = map(np.stack, zip(*drawn, strict=True))
    low, high = map(np.float32, law.aspect)
    # float32 may round the sum up onto the bound that the law excludes.
    aspect = np.minimum(low + (high - low) * share, np.nextafter(high, low))
    return Ellipses(centre.astype(np.float32), radius.astype(np.float32), aspect)


def ellipse_visibility(ellipses: Ellipses, rows: Any, columns: Any) -> Any:
    """Say which pixels lie in any of the ellipses; written once, for arrays of NumPy and of torch.

    A pixel is visible if `sqrt(aspect·(row − c₀)² + (column − c₁)²/aspect) ≤ radius`. The test is taken as
    `(column − c₁)²/aspect ≤ radius² − aspect·(row − c₀)²`: both sides are vectors, and only the comparison
    between them touches every pixel.

    Arguments:
        ellipses: Parameters with any leading dimensions.
        rows: Row coordinates, float32 `[h]`.
        columns: Column coordinates, float32 `[w]`.

    Returns:
        bool `[..., h, w]`.
    """
    centre, radius, aspect = ellipses
    across = (columns - centre[..., 1, None]) ** 2 / aspect[..., None]
    room = radius[..., None] ** 2 - aspect[..., None] * (rows - centre[..., 0, None]) ** 2
    visible = across[..., 0, None, :] <= room[..., 0, :, None]
    for i in range(1, radius.shape[-1]):
        visible |= across[..., i, None, :] <= room[..., i, :, None]
    return visible


def corrupt(
    targets: NDArray[np.uint8],
    law: EllipseLaw,
    noise_std: float,
    generators: Iterable[np.random.Generator],
    num_inputs: int,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw inputs: what the ellipses leave of the target, plus noise everywhere, clipped, in 8 bits.

    Arguments:
        targets: uint8 `[b, h, w, c]`.
        law: What an input shows.
        noise_std: Standard deviation of the noise, on the scale where white is 1.
        generators: Source of randomness of each target; of each input the ellipses are drawn before the noise.
        num_inputs: How many inputs of each target, k ≥ 1.

    Returns:
        The inputs, uint8 `[b, k, h, w, c]`, and their masks, bool `[b, k, h, w]`.
    """
    b, height, width, channels = targets.shape
    shape = (b, num_inputs, height, width)
    drawn, noise = [], np.empty((*shape, channels) if noise_std else 0, np.float32)
    for row, generator in enumerate(generators):
        for k in range(num_inputs):
            drawn.append(draw(law, generator))
            if noise_std:
                generator.standard_normal(out=noise[row, k], dtype=np.float32)
    rows, columns = (np.arange(length, dtype=np.float32) for length in (height, width))
    masks = ellipse_visibility(ellipses_of(law, drawn), rows, columns).reshape(shape)
    shown = np.empty((*shape, channels), np.bool_)
    for channel in range(channels):  # much faster than broadcasting along so short a dimension
        shown[..., channel] = masks
    inputs = targets[:, None] * shown
    if noise_std:
        noise *= np.float32(WHITE_LEVEL * noise_std)
        noise += inputs
        inputs[...] = np.rint(np.clip(noise, 0, WHITE_LEVEL, out=noise), out=noise)
    return inputs, masks


def example_generator(seed: int, split: Split, index: int) -> np.random.Generator:
    """The random stream of one evaluation row, a function of nothing but its arguments.

    Arguments:
        seed: Seed of the file, ≥ 0.
        split: The split the row belongs to.
        index: Position of its image in the source, ≥ 0: leaving out an image changes no other row.
    """
    if seed < 0:
        raise FusionDatasetsError(f"got seed {seed}; seeds count from 0")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), index)))


def render_example(
    original: NDArray[np.uint8],
    spec: BenchmarkSpec,
    seed: int,
    split: Split,
    index: int,
    num_inputs: int = 3,
    occluders: OccluderPool | None = None,
    *,
    placed: bool = False,
) -> RenderedExample:
    """Render one row; asking for more inputs leaves the first ones as they are.

    Arguments:
        original: The clean image in the size of a stored training target, uint8 `[h, w, c]`.
        spec: The benchmark.
        seed: Seed of the file, ≥ 0.
        split: The split the row belongs to.
        index: Position of the image in the source, ≥ 0.
        num_inputs: How many inputs, k ≥ 0.
        occluders: What an `ObjectLaw` lays over the target.
        placed: Whether the original is a stored evaluation target, which lies where an `ObjectLaw` puts it already.

    Returns:
        Target, inputs and masks; inputs and masks have k as their first dimension.

    Raises:
        FusionDatasetsError: If an `ObjectLaw` has no occluders to lay over the target.
    """
    generator = example_generator(seed, split, index)
    target = original
    if isinstance(spec.law, ObjectLaw):
        if occluders is None or not len(occluders):
            raise FusionDatasetsError(f"{spec.title} has no occluders for the split {split!r}; expected at least one")
        placement = draw_target_placement(spec, generator)
        target = original if placed else place_target(original, placement, spec)
    if isinstance(spec.law, EllipseLaw) and num_inputs:
        inputs, masks = corrupt(target[None], spec.law, spec.noise_std, [generator], num_inputs)
        return RenderedExample(target, inputs[0], masks[0])
    inputs = np.empty((num_inputs, *target.shape), np.uint8)
    masks = np.empty((num_inputs, *target.shape[:2]), np.bool_)
    for k in range(num_inputs):
        assert occluders is not None
        layout = draw_occluders(spec, len(occluders), generator)
        crops = np.stack([occluders[int(occluder)] for occluder in layout.choice])
        inputs[k], masks[k] = lay_over(target, halved(crops), layout.placement)
    return RenderedExample(target, inputs, masks)


def render_examples(
    originals: NDArray[np.uint8],
    spec: BenchmarkSpec,
    seed: int,
    split: Split,
    index: NDArray[np.int64],
    occluders: OccluderPool | None = None,
) -> RenderedExample:
    """Render rows as a file stores them: each as by `render_example`, faster than one by one.

    Arguments:
        originals: Clean images in the size of stored training targets, uint8 `[n, h, w, c]`.
        spec: The benchmark.
        seed: Seed of the file, ≥ 0.
        split: The split the rows belong to.
        index: Position of each image in the source, int64 `[n]`.
        occluders: What an `ObjectLaw` lays over the targets.

    Returns:
        Targets, inputs and masks with a dimension of rows in front.
    """
    shape = (len(originals), spec.max_inputs, *spec.shape)
    rendered = RenderedExample(
        np.empty((len(originals), *spec.shape), np.uint8), np.empty(shape, np.uint8), np.empty(shape[:-1], np.bool_)
    )
    if isinstance(spec.law, EllipseLaw):
        rendered.target[...] = originals
        for first in range(0, len(originals), _ROWS_AT_ONCE):
            some = slice(first, first + _ROWS_AT_ONCE)
            generators = (example_generator(seed, split, int(position)) for position in index[some])
            rendered.inputs[some], rendered.masks[some] = corrupt(
                originals[some], spec.law, spec.noise_std, generators, spec.max_inputs
            )
        return rendered
    for row, (original, position) in enumerate(zip(originals, index, strict=True)):
        example = render_example(original, spec, seed, split, int(position), spec.max_inputs, occluders)
        for array, one in zip(rendered, example, strict=True):
            array[row] = one
    return rendered
