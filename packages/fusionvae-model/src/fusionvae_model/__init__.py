"""FusionVAE: fuses 0 to many occluded, noisy images of one thing into hypotheses of the clean image."""

__version__ = "0.1.0"

from fusionvae_model.baselines import CVAE, FCN
from fusionvae_model.catalogue import build_model, load_model
from fusionvae_model.config import AGGREGATIONS, MODEL_KINDS, PRESETS, ModelConfig, TrainConfig
from fusionvae_model.device import tune_process
from fusionvae_model.errors import FusionVAEError
from fusionvae_model.fusionvae import FusionVAE
from fusionvae_model.model import Bound, FusionModel
from fusionvae_model.sheets import read_inputs

__all__ = [
    "AGGREGATIONS",
    "CVAE",
    "FCN",
    "MODEL_KINDS",
    "PRESETS",
    "Bound",
    "FusionModel",
    "FusionVAE",
    "FusionVAEError",
    "ModelConfig",
    "TrainConfig",
    "__version__",
    "build_model",
    "load_model",
    "read_inputs",
    "tune_process",
]
