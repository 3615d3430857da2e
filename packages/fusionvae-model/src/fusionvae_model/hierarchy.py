"""The encoder and the top-down walk, written once (paper Sec. 4.3, Fig. 2).

Lists of feature maps and of groups run in the order of the walk: coarsest first, ``l = 1`` at index 0.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from fusionvae_model.aggregation import Aggregation, InputSet
from fusionvae_model.config import ModelConfig
from fusionvae_model.distributions import LIKELIHOODS, Likelihood, bounded_normal
from fusionvae_model.layers import Cells, DecoderCell, DownCell, EncoderCell, UpCell, WeightNormConv2d
from fusionvae_model.noise import NoiseSource, standard_normal

DECODER_EXPANSION = 6
POSTPROCESSING_EXPANSION = 3

Draw = Callable[[int, Normal, Normal | None], Tensor]
"""Chooses ``z_l``: called with the group's index, its prior ``p_l`` and, where a target is given, its posterior
``q_l``; returns ``[b, m, h_l, w_l]``."""


class Encoder(nn.Module):
    """Bottom-up network shared by the target and every input (Fig. 2, dotted lines), tapped once per group."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.base_channels
        self.stem = WeightNormConv2d(config.channels, channels, 3)
        preprocess: list[nn.Module] = []
        for _ in range(config.preprocessing_blocks):
            preprocess += [EncoderCell(channels) for _ in range(config.cells_per_block - 1)]
            preprocess.append(DownCell(channels))
            channels *= 2
        self.preprocess = Cells(*preprocess)
        stages: list[nn.Module] = []
        for scale, groups in enumerate(reversed(config.groups_per_scale)):
            for group in range(groups):
                cells: list[nn.Module] = [EncoderCell(channels) for _ in range(config.encoder_cells)]
                if scale > 0 and group == 0:
                    cells.insert(0, DownCell(channels // 2))
                stages.append(Cells(*cells))
            channels *= 2
        self.stages = nn.ModuleList(stages)
        top = channels // 2
        self.top = nn.Sequential(nn.ELU(), WeightNormConv2d(top, top, 1), nn.ELU())

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps ``f_1 … f_L`` (``[n, C_l, h_l, w_l]``) of images ``[n, c, h, w]`` in [0, 1]."""
        features = self.preprocess(self.stem(2 * images - 1))
        taps = []
        for stage in self.stages:
            features = stage(features)
            taps.append(features)
        taps[-1] = self.top(features)
        return taps[::-1]


def decoder_cells(config: ModelConfig) -> Iterator[tuple[int, list[nn.Module]]]:
    """Yield, for every group coarse to fine, the channels of its state and the cells that come before its heads.

    The first group has none; the first of every later scale begins with an up cell.
    """
    channels = config.coarsest_channels
    for scale, count in enumerate(config.groups_per_scale):
        for group in range(count):
            cells: list[nn.Module] = []
            if scale > 0 or group > 0:
                cells = [DecoderCell(channels, expansion=DECODER_EXPANSION) for _ in range(config.decoder_cells)]
            if scale > 0 and group == 0:
                cells.insert(0, UpCell(2 * channels, expansion=DECODER_EXPANSION))
            yield channels, cells
        channels //= 2


class LatentGroup(nn.Module):
    """One latent group of the walk: its cells, its two heads, and how ``z_l`` joins the state.

    Args:
        channels: Channels ``C`` of the state.
        latent_channels: Channels ``m`` of ``z_l``.
        cells: What the state passes before the heads; nothing for the first group.
        aggregation: How the prior fuses the inputs.
        first: Whether this is group 1, which has no ``u_l``.
        prior_kernel: Side of the prior head's convolution.
    """

    def __init__(
        self,
        channels: int,
        latent_channels: int,
        cells: Sequence[nn.Module],
        *,
        aggregation: Aggregation,
        first: bool,
        prior_kernel: int,
    ) -> None:
        super().__init__()
        self.latent_channels = latent_channels
        self.aggregation = aggregation
        self.cells = Cells(*cells)
        self.project = None if first else WeightNormConv2d(channels, channels, 1)
        self.prior_head = WeightNormConv2d(channels, 2 * latent_channels, prior_kernel)
        self.posterior_head = WeightNormConv2d(channels, 2 * latent_channels, 3)
        self.join_latents = WeightNormConv2d(channels + latent_channels, channels, 1)

    def prior(self, inputs: InputSet | None, u: Tensor | None, state: Tensor) -> Normal:
        """Return ``p_l = Normal(conv_p(ELU(agg_i f_l(x_i) + u_l)))``.

        Without inputs it is that of ``u_l`` alone, and ``p_1 = N(0, 1)``. The ablations of Sec. 6.3 let ``u_l`` join
        the set, or fuse the Gaussians that ``conv_p`` makes of each element.

        Args:
            inputs: Features of the inputs, or ``None`` without inputs.
            u: ``u_l`` ``[b, C, h, w]``, or ``None`` in group 1.
            state: The state; gives batch size, device and type where there is neither.
        """
        if inputs is None and u is None:
            zeros = state.new_zeros(len(state), self.latent_channels, *state.shape[2:])
            return Normal(zeros, torch.ones_like(zeros), validate_args=False)
        features = F.elu(self.aggregation.merge(inputs, u))
        if features.ndim == 4:
            return bounded_normal(self.prior_head(features))
        elements = bounded_normal(self.prior_head(features.flatten(0, 1)))
        means, scales = (value.unflatten(0, features.shape[:2]) for value in (elements.loc, elements.scale))
        return self.aggregation.fuse(Normal(means, scales, validate_args=False))

    def posterior(self, target: Tensor, u: Tensor | None) -> Normal:
        """Return ``q_l = Normal(conv_q(f_l(y) + u_l))`` for the target's features ``[b, C, h, w]``."""
        return bounded_normal(self.posterior_head(target if u is None else target + u))

    def join(self, state: Tensor, z: Tensor) -> Tensor:
        """Return ``s = conv1x1(concat(s, z_l))``, ``[b, C, h, w]``."""
        return self.join_latents(torch.cat((state, z.to(state.dtype)), dim=1))


@dataclass(frozen=True)
class LatentStep:
    """What the walk met at one group: ``z_l``, one prior per set of inputs, and ``q_l`` where there is a target."""

    z: Tensor
    priors: tuple[Normal, ...]
    posterior: Normal | None


@dataclass(frozen=True)
class Walk:
    """Where a walk ended: the state ``[b, C, h, w]`` and one :class:`LatentStep` per group."""

    state: Tensor
    steps: list[LatentStep]


class TopDownWalk(nn.Module):
    """From the trained tensor ``h`` through all groups, coarse to fine (Sec. 4.3).

    Posterior inference, prior sampling and fixed latents differ in ``draw`` alone. The state depends on ``h`` and
    ``z`` only, never on the inputs or the target; hence one walk can carry the priors of several sets of inputs.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        side, channels = config.coarsest_side, config.coarsest_channels
        self.h = nn.Parameter(torch.rand(channels, side, side))
        aggregation = Aggregation.from_name(config.aggregation)
        cells_of_groups = itertools.islice(decoder_cells(config), config.num_groups)
        self.groups = nn.ModuleList(
            LatentGroup(
                channels,
                config.latent_channels,
                cells,
                aggregation=aggregation,
                first=l == 0,
                prior_kernel=config.prior_kernel,
            )
            for l, (channels, cells) in enumerate(cells_of_groups)
        )

    def forward(
        self,
        draw: Draw,
        *,
        batch_size: int,
        contexts: Sequence[Sequence[InputSet | None]],
        target: Sequence[Tensor] | None = None,
    ) -> Walk:
        """Walk down once.

        Args:
            draw: Chooses each ``z_l``; it is handed the first of the priors.
            batch_size: ``b``.
            contexts: For each set of inputs what every group knows of it, all ``None`` for the empty set. At least
                one set.
            target: The features of every group that a posterior is made of, ``[b, C_l, h_l, w_l]`` each.
        """
        state = self.h.expand(batch_size, -1, -1, -1)
        steps = []
        for l, group in enumerate(self.groups):
            assert isinstance(group, LatentGroup)
            state = group.cells(state)
            u = None if group.project is None else group.project(state)
            priors = tuple(group.prior(context[l], u, state) for context in contexts)
            posterior = None if target is None else group.posterior(target[l], u)
            z = draw(l, priors[0], posterior)
            state = group.join(state, z)
            steps.append(LatentStep(z, priors, posterior))
        return Walk(state, steps)


def draw_from_posterior(generator: NoiseSource | None = None) -> Draw:
    """Draw ``z_l ~ q_l``, differentiably."""

    def draw(_: int, prior: Normal, posterior: Normal | None) -> Tensor:
        assert posterior is not None
        return _draw_normal(posterior, 1.0, generator)

    return draw


def draw_from_prior(generator: NoiseSource | None = None, *, temperature: float = 1.0) -> Draw:
    """Draw ``z_l ~ p_l`` with its scale multiplied by the temperature."""

    def draw(_: int, prior: Normal, posterior: Normal | None) -> Tensor:
        return _draw_normal(prior, temperature, generator)

    return draw


def fixed_latents(latents: Sequence[Tensor]) -> Draw:
    """Take the given ``z_1 … z_L``."""

    def draw(l: int, prior: Normal, posterior: Normal | None) -> Tensor:
        return latents[l]

    return draw


def _draw_normal(distribution: Normal, temperature: float, generator: NoiseSource | None) -> Tensor:
    mean = distribution.loc
    return torch.addcmul(mean, distribution.scale, standard_normal(mean, generator), value=temperature)


class ImageHead(nn.Module):
    """Post-processing cells and the image head: from the walk's last state to ``p(y | z)``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = config.base_channels << config.preprocessing_blocks
        cells: list[nn.Module] = []
        for _ in range(config.preprocessing_blocks):
            cells.append(UpCell(channels, expansion=POSTPROCESSING_EXPANSION))
            channels //= 2
            cells += [
                DecoderCell(channels, expansion=POSTPROCESSING_EXPANSION) for _ in range(config.cells_per_block - 1)
            ]
        self.likelihood = LIKELIHOODS[config.likelihood]
        self.postprocess = Cells(*cells)
        self.parameters_of_pixels = WeightNormConv2d(channels, self.likelihood.num_parameters(config.channels), 3)

    def forward(self, state: Tensor, shortcuts: Iterator[Tensor] | None = None) -> Likelihood:
        """Return the likelihood of images ``[b, c, h, w]`` for a state ``[b, C, h_L, w_L]``."""
        return self.likelihood(self.parameters_of_pixels(F.elu(self.postprocess(state, shortcuts))))


def log_density_ratio(walk: Walk) -> Tensor:
    """Return ``log p(z | x) − log q(z | ·)`` in nats, ``[b, sets of inputs]``, for the walk's latents."""
    ratios = []
    for step in walk.steps:
        assert step.posterior is not None
        log_q = _log_density(step.posterior, step.z)
        ratios.append(torch.stack([_log_density(prior, step.z) - log_q for prior in step.priors], dim=1))
    return torch.stack(ratios).sum(dim=0)


def _log_density(distribution: Normal, value: Tensor) -> Tensor:
    standardised = (value - distribution.loc) / distribution.scale
    # A logarithm of products instead of a sum of logarithms, which take ten times as long; scales of up to ten
    # latent channels, each within 1e-3 … 1e3, multiply to what float32 holds.
    products = torch.stack([scales.prod(dim=1) for scales in distribution.scale.split(10, dim=1)])
    log_scales = products.log().sum(dim=(0, 2, 3))
    return -0.5 * standardised.square().sum(dim=(1, 2, 3)) - log_scales - 0.5 * math.log(2 * math.pi) * value[0].numel()
