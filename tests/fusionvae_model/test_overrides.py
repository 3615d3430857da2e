"""Settings replaced by name."""

import json

import pytest
import torch

from fusionvae_model import FusionVAE, FusionVAEError
from fusionvae_model.config import Preset, preset, preset_model
from fusionvae_model.overrides import override

PRESET = preset("fusion-mnist")


def test_each_setting_lands_where_it_belongs_with_its_type():
    changed = override(
        PRESET, ["learning_rate=5e-3", "groups_per_scale=3,4,5", "batch_size=64", "ema=0.999", "kind=fusionvae"]
    )
    assert (changed.train.learning_rate, changed.train.batch_size, changed.train.ema) == (0.005, 64, 0.999)
    assert changed.model.groups_per_scale == (3, 4, 5)
    assert override(PRESET, ["groups_per_scale=2"]).model.groups_per_scale == (2,)
    assert override(PRESET, []) == PRESET


def test_prior_heads_of_one_pixel():
    model = FusionVAE(override(PRESET, ["prior_kernel=1"]).model)
    assert model.num_parameters == 624_550 + 1_320  # the published layout it builds on, and the head of group 1
    target = torch.rand(2, 1, 32, 32)
    assert model.elbo(target, target[:, None]).isfinite().all()


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("learning_rat=1", r"got the setting 'learning_rat=1'; expected name=value, name one of .*learning_rate"),
        ("learning_rate", "expected name=value"),
        ("batch_size=1.5", "batch_size=1.5; expected int"),
        ("batch_size=many", "batch_size='many'; expected int"),
        ("groups_per_scale=2,x", "groups_per_scale"),
        ("prior_kernel=5", "prior_kernel is 5; expected 3 or 1"),
        ("latent_channels=0", "latent_channels is 0; expected at least 1"),
        ("base_channels=7", "base_channels is 7; expected an even number"),
        ("preprocessing_blocks=-1", "preprocessing_blocks is -1; expected 0 or more"),
        ("decoder_cells=-3", "decoder_cells is -3; expected 0 or more"),
        ("beta_fraction=NaN", "beta_fraction=nan; expected float"),
        ("weight_decay=Infinity", "weight_decay=inf; expected float"),
        ("regularization=-1", "regularization is -1; expected 0 or more"),
        ("adamax_eps=0", "adamax_eps is 0; expected more than 0"),
        ("seed=100000000000000000000", "seed is 100000000000000000000; expected a number from 0"),
        ("optimizer=sgd", "unknown optimizer 'sgd'; expected adamax or muon"),
        ("ema=1", "expected 0 for none, or a share below 1"),
        ("likelihood=gamma", "unknown likelihood 'gamma'"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(assignment, said):
    with pytest.raises(FusionVAEError, match=said) as caught:
        override(PRESET, [assignment])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["latent_channels", "prior_kernel", "beta_fraction", "beta_floor"])
def test_what_has_no_latents_has_none_of_their_settings(name):
    fcn = Preset(preset_model("fusion-mnist", kind="fcn"), PRESET.train)
    with pytest.raises(FusionVAEError, match=f"{name} is a setting of latents, of which fcn has none"):
        override(fcn, [f"{name}=1"])
    cvae = Preset(preset_model("fusion-mnist", kind="cvae"), PRESET.train)
    assert override(cvae, [f"{name}=1"]) != cvae


def test_twice_is_refused():
    with pytest.raises(FusionVAEError, match="beta_fraction is given twice"):
        override(PRESET, ["beta_fraction=0.1", "beta_fraction=0.2"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 3), ("batch_size", 3), ("seed", 3), ("posterior", "xy"), ("aggregation", "mean-add"), ("epochs", None)],
)
def test_a_setting_and_its_option_are_not_mixed(name, value, quick_trainer, tmp_path):
    given = {"minutes": 0.5} if value is None else {name: value}
    spelled = "0.5 minutes" if value is None else value
    with pytest.raises(FusionVAEError, match=f"{name} is given twice, as {spelled} and by the setting {name}=2"):
        quick_trainer(overrides=("ema=0.5", f"{name}=2"), **given)
    assert not list(tmp_path.iterdir())


def test_run_remembers_them(quick_train, tmp_path):
    quick_train(tmp_path / "run", overrides=("beta_fraction=0.5", "ema=0.5", "base_channels=4", "seed=3"))
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (stored["train"]["beta_fraction"], stored["model"]["base_channels"], stored["train"]["seed"]) == (0.5, 4, 3)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model"]["base_channels"] == 4
    with pytest.raises(FusionVAEError, match=r"train\.ema: 0\.5 there, 0\.0 asked for"):
        quick_train(tmp_path / "run", resume=True, overrides=("beta_fraction=0.5", "base_channels=4", "seed=3"))
