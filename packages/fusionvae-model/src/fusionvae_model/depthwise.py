"""The depthwise convolution of the decoder's cells, with a weight gradient that a CPU computes sooner."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

KERNEL_SIZE = 5
NARROWEST = 8
"""Width of features, in columns, from which on the faster way pays."""


class DepthwiseConv2d(nn.Conv2d):
    """A 5×5 "same" convolution of each channel by itself, without bias.

    Args:
        channels: Of the features ``[b, C, h, w]``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, KERNEL_SIZE, padding=KERNEL_SIZE // 2, groups=channels, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve ``[b, C, h, w]``."""
        if self._pays_off_for(features):
            return _ConvolutionInColumns.apply(features, self.weight)
        return super().forward(features)

    def _pays_off_for(self, features: Tensor) -> bool:
        return (
            torch.is_grad_enabled()
            and self.weight.requires_grad
            and features.device.type == "cpu"
            and features.dtype == self.weight.dtype == torch.float32
            and features.shape[3] >= NARROWEST
            and features.is_contiguous(memory_format=torch.channels_last)
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        )


class _ConvolutionInColumns(torch.autograd.Function):
    """The convolution, and its weight gradient column by column of the kernel.

    oneDNN's depthwise kernel for weight gradients takes filters up to three taps wide; a wider one falls to the kernel
    for any grouped convolution, which is some ten times slower. So the three inner columns are taken at once, where
    the padding of a 5×3 filter is theirs, and each outer one as a 5×1 filter on the columns that it sees. With the
    copies of these columns, that takes a half to two thirds of the time.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(features, weight)
        return F.conv2d(features, weight, padding=KERNEL_SIZE // 2, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        features, weight = ctx.saved_tensors
        of_features = of_weight = None
        if ctx.needs_input_grad[0]:
            of_features, _ = _gradients(gradient, features, weight, padding=2, wanted=(True, False))
        if ctx.needs_input_grad[1]:
            left, middle, right = weight.split((1, 3, 1), dim=3)
            columns = (
                _gradients(gradient[..., 2:], features[..., :-2], left, padding=0, wanted=(False, True)),
                _gradients(gradient, features, middle, padding=1, wanted=(False, True)),
                _gradients(gradient[..., :-2], features[..., 2:], right, padding=0, wanted=(False, True)),
            )
            of_weight = torch.cat([column for _, column in columns], dim=3)
        return of_features, of_weight


def _gradients(
    gradient: Tensor, features: Tensor, weight: Tensor, *, padding: int, wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor]:
    """Return the gradients for features and weight ``[C, 1, 5, w]`` that are wanted; ``padding`` is that of columns."""
    of_features, of_weight, _ = torch.ops.aten.convolution_backward(
        gradient.contiguous(memory_format=torch.channels_last),
        features.contiguous(memory_format=torch.channels_last),
        weight.contiguous(),
        None,
        stride=(1, 1),
        padding=(KERNEL_SIZE // 2, padding),
        dilation=(1, 1),
        transposed=False,
        output_padding=(0, 0),
        groups=len(weight),
        output_mask=(*wanted, False),
    )
    return of_features, of_weight
