"""The building blocks, from the convolution upward to the four residual cells (paper Sec. 4.3, App. A).

Letters used for shapes throughout the package:

    b  images in a batch        k  inputs of one image       S  samples
    c  channels of an image     C  channels of features      h, w  rows and columns
    l  latent group, coarsest first

Every cell adds a tenth of its branch to its skip: ``cell(f) = skip(f) + 0.1 · SE(branch(f))``.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusionvae_model.depthwise import DepthwiseConv2d, interleave_quarters
from fusionvae_model.pointwise import PointwiseConv2d
from fusionvae_model.recomputation import recompute
from fusionvae_model.resampling import upsample_twofold

BRANCH_SCALE = 0.1
BATCH_NORM_MOMENTUM = 0.05
BATCH_NORM_EPS = 1e-5


class WeightNormConv2d(nn.Module):
    """A "same" convolution whose filters have learned norms.

    The weight as used is ``exp(log_norm) · W / (‖W‖ + 1e-5)``, one norm for each output channel. The log-norms
    start at those of the initial weight.

    Args:
        in_channels: Channels of the input ``[b, in, h, w]``.
        out_channels: Channels of the output ``[b, out, h / stride, w / stride]``.
        kernel_size: Odd side of the filters in pixels.
        stride: Step in pixels.
        bias: Whether a learned constant is added to each output channel.

    Attributes:
        computed_weight: The weight as used, where somebody has computed it for many convolutions at once
            (:class:`~fusionvae_model.weights_as_used.WeightsAsUsed`).
    """

    computed_weight: Tensor | None = None

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        initial = nn.Conv2d(in_channels, out_channels, kernel_size, bias=bias)
        self.stride = stride
        self.padding = kernel_size // 2
        self.weight = initial.weight
        self.bias = initial.bias
        self.log_norm = nn.Parameter((initial.weight.detach().flatten(1).norm(dim=1) + 1e-2).log())

    def effective_weight(self) -> Tensor:
        """Return the normalised weight ``[out, in, kernel, kernel]`` that the convolution uses."""
        if self.computed_weight is not None:
            return self.computed_weight
        return self.weight * norm_gain(self.weight, self.log_norm.view(-1, 1, 1, 1), dims=(1, 2, 3))

    def forward(self, features: Tensor) -> Tensor:
        """Convolve ``[b, in, h, w]``."""
        return F.conv2d(features, self.effective_weight(), self.bias, self.stride, self.padding)


def weight_as_used(convolution: nn.Module) -> Tensor:
    """Return the weight ``[out, in, kernel, kernel]`` that a convolution uses, normalised or not."""
    if isinstance(convolution, WeightNormConv2d):
        return convolution.effective_weight()
    assert isinstance(convolution, nn.Conv2d)
    return convolution.weight


def norm_gain(weight: Tensor, log_norm: Tensor, *, dims: tuple[int, ...]) -> Tensor:
    """Return what a weight is multiplied by to have the norm ``exp(log_norm)`` over ``dims``; broadcastable."""
    return log_norm.exp() / (torch.linalg.vector_norm(weight, dim=dims, keepdim=True) + 1e-5)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Build the batch norm that all cells share: momentum 0.05, eps 1e-5, affine."""
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate in (0, 1) computed from the global means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 16, 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Gate ``[b, C, h, w]``."""
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(features.mean(dim=(2, 3))))))
        return features * gate[:, :, None, None]


class EncoderCell(nn.Module):
    """Residual cell of the encoder: ``[BN → Swish → conv 3×3] × 2 → SE``, identity skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = _encoder_branch(channels, channels, stride=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[b, C, h, w]`` to the same shape."""
        return torch.add(features, self.branch(features), alpha=BRANCH_SCALE)


class DownCell(nn.Module):
    """Encoder cell that halves the resolution and doubles the channels.

    The skip is Swish, then four 1×1 convolutions of stride 2, each on its own one-pixel-shifted grid, concatenated:
    one 2×2 convolution of stride 2, each of whose filters has a single tap.
    """

    SHIFTS = ((0, 0), (1, 1), (0, 1), (1, 0))

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = _encoder_branch(channels, 2 * channels, stride=2)
        self.skip = nn.ModuleList(WeightNormConv2d(channels, channels // 2, 1) for _ in self.SHIFTS)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[b, C, h, w]`` to ``[b, 2C, h/2, w/2]``."""
        taps = [
            F.pad(weight_as_used(conv), (column, 1 - column, row, 1 - row))
            for conv, (row, column) in zip(self.skip, self.SHIFTS, strict=True)
        ]
        biases = torch.cat([conv.bias for conv in self.skip])  # type: ignore[misc]
        skip = F.conv2d(F.silu(features), torch.cat(taps), biases, stride=2)
        return torch.add(skip, self.branch(features), alpha=BRANCH_SCALE)


def _encoder_branch(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        batch_norm(in_channels),
        nn.SiLU(),
        WeightNormConv2d(in_channels, out_channels, 3, stride=stride),
        batch_norm(out_channels),
        nn.SiLU(),
        WeightNormConv2d(out_channels, out_channels, 3),
        SqueezeExcitation(out_channels),
    )


class DecoderCell(nn.Module):
    """Inverted bottleneck: BN → 1×1 expand → BN → Swish → depthwise 5×5 → BN → Swish → 1×1 → BN → SE, identity skip.

    Its three convolutions have neither bias nor weight norm.

    Args:
        channels: Channels ``C`` of the features.
        expansion: Hidden channels per channel: 6 among the latent groups, 3 in post-processing.
    """

    def __init__(self, channels: int, *, expansion: int) -> None:
        super().__init__()
        self.expand = _expand(channels, expansion)
        self.contract = _contract(channels * expansion, channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[b, C, h, w]`` to the same shape."""
        return torch.add(features, self.contract(self.expand(features)), alpha=BRANCH_SCALE)


class UpCell(nn.Module):
    """Decoder cell on features upsampled two-fold (nearest pixel); halves the channels.

    The skip is a bilinear upsampling (aligned corners) and a 1×1 convolution without bias. Whatever acts on each
    pixel alone commutes with an upsampling, batch statistics included, so expansion and skip run before it, on a
    quarter of the pixels; and the depthwise convolution of upsampled features is four smaller ones of the features
    themselves (:meth:`~fusionvae_model.depthwise.DepthwiseConv2d.of_upsampled`). Only what the branch adds to the
    skip is ever laid out at the doubled resolution; batch statistics are those of all four quarters together.
    """

    def __init__(self, channels: int, *, expansion: int) -> None:
        super().__init__()
        self.expand = _expand(channels, expansion)
        self.contract = _contract(channels * expansion, channels // 2)
        self.skip = WeightNormConv2d(channels, channels // 2, 1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``[b, C, h, w]`` to ``[b, C/2, 2h, 2w]``."""
        skip = upsample_twofold(self.skip(features))
        depthwise, *of_each_pixel, gate = self.contract
        assert isinstance(depthwise, DepthwiseConv2d)
        quarters = depthwise.of_upsampled(self.expand(features))
        if self.training:
            quarters = [torch.cat(quarters)]
        for layer in of_each_pixel:
            quarters = [layer(quarter) for quarter in quarters]
        joined = quarters[0] if self.training else torch.cat(quarters)
        return torch.add(skip, gate(interleave_quarters(joined)), alpha=BRANCH_SCALE)


def _expand(channels: int, expansion: int) -> nn.Sequential:
    hidden = channels * expansion
    return nn.Sequential(
        batch_norm(channels),
        PointwiseConv2d(channels, hidden),
        batch_norm(hidden),
        nn.SiLU(),
    )


def _contract(hidden: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        DepthwiseConv2d(hidden),
        batch_norm(hidden),
        nn.SiLU(),
        PointwiseConv2d(hidden, out_channels),
        batch_norm(out_channels),
        SqueezeExcitation(out_channels),
    )


class Cells(nn.Sequential):
    """A chain of cells; where it is given shortcuts, one joins after every cell that doubles the resolution.

    Attributes:
        recomputes: Whether training computes each cell again in the backward pass instead of remembering its inside.
    """

    recomputes = False

    def forward(self, features: Tensor, shortcuts: Iterator[Tensor] | None = None) -> Tensor:
        """Run the cells.

        Args:
            features: ``[b, C, h, w]``.
            shortcuts: The encoder's features of the resolutions ahead, each taken when it is reached.
        """
        for cell in self:
            features = self.run(cell, features)
            if shortcuts is not None and isinstance(cell, UpCell):
                features = join_shortcut(features, shortcuts)
        return features

    def run(self, cell: nn.Module, features: Tensor) -> Tensor:
        """Run one cell, remembered or to be recomputed."""
        return recompute(cell, features) if self.recomputes and torch.is_grad_enabled() else cell(features)


def join_shortcut(features: Tensor, shortcuts: Iterator[Tensor]) -> Tensor:
    """Return the maximum of the decoder's features and the next shortcut; without one, the decoder's own (Sec. 5.3)."""
    shortcut = next(shortcuts, None)
    return features if shortcut is None else features.maximum(shortcut)
