"""The cells against their definitions, written out plainly (method: table of cells; peers: parameter counts)."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from variants import with_spoiled_statistics

from fusionvae_model.depthwise import NARROWEST, DepthwiseConv2d
from fusionvae_model.layers import DecoderCell, DownCell, EncoderCell, SqueezeExcitation, UpCell, WeightNormConv2d
from fusionvae_model.pointwise import FEWEST_PIXELS, PointwiseConv2d


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# Published shapes and counts of each part at the FusionMNIST setting (instantiated from NVAE's description).
@pytest.mark.parametrize(
    ("module", "parameters"),
    [
        (WeightNormConv2d(1, 8, 3), 88),
        (DownCell(8), 3_876),
        (DownCell(16), 14_916),
        (EncoderCell(32), 18_980),
        (DownCell(32), 58_500),
        (EncoderCell(64), 74_820),
        (WeightNormConv2d(64, 64, 1), 4_224),
        (WeightNormConv2d(64, 20, 3), 11_560),
        (WeightNormConv2d(74, 64, 1), 4_864),
        (DecoderCell(64, expansion=6), 61_124),
        (UpCell(64, expansion=6), 50_564),
        (DecoderCell(32, expansion=6), 18_276),
        (WeightNormConv2d(32, 32, 1), 1_088),
        (WeightNormConv2d(32, 20, 3), 5_800),
        (WeightNormConv2d(42, 32, 1), 1_408),
        (UpCell(32, expansion=3), 8_164),
        (UpCell(16, expansion=3), 2_804),
        (WeightNormConv2d(8, 1, 3), 74),
        # FusionCelebA
        (DownCell(64), 232_712),
        (EncoderCell(128), 298_120),
        (DownCell(128), 928_272),
        (EncoderCell(256), 1_190_160),
        (DecoderCell(256, expansion=6), 840_464),
        (UpCell(256, expansion=6), 670_216),
    ],
)
def test_parameter_counts_of_the_peers(module, parameters):
    assert count(module) == parameters


def test_weight_norm_formula_and_initial_norm():
    torch.manual_seed(0)
    conv = WeightNormConv2d(5, 7, 3)
    with torch.no_grad():
        conv.log_norm.uniform_(-1, 1)
    effective = conv.effective_weight()
    norms = conv.weight.flatten(1).norm(dim=1)
    expected = conv.log_norm.exp()[:, None, None, None] * conv.weight / (norms + 1e-5)[:, None, None, None]
    torch.testing.assert_close(effective, expected)
    torch.testing.assert_close(effective.flatten(1).norm(dim=1), conv.log_norm.exp(), rtol=1e-4, atol=0)
    x = torch.randn(2, 5, 8, 8)
    torch.testing.assert_close(conv(x), F.conv2d(x, expected, conv.bias, padding=1))


def test_weight_norm_starts_at_the_initial_weight():
    torch.manual_seed(0)
    conv = WeightNormConv2d(64, 64, 3)
    ratio = conv.effective_weight().flatten(1).norm(dim=1) / conv.weight.flatten(1).norm(dim=1)
    assert ratio.mean().item() == pytest.approx(1.017, abs=0.002)  # the published figure


def test_squeeze_excitation_hidden_width():
    assert SqueezeExcitation(32).squeeze.out_features == 4
    assert SqueezeExcitation(128).squeeze.out_features == 8


@pytest.mark.parametrize("training", [True, False])
def test_up_cell_equals_the_plain_order(training):
    """Nearest upsampling first, then the whole decoder cell; bilinear upsampling first, then the skip's 1×1."""
    torch.manual_seed(0)
    cell = with_spoiled_statistics(UpCell(8, expansion=3).double()).train(training)
    f = torch.randn(3, 8, 4, 6, dtype=torch.double)
    nearest = F.interpolate(f, scale_factor=2, mode="nearest")
    bilinear = F.interpolate(f, scale_factor=2, mode="bilinear", align_corners=True)
    plain = cell.skip(bilinear) + 0.1 * cell.contract(cell.expand(nearest))
    torch.testing.assert_close(cell(f), plain, rtol=1e-10, atol=1e-10)
    of_plain = torch.autograd.grad(plain.square().sum(), list(cell.parameters()))
    ours = torch.autograd.grad(cell(f).square().sum(), list(cell.parameters()))
    for gradient, expected in zip(ours, of_plain, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-8)


def test_down_cell_skip_sees_the_four_shifted_grids():
    torch.manual_seed(0)
    cell = DownCell(4).eval()
    f = torch.randn(2, 4, 8, 8)
    active = f * torch.sigmoid(f)
    grids = [active, active[:, :, 1:, 1:], active[:, :, :, 1:], active[:, :, 1:, :]]
    pairs = zip(grids, cell.skip, strict=True)
    skip = torch.cat([F.conv2d(grid, conv.effective_weight(), conv.bias, stride=2) for grid, conv in pairs], dim=1)
    torch.testing.assert_close(cell(f), skip + 0.1 * cell.branch(f))
    assert cell(f).shape == (2, 8, 4, 4)


@pytest.mark.parametrize("width", [1, 2, 4, NARROWEST - 1, NARROWEST, NARROWEST + 3])
@pytest.mark.parametrize("height", [1, 3, 6])
def test_depthwise_gradients_are_those_of_a_plain_convolution(width, height):
    torch.manual_seed(0)
    conv = DepthwiseConv2d(16)
    features = torch.randn(3, 16, height, width).to(memory_format=torch.channels_last).requires_grad_()
    upstream = torch.randn(3, 16, height, width)
    ours, plain = conv(features), nn.Conv2d.forward(conv, features)
    assert torch.equal(ours, plain)
    assert type(ours.grad_fn) is not type(plain.grad_fn)
    for gradient, expected in zip(
        torch.autograd.grad(ours, (features, conv.weight), upstream),
        torch.autograd.grad(plain, (features, conv.weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("side", [8, 16])
def test_pointwise_gradients_are_those_of_a_plain_convolution(side):
    torch.manual_seed(0)
    conv = PointwiseConv2d(12, 5)
    features = torch.randn(3, 12, side, side).to(memory_format=torch.channels_last).requires_grad_()
    upstream = torch.randn(3, 5, side, side)
    ours, plain = conv(features), nn.Conv2d.forward(conv, features)
    assert torch.equal(ours, plain)
    assert (type(ours.grad_fn) is not type(plain.grad_fn)) == (side**2 >= FEWEST_PIXELS)
    for gradient, expected in zip(
        torch.autograd.grad(ours, (features, conv.weight), upstream),
        torch.autograd.grad(plain, (features, conv.weight), upstream),
        strict=True,
    ):
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "channels", "side"),
    [(DepthwiseConv2d, (16,), 4), (DepthwiseConv2d, (16,), 8), (PointwiseConv2d, (12, 5), 16)],
)
def test_gradients_under_autocast_are_those_of_float32_but_for_rounding(kind, channels, side):
    torch.manual_seed(0)
    conv = kind(*channels)
    features = torch.randn(3, channels[0], side, side).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        ours = conv(features)
    plain = nn.Conv2d.forward(conv, features)
    assert ours.dtype == torch.bfloat16
    assert type(ours.grad_fn).__name__ in ("_DepthwiseConvolutionBackward", "_PointwiseConvolutionBackward")
    upstream = torch.randn(plain.shape)
    for gradient, expected in zip(
        torch.autograd.grad(ours, (features, conv.weight), upstream.bfloat16()),
        torch.autograd.grad(plain, (features, conv.weight), upstream),
        strict=True,
    ):
        assert gradient.dtype == torch.float32
        assert (gradient - expected).norm() < 0.01 * expected.norm()


def test_decoder_cell_is_an_inverted_bottleneck():
    cell = DecoderCell(8, expansion=6)
    convolutions = [module for module in cell.modules() if isinstance(module, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels, c.kernel_size[0], c.groups) for c in convolutions] == [
        (8, 48, 1, 1),
        (48, 48, 5, 48),
        (48, 8, 1, 1),
    ]
    assert all(c.bias is None for c in convolutions)
    norms = [module for module in cell.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps, norm.affine) for norm in norms} == {(0.05, 1e-5, True)}


@pytest.mark.parametrize("cell", [EncoderCell(8), DecoderCell(8, expansion=3)])
def test_residual_cells_add_a_tenth_of_their_branch(cell):
    cell.eval()
    f = torch.randn(2, 8, 4, 4)
    branch = cell.branch(f) if isinstance(cell, EncoderCell) else cell.contract(cell.expand(f))
    torch.testing.assert_close(cell(f) - f, 0.1 * branch)
