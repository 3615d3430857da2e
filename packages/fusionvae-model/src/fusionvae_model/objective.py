"""What training minimises: the negative bound of Eq. (8), Sec. 4.2, with warm-up, balancing and regularisers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from fusionvae_model.model import Bound

POWER_ITERATIONS = 4
FIRST_POWER_ITERATIONS = 40
LEAST_SQUARED_SINGULAR_VALUE = 1e-30
"""Below it, a weight counts as zero."""


def beta(step: int, total_steps: int, *, fraction: float, floor: float) -> float:
    """Return ``β`` of Eq. (8): linear from 0 to 1 over the first ``fraction`` of all steps, never below ``floor``."""
    return min(1.0, max(floor, step / (fraction * total_steps))) if fraction > 0 else 1.0


def group_gamma(groups_per_scale: Sequence[int]) -> list[float]:
    """Return ``γ_l ∝ 4^scale / groups on that scale`` of each group, coarse to fine, the smallest being 1."""
    gamma = [4.0**scale / groups for scale, groups in enumerate(groups_per_scale) for _ in range(groups)]
    return [value / min(gamma) for value in gamma]


def balancing_weights(mean_kl: Tensor, gamma: Tensor) -> Tensor:
    """Return ``α_l ∝ (mean |KL_l| + 0.01) / γ_l`` with mean 1 over the groups, a constant to the gradient (Eq. 8).

    Args:
        mean_kl: KL of each group in nats, averaged over the batch, ``[L]``.
        gamma: ``γ_l``, ``[L]``.
    """
    weights = (mean_kl.detach().abs() + 0.01) / gamma
    return weights / weights.mean()


def negative_elbo(bound: Bound, gamma: Tensor, *, beta: float, mean_kl: Tensor | None = None) -> Tensor:
    """Return ``mean_b(−log p(y|z) + β Σ_l α_l KL_l)`` in nats; ``α_l = 1`` once ``β`` has reached 1 (Eq. 8).

    Several weighted draws, which have no such two sides, are for ``β = 1``: their tighter bound then takes its place.

    Args:
        bound: Of some rows of a batch.
        gamma: ``γ_l``, ``[L]``.
        beta: ``β`` in (0, 1].
        mean_kl: KL of each group over the whole batch, ``[L]``, where these are not all its rows.
    """
    if bound.weighted is not None and beta >= 1:
        return -bound.weighted.mean()
    own_kl = bound.kl.mean(dim=0)
    alpha = balancing_weights(own_kl if mean_kl is None else mean_kl, gamma) if beta < 1 else torch.ones_like(gamma)
    return beta * (own_kl * alpha).sum() - bound.log_likelihood.mean()


class SpectralRegularizer(nn.Module):
    """Sum of the largest singular values of all convolution weights as used.

    A weight is normalised where its convolution normalises it, and reshaped to ``out × in·height·width``. The
    singular vectors are tracked by power iteration, all weights of one shape in one batch.

    Args:
        weights: As :meth:`~fusionvae_model.weights_as_used.WeightsAsUsed.compute` returns them.
        generator: Source of the first singular vectors.
    """

    def __init__(self, weights: Sequence[Tensor], *, generator: torch.Generator) -> None:
        super().__init__()
        for index, stack in enumerate(weights):
            start = torch.randn(*stack.shape[:2], 1, generator=generator)
            self.register_buffer(f"left_{index}", F.normalize(start, dim=1))
        for index, stack in enumerate(weights):
            self._advance(index, stack.detach().cpu(), FIRST_POWER_ITERATIONS)

    def forward(self, weights: Sequence[Tensor]) -> Tensor:
        """Return the sum, differentiable, after advancing the singular vectors.

        Args:
            weights: As :meth:`~fusionvae_model.weights_as_used.WeightsAsUsed.compute` returns them.
        """
        total = []
        for index, stack in enumerate(weights):
            left, right = self._advance(index, stack.detach(), POWER_ITERATIONS)
            total.append((left * torch.bmm(stack, right)).sum())
        return torch.stack(total).sum()

    @torch.no_grad()
    def _advance(self, index: int, weights: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
        left = self.get_buffer(f"left_{index}")
        # W·Wᵀ or Wᵀ·W, whichever is smaller, once, in place of two products by W in each iteration
        if weights.shape[1] <= weights.shape[2]:
            left = _iterate(torch.bmm(weights, weights.mT), left, iterations)
        else:
            right = _iterate(torch.bmm(weights.mT, weights), torch.bmm(weights.mT, left), iterations - 1)
            left = _iterate(weights, right, 1)
        right = F.normalize(torch.bmm(weights.mT, left), dim=1)
        stored = self.get_buffer(f"left_{index}")
        found = torch.linalg.vector_norm(left, dim=1, keepdim=True) > 0.5  # 1, or next to 0 where a weight counts as 0
        stored.copy_(torch.where(found, left, stored))  # whose direction may grow again
        return left, right


def _iterate(matrices: Tensor, vectors: Tensor, count: int) -> Tensor:
    for _ in range(count):
        vectors = F.normalize(torch.bmm(matrices, vectors), dim=1, eps=LEAST_SQUARED_SINGULAR_VALUE)
    return vectors


def batch_norm_regularizer(model: nn.Module) -> Tensor:
    """Return the sum over all batch norms of ``max |γ|``."""
    gains: list[Tensor] = [module.weight for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return pad_sequence(gains, batch_first=True).abs().amax(dim=1).sum()
