"""What every model of the paper is: built from a preset, trained by its bound, stored as a folder, able to fuse."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, Self, TypeVar

import torch
from torch import Tensor, nn

from fusionvae_model.aggregation import Aggregation, InputSet
from fusionvae_model.checkpoint import model_folder, read_pretrained, write_pretrained
from fusionvae_model.config import ModelConfig, preset_model
from fusionvae_model.device import is_out_of_memory, usable_device
from fusionvae_model.errors import FusionVAEError
from fusionvae_model.folding import fold_batch_norm
from fusionvae_model.layers import Cells
from fusionvae_model.noise import NoiseSource


@dataclass(frozen=True)
class Bound:
    """The two sides of the evidence lower bound, Eq. (8) with ``β = α_l = 1``.

    Attributes:
        log_likelihood: ``log p(y | z)`` for ``z ~ q``, nats, ``[b]``; the mean over several draws.
        kl: ``KL(q_l ‖ p_l)`` of each group, nats, ``[b, L]``; ``L = 0`` for a model without latent variables. The mean
            over several draws and numbers of inputs.
        weighted: ``log 1/K Σ_s p(y | z_s) p(z_s | x) / q(z_s | ·)`` of ``K > 1`` draws, nats, ``[b]``, the mean over
            several numbers of inputs: a tighter bound (Burda et al. 2016). ``None`` for one draw.
    """

    log_likelihood: Tensor
    kl: Tensor
    weighted: Tensor | None = None

    @property
    def nats(self) -> Tensor:
        """The bound itself, ``[b]``; the tighter one of several draws."""
        return self.log_likelihood - self.kl.sum(dim=1) if self.weighted is None else self.weighted


_HALF_A_LEVEL = 0.5 / 255
"""So far beyond [0, 1] values may lie: they round to a level of 8 bits."""

P = ParamSpec("P")
R = TypeVar("R")


def inference(method: Callable[P, R]) -> Callable[P, R]:
    """Run a method without gradients and in eval mode, where batch norm does not mix images.

    A model that is in eval mode already is left alone, so that several threads may share it.
    """

    @wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        model = args[0]
        assert isinstance(model, nn.Module)
        in_training = [module for module in model.modules() if module.training]  # parts may be frozen
        for module in in_training:
            module.training = False
        try:
            with torch.no_grad():
                return method(*args, **kwargs)
        finally:
            for module in in_training:
                module.training = True

    return run


class FusionModel(nn.Module, ABC):
    """A model that fuses ``k ≥ 0`` images of one thing.

    The inputs are a set: their order does not matter, and any number is accepted, also more than in training.

    Args:
        config: The architecture.

    Attributes:
        kinds: Keys of :data:`~fusionvae_model.config.MODEL_KINDS` that the class builds.
        is_folded: Whether this is a copy for inference alone.
    """

    kinds: ClassVar[tuple[str, ...]]
    is_folded = False
    encoder: nn.Module

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if not isinstance(config, ModelConfig):
            raise FusionVAEError(
                f"got {config!r:.60} as the architecture of a {type(self).__name__}; expected a ModelConfig: "
                "from_preset and from_pretrained find one by name"
            )
        if config.kind not in self.kinds:
            raise FusionVAEError(
                f"{type(self).__name__} builds {' and '.join(self.kinds)}, not {config.kind}; "
                "build_model and load_model find the class that does"
            )
        self.config = config
        self.aggregation = Aggregation.from_name(config.aggregation)

    @property
    def deterministic(self) -> bool:
        """Whether it draws nothing, so that all its hypotheses are the same and tell no uncertainty."""
        return self.config.posterior == "none"

    @classmethod
    def from_preset(cls, name: str) -> Self:
        """Build an untrained model of a preset, e.g. ``"fusion-mnist"``."""
        return cls(preset_model(name, kind=cls.kinds[0]))

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: torch.device | str = "cpu") -> Self:
        """Load a trained model from a folder that :meth:`save_pretrained` or ``fusionvae train`` wrote.

        It comes in channels-last layout, in which CPUs and GPUs convolve fastest.

        Args:
            folder: Its path, or the name of weights that came with the package: ``"fusion-mnist"``.
            device: Where the model goes.

        Raises:
            FusionVAEError: If the folder holds no model, one of another class, or one of another version, or there is
                no such device.
        """
        where = usable_device(device)
        config, tensors = read_pretrained(model_folder(folder))
        try:
            model = cls(config)
            model.load_state_dict(tensors)
        except (MemoryError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            if is_out_of_memory(error):
                reason = "it describes a model for which there is not enough memory; copy the folder again"
            raise FusionVAEError(f"the weights in {folder} do not fit their own config.json: {reason}") from error
        return model.to(where).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def save_pretrained(self, folder: str | Path, *, training: dict[str, Any] | None = None) -> None:
        """Write config.json, model.safetensors and a model card, each whole or not at all.

        Args:
            folder: Created if absent.
            training: What to remember of the training (:mod:`fusionvae_model.training` fills it in).

        Raises:
            FusionVAEError: If this is a folded copy, a weight is not finite, ``training`` is no JSON, the folder holds
                files of the same names that are no model's, or the disk refuses.
        """
        if self.is_folded:
            raise FusionVAEError("a folded copy cannot be saved; save the model that it was made from")
        write_pretrained(Path(folder), self.config, self.state_dict(), self.num_parameters, training)

    def folded(self) -> Self:
        """Return a copy for inference alone that computes the same in about half the time.

        Batch norms become part of the convolutions beside them (:mod:`fusionvae_model.folding`); the copy cannot be
        trained or saved.
        """
        copy = fold_batch_norm(self)
        assert isinstance(copy, type(self))
        copy.is_folded = True
        return copy

    def recompute_activations(self, enabled: bool = True) -> None:
        """Let training compute every cell again in the backward pass: less memory, more time, the same numbers."""
        for module in self.modules():
            if isinstance(module, Cells):
                module.recomputes = enabled

    @property
    def num_parameters(self) -> int:
        """Trained numbers in the model."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.parameters()).device

    @abstractmethod
    def forward(self, target: Tensor, inputs: Tensor, *, generator: NoiseSource | None = None) -> Bound:
        """Return both sides of what training maximises; differentiable.

        Args:
            target: ``y``, ``[b, c, h, w]`` in [0, 1].
            inputs: ``x_1 … x_k``, ``[b, k, c, h, w]`` in [0, 1], ``k ≥ 0``.
            generator: Source of the noise.
        """

    @abstractmethod
    def sample(
        self,
        inputs: Tensor | None = None,
        *,
        num_samples: int = 1,
        batch_size: int | None = None,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return hypotheses of the clean image, ``[b, S, c, h, w]`` in [0, 1].

        Args:
            inputs: ``[b, k, c, h, w]`` in [0, 1]; ``None`` for no inputs.
            num_samples: Hypotheses ``S`` per image.
            batch_size: ``b``, where there are no inputs to tell it.
            temperature: Multiplies every prior's scale; 1 samples the model, less is safer and less varied.
            generator: Source of the noise.
        """

    def _encode(
        self,
        target: Tensor | None,
        inputs: Tensor,
        sizes: Sequence[int],
        of_others: Sequence[Sequence[Tensor]] = (),
    ) -> tuple[list[Tensor], list[list[InputSet | None]]]:
        """Encode target and inputs in one batch; fuse the first ``k`` inputs for each of the sizes.

        Args:
            target: ``[b, c, h, w]``, if there is one.
            inputs: ``[b, k, c, h, w]``.
            sizes: Numbers of inputs.
            of_others: Features of every group, ``[b, n, C_l, h_l, w_l]`` each, that belong to all the sets besides.

        Returns:
            The target's features (none without a target), and those of each set of inputs.
        """
        b, k = inputs.shape[:2]
        images = inputs.flatten(0, 1) if target is None else torch.cat((inputs.flatten(0, 1), target))
        features = self.encoder(images) if len(images) else []
        of_images = [[f[: b * k].unflatten(0, (b, k)) for f in features]] if features else []
        if not (members := [*of_others, *of_images]):
            return [], [[None] * self.config.num_groups for _ in sizes]
        num_others = sum(of_modality[0].shape[1] for of_modality in of_others)
        fused = [
            self.aggregation.prefixes(
                of_group[0] if len(of_group) == 1 else torch.cat(of_group, dim=1), [num_others + k for k in sizes]
            )
            for of_group in zip(*members, strict=True)
        ]
        return [f[b * k :] for f in features], [list(context) for context in zip(*fused, strict=True)]

    def _inputs_to_sample(self, inputs: Tensor | None, batch_size: int | None, num_samples: int) -> Tensor:
        """Check what :meth:`sample` was asked for; return its inputs, of which there may be none."""
        size = self.config.image_size
        if batch_size is not None and batch_size < 1:
            raise FusionVAEError(f"batch_size is {batch_size}; expected at least 1")
        if inputs is None:
            shape = (1 if batch_size is None else batch_size, 0, self.config.channels, size, size)
            inputs = torch.empty(shape, device=self.device)
        _check_is_tensor("the inputs", inputs)
        self._check_inputs(inputs, batch_size=len(inputs) if batch_size is None else batch_size)
        self._check_num_samples(num_samples)
        self._check_range("the inputs", inputs)
        return inputs

    def _check_target(self, target: Tensor) -> None:
        expected = (self.config.channels, self.config.image_size, self.config.image_size)
        _check_is_tensor("the target", target)
        if target.ndim != 4 or tuple(target.shape[1:]) != expected:
            raise FusionVAEError(
                f"the target has shape {list(target.shape)}; this model expects [b, {', '.join(map(str, expected))}]"
            )
        self._check_numbers("the target", target)

    def _check_inputs(self, inputs: Tensor, *, batch_size: int) -> None:
        expected = (self.config.channels, self.config.image_size, self.config.image_size)
        _check_is_tensor("the inputs", inputs)
        if inputs.ndim != 5 or len(inputs) != batch_size or tuple(inputs.shape[2:]) != expected:
            raise FusionVAEError(
                f"the inputs have shape {list(inputs.shape)}; this model expects "
                f"[{batch_size}, k, {', '.join(map(str, expected))}] with any k ≥ 0"
            )
        self._check_numbers("the inputs", inputs)

    def _check_numbers(self, name: str, images: Tensor) -> None:
        own = next(self.parameters())
        if images.numel() and images.dtype != own.dtype:
            raise FusionVAEError(
                f"{name}: got images of type {images.dtype}; this model expects {own.dtype} in [0, 1]: convert them, "
                "8-bit ones by images.float() / 255"
            )
        if images.device != own.device:
            raise FusionVAEError(
                f"{name}: got images on {images.device}; this model is on {own.device}: move one of them by .to(…)"
            )
        if not len(images):
            raise FusionVAEError(f"{name}: got a batch of no images; expected at least one")

    def _check_range(self, name: str, images: Tensor) -> None:
        """Look at every value, for which a GPU is waited for: not for the steps of a training."""
        if not images.numel():
            return
        low, high = torch.stack(torch.aminmax(images.detach())).tolist()
        if not (low >= -_HALF_A_LEVEL and high <= 1 + _HALF_A_LEVEL):  # NaN fails both
            raise FusionVAEError(
                f"{name}: got values from {low:.4g} to {high:.4g}; expected [0, 1]: divide 8-bit levels by 255, undo a "
                "normalisation, or clamp what interpolation overshot"
            )

    def _check_temperature(self, temperature: float) -> None:
        if not 0 <= temperature < math.inf:
            raise FusionVAEError(f"temperature is {temperature}; expected a finite number, 0 or more")

    def _check_num_samples(self, num_samples: int) -> None:
        if not hasattr(num_samples, "__index__") or num_samples < 1:
            raise FusionVAEError(f"num_samples is {num_samples!r}; expected a whole number, at least 1")


def _check_is_tensor(name: str, images: Any) -> None:
    if not isinstance(images, Tensor):
        raise FusionVAEError(
            f"{name}: got a {type(images).__name__}; expected a tensor: of an array by torch.from_numpy(…), and no "
            "inputs as [b, 0, c, h, w]"
        )
