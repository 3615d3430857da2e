"""Every model of the paper by name."""

from pathlib import Path

import torch

from fusionvae_model.baselines import CVAE, FCN
from fusionvae_model.checkpoint import model_folder, read_config
from fusionvae_model.config import ModelConfig, preset_model
from fusionvae_model.errors import FusionVAEError
from fusionvae_model.fusionvae import FusionVAE
from fusionvae_model.model import FusionModel

_CLASSES: dict[str, type[FusionModel]] = {kind: cls for cls in (FusionVAE, CVAE, FCN) for kind in cls.kinds}


def build_model(
    kind: str | ModelConfig = "fusionvae",
    *,
    preset: str = "fusion-mnist",
    posterior: str | None = None,
    aggregation: str | None = None,
) -> FusionModel:
    """Build an untrained model: any row of the paper's tables (Sec. 5.3 and 6.3).

    Args:
        kind: A key of :data:`~fusionvae_model.config.MODEL_KINDS`, or a complete configuration.
        preset: A key of :data:`~fusionvae_model.config.PRESETS`; a configuration needs none.
        posterior: ``"y"`` or ``"xy"``, for FusionVAE.
        aggregation: One of :data:`~fusionvae_model.config.AGGREGATIONS`, for FusionVAE.

    Raises:
        FusionVAEError: If a name is unknown, the kind has no such posterior or aggregation, or they are given beside a
            configuration.
    """
    if isinstance(kind, ModelConfig) and (posterior or aggregation):
        raise FusionVAEError(
            "a complete configuration says which posterior and aggregation; change it by dataclasses.replace, or build "
            "by the name of a kind"
        )
    if not isinstance(kind, ModelConfig):
        kind = preset_model(preset, kind=kind, posterior=posterior, aggregation=aggregation)
    return _CLASSES[kind.kind](kind)


def load_model(folder: str | Path, *, device: torch.device | str = "cpu") -> FusionModel:
    """Load a trained model of any kind.

    Args:
        folder: Its path, or the name of weights that came with the package.
        device: Where the model goes.

    Raises:
        FusionVAEError: If the folder holds no model, or one of another version.
    """
    return _CLASSES[read_config(model_folder(folder)).kind].from_pretrained(folder, device=device)
