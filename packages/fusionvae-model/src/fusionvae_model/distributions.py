"""Distributions over images; latent groups use ``torch.distributions.Normal``."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F

SOFT_CLAMP = 5.0
SCALE_FLOOR = 0.01


def bounded_normal(parameters: Tensor) -> Normal:
    """Turn the output of a head into a factorised Gaussian with bounded mean and scale.

    Mean and log-scale pass the soft clamp ``5·tanh(v / 5)``; the scale is ``exp(log_scale) + 0.01``.

    Args:
        parameters: ``[b, 2m, h, w]``: means, then log-scales, of ``m`` latent channels.

    Returns:
        Normal with batch shape ``[b, m, h, w]``; scale in (0.0167, 148.5).
    """
    exact = parameters.to(torch.promote_types(parameters.dtype, torch.float32))  # also under autocast
    # tanh(v) = 2·sigmoid(2v) − 1, whose exponential a CPU computes many times sooner
    bounded = torch.sigmoid(exact * (2 / SOFT_CLAMP)) * (2 * SOFT_CLAMP) - SOFT_CLAMP
    mean, log_scale = bounded.chunk(2, dim=1)
    # Where channels come last, the halves are interleaved, and a CPU computes such exponentials one by one.
    log_scale = log_scale.contiguous(memory_format=torch.channels_last)
    return Normal(mean, log_scale.exp() + SCALE_FLOOR, validate_args=False)


def normal_kl(q: Normal, p: Normal) -> Tensor:
    """Return ``KL(q ‖ p)`` element-wise in nats, ≥ 0, and exactly 0 where ``q`` equals ``p``."""
    ratio = q.scale / p.scale
    shift = (q.loc - p.loc) / p.scale
    return 0.5 * (ratio.square() + shift.square() - 1) - ratio.log()


class GreyBernoulli:
    """Bernoulli likelihood of grey values: ``log p = y·log π + (1 − y)·log(1 − π)`` with real ``y`` in [0, 1].

    It sums to one over binary images alone (support {0, 1}); for grey ones it is the cross-entropy that the paper
    trains and evaluates with (App. A), and its best value is the entropy of the grey values, not zero.
    ``torch.distributions.Bernoulli`` refuses real-valued images.

    Args:
        parameters: Logits of ``π``, ``[b, c, h, w]``.
    """

    def __init__(self, parameters: Tensor) -> None:
        self.logits = parameters.to(torch.promote_types(parameters.dtype, torch.float32))  # also under autocast

    @staticmethod
    def num_parameters(channels: int) -> int:
        """Return how many numbers the network gives for each pixel of an image with these channels."""
        return channels

    @property
    def mean(self) -> Tensor:
        """``π``, ``[b, c, h, w]`` in [0, 1]."""
        return torch.sigmoid(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return ``log p`` of each pixel in nats, ``[b, h, w]``, for images ``[b, c, h, w]`` in [0, 1]."""
        target = value.to(self.logits.dtype)
        return -F.binary_cross_entropy_with_logits(self.logits, target, reduction="none").sum(dim=1)


class DiscretizedLogisticMixture:
    """Mixture of 10 logistic distributions over the 256 levels of each channel (Salimans et al. 2017; App. A).

    Level ``j`` has the logistic's mass between ``j − ½`` and ``j + ½``; 0 and 255 take the tails as well, so that the
    levels sum to one exactly. Green's means depend on red, and blue's on red and green, within each component. The
    support is {0, 1/255, …, 1}, to whose nearest member images are rounded.

    A component's numbers, each a run of 10 channels: its logit; the means of all image channels, in units in which an
    image is −1 … 1; their log-scales, held between −7 and 40; and the coefficients green ← red, blue ← red,
    blue ← green before a tanh.

    Args:
        parameters: ``[b, 10 · (c + 1)(c + 2) / 2, h, w]``: 30 channels for grey images, 100 for colour.
    """

    NUM_COMPONENTS = 10
    LOG_SCALE_BOUNDS = (-7.0, 40.0)

    def __init__(self, parameters: Tensor) -> None:
        exact = parameters.to(torch.promote_types(parameters.dtype, torch.float32))  # also under autocast
        numbers = exact.unflatten(1, (-1, self.NUM_COMPONENTS))
        c = (math.isqrt(8 * numbers.shape[1] + 1) - 3) // 2
        logits, means, log_scales, coefficients = numbers.split((1, c, c, c * (c - 1) // 2), dim=1)
        self.log_weights = logits[:, 0].log_softmax(dim=1)
        """``[b, 10, h, w]``."""
        self._means = means.unbind(dim=1)
        self._coefficients = coefficients.tanh().unbind(dim=1)
        self._inverse_scale = (-log_scales.clamp(*self.LOG_SCALE_BOUNDS)).exp() / 127.5
        """Per level, ``[b, c, 10, h, w]``."""

    @classmethod
    def num_parameters(cls, channels: int) -> int:
        """Return how many numbers the network gives for each pixel of an image with these channels."""
        return cls.NUM_COMPONENTS * (channels + 1) * (channels + 2) // 2

    def log_prob(self, value: Tensor) -> Tensor:
        """Return ``log p`` of each pixel in nats, ``[b, h, w]``, for images ``[b, c, h, w]`` in [0, 1]."""
        levels = (255 * value.to(self.log_weights.dtype)).round()[:, :, None]
        before = (levels / 127.5 - 1).unbind(dim=1)
        centres = torch.stack([self._centre(i, before) for i in range(len(self._means))], dim=1)
        # With a = (upper edge − centre) / scale and b = (lower edge − centre) / scale, the mass of an inner level is
        # sigmoid(a) − sigmoid(b) = sigmoid(a) · sigmoid(−b) · (1 − exp(b − a)): three factors without cancellation.
        middle, width = (levels - centres) * self._inverse_scale, self._inverse_scale
        below_upper_edge = F.logsigmoid(middle + 0.5 * width)
        above_lower_edge = F.logsigmoid(0.5 * width - middle)
        inner = below_upper_edge + above_lower_edge + torch.log(-torch.expm1(-width))
        log_mass = torch.where(levels == 0, below_upper_edge, torch.where(levels == 255, above_lower_edge, inner))
        return (self.log_weights + log_mass.sum(dim=1)).logsumexp(dim=1)

    @property
    def mean(self) -> Tensor:
        """Mean image, ``[b, c, h, w]`` in [0, 1].

        That of the logistic cut off at 0 and 255: within half a level of the exact mean of the first channel. The
        others are conditioned on the mean of those before, as exact where their means stay clear of 0 and 255.
        """
        before: list[Tensor] = []
        for i in range(len(self._means)):
            centre, slope = self._centre(i, before), self._inverse_scale[:, i]
            # ∫ sigmoid((centre − t) · slope) dt over 0 … 255; its midpoint where the integral would cancel
            integral = (F.softplus(centre * slope) - F.softplus((centre - 255) * slope)) / slope
            level = torch.where(255 * slope < 0.1, 255 * torch.sigmoid((centre - 127.5) * slope), integral)
            before.append(level / 127.5 - 1)
        weights = self.log_weights.exp()
        return torch.stack([(weights * (x + 1) / 2).sum(dim=1) for x in before], dim=1).clamp(0, 1)

    def sample(self, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw images ``[b, c, h, w]`` whose values are levels ``j / 255``."""
        uniform = torch.rand(self.log_weights.shape, generator=generator, device=self.log_weights.device)
        gumbel = -torch.log(-torch.log(uniform.clamp(1e-12, 1 - 1e-7)))
        component = (self.log_weights + gumbel).argmax(dim=1, keepdim=True)
        before: list[Tensor] = []
        levels: list[Tensor] = []
        for i in range(len(self._means)):
            centre, slope = (
                values.gather(1, component) for values in (self._centre(i, before), self._inverse_scale[:, i])
            )
            uniform = torch.rand(centre.shape, generator=generator, device=centre.device).to(centre.dtype)
            levels.append((centre + uniform.clamp(1e-7, 1 - 1e-7).logit() / slope).clamp(0, 255).round())
            before.append(levels[-1] / 127.5 - 1)
        return torch.cat(levels, dim=1) / 255

    def _centre(self, channel: int, before: Sequence[Tensor]) -> Tensor:
        """Return the means of a channel given the values −1 … 1 of those before it, in levels, ``[b, 10, h, w]``."""
        first = channel * (channel - 1) // 2
        mean = self._means[channel]
        for coefficient, x in zip(self._coefficients[first : first + channel], before, strict=False):
            mean = torch.addcmul(mean, coefficient, x)
        return 127.5 * (mean + 1)


Likelihood = GreyBernoulli | DiscretizedLogisticMixture
LIKELIHOODS: dict[str, type[GreyBernoulli] | type[DiscretizedLogisticMixture]] = {
    "bernoulli": GreyBernoulli,
    "logistic-mixture": DiscretizedLogisticMixture,
}
