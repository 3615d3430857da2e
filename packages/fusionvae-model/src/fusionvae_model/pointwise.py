"""The 1×1 convolution of the decoder's cells, with a weight gradient that a CPU computes sooner."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

FEWEST_PIXELS = 256
"""Pixels of an image from which on the faster way pays."""


class PointwiseConv2d(nn.Conv2d):
    """A 1×1 convolution without bias.

    Args:
        in_channels: Channels of the input ``[b, in, h, w]``.
        out_channels: Channels of the output ``[b, out, h, w]``.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve ``[b, in, h, w]``."""
        if features[0, 0].numel() >= FEWEST_PIXELS and runs_on_cpu_kernels(features, self.weight):
            return _PointwiseConvolution.apply(*in_common_precision(features, self.weight))
        return super().forward(features)


def runs_on_cpu_kernels(features: Tensor, weight: Tensor) -> bool:
    """Tell whether a CPU will take the gradient, channels last, in float32 or bfloat16, by PyTorch's own kernels."""
    return (
        torch.is_grad_enabled()
        and weight.requires_grad
        and features.device.type == "cpu"
        and {features.dtype, weight.dtype, _autocast_type() or features.dtype} <= {torch.float32, torch.bfloat16}
        and features.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )


def in_common_precision(features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in the type that a convolution would take: autocast's, where it is at work, else the features'."""
    precision = _autocast_type() or features.dtype
    return features.to(precision), weight.to(precision)


def _autocast_type() -> torch.dtype | None:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


class _PointwiseConvolution(torch.autograd.Function):
    """The convolution, and its weight gradient as a sum of matrix products, one for each image.

    oneDNN's kernel walks features that have left the cache in an order several times slower than reading them.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(features, weight)
        return F.conv2d(features, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        features, weight = ctx.saved_tensors
        of_features = of_weight = None
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if ctx.needs_input_grad[0]:
            of_features = F.conv2d(gradient, weight.transpose(0, 1))
        if ctx.needs_input_grad[1]:
            products = torch.bmm(_pixels(gradient).mT, _pixels(features))
            of_weight = products.sum(dim=0).view(weight.shape)
        return of_features, of_weight


def _pixels(features: Tensor) -> Tensor:
    """View ``[b, C, h, w]``, channels last in memory, as ``[b, h·w, C]``."""
    return features.permute(0, 2, 3, 1).flatten(1, 2)
