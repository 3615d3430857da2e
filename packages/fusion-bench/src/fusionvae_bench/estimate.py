"""Images in, estimates out: the two numbers of the paper's Sec. 5.5 for one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusionvae_bench.errors import DataError, NonFiniteWeightError
from fusionvae_bench.importance import ImportanceStream
from fusionvae_bench.metrics import DrawErrors, DrawStream
from fusionvae_bench.protocol import LikelihoodModel, SamplingModel, draw, weigh
from fusionvae_model.device import Precision

PIXELS_PER_CALL = MappingProxyType({"cpu": 2048 * 32 * 32, "cuda": 16384 * 32 * 32})
"""Decoded pixels that one call of the model is asked for, by device: the memory of an estimate does not grow with S.

A call encodes its images once, so large calls pay; a model may decode them in smaller passes of its own. It cuts the
random stream, so it is fixed.
"""


@dataclass(frozen=True)
class NllEstimate:
    """Negative log-likelihoods and how far to trust them; each [b], or [b, n] for n numbers of inputs.

    Attributes:
        nats: ``-log p(y|x)``; too large on average, by about half the squared standard error.
        standard_error: of each image's estimate over its samples (delta method), nats.
        effective_sample_size: between 1 and S.
        pareto_k: tail shape of the weights; above `importance.reliable_pareto_k`, distrust the image's other numbers.
    """

    nats: NDArray[np.float64]
    standard_error: NDArray[np.float64]
    effective_sample_size: NDArray[np.float64]
    pareto_k: NDArray[np.float64]


@torch.no_grad()
def estimate_nll(
    model: LikelihoodModel,
    target: Tensor,
    inputs: Tensor,
    num_samples: int = 1000,
    num_inputs: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    chunk: int | None = None,
    *,
    precision: Precision = "32",
) -> NllEstimate:
    """Estimate ``-log p(y|x)`` by importance sampling (Sec. 5.5), in memory that does not grow with S.

    Args:
        model: offers `log_importance_weights`.
        target: y, [b, c, h, w] in [0, 1].
        inputs: x, [b, k, c, h, w] in [0, 1].
        num_samples: S ≥ 1.
        num_inputs: numbers of inputs, each ≤ k, to be estimated from the same latents; None for k alone.
        generator: source of all randomness; None for one seeded from PyTorch's global state.
        chunk: samples per call of the model; it cuts the random stream, so it is part of what makes a run repeatable.
        precision: what the model computes in; bfloat16 is faster where the hardware multiplies it.

    Returns:
        The estimate, [b] each, or [b, n] if ``num_inputs`` is given.

    Raises:
        DataError: if shapes or ranges are wrong.
        NonFiniteWeightError: naming image and sample, if a weight is not finite.
        ModelError: if the model breaks its word.
    """
    _check(target, inputs, num_samples, generator, chunk)
    counts = (inputs.shape[1],) if num_inputs is None else tuple(num_inputs)
    if not counts or not all(0 <= k <= inputs.shape[1] for k in counts):
        raise DataError(f"got num_inputs={counts}, expected numbers from 0 to the {inputs.shape[1]} inputs given")
    generator = generator if generator is not None else _fresh_generator(target.device)
    stream = ImportanceStream((len(target), len(counts)), num_samples)
    for size in _chunks(num_samples, target, chunk):
        weights = weigh(
            model, target, inputs, num_samples=size, num_inputs=counts, generator=generator, precision=precision
        )
        log_weights = weights.cpu().double().numpy()
        if not np.isfinite(log_weights).all():
            image, which, sample = np.argwhere(~np.isfinite(log_weights))[0]
            value = float(log_weights[image, which, sample])
            raise NonFiniteWeightError(int(image), stream.count + int(sample), counts[which], value)
        stream.update(log_weights)
    estimate = stream.estimate()
    values = (-estimate.log_mean, estimate.standard_error, estimate.effective_sample_size, estimate.pareto_k)
    return NllEstimate(*(v[:, 0] if num_inputs is None else v for v in values))


@torch.no_grad()
def estimate_draws(
    model: SamplingModel,
    target: Tensor,
    inputs: Tensor,
    num_samples: int = 1000,
    generator: torch.Generator | None = None,
    chunk: int | None = None,
    *,
    masks: Tensor | None = None,
    precision: Precision = "32",
) -> DrawErrors:
    """Draw fused images and compare them with the target (Sec. 5.5's MSE_min and its relatives).

    Without inputs the prior knows nothing of the image: one pool of S draws then serves the whole batch.

    Args:
        model: offers `sample`.
        target: y, [b, c, h, w] in [0, 1].
        inputs: x, [b, k, c, h, w] in [0, 1], k ≥ 0.
        num_samples: S ≥ 1.
        generator: source of all randomness; None for one seeded from PyTorch's global state.
        chunk: draws per image and call of the model.
        masks: where the inputs show the target, bool [b, k, h, w], for models that ask for them.
        precision: what the model computes in.

    Raises:
        DataError: if shapes or ranges are wrong.
        ModelError: if the model breaks its word.
    """
    _check(target, inputs, num_samples, generator, chunk)
    generator = generator if generator is not None else _fresh_generator(target.device)
    pool = inputs[:1] if inputs.shape[1] == 0 else inputs
    stream = DrawStream(target)
    for size in _chunks(num_samples, target[: len(pool)], chunk):
        known = None if masks is None else masks[: len(pool)]
        samples = draw(model, pool, num_samples=size, generator=generator, masks=known, precision=precision)
        stream.update(samples)
    return stream.errors()


def pixels_per_call(device: torch.device) -> int:
    """Return the entry of `PIXELS_PER_CALL` for a device; unknown ones count as a CPU."""
    return PIXELS_PER_CALL.get(device.type, PIXELS_PER_CALL["cpu"])


def _chunks(num_samples: int, images: Tensor, chunk: int | None) -> Iterator[int]:
    size = chunk or max(1, pixels_per_call(images.device) // max(1, images.numel()))
    return (min(size, num_samples - done) for done in range(0, num_samples, size))


def _fresh_generator(device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))


def _check(
    target: Tensor, inputs: Tensor, num_samples: int, generator: torch.Generator | None, chunk: int | None
) -> None:
    if num_samples < 1:
        raise DataError(f"got num_samples={num_samples}, expected at least 1")
    if chunk is not None and chunk < 1:
        raise DataError(f"got chunk={chunk}, expected at least 1, or None for as many as fit")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise DataError(
            f"got {type(generator).__name__} {generator!r:.40} as generator, expected a torch.Generator; make one of a "
            "seed by torch.Generator().manual_seed(seed)"
        )
    if not len(target):
        raise DataError("got a batch of no images, expected at least one")
    _check_images(target, inputs)


def _check_images(target: Tensor, inputs: Tensor) -> None:
    if target.ndim != 4 or inputs.ndim != 5 or len(inputs) != len(target):
        raise DataError(
            f"got target {tuple(target.shape)} and inputs {tuple(inputs.shape)}, expected [b, c, h, w] and "
            "[b, k, c, h, w] with the same b"
        )
    if inputs.shape[2:] != target.shape[1:]:
        raise DataError(
            f"got inputs of {tuple(inputs.shape[2:])} for a target of {tuple(target.shape[1:])}, expected the same "
            "channels, height and width"
        )
    for name, images in (("target", target), ("inputs", inputs)):
        if not images.is_floating_point():
            raise DataError(f"got {name} of type {images.dtype}, expected floats in [0, 1]; divide bytes by 255")
        if images.numel() and not (images.min() >= 0 and images.max() <= 1):
            raise DataError(f"got {name} outside [0, 1], expected grey values or colours in [0, 1]")
