"""Aggregation is a function of a set."""

import pytest
import torch
from plain import averaged, iterative_fusion
from torch.distributions import Normal

from fusionvae_model.aggregation import GAUSSIAN_FUSIONS, Aggregation, bayes_aggregate, pool

REFERENCES = {
    "max": lambda f: f.amax(dim=1),
    "mean": lambda f: f.mean(dim=1),
    "bayes": lambda f: f,
    "pool": lambda f: f,
}


def gaussians(k, *, log_scales=1.0, dtype=torch.double):
    generator = torch.Generator().manual_seed(0)
    mean, log_scale = torch.randn(2, 3, k, 4, 2, 2, generator=generator, dtype=torch.double).unbind()
    return Normal(mean.to(dtype), (log_scale * log_scales).exp().to(dtype))


@pytest.mark.parametrize("method", REFERENCES)
def test_prefixes_equal_one_aggregation_each(method):
    features = torch.randn(2, 5, 4, 3, 3, dtype=torch.double)
    sizes = (3, 0, 5, 1, 3)
    for size, inputs in zip(sizes, Aggregation(method).prefixes(features, sizes), strict=True):
        if size == 0:
            assert inputs is None
        else:
            assert inputs.num_inputs == size
            torch.testing.assert_close(inputs.features, REFERENCES[method](features[:, :size]))


@pytest.mark.parametrize("method", REFERENCES)
def test_no_input_at_all(method):
    assert Aggregation(method).prefixes(torch.randn(2, 0, 4, 3, 3), (0,)) == [None]


@pytest.mark.parametrize("method", ["max", "mean"])
def test_adding_comes_after_the_inputs_and_joining_puts_u_among_them(method):
    features, u = torch.randn(2, 3, 4, 3, 3, dtype=torch.double), torch.randn(2, 4, 3, 3, dtype=torch.double)
    everything = torch.cat((features, u[:, None]), dim=1)
    for name, expected in (("add", REFERENCES[method](features) + u), ("all", REFERENCES[method](everything))):
        aggregation = Aggregation.from_name(f"{method}-{name}")
        (inputs,) = aggregation.prefixes(features, (3,))
        torch.testing.assert_close(aggregation.merge(inputs, u), expected)
        torch.testing.assert_close(aggregation.merge(inputs, None), REFERENCES[method](features))
        assert aggregation.merge(None, u) is u


@pytest.mark.parametrize("method", GAUSSIAN_FUSIONS)
def test_the_elements_of_a_set_of_gaussians(method):
    features, u = torch.randn(2, 3, 4, 3, 3), torch.randn(2, 4, 3, 3)
    (inputs,) = Aggregation(method).prefixes(features, (3,))
    torch.testing.assert_close(Aggregation(method).merge(inputs, u), features + u[:, None])
    joined = Aggregation(method, joins_all=True).merge(inputs, u)
    torch.testing.assert_close(joined, torch.cat((features, u[:, None]), dim=1))


@pytest.mark.parametrize("k", [1, 2, 3, 8])
@pytest.mark.parametrize(("fuse", "by_the_rule"), [(bayes_aggregate, iterative_fusion), (pool, averaged)])
def test_fusion_equals_its_rule_taken_one_by_one(k, fuse, by_the_rule):
    elements = gaussians(k)
    fused = fuse(elements)
    pairs = zip(elements.loc.unbind(dim=1), elements.scale.unbind(dim=1), strict=True)
    reference = by_the_rule([Normal(mean, scale) for mean, scale in pairs])
    torch.testing.assert_close(fused.loc, reference.loc)
    torch.testing.assert_close(fused.scale, reference.scale)
    torch.testing.assert_close(fused.loc, bayes_aggregate(elements).loc)  # both weigh the means alike


def test_bayesian_fusion_is_the_product_of_the_densities():
    """Up to a constant: the log densities of the elements sum to that of the fused Gaussian everywhere."""
    elements = gaussians(3)
    fused = bayes_aggregate(elements)
    z = torch.linspace(-4, 4, 9, dtype=torch.double).view(-1, 1, 1, 1, 1)
    ratio = elements.log_prob(z[:, None]).sum(dim=2) - fused.log_prob(z)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))


def test_a_pool_counts_what_is_said_twice_once():
    elements = gaussians(3)
    twice = Normal(elements.loc.repeat(1, 2, 1, 1, 1), elements.scale.repeat(1, 2, 1, 1, 1))
    torch.testing.assert_close(pool(twice).scale, pool(elements).scale)
    assert (bayes_aggregate(twice).scale < bayes_aggregate(elements).scale).all()


@pytest.mark.parametrize("fuse", GAUSSIAN_FUSIONS.values())
def test_fusion_does_not_see_the_order(fuse):
    elements, order = gaussians(5), torch.tensor([3, 0, 4, 1, 2])
    there, back = fuse(elements), fuse(Normal(elements.loc[:, order], elements.scale[:, order]))
    torch.testing.assert_close(there.loc, back.loc)
    torch.testing.assert_close(there.scale, back.scale)


@pytest.mark.parametrize("fuse", GAUSSIAN_FUSIONS.values())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fusion_of_tiny_and_huge_variances(dtype, fuse):
    """Scales from e⁻⁴⁰ to e⁴⁰, whose squares neither type holds: as exact as the numbers it is given, and trainable."""
    elements = gaussians(4, log_scales=15.0, dtype=dtype)
    assert elements.scale.min() < 1e-15
    assert elements.scale.max() > 1e15
    exact = fuse(Normal(elements.loc.double(), elements.scale.double()))
    elements.loc.requires_grad_()
    elements.scale.requires_grad_()
    fused = fuse(elements)
    assert fused.loc.dtype == torch.float32
    torch.testing.assert_close(fused.loc.double(), exact.loc, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fused.scale.double(), exact.scale, rtol=1e-4, atol=0)
    (fused.loc.sum() + fused.scale.log().sum()).backward()
    assert elements.loc.grad.isfinite().all()
    assert elements.scale.grad.isfinite().all()
