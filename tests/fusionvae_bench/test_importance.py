import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from fusionvae_bench.importance import (
    ImportanceStream,
    estimate_from_weights,
    fit_generalised_pareto,
    reliable_pareto_k,
    tail_length,
)


def weights_of(seed: int, *shape: int, scale: float = 3.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal(shape)


def test_fewer_samples_bear_less_of_a_tail():
    assert [reliable_pareto_k(s) for s in (1, 10, 100, 1000, 10**6)] == pytest.approx([0, 0, 0.5, 2 / 3, 0.7])


def test_log_mean_is_that_of_scipy_far_from_zero():
    weights = weights_of(0, 3, 4, 500) - 1e4
    expected = special.logsumexp(weights, -1) - np.log(500)
    np.testing.assert_allclose(estimate_from_weights(weights).log_mean, expected, rtol=1e-14)


@settings(max_examples=50)
@given(
    cuts=st.lists(st.integers(1, 299), max_size=12, unique=True),
    offset=st.floats(-1e5, 1e5),
    seed=st.integers(0, 1000),
    rising=st.booleans(),
)
def test_streamed_equals_one_shot_however_it_is_cut(cuts, offset, seed, rising):
    weights = weights_of(seed, 2, 300, scale=20.0) + offset
    if rising:  # each chunk outweighs all before
        weights = np.sort(weights, -1)
    stream = ImportanceStream((2,), 300)
    for chunk in np.split(weights, sorted(cuts), axis=-1):
        stream.update(chunk)
    streamed, whole = stream.estimate(), estimate_from_weights(weights)
    np.testing.assert_allclose(streamed.log_mean, whole.log_mean, rtol=0, atol=1e-9)
    for name in ("standard_error", "effective_sample_size", "pareto_k"):
        np.testing.assert_allclose(getattr(streamed, name), getattr(whole, name), rtol=1e-9, atol=1e-12)


def test_the_memory_of_a_stream_does_not_grow_with_the_samples():
    stream = ImportanceStream((7,), 100_000)
    for _ in range(100):
        stream.update(weights_of(1, 7, 1000))
    held = sum(value.nbytes for value in vars(stream).values() if isinstance(value, np.ndarray))
    assert held <= 8 * 7 * (3 + tail_length(100_000) + 1)


def test_effective_sample_size_and_standard_error_follow_their_formulas():
    weights = np.exp(log := weights_of(2, 5, 64))
    estimate = estimate_from_weights(log)
    np.testing.assert_allclose(estimate.effective_sample_size, weights.sum(-1) ** 2 / (weights**2).sum(-1), rtol=1e-12)
    np.testing.assert_allclose(
        estimate.standard_error, weights.std(-1, ddof=1) / weights.mean(-1) / np.sqrt(64), rtol=1e-12
    )


def test_equal_weights_have_no_variance_and_no_tail():
    estimate = estimate_from_weights(np.full((3, 100), -123.456))
    np.testing.assert_array_equal(estimate.standard_error, 0.0)
    np.testing.assert_array_equal(estimate.effective_sample_size, 100.0)
    np.testing.assert_array_equal(estimate.pareto_k, 0.0)
    np.testing.assert_allclose(estimate.log_mean, -123.456, rtol=1e-15)


def test_one_dominating_weight_counts_as_one_sample():
    weights = np.zeros(50)
    weights[17] = 700.0
    assert estimate_from_weights(weights).effective_sample_size == pytest.approx(1.0)


def test_a_single_sample_has_no_standard_error():
    estimate = estimate_from_weights(np.array([[1.5]]))
    assert estimate.log_mean == 1.5
    assert np.isnan(estimate.standard_error)
    assert np.isnan(estimate.pareto_k)


def test_the_delta_method_predicts_the_spread_of_the_log_estimate():
    estimate = estimate_from_weights(weights_of(3, 4000, 400, scale=0.7))
    assert estimate.log_mean.std() == pytest.approx(estimate.standard_error.mean(), rel=0.05)


@pytest.mark.parametrize("shape", [-0.3, 0.1, 0.5, 1.0, 1.5])
def test_the_fit_recovers_the_shape_of_generalised_pareto_samples(shape):
    samples = stats.genpareto.rvs(shape, scale=2.0, size=(200, 400), random_state=np.random.default_rng(4))
    found, scale = fit_generalised_pareto(np.sort(samples, -1))
    assert found.mean() == pytest.approx(shape, abs=0.03)
    assert scale.mean() == pytest.approx(2.0, rel=0.05)


def test_the_fit_agrees_with_maximum_likelihood():
    samples = np.sort(stats.genpareto.rvs(0.6, size=2000, random_state=np.random.default_rng(5)))
    shape, _, scale = stats.genpareto.fit(samples, floc=0)
    found = fit_generalised_pareto(samples)
    assert found[0] == pytest.approx(shape, abs=0.02)
    assert found[1] == pytest.approx(scale, rel=0.03)


def test_pareto_k_is_the_published_recipe_step_by_step():
    log_weights = weights_of(9, 1000, scale=1.5)
    tail = math.ceil(min(1000 / 5, 3 * math.sqrt(1000)))
    ordered = sorted(math.exp(w - log_weights.max()) for w in log_weights)
    excess = [w - ordered[-tail - 1] for w in ordered[-tail:]]
    quartile, grid = excess[math.floor(tail / 4 + 0.5) - 1], 30 + math.floor(math.sqrt(tail))
    candidates = []
    for j in range(1, grid + 1):
        theta = 1 / excess[-1] + (1 - math.sqrt(grid / (j - 0.5))) / (3 * quartile)
        k = sum(math.log(1 - theta * x) for x in excess) / tail
        candidates.append((theta, tail * (math.log(-theta / k) - k - 1)))
    best = max(score for _, score in candidates)
    mass = [math.exp(score - best) for _, score in candidates]
    theta = sum(t * m for (t, _), m in zip(candidates, mass, strict=True)) / sum(mass)
    k = sum(math.log(1 - theta * x) for x in excess) / tail
    expected = (tail * k + 10 * 0.5) / (tail + 10)
    assert estimate_from_weights(log_weights).pareto_k == pytest.approx(expected, rel=1e-9)


def spread_evenly(tail: float | str, count: int) -> np.ndarray:
    """Return log weights at evenly spread quantiles of a Pareto law, the uniform law (0) or a log-normal one."""
    quantiles = (np.arange(count) + 0.5) / count
    if tail == "log-normal":
        return 4 * stats.norm.ppf(quantiles) - 90
    return np.log(quantiles) if tail == 0 else 300 - tail * np.log1p(-quantiles)


@pytest.mark.parametrize(
    ("tail", "count", "expected"),
    [
        (0.3, 1000, 0.3235606438),
        (0.9, 1000, 0.8442664334),
        (1.5, 100, 1.0646752699),
        ("log-normal", 1000, 1.4443162990),
        (0, 200, -0.6360133061),
    ],
)
def test_pareto_k_is_that_of_arviz(tail, count, expected):
    """Reference values: ``arviz.psislw(log_weights)[1]`` of arviz 0.23.4 for the same weights."""
    assert estimate_from_weights(spread_evenly(tail, count)).pareto_k == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("tail", "is_heavy"), [(0.2, False), (0.4, False), (1.2, True), (2.0, True)])
def test_pareto_k_tells_heavy_tails_from_light_ones(tail, is_heavy):
    weights = stats.genpareto.rvs(tail, size=(100, 4000), random_state=np.random.default_rng(6))
    share = (estimate_from_weights(np.log(weights)).pareto_k > 0.7).mean()
    assert share > 0.9 if is_heavy else share < 0.1


def test_pareto_k_survives_weights_that_underflow():
    weights = weights_of(7, 10, 1000, scale=5000.0)
    assert (estimate_from_weights(weights).pareto_k > 0.7).all()


def test_pareto_k_needs_enough_samples():
    assert np.isnan(estimate_from_weights(weights_of(8, 20)).pareto_k)
    assert np.isfinite(estimate_from_weights(weights_of(8, 25)).pareto_k)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="not finite"):
        estimate_from_weights(np.array([0.0, bad]))


def test_more_samples_than_announced_are_refused():
    stream = ImportanceStream((1,), 10)
    stream.update(np.zeros((1, 8)))
    with pytest.raises(ValueError, match="11 samples, expected the 10"):
        stream.update(np.zeros((1, 3)))
