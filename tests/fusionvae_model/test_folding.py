"""A folded model is the same function."""

import pytest
import torch
from torch import nn
from variants import with_spoiled_statistics

from fusionvae_model.folding import fold_batch_norm
from fusionvae_model.layers import DecoderCell, DownCell, EncoderCell, UpCell, WeightNormConv2d


@pytest.mark.parametrize(
    ("cell", "norms_left"),
    [(EncoderCell(8), 1), (DownCell(8), 1), (DecoderCell(8, expansion=6), 0), (UpCell(8, expansion=3), 0)],
)
def test_a_folded_cell_is_the_same_function(cell, norms_left):
    torch.manual_seed(0)
    cell = with_spoiled_statistics(cell).double()
    folded = fold_batch_norm(cell)
    f = torch.randn(3, 8, 8, 8, dtype=torch.double)
    torch.testing.assert_close(folded(f), cell(f), rtol=1e-10, atol=1e-10)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == norms_left
    assert not any(isinstance(module, WeightNormConv2d) for module in folded.modules())


def test_a_folded_model_gives_the_same_samples_and_weights(tiny_model):
    model = with_spoiled_statistics(tiny_model).double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = model.folded()
    target, inputs = torch.rand(2, 1, 16, 16).double(), torch.rand(2, 3, 1, 16, 16).double()

    def noise():
        return torch.Generator().manual_seed(0)

    ours, theirs = (m.sample(inputs, num_samples=2, generator=noise()) for m in (folded, model))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    settings = {"num_samples": 3, "num_inputs": (0, 1, 3)}
    ours, theirs = (m.log_importance_weights(target, inputs, **settings, generator=noise()) for m in (folded, model))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-4)  # the likelihood is float32
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_folded_model_keeps_channels_last(tiny_model):
    """Features in another layout cost a copy for each convolution and half the speed, and change no number."""
    model, seen = tiny_model.folded(), []
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _module, _inputs, output, name=name: seen.append((name, output)))
    model.log_importance_weights(
        torch.rand(2, 1, 16, 16), torch.rand(2, 3, 1, 16, 16), num_samples=3, num_inputs=(0, 3)
    )
    maps = [(name, f) for name, f in seen if isinstance(f, torch.Tensor) and f.ndim == 4]
    assert len(maps) > 50
    at_the_start = ("walk.groups.0.cells",)  # h, the same for all
    assert [name for name, f in maps if not f.is_contiguous(memory_format=torch.channels_last)] == [*at_the_start]


@pytest.mark.parametrize(("extinct", "left"), [(0, 48), (3, 48), (16, 32), (33, 16), (48, 16)])
@pytest.mark.parametrize("kind", [DecoderCell, UpCell])
def test_extinct_channels_are_left_out(kind, extinct, left):
    """Which changes nothing but the time that it takes: whole vectors of 16 channels stay."""
    torch.manual_seed(0)
    cell = with_spoiled_statistics(kind(8, expansion=6)).double()
    channels = torch.randperm(48)[:extinct]
    with torch.no_grad():
        for parameter in cell.contract[1].parameters():
            parameter[channels] = 1e-25
    folded = fold_batch_norm(cell)
    assert [len(part.weight) for part in (folded.expand[0], folded.contract[0])] == [left, left]
    assert folded.contract[2].weight.shape[1] == left
    assert folded.contract[0].groups == folded.contract[0].in_channels == left
    f = torch.randn(3, 8, 8, 8, dtype=torch.double)
    torch.testing.assert_close(folded(f), cell(f), rtol=1e-9, atol=1e-9)
    assert len(cell.contract[0].weight) == 48


def test_what_an_extinct_channel_has_left_counts_as_zero():
    """Products of such weights are subnormal, and slow on a CPU."""
    torch.manual_seed(0)
    cell = with_spoiled_statistics(DecoderCell(8, expansion=6))
    with torch.no_grad():
        for parameter in (*cell.expand[1:].parameters(), *cell.contract[:2].parameters()):
            parameter[::10] *= 1e-20  # too few to be left out
        cell.contract[3].weight[0, 1] = 1e-9  # little, but it counts
    folded = fold_batch_norm(cell)
    weights = torch.cat([parameter.flatten() for parameter in folded.parameters()]).abs()
    assert (weights == 0).sum() == 5 * (8 + 1 + 25 + 1)
    assert weights[weights > 0].min() > 1e-12
    f = torch.randn(3, 8, 8, 8)
    torch.testing.assert_close(folded(f), cell(f))


def test_a_channel_that_only_its_shift_feeds_stays():
    """Its filter is zero, but what follows is the Swish of a constant."""
    cell = DecoderCell(8, expansion=6).eval()
    features = torch.randn(2, 8, 8, 8)
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.uniform_(-1, 1)
        depthwise, norm = cell.contract[0], cell.contract[1]
        depthwise.weight[16:] = 0
        norm.bias[16:] = 2.0
    holder = nn.Sequential(cell).eval()
    expected = holder(features).detach()
    assert float((expected - features).abs().max()) > 0.1
    torch.testing.assert_close(fold_batch_norm(holder)(features), expected, rtol=1e-4, atol=1e-5)
