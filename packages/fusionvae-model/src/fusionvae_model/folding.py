"""Batch norm folded into its neighbours: the same function of a finished model, in fewer passes over memory.

In eval mode a batch norm is ``a·f + c`` per channel. Behind a convolution it becomes part of its weight and bias; in
front of a 1×1 convolution without padding likewise. What stands between a skip's sum and a Swish stays.
"""

import copy
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fusionvae_model.depthwise import DepthwiseConv2d
from fusionvae_model.layers import DecoderCell, UpCell, WeightNormConv2d

CHANNELS_OF_A_VECTOR = 16
"""Of float32, on the widest CPUs; kernels take channels by so many."""
LEAST_WEIGHT = 1e-12
"""Smaller ones count as zero: no sum notices, but products of them are subnormal, tens of times slower on a CPU."""


@torch.no_grad()
def fold_batch_norm(module: nn.Module) -> nn.Module:
    """Return a copy for inference alone: plain convolutions, and batch norms only where no convolution takes them in.

    Args:
        module: In eval mode; its running statistics are used.
    """
    folded = copy.deepcopy(module).eval().requires_grad_(False)
    for parent in list(folded.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Sequential):
                setattr(parent, name, type(child)(*_folded(child)))
            elif isinstance(child, WeightNormConv2d):
                setattr(parent, name, _plain(child))
    for cell in folded.modules():
        if isinstance(cell, DecoderCell | UpCell):
            _leave_out_extinct_channels(cell)
    return folded


def _folded(sequence: Iterable[nn.Module]) -> list[nn.Module]:
    done: list[nn.Module] = []
    for module in sequence:
        current = _plain(module) if isinstance(module, WeightNormConv2d) else module
        before = done[-1] if done else None
        if isinstance(current, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
            done[-1] = _convolution_then_norm(before, current)
        elif isinstance(current, nn.Conv2d) and isinstance(before, nn.BatchNorm2d) and _sees_one_pixel(current):
            done[-1] = _norm_then_convolution(before, current)
        else:
            done.append(current)
    return done


def _sees_one_pixel(convolution: nn.Conv2d) -> bool:
    return convolution.kernel_size == (1, 1) and convolution.padding == (0, 0) and convolution.groups == 1


def _gain_and_shift(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    return gain, norm.bias - gain * norm.running_mean


def _convolution_then_norm(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    gain, shift = _gain_and_shift(norm)
    bias = shift if convolution.bias is None else shift + gain * convolution.bias
    return _like(convolution, convolution.weight * gain[:, None, None, None], bias)


def _norm_then_convolution(norm: nn.BatchNorm2d, convolution: nn.Conv2d) -> nn.Conv2d:
    gain, shift = _gain_and_shift(norm)
    bias = convolution.weight[:, :, 0, 0] @ shift
    if convolution.bias is not None:
        bias = bias + convolution.bias
    return _like(convolution, convolution.weight * gain[None, :, None, None], bias)


def _plain(convolution: WeightNormConv2d) -> nn.Conv2d:
    out_channels, in_channels, kernel_size, _ = convolution.weight.shape
    plain = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=convolution.stride,
        padding=convolution.padding,
        device="meta",
    )
    return _like(plain, convolution.effective_weight(), convolution.bias)


def _like(convolution: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    result = copy.copy(convolution)
    result._parameters = dict(convolution._parameters)
    # Not contiguous(): it leaves 1×1 and depthwise filters as they are, and what follows them loses the layout.
    weight = _without_traces(weight).to(memory_format=torch.channels_last)
    result.out_channels, result.in_channels = len(weight), weight.shape[1] * result.groups
    if isinstance(result, DepthwiseConv2d):
        result.groups = result.in_channels = result.out_channels
    result.weight = nn.Parameter(weight, requires_grad=False)
    result.bias = None if bias is None else nn.Parameter(_without_traces(bias), requires_grad=False)
    return result


def _leave_out_extinct_channels(cell: DecoderCell | UpCell) -> None:
    """Leave out the hidden channels that are zero everywhere: the same function of fewer channels."""
    expand, depthwise, contract = cell.expand[0], cell.contract[0], cell.contract[2]
    assert isinstance(expand, nn.Conv2d)
    assert isinstance(depthwise, DepthwiseConv2d)
    assert isinstance(contract, nn.Conv2d)
    assert expand.bias is not None
    assert depthwise.bias is not None
    speaks = depthwise.weight.flatten(1).any(dim=1) | (depthwise.bias != 0)
    # whole vectors of channels, those that speak first; Swish leaves the others zero
    vectors = max(1, math.ceil(int(speaks.sum()) / CHANNELS_OF_A_VECTOR))
    count = min(len(speaks), vectors * CHANNELS_OF_A_VECTOR)
    kept = speaks.to(torch.uint8).argsort(descending=True, stable=True)[:count].sort().values
    cell.expand[0] = _like(expand, expand.weight[kept], expand.bias[kept])
    cell.contract[0] = _like(depthwise, depthwise.weight[kept], depthwise.bias[kept])
    cell.contract[2] = _like(contract, contract.weight[:, kept], contract.bias)


def _without_traces(values: Tensor) -> Tensor:
    return torch.where(values.abs() < LEAST_WEIGHT, 0.0, values.detach())
