"""Units and errors: nats and bits per dimension, the MSE family, spread, paired gains. Pure.

Glossary of shapes: b images, S samples, c channels, h × w pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def bits_per_dim(nats: float, num_dims: int) -> float:
    """Convert nats per image to bits per dimension, ``nats / (num_dims · ln 2)``; the tables print it × 10²."""
    return nats / (num_dims * log(2))


def nats_from_bits_per_dim(bits: float, num_dims: int) -> float:
    """Convert bits per dimension back to nats per image."""
    return bits * num_dims * log(2)


def entropy_floor(target: NDArray[np.uint8], nll_size: int) -> NDArray[np.float64]:
    """Least NLL that any Bernoulli likelihood of grey values can reach, per image.

    ``Σ -(y ln y + (1 - y) ln(1 - y))`` over the centre square on which the likelihood is summed: real-valued y
    keep an entropy of their own, so the NLL cannot fall to zero.

    Args:
        target: uint8 [b, h, w, c].
        nll_size: side of the centre square, pixels.

    Returns:
        [b] nats.
    """
    grey = np.arange(256) / 255
    entropy = np.zeros(256)
    entropy[1:-1] = -(grey[1:-1] * np.log(grey[1:-1]) + (1 - grey[1:-1]) * np.log1p(-grey[1:-1]))
    top, left = (target.shape[1] - nll_size) // 2, (target.shape[2] - nll_size) // 2
    square = target[:, top : top + nll_size, left : left + nll_size]
    return entropy[square].sum((1, 2, 3))


@dataclass(frozen=True)
class DrawErrors:
    """How draws of the fused image differ from the target, over all pixels.

    The three errors and the spread obey ``one = mean + average over the pixels of standard_deviation²``.

    Attributes:
        mse_min: [b] smallest mean squared error over the S draws (Sec. 5.5); it falls as S grows.
        mse_one: [b] expected error of a single draw: the average over the S draws.
        mse_mean: [b] error of the average image.
        mean: [b, c, h, w] average image.
        standard_deviation: [b, c, h, w] per-pixel spread of the draws, the uncertainty of the fusion.
    """

    mse_min: Tensor
    mse_one: Tensor
    mse_mean: Tensor
    mean: Tensor
    standard_deviation: Tensor


class DrawStream:
    """Accumulate draws in chunks, in memory that does not grow with their number.

    Args:
        target: [b, c, h, w] in [0, 1].
    """

    def __init__(self, target: Tensor) -> None:
        self.target = target
        self.count = 0
        self._least = torch.full((len(target),), torch.inf, dtype=torch.float64, device=target.device)
        self._total = torch.zeros_like(self._least)
        self._sum = torch.zeros_like(target, dtype=torch.float64)
        self._squares = torch.zeros_like(self._sum)

    def update(self, samples: Tensor) -> None:
        """Take the next chunk.

        Args:
            samples: [b, s, c, h, w] in [0, 1], or [1, s, c, h, w]: one pool of draws for all images, as with
                k = 0, where the prior ignores the image.
        """
        errors = (samples - self.target[:, None]).square().mean((2, 3, 4), dtype=torch.float64)
        self._least = torch.minimum(self._least, errors.amin(1))
        self._total += errors.sum(1)
        self._sum += samples.sum(1, dtype=torch.float64)
        self._squares += samples.square().sum(1, dtype=torch.float64)
        self.count += samples.shape[1]

    def errors(self) -> DrawErrors:
        """Return the errors over the draws so far."""
        mean = self._sum / self.count
        return DrawErrors(
            mse_min=self._least,
            mse_one=self._total / self.count,
            mse_mean=(mean - self.target).square().mean((1, 2, 3)),
            mean=mean,
            standard_deviation=(self._squares / self.count - mean.square()).clamp(min=0).sqrt(),
        )


def calibration_sums(errors: DrawErrors, target: Tensor, num_bins: int) -> NDArray[np.float64]:
    """Sort the pixels by predicted standard deviation, and sum up what was predicted and what happened.

    Args:
        errors: of the draws.
        target: [b, c, h, w] in [0, 1].
        num_bins: equally wide, from 0 to ½.

    Returns:
        [b, bins, 3]: number of pixels, sum of the predicted variances, sum of the squared errors of the mean.
    """
    spread = errors.standard_deviation.flatten(1)
    bins = (spread * 2 * num_bins).long().clamp(max=num_bins - 1)
    values = (torch.ones_like(spread), spread.square(), (errors.mean - target).square().flatten(1))
    sums = [torch.zeros(len(spread), num_bins, dtype=torch.float64, device=spread.device) for _ in values]
    return (
        torch.stack([s.scatter_add_(1, bins, v.double()) for s, v in zip(sums, values, strict=True)], -1).cpu().numpy()
    )


def mean_and_standard_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the mean of [b] values and its standard error over images (NaN for one image)."""
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return float(values.mean()), error
