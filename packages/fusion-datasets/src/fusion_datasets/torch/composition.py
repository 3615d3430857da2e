"""Objects laid over targets in batches, on any device: the live twin of `fusion_datasets.composition`.

Letters: `b` rows, `k` inputs, `e` occluders of an input at most, `m` occluders of a pool, `p` side of an occluder.
"""

import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fusion_datasets.composition import SUPERSAMPLING, Placement, grey_levels, halved, source_positions
from fusion_datasets.spec import BenchmarkSpec, ObjectLaw


def occluder_pool(
    crops: Iterable[NDArray[np.uint8]], *, grey: bool = False, device: torch.device | str = "cpu"
) -> Tensor:
    """Put the occluders of a file into a device's memory, halved, as they are laid over targets.

    Arguments:
        crops: Occluders as a file holds them, in blocks, uint8 `[n, 2p, 2p, 4]`.
        grey: Whether they are laid over grey targets.
        device: Where they are needed.

    Returns:
        uint8 `[m, c + 1, p, p]`, colours premultiplied by the alpha that comes last.
    """
    parts = []
    for rgba in crops:
        shades = np.concatenate([grey_levels(rgba[..., :3]), rgba[..., 3:]], axis=-1) if grey else rgba
        parts.append(torch.from_numpy(halved(shades)).permute(0, 3, 1, 2).to(device))
    return torch.cat(parts).contiguous()


def draw_target_placements(spec: BenchmarkSpec, count: int, *, generator: torch.Generator) -> Placement:
    """Draw where targets lie, by the law of `fusion_datasets.composition.draw_target_placement`.

    Upright ones are flipped here, in training, where the benchmark flips targets.

    Returns:
        Centres `[b, 2]` and matrices `[b, 2, 2]`, on the generator's device.
    """
    law = spec.law
    assert isinstance(law, ObjectLaw)
    draw = _Uniform(generator)
    flip, angle = draw((count,), 0, 1) < 0.5, draw((count,), 0, 2 * math.pi)
    if not law.turns:
        flip, angle = flip & spec.flips, torch.zeros_like(angle)
    side = draw((count,), spec.height - law.resize_px, spec.height + law.resize_px)
    middle = [(side - 1) / 2 for side in (spec.height, spec.width)]
    centre = torch.stack([draw((count,), at - law.shift_px, at + law.shift_px) for at in middle], dim=-1)
    return Placement(centre, _inverse_matrix(flip, angle, spec.target_shape("train")[0] / side))


def draw_occluders(
    spec: BenchmarkSpec, size: tuple[int, ...], pool_size: int, *, generator: torch.Generator
) -> tuple[Tensor, Placement, Tensor]:
    """Draw the occluders of many inputs, by the law of `fusion_datasets.composition.draw_occluders`.

    Arguments:
        spec: A benchmark with an `ObjectLaw`.
        size: Leading dimensions, say `(b, k)`.
        pool_size: Occluders to choose from, ≥ 1.
        generator: Source of randomness; its device is where the parameters live.

    Returns:
        Positions in the pool `[*size, e]`, placements `[*size, e, …]`, and which of the e there are, bool `[*size, e]`.
    """
    law = spec.law
    assert isinstance(law, ObjectLaw)
    device, (fewest, most) = generator.device, law.count
    draw, shape = _Uniform(generator), (*size, most)
    count = torch.randint(fewest, most + 1, (*size, 1), generator=generator, device=device)
    choice = torch.randint(pool_size, shape, generator=generator, device=device)
    flip, angle = draw(shape, 0, 1) < 0.5, draw(shape, 0, 2 * math.pi)
    longer_side = draw(shape, *law.longer_side_px)
    centre = torch.stack([draw(shape, -0.5, side - 0.5) for side in (spec.height, spec.width)], dim=-1)
    placement = Placement(centre, _inverse_matrix(flip, angle, law.crop_px / 2 / longer_side))
    return choice, placement, torch.arange(most, device=device) < count


def place_targets(stored: Tensor, placement: Placement, spec: BenchmarkSpec) -> Tensor:
    """Render targets in their places, black around them.

    Arguments:
        stored: Training targets in [0, 1], floating point `[b, c, s, s]`.
        placement: Where each lies.
        spec: The benchmark.

    Returns:
        `[b, c, h, w]` in [0, 1], in the dtype of the stored ones, on the 256 levels of 8 bits.
    """
    n, points = SUPERSAMPLING, torch.arange(0.5, SUPERSAMPLING * max(spec.height, spec.width), device=stored.device)
    rows, columns = (points[: n * side] / n - 0.5 for side in (spec.height, spec.width))
    fine = _interpolate(stored.float(), *source_positions(placement, rows, columns, stored.shape[-1]))
    levels = functional.avg_pool2d(fine, n).mul_(255).round_()
    return levels.div_(255).to(stored.dtype)


def lay_over(
    target: Tensor, pool: Tensor, choice: Tensor, placement: Placement, there: Tensor
) -> tuple[Tensor, Tensor]:
    """Lay occluders over targets, one after the other.

    Arguments:
        target: Levels 0 … 255, float32 `[b, c, h, w]`.
        pool: What `occluder_pool` made, uint8 `[m, c + 1, p, p]`.
        choice: Positions in the pool `[b, k, e]`.
        placement: Where each lies.
        there: Which of the e there are, bool `[b, k, e]`.

    Returns:
        Levels of the inputs, `[b, k, c, h, w]`, not rounded, and their masks, bool `[b, k, h, w]`.
    """
    (b, k, e), (h, w) = choice.shape, target.shape[-2:]
    rows, columns = (torch.arange(side, device=target.device, dtype=torch.float32) for side in (h, w))
    levels = target[:, None].expand(-1, k, -1, -1, -1).flatten(0, 1).clone()
    seen = torch.ones_like(levels[:, :1])
    flat = Placement(*(part.flatten(0, 1) for part in placement))
    for i in range(e):  # one layer at a time: e times less memory, and no slower
        present, which = there[..., i].flatten(), choice[..., i].flatten()
        where: Tensor | slice = slice(None)
        if target.device.type == "cpu":  # elsewhere one would have to wait to know which there are
            where = present.nonzero()[:, 0]
        crops = pool[which[where]] * present[where].reshape(-1, 1, 1, 1)
        layout = Placement(*(part[where, i] for part in flat))
        layer = _interpolate(crops.float(), *source_positions(layout, rows, columns, pool.shape[-1]))
        through = 1 - layer[:, -1:] / 255
        levels[where] = levels[where].mul_(through).add_(layer[:, :-1])
        seen[where] = seen[where].mul_(through)
    return levels.unflatten(0, (b, k)), (seen[:, 0] >= 0.5).unflatten(0, (b, k))


class _Uniform:
    """Draws float32 uniformly between two bounds."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def __call__(self, shape: tuple[int, ...], low: float, high: float) -> Tensor:
        drawn = torch.rand(shape, generator=self._generator, device=self._generator.device)
        return drawn.mul_(high - low).add_(low)


def _inverse_matrix(flip: Tensor, angle: Tensor, zoom: Tensor) -> Tensor:
    cos, sin, mirror = angle.cos() * zoom, angle.sin() * zoom, 1 - 2 * flip.float()
    return torch.stack([cos, -sin, mirror * sin, mirror * cos], dim=-1).unflatten(-1, (2, 2))


def _interpolate(source: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Interpolate sources bilinearly, nothing around them: `[n, c, s, s]` at `[n, h, w]` points → `[n, c, h, w]`."""
    grid = torch.stack([x, y], dim=-1).mul_(2).add_(1).div_(source.shape[-1]).sub_(1)
    return functional.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
