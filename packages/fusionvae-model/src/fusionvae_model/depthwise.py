"""The depthwise convolution of the decoder's cells: of upsampled features without upsampling them, and its gradient."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fusionvae_model.pointwise import runs_on_cpu_kernels

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

    def of_upsampled(self, features: Tensor) -> Tensor:
        """Convolve what a two-fold upsampling to the nearest pixel would make of ``[b, C, h, w]``.

        Each pixel becomes four equal ones, so a 5×5 filter sees three of the pixels before in each direction, two of
        them twice: which ones, depends on whether row and column of the output are even or odd. That makes four 3×3
        filters, of 36 taps in all instead of 100, and nothing to upsample.

        Returns:
            ``[b, C, h, 4w]``: for each pixel the four that it becomes, side by side, in the order (even row, even
            column), (even, odd), (odd, even), (odd, odd); :func:`interleave_quarters` puts them in place.
        """
        b, channels, rows, columns = features.shape
        quarters = _folded(_folded(self.weight[:, 0], 1), 3).transpose(0, 1).flatten(0, 2)[:, None]
        repeated = features.permute(0, 2, 3, 1)[:, :, :, None].expand(-1, -1, -1, 4, -1).flatten(3).permute(0, 3, 1, 2)
        bias = None if self.bias is None else self.bias.repeat(4)
        convolved = F.conv2d(repeated, quarters, bias, padding=1, groups=4 * channels)
        return convolved.permute(0, 2, 3, 1).reshape(b, rows, 4 * columns, channels).permute(0, 3, 1, 2)

    def _pays_off_for(self, features: Tensor) -> bool:
        return features.shape[3] >= NARROWEST and runs_on_cpu_kernels(features, self.weight)


def _folded(taps: Tensor, dim: int) -> Tensor:
    """Return which pixels before the upsampling five taps fall on, for even and for odd places: ``[2, …, 3, …]``."""
    first, second, third, fourth, fifth = taps.unbind(dim)
    even = torch.stack((first + second, third + fourth, fifth), dim)
    odd = torch.stack((first, second + third, fourth + fifth), dim)
    return torch.stack((even, odd))


def interleave_quarters(quarters: Tensor) -> Tensor:
    """Put the pixels ``[b, C, h, 4w]`` of :meth:`DepthwiseConv2d.of_upsampled` in place: ``[b, C, 2h, 2w]``."""
    b, channels, rows, columns = quarters.shape
    by_parity = quarters.permute(0, 2, 3, 1).reshape(b, rows, columns // 4, 2, 2, channels)
    return by_parity.transpose(2, 3).reshape(b, 2 * rows, columns // 2, channels).permute(0, 3, 1, 2)


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
