"""The numbers that define the benchmark."""

import dataclasses
import json

import pytest

from fusion_datasets import BENCHMARKS, BenchmarkSpec, FusionDatasetsError
from fusion_datasets.spec import EllipseLaw, ObjectLaw

SPEC = BENCHMARKS["fusion-mnist"]


def test_fusion_mnist_is_what_the_paper_and_its_settings_say() -> None:
    assert SPEC.shape == (32, 32, 1)
    assert SPEC.padding_px == 2
    assert (SPEC.nll_size, SPEC.num_dims, SPEC.max_inputs) == (28, 784, 3)
    assert SPEC.law == EllipseLaw(count=2, radius_px=(5, 9), centre_px=(1, 29), aspect=(0.5, 1.5))
    assert SPEC.noise_std == 0.25


def test_fusion_celeba_is_what_the_paper_and_its_settings_say() -> None:
    spec = BENCHMARKS["fusion-celeba"]
    assert spec.shape == spec.target_shape("train") == (64, 64, 3)
    assert (spec.nll_size, spec.num_dims, spec.max_inputs, spec.noise_std) == (64, 12_288, 3, 0.0)
    assert spec.law == EllipseLaw(count=4, radius_px=(0, 14), centre_px=(1, 61), aspect=(0.5, 1.5))
    assert spec.window_px == ((40, 187), (15, 162))
    assert (spec.splits, spec.default_split, spec.flips) == (("train", "valid", "test"), "valid", True)


def test_fusion_tless_is_what_the_paper_and_its_settings_say() -> None:
    spec = BENCHMARKS["fusion-tless"]
    assert (spec.target_shape("train"), spec.target_shape("test"), spec.shape) == ((128, 128, 3), *2 * [(64, 64, 3)])
    assert (spec.num_dims, spec.grey, spec.noise_std, spec.splits) == (4096, True, 0.0, ("train", "test"))
    assert spec.law == ObjectLaw(count=(5, 8), longer_side_px=(30, 50), resize_px=4, shift_px=4, crop_px=100)


def test_specs_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.noise_std = 0.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        BENCHMARKS["fusion-mnist"] = SPEC  # type: ignore[index]


def test_json_round_trip() -> None:
    altered = dataclasses.replace(SPEC, noise_std=0.5, splits=("train", "valid"))
    for spec in (altered, *BENCHMARKS.values()):
        again = BenchmarkSpec.from_json(spec.to_json())
        assert again == spec
        assert hash(again) == hash(spec)
        assert again.to_json() == spec.to_json()


def test_files_older_than_a_setting_are_read_as_if_without_it() -> None:
    fields = json.loads(SPEC.to_json())
    for later in ("default_split", "window_px", "train_size_px", "flips", "grey"):
        del fields[later]
    assert fields["ellipses"]["radius_px"] == [5, 9]
    assert BenchmarkSpec.from_json(json.dumps(fields)) == SPEC


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", '{"ellipses": {}}', '{"ellipses": {"count": 1}, "name": "x"}']
)
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(FusionDatasetsError, match="spec cannot be read"):
        BenchmarkSpec.from_json(text)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("height", 0),
        ("height", True),
        ("width", 1e9),
        ("channels", "3"),
        ("max_inputs", 9),
        ("noise_std", float("nan")),
        ("noise_std", None),
        ("title", 7),
        ("flips", 1),
        ("train_size_px", -1),
        ("count", 10**12),
        ("radius_px", [9, 5]),
        ("radius_px", [5]),
        ("centre_px", 3),
        ("aspect", [0, 1]),
    ],
)
def test_settings_that_cannot_be_rendered_by_are_refused(setting: str, value: object) -> None:
    fields = json.loads(SPEC.to_json())
    (fields if setting in fields else fields["ellipses"])[setting] = value
    with pytest.raises(FusionDatasetsError, match=rf"{setting} is .*; expected (two|a|true)"):
        BenchmarkSpec.from_json(json.dumps(fields))


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_setting_that_rendering_reads_has_bounds(benchmark: str) -> None:
    others = {"splits", "default_split"} | {"source_files", "window_px"}  # schema.py checks the former; of sources
    text = BENCHMARKS[benchmark].to_json()
    [law] = {"ellipses", "objects"} & json.loads(text).keys()
    for names in (json.loads(text).keys() - {law} - others, json.loads(text)[law]):
        for name in names:
            fields = json.loads(text)
            (fields if name in fields else fields[law])[name] = {}
            with pytest.raises(FusionDatasetsError, match=rf"{name} is {{}}; expected"):
                BenchmarkSpec.from_json(json.dumps(fields))
