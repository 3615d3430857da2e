"""Where a training starts from when it does not start from random weights: those of one trained model or of several."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from fusionvae_model.checkpoint import WEIGHTS_FILE, model_folder, read_pretrained, read_training_summary
from fusionvae_model.config import ModelConfig
from fusionvae_model.errors import FusionVAEError
from fusionvae_model.layers import DecoderCell, UpCell

EXTINCT = 1e-6
"""Gain and shift of a batch norm below which its channel says nothing any more."""


@dataclass(frozen=True)
class InitialWeights:
    """The weights and batch statistics of a trained model or the mean of several, and what is known of their origin.

    Attributes:
        digest: SHA-256 of the weights' file; of each, with a plus sign between them.
        tensors: Parameters and buffers by name.
        images_seen: Images that all trainings before have seen, repeated ones counted; ``None`` if unknown. Of several
            models that of the one that has seen most, for they may have a past in common.
    """

    digest: str
    tensors: dict[str, Tensor]
    images_seen: int | None

    @classmethod
    def read(cls, weights: str | Path, config: ModelConfig) -> Self:
        """Read them.

        Args:
            weights: A model's folder, or the name of weights that came with the package.
            config: The architecture that is to start from them.

        Raises:
            FusionVAEError: If there is no model, or one of another architecture.
        """
        folder = model_folder(weights)
        stored, tensors = read_pretrained(folder)
        theirs, ours = stored.to_dict(), config.to_dict()
        others = [
            f"{name} {theirs[name]} there, {ours[name]} here"
            for name in ours
            if theirs[name] != ours[name] and name != "nll_size"  # which pixels are scored is no matter of weights
        ]
        if others:
            raise FusionVAEError(
                f"the weights in {weights} are of another architecture ({'; '.join(others)}); choose the preset and "
                "settings they were trained with, or leave out --init"
            )
        digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
        return cls(f"sha256:{digest}", tensors, _images_seen(read_training_summary(folder) or {}))

    @classmethod
    def mean(cls, several: Sequence[Self]) -> Self:
        """Return the plain mean of models of one architecture; one that is named twice counts twice.

        Models that were trained from one and the same by different settings lie in one valley of the loss, and their
        mean is often better than each of them (Wortsman et al. 2022), also in what they were trained for (Ramé et al.
        2023). Of models without a past in common it is worth nothing.
        """
        if len(several) == 1:
            return several[0]
        tensors = {
            name: torch.stack([one.tensors[name] for one in several]).mean(dim=0)
            if first.is_floating_point()
            else first
            for name, first in several[0].tensors.items()
        }
        seen = [one.images_seen for one in several if one.images_seen is not None]
        return cls(" + ".join(one.digest for one in several), tensors, max(seen) if len(seen) == len(several) else None)


def _images_seen(summary: dict[str, Any]) -> int | None:
    counts = [summary.get("images_seen"), summary.get("images_seen_before", 0)]
    return sum(counts) if all(isinstance(count, int) for count in counts) else None


def extinct_channels(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return which hidden channels of the decoder's cells have gone out, by the name of the cell: bool ``[hidden]``.

    L2 weight decay pulls on the expanding filter of a channel, on its depthwise one, and on the gains and shifts of
    the two batch norms between them; where the likelihood asks little of their product, all of them shrink to nothing
    within some hundred steps, together, and no gradient is left to bring the channel back.

    Args:
        model: Has the cells.
        tensors: Its trained parameters by name.
    """
    cells = [name for name, module in model.named_modules() if isinstance(module, DecoderCell | UpCell)]
    return {
        name: (tensors[f"{name}.contract.1.weight"].abs() < EXTINCT)
        & (tensors[f"{name}.contract.1.bias"].abs() < EXTINCT)
        for name in cells
    }


def with_revived_channels(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return trained tensors whose extinct hidden channels start anew; the model still computes what it did.

    A revived channel takes filters and batch norms from an untrained model, and no part yet in what its cell puts
    out: the contracting weights that read it are zero, from where the first gradient moves them.

    Args:
        model: Untrained, of the same architecture.
        tensors: Trained parameters and buffers by name.
    """
    revived = {name: tensor.clone() for name, tensor in tensors.items()}
    fresh = model.state_dict()
    for cell, extinct in extinct_channels(model, tensors).items():
        for part in ("expand.1", "expand.2", "contract.0", "contract.1"):
            for name in [name for name in fresh if name.startswith(f"{cell}.{part}.") and fresh[name].ndim]:
                revived[name][extinct] = fresh[name][extinct].to(revived[name])
        revived[f"{cell}.contract.3.weight"][:, extinct] = 0
    return revived
