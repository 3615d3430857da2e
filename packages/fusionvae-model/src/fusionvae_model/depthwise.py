"""The depthwise convolution of the decoder's cells: of upsampled features without upsampling them, and its gradient."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from fusionvae_model.pointwise import in_common_precision, runs_on_cpu_kernels

KERNEL_SIZE = 5
NARROWEST = 8
"""Width of features, in columns, from which on the weight gradient is taken by columns of the kernel, not by taps."""


class DepthwiseConv2d(nn.Conv2d):
    """A 5×5 "same" convolution of each channel by itself, without bias.

    Args:
        channels: Of the features ``[b, C, h, w]``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, KERNEL_SIZE, padding=KERNEL_SIZE // 2, groups=channels, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Convolve ``[b, C, h, w]``."""
        if runs_on_cpu_kernels(features, self.weight):
            return _DepthwiseConvolution.apply(*in_common_precision(features, self.weight))
        return super().forward(features)

    def of_upsampled(self, features: Tensor) -> list[Tensor]:
        """Convolve what a two-fold upsampling to the nearest pixel would make of ``[b, C, h, w]``.

        Each pixel becomes four equal ones, so a 5×5 filter sees three of the pixels before in each direction, two of
        them twice: which ones, depends on whether row and column of the output are even or odd. That makes four 3×3
        filters, of 36 taps in all instead of 100, and nothing to upsample.

        Returns:
            A quarter of the pixels each, ``[b, C, h, w]``, in the order (even row, even column), (even, odd),
            (odd, even), (odd, odd); :func:`interleave_quarters` puts them in place.
        """
        filters = _folded(_folded(self.weight[:, 0], 1), 3).transpose(0, 1).flatten(0, 1)[:, :, None]
        return [F.conv2d(features, weight, self.bias, padding=1, groups=self.groups) for weight in filters]


def _folded(taps: Tensor, dim: int) -> Tensor:
    """Return which pixels before the upsampling five taps fall on, for even and for odd places: ``[2, …, 3, …]``."""
    first, second, third, fourth, fifth = taps.unbind(dim)
    even = torch.stack((first + second, third + fourth, fifth), dim)
    odd = torch.stack((first, second + third, fourth + fifth), dim)
    return torch.stack((even, odd))


def interleave_quarters(quarters: Tensor) -> Tensor:
    """Put the quarters of :meth:`DepthwiseConv2d.of_upsampled`, ``[4b, C, h, w]``, in place: ``[b, C, 2h, 2w]``."""
    _, channels, rows, columns = quarters.shape
    by_parity = quarters.permute(0, 2, 3, 1).reshape(2, 2, -1, rows, columns, channels)
    return by_parity.permute(2, 3, 0, 4, 1, 5).reshape(-1, 2 * rows, 2 * columns, channels).permute(0, 3, 1, 2)


class _DepthwiseConvolution(torch.autograd.Function):
    """The convolution, and its weight gradient in ways that a CPU computes several times sooner."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(features, weight)
        return F.conv2d(features, weight, padding=KERNEL_SIZE // 2, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        features, weight = ctx.saved_tensors
        of_features = of_weight = None
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        if ctx.needs_input_grad[0]:  # the convolution with the filters turned round, whose kernel is the faster one
            of_features = F.conv2d(gradient, weight.flip(2, 3), padding=KERNEL_SIZE // 2, groups=len(weight))
        if ctx.needs_input_grad[1]:
            wide = features.shape[3] >= NARROWEST
            of_weight = _by_columns(gradient, features, weight) if wide else _by_taps(gradient, features)
        return of_features, of_weight


def _by_columns(gradient: Tensor, features: Tensor, weight: Tensor) -> Tensor:
    """Return the weight gradient ``[C, 1, 5, 5]``, column by column of the kernel.

    oneDNN's depthwise kernel for weight gradients takes filters up to three taps wide; a wider one falls to the kernel
    for any grouped convolution, which is some ten times slower. So the three inner columns are taken at once, where
    the padding of a 5×3 filter is theirs, and each outer one as a 5×1 filter on the columns that it sees.
    """
    left, middle, right = weight.split((1, 3, 1), dim=3)
    columns = (
        _of_columns(gradient[..., 2:], features[..., :-2], left, padding=0),
        _of_columns(gradient, features, middle, padding=1),
        _of_columns(gradient[..., :-2], features[..., 2:], right, padding=0),
    )
    return torch.cat(columns, dim=3)


def _by_taps(gradient: Tensor, features: Tensor) -> Tensor:
    """Return the weight gradient ``[C, 1, 5, 5]``, each tap as a sum of products over the pixels that it reaches.

    Few are left of an image narrower than the kernel, too few for any of oneDNN's kernels.
    """
    gradient, features = gradient.permute(0, 2, 3, 1), features.permute(0, 2, 3, 1)
    reach = KERNEL_SIZE // 2
    offsets = [(row, column) for row in range(-reach, reach + 1) for column in range(-reach, reach + 1)]
    rows, columns = features.shape[1:3]
    taps = [
        (
            gradient[:, max(0, -row) : rows - max(0, row), max(0, -column) : columns - max(0, column)]
            * features[:, max(0, row) : rows - max(0, -row), max(0, column) : columns - max(0, -column)]
        ).sum(dim=(0, 1, 2))
        for row, column in offsets
    ]
    return torch.stack(taps, dim=1).view(-1, 1, KERNEL_SIZE, KERNEL_SIZE)


def _of_columns(gradient: Tensor, features: Tensor, weight: Tensor, *, padding: int) -> Tensor:
    """Return the gradient of some of the kernel's columns ``[C, 1, 5, w]``; ``padding`` is that of the image's."""
    _, of_weight, _ = torch.ops.aten.convolution_backward(
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
        output_mask=(False, True, False),
    )
    assert isinstance(of_weight, Tensor)
    return of_weight
