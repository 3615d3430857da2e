"""Every row of the paper by name, each of about the same size."""

import json

import pytest
import torch
from click.testing import CliRunner

from fusionvae_model import AGGREGATIONS, MODEL_KINDS, PRESETS, FusionVAE, FusionVAEError, build_model, load_model
from fusionvae_model.cli import main
from fusionvae_model.config import preset_model


@pytest.mark.parametrize("preset", PRESETS)
def test_baselines_have_about_as_many_parameters(preset, capsys):
    """Within a tenth of FusionVAE (Sec. 5.3)."""
    with torch.device("meta"):  # sizes without numbers
        sizes = {kind: build_model(kind, preset=preset).num_parameters for kind in MODEL_KINDS}
    with capsys.disabled():
        print(f"\n{preset:20}", *(f"{MODEL_KINDS[kind].title} {size:,}" for kind, size in sizes.items()), sep="  ")  # noqa: T201
    assert all(abs(size / sizes["fusionvae"] - 1) < 0.1 for size in sizes.values())


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_ablations_have_the_same_parameters(aggregation):
    assert build_model(aggregation=aggregation).num_parameters == 671_950
    if not aggregation.startswith(("bayes", "pool")):
        assert build_model(aggregation=aggregation, posterior="xy").num_parameters == 671_950


def test_the_default_is_the_paper_s_model():
    assert build_model().config == FusionVAE.from_preset("fusion-mnist").config == PRESETS["fusion-mnist"].model


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "gan"}, "unknown kind of model 'gan'"),
        ({"preset": "fusion-moon"}, "unknown preset"),
        ({"kind": "cvae", "posterior": "y"}, "posterior 'y' does not belong to cvae"),
        ({"kind": "fcn", "aggregation": "mean-add"}, "aggregation 'mean-add' does not belong to fcn"),
    ],
)
def test_what_is_not_in_the_paper_is_refused(arguments, words):
    with pytest.raises(FusionVAEError, match=words):
        build_model(**arguments)


def test_a_class_refuses_another_kind_s_folder(tmp_path):
    build_model("cvae", preset="fusion-mnist-small").save_pretrained(tmp_path)
    with pytest.raises(FusionVAEError, match=r"FusionVAE builds fusionvae, not cvae; .*load_model"):
        FusionVAE.from_pretrained(tmp_path)
    assert load_model(tmp_path).config == preset_model("fusion-mnist-small", kind="cvae")


@pytest.mark.parametrize(
    ("kind", "choices"),
    [
        ("cvae-skip", {}),
        ("fcn", {}),
        ("fcn-skip", {}),
        ("fusionvae", {"posterior": "xy", "aggregation": "mean-all"}),
        ("fusionvae", {"aggregation": "bayes-add"}),
    ],
)
def test_every_kind_trains_from_the_command_and_is_described(kind, choices, data_file, quick_preset, tmp_path):
    options = ["--data", str(data_file), "--output", str(tmp_path / "run"), "--model", kind, "--preset", quick_preset]
    options += [text for name, value in choices.items() for text in (f"--{name}", value)]
    runner = CliRunner()
    trained = runner.invoke(main, ["train", *options, "--epochs", "1", "--device", "cpu"])
    assert trained.exit_code == 0, trained.output
    described = runner.invoke(main, ["info", "--json", str(tmp_path / "run")])
    values = json.loads(described.stdout)
    assert values["model"] == json.loads(json.dumps(preset_model(quick_preset, kind=kind, **choices).to_dict()))
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(log[-1]["kl_per_group"]) == sum(load_model(tmp_path / "run").config.latents_per_scale)
    assert MODEL_KINDS[kind].title in (tmp_path / "run" / "README.md").read_text()


def test_choices_of_another_kind_are_wrong_usage(data_file, tmp_path):
    options = ["--data", str(data_file), "--output", str(tmp_path / "run"), "--model", "cvae", "--posterior", "xy"]
    refused = CliRunner().invoke(main, ["train", *options])
    assert refused.exit_code == 2
    assert "leave them out with cvae" in refused.output
