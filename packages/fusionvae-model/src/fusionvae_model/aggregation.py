"""How several inputs become one: functions on the set dimension (paper Sec. 3.4, 6.3, App. B)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import MappingProxyType
from typing import Self

import torch
from torch import Tensor
from torch.distributions import Normal


def bayes_aggregate(elements: Normal, *, dim: int = 1) -> Normal:
    """Fuse Gaussian beliefs: precisions add, and weigh the means (App. B, closed form of Eqs. 6–7).

    ``1/σ² = Σ_i 1/σ_i²`` and ``μ = σ² Σ_i μ_i/σ_i²``: the normalised product of the densities. Eq. (6) has to be read
    as a division, and the factor that Eq. (10) multiplies by is the posterior variance, against the print.
    Computed from logarithms, so that no variance under- or overflows.

    Args:
        elements: One Gaussian for each element of the set; computed in float32 or finer.
        dim: The set dimension, of size ``k ≥ 1``.

    Returns:
        Normal without the set dimension, the same for every order of the set.
    """
    scale = elements.scale.to(torch.promote_types(elements.scale.dtype, torch.float32))
    log_precision = -2 * scale.log()
    mean = (log_precision.softmax(dim=dim) * elements.loc).sum(dim=dim)
    return Normal(mean, (-0.5 * log_precision.logsumexp(dim=dim)).exp(), validate_args=False)


def pool(elements: Normal, *, dim: int = 1) -> Normal:
    """Average Gaussian beliefs: precisions average, and weigh the means.

    ``1/σ² = 1/k Σ_i 1/σ_i²`` and ``μ = σ² · 1/k Σ_i μ_i/σ_i²``: the normalised geometric mean of the densities, a
    logarithmic opinion pool. Where :func:`bayes_aggregate` takes the beliefs for independent and grows more certain
    with each, what all of them share counts once here: the certain elements speak loudest, and agreement changes
    nothing.

    Args:
        elements: One Gaussian for each element of the set; computed in float32 or finer.
        dim: The set dimension, of size ``k ≥ 1``.

    Returns:
        Normal without the set dimension, the same for every order of the set.
    """
    product = bayes_aggregate(elements, dim=dim)
    return Normal(product.loc, product.scale * math.sqrt(elements.loc.shape[dim]), validate_args=False)


GAUSSIAN_FUSIONS = MappingProxyType({"bayes": bayes_aggregate, "pool": pool})
"""Method → how it fuses the Gaussians that the prior's head makes of each element."""


def repeat_images(features: Tensor, count: int) -> Tensor:
    """Repeat every image's features for each of its samples, channels last in memory.

    Args:
        features: ``[b, …, C, h, w]``.
        count: Samples of each image.

    Returns:
        ``[b · count, …, C, h, w]``, the samples of an image side by side.
    """
    return features.movedim(-3, -1).repeat_interleave(count, dim=0).movedim(-1, -3)


@dataclass(frozen=True)
class InputSet:
    """What one latent group knows of a set of inputs.

    Attributes:
        features: ``[b, C, h, w]`` fused by max or mean, or ``[b, k, C, h, w]`` where Gaussians are fused later.
        num_inputs: Elements of the set, at least 1: the inputs of every modality.
    """

    features: Tensor
    num_inputs: int

    def for_samples(self, count: int) -> Self:
        """Repeat every image's features for each of its samples."""
        return type(self)(repeat_images(self.features, count), self.num_inputs)


@dataclass(frozen=True)
class Aggregation:
    """One row of the aggregation ablation (Sec. 6.3, Tab. 5), or the pool that the paper does not have.

    Attributes:
        method: ``"max"`` or ``"mean"`` of features; ``"bayes"`` or ``"pool"`` of Gaussians.
        joins_all: Whether the decoder's ``u_l`` belongs to the set that is fused, instead of being added.
    """

    method: str
    joins_all: bool = False

    @classmethod
    def from_name(cls, name: str) -> Self:
        """Read a name such as ``"max-add"`` or ``"bayes-all"``, or the baselines' ``"max"``, which have no ``u_l``."""
        method, _, suffix = name.partition("-")
        return cls(method, joins_all=suffix == "all")

    def prefixes(self, features: Tensor, sizes: Sequence[int]) -> list[InputSet | None]:
        """Fuse the first ``k`` inputs for several ``k`` at once, each input visited once.

        Args:
            features: ``[b, k_max, C, h, w]``.
            sizes: Numbers of inputs, each in ``0…k_max``.

        Returns:
            For each size the set, or ``None`` where it is empty.
        """
        needed = features.unbind(dim=1)[: max(sizes, default=0)]
        if self.method in GAUSSIAN_FUSIONS:
            return [InputSet(features[:, :k], k) if k else None for k in sizes]
        if self.method == "mean":
            fused = [total / k for k, total in enumerate(accumulate(needed, torch.add), start=1)]
        else:
            fused = list(accumulate(needed, torch.maximum))
        return [InputSet(fused[k - 1], k) if k else None for k in sizes]

    def merge(self, inputs: InputSet | None, other: Tensor | None) -> Tensor:
        """Bring the inputs and one more feature map together: what the prior's head sees.

        Args:
            inputs: The set, or ``None`` without inputs.
            other: ``u_l`` ``[b, C, h, w]``, or ``None`` in group 1. Not both ``None``.

        Returns:
            ``[b, C, h, w]``, or ``[b, n, C, h, w]`` where the Gaussians of ``n`` elements are still to be fused.
        """
        if inputs is None:
            assert other is not None
            return other
        features = inputs.features
        if other is None:
            return features
        if self.method in GAUSSIAN_FUSIONS:
            others = other[:, None]
            return torch.cat((features, others), dim=1) if self.joins_all else features + others
        if not self.joins_all:
            return features + other
        return self.with_element(inputs, other)

    def fuse(self, elements: Normal) -> Normal:
        """Fuse the Gaussians ``[b, n, m, h, w]`` of ``n`` elements to ``[b, m, h, w]``."""
        return GAUSSIAN_FUSIONS[self.method](elements)

    def with_element(self, inputs: InputSet, element: Tensor) -> Tensor:
        """Return the maximum or mean ``[b, C, h, w]`` over the inputs and one more element."""
        if self.method == "mean":
            return torch.lerp(inputs.features, element, 1 / (inputs.num_inputs + 1))
        return inputs.features.maximum(element)
