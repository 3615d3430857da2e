"""Where a training starts from when it does not start from random weights: those of a trained model."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from fusionvae_model.checkpoint import WEIGHTS_FILE, model_folder, read_pretrained, read_training_summary
from fusionvae_model.config import ModelConfig
from fusionvae_model.errors import FusionVAEError


@dataclass(frozen=True)
class InitialWeights:
    """The weights and batch statistics of a trained model, and what is known of how it came to them.

    Attributes:
        digest: SHA-256 of the weights' file.
        tensors: Parameters and buffers by name.
        images_seen: Images that all trainings before have seen, repeated ones counted; ``None`` if unknown.
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
        others = [f"{name} {theirs[name]} there, {ours[name]} here" for name in ours if theirs[name] != ours[name]]
        if others:
            raise FusionVAEError(
                f"the weights in {weights} are of another architecture ({'; '.join(others)}); choose the preset and "
                "settings they were trained with, or leave out --init"
            )
        digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest()
        return cls(f"sha256:{digest}", tensors, _images_seen(read_training_summary(folder) or {}))


def _images_seen(summary: dict[str, Any]) -> int | None:
    counts = [summary.get("images_seen"), summary.get("images_seen_before", 0)]
    return sum(counts) if all(isinstance(count, int) for count in counts) else None
