"""Importance-sampled likelihoods, MSE_min and the tables of the FusionVAE paper, for any image fusion model."""

from fusionvae_bench.errors import BenchError
from fusionvae_bench.estimate import NllEstimate, estimate_draws, estimate_nll
from fusionvae_bench.evaluate import evaluate
from fusionvae_bench.protocol import LikelihoodModel, SamplingModel
from fusionvae_bench.results import InputGain, Result, Score, find_results, read_result, write_result

__version__ = "0.1.0"

__all__ = [
    "BenchError",
    "InputGain",
    "LikelihoodModel",
    "NllEstimate",
    "Result",
    "SamplingModel",
    "Score",
    "__version__",
    "estimate_draws",
    "estimate_nll",
    "evaluate",
    "find_results",
    "read_result",
    "write_result",
]
