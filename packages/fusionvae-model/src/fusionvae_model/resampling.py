"""The decoder's upsampling, and the same as matrix products for code that is compiled."""

import torch
from torch import Tensor
from torch.nn import functional as F


def upsample_twofold(features: Tensor) -> Tensor:
    """Double both sides, bilinearly, corners on corners.

    PyTorch compiles an interpolation to reads at computed places, and its gradient to sums into such places. In a
    whole model on a CPU those sums came after what reads them: the gradient of everything before them was lost.
    Two products, of rows and of columns, are the same map, with a gradient that is a product again, and on a GPU one
    that does not depend on the order of its sums.

    Args:
        features: ``[b, C, h, w]``.

    Returns:
        ``[b, C, 2h, 2w]``.
    """
    if not torch.compiler.is_compiling():
        return F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
    b, channels, h, w = features.shape
    with torch.autocast(features.device.type, enabled=False):
        exact = features.to(torch.promote_types(features.dtype, torch.float32))
        rows, columns = (_places(side, exact) for side in (h, w))
        lines = exact.permute(0, 2, 3, 1).reshape(b, h, w * channels)
        doubled = (columns @ (rows @ lines).view(b * 2 * h, w, channels)).view(b, 2 * h, 2 * w, channels)
    return doubled.permute(0, 3, 1, 2).to(features.dtype)


def _places(side: int, like: Tensor) -> Tensor:
    """Return how much each of ``2·side`` places takes of each of ``side`` pixels, ``[2·side, side]``."""
    pixels = torch.arange(side, dtype=like.dtype, device=like.device)
    places = torch.arange(2 * side, dtype=like.dtype, device=like.device) * ((side - 1) / (2 * side - 1))
    return (1 - (places[:, None] - pixels).abs()).clamp(min=0)
