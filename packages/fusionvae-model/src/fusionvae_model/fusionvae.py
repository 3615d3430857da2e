"""FusionVAE, top to bottom (paper Sec. 4)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

import torch
from torch import Tensor, nn

from fusionvae_model.aggregation import max_aggregate_prefixes
from fusionvae_model.checkpoint import model_folder, read_pretrained, write_pretrained
from fusionvae_model.config import ModelConfig, preset
from fusionvae_model.distributions import Likelihood, normal_kl
from fusionvae_model.errors import FusionVAEError
from fusionvae_model.folding import fold_batch_norm
from fusionvae_model.hierarchy import (
    Encoder,
    ImageHead,
    TopDownWalk,
    draw_from_posterior,
    draw_from_prior,
    fixed_latents,
    log_density_ratio,
)
from fusionvae_model.noise import NoiseSource

PIXELS_PER_PASS = 512 * 32 * 32
"""How many pixels one pass without gradients decodes at once; bounds the memory of any ``num_samples``."""


@dataclass(frozen=True)
class Bound:
    """The two sides of the evidence lower bound, Eq. (8) with ``β = α_l = 1``.

    Attributes:
        log_likelihood: ``log p(y | z)`` for one ``z ~ q``, nats, ``[b]``.
        kl: ``KL(q_l ‖ p_l)`` of each group, nats, ``[b, L]``.
    """

    log_likelihood: Tensor
    kl: Tensor

    @property
    def nats(self) -> Tensor:
        """The bound itself, ``[b]``."""
        return self.log_likelihood - self.kl.sum(dim=1)


P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", Tensor, Tensor | None)


def _inference(method: Callable[P, R]) -> Callable[P, R]:
    """Run a method without gradients and in eval mode, where batch norm does not mix images."""

    @wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        model = args[0]
        assert isinstance(model, nn.Module)
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad():
                return method(*args, **kwargs)
        finally:
            model.train(was_training)

    return run


class FusionVAE(nn.Module):
    """Deep hierarchical conditional VAE that fuses ``k ≥ 0`` images of one thing.

    The inputs are a set: their order does not matter, and any number is accepted, also more than in training.

    Args:
        config: The architecture.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.walk = TopDownWalk(config)
        self.image_head = ImageHead(config)

    @classmethod
    def from_preset(cls, name: str) -> Self:
        """Build an untrained model of a preset, e.g. ``"fusion-mnist"``."""
        return cls(preset(name).model)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: torch.device | str = "cpu") -> Self:
        """Load a trained model from a folder that :meth:`save_pretrained` or ``fusionvae train`` wrote.

        Args:
            folder: Its path, or the name of weights that came with the package: ``"fusion-mnist"``.
            device: Where the model goes.

        Raises:
            FusionVAEError: If the folder holds no model, or one of another version.
        """
        config, tensors = read_pretrained(model_folder(folder))
        model = cls(config)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise FusionVAEError(f"the weights in {folder} do not fit their own config.json: {reason}") from error
        return model.to(device).eval()

    def save_pretrained(self, folder: str | Path, *, training: dict[str, Any] | None = None) -> None:
        """Write config.json, model.safetensors and a model card, each whole or not at all.

        Args:
            folder: Created if absent.
            training: What to remember of the training (:mod:`fusionvae_model.training` fills it in).
        """
        write_pretrained(Path(folder), self.config, self.state_dict(), self.num_parameters, training)

    def folded(self) -> Self:
        """Return a copy for inference alone that computes the same in about half the time.

        Batch norms become part of the convolutions beside them (:mod:`fusionvae_model.folding`); the copy cannot be
        trained or saved.
        """
        copy = fold_batch_norm(self)
        assert isinstance(copy, type(self))
        return copy

    @property
    def num_parameters(self) -> int:
        """Trained numbers in the model."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, target: Tensor, inputs: Tensor, *, generator: NoiseSource | None = None) -> Bound:
        """Return both sides of the bound for one ``z ~ q(z | y)``; differentiable.

        Args:
            target: ``y``, ``[b, c, h, w]`` in [0, 1].
            inputs: ``x_1 … x_k``, ``[b, k, c, h, w]`` in [0, 1], ``k ≥ 0``.
            generator: Source of the noise.
        """
        self._check_target(target)
        self._check_inputs(inputs, batch_size=len(target))
        target_features, context = self._encode(target, inputs, (inputs.shape[1],))
        walk = self.walk(
            draw_from_posterior(generator), batch_size=len(target), contexts=context, target=target_features
        )
        log_likelihood = self.image_head(walk.state).log_prob(target).sum(dim=(1, 2))
        kl = [
            normal_kl(step.posterior, step.priors[0]).flatten(1).sum(dim=1)
            for step in walk.steps
            if step.posterior is not None
        ]
        return Bound(log_likelihood, torch.stack(kl, dim=1))

    def elbo(self, target: Tensor, inputs: Tensor, *, generator: NoiseSource | None = None) -> Tensor:
        """Return the evidence lower bound of ``log p(y | x)``, Eq. (8) with ``β = α_l = 1``, over all pixels.

        Args:
            target: ``y``, ``[b, c, h, w]`` in [0, 1].
            inputs: ``x_1 … x_k``, ``[b, k, c, h, w]`` in [0, 1], ``k ≥ 0``.
            generator: Source of the noise.

        Returns:
            Nats per image, ``[b]``; one draw of ``z``, closed-form KL of each group.

        Raises:
            FusionVAEError: If a shape does not fit the model.
        """
        return self(target, inputs, generator=generator).nats

    @_inference
    def sample(
        self,
        inputs: Tensor | None = None,
        *,
        num_samples: int = 1,
        batch_size: int | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw hypotheses of the clean image: means of ``p(y | z)`` for ``z ~ p(z | x)`` (Sec. 4.3).

        Args:
            inputs: ``[b, k, c, h, w]`` in [0, 1]; ``None`` for no inputs.
            num_samples: Hypotheses ``S`` per image.
            batch_size: ``b``, where there are no inputs to tell it.
            temperature: Multiplies every prior's scale; 1 samples the model, less is safer and less varied.
            generator: Source of the noise.

        Returns:
            ``[b, S, c, h, w]`` in [0, 1].

        Raises:
            FusionVAEError: If a shape does not fit the model.
        """
        size = self.config.image_size
        if inputs is None:
            inputs = self.walk.h.new_empty(1 if batch_size is None else batch_size, 0, self.config.channels, size, size)
        self._check_inputs(inputs, batch_size=len(inputs) if batch_size is None else batch_size)
        self._check_num_samples(num_samples)
        _, (context,) = self._encode(None, inputs, (inputs.shape[1],))
        means = []
        for count in self._sample_chunks(num_samples, len(inputs)):
            walk = self.walk(
                draw_from_prior(generator, temperature=temperature),
                batch_size=len(inputs) * count,
                contexts=[_repeat(context, count)],
            )
            means.append(self.image_head(walk.state).mean.unflatten(0, (len(inputs), count)))
        return torch.cat(means, dim=1)

    @_inference
    def log_importance_weights(
        self,
        target: Tensor,
        inputs: Tensor,
        *,
        num_samples: int,
        num_inputs: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return ``log p(y | z) + log p(z | x) − log q(z | y)`` for draws ``z ~ q(z | y)`` (Sec. 5.5).

        The draws, ``q`` and the likelihood do not depend on the inputs, so one pass serves every number of inputs.

        Args:
            target: ``y``, ``[b, c, h, w]`` in [0, 1].
            inputs: ``x_1 … x_k``, ``[b, k, c, h, w]`` in [0, 1].
            num_samples: ``S``.
            num_inputs: Numbers of inputs to score with the same draws, each using the first so many inputs.
            generator: Source of the noise.

        Returns:
            Nats over the centre square of ``config.nll_size`` pixels: ``[b, S]``, or ``[b, len(num_inputs), S]``.

        Raises:
            FusionVAEError: If a shape does not fit the model, or more inputs are scored than given.
        """
        self._check_target(target)
        self._check_inputs(inputs, batch_size=len(target))
        self._check_num_samples(num_samples)
        sizes = (inputs.shape[1],) if num_inputs is None else tuple(num_inputs)
        if not sizes or min(sizes) < 0 or max(sizes) > inputs.shape[1]:
            raise FusionVAEError(
                f"num_inputs is {sizes}; expected numbers from 0 to the {inputs.shape[1]} inputs given"
            )
        target_features, contexts = self._encode(target, inputs, sizes)
        weights = []
        for count in self._sample_chunks(num_samples, len(target)):
            walk = self.walk(
                draw_from_posterior(generator),
                batch_size=len(target) * count,
                contexts=[_repeat(context, count) for context in contexts],
                target=_repeat(target_features, count),
            )
            log_likelihood = self._scored_log_likelihood(self.image_head(walk.state), target, count)
            chunk = log_likelihood[:, None] + log_density_ratio(walk)
            weights.append(chunk.unflatten(0, (len(target), count)).transpose(1, 2))
        result = torch.cat(weights, dim=2)
        return result[:, 0] if num_inputs is None else result

    @_inference
    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Return the mean of ``p(y | z)``, ``[b, c, h, w]``, for given ``z_1 … z_L`` (``[b, m, h_l, w_l]`` each)."""
        if len(latents) != self.config.num_groups:
            raise FusionVAEError(f"got {len(latents)} groups of latents; expected {self.config.num_groups}")
        no_inputs: list[Tensor | None] = [None] * self.config.num_groups
        walk = self.walk(fixed_latents(latents), batch_size=len(latents[0]), contexts=[no_inputs])
        return self.image_head(walk.state).mean

    def _encode(
        self, target: Tensor | None, inputs: Tensor, sizes: Sequence[int]
    ) -> tuple[list[Tensor], list[list[Tensor | None]]]:
        """Encode target and inputs in one batch; aggregate the first ``k`` inputs for each of the sizes.

        Returns:
            The target's features of every group (none without a target), and those of each set of inputs.
        """
        b, k = inputs.shape[:2]
        images = inputs.flatten(0, 1) if target is None else torch.cat((inputs.flatten(0, 1), target))
        if len(images) == 0:
            return [], [[None] * self.config.num_groups for _ in sizes]
        features = self.encoder(images)
        of_inputs = [max_aggregate_prefixes(f[: b * k].unflatten(0, (b, k)), sizes) for f in features]
        contexts = [list(context) for context in zip(*of_inputs, strict=True)]
        return [f[b * k :] for f in features], contexts

    def _scored_log_likelihood(self, likelihood: Likelihood, target: Tensor, count: int) -> Tensor:
        margin = (self.config.image_size - self.config.nll_size) // 2
        inside = slice(margin, margin + self.config.nll_size)
        return likelihood.log_prob(target.repeat_interleave(count, dim=0))[:, inside, inside].sum(dim=(1, 2))

    def _sample_chunks(self, num_samples: int, batch_size: int) -> list[int]:
        chunk = max(1, PIXELS_PER_PASS // (self.config.image_size**2 * max(1, batch_size)))
        return [min(chunk, num_samples - done) for done in range(0, num_samples, chunk)]

    def _check_target(self, target: Tensor) -> None:
        expected = (self.config.channels, self.config.image_size, self.config.image_size)
        if target.ndim != 4 or tuple(target.shape[1:]) != expected:
            raise FusionVAEError(
                f"the target has shape {list(target.shape)}; this model expects [b, {', '.join(map(str, expected))}]"
            )

    def _check_inputs(self, inputs: Tensor, *, batch_size: int) -> None:
        expected = (self.config.channels, self.config.image_size, self.config.image_size)
        if inputs.ndim != 5 or len(inputs) != batch_size or tuple(inputs.shape[2:]) != expected:
            raise FusionVAEError(
                f"the inputs have shape {list(inputs.shape)}; this model expects "
                f"[{batch_size}, k, {', '.join(map(str, expected))}] with any k ≥ 0"
            )

    def _check_num_samples(self, num_samples: int) -> None:
        if num_samples < 1:
            raise FusionVAEError(f"num_samples is {num_samples}; expected at least 1")


def _repeat(features: Sequence[T], count: int) -> list[T]:
    """Repeat every image's features for each of its samples: ``[b, …] → [b · count, …]``."""
    return [f if f is None else f.repeat_interleave(count, dim=0) for f in features]
