"""FusionVAE, top to bottom (paper Sec. 4)."""

import dataclasses
import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fusionvae_model.aggregation import InputSet, repeat_images
from fusionvae_model.config import ModelConfig
from fusionvae_model.distributions import Likelihood, normal_kl
from fusionvae_model.errors import FusionVAEError
from fusionvae_model.hierarchy import (
    Encoder,
    ImageHead,
    LatentStep,
    TopDownWalk,
    Walk,
    draw_from_posterior,
    draw_from_prior,
    fixed_latents,
    log_density_ratio,
)
from fusionvae_model.model import Bound, FusionModel, inference
from fusionvae_model.noise import NoiseSource, standard_normal
from fusionvae_model.recomputation import statistics_untouched

PIXELS_PER_PASS = 512 * 32 * 32
"""How many pixels one pass without gradients decodes at once; bounds the memory of any ``num_samples``."""

Context = Sequence[InputSet | None]
"""What every group knows of one set of inputs; all ``None`` for the empty set."""


class FusionVAE(FusionModel):
    """Deep hierarchical conditional VAE that fuses ``k ≥ 0`` images of one thing.

    The inputs are a set: their order does not matter, and any number is accepted, also more than in training. Inputs
    of further modalities (``config.modalities``) pass an encoder of their own, and their features join the set.

    Args:
        config: The architecture.
    """

    kinds: ClassVar[tuple[str, ...]] = ("fusionvae",)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.walk = TopDownWalk(config)
        self.image_head = ImageHead(config)
        layouts = [dataclasses.replace(config, channels=channels) for channels in config.modalities]
        self.other_encoders = nn.ModuleList(Encoder(layout) for layout in layouts)

    def forward(
        self,
        target: Tensor,
        inputs: Tensor,
        *,
        num_inputs: Sequence[int] | None = None,
        num_samples: int = 1,
        others: Sequence[Tensor] = (),
        generator: NoiseSource | None = None,
    ) -> Bound:
        """Return both sides of the bound for ``z ~ q``; differentiable.

        The draws of ``q(z | y)`` and the likelihood do not depend on the inputs, so one pass serves every number of
        inputs.

        Args:
            target: ``y``, ``[b, c, h, w]`` in [0, 1], which is not looked at: training never waits for the device.
            inputs: ``x_1 … x_k``, ``[b, k, c, h, w]`` likewise, ``k ≥ 0``.
            num_inputs: Numbers of inputs over whose bounds the mean is taken, each of the first so many inputs, all
                with the same draws. All inputs by default; several need ``q(z | y)``.
            num_samples: Draws ``K`` for each image; more than one are weighted as well.
            others: Inputs of each further modality, ``[b, n, c_m, h, w]`` in [0, 1], ``n ≥ 0``.
            generator: Source of the noise.

        Raises:
            FusionVAEError: If a shape does not fit the model, more inputs are scored than given, or several numbers of
                them for ``q(z | x, y)``.
        """
        self._check_target(target)
        self._check_inputs(inputs, batch_size=len(target))
        self._check_num_samples(num_samples)
        sizes = self._sizes(num_inputs, inputs)
        if len(sizes) > 1 and self.config.posterior == "xy":
            raise FusionVAEError(f"num_inputs is {sizes}; a posterior of inputs and target takes one pass for each")
        of_others = self._encode_others(others, batch_size=len(target))
        of_target, contexts = self._encode(target, inputs[:, : max(sizes)], sizes, of_others)
        seen_by_posterior = self._posterior_features(of_target, contexts[0])
        if num_samples > 1:
            contexts = [_for_samples(context, num_samples) for context in contexts]
            seen_by_posterior = [repeat_images(features, num_samples) for features in seen_by_posterior]
            target = target.repeat_interleave(num_samples, dim=0)
        walk = self.walk(
            draw_from_posterior(generator), batch_size=len(target), contexts=contexts, target=seen_by_posterior
        )
        log_likelihood = self._likelihood(walk, contexts[0]).log_prob(target).sum(dim=(1, 2))
        kl = torch.stack([_mean_kl(step) for step in walk.steps], dim=1)
        if num_samples == 1:
            return Bound(log_likelihood, kl)
        weights = (log_likelihood[:, None] + log_density_ratio(walk)).unflatten(0, (-1, num_samples))
        return Bound(
            log_likelihood.unflatten(0, (-1, num_samples)).mean(dim=1),
            kl.unflatten(0, (-1, num_samples)).mean(dim=1),
            (weights.logsumexp(dim=1) - math.log(num_samples)).mean(dim=1),
        )

    def best_of_prior(
        self, target: Tensor, inputs: Tensor, *, num_draws: int, generator: NoiseSource | None = None
    ) -> Tensor:
        """Return ``log p(y | z)`` of the best of several draws ``z ~ p(z | x)``, nats, ``[b]``; differentiable.

        How near the target fused images come is what sampling shows and the bound does not look at (Sohn et al. 2015,
        Sec. 4.2; the best of many: Bhattacharyya et al. 2018). Which draw is best is found without a gradient and in
        eval mode; then that one is walked again from the same noise. Batch norm remembers neither: sampling from a
        finished model goes by the statistics of the posterior's draws.

        Args:
            target: ``y``, ``[b, c, h, w]`` in [0, 1].
            inputs: ``x_1 … x_k``, ``[b, k, c, h, w]`` in [0, 1], ``k ≥ 0``.
            num_draws: Draws for each image.
            generator: Source of the noise.

        Values are not looked at, as a training step must not wait for its device: nothing tells them out of range.

        Raises:
            FusionVAEError: If a shape does not fit the model.
        """
        self._check_target(target)
        self._check_inputs(inputs, batch_size=len(target))
        self._check_num_samples(num_draws)
        with statistics_untouched(self):
            _, (context,) = self._encode(None, inputs, (inputs.shape[1],))
            noise = iter(self._noise_of_best_draw(target, context, num_draws, generator))
            return self._drawn_log_likelihood(target, context, lambda _: next(noise))

    @inference
    def _noise_of_best_draw(
        self, target: Tensor, context: Context, num_draws: int, generator: NoiseSource | None
    ) -> list[Tensor]:
        """Return the noise of every group, ``[b, m, h_l, w_l]``, from which each image's best draw comes."""
        noise: list[Tensor] = []

        def remembered(mean: Tensor) -> Tensor:
            noise.append(standard_normal(mean, generator))
            return noise[-1]

        targets = target.repeat_interleave(num_draws, dim=0)
        log_likelihood = self._drawn_log_likelihood(targets, _for_samples(context, num_draws), remembered)
        best = log_likelihood.unflatten(0, (-1, num_draws)).argmax(dim=1)
        rows = torch.arange(len(target), device=best.device) * num_draws + best
        return [of_group[rows] for of_group in noise]

    def _drawn_log_likelihood(self, target: Tensor, context: Context, noise: NoiseSource) -> Tensor:
        """Return ``log p(y | z)`` over all pixels for ``z ~ p(z | x)``, ``[b]``."""
        walk = self.walk(draw_from_prior(noise), batch_size=len(target), contexts=[context])
        return self._likelihood(walk, context).log_prob(target).sum(dim=(1, 2))

    def elbo(
        self, target: Tensor, inputs: Tensor, *, others: Sequence[Tensor] = (), generator: NoiseSource | None = None
    ) -> Tensor:
        """Return the evidence lower bound of ``log p(y | x)``, Eq. (8) with ``β = α_l = 1``, over all pixels.

        Args:
            target: ``y``, ``[b, c, h, w]`` in [0, 1].
            inputs: ``x_1 … x_k``, ``[b, k, c, h, w]`` in [0, 1], ``k ≥ 0``.
            others: Inputs of each further modality, ``[b, n, c_m, h, w]`` in [0, 1], ``n ≥ 0``.
            generator: Source of the noise.

        Returns:
            Nats per image, ``[b]``; one draw of ``z``, closed-form KL of each group.

        Values are not looked at, as a training step must not wait for its device: nothing tells them out of range.

        Raises:
            FusionVAEError: If a shape does not fit the model.
        """
        return self(target, inputs, others=others, generator=generator).nats

    @inference
    def sample(
        self,
        inputs: Tensor | None = None,
        *,
        num_samples: int = 1,
        batch_size: int | None = None,
        others: Sequence[Tensor] = (),
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw hypotheses of the clean image: means of ``p(y | z)`` for ``z ~ p(z | x)`` (Sec. 4.3).

        Args:
            inputs: ``[b, k, c, h, w]`` in [0, 1]; ``None`` for no inputs.
            num_samples: Hypotheses ``S`` per image.
            batch_size: ``b``, where there are no inputs to tell it.
            others: Inputs of each further modality, ``[b, n, c_m, h, w]`` in [0, 1], ``n ≥ 0``.
            temperature: Multiplies every prior's scale, finite and ≥ 0; 1 samples the model, less is safer and less
                varied.
            generator: Source of the noise.

        Returns:
            ``[b, S, c, h, w]`` in [0, 1].

        Raises:
            FusionVAEError: If a shape does not fit the model, or a value or the temperature is out of range.
        """
        _check_is_several(others)
        if batch_size is None and others:
            batch_size = len(others[0])
        self._check_temperature(temperature)
        inputs = self._inputs_to_sample(inputs, batch_size, num_samples)
        self._check_range_of_others(others)
        of_others = self._encode_others(others, batch_size=len(inputs))
        _, (context,) = self._encode(None, inputs, (inputs.shape[1],), of_others)
        means = []
        for count, passes in groupby(self._sample_chunks(num_samples, len(inputs))):
            repeated = _for_samples(context, count)
            for _ in passes:
                walk = self.walk(
                    draw_from_prior(generator, temperature=temperature),
                    batch_size=len(inputs) * count,
                    contexts=[repeated],
                )
                means.append(self._likelihood(walk, repeated).mean.unflatten(0, (len(inputs), count)))
        return torch.cat(means, dim=1)

    @inference
    def log_importance_weights(
        self,
        target: Tensor,
        inputs: Tensor,
        *,
        num_samples: int,
        num_inputs: Sequence[int] | None = None,
        others: Sequence[Tensor] = (),
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return ``log p(y | z) + log p(z | x) − log q(z | y)`` for draws ``z ~ q(z | y)`` (Sec. 5.5).

        The draws, ``q`` and the likelihood do not depend on the inputs, so one pass serves every number of inputs.
        Where they do (``q(z | x, y)``), every number of inputs takes a pass of its own, with the same noise.

        Args:
            target: ``y``, ``[b, c, h, w]`` in [0, 1].
            inputs: ``x_1 … x_k``, ``[b, k, c, h, w]`` in [0, 1].
            num_samples: ``S``.
            num_inputs: Numbers of inputs to score with the same draws, each using the first so many inputs.
            others: Inputs of each further modality, ``[b, n, c_m, h, w]`` in [0, 1], ``n ≥ 0``; all of them join every
                set.
            generator: Source of the noise.

        Returns:
            Nats over the centre square of ``config.nll_size`` pixels: ``[b, S]``, or ``[b, len(num_inputs), S]``.

        Raises:
            FusionVAEError: If a shape does not fit the model, a value is out of range, or more inputs are scored than
                given.
        """
        self._check_target(target)
        self._check_inputs(inputs, batch_size=len(target))
        self._check_num_samples(num_samples)
        self._check_range("the target", target)
        self._check_range("the inputs", inputs)
        self._check_range_of_others(others)
        sizes = self._sizes(num_inputs, inputs)
        if len(sizes) > 1 and self.config.posterior == "xy":
            return self._separate_log_weights(target, inputs, num_samples, sizes, others, generator)
        of_others = self._encode_others(others, batch_size=len(target))
        of_target, contexts = self._encode(target, inputs[:, : max(sizes)], sizes, of_others)
        posterior_features = self._posterior_features(of_target, contexts[0])
        weights = []
        for count, passes in groupby(self._sample_chunks(num_samples, len(target))):
            repeated = [_for_samples(context, count) for context in contexts]
            seen_by_posterior = [repeat_images(features, count) for features in posterior_features]
            for _ in passes:
                walk = self.walk(
                    draw_from_posterior(generator),
                    batch_size=len(target) * count,
                    contexts=repeated,
                    target=seen_by_posterior,
                )
                log_likelihood = self._scored_log_likelihood(self._likelihood(walk, repeated[0]), target, count)
                chunk = log_likelihood[:, None] + log_density_ratio(walk)
                weights.append(chunk.unflatten(0, (len(target), count)).transpose(1, 2))
        result = torch.cat(weights, dim=2)
        return result[:, 0] if num_inputs is None else result

    @staticmethod
    def _sizes(num_inputs: Sequence[int] | None, inputs: Tensor) -> tuple[int, ...]:
        """Return the numbers of inputs to score, checked."""
        if num_inputs is not None and not hasattr(num_inputs, "__iter__"):
            raise FusionVAEError(f"num_inputs is {num_inputs!r}; expected several numbers, such as (0, 1, 2, 3)")
        sizes = (inputs.shape[1],) if num_inputs is None else tuple(num_inputs)
        if not sizes or min(sizes) < 0 or max(sizes) > inputs.shape[1]:
            raise FusionVAEError(
                f"num_inputs is {sizes}; expected numbers from 0 to the {inputs.shape[1]} inputs given"
            )
        return sizes

    def _separate_log_weights(
        self,
        target: Tensor,
        inputs: Tensor,
        num_samples: int,
        sizes: Sequence[int],
        others: Sequence[Tensor],
        generator: torch.Generator | None,
    ) -> Tensor:
        """Weigh each number of inputs in a pass of its own from the same state of the generator, ``[b, n, S]``."""
        if generator is None:
            generator = torch.Generator(target.device).manual_seed(int(torch.randint(2**62, ())))
        state, weights = generator.get_state(), []
        for size in sizes:
            generator.set_state(state)
            weights.append(
                self.log_importance_weights(
                    target, inputs[:, :size], num_samples=num_samples, others=others, generator=generator
                )
            )
        return torch.stack(weights, dim=1)

    @inference
    def decode(self, latents: Sequence[Tensor], inputs: Tensor | None = None) -> Tensor:
        """Return the mean of ``p(y | z)`` for given latents.

        Args:
            latents: ``z_1 … z_L``, ``[b, m, h_l, w_l]`` each.
            inputs: ``[b, k, c, h, w]``, for a model whose decoder sees them.

        Returns:
            ``[b, c, h, w]`` in [0, 1].

        Raises:
            FusionVAEError: If a shape does not fit the model, or a value of the inputs is out of range.
        """
        batch_size, shapes = len(latents[0]) if len(latents) else 0, self.config.latent_shapes
        got = [list(of_group.shape) for of_group in latents]
        if not batch_size or got != [[batch_size, *shape] for shape in shapes]:
            raise FusionVAEError(
                f"got latents of shapes {got}; expected {len(shapes)} groups of {[['b', *shape] for shape in shapes]}"
            )
        inputs = self._inputs_to_sample(inputs, len(latents[0]), 1)
        _, (context,) = self._encode(None, inputs, (inputs.shape[1],))
        walk = self.walk(fixed_latents(latents), batch_size=len(latents[0]), contexts=[context])
        return self._likelihood(walk, context).mean

    def _check_range_of_others(self, others: Sequence[Tensor]) -> None:
        for images in others:
            self._check_range("the inputs of a further modality", images)

    def _encode_others(self, others: Sequence[Tensor], *, batch_size: int) -> list[list[Tensor]]:
        """Return, for each further modality with inputs, its features of every group, ``[b, n, C_l, h_l, w_l]``."""
        _check_is_several(others)
        channels, size = self.config.modalities, self.config.image_size
        expected = [(batch_size, c, size, size) for c in channels]
        got = [tuple(images.shape[:1] + images.shape[2:]) for images in others]
        if others and got != expected:
            raise FusionVAEError(
                f"the inputs of further modalities have shapes {[list(images.shape) for images in others]}; this model "
                f"expects {[[batch_size, 'n', c, size, size] for c in channels]} with any n ≥ 0, or none at all"
            )
        for images in others:
            self._check_numbers("the inputs of a further modality", images)
        return [
            [f.unflatten(0, images.shape[:2]) for f in encoder(images.flatten(0, 1))]
            for encoder, images in zip(self.other_encoders, others, strict=False)
            if images.shape[1]
        ]

    def _likelihood(self, walk: Walk, context: Context) -> Likelihood:
        """Return ``p(y | z)``: the inputs reach the image through ``z`` alone."""
        return self.image_head(walk.state)

    def _posterior_features(self, of_target: Sequence[Tensor], context: Context) -> Sequence[Tensor]:
        """Return what ``q`` looks at: the target, and in the ablation of Tab. 4 the set of it and the inputs."""
        if self.config.posterior == "y":
            return of_target
        return [
            f if inputs is None else self.aggregation.with_element(inputs, f)
            for inputs, f in zip(context, of_target, strict=False)
        ]

    def _scored_log_likelihood(self, likelihood: Likelihood, target: Tensor, count: int) -> Tensor:
        margin = (self.config.image_size - self.config.nll_size) // 2
        inside = slice(margin, margin + self.config.nll_size)
        return likelihood.log_prob(target.repeat_interleave(count, dim=0))[:, inside, inside].sum(dim=(1, 2))

    def _sample_chunks(self, num_samples: int, batch_size: int) -> list[int]:
        chunk = max(1, PIXELS_PER_PASS // (self.config.image_size**2 * max(1, batch_size)))
        return [min(chunk, num_samples - done) for done in range(0, num_samples, chunk)]


def _mean_kl(step: LatentStep) -> Tensor:
    """Return ``KL(q_l ‖ p_l)`` of each image, ``[b]``, the mean over the sets of inputs."""
    assert step.posterior is not None
    kl = [normal_kl(step.posterior, prior).flatten(1).sum(dim=1) for prior in step.priors]
    return kl[0] if len(kl) == 1 else torch.stack(kl).mean(dim=0)


def _check_is_several(others: Any) -> None:
    if isinstance(others, Tensor):
        raise FusionVAEError(f"others is one tensor {list(others.shape)}; expected one for each modality: others=[…]")


def _for_samples(context: Context, count: int) -> list[InputSet | None]:
    """Repeat what every group knows of a set of inputs for each sample of an image."""
    return [inputs if inputs is None else inputs.for_samples(count) for inputs in context]
