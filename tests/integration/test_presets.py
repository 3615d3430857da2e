"""The model and the benchmark must mean the same images, for neither package imports the other's numbers."""

from __future__ import annotations

import pytest

from fusion_datasets import BENCHMARKS
from fusionvae_model import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_preset_fits_its_benchmark(name: str) -> None:
    preset, spec = PRESETS[name], BENCHMARKS[name.removesuffix("-small").removesuffix("-plus")]
    seen = (*spec.shape[:2], 1 if spec.grey else spec.channels)
    assert (preset.model.image_size, preset.model.image_size, preset.model.channels) == seen
    assert preset.model.nll_size == spec.nll_size
    assert preset.model.num_dims == spec.num_dims
    assert preset.train.max_inputs == spec.max_inputs
