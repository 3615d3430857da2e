"""FusionVAE: fuses 0 to many occluded, noisy images of one thing into hypotheses of the clean image."""

__version__ = "0.1.0"

from fusionvae_model.config import PRESETS, ModelConfig, TrainConfig
from fusionvae_model.errors import FusionVAEError
from fusionvae_model.fusionvae import Bound, FusionVAE

__all__ = ["PRESETS", "Bound", "FusionVAE", "FusionVAEError", "ModelConfig", "TrainConfig", "__version__"]
