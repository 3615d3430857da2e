"""FusionMNIST and its siblings: benchmarks for fusing several occluded, noisy images of one thing."""

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.spec import BENCHMARKS, BenchmarkSpec
from fusion_datasets.store import FusionBatch, FusionDataset, FusionExample

__all__ = [
    "BENCHMARKS",
    "BenchmarkSpec",
    "FusionBatch",
    "FusionDataset",
    "FusionDatasetsError",
    "FusionExample",
]
