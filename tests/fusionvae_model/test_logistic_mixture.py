"""The discretised logistic mixture: a distribution over 256 levels, exact and finite whatever its parameters."""

import math
from decimal import MAX_EMAX, MIN_EMIN, Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusionvae_model.distributions import DiscretizedLogisticMixture

EXTREMES = (-1e6, -1e3, -30.0, -7.0, -1.0, 0.0, 0.3, 5.0, 30.0, 1e3, 1e6)
LEVELS = torch.arange(256) / 255


def parameters(channels, *, seed=0, spread=1.0, size=2, batch=1):
    generator = torch.Generator().manual_seed(seed)
    count = DiscretizedLogisticMixture.num_parameters(channels)
    return spread * torch.randn(batch, count, size, size, generator=generator)


def of_fewer_channels(raw, channels):
    """The parameters of the first channels alone: the same components, means, scales and coefficients."""
    logits, means, log_scales, coefficients = raw.unflatten(1, (-1, 10)).split((1, 3, 3, 3), dim=1)
    kept = (logits, means[:, :channels], log_scales[:, :channels], coefficients[:, : channels * (channels - 1) // 2])
    return torch.cat(kept, dim=1).flatten(1, 2)


def every_level(known):
    """Images whose first channels are known and whose next one runs through all levels, ``[256, c + 1, h, w]``."""
    known = known.expand(256, -1, -1, -1)
    return torch.cat((known, LEVELS.view(256, 1, 1, 1).expand(-1, 1, *known.shape[2:])), dim=1)


def assert_sums_to_one(raw, image):
    """Channel by channel: the mass of all blues is that of the red and green before, and so on down to one."""
    for channels in (3, 2, 1):
        with_all = DiscretizedLogisticMixture(of_fewer_channels(raw, channels).expand(256, -1, -1, -1))
        total = with_all.log_prob(every_level(image[:, : channels - 1])).double().logsumexp(dim=0)
        expected = torch.zeros_like(total)
        if channels > 1:
            before = DiscretizedLogisticMixture(of_fewer_channels(raw, channels - 1))
            expected = before.log_prob(image[:, : channels - 1])[0].double()
        torch.testing.assert_close(total, expected, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("spread", [0.3, 1.0, 5.0, 30.0])
def test_each_channel_sums_to_one_for_random_parameters(spread):
    image = torch.randint(0, 256, (1, 3, 4, 4), generator=torch.Generator().manual_seed(1)) / 255
    assert_sums_to_one(parameters(3, spread=spread, size=4), image)


@given(
    st.lists(st.sampled_from(EXTREMES), min_size=100, max_size=100),
    st.tuples(*[st.sampled_from((0, 1, 128, 254, 255))] * 3),
)
@settings(max_examples=60)
def test_each_channel_sums_to_one_for_extreme_parameters(values, levels):
    assert_sums_to_one(torch.tensor(values).view(1, 100, 1, 1), torch.tensor(levels).view(1, 3, 1, 1) / 255)


@given(
    st.lists(st.sampled_from(EXTREMES), min_size=100, max_size=100),
    st.tuples(*[st.sampled_from((0, 1, 128, 254, 255))] * 3),
)
@settings(max_examples=60)
def test_value_and_gradient_are_finite_everywhere(values, levels):
    raw = torch.tensor(values).view(1, 100, 1, 1).requires_grad_()
    likelihood = DiscretizedLogisticMixture(raw)
    log_prob = likelihood.log_prob(torch.tensor(levels).view(1, 3, 1, 1) / 255)
    (gradient,) = torch.autograd.grad(log_prob.sum() + likelihood.mean.sum(), raw)
    assert log_prob.isfinite().all()
    assert gradient.isfinite().all()
    assert 0 <= likelihood.mean.min() <= likelihood.mean.max() <= 1


def plain_log_probability(raw, levels):
    """``log p(r, g, b)`` of one pixel from cumulative distributions, written out from Salimans et al. (2017).

    Means and coefficients are in float64. Masses are differences of values below one half, in 60 decimal digits with
    exponents without bounds, so that neither tails nor flat components cancel.
    """
    numbers = raw.astype(np.float64).reshape(10, 10)
    x = [2 * level / 255 - 1 for level in levels]
    coefficients = np.tanh(numbers[7:])
    centres = (
        numbers[1],
        numbers[2] + coefficients[0] * x[0],
        numbers[3] + coefficients[1] * x[0] + coefficients[2] * x[1],
    )
    with localcontext(prec=60, Emin=MIN_EMIN, Emax=MAX_EMAX):
        weights = [(Decimal(logit) - Decimal(numbers[0].max())).exp() for logit in numbers[0]]
        total = Decimal(0)
        for component, weight in enumerate(weights):
            mass = weight / sum(weights)
            for channel in range(3):
                scale = Decimal(math.exp(min(max(-7.0, numbers[4 + channel][component]), 40.0)))
                centre = Decimal(centres[channel][component])
                upper, lower = ((Decimal(2 * levels[channel] + edge) / 255 - 1 - centre) / scale for edge in (1, -1))
                if levels[channel] == 255:
                    mass *= logistic(-lower)
                elif levels[channel] == 0:
                    mass *= logistic(upper)
                elif lower > 0:
                    mass *= logistic(-lower) - logistic(-upper)
                else:
                    mass *= logistic(upper) - logistic(lower)
            total += mass
        return float(total.ln())


def logistic(x):
    return 1 / (1 + (-x).exp())


@pytest.mark.parametrize("levels", [(0, 0, 0), (255, 255, 255), (254, 1, 255), (17, 200, 90), (128, 127, 0)])
@pytest.mark.parametrize("spread", [1.0, 5.0, 30.0])
def test_agrees_with_a_plain_reference_in_higher_precision(levels, spread):
    raw = parameters(3, seed=5, spread=spread, size=1, batch=20)
    ours = DiscretizedLogisticMixture(raw).log_prob(torch.tensor(levels).view(1, 3, 1, 1).expand(20, -1, 1, 1) / 255)
    for row, value in zip(raw, ours, strict=True):
        assert value.item() == pytest.approx(plain_log_probability(row.numpy(), levels), rel=1e-5, abs=1e-3)


@given(
    st.lists(st.sampled_from(EXTREMES), min_size=100, max_size=100),
    st.tuples(*[st.sampled_from((0, 1, 128, 254, 255))] * 3),
)
@settings(max_examples=60)
def test_agrees_with_the_reference_for_extreme_parameters(values, levels):
    """Logarithms down to −10⁹, relative to their size; beside them float32 rounds centres by a share of a scale."""
    raw = torch.tensor(values).view(1, 100, 1, 1)
    ours = DiscretizedLogisticMixture(raw).log_prob(torch.tensor(levels).view(1, 3, 1, 1) / 255)
    assert ours.item() == pytest.approx(plain_log_probability(raw.numpy(), levels), rel=1e-5, abs=1e-3)


def test_double_parameters_stay_double():
    raw, image = parameters(3).double(), torch.rand(1, 3, 2, 2).double()
    assert DiscretizedLogisticMixture(raw).log_prob(image).dtype == torch.double
    assert DiscretizedLogisticMixture(raw.bfloat16()).log_prob(image).dtype == torch.float32


@pytest.mark.parametrize("spread", [0.5, 2.0, 10.0])
def test_the_mean_of_grey_is_within_half_a_level(spread):
    raw = parameters(1, seed=3, spread=spread, size=8)
    likelihood = DiscretizedLogisticMixture(raw)
    probabilities = DiscretizedLogisticMixture(raw.expand(256, -1, -1, -1)).log_prob(
        LEVELS.view(256, 1, 1, 1).expand(-1, 1, 8, 8)
    )
    exact = (probabilities.double().exp() * LEVELS.double().view(256, 1, 1)).sum(dim=0)
    assert (likelihood.mean[0, 0] - exact).abs().max() < 0.501 / 255


def test_samples_follow_the_density():
    raw = parameters(1, seed=2, size=1)
    many = DiscretizedLogisticMixture(raw.expand(-1, -1, 400, 500)).sample(generator=torch.Generator().manual_seed(0))
    observed = torch.bincount((255 * many).round().long().flatten(), minlength=256).double()
    likelihood = DiscretizedLogisticMixture(raw.expand(256, -1, -1, -1))
    expected = 200_000 * likelihood.log_prob(LEVELS.view(256, 1, 1, 1)).double().exp().flatten()
    chi_square = ((observed - expected).square() / expected.clamp(min=1)).sum()
    assert chi_square < 255 + 5 * math.sqrt(2 * 255)


def test_samples_of_colours_have_the_mean_and_the_entropy_of_the_density():
    """The mean of colours is conditioned on means, not on colours: within 3 levels where the cut is felt."""
    raw = parameters(3, seed=4, spread=0.5, size=1)
    raw[:, 40:70] -= 2  # scales of e⁻² of half the range
    likelihood = DiscretizedLogisticMixture(raw.expand(-1, -1, 200, 200))
    drawn = likelihood.sample(generator=torch.Generator().manual_seed(0))
    assert torch.equal((255 * drawn).round() / 255, drawn)
    difference = drawn.mean(dim=(2, 3)) - likelihood.mean[:, :, 0, 0]
    assert difference.abs().max() < 3 / 255
    # The reference gives the same average log-probability of the same draws.
    pixels = (255 * drawn[0, :, :10, :40]).round().int().flatten(1).T.tolist()
    reference = [plain_log_probability(raw[0].numpy(), pixel) for pixel in pixels]
    ours = likelihood.log_prob(drawn)[0, :10, :40].mean()
    assert ours.item() == pytest.approx(sum(reference) / len(reference), abs=1e-3)


def test_colours_depend_on_the_channels_before_them():
    """Red shifts green's mean by tanh of its coefficient, in every component."""
    raw = torch.zeros(1, 100, 1, 1)
    raw[:, 40:70] = -6.0
    raw[:, 10:20], raw[:, 70:80] = 0.5, math.atanh(0.4)
    mean = DiscretizedLogisticMixture(raw).mean[0, :, 0, 0]
    torch.testing.assert_close(mean, torch.tensor([0.75, (1 + 0.4 * 0.5) / 2, 0.5]), rtol=0, atol=2e-3)
