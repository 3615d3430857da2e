"""Densities: they sum or integrate to one, agree with torch where torch has them, and keep their floors."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli, Normal, kl_divergence

from fusionvae_model.distributions import GreyBernoulli, bounded_normal, normal_kl


def test_grey_bernoulli_sums_to_one_over_its_support():
    logits = torch.randn(4, 1, 3, 3) * 5
    likelihood = GreyBernoulli(logits)
    total = sum(likelihood.log_prob(torch.full_like(logits, level)).exp() for level in (0.0, 1.0))
    torch.testing.assert_close(total, torch.ones(4, 3, 3))


def test_grey_bernoulli_agrees_with_torch_on_binary_images_and_with_the_formula_on_grey_ones():
    logits = torch.randn(2, 3, 4, 4, dtype=torch.double)
    binary = (torch.rand(2, 3, 4, 4) > 0.5).double()
    expected = Bernoulli(logits=logits).log_prob(binary).sum(dim=1)
    torch.testing.assert_close(GreyBernoulli(logits).log_prob(binary).double(), expected, rtol=1e-5, atol=1e-5)
    grey, pi = torch.rand(2, 3, 4, 4, dtype=torch.double), torch.sigmoid(logits)
    expected = (grey * pi.log() + (1 - grey) * (1 - pi).log()).sum(dim=1)
    torch.testing.assert_close(GreyBernoulli(logits).log_prob(grey).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(GreyBernoulli(logits).mean, pi)


def test_grey_bernoulli_is_best_at_the_grey_value_where_it_costs_its_entropy():
    grey = torch.tensor([0.1, 0.5, 0.9]).view(1, 1, 1, 3)
    logits = torch.logit(grey).requires_grad_()
    log_prob = GreyBernoulli(logits).log_prob(grey).sum()
    (gradient,) = torch.autograd.grad(log_prob, logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)
    entropy = -sum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in (0.1, 0.5, 0.9))
    assert -log_prob.item() == pytest.approx(entropy, rel=1e-5)


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
@settings(max_examples=100, deadline=None)
def test_bounded_normal_stays_in_its_bounds(mean, log_scale):
    normal = bounded_normal(torch.tensor([mean, log_scale]).view(1, 2, 1, 1))
    assert abs(normal.loc.item()) <= 5
    assert 0.0167 < normal.scale.item() < 148.5


def test_bounded_normal_is_the_soft_clamp_with_a_floor_on_the_scale():
    parameters = torch.randn(2, 6, 3, 3) * 4
    normal = bounded_normal(parameters)
    torch.testing.assert_close(normal.loc, 5 * torch.tanh(parameters[:, :3] / 5))
    torch.testing.assert_close(normal.scale, torch.exp(5 * torch.tanh(parameters[:, 3:] / 5)) + 0.01)


def test_normal_kl_agrees_with_torch_and_vanishes_where_equal():
    q = Normal(torch.randn(100), torch.rand(100) + 0.01)
    p = Normal(torch.randn(100), torch.rand(100) + 0.01)
    torch.testing.assert_close(normal_kl(q, p), kl_divergence(q, p))
    assert torch.equal(normal_kl(q, q), torch.zeros(100))


@given(st.integers(0, 2**31), st.floats(1e-4, 1e4))
@settings(max_examples=50, deadline=None)
def test_normal_kl_is_not_negative(seed, spread):
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.rand(64, generator=generator) for _ in range(4)]
    q, p = Normal(draw[0], draw[1] * spread + 0.01), Normal(draw[2], draw[3] * spread + 0.01)
    assert normal_kl(q, p).min() > -1e-5
