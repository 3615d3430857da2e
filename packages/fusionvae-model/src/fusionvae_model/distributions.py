"""Distributions over images; latent groups use ``torch.distributions.Normal``."""

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
    mean, log_scale = (SOFT_CLAMP * torch.tanh(exact / SOFT_CLAMP)).chunk(2, dim=1)
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
        self.logits = parameters

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
        logits = self.logits.float()
        return -F.binary_cross_entropy_with_logits(logits, value.float(), reduction="none").sum(dim=1)


Likelihood = GreyBernoulli
LIKELIHOODS = {"bernoulli": GreyBernoulli}
