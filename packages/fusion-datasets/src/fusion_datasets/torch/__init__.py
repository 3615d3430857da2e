"""What training takes from a benchmark, in PyTorch: the one place of this package that imports torch."""

from fusion_datasets.torch.composition import occluder_pool
from fusion_datasets.torch.rendering import RenderedInputs, draw_ellipses, render_inputs, render_targets

__all__ = ["RenderedInputs", "draw_ellipses", "occluder_pool", "render_inputs", "render_targets"]
