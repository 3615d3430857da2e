"""What a model must offer to be scored. Nothing to inherit from: the methods are enough.

Glossary of shapes: b images, k inputs, c channels, h × w pixels, S samples, n numbers of inputs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from fusionvae_bench.errors import ModelError


@runtime_checkable
class LikelihoodModel(Protocol):
    """A model whose conditional likelihood can be estimated by importance sampling.

    It may also take ``num_inputs=(0, 1, 2, 3)`` and return [b, n, S]: the same latents weighed under the
    prior of each number of inputs. Where the posterior ignores the inputs, as FusionVAE's q(z|y) does, that is one
    pass instead of n.
    """

    def log_importance_weights(
        self, target: Tensor, inputs: Tensor, *, num_samples: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return ``log p(y|x,z) + log p(z|x) - log q(z|·)`` for draws from q, [b, S] nats.

        Args:
            target: [b, c, h, w] in [0, 1].
            inputs: [b, k, c, h, w] in [0, 1], k ≥ 0.
            num_samples: S.
            generator: source of all randomness.
        """
        ...


@runtime_checkable
class SamplingModel(Protocol):
    """A model that proposes fused images."""

    def sample(self, inputs: Tensor, *, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Return means of p(y|x,z) for draws z ~ p(z|x), [b, S, c, h, w] in [0, 1].

        Args:
            inputs: [b, k, c, h, w] in [0, 1], k ≥ 0.
            num_samples: S.
            generator: source of all randomness.
        """
        ...


@runtime_checkable
class FoldableModel(Protocol):
    """A model that has a faster form of itself for inference; optional."""

    def folded(self) -> Any:
        """Return an equal model that offers the same methods."""
        ...


def offers(method: Callable[..., Any], keyword: str) -> bool:
    """Tell whether a method takes this keyword, by its signature."""
    parameters = inspect.signature(method).parameters.values()
    return any(p.name == keyword or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def weigh(
    model: LikelihoodModel,
    target: Tensor,
    inputs: Tensor,
    *,
    num_samples: int,
    num_inputs: Sequence[int],
    generator: torch.Generator,
) -> Tensor:
    """Draw log importance weights for several numbers of inputs, in one pass where the model can.

    A model without the keyword ``num_inputs`` is called once per number of inputs, each time from the same state of
    the generator, so that differences between numbers of inputs stay paired.

    Args:
        model: the model.
        target: [b, c, h, w] in [0, 1].
        inputs: [b, k, c, h, w] in [0, 1].
        num_samples: S.
        num_inputs: numbers of inputs, each ≤ k; the first ones of the set are used.
        generator: source of all randomness, on the device of the images.

    Returns:
        [b, n, S] nats.

    Raises:
        ModelError: if the weights come in another shape.
    """
    if offers(model.log_importance_weights, "num_inputs"):
        jointly: Callable[..., Tensor] = model.log_importance_weights
        log_weights = jointly(
            target, inputs, num_samples=num_samples, num_inputs=tuple(num_inputs), generator=generator
        )
    else:
        state, separate = generator.get_state(), []
        for k in num_inputs:
            generator.set_state(state)
            separate.append(
                model.log_importance_weights(target, inputs[:, :k], num_samples=num_samples, generator=generator)
            )
        log_weights = torch.stack(separate, 1)
    expected = (len(target), len(num_inputs), num_samples)
    if tuple(log_weights.shape) != expected:
        raise ModelError(
            f"log_importance_weights returned the shape {tuple(log_weights.shape)}, expected {expected} "
            "(images, numbers of inputs, samples); make the model return one log weight per image and sample"
        )
    return log_weights


def draw(model: SamplingModel, inputs: Tensor, *, num_samples: int, generator: torch.Generator) -> Tensor:
    """Draw fused images.

    Args:
        model: the model.
        inputs: [b, k, c, h, w] in [0, 1], k ≥ 0.
        num_samples: S.
        generator: source of all randomness, on the device of the images.

    Returns:
        [b, S, c, h, w] in [0, 1].

    Raises:
        ModelError: if shape or range are not kept.
    """
    method: Callable[..., Tensor] = model.sample
    if inputs.shape[1] == 0 and offers(method, "batch_size"):
        samples = method(batch_size=len(inputs), num_samples=num_samples, generator=generator)
    else:
        samples = method(inputs, num_samples=num_samples, generator=generator)
    expected = (len(inputs), num_samples, *inputs.shape[2:])
    if tuple(samples.shape) != expected:
        raise ModelError(
            f"sample returned the shape {tuple(samples.shape)}, expected {expected} "
            "(images, samples, channels, height, width); make the model return one image per sample"
        )
    lowest, highest = (float(v) for v in torch.aminmax(samples))
    if not (lowest >= 0 and highest <= 1):  # NaN fails both
        raise ModelError(
            f"sample returned values from {lowest:.4g} to {highest:.4g}, expected means of p(y|x,z) in [0, 1]; "
            "apply the likelihood's mean before returning"
        )
    return samples
