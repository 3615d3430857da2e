"""Configurations are frozen, checked, and survive JSON."""

import dataclasses
import json
import math

import pytest

from fusionvae_model import PRESETS, FusionVAE, FusionVAEError, ModelConfig, TrainConfig


@pytest.mark.parametrize("name", PRESETS)
def test_presets_round_trip_through_json_and_build(name):
    row = PRESETS[name]
    for config in (row.model, row.train):
        assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert FusionVAE.from_preset(name).num_parameters > 0


def test_the_published_settings_of_fusion_mnist():
    model, train = PRESETS["fusion-mnist"].model, PRESETS["fusion-mnist"].train
    assert (model.groups_per_scale, model.latent_channels, model.base_channels) == ((2, 5), 10, 8)
    assert (model.nll_size, model.num_dims, model.coarsest_side, model.coarsest_channels) == (28, 784, 4, 64)
    assert (train.epochs, train.batch_size, train.learning_rate, train.final_learning_rate) == (400, 800, 0.01, 0.0001)
    assert (train.weight_decay, train.adamax_eps, train.regularization) == (3e-4, 1e-3, 1e-2)
    assert train.warmup_fraction == pytest.approx(5 / 400)


@pytest.mark.parametrize(
    ("name", "epochs", "channels", "likelihood"),
    [("fusion-celeba", 90, 3, "logistic-mixture"), ("fusion-tless", 500, 1, "bernoulli")],
)
def test_the_published_settings_of_the_64_by_64_benchmarks(name, epochs, channels, likelihood):
    model, train = PRESETS[name].model, PRESETS[name].train
    assert (model.image_size, model.channels, model.likelihood, model.num_groups) == (64, channels, likelihood, 17)
    assert (model.groups_per_scale, model.latent_channels, model.base_channels) == ((2, 5, 10), 20, 32)
    assert (model.coarsest_side, model.coarsest_channels, model.num_dims) == (8, 256, 4096 * channels)
    assert (train.epochs, train.batch_size, train.regularization) == (epochs, 32, 1e-1)
    assert train.warmup_fraction == pytest.approx(5 / epochs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_size": 30}, "cannot be halved"),
        ({"groups_per_scale": ()}, "at least one scale"),
        ({"groups_per_scale": (1, 0)}, "at least one group"),
        ({"nll_size": 33}, "centre square"),
        ({"nll_size": 27}, "centre square"),
        ({"kind": "gan"}, "unknown kind"),
        ({"likelihood": "poisson"}, "unknown likelihood"),
        ({"posterior": "x"}, "posterior 'x' does not belong to fusionvae; expected y or xy"),
        ({"aggregation": "max"}, "aggregation 'max' does not belong to fusionvae"),
        ({"aggregation": "bayes-add", "posterior": "xy"}, "choose posterior 'y'"),
        ({"aggregation": "pool-add", "posterior": "xy"}, "choose posterior 'y'"),
        ({"aggregation": "pool-all"}, "aggregation 'pool-all' does not belong to fusionvae"),
        ({"modalities": (0,)}, r"modalities is \(0,\) for fusionvae; expected the channels of each"),
        ({"kind": "cvae", "posterior": "xy", "aggregation": "max", "modalities": (1,)}, "for cvae; expected"),
        ({"kind": "cvae"}, "posterior 'y' does not belong to cvae; expected xy"),
    ],
)
def test_impossible_architectures_are_refused(changes, words):
    with pytest.raises(FusionVAEError, match=words):
        dataclasses.replace(PRESETS["fusion-mnist"].model, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beta_fraction": 30.0}, "beta_fraction is 30.0; expected 0 to 1, a share and no number of epochs"),
        ({"warmup_fraction": 5.0}, "warmup_fraction is 5.0; expected 0 to 1"),
        ({"beta_floor": 3.0}, "beta_floor is 3.0; expected 0 to 1"),
        ({"learning_rate": 5e-5}, "final_learning_rate is 0.0001, more than the learning_rate of 5e-05"),
        ({"importance_samples": 4, "beta_fraction": 1.0}, "importance_samples is 4, which counts once β has risen"),
        ({"prior_weight": 0.2}, "prior_weight is 0.2, and nothing is drawn from the prior; expected prior_draws too"),
    ],
)
def test_impossible_trainings_are_refused(changes, words):
    with pytest.raises(FusionVAEError, match=words):
        dataclasses.replace(PRESETS["fusion-mnist"].train, **changes)


def test_unknown_and_missing_keys_are_named():
    values = PRESETS["fusion-mnist"].model.to_dict()
    with pytest.raises(FusionVAEError, match="unknown keys colour"):
        ModelConfig.from_dict({**values, "colour": 1})
    values.pop("channels")
    with pytest.raises(FusionVAEError, match=r"incomplete.*channels"):
        ModelConfig.from_dict(values)


def test_a_switch_is_true_or_false():
    values = PRESETS["fusion-mnist"].train.to_dict()
    assert TrainConfig.from_dict({**values, "recompute_activations": True}).recompute_activations
    with pytest.raises(FusionVAEError, match="recompute_activations=1; expected bool"):
        TrainConfig.from_dict({**values, "recompute_activations": 1})


def test_training_ranges():
    with pytest.raises(FusionVAEError, match="batch_size is 0"):
        TrainConfig(epochs=1, batch_size=0, warmup_fraction=0.1, regularization=0.01)
    with pytest.raises(FusionVAEError, match="warmup_fraction is 1, after which no step is left"):
        TrainConfig(epochs=1, batch_size=1, warmup_fraction=1.0, regularization=0.01)


@pytest.mark.parametrize(
    "changes", [{"base_channels": "8"}, {"groups_per_scale": [2, "5"]}, {"groups_per_scale": 7}, {"channels": True}]
)
def test_values_of_another_type_are_refused(changes):
    with pytest.raises(FusionVAEError, match=f"{next(iter(changes))}=.*expected"):
        ModelConfig.from_dict({**PRESETS["fusion-mnist"].model.to_dict(), **changes})
    with pytest.raises(FusionVAEError, match=f"{next(iter(changes))}=.*expected"):
        dataclasses.replace(PRESETS["fusion-mnist"].model, **changes)


@pytest.mark.parametrize(
    "changes",
    [{"every_k": "no"}, {"batch_size": 2.5}, {"seed": 1.5}, {"max_inputs": True}, {"learning_rate": math.inf}],
)
def test_training_settings_of_another_type_are_refused(changes):
    with pytest.raises(FusionVAEError, match=f"{next(iter(changes))}=.*expected"):
        dataclasses.replace(PRESETS["fusion-mnist"].train, **changes)
