"""Models as folders: bit for bit, JSON and safetensors alone, and one sentence for whatever is wrong."""

import json
import os
import pickle
import resource
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fusionvae_model import FusionVAE, FusionVAEError, atomic
from fusionvae_model.atomic import remove_folder, replace_folder, write_file
from fusionvae_model.checkpoint import first_non_finite, read_json, read_training_summary, write_json, write_tensors


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A model folder with non-trivial buffers."""
    tiny_model.train()(torch.rand(4, 1, 16, 16), torch.rand(4, 2, 1, 16, 16))
    tiny_model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_round_trip_is_exact(folder, tiny_model):
    loaded = FusionVAE.from_pretrained(folder)
    assert loaded.config == tiny_model.config
    assert not loaded.training
    expected, got = tiny_model.state_dict(), loaded.state_dict()
    assert expected.keys() == got.keys()
    assert any("running_var" in name for name in got)
    assert all(torch.equal(tensor, got[name]) and tensor.dtype == got[name].dtype for name, tensor in expected.items())
    target, inputs = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 1, 16, 16)
    tiny_model.eval().to(memory_format=torch.channels_last)  # the layout of what is loaded, which decides the rounding
    seeds = [torch.Generator().manual_seed(0) for _ in "ab"]
    assert torch.equal(
        tiny_model.elbo(target, inputs, generator=seeds[0]), loaded.elbo(target, inputs, generator=seeds[1])
    )


def test_saving_twice_gives_the_same_bytes(folder, tmp_path):
    FusionVAE.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)


def test_layout_in_memory_leaves_no_trace(folder, tiny_model, tmp_path):
    tiny_model.to(memory_format=torch.channels_last).save_pretrained(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)


def test_folder_holds_json_safetensors_and_a_card(folder, tiny_model):
    assert sorted(contents(folder)) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["format"], config["format_version"]) == ("fusionvae-model", 1)
    assert config["model"] == json.loads(json.dumps(tiny_model.config.to_dict()))
    assert f"{tiny_model.num_parameters:,}" in (folder / "README.md").read_text()


def test_training_is_remembered(folder, tiny_model):
    assert read_training_summary(folder) is None
    tiny_model.save_pretrained(folder, training={"steps": 3, "seed": 0})
    assert read_training_summary(folder) == {"steps": 3, "seed": 0}
    assert "| training: steps | 3 |" in (folder / "README.md").read_text()
    tiny_model.save_pretrained(folder)
    assert read_training_summary(folder) is None  # of what stood there before


def test_what_json_has_no_number_for_is_null(folder, tiny_model):
    tiny_model.save_pretrained(folder, training={"gap": float("nan"), "all": [1.5, float("inf")]})
    assert json.loads((folder / "training.json").read_text(), parse_constant=pytest.fail) == {
        "gap": None,
        "all": [1.5, None],
    }


def nested(values):
    values["itself"] = values
    return values


@pytest.mark.parametrize("training", [{"path": Path()}, {1: {(2,): 3}}, nested({})])
def test_what_is_no_json_is_refused_before_anything_is_written(training, tiny_model, tmp_path):
    with pytest.raises(FusionVAEError, match="training cannot be stored as JSON"):
        tiny_model.save_pretrained(tmp_path / "model", training=training)
    assert not (tmp_path / "model").exists()


def test_weights_that_could_not_be_loaded_are_not_saved(folder, tiny_model):
    before = contents(folder)
    with torch.no_grad():
        tiny_model.walk.h[0] = torch.nan
    with pytest.raises(FusionVAEError, match=r"walk\.h holds NaN or infinite values"):
        tiny_model.save_pretrained(folder)
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [("config.json", '{"mine": 1}'), ("config.json", "not JSON"), ("README.md", "# Mine"), ("training.json", "{}")],
)
def test_files_that_are_no_models_are_not_replaced(name, text, tiny_model, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(FusionVAEError, match=f"{name} is no part of a model of this package"):
        tiny_model.save_pretrained(tmp_path)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, text)]


def rewrite_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite_tensors(path, change):
    tensors = safetensors.torch.load(path.read_bytes())
    change(tensors)
    path.write_bytes(safetensors.torch.save(tensors))


class Trap:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self):
        return open, ("sprung", "w")


WRONGS = {
    "another format": (lambda f: rewrite_json(f / "config.json", format="gpt"), "describes format 'gpt'"),
    "a later version": (lambda f: rewrite_json(f / "config.json", format_version=2), "has format version 2"),
    "no version": (lambda f: rewrite_json(f / "config.json", format_version=None), "has format version None"),
    "no model": (lambda f: rewrite_json(f / "config.json", model=None), "no model section"),
    "an unknown setting": (lambda f: rewrite_json(f / "config.json", model={"depth": 3}), "unknown keys depth"),
    "an incomplete config": (lambda f: rewrite_json(f / "config.json", model={"channels": 1}), "incomplete"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "config cut": (lambda f: (f / "config.json").write_text('{"format'), "config.json is not readable JSON"),
    "config in binary": (lambda f: (f / "config.json").write_bytes(b"\xff\xfe"), "config.json is not readable JSON"),
    "config nested": (lambda f: (f / "config.json").write_text("[" * 200_000), "config.json is not readable JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[1]"), "config.json holds a list"),
    "weights empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "not a readable safetensors file"),
    "weights cut": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-1]),
        "not a readable safetensors file",
    ),
    "pickled weights": (
        lambda f: (f / "model.safetensors").write_bytes(pickle.dumps(Trap())),
        "not a readable safetensors file",
    ),
    "a tensor missing": (lambda f: rewrite_tensors(f / "model.safetensors", lambda t: t.pop("walk.h")), "walk.h"),
    "a tensor too many": (
        lambda f: rewrite_tensors(f / "model.safetensors", lambda t: t.update(extra=torch.ones(1))),
        "extra",
    ),
    "a tensor of another shape": (
        lambda f: rewrite_tensors(f / "model.safetensors", lambda t: t.update({"walk.h": torch.ones(1)})),
        "walk.h",
    ),
    "a NaN": (
        lambda f: rewrite_tensors(f / "model.safetensors", lambda t: t["walk.h"].view(-1)[3].fill_(torch.nan)),
        "NaN or infinite values in walk.h",
    ),
    "petabytes": (
        lambda f: rewrite_json(
            f / "config.json",
            model=json.loads((f / "config.json").read_text())["model"] | {"base_channels": 8_000_000},
        ),
        "do not fit their own config.json: it describes a model for which there is not enough memory",
    ),
    "an infinite variance": (
        lambda f: rewrite_tensors(
            f / "model.safetensors", lambda t: t["encoder.stages.0.0.branch.0.running_var"][0].fill_(torch.inf)
        ),
        "NaN or infinite values in encoder.stages.0.0.branch.0.running_var",
    ),
}


@pytest.mark.parametrize("wrong", WRONGS)
def test_whatever_is_wrong_is_one_sentence(wrong, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spoil, expected = WRONGS[wrong]
    spoil(folder)
    with pytest.raises(FusionVAEError) as caught:
        FusionVAE.from_pretrained(folder)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl", "optimizer.pt"])
def test_pickle_beside_the_weights_is_never_read(name, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (folder / name).write_bytes(pickle.dumps(Trap()))
    FusionVAE.from_pretrained(folder)
    assert not (tmp_path / "sprung").exists()
    (folder / "model.safetensors").unlink()
    with pytest.raises(FusionVAEError, match="missing"):
        FusionVAE.from_pretrained(folder)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("path", ["nowhere", "file.txt"])
def test_no_folder_is_one_sentence(path, tmp_path):
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(FusionVAEError, match="is not a folder with a model"):
        FusionVAE.from_pretrained(tmp_path / path)


def test_weights_in_the_box_are_found_by_name_wherever_one_stands(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert FusionVAE.from_pretrained("fusion-mnist").num_parameters == 671_950
    tiny_model.save_pretrained("fusion-mnist")  # one's own folder of that name comes first
    assert FusionVAE.from_pretrained("fusion-mnist").config == tiny_model.config
    for stranger in ("fusion-mnits", "weights/fusion-mnist", ".", "../weights"):
        with pytest.raises(FusionVAEError, match=r"a name in the box: fusion-mnist$|config\.json is missing"):
            FusionVAE.from_pretrained(stranger)


def test_folder_that_cannot_be_made(tiny_model, tmp_path):
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(FusionVAEError, match=r"cannot write .*file\.txt/.*: .*; choose a folder"):
        tiny_model.save_pretrained(tmp_path / "file.txt")
    assert (tmp_path / "file.txt").read_text() == "x"


def test_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_tensors(path, {"a": torch.ones(10)})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(FusionVAEError, match=r"cannot write .*weights\.safetensors: File too large"):
            write_tensors(path, {"a": torch.ones(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == {path.name: before}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_failing_call_leaves_the_old_file(call, tmp_path, monkeypatch):
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"a": 1})

    def fail(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(FusionVAEError, match="Input/output error"):
            write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


def test_bytes_are_on_disk_before_they_have_a_name(tmp_path, monkeypatch):
    happened = []
    synced, replaced = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (happened.append("fsync"), synced(descriptor)))
    monkeypatch.setattr(os, "replace", lambda *names: (happened.append("replace"), replaced(*names)))
    write_file(tmp_path / "a", b"1")
    assert happened == ["fsync", "replace", "fsync"]  # the file, its name, the folder that holds the name


@pytest.mark.parametrize("exists", [False, True])
def test_replaced_folder_is_the_new_one_alone(exists, tmp_path):
    write_file(tmp_path / "partial" / "new", b"1")
    if exists:
        write_file(tmp_path / "final" / "old", b"2")
        write_file(tmp_path / ".final.old" / "older", b"3")  # a killed process's
    replace_folder(tmp_path / "partial", tmp_path / "final")
    assert contents(tmp_path / "final") == {"new": b"1"}
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_folder_is_on_the_disk_before_its_name_is_and_its_name_before_anything_else(tmp_path, monkeypatch):
    final, standing = tmp_path / "final", []
    monkeypatch.setattr(atomic, "sync_folder", lambda folder: standing.append((folder, final.exists())))
    (tmp_path / "partial").mkdir()
    replace_folder(tmp_path / "partial", final)
    assert standing == [(tmp_path / "partial", False), (tmp_path, True)]


def test_folder_is_never_seen_half_removed(tmp_path, monkeypatch):
    write_file(tmp_path / "final" / "a", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda path, **_: None)  # as if killed
        remove_folder(tmp_path / "final")
    assert [path.name for path in tmp_path.iterdir()] == [".final.old"]
    remove_folder(tmp_path / "final")
    assert list(tmp_path.iterdir()) == []


def test_first_non_finite_is_named():
    good = {"a": torch.ones(2), "count": torch.tensor(3), "flag": torch.tensor(True)}
    assert first_non_finite(good) is None
    assert first_non_finite({}) is None
    assert first_non_finite(good | {"b": torch.tensor([1.0, -torch.inf]), "c": torch.tensor(torch.nan)}) == "b"
