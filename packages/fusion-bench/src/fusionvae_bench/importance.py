r"""Importance-sampled likelihoods, streamed: any number of samples in constant memory. Pure NumPy.

For log weights ``log w_s = log p(y|x,z_s) + log p(z_s|x) - log q(z_s|·)`` the paper's estimate (Sec. 5.5) is

    log p(y|x) ≈ log ( 1/S Σ_s w_s ).

Glossary of shapes: ``...`` are the independent estimates (images, numbers of inputs), ``S`` the samples, which
always come last.

References:
    Vehtari, Simpson, Gelman, Yao, Gabry: Pareto smoothed importance sampling. JMLR 25 (2024).
    Zhang, Stephens: A new and efficient estimation method for the generalized Pareto distribution.
    Technometrics 51 (2009).
    Chan, Golub, LeVeque: Algorithms for computing the sample variance. The American Statistician 37 (1983).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_PARETO_K = 0.7
"""Above this tail shape, importance sampling needs unrealistically many samples (Vehtari et al., Sec. 3)."""


def reliable_pareto_k(num_samples: int) -> float:
    """Return the tail shape above which so many samples are too few: ``min(1 − 1 / log₁₀ S, 0.7)`` (Vehtari et al.).

    It is 0.5 for 100 samples, and 0.67 for 1000.
    """
    return min(1 - 1 / np.log10(num_samples), MOST_PARETO_K) if num_samples > 10 else 0.0


_FEWEST_TAIL_WEIGHTS = 5
_SMALLEST_QUARTILE = 1e-290  # keeps 1 / quartile finite when the spread of the weights underflows


@dataclass(frozen=True)
class ImportanceEstimate:
    """Log-mean-exp of the weights, and how far to trust it.

    Attributes:
        log_mean: [...] ``log(1/S Σ w_s)``, nats.
        standard_error: [...] of ``log_mean`` by the delta method, ``sd(w) / (mean(w) √S)``, nats; NaN for S = 1.
        effective_sample_size: [...] ``(Σ w)² / Σ w²``, between 1 and S.
        pareto_k: [...] shape of the largest weights' tail; above :func:`reliable_pareto_k` the other three are not to
            be trusted. NaN if there are too few samples to fit it.
    """

    log_mean: Floats
    standard_error: Floats
    effective_sample_size: Floats
    pareto_k: Floats


def tail_length(num_samples: int) -> int:
    """Return how many of the largest weights make the tail, ``⌈min(S/5, 3√S)⌉`` (Vehtari et al., Sec. 3)."""
    return int(np.ceil(min(num_samples / 5, 3 * np.sqrt(num_samples))))


class ImportanceStream:
    """Accumulate log weights in chunks; the estimate is the same however they are cut.

    Mean and summed squared deviation of the weights are kept relative to the largest one so far, and merged by
    the rule of Chan et al., so that neither overflow nor cancellation can occur; the tail keeps the
    largest weights and the threshold below them.

    Args:
        shape: shape of the independent estimates.
        num_samples: samples that will come in all, S ≥ 1; it decides the length of the tail.
    """

    def __init__(self, shape: tuple[int, ...], num_samples: int) -> None:
        if num_samples < 1:
            raise ValueError(f"got num_samples={num_samples}, expected at least 1")
        self.num_samples = num_samples
        self.count = 0
        self._largest = np.full(shape, -np.inf)
        self._mean = np.zeros(shape)  # of w / exp(largest)
        self._deviation = np.zeros(shape)  # Σ (w - mean)² / exp(2 largest)
        self._tail = np.empty((*shape, 0))

    def update(self, log_weights: Floats) -> None:
        """Take the next chunk.

        Args:
            log_weights: [..., s] finite, nats.

        Raises:
            ValueError: if more samples arrive than were announced, or one of them is not finite.
        """
        chunk = np.asarray(log_weights, dtype=np.float64)
        arriving = chunk.shape[-1]
        if self.count + arriving > self.num_samples:
            raise ValueError(f"got {self.count + arriving} samples, expected the {self.num_samples} announced")
        if not np.isfinite(chunk).all():
            raise ValueError("got a log weight that is not finite")
        largest = np.maximum(self._largest, chunk.max(-1))
        shrink = np.exp(self._largest - largest)
        mean, deviation = self._mean * shrink, self._deviation * shrink**2

        weights = np.exp(chunk - largest[..., None])
        chunk_mean = weights.mean(-1)
        step, total = chunk_mean - mean, self.count + arriving
        self._mean = mean + step * (arriving / total)
        self._deviation = (
            deviation
            + np.square(weights - chunk_mean[..., None]).sum(-1)
            + np.square(step) * (self.count * arriving / total)
        )
        self._largest, self.count = largest, total

        kept = tail_length(self.num_samples) + 1
        tail = np.concatenate([self._tail, chunk], -1)
        self._tail = np.partition(tail, -kept, -1)[..., -kept:] if tail.shape[-1] > kept else tail

    def estimate(self) -> ImportanceEstimate:
        """Return the estimate from the samples so far."""
        if self.count == 0:
            raise ValueError("got no samples yet, expected at least one")
        # Σ(w - mean)² / (S mean²): the squared coefficient of variation
        variation = self._deviation / (self.count * np.square(self._mean))
        unbiased = self.count - 1 if self.count > 1 else np.nan
        return ImportanceEstimate(
            log_mean=self._largest + np.log(self._mean),
            standard_error=np.sqrt(variation / unbiased),
            effective_sample_size=self.count / (1 + variation),
            pareto_k=_tail_shape(self._tail, tail_length(self.count)),
        )


def estimate_from_weights(log_weights: Floats) -> ImportanceEstimate:
    """Estimate from all weights at once.

    Args:
        log_weights: [..., S] nats.
    """
    weights = np.asarray(log_weights, dtype=np.float64)
    stream = ImportanceStream(weights.shape[:-1], weights.shape[-1])
    stream.update(weights)
    return stream.estimate()


def _tail_shape(log_weights: Floats, length: int) -> Floats:
    """Fit the ``length`` largest weights' excess over the next smaller one; [..., ≥ length + 1] → [...]."""
    shape = log_weights.shape[:-1]
    if length < _FEWEST_TAIL_WEIGHTS or log_weights.shape[-1] <= length:
        return np.full(shape, np.nan)
    ordered = np.sort(log_weights, -1)[..., -(length + 1) :]
    weights = np.exp(ordered - ordered[..., -1:])
    excess = weights[..., 1:] - weights[..., :1]
    shape_k, _ = fit_generalised_pareto(excess)
    # Weakly informative prior worth ten observations at 1/2 (Vehtari et al., App. C): calms short tails.
    shape_k = (length * shape_k + 10 * 0.5) / (length + 10)
    return np.where(excess[..., -1] > 0, shape_k, 0.0)  # equal weights: no tail at all


def fit_generalised_pareto(excess: Floats) -> tuple[Floats, Floats]:
    r"""Fit shape and scale of the generalised Pareto distribution (Zhang & Stephens 2009, Eqs. 7–9).

    ``p(x) = 1/σ (1 + k x / σ)^{-1/k - 1}``; the profile likelihood in ``θ = -k/σ`` is averaged over a
    fixed grid of quantiles of a data-based prior: no iteration, so all images are fitted at once.

    Args:
        excess: [..., M] ≥ 0, ascending.

    Returns:
        Shape k and scale σ, both [...]; k > 0 means a heavy tail.
    """
    count = excess.shape[-1]
    grid = 30 + int(np.sqrt(count))
    quartile = np.maximum(excess[..., int(count / 4 + 0.5) - 1], _SMALLEST_QUARTILE)
    largest = np.maximum(excess[..., -1], _SMALLEST_QUARTILE)
    steps = 1 - np.sqrt(grid / (np.arange(grid) + 0.5))
    theta = 1 / largest[..., None] + steps / (3 * quartile[..., None])

    def shape_at(theta: Floats) -> Floats:
        return np.log1p(-theta[..., None] * excess[..., None, :]).mean(-1)

    shapes = shape_at(theta)
    with np.errstate(divide="ignore", invalid="ignore"):  # θ = 0 is the exponential distribution
        profile = count * (np.log(-theta / shapes) - shapes - 1)
    profile = np.where(np.isfinite(profile), profile, -np.inf)
    best = profile.max(-1, keepdims=True)
    posterior = np.exp(profile - np.where(np.isfinite(best), best, 0.0))
    posterior /= np.maximum(posterior.sum(-1, keepdims=True), np.finfo(np.float64).tiny)
    theta_hat = (theta * posterior).sum(-1)
    shape = shape_at(theta_hat[..., None])[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = -shape / theta_hat
    return shape, scale
