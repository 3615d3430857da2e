"""Objects over targets: the law of their places, frozen by NumPy and live by torch, and what is rendered from it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from fusion_datasets import BENCHMARKS, FusionDatasetsError
from fusion_datasets import torch as live
from fusion_datasets.composition import (
    GREY_WEIGHTS,
    Placement,
    draw_occluders,
    draw_target_placement,
    grey_levels,
    halved,
    lay_over,
    place_target,
)
from fusion_datasets.corruptions import render_example
from fusion_datasets.torch import composition as live_composition

SPEC = BENCHMARKS["fusion-tless"]
POOL_SIZE = 7


def torch_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(count: int, side: int, channels: int, seed: int = 0) -> np.ndarray:
    """Smooth pictures with sharp edges, uint8 `[count, side, side, channels]`."""
    generator = np.random.default_rng(seed)
    grid = np.arange(side) / side
    phase, pace = generator.uniform(0, 6, (2, count, channels, 1, 1))
    waves = np.sin(pace * 3 * grid[:, None] + phase) * np.cos(pace * 2 * grid[None, :] - phase)
    levels = np.where(waves > 0.3, 40, 130 + 120 * waves)
    return np.rint(levels).astype(np.uint8).transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """Occluders as a file holds them: discs and bars with soft edges, uint8 `[7, 100, 100, 4]`."""
    colours = blobs(POOL_SIZE, 100, 3, seed=1)
    row, column = np.mgrid[:100, :100] - 49.5
    stretch = np.linspace(1, 3, POOL_SIZE)[:, None, None]
    inside = np.clip(48 - np.hypot(row, column * stretch), 0, 1)
    alpha = np.rint(255 * inside).astype(np.uint8)[..., None]
    return np.concatenate([colours * (alpha > 0), alpha], axis=-1)


@pytest.fixture(scope="module")
def originals() -> np.ndarray:
    """Training targets, uint8 `[5, 128, 128, 3]`."""
    return blobs(5, 128, 3, seed=2)


def as_torch(placement: Placement) -> Placement:
    return Placement(*map(torch.from_numpy, placement))


def decomposed(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Zoom, angle and flip of matrices `[n, 2, 2]`."""
    zoom = np.sqrt(np.abs(np.linalg.det(matrix)))
    return zoom, np.arctan2(-matrix[:, 0, 1], matrix[:, 0, 0]) % (2 * np.pi), np.linalg.det(matrix) < 0


@pytest.fixture(params=["numpy", "torch"])
def target_placements(request: pytest.FixtureRequest) -> Placement:
    """Where 4000 targets lie."""
    if request.param == "numpy":
        generator = np.random.default_rng(0)
        return Placement(
            *map(np.stack, zip(*(draw_target_placement(SPEC, generator) for _ in range(4000)), strict=True))
        )
    drawn = live_composition.draw_target_placements(SPEC, 4000, generator=torch_generator())
    return Placement(*(part.numpy() for part in drawn))


@pytest.fixture(params=["numpy", "torch"])
def occluders(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, Placement]:
    """Occluders of 2000 inputs: how many each has, which they are, and where, over all inputs."""
    if request.param == "numpy":
        generator = np.random.default_rng(0)
        layouts = [draw_occluders(SPEC, POOL_SIZE, generator) for _ in range(2000)]
        counts = np.array([len(layout.choice) for layout in layouts])
        choice = np.concatenate([layout.choice for layout in layouts])
        parts = (np.concatenate(parts) for parts in zip(*(layout.placement for layout in layouts), strict=True))
        return counts, choice, Placement(*parts)
    choice, placement, there = live_composition.draw_occluders(SPEC, (500, 4), POOL_SIZE, generator=torch_generator())
    kept = Placement(*(part[there].numpy() for part in placement))
    return there.sum(-1).flatten().numpy(), choice[there].numpy(), kept


def uniform(values: np.ndarray, low: float, high: float) -> bool:
    inside = low - 1e-4 <= values.min() and values.max() <= high + 1e-4
    return bool(inside and stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3)


def test_targets_lie_as_settled(target_placements: Placement) -> None:
    zoom, angle, flip = decomposed(target_placements.matrix)
    assert uniform(128 / zoom, 60, 68)
    assert uniform(angle, 0, 2 * np.pi)
    assert 0.47 < flip.mean() < 0.53
    for axis in (0, 1):
        assert uniform(target_placements.centre[:, axis], 31.5 - 4, 31.5 + 4)
    parameters = np.stack([zoom, angle, flip, *target_placements.centre.T])
    assert np.abs(np.corrcoef(parameters) - np.eye(5)).max() < 0.06  # each on its own


def test_occluders_lie_as_settled(occluders: tuple[np.ndarray, np.ndarray, Placement]) -> None:
    counts, choice, placement = occluders
    for values, expected in ((counts, range(5, 9)), (choice, range(POOL_SIZE))):
        found, times = np.unique(values, return_counts=True)
        assert found.tolist() == list(expected)
        assert stats.chisquare(times).pvalue > 1e-3
    zoom, angle, flip = decomposed(placement.matrix)
    assert uniform(50 / zoom, 30, 50)
    assert uniform(angle, 0, 2 * np.pi)
    assert 0.48 < flip.mean() < 0.52
    for axis in (0, 1):
        assert uniform(placement.centre[:, axis], -0.5, 63.5)
    parameters = np.stack([zoom, angle, flip, choice, *placement.centre.T])
    assert np.abs(np.corrcoef(parameters) - np.eye(6)).max() < 0.04


def test_a_target_where_it_was_is_itself_at_half_the_size(originals: np.ndarray) -> None:
    still = Placement(np.array([31.5, 31.5], np.float32), np.eye(2, dtype=np.float32) * 2)
    means = originals[0].reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(place_target(originals[0], still, SPEC) - means).max() <= 0.5


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ([[0, -2], [2, 0]], lambda image: np.rot90(image, -1)),
        ([[2, 0], [0, -2]], lambda image: image[:, ::-1]),
        ([[0, -2], [-2, 0]], lambda image: np.rot90(image[:, ::-1], -1)),
    ],
    ids=["turned", "flipped", "flipped, then turned"],
)
def test_turning_and_flipping_are_what_they_say(originals: np.ndarray, matrix: list, turned: object) -> None:
    placement = Placement(np.array([31.5, 31.5], np.float32), np.array(matrix, np.float32))
    means = originals[0].reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(place_target(originals[0], placement, SPEC) - turned(means)).max() <= 0.5  # type: ignore[operator]


def test_a_target_moves_by_pixels_and_leaves_black(originals: np.ndarray) -> None:
    moved = Placement(np.array([31.5 + 3, 31.5 - 2], np.float32), np.eye(2, dtype=np.float32) * 2)
    means = originals[0].reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    placed = place_target(originals[0], moved, SPEC)
    assert np.abs(placed[3:, :62] - means[:61, 2:]).max() <= 0.5
    assert not placed[:2].any()


def test_numpy_and_torch_place_targets_within_a_level(originals: np.ndarray) -> None:
    generator = np.random.default_rng(3)
    stored = torch.from_numpy(originals).permute(0, 3, 1, 2) / 255
    for _ in range(6):
        placements = [draw_target_placement(SPEC, generator) for _ in originals]
        frozen = np.stack([place_target(one, at, SPEC) for one, at in zip(originals, placements, strict=True)])
        together = as_torch(Placement(*map(np.stack, zip(*placements, strict=True))))
        drawn = live_composition.place_targets(stored, together, SPEC).permute(0, 2, 3, 1).numpy() * 255
        difference = np.abs(drawn - frozen)
        assert difference.max() < 1 + 1e-3
        assert (difference > 0.5).mean() < 1e-3


def test_numpy_and_torch_lay_objects_within_a_level(originals: np.ndarray, crops: np.ndarray) -> None:
    generator = np.random.default_rng(4)
    pool = live.occluder_pool([crops[:4], crops[4:]])
    target = np.ascontiguousarray(originals[0, ::2, ::2])
    for _ in range(12):
        choice, placement = draw_occluders(SPEC, POOL_SIZE, generator)
        frozen, mask = lay_over(target, halved(crops[choice]), placement)
        batched = Placement(*(torch.from_numpy(part)[None, None] for part in placement))
        there = torch.ones(1, 1, len(choice), dtype=torch.bool)
        canvas = torch.from_numpy(target).permute(2, 0, 1)[None].float()
        levels, masks = live_composition.lay_over(canvas, pool, torch.from_numpy(choice)[None, None], batched, there)
        difference = np.abs(levels[0, 0].permute(1, 2, 0).numpy().round() - frozen)
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3
        assert (masks[0, 0].numpy() != mask).mean() < 1e-3


def test_absent_layers_are_as_if_transparent(originals: np.ndarray, crops: np.ndarray) -> None:
    nothing = np.concatenate([crops, np.zeros_like(crops[:1])])
    pool, generator = live.occluder_pool([nothing]), torch_generator(3)
    choice, placement, there = live_composition.draw_occluders(SPEC, (4, 3), POOL_SIZE, generator=generator)
    there &= torch.rand(there.shape, generator=generator) < 0.6
    there[0] = False
    target = torch.from_numpy(originals[:1, ::2, ::2]).permute(0, 3, 1, 2).float().expand(4, -1, -1, -1)
    levels, masks = live_composition.lay_over(target, pool, choice, placement, there)
    instead, everywhere = torch.where(there, choice, POOL_SIZE), torch.ones_like(there)
    expected, hidden = live_composition.lay_over(target, pool, instead, placement, everywhere)
    assert torch.equal(levels, expected)
    assert torch.equal(masks, hidden)
    assert torch.equal(levels[0], target[:3])
    assert masks[0].all()


def test_layers_cover_what_lies_below() -> None:
    target = np.full((64, 64, 3), 100, np.uint8)
    red, blue = (
        np.broadcast_to(np.array([*colour, 255], np.uint8), (50, 50, 4)) for colour in ((200, 0, 0), (0, 0, 90))
    )
    placement = Placement(
        np.array([[20.5, 20.5], [30.5, 30.5]], np.float32), np.stack([np.eye(2, dtype=np.float32) * 50 / 20] * 2)
    )
    image, mask = lay_over(target, np.stack([red, blue]), placement)
    assert image[15, 15].tolist() == [200, 0, 0]
    assert image[35, 35].tolist() == [0, 0, 90]
    assert image[25, 25].tolist() == [0, 0, 90]
    assert image[50, 50].tolist() == [100, 100, 100]
    assert mask[50, 50]
    assert not mask[15, 15]
    assert (~mask).sum() == 20 * 20 + 20 * 20 - 10 * 10


def test_what_is_transparent_darkens_nothing(crops: np.ndarray) -> None:
    white = crops.copy()
    white[..., :3] = 255
    white *= white[..., 3:] > 0
    generator = np.random.default_rng(5)
    for _ in range(5):
        choice, placement = draw_occluders(SPEC, POOL_SIZE, generator)
        image, _ = lay_over(np.full((64, 64, 3), 255, np.uint8), halved(white[choice]), placement)
        assert image.min() >= 254


def test_the_frozen_inputs_and_the_live_ones_hide_equally_much(originals: np.ndarray, crops: np.ndarray) -> None:
    frozen = [render_example(originals[0], SPEC, 0, "test", row, 3, crops) for row in range(80)]
    stored = torch.from_numpy(originals[:1]).permute(0, 3, 1, 2) / 255
    generator = torch_generator()
    target = live.render_targets(stored.expand(80, -1, -1, -1), SPEC, generator=generator)
    inputs, masks = live.render_inputs(target, 3, SPEC, generator=generator, occluders=live.occluder_pool([crops]))
    assert inputs.shape == (80, 3, 3, 64, 64)
    ours = np.concatenate([row.masks.mean(axis=(1, 2)) for row in frozen])
    theirs = masks.float().mean((-2, -1)).flatten().numpy()
    assert stats.kstest(ours, theirs).pvalue > 1e-3
    assert 0.3 < ours.mean() < 0.7
    assert torch.equal((inputs * 255).round() / 255, inputs)


def test_inputs_show_the_target_where_the_mask_says_and_only_there(originals: np.ndarray, crops: np.ndarray) -> None:
    opaque = crops.copy()
    opaque[..., 3] = 255 * (opaque[..., 3] > 127)
    opaque[..., :3] = (0, 255, 0)
    target, inputs, masks = render_example(
        originals[1] // 4 * np.array([1, 0, 1], np.uint8), SPEC, 1, "test", 8, 3, opaque
    )
    assert target.shape == (64, 64, 3)
    hidden = inputs[..., 1] >= 128
    assert (hidden == ~masks).mean() > 0.999
    clear = inputs[..., 1] == 0
    assert np.array_equal(inputs[clear], np.broadcast_to(target, inputs.shape)[clear])


def test_a_row_goes_on_where_it_stopped(originals: np.ndarray, crops: np.ndarray) -> None:
    three = render_example(originals[0], SPEC, 3, "test", 190009, 3, crops)
    eight = render_example(originals[0], SPEC, 3, "test", 190009, 8, crops)
    again = render_example(three.target, SPEC, 3, "test", 190009, 8, crops, placed=True)
    assert np.array_equal(eight.inputs[:3], three.inputs)
    assert np.array_equal(again.inputs, eight.inputs)
    assert np.array_equal(again.target, three.target)
    assert not np.array_equal(render_example(originals[0], SPEC, 3, "test", 190019, 3, crops).inputs, three.inputs)


def test_no_inputs_are_none_and_no_occluders_are_refused(originals: np.ndarray, crops: np.ndarray) -> None:
    assert render_example(originals[0], SPEC, 0, "test", 0, 0, crops).inputs.shape == (0, 64, 64, 3)
    target = torch.zeros(2, 3, 64, 64)
    pool = live.occluder_pool([crops])
    assert live.render_inputs(target, 0, SPEC, generator=torch_generator(), occluders=pool).inputs.shape[:2] == (2, 0)
    with pytest.raises(FusionDatasetsError, match="no occluders"):
        render_example(originals[0], SPEC, 0, "test", 0, 3, crops[:0])
    for unfit in (None, live.occluder_pool([crops], grey=True)):
        with pytest.raises(FusionDatasetsError, match="occluder_pool"):
            live.render_inputs(target, 1, SPEC, generator=torch_generator(), occluders=unfit)


def test_ellipses_have_no_occluders_to_place() -> None:
    ellipses = BENCHMARKS["fusion-mnist"]
    for draw in (
        lambda generator: draw_target_placement(ellipses, generator),
        lambda generator: draw_occluders(ellipses, 3, generator),
    ):
        with pytest.raises(FusionDatasetsError, match="no objects"):
            draw(np.random.default_rng(0))


def test_grey_pools_are_the_grey_of_coloured_ones(crops: np.ndarray) -> None:
    coloured, grey = live.occluder_pool([crops]), live.occluder_pool([crops], grey=True)
    assert (coloured.shape, grey.shape) == ((POOL_SIZE, 4, 50, 50), (POOL_SIZE, 2, 50, 50))
    assert torch.equal(coloured[:, -1], grey[:, -1])
    expected = (coloured[:, :3].float() * torch.tensor(GREY_WEIGHTS)[:, None, None]).sum(1)
    assert (grey[:, 0].float() - expected).abs().max() <= 1.6  # three roundings
    assert (coloured[:, :3] <= coloured[:, 3:]).all()


def test_grey_keeps_grey() -> None:
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(grey_levels(np.repeat(levels[:, None], 3, axis=1))[:, 0], levels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_live_inputs_keep_the_targets_type(crops: np.ndarray, dtype: torch.dtype) -> None:
    target = torch.rand(2, 1, 128, 128).to(dtype)
    pool = live.occluder_pool([crops], grey=True)
    placed = live.render_targets(target, SPEC, generator=torch_generator())
    inputs = live.render_inputs(
        placed, 2, replace(SPEC, channels=1), generator=torch_generator(), occluders=pool
    ).inputs
    assert (placed.dtype, inputs.dtype) == (dtype, dtype)
    assert inputs.shape == (2, 2, 1, 64, 64)


def test_grey_is_the_luma_of_television() -> None:
    """ITU-R BT.601."""
    primaries = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    assert grey_levels(primaries)[0, :, 0].tolist() == [76, 150, 29, 255]


def test_upright_targets_are_not_mirrored() -> None:
    upright = replace(SPEC, law=replace(SPEC.law, turns=False))  # type: ignore[type-var]
    for seed in range(50):
        _, matrix = draw_target_placement(upright, np.random.default_rng(seed))
        assert matrix[0, 0] > 0
        assert matrix[1, 1] > 0
        assert matrix[0, 1] == matrix[1, 0] == 0
