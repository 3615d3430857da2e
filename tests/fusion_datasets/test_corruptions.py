"""The law of the inputs: frozen by NumPy, live by torch, and one formula for both."""

import dataclasses
import hashlib

import numpy as np
import pytest
import torch
from scipy import stats

from fusion_datasets import BENCHMARKS, FusionDatasetsError
from fusion_datasets import torch as live
from fusion_datasets.corruptions import (
    Ellipses,
    corrupt,
    draw,
    ellipse_visibility,
    ellipses_of,
    example_generator,
    render_example,
)
from fusion_datasets.spec import EllipseLaw

SPEC = BENCHMARKS["fusion-mnist"]
LAW = SPEC.law
assert isinstance(LAW, EllipseLaw)
CELEBA_LAW = EllipseLaw(count=4, radius_px=(0, 14), centre_px=(1, 61), aspect=(0.5, 1.5))
GRID = np.arange(32, dtype=np.float32)


def torch_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numpy_ellipses(law: EllipseLaw, count: int, seed: int = 0) -> Ellipses:
    generator = np.random.default_rng(seed)
    return ellipses_of(law, [draw(law, generator) for _ in range(count)])


@pytest.fixture(params=["numpy", "torch"])
def many(request: pytest.FixtureRequest) -> Ellipses:
    """The ellipses of 9000 inputs."""
    if request.param == "numpy":
        return numpy_ellipses(LAW, 9000)
    drawn = live.draw_ellipses(LAW, (9000,), generator=torch_generator())
    return Ellipses(*(part.numpy() for part in drawn))


def test_parameters_keep_their_bounds_and_reach_them(many: Ellipses) -> None:
    assert many.radius.shape == (9000, 2)
    assert many.centre.shape == (9000, 2, 2)
    for values, (low, high) in ((many.radius, (5, 9)), (many.centre, (1, 29))):
        found, counts = np.unique(values, return_counts=True)
        assert found.tolist() == list(range(low, high + 1))
        assert stats.chisquare(counts).pvalue > 1e-4
    assert many.aspect.min() >= 0.5
    assert many.aspect.max() < 1.5
    assert stats.kstest(many.aspect.ravel(), "uniform", (0.5, 1.0)).pvalue > 1e-4


def test_the_excluded_aspect_is_excluded_also_where_rounding_would_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    nearly_one = np.nextafter(np.float32(1), np.float32(0))

    class Extreme:
        def integers(self, low: int, high: int, *, endpoint: bool, size: object) -> np.ndarray:
            return np.full(size, high)

        def random(self, size: int, dtype: type) -> np.ndarray:
            return np.full(size, nearly_one)

    assert ellipses_of(LAW, [draw(LAW, Extreme())]).aspect.max() < 1.5  # type: ignore[arg-type]
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, float(nearly_one)))
    assert live.draw_ellipses(LAW, (1,), generator=torch_generator()).aspect.max() < 1.5


def test_visible_shares_are_those_measured_of_the_published_settings(many: Ellipses) -> None:
    masks = ellipse_visibility(many, GRID, GRID)
    shares = masks.mean(axis=(1, 2))
    assert shares.mean() == pytest.approx(0.251, abs=0.003)
    assert shares.std() == pytest.approx(0.070, abs=0.002)
    assert masks.reshape(3000, 3, 32, 32).any(axis=1).mean() == pytest.approx(0.566, abs=0.006)


def test_the_law_holds_for_other_numbers_too() -> None:
    grid = np.arange(64, dtype=np.float32)
    masks = ellipse_visibility(numpy_ellipses(CELEBA_LAW, 6000), grid, grid)
    shares = masks.mean(axis=(1, 2))
    assert shares.mean() == pytest.approx(0.172, abs=0.004)
    assert shares.std() == pytest.approx(0.075, abs=0.003)
    assert masks.reshape(2000, 3, 64, 64).any(axis=1).mean() == pytest.approx(0.430, abs=0.008)


def test_masks_are_the_ellipses_of_the_definition(many: Ellipses) -> None:
    centre, radius, aspect = (part[:500].astype(np.float64)[..., None, None] for part in many)
    distance = np.sqrt(
        aspect * (GRID[:, None] - centre[:, :, 0]) ** 2 + (GRID[None, :] - centre[:, :, 1]) ** 2 / aspect
    )
    slack = (distance - radius).min(axis=1)
    visible = ellipse_visibility(Ellipses(*(part[:500] for part in many)), GRID, GRID)
    decided = np.abs(slack) > 1e-4
    assert decided.mean() > 0.99
    assert np.array_equal(visible[decided], (slack <= 0)[decided])


def test_the_aspect_stretches_along_columns() -> None:
    wide = Ellipses(np.full((1, 2), 15.0, np.float32), np.full(1, 6.0, np.float32), np.full(1, 1.45, np.float32))
    mask = ellipse_visibility(wide, GRID, GRID)
    assert mask.any(axis=0).sum() > mask.any(axis=1).sum()


def test_a_radius_of_zero_shows_one_pixel() -> None:
    points = Ellipses(np.array([[4, 7], [9, 2]], np.float32), np.zeros(2, np.float32), np.ones(2, np.float32))
    assert np.argwhere(ellipse_visibility(points, GRID, GRID)).tolist() == [[4, 7], [9, 2]]


def test_numpy_and_torch_agree_exactly_on_the_same_parameters(many: Ellipses) -> None:
    as_torch = Ellipses(*map(torch.from_numpy, many))
    grid = torch.from_numpy(GRID)
    assert np.array_equal(ellipse_visibility(as_torch, grid, grid).numpy(), ellipse_visibility(many, GRID, GRID))


def frozen_and_live(target: np.ndarray, count: int) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Inputs as levels `[n, h, w]` and masks of one target: rendered as for a file, and as for training."""
    inputs, masks = corrupt(target[None], LAW, SPEC.noise_std, [np.random.default_rng(0)], count)
    batch = torch.from_numpy(target).permute(2, 0, 1).expand(count // 3, 1, 32, 32) / 255
    rendered = live.render_inputs(batch, 3, SPEC, generator=torch_generator(1))
    levels = (rendered.inputs * 255).round().byte().reshape(-1, 32, 32).numpy()
    return (inputs[0, ..., 0], masks[0]), (levels, rendered.masks.reshape(-1, 32, 32).numpy())


def test_frozen_and_live_inputs_follow_one_law() -> None:
    target = np.full((32, 32, 1), 120, np.uint8)
    (frozen, frozen_masks), (rendered, live_masks) = frozen_and_live(target, 4500)
    # Pixel by pixel: how often it is visible, within 5 standard errors of the difference.
    frequency = (frozen_masks.mean(axis=0) + live_masks.mean(axis=0)) / 2
    error = np.sqrt(2 * frequency * (1 - frequency) / 4500)
    assert np.all(np.abs(frozen_masks.mean(axis=0) - live_masks.mean(axis=0)) <= 5 * error + 1e-3)
    shares = (masks.mean(axis=(1, 2)) for masks in (frozen_masks, live_masks))
    assert stats.ks_2samp(*shares).pvalue > 1e-4
    # The levels, where the target is visible and where it is not, against the law itself.
    for levels, masks in ((frozen, frozen_masks), (rendered, live_masks)):
        for seen, mean in ((masks, 120), (~masks, 0)):
            values = levels[seen][:400_000]
            edges = np.arange(-0.5, 256)
            expected = stats.norm.cdf((edges[1:] - mean) / 63.75) - stats.norm.cdf((edges[:-1] - mean) / 63.75)
            expected[0] = stats.norm.cdf((0.5 - mean) / 63.75)
            expected[-1] = stats.norm.sf((254.5 - mean) / 63.75)
            counts = np.bincount(values, minlength=256)
            likely = expected * len(values) > 10
            pull = (counts - expected * len(values))[likely] / np.sqrt(expected[likely] * len(values))
            assert np.abs(pull).max() < 5.5
            assert pull.std() == pytest.approx(1, abs=0.25)


def test_noise_is_independent_between_inputs_and_pixels() -> None:
    (frozen, _), (rendered, _) = frozen_and_live(np.zeros((32, 32, 1), np.uint8), 900)
    for levels in (frozen.astype(float), rendered.astype(float)):
        centred = levels - levels.mean()
        scale = centred.var() * np.sqrt(1 / centred.size)
        assert abs((centred[1:] * centred[:-1]).mean()) < 5 * scale
        assert abs((centred[:, 1:] * centred[:, :-1]).mean()) < 5 * scale
        assert abs((centred[:, :, 1:] * centred[:, :, :-1]).mean()) < 5 * scale
        assert levels.mean() / 255 == pytest.approx(0.25 / np.sqrt(2 * np.pi), abs=0.002)  # half a normal


def test_an_input_is_the_visible_target_plus_noise_clipped_and_rounded() -> None:
    target = np.random.default_rng(0).integers(0, 256, (32, 32, 1), dtype=np.uint8)
    generator = example_generator(0, "test", 0)
    _, inputs, masks = render_example(target, SPEC, 0, "test", 0, 2)
    for k in range(2):
        mask = ellipse_visibility(ellipses_of(LAW, [draw(LAW, generator)]), GRID, GRID)[0]
        noise = 0.25 * generator.standard_normal((32, 32, 1), dtype=np.float32).astype(np.float64)
        levels = 255 * np.clip(target / 255 * mask[..., None] + noise, 0, 1)
        assert np.array_equal(masks[k], mask)
        assert np.abs(inputs[k] - levels).max() <= 0.5 + 1e-4


def test_without_noise_an_input_is_the_visible_part_of_the_target() -> None:
    silent = dataclasses.replace(SPEC, noise_std=0.0)
    target = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 1), dtype=np.uint8)
    rendered = live.render_inputs(
        torch.from_numpy(target).permute(0, 3, 1, 2) / 255, 3, silent, generator=torch_generator()
    )
    expected = torch.from_numpy(target).permute(0, 3, 1, 2)[:, None] / 255 * rendered.masks[:, :, None]
    assert torch.equal(rendered.inputs, expected)
    _, inputs, masks = render_example(target[0], silent, 0, "test", 0)
    assert np.array_equal(inputs, target[0] * masks[..., None])


def test_colours_share_a_mask() -> None:
    silent = dataclasses.replace(SPEC, noise_std=0.0, channels=3)
    rendered = live.render_inputs(torch.ones(2, 3, 32, 32), 2, silent, generator=torch_generator())
    assert rendered.inputs.shape == (2, 2, 3, 32, 32)
    assert torch.equal(rendered.inputs.bool(), rendered.masks[:, :, None].expand(2, 2, 3, 32, 32))
    _, inputs, masks = render_example(np.full((32, 32, 3), 9, np.uint8), silent, 0, "test", 0)
    assert np.array_equal(inputs > 0, np.broadcast_to(masks[..., None], inputs.shape))


def test_a_row_is_a_function_of_seed_split_and_row_and_grows_at_its_end() -> None:
    target = np.full((32, 32, 1), 77, np.uint8)
    eight, three = (render_example(target, SPEC, 4, "test", 9, k) for k in (8, 3))
    assert np.array_equal(eight.inputs[:3], three.inputs)
    assert np.array_equal(eight.masks[:3], three.masks)
    assert len({image.tobytes() for image in eight.inputs}) == 8
    for other in ((5, "test", 9), (4, "valid", 9), (4, "test", 8), (9, "test", 4)):
        assert not np.array_equal(render_example(target, SPEC, *other).masks, three.masks)  # type: ignore[arg-type]


def test_frozen_rows_stay_what_they_are_from_release_to_release() -> None:
    target = (np.arange(1024) % 256).astype(np.uint8).reshape(32, 32, 1)
    masks, inputs = hashlib.sha256(), hashlib.sha256()
    for row in range(10):
        example = render_example(target, SPEC, 0, "test", row)
        masks.update(example.masks.tobytes())
        inputs.update(example.inputs.tobytes())
    # Written down with NumPy 2.4; other digests mean that every published file must be rendered again.
    assert (masks.hexdigest()[:16], inputs.hexdigest()[:16]) == ("3bd496df511f14f3", "83f241f0157e21f0")


def test_large_seeds_do_not_run_into_the_row() -> None:
    assert example_generator(2**32, "test", 0).random() != example_generator(0, "test", 2**32).random()
    with pytest.raises(FusionDatasetsError, match="seeds count from 0"):
        example_generator(-1, "test", 0)


def test_live_inputs_are_reproducible_and_on_8_bit_levels() -> None:
    target = torch.rand(4, 1, 32, 32)
    first, again, other = (
        live.render_inputs(target, 3, SPEC, generator=torch_generator(seed)).inputs for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    levels = torch.arange(256) / 255
    assert torch.isin(first, levels).all()
    assert first.min() == 0
    assert first.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_live_inputs_keep_the_dtype_of_the_target(dtype: torch.dtype) -> None:
    rendered = live.render_inputs(torch.ones(1, 1, 32, 32, dtype=dtype), 2, SPEC, generator=torch_generator())
    assert rendered.inputs.dtype is dtype


def test_no_inputs_are_a_number_of_inputs() -> None:
    inputs, masks = live.render_inputs(torch.rand(4, 1, 32, 32), 0, SPEC, generator=torch_generator())
    assert inputs.shape == (4, 0, 1, 32, 32)
    assert masks.shape == (4, 0, 32, 32)
    assert render_example(np.zeros((32, 32, 1), np.uint8), SPEC, 0, "test", 0, 0).inputs.shape == (0, 32, 32, 1)


@pytest.mark.parametrize(
    "target",
    [
        torch.zeros(1, 1, 32, 32, dtype=torch.uint8),
        *(torch.zeros(shape) for shape in ((32, 32), (1, 28, 28), (2, 1, 28, 28), (2, 32, 32, 1), (2, 1, 64, 64))),
    ],
)
def test_targets_of_another_kind_are_refused(target: torch.Tensor) -> None:
    with pytest.raises(FusionDatasetsError, match=r"FusionMNIST has them in .* \[b, c, 32, 32\]"):
        live.render_inputs(target, 3, SPEC, generator=torch_generator())
    with pytest.raises(FusionDatasetsError, match=r"FusionMNIST has them in .* \[b, c, 32, 32\]"):
        live.render_targets(target, SPEC, generator=torch_generator())
    with pytest.raises(FusionDatasetsError, match="got -1 inputs"):
        live.render_inputs(torch.zeros(1, 1, 32, 32), -1, SPEC, generator=torch_generator())


def test_training_targets_come_larger_where_they_are_turned() -> None:
    tless = BENCHMARKS["fusion-tless"]
    with pytest.raises(FusionDatasetsError, match=r"FusionT-LESS has them in .* \[b, c, 128, 128\]"):
        live.render_targets(torch.zeros(2, 1, 64, 64), tless, generator=torch_generator())


@pytest.mark.cuda
def test_rendering_on_a_device_does_not_wait_for_it() -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    target = torch.rand(100, 1, 32, 32, device="cuda")
    live.render_inputs(target, 3, SPEC, generator=generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        rendered = live.render_inputs(target, 3, SPEC, generator=generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert rendered.masks.float().mean().item() == pytest.approx(0.251, abs=0.02)


def test_training_targets_are_flipped_half_of_the_time_where_the_benchmark_says_so() -> None:
    celeba = BENCHMARKS["fusion-celeba"]
    stored = torch.rand(400, 3, 64, 64, generator=torch_generator())
    targets = live.render_targets(stored, celeba, generator=torch_generator())
    kept, flipped = ((targets == images).all(dim=(1, 2, 3)) for images in (stored, stored.flip(-1)))
    assert (kept ^ flipped).all()
    assert 160 < int(flipped.sum()) < 240
    generator, digits = torch_generator(), torch.rand(4, 1, 32, 32)
    assert live.render_targets(digits, SPEC, generator=generator) is digits
    assert torch.equal(torch.rand(1, generator=generator), torch.rand(1, generator=torch_generator()))
