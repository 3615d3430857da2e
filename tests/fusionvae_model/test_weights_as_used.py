"""Weights computed for all convolutions at once are those that each computes by itself, and so are their gradients."""

import torch

from fusionvae_model.layers import WeightNormConv2d
from fusionvae_model.weights_as_used import WeightsAsUsed


def gradients(model, bound):
    return torch.autograd.grad(-bound.nats.mean(), list(model.parameters()), allow_unused=True)


def test_a_model_computes_the_same_with_weights_in_place(tiny_model):
    target, inputs = torch.rand(4, 1, 16, 16), torch.rand(4, 2, 1, 16, 16)
    tiny_model.train()

    def bound():
        return tiny_model(target, inputs, generator=torch.Generator().manual_seed(1))

    alone = bound()
    expected = gradients(tiny_model, alone)
    with WeightsAsUsed(tiny_model).in_place():
        together = bound()
        found = gradients(tiny_model, together)
    torch.testing.assert_close(together.nats, alone.nats, rtol=1e-5, atol=1e-4)
    for ours, reference in zip(found, expected, strict=True):
        assert (ours is None) == (reference is None)
        if ours is not None:
            torch.testing.assert_close(ours, reference, rtol=1e-3, atol=1e-3)


def test_weights_are_handed_out_and_taken_back_channels_last(tiny_model):
    convolutions = [module for module in tiny_model.modules() if isinstance(module, WeightNormConv2d)]
    alone = [convolution.effective_weight() for convolution in convolutions]
    with WeightsAsUsed(tiny_model).in_place():
        for convolution, weight in zip(convolutions, alone, strict=True):
            assert convolution.effective_weight() is convolution.computed_weight
            torch.testing.assert_close(convolution.computed_weight, weight)
            assert convolution.computed_weight.stride(1) == 1
    assert all(convolution.computed_weight is None for convolution in convolutions)
