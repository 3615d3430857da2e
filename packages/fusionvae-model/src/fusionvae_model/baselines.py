"""The architectures for comparison: CVAE and FCN, with and without skip connections (paper Sec. 5.3).

They are made of FusionVAE's own cells. The encoder is shared by target and inputs, whose features are max-aggregated.
With skip connections (+S), the aggregate joins the decoder at every resolution, by maximum as well.
"""

from collections.abc import Iterable
from functools import partial
from itertools import chain
from typing import ClassVar

import torch
from torch import Tensor, nn

from fusionvae_model.aggregation import InputSet
from fusionvae_model.config import MODEL_KINDS, ModelConfig
from fusionvae_model.distributions import Likelihood
from fusionvae_model.errors import NoLikelihoodError
from fusionvae_model.fusionvae import Context, FusionVAE
from fusionvae_model.hierarchy import Encoder, ImageHead, TopDownWalk, Walk, decoder_cells
from fusionvae_model.layers import Cells, join_shortcut
from fusionvae_model.model import Bound, FusionModel, inference
from fusionvae_model.noise import NoiseSource


class PyramidEncoder(Encoder):
    """The same encoder, tapped at its top and, for skip connections, at the end of every finer resolution."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.every_resolution = MODEL_KINDS[config.kind].skips

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return feature maps ``[n, C, h, w]`` of images ``[n, c, h, w]`` in [0, 1], coarsest first."""
        features, taps = self.stem(2 * images - 1), []
        steps = [partial(self.preprocess.run, cell) for cell in self.preprocess]
        for step in (*steps, *self.stages):
            coarser: Tensor = step(features)
            if coarser.shape[-1] < features.shape[-1]:
                taps.append(features)
            features = coarser
        top = self.top(features)
        return [top, *reversed(taps)] if self.every_resolution else [top]


class ResidualDecoder(nn.Module):
    """From the coarsest state to the likelihood of an image: the cells of FusionVAE's walk, without its latents."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.cells = Cells(*chain.from_iterable(cells for _, cells in decoder_cells(config)))
        self.image_head = ImageHead(config)

    def forward(self, state: Tensor, inputs: Iterable[InputSet | None]) -> Likelihood:
        """Decode a state ``[b, C, h_1, w_1]``; the inputs' features of each resolution, coarsest first, join it."""
        shortcuts = iter([at_resolution.features for at_resolution in inputs if at_resolution is not None])
        return self.image_head(self.cells(join_shortcut(state, shortcuts), shortcuts), shortcuts)


class CVAE(FusionVAE):
    """Conditional VAE with one latent space at the coarsest scale: prior ``p(z | x)``, posterior ``q(z | x, y)``.

    Both are made from the maximum over all features they look at; without inputs the prior is the standard normal.
    With skip connections the likelihood is ``p(y | x, z)``.

    Args:
        config: The architecture.
    """

    kinds: ClassVar[tuple[str, ...]] = ("cvae", "cvae-skip")

    def __init__(self, config: ModelConfig) -> None:
        FusionModel.__init__(self, config)
        self.encoder = PyramidEncoder(config)
        self.walk = TopDownWalk(config)
        self.decoder = ResidualDecoder(config)
        self.other_encoders = nn.ModuleList()

    def _likelihood(self, walk: Walk, context: Context) -> Likelihood:
        """Return ``p(y | z)``, or ``p(y | x, z)`` with skip connections."""
        return self.decoder(walk.state, context if self.encoder.every_resolution else ())


class FCN(FusionModel):
    """Fully convolutional network: one deterministic image from the aggregated features, without latent variables.

    Without inputs, a trained constant stands for the missing features. It is trained by the likelihood of its
    output, and has none that could be compared with a model of all plausible images.

    Args:
        config: The architecture.
    """

    kinds: ClassVar[tuple[str, ...]] = ("fcn", "fcn-skip")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        side, channels = config.coarsest_side, config.coarsest_channels
        self.encoder = PyramidEncoder(config)
        self.h = nn.Parameter(torch.rand(channels, side, side))
        self.decoder = ResidualDecoder(config)

    def forward(self, target: Tensor, inputs: Tensor, *, generator: NoiseSource | None = None) -> Bound:
        """Return the log-likelihood of the target under the output; no KL, for there is no latent variable.

        Args:
            target: ``y``, ``[b, c, h, w]`` in [0, 1].
            inputs: ``x_1 … x_k``, ``[b, k, c, h, w]`` in [0, 1], ``k ≥ 0``.
            generator: Not needed; the other models draw from it.
        """
        self._check_target(target)
        self._check_inputs(inputs, batch_size=len(target))
        log_likelihood = self._output(inputs).log_prob(target).sum(dim=(1, 2))
        return Bound(log_likelihood, log_likelihood.new_zeros(len(target), 0))

    @inference
    def sample(
        self,
        inputs: Tensor | None = None,
        *,
        num_samples: int = 1,
        batch_size: int | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the one fused image, as often as hypotheses are asked for: ``[b, S, c, h, w]`` in [0, 1].

        Args:
            inputs: ``[b, k, c, h, w]`` in [0, 1]; ``None`` for no inputs.
            num_samples: ``S``; all are equal.
            batch_size: ``b``, where there are no inputs to tell it.
            temperature: Finite and ≥ 0; of no effect.
            generator: Of no effect.

        Raises:
            FusionVAEError: If a shape does not fit the model, or a value or the temperature is out of range.
        """
        self._check_temperature(temperature)
        inputs = self._inputs_to_sample(inputs, batch_size, num_samples)
        return self._output(inputs).mean[:, None].repeat(1, num_samples, 1, 1, 1)

    def _output(self, inputs: Tensor) -> Likelihood:
        _, (context,) = self._encode(None, inputs, (inputs.shape[1],))
        top = context[0] if context else None
        state = self.h.expand(len(inputs), -1, -1, -1) if top is None else top.features
        return self.decoder(state, context)

    def __getattr__(self, name: str) -> Tensor | nn.Module:
        """Say why there is no likelihood where one is asked for."""
        if name in ("elbo", "log_importance_weights", "decode"):
            raise NoLikelihoodError(
                f"an FCN has no {name}: its output is deterministic and no latent variable spreads it, so there is no "
                "likelihood p(y | x) to estimate (Sec. 5.5); compare its images by MSE, or use a CVAE or FusionVAE"
            )
        return super().__getattr__(name)
