"""The objective's pieces against their definitions and against linear algebra."""

import pytest
import torch
from torch import nn

from fusionvae_model import Bound, FusionVAE
from fusionvae_model.layers import WeightNormConv2d
from fusionvae_model.objective import (
    SpectralRegularizer,
    balancing_weights,
    batch_norm_regularizer,
    beta,
    group_gamma,
    negative_elbo,
)
from fusionvae_model.weights_as_used import WeightsAsUsed


@pytest.mark.parametrize(("step", "expected"), [(0, 1e-4), (15, 0.05), (150, 0.5), (300, 1.0), (999, 1.0)])
def test_beta_rises_linearly_over_the_first_thirty_percent(step, expected):
    assert beta(step, 1000, fraction=0.3, floor=1e-4) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [((2, 5), [1, 1] + [1.6] * 5), ((2, 5, 10), [1, 1] + [1.6] * 5 + [3.2] * 10), ((1,), [1])],
)
def test_gamma_has_the_published_values(groups, expected):
    assert group_gamma(groups) == pytest.approx(expected)


def test_balancing_weights_have_mean_one_favour_large_kl_and_carry_no_gradient():
    kl = torch.tensor([[1.0, 4.0, 2.0], [3.0, 4.0, 0.0]], requires_grad=True)
    gamma = torch.tensor([1.0, 1.0, 1.6])
    weights = balancing_weights(kl.mean(dim=0), gamma)
    raw = torch.tensor([2.01, 4.01, 1.01 / 1.6])
    torch.testing.assert_close(weights, raw / raw.mean())
    assert weights.mean().item() == pytest.approx(1)
    assert not weights.requires_grad


def test_negative_elbo_is_plain_after_warm_up_and_balanced_during_it():
    log_likelihood, kl = torch.tensor([-3.0, -5.0]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    bound, gamma = Bound(log_likelihood, kl), torch.tensor([1.0, 1.6])
    assert negative_elbo(bound, gamma, beta=1.0).item() == pytest.approx(-bound.nats.mean().item())
    alpha = balancing_weights(kl.mean(dim=0), gamma)
    expected = 4.0 + 0.5 * (alpha[0] * 2 + alpha[1] * 3).item()
    assert negative_elbo(bound, gamma, beta=0.5).item() == pytest.approx(expected)


def test_parts_of_a_batch_are_balanced_by_the_whole():
    noise = torch.Generator().manual_seed(0)
    whole = Bound(torch.randn(6, generator=noise), torch.rand(6, 2, generator=noise))
    parts = [Bound(whole.log_likelihood[rows], whole.kl[rows]) for rows in (slice(0, 3), slice(3, 6))]
    gamma, mean_kl = torch.tensor([1.0, 1.6]), whole.kl.mean(dim=0)
    sum_of_parts = sum(negative_elbo(part, gamma, beta=0.5, mean_kl=mean_kl) for part in parts) / 2
    torch.testing.assert_close(sum_of_parts, negative_elbo(whole, gamma, beta=0.5))


def test_spectral_regulariser_is_the_sum_of_largest_singular_values(tiny_model):
    used = WeightsAsUsed(tiny_model)
    regularizer = SpectralRegularizer(used.compute(), generator=torch.Generator().manual_seed(0))
    for _ in range(50):
        value = regularizer(used.compute())
    weights = [
        module.effective_weight() if isinstance(module, WeightNormConv2d) else module.weight
        for module in tiny_model.modules()
        if isinstance(module, WeightNormConv2d | nn.Conv2d)
    ]
    expected = sum(torch.linalg.matrix_norm(weight.flatten(1), ord=2) for weight in weights)
    assert value.item() == pytest.approx(expected.item(), rel=1e-3)
    gradients = torch.autograd.grad(value, [tiny_model.encoder.stem.weight, tiny_model.encoder.stem.log_norm])
    exact = torch.autograd.grad(expected, [tiny_model.encoder.stem.weight, tiny_model.encoder.stem.log_norm])
    for ours, reference in zip(gradients, exact, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 4, 9), (1, 9, 4)])
def test_a_weight_that_was_zero_for_a_while_counts_again_when_it_has_grown(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    regularizer = SpectralRegularizer([weight], generator=torch.Generator().manual_seed(0))
    assert regularizer([torch.zeros(shape)]) == 0
    for _ in range(30):
        value = regularizer([weight])
    assert float(value) == pytest.approx(float(torch.linalg.matrix_norm(weight[0], ord=2)), rel=1e-3)


def test_spectral_regulariser_covers_every_convolution_of_the_preset():
    model = FusionVAE.from_preset("fusion-mnist")
    regularizer = SpectralRegularizer(WeightsAsUsed(model).compute(), generator=torch.Generator().manual_seed(0))
    covered = sum(len(buffer) for name, buffer in regularizer.named_buffers() if name.startswith("left"))
    assert covered == 92  # the peers' 91 and the prior head of group 1


def test_batch_norm_regulariser_is_the_sum_of_largest_gains(tiny_model):
    norms = [module for module in tiny_model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.normal_(norm.weight)
    expected = sum(norm.weight.abs().max().item() for norm in norms)
    assert batch_norm_regularizer(tiny_model).item() == pytest.approx(expected, rel=1e-6)
