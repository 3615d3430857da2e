"""What training takes from a benchmark, in PyTorch: the one place of this package that imports torch."""

from fusion_datasets.torch.composition import occluder_pool
from fusion_datasets.torch.datasets import FusionCelebA, FusionItem, FusionMNIST, FusionTLESS, RandomNumInputs
from fusion_datasets.torch.rendering import RenderedInputs, draw_ellipses, render_inputs, render_targets

__all__ = [
    "FusionCelebA",
    "FusionItem",
    "FusionMNIST",
    "FusionTLESS",
    "RandomNumInputs",
    "RenderedInputs",
    "draw_ellipses",
    "occluder_pool",
    "render_inputs",
    "render_targets",
]
