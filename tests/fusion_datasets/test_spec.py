"""The numbers that define the benchmark."""

import dataclasses

import pytest

from fusion_datasets import BENCHMARKS, BenchmarkSpec, FusionDatasetsError

SPEC = BENCHMARKS["fusion-mnist"]


def test_fusion_mnist_is_what_the_paper_and_its_settings_say() -> None:
    assert SPEC.shape == (32, 32, 1)
    assert SPEC.padding_px == 2
    assert (SPEC.nll_size, SPEC.num_dims, SPEC.max_inputs) == (28, 784, 3)
    assert (SPEC.ellipses.count, SPEC.ellipses.radius_px, SPEC.ellipses.centre_px) == (2, (5, 9), (1, 29))
    assert (SPEC.ellipses.aspect, SPEC.noise_std) == ((0.5, 1.5), 0.25)


def test_specs_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.noise_std = 0.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        BENCHMARKS["fusion-mnist"] = SPEC  # type: ignore[index]


def test_json_round_trip() -> None:
    altered = dataclasses.replace(SPEC, noise_std=0.5, splits=("train", "valid"))
    for spec in (SPEC, altered):
        again = BenchmarkSpec.from_json(spec.to_json())
        assert again == spec
        assert hash(again) == hash(spec)
        assert again.to_json() == spec.to_json()


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"ellipses": {}}', '{"ellipses": {"count": 1}, "name": "x"}']
)
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(FusionDatasetsError, match="spec cannot be read"):
        BenchmarkSpec.from_json(text)
