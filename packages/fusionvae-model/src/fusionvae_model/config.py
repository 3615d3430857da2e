"""Every setting of a model and of its training, and the presets: one row each."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Self

from fusionvae_model.errors import FusionVAEError


class _Config:
    """Conversion to and from JSON, shared by the two configurations."""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary that :meth:`from_dict` reads back."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what :meth:`to_dict` wrote.

        Raises:
            FusionVAEError: If a key is unknown or missing, or a value is impossible.
        """
        names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(values.keys() - names):
            raise FusionVAEError(
                f"the configuration has unknown keys {', '.join(unknown)}; expected some of "
                f"{', '.join(sorted(names))}: was it written by another version of fusionvae-model?"
            )
        tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        try:
            return cls(**tuples)
        except TypeError as error:
            raise FusionVAEError(f"the configuration is incomplete: {error}") from error

    def _check_types(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            if not _is_a(value := getattr(self, field.name), field.type):
                kind = getattr(field.type, "__name__", field.type)
                raise FusionVAEError(f"the configuration has {field.name}={value!r}; expected {kind}")


def _is_a(value: Any, kind: Any) -> bool:
    """Tell whether a value read from JSON is what the field's annotation says."""
    if kind == tuple[int, ...]:
        return isinstance(value, tuple) and all(_is_a(entry, int) for entry in value)
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float) and math.isfinite(value) if kind is float else isinstance(value, kind)


LIKELIHOOD_NAMES = ("bernoulli", "logistic-mixture")
"""Likelihoods of a pixel, in :mod:`fusionvae_model.distributions`."""

OPTIMIZER_NAMES = ("adamax", "muon")
"""What may move the weights (:data:`fusionvae_model.step.OPTIMIZERS`)."""

MOST_MINUTES = 10 * 366 * 24 * 60
"""Longest training that can be asked for: ten years."""

AGGREGATIONS = ("max-add", "mean-add", "bayes-add", "max-all", "mean-all", "bayes-all", "pool-add")
"""How the prior of a latent group fuses its inputs (Sec. 6.3, Tab. 5); the last one is not the paper's."""


@dataclass(frozen=True)
class ModelKind:
    """A row of the paper's tables.

    Attributes:
        title: The paper's name of it.
        posteriors: What its approximate posterior may look at: the target ``y``, or the inputs ``x`` as well. The
            first is the default; ``"none"`` for a model without latent variables.
        aggregations: How it may fuse the features of its inputs; the first is the default.
        skips: Whether its decoder sees the inputs' features at every resolution.
    """

    title: str
    posteriors: tuple[str, ...]
    aggregations: tuple[str, ...]
    skips: bool = False


MODEL_KINDS = {
    "fusionvae": ModelKind("FusionVAE", ("y", "xy"), AGGREGATIONS),
    "cvae": ModelKind("CVAE", ("xy",), ("max",)),
    "cvae-skip": ModelKind("CVAE+S", ("xy",), ("max",), skips=True),
    "fcn": ModelKind("FCN", ("none",), ("max",)),
    "fcn-skip": ModelKind("FCN+S", ("none",), ("max",), skips=True),
}
"""Every model of the paper by the name that commands and configurations use (Sec. 5.3)."""


def model_kind(name: str) -> ModelKind:
    """Return the row of :data:`MODEL_KINDS` of this name.

    Raises:
        FusionVAEError: If there is none.
    """
    try:
        return MODEL_KINDS[name]
    except KeyError:
        raise FusionVAEError(f"unknown kind of model {name!r}; expected one of {', '.join(MODEL_KINDS)}") from None


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Config):
    """The architecture (paper Sec. 4.3, 5.3 and 6.3, App. A, Tab. 6).

    Attributes:
        kind: Which model, a key of :data:`MODEL_KINDS`.
        posterior: ``"y"`` for ``q(z | y)``, ``"xy"`` for ``q(z | x, y)``, ``"none"`` without latent variables.
        aggregation: One of :data:`AGGREGATIONS`, or ``"max"`` for the baselines.
        image_size: Rows and columns of an image, in pixels.
        channels: Channels ``c`` of an image.
        nll_size: Side of the centre square whose pixels the likelihood estimate counts (28 for FusionMNIST, whose
            images are 28×28 in a frame of zeros). Training counts all pixels.
        likelihood: Of a pixel: ``"bernoulli"``, or ``"logistic-mixture"`` over its 256 levels.
        groups_per_scale: Groups of cells of each scale, coarse to fine (the order of the walk). Each is a latent
            group in FusionVAE; a CVAE has latents in the first alone, an FCN in none.
        latent_channels: Channels ``m`` of each ``z_l``.
        base_channels: Channels of the features at full resolution; they double with every halving.
        preprocessing_blocks: Halvings of the resolution before the first latent scale.
        cells_per_block: Cells of a pre- or post-processing block, the one that halves or doubles included.
        encoder_cells: Residual cells per latent group, bottom-up.
        decoder_cells: Residual cells per latent group, top-down.
        prior_kernel: Side in pixels of the prior head's convolution, 3 or 1.
        modalities: Channels of each further modality, e.g. ``(1,)`` for depth beside colour: inputs that pass an
            encoder of their own and join the same set (FusionVAE only; Sec. 7).
    """

    kind: str = "fusionvae"
    posterior: str = "y"
    aggregation: str = "max-add"
    image_size: int
    channels: int
    nll_size: int
    likelihood: str
    groups_per_scale: tuple[int, ...]
    latent_channels: int
    base_channels: int
    preprocessing_blocks: int
    cells_per_block: int
    encoder_cells: int
    decoder_cells: int
    prior_kernel: int = 3
    modalities: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check that the pieces fit together."""
        self._check_types()
        row = model_kind(self.kind)
        for name, value, possible in (
            ("posterior", self.posterior, row.posteriors),
            ("aggregation", self.aggregation, row.aggregations),
        ):
            if value not in possible:
                raise FusionVAEError(
                    f"{name} {value!r} does not belong to {self.kind}; expected {' or '.join(possible)}"
                )
        if self.posterior == "xy" and self.aggregation.startswith(("bayes", "pool")):
            raise FusionVAEError(
                f"aggregation {self.aggregation!r} fuses priors and leaves open how a posterior of inputs and target "
                "fuses its features; choose posterior 'y', or aggregation max or mean"
            )
        if self.likelihood not in LIKELIHOOD_NAMES:
            raise FusionVAEError(
                f"unknown likelihood {self.likelihood!r}; expected one of {', '.join(LIKELIHOOD_NAMES)}"
            )
        for name in ("channels", "latent_channels", "base_channels", "cells_per_block"):
            if getattr(self, name) < 1:
                raise FusionVAEError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("preprocessing_blocks", "encoder_cells", "decoder_cells"):
            if getattr(self, name) < 0:
                raise FusionVAEError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if self.prior_kernel not in (1, 3):
            raise FusionVAEError(f"prior_kernel is {self.prior_kernel}; expected 3 or 1")
        if self.modalities and (self.kind != "fusionvae" or min(self.modalities) < 1):
            raise FusionVAEError(
                f"modalities is {self.modalities} for {self.kind}; expected the channels of each, at least 1, and the "
                "kind fusionvae"
            )
        if not self.groups_per_scale or min(self.groups_per_scale) < 1:
            raise FusionVAEError(
                f"groups_per_scale is {self.groups_per_scale}; expected at least one scale, each of at least one group"
            )
        if self.image_size % (1 << self.halvings):
            raise FusionVAEError(
                f"an image of {self.image_size} pixels cannot be halved {self.halvings} times; "
                f"choose a multiple of {1 << self.halvings} or fewer scales"
            )
        if self.halvings and self.base_channels % 2:
            raise FusionVAEError(
                f"base_channels is {self.base_channels}; expected an even number, as each of a halving cell's four "
                "convolutions makes half of them"
            )
        if not 0 < self.nll_size <= self.image_size or (self.image_size - self.nll_size) % 2:
            raise FusionVAEError(
                f"nll_size is {self.nll_size}; expected a centre square of an image of {self.image_size} pixels"
            )

    @property
    def halvings(self) -> int:
        """How often the resolution halves between the image and the coarsest latent scale."""
        return self.preprocessing_blocks + len(self.groups_per_scale) - 1

    @property
    def coarsest_side(self) -> int:
        """Rows and columns of the coarsest scale."""
        return self.image_size >> self.halvings

    @property
    def coarsest_channels(self) -> int:
        """Channels of the features at the coarsest scale."""
        return self.base_channels << self.halvings

    @property
    def latents_per_scale(self) -> tuple[int, ...]:
        """Latent groups of each scale, coarse to fine, down to the finest that has any."""
        if self.posterior == "none":
            return ()
        return self.groups_per_scale if self.kind == "fusionvae" else (1,)

    @property
    def num_groups(self) -> int:
        """``L``, the number of latent groups."""
        return sum(self.latents_per_scale)

    @property
    def latent_shapes(self) -> list[tuple[int, int, int]]:
        """``(m, h_l, w_l)`` of each latent group, in the order in which they draw."""
        sides = [
            self.coarsest_side << scale for scale, count in enumerate(self.latents_per_scale) for _ in range(count)
        ]
        return [(self.latent_channels, side, side) for side in sides]

    @property
    def num_dims(self) -> int:
        """Numbers per image that the likelihood estimate counts; bits per dim divide by it."""
        return self.nll_size**2 * self.channels


_NOT_NEGATIVE = (
    "learning_rate", "final_learning_rate", "warmup_fraction", "beta_fraction", "beta_floor", "regularization",
    "weight_decay", "max_inputs", "prior_draws", "prior_weight",
)  # fmt: skip


_PRIOR_WEIGHT = 0.1


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Config):
    """The objective, the optimiser and the schedules (paper Sec. 4.2 and 5.4, App. A).

    Schedules are fractions of all steps, so that they keep their shape at any length of training.

    Attributes:
        epochs: Passes over the training targets, unless steps or minutes are asked for.
        batch_size: Targets in a step.
        optimizer: One of :data:`OPTIMIZER_NAMES`: the paper's AdaMax for all weights, or Muon for those of
            convolutions that mix channels (:class:`~fusionvae_model.muon.Muon`).
        learning_rate: Peak, reached after the linear warm-up.
        final_learning_rate: Floor, reached by a cosine at the last step.
        warmup_fraction: Share of all steps in which the learning rate rises.
        beta_fraction: Share of all steps in which ``β`` rises from ``beta_floor`` to 1.
        beta_floor: Smallest ``β``.
        regularization: Weight ``λ`` of the spectral and of the batch-norm regulariser.
        weight_decay: L2 added to every gradient.
        adamax_eps: AdaMax's ε.
        max_inputs: The number of inputs ``k`` of a batch is uniform on ``0…max_inputs``.
        every_k: Whether a step scores all of ``0…max_inputs`` by the same latents and takes the mean, instead of one
            ``k`` drawn for its batch: the same objective with less noise. Needs a posterior of the target alone.
        importance_samples: Draws ``K`` of the latents that weigh each image once ``β`` has reached 1: the step then
            maximises ``log 1/K Σ_s w_s`` (Burda et al. 2016), the estimate of Sec. 5.5 itself. 1 is Eq. (8).
        prior_draws: Draws from the prior of which a step with ``every_k`` trains the best as well, for one number of
            inputs, uniform on ``1…max_inputs``: what sampling shows comes nearer to the target, and the bound pays
            for it (:meth:`~fusionvae_model.FusionVAE.best_of_prior`). 0 is Eq. (8).
        prior_weight: How much ``log p(y | z)`` of that draw counts beside the bound.
        revive_channels: Whether hidden channels of the decoder's cells that weight decay has put out start anew, where
            the training starts from a trained model
            (:func:`~fusionvae_model.initial_weights.with_revived_channels`).
        ema: Share of the past that the moving average of the weights, which then is the finished model, keeps per
            step; 0 for none.
        recompute_activations: Whether cells are computed again in the backward pass instead of remembered: less
            memory, more time, the same numbers.
        seed: Of weights, order, inputs and noise.
    """

    epochs: int
    batch_size: int
    optimizer: str = "adamax"
    learning_rate: float = 0.01
    final_learning_rate: float = 0.0001
    warmup_fraction: float
    beta_fraction: float = 0.3
    beta_floor: float = 1e-4
    regularization: float
    weight_decay: float = 3e-4
    adamax_eps: float = 1e-3
    max_inputs: int = 3
    every_k: bool = False
    importance_samples: int = 1
    prior_draws: int = 0
    prior_weight: float = _PRIOR_WEIGHT
    revive_channels: bool = False
    ema: float = 0.0
    recompute_activations: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        self._check_types()
        for name in ("epochs", "batch_size", "importance_samples"):
            if getattr(self, name) < 1:
                raise FusionVAEError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in _NOT_NEGATIVE:
            if not getattr(self, name) >= 0:
                raise FusionVAEError(f"{name} is {getattr(self, name)}; expected 0 or more")
        for name in ("warmup_fraction", "beta_fraction", "beta_floor"):
            if getattr(self, name) > 1:
                raise FusionVAEError(
                    f"{name} is {getattr(self, name)}; expected 0 to 1, a share and no number of epochs"
                )
        if self.warmup_fraction == 1:
            raise FusionVAEError(
                "warmup_fraction is 1, after which no step is left in which the rate falls; expected less than 1"
            )
        if self.final_learning_rate > self.learning_rate:
            raise FusionVAEError(
                f"final_learning_rate is {self.final_learning_rate}, more than the learning_rate of "
                f"{self.learning_rate} that falls to it; expected no more: set it too"
            )
        if self.importance_samples > 1 and self.beta_fraction == 1:
            raise FusionVAEError(
                f"importance_samples is {self.importance_samples}, which counts once β has risen to 1; expected a "
                "beta_fraction below 1"
            )
        if self.prior_weight != _PRIOR_WEIGHT and not self.prior_draws:
            raise FusionVAEError(
                f"prior_weight is {self.prior_weight}, and nothing is drawn from the prior; expected prior_draws too"
            )
        if not self.adamax_eps > 0:
            raise FusionVAEError(f"adamax_eps is {self.adamax_eps}; expected more than 0")
        if not 0 <= self.seed < 1 << 63:
            raise FusionVAEError(f"seed is {self.seed}; expected a number from 0 to {(1 << 63) - 1}")
        if self.prior_draws and not (self.every_k and self.max_inputs):
            raise FusionVAEError(
                f"prior_draws is {self.prior_draws}, which needs inputs in every step; add every_k=true, and "
                "max_inputs of at least 1"
            )
        if self.optimizer not in OPTIMIZER_NAMES:
            raise FusionVAEError(f"unknown optimizer {self.optimizer!r}; expected {' or '.join(OPTIMIZER_NAMES)}")
        if not 0 <= self.ema < 1:
            raise FusionVAEError(f"ema is {self.ema}; expected 0 for none, or a share below 1 such as 0.999")


@dataclass(frozen=True)
class Preset:
    """A FusionVAE with the training that belongs to it.

    Attributes:
        model: The architecture of FusionVAE.
        train: Objective and schedules, of the baselines as well.
        baseline_groups: ``groups_per_scale`` of CVAE and FCN, with which they have about as many parameters; empty
            for FusionVAE's.
    """

    model: ModelConfig
    train: TrainConfig
    baseline_groups: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check that the model has what the objective draws on."""
        posterior, draws = self.model.posterior, self.train.importance_samples
        if self.train.every_k and posterior != "y":
            raise FusionVAEError(
                "every_k scores all numbers of inputs by the same latents, drawn from a posterior of the target alone; "
                f"this {self.model.kind} has posterior {posterior!r}: leave every_k out"
            )
        if draws > 1 and posterior == "none":
            raise FusionVAEError(
                f"importance_samples is {draws}, but {self.model.kind} has no latents to draw; leave it at 1"
            )


# fmt: off
PRESETS = {
    # paper, Tab. 6 (it pairs groups and scales the other way round; see DEVIATIONS.md)
    "fusion-mnist": Preset(
        ModelConfig(image_size=32, channels=1, nll_size=28, likelihood="bernoulli", groups_per_scale=(2, 5), latent_channels=10, base_channels=8, preprocessing_blocks=2, cells_per_block=1, encoder_cells=1, decoder_cells=1),  # noqa: E501
        TrainConfig(epochs=400, batch_size=800, warmup_fraction=5 / 400, regularization=1e-2),
        baseline_groups=(2, 8),
    ),
    "fusion-celeba": Preset(
        ModelConfig(image_size=64, channels=3, nll_size=64, likelihood="logistic-mixture", groups_per_scale=(2, 5, 10), latent_channels=20, base_channels=32, preprocessing_blocks=1, cells_per_block=2, encoder_cells=2, decoder_cells=2),  # noqa: E501
        TrainConfig(epochs=90, batch_size=32, warmup_fraction=5 / 90, regularization=1e-1),
        baseline_groups=(2, 6, 10),
    ),
    "fusion-tless": Preset(
        ModelConfig(image_size=64, channels=1, nll_size=64, likelihood="bernoulli", groups_per_scale=(2, 5, 10), latent_channels=20, base_channels=32, preprocessing_blocks=1, cells_per_block=2, encoder_cells=2, decoder_cells=2),  # noqa: E501
        TrainConfig(epochs=500, batch_size=32, warmup_fraction=5 / 500, regularization=1e-1),
        baseline_groups=(2, 6, 10),
    ),
    # the same model, moved by Muon, for fewer epochs of many more steps (results/README.md has the evidence)
    "fusion-mnist-plus": Preset(
        ModelConfig(image_size=32, channels=1, nll_size=28, likelihood="bernoulli", groups_per_scale=(2, 5), latent_channels=10, base_channels=8, preprocessing_blocks=2, cells_per_block=1, encoder_cells=1, decoder_cells=1),  # noqa: E501
        TrainConfig(epochs=12, batch_size=25, optimizer="muon", learning_rate=0.04, warmup_fraction=5 / 400, beta_fraction=0.1, regularization=1e-2, ema=0.999),  # noqa: E501
        baseline_groups=(2, 8),
    ),
    # a laptop's: minutes instead of hours
    "fusion-mnist-small": Preset(
        ModelConfig(image_size=32, channels=1, nll_size=28, likelihood="bernoulli", groups_per_scale=(1, 2), latent_channels=10, base_channels=8, preprocessing_blocks=2, cells_per_block=1, encoder_cells=1, decoder_cells=1),  # noqa: E501
        TrainConfig(epochs=10, batch_size=32, optimizer="muon", learning_rate=0.04, warmup_fraction=0.05, beta_fraction=0.2, regularization=1e-3),  # noqa: E501
        baseline_groups=(1, 3),
    ),
    "fusion-celeba-small": Preset(
        ModelConfig(image_size=64, channels=3, nll_size=64, likelihood="logistic-mixture", groups_per_scale=(2, 2), latent_channels=16, base_channels=8, preprocessing_blocks=3, cells_per_block=1, encoder_cells=1, decoder_cells=1),  # noqa: E501
        TrainConfig(epochs=1, batch_size=16, optimizer="muon", learning_rate=0.04, warmup_fraction=0.05, beta_fraction=0.2, regularization=1e-3),  # noqa: E501
        baseline_groups=(2, 4),
    ),
    # latents on 8x8 to 32x32, as in the paper's layout: coarser ones hardly learn to use the inputs in minutes
    "fusion-tless-small": Preset(
        ModelConfig(image_size=64, channels=1, nll_size=64, likelihood="bernoulli", groups_per_scale=(1, 1, 1), latent_channels=16, base_channels=8, preprocessing_blocks=1, cells_per_block=1, encoder_cells=1, decoder_cells=1),  # noqa: E501
        TrainConfig(epochs=8, batch_size=8, optimizer="muon", learning_rate=0.04, warmup_fraction=0.05, beta_fraction=0.15, regularization=1e-3, ema=0.995),  # noqa: E501
        baseline_groups=(1, 2, 2),
    ),
}
# fmt: on


def preset(name: str) -> Preset:
    """Return the preset of this name.

    Raises:
        FusionVAEError: If there is none.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise FusionVAEError(f"unknown preset {name!r}; expected one of {', '.join(PRESETS)}") from None


def preset_model(
    name: str, *, kind: str = "fusionvae", posterior: str | None = None, aggregation: str | None = None
) -> ModelConfig:
    """Return the architecture of a preset for any kind of model.

    Args:
        name: A key of :data:`PRESETS`.
        kind: A key of :data:`MODEL_KINDS`.
        posterior: Instead of the kind's own, where it has a choice.
        aggregation: Likewise.

    Raises:
        FusionVAEError: If a name is unknown, or the kind has no such posterior or aggregation.
    """
    chosen, row = preset(name), model_kind(kind)
    return dataclasses.replace(
        chosen.model,
        kind=kind,
        posterior=posterior or row.posteriors[0],
        aggregation=aggregation or row.aggregations[0],
        groups_per_scale=(kind != "fusionvae" and chosen.baseline_groups) or chosen.model.groups_per_scale,
    )
