import numpy as np
import pytest
import torch

from fusionvae_bench.metrics import DrawErrors, calibration_sums
from fusionvae_bench.shared_draws import paired_gain
from fusionvae_bench.summary import calibration_bins, input_gains, summarise
from fusionvae_bench.tiles import SCORE


def sums_of(seed: int, images: int) -> np.ndarray:
    """Return [images, 1, 3] sums over pixels whose errors an image's own difficulty couples."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(0, 200, images)
    squares = [
        difficulty * generator.chisquare(n) if n else 0
        for n, difficulty in zip(counts, generator.gamma(2, 0.01, images), strict=True)
    ]
    return np.stack([counts, 0.02 * counts, squares], 1)[:, None]


def test_a_calibration_point_has_the_error_that_other_images_would_show():
    (point,) = calibration_bins(sums_of(0, 150))
    others = [calibration_bins(sums_of(seed, 150))[0].actual for seed in range(1, 400)]
    assert point.predicted == pytest.approx(np.sqrt(0.02))
    assert point.actual_standard_error == pytest.approx(np.std(others), rel=0.25)
    assert abs(point.actual - np.mean(others)) < 4 * point.actual_standard_error


def test_one_image_has_no_error_and_an_empty_bin_no_point():
    sums = np.zeros((2, 3, 3))
    sums[0, 1], sums[:, 2] = (4, 0.4, 0.9), (5, 0.5, 0.0)
    lone, exact = calibration_bins(sums)
    assert (lone.pixels, lone.actual, lone.actual_standard_error) == (4, pytest.approx(np.sqrt(0.9 / 4)), None)
    assert (exact.actual, exact.actual_standard_error) == (0.0, None)


def test_hidden_pixels_have_an_error_over_the_images_that_have_some():
    scores = np.full((40, 2), np.nan, SCORE)
    scores["mse_hidden"] = np.random.default_rng(0).random((40, 2))
    scores["mse_hidden"][3, 1] = np.nan
    known = np.delete(scores["mse_hidden"], 3, 0).mean(1)
    score = summarise(scores, (1, 2), 16, 1000)
    assert score.mse_hidden_standard_error == pytest.approx(known.std(ddof=1) / np.sqrt(39))
    assert (score.mse_visible, score.mse_visible_standard_error) == (None, None)


def test_without_inputs_images_that_share_their_draws_have_no_error_of_their_own():
    """A lucky pool of draws is lucky for all twenty images of its tile; with inputs, every image has its own."""
    generator = np.random.default_rng(4)
    means, told, plain = [], [], []
    for _ in range(400):
        scores = np.zeros((400, 4), SCORE)
        scores["mse_min"] = generator.normal(0, 1, (400, 4))
        scores["mse_min"][:, 0] += np.repeat(generator.normal(0, 1, 20), 20)
        scores["mse_hidden"] = scores["mse_mean"] = -scores["mse_min"]
        without, averaged = (
            summarise(scores[:, columns], counts, 16, 100, rows=range(400))
            for columns, counts in (([0], (0,)), ([0, 1, 2, 3], (0, 1, 2, 3)))
        )
        gain = next(gain for gain in input_gains(scores, (0, 1, 2, 3), rows=range(400)) if gain.metric == "mse_min")
        means.append((without.mse_min, averaged.mse_min, gain.mean))
        told.append((without.mse_min_standard_error, averaged.mse_min_standard_error, gain.standard_error))
        for summary in (without, averaged):
            assert summary.mse_mean_standard_error == pytest.approx(summary.mse_min_standard_error)
            assert summary.mse_hidden_standard_error == pytest.approx(summary.mse_min_standard_error)
        plain.append(summarise(scores[:, [0]], (0,), 16, 100).mse_min_standard_error)
    assert np.mean(told, 0) == pytest.approx(np.std(means, 0), rel=0.1)
    assert np.mean(plain) < 0.5 * np.std(means, 0)[0]
    with_inputs = summarise(scores[:, [1]], (1,), 16, 100, rows=range(400))
    assert with_inputs.mse_min_standard_error == summarise(scores[:, [1]], (1,), 16, 100).mse_min_standard_error


def test_every_number_of_a_score_is_the_one_its_name_says():
    """Three images with one and two inputs; what should be a median is far from its mean."""
    scores = np.zeros((3, 2), SCORE)
    scores["nll_nats"] = [[80, 70], [90, 60], [100, 80]]
    scores["nll_sampling_error"] = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
    scores["ess"] = [[1, 2], [3, 4], [5, 93]]
    scores["pareto_k"] = [[0.1, 0.2], [0.3, 0.9], [0.4, 5.0]]
    scores["mse_min"] = [[0.01, 0.03], [0.02, 0.04], [0.06, 0.08]]
    scores["mse_one"], scores["mse_mean"] = 3 * scores["mse_min"], 2 * scores["mse_min"]
    scores["pixel_standard_deviation"] = [[0.1, 0.3], [0.1, 0.1], [0.2, 0.2]]
    scores["mse_visible"] = [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]
    scores["mse_hidden"] = [[0.1, np.nan], [0.3, 0.4], [np.nan, np.nan]]
    score = summarise(scores, (1, 2), 16, 100)
    assert score.nll_nats == pytest.approx(80)
    assert score.nll_bits_per_dim == pytest.approx(80 / 16 / np.log(2))
    assert score.nll_standard_error == pytest.approx(np.std([75, 75, 90], ddof=1) / 3**0.5)
    squares = [0.01, 0.04, 0.09, 0.16, 0.25, 0.36]
    assert score.nll_sampling_error == pytest.approx((np.mean(squares) / 3) ** 0.5)  # common to both numbers of inputs
    assert score.nll_bias_nats == pytest.approx(np.mean(squares) / 2)
    assert (score.ess, score.ess_median) == (pytest.approx(18), pytest.approx(3.5))
    assert score.pareto_k == pytest.approx(0.35)
    reliable = min(1 - 1 / np.log10(100), 0.7)
    assert score.pareto_k_unreliable_share == pytest.approx(np.mean(scores["pareto_k"] > reliable))
    assert 0 < score.pareto_k_unreliable_share < 0.5
    assert (score.mse_min, score.mse_one, score.mse_mean) == pytest.approx((0.04, 0.12, 0.08))
    assert score.mse_min_standard_error == pytest.approx(np.std([0.02, 0.03, 0.07], ddof=1) / 3**0.5)
    assert score.pixel_standard_deviation == pytest.approx((0.2 / 6) ** 0.5)
    assert score.mse_visible == pytest.approx(0.35)
    assert score.mse_hidden == pytest.approx(np.mean([np.mean([0.1, 0.3]), 0.4]))


def test_pixels_are_sorted_into_bins_that_reach_to_a_half():
    spread = torch.tensor([0.0, 0.024, 0.026, 0.26, 0.499, 0.5]).reshape(1, 1, 1, 6)
    nothing = torch.zeros(1)
    errors = DrawErrors(nothing, nothing, nothing, torch.zeros_like(spread), spread)
    counts = calibration_sums(errors, torch.full_like(spread, 0.1), 20)[0, :, 0]
    assert np.flatnonzero(counts).tolist() == [0, 1, 10, 19]
    assert counts[[0, 1, 10, 19]].tolist() == [2, 1, 1, 2]


def test_a_tie_is_no_improvement():
    assert paired_gain(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 1.0, 3.0, 5.0])).share_improved == 0.25
