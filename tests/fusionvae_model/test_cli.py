"""The command: what it prints where, how it ends, and what it leaves behind."""

import dataclasses
import io
import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from fusionvae_model import (
    PRESETS,
    FusionVAE,
    FusionVAEError,
    ModelConfig,
    TrainConfig,
    __version__,
    build_model,
    load_model,
    progress,
    read_inputs,
    sheets,
)
from fusionvae_model.cli import main
from fusionvae_model.device import device_name, resolve_device
from fusionvae_model.overrides import override
from fusionvae_model.processes import Processes
from fusionvae_model.progress import Progress


def call(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def failure(*words):
    """What a stated failure says: one sentence on stderr, nothing on stdout, exit code 1."""
    done = call(*words)
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit)
    assert done.stdout == ""
    (sentence,) = done.stderr.strip().splitlines()
    assert sentence.startswith("Error: ")
    return sentence


def wrong_usage(*words):
    done = call(*words)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    return done.stderr


@pytest.fixture
def model_folder(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / f"{level}.png" for level in (80, 160)]
    for path, level in zip(paths, (80, 160), strict=True):
        Image.new("RGB", (40, 30), (level,) * 3).save(path)
    return paths


def test_version():
    assert call("--version").stdout.strip() == f"fusionvae, version {__version__}"


def test_train_twice(data_file, quick_preset, tmp_path):
    words = ["train", "--data", data_file, "--output", tmp_path / "run", "--preset", quick_preset, "--epochs", 1]
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"{tmp_path / 'run'}: 4 steps, 1.0 epochs, ")
    assert "training: 4/4 steps" in done.stderr
    assert "batch statistics: 12/12 batches" in done.stderr
    assert "\r" not in done.stderr
    FusionVAE.from_pretrained(tmp_path / "run")
    again = call(*words, "--resume")
    assert again.exit_code == 0
    assert again.stdout == done.stdout
    assert again.stderr == f"the run in {tmp_path / 'run'} is done; nothing is left to compute\n"
    assert "already holds a training run" in failure(*words)
    assert "train.seed: 0 there, 3 asked for" in failure(*words, "--resume", "--seed", 3)


def test_other_processes_keep_silent(data_file, quick_preset, run_copy, monkeypatch):
    from fusionvae_model import training

    monkeypatch.setattr(training, "train", lambda *_, **__: {"steps": 1, "epochs": 1.0, "seconds": 1.0})
    words = ["train", "--data", data_file, "--output", run_copy, "--preset", quick_preset]
    assert call(*words).stdout
    monkeypatch.setenv("RANK", "1")
    assert call(*words).output == ""


def test_train_dry_run_writes_nothing(data_file, finished_run, quick_preset, tmp_path, monkeypatch):
    from fusionvae_model.trainer import Trainer

    monkeypatch.setattr(Trainer, "measure_step_seconds", lambda *_, **__: 30.0)
    monkeypatch.setattr(Trainer, "measure_pass_seconds", lambda _: 3.0)  # of which there are twenty
    words = ["train", "--data", data_file, "--output", tmp_path / "run", "--preset", quick_preset, "--dry-run"]
    plan = json.loads(call(*words).stdout)
    assert (plan["total_steps"], plan["steps_done"], plan["steps_left"], plan["minutes_left"]) == (8, 0, 8, 5.0)
    assert plan["peak_memory_mib"] > 100
    assert json.loads(call(*words, "--minutes", 4).stdout)["total_steps"] == 6
    assert plan["initial_weights"] is None
    from_two = json.loads(call(*words, "--init", finished_run, "--init", finished_run).stdout)
    assert from_two["initial_weights"].count("sha256:") == 2
    assert "kind is given twice, as cvae and by the setting kind=cvae-skip" in failure(
        *words, "--model", "cvae", "--set", "kind=cvae-skip"
    )
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("fusionvae_model.processes.joined_processes", lambda d: nullcontext((Processes(1, 2), d)))
    monkeypatch.setattr(Processes, "same", lambda *_: True)
    assert call(*words).stdout == ""  # the first process says it
    assert "a batch of 9 cannot be shared equally by 2 processes" in failure(*words, "--batch-size", 9)
    assert not (tmp_path / "run").exists()


def test_train_says_where_bfloat16_is_imitated(data_file, quick_preset, tmp_path, monkeypatch):
    from fusionvae_model.trainer import Trainer

    monkeypatch.setattr(Trainer, "measure_step_seconds", lambda *_, **__: 1.0)
    monkeypatch.setattr(Trainer, "measure_pass_seconds", lambda _: 0.0)
    monkeypatch.setattr("fusionvae_model.device.slowdown_in_bfloat16", lambda: 11.0)
    words = ["train", "--data", data_file, "--output", tmp_path / "run", "--preset", quick_preset, "--dry-run"]
    assert "11 times" not in call(*words).stderr
    told = call(*words, "--precision", "bf16")
    assert "a convolution takes 11 times as long" in told.stderr
    assert json.loads(told.stdout)["precision"] == "bf16"


@pytest.mark.parametrize("name", PRESETS)
def test_every_setting_is_listed_with_its_meaning(name):
    listed = call("train", "--list-settings", name)
    assert listed.exit_code == 0, listed.output
    lines = listed.stdout.splitlines()
    names = [field.name for kind in (ModelConfig, TrainConfig) for field in dataclasses.fields(kind)]
    names.remove("kind")
    assert [line.partition("=")[0] for line in lines if not line.startswith(" ")] == names
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        assert line.startswith("    ") or following.startswith("    "), line
    assert "`" not in listed.stdout.replace("`fusion", "")
    settings = [line for line in lines if not line.startswith(" ") and not line.endswith("=")]
    assert override(PRESETS[name], settings) == PRESETS[name]


def test_train_on_what_does_not_fit(data_file, quick_preset, tmp_path):
    words = ["train", "--preset", quick_preset, "--output", tmp_path / "run"]
    (tmp_path / "text.h5").write_text("Dear")
    assert "nowhere.h5" in failure(*words, "--data", tmp_path / "nowhere.h5")
    assert "text.h5" in failure(*words, "--data", tmp_path / "text.h5")
    assert "only 48 training images; choose less" in failure(*words, "--data", data_file, "--batch-size", 49)
    assert not (tmp_path / "run").exists()


def test_train_wrong_usage(data_file, tmp_path):
    words = ["train", "--data", data_file, "--output", tmp_path / "run"]
    assert "choose --epochs or --minutes, not both" in wrong_usage(*words, "--epochs", 1, "--minutes", 1)
    for minutes in ("nan", "inf", 0, -1):
        wrong_usage(*words, "--minutes", minutes)
    wrong_usage(*words, "--epochs", 0)
    wrong_usage(*words, "--batch-size", 0)
    wrong_usage(*words, "--seed", -1)
    wrong_usage(*words, "--seed", 2**64)
    wrong_usage(*words, "--preset", "fusion-mnits")
    wrong_usage("train", "--output", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_cuda_that_is_not_there(data_file, quick_preset, tmp_path, model_folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ["train", "--data", data_file, "--output", tmp_path / "run", "--preset", quick_preset, "--device", "cuda"]
    assert "sees no CUDA device; use --device cpu" in failure(*words)
    assert not (tmp_path / "run").exists()
    words = ["fuse", "--weights", model_folder, "-o", tmp_path / "sheet.png", "--device", "cuda"]
    assert "sees no CUDA device" in failure(*words)
    assert resolve_device("auto").type == "cpu"
    assert "CPU" in device_name(resolve_device("cpu"))
    with pytest.raises(ValueError, match="got device 'tpu'; expected auto, cpu or cuda"):
        resolve_device("tpu")


def test_info(finished_run):
    values = json.loads(call("info", finished_run, "--json").stdout)
    assert values["parameters"] == FusionVAE.from_pretrained(finished_run).num_parameters
    assert values["model"]["groups_per_scale"] == [1, 1]
    assert values["training"]["steps"] == 8
    printed = call("info", finished_run).stdout
    assert values["extinct_channels"] == 0 < values["hidden_channels"]
    assert printed.startswith(f"fusionvae with {values['parameters']:,} parameters\n\nmodel\n")
    assert "  groups per scale: 1, 1\n" in printed
    assert "  train config, batch size: 12\n" in printed
    assert "{" not in printed


def test_info_counts_the_channels_that_weight_decay_has_put_out(tiny_model, tmp_path):
    norm = tiny_model.walk.groups[1].cells[0].contract[1]
    for parameter in norm.parameters():
        parameter.data[:2] = 1e-25
    tiny_model.save_pretrained(tmp_path)
    values = json.loads(call("info", tmp_path, "--json").stdout)
    assert values["extinct_channels"] == 2
    assert f"has put out 2 of the {values['hidden_channels']} hidden channels" in call("info", tmp_path).stdout


def test_info_of_an_untrained_model(model_folder):
    assert json.loads(call("info", model_folder, "--json").stdout)["training"] is None
    assert "training" not in call("info", model_folder).stdout


def test_info_of_what_is_no_model(tmp_path, model_folder):
    assert "is not a folder with a model" in failure("info", tmp_path / "nowhere")
    assert "config.json is missing" in failure("info", tmp_path)
    (model_folder / "training.json").write_text("{")
    assert "training.json is not readable JSON" in failure("info", model_folder)


def test_fuse_same_seed_same_bytes(model_folder, pictures, tmp_path):
    words = ["fuse", *pictures, "--weights", model_folder, "--samples", 3]
    sheets = [tmp_path / "new" / name for name in ("a.png", "b.png", "c.png")]
    for sheet, seed in zip(sheets, (4, 4, 5), strict=True):
        done = call(*words, "-o", sheet, "--seed", seed)
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith(f"{sheet}: 2 inputs, 3 hypotheses, mean standard deviation 0.")
        assert done.stderr == ""
    first, second, third = (sheet.read_bytes() for sheet in sheets)
    assert first == second != third
    with Image.open(sheets[0]) as sheet:
        assert sheet.format == "PNG"


def test_a_sheet_takes_the_place_of_no_picture_and_of_no_model(model_folder, pictures, tmp_path):
    words = ["fuse", *pictures, "--weights", model_folder, "-o"]
    link = tmp_path / "link.png"
    link.symlink_to(pictures[1])
    for sheet in (pictures[0], link):
        content = sheet.read_bytes()
        assert "for both a picture and the sheet; name another file" in failure(*words, sheet)
        assert sheet.read_bytes() == content
    weights = model_folder / "model.safetensors"
    content = weights.read_bytes()
    assert "for the sheet, which is a PNG; name a file ending in .png" in failure(*words, weights)
    assert weights.read_bytes() == content


def test_fuse_also_writes_the_parts(model_folder, pictures, tmp_path):
    words = ["fuse", *pictures, "--weights", model_folder, "-o", tmp_path / "s.png", "--parts", tmp_path / "parts"]
    assert call(*words, "--samples", 3).exit_code == 0
    assert call(*words, "--samples", 2).exit_code == 0
    found = {path.stem: np.asarray(Image.open(path)) for path in (tmp_path / "parts").iterdir()}
    assert sorted(found) == ["hypothesis-01", "hypothesis-02", "mean", "uncertainty"]
    model = load_model(model_folder)
    fusion = sheets.fuse(model, read_inputs([str(path) for path in pictures], model.config), num_samples=2)
    assert np.array_equal(found["mean"], (fusion.mean[0] * 255).round())
    assert np.array_equal(found["uncertainty"], (fusion.standard_deviation[0] * 510).round())
    assert np.array_equal(found["hypothesis-02"], (fusion.hypotheses[1, 0] * 255).round())
    (tmp_path / "parts" / "notes.txt").write_text("mine")
    before = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert "holds notes.txt, which is none of the parts" in failure(*words, "--samples", 3)
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == before
    assert "which is a file; name a folder" in failure(*words[:-1], tmp_path / "s.png")
    assert f"holds {pictures[0].name}, which is to be fused" in failure(*words[:-1], pictures[0].parent)


def test_the_sheet_may_lie_beside_the_parts(model_folder, pictures, tmp_path):
    for _ in range(2):
        sheet = tmp_path / "fused" / "sheet.png"
        done = call("fuse", *pictures, "--weights", model_folder, "-o", sheet, "--parts", sheet.parent, "--samples", 2)
        assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "fused").iterdir())) == 5


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_fuse_fits(fit, model_folder, pictures, tmp_path):
    done = call("fuse", *pictures, "--weights", model_folder, "-o", tmp_path / "s.png", "--fit", fit, "--samples", 2)
    assert done.exit_code == 0, done.output


def test_what_draws_nothing_tells_no_uncertainty(pictures, tmp_path):
    build_model("fcn", preset="fusion-mnist-small").save_pretrained(tmp_path / "fcn")
    words = ["fuse", *pictures, "--weights", tmp_path / "fcn", "-o", tmp_path / "s.png"]
    done = call(*words, "--parts", tmp_path / "parts")
    assert done.exit_code == 0, done.output
    assert "2 inputs, one image: fcn draws no others, and does not say how sure it is" in done.stdout
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["hypothesis-01.png", "mean.png"]
    assert "draws nothing that a temperature could change" in failure(*words, "--temperature", 0.3)


@pytest.mark.parametrize("kind", ["fcn", "cvae", "fusionvae"])
@pytest.mark.parametrize("temperature", [-1, float("nan"), float("inf")])
def test_no_model_takes_an_impossible_temperature(kind, temperature):
    model = build_model(kind, preset="fusion-mnist-small")
    with pytest.raises(FusionVAEError, match="expected a finite number, 0 or more"):
        model.sample(batch_size=1, temperature=temperature)


def test_fuse_nothing_imagines(model_folder, tmp_path):
    done = call("fuse", "--weights", model_folder, "-o", tmp_path / "s.png", "--samples", 2)
    assert done.exit_code == 0, done.output
    assert ": 0 inputs, 2 hypotheses" in done.stdout


def test_fuse_what_does_not_fit(model_folder, pictures, tmp_path):
    words = ["fuse", "--weights", model_folder, "-o", tmp_path / "out" / "s.png"]
    (tmp_path / "text.png").write_text("Dear")
    assert "gone.png does not exist" in failure(*words, *pictures, tmp_path / "gone.png")
    assert "text.png is not a readable picture" in failure(*words, tmp_path / "text.png")
    assert "is not a folder with a model" in failure("fuse", "--weights", tmp_path / "w", "-o", tmp_path / "out/s.png")
    for option in (["--samples", 1], ["--temperature", "nan"], ["--temperature", -1], ["--fit", "zoom"]):
        wrong_usage(*words, *option)
    assert not (tmp_path / "out").exists()
    assert "cannot write" in failure("fuse", "--weights", model_folder, "-o", tmp_path / "text.png" / "s.png")
    for output in (".", tmp_path, os.devnull):
        assert "name a file ending in .png" in failure("fuse", "--weights", model_folder, "-o", output)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to(os.devnull)
    for name in ("folder.png", "device.png"):
        assert "which is no plain file" in failure("fuse", "--weights", model_folder, "-o", tmp_path / name)
    assert Path(os.devnull).is_char_device()
    assert "File name too long" in failure("info", "a" * 300)


def test_too_little_memory_is_one_sentence(monkeypatch):
    for error in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: you tried")):
        monkeypatch.setattr("fusionvae_model.cli.load_model", mock.Mock(side_effect=error))
        monkeypatch.setattr("fusionvae_model.cli.model_folder", mock.Mock(side_effect=error))
        assert "there is not enough memory for this" in failure("info", "x")


def test_failure_is_one_line_whatever_it_quotes(monkeypatch):
    from fusionvae_model import FusionVAEError

    def fail(_):
        raise FusionVAEError("the file is damaged:\n  at byte 3\n")

    monkeypatch.setattr("fusionvae_model.cli.load_model", fail)
    assert failure("info", "x") == "Error: the file is damaged: at byte 3"


def test_command_as_a_module(python, tmp_path):
    done = python("import runpy; runpy.run_module('fusionvae_model', run_name='__main__')")
    assert done.returncode == 2
    assert "Usage: fusionvae" in done.stdout + done.stderr


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_progress_elsewhere_is_a_line_now_and_then(clock, capsys):
    with Progress("training", 130, unit="steps", done=30) as bar:
        for step in range(100):
            clock[0] += 0.25
            bar.advance(f"bound −{step} nats" if step % 2 else "")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "training: 70/130 steps, 4/s, 00:15 left, bound −39 nats",
        "training: 110/130 steps, 4/s, 00:05 left, bound −79 nats",
        "training: 130/130 steps, 4/s, 00:00 left, bound −99 nats",
    ]


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("training", 2, unit="steps") as bar:
        bar.advance("bound −1.0 nats")
        bar.advance()
    assert "training:" in terminal.getvalue()
    assert "\r" in terminal.getvalue()
    assert "\n" not in terminal.getvalue().strip()
