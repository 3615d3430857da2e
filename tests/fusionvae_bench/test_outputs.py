"""Nothing that a command reads, and nothing of another kind, is ever lost to its output."""

import os
import shutil

import pytest
from click.testing import CliRunner
from stand_ins import MemoryData, Toy

from fusion_datasets.build import build_mnist
from fusionvae_bench import evaluate, read_result, write_result
from fusionvae_bench.cli import main
from fusionvae_bench.errors import ResultError
from fusionvae_bench.formats import FORMATS, REPORTS
from fusionvae_bench.outputs import check_output
from fusionvae_bench.results import RESULT
from fusionvae_model import FusionVAE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A result with the scores of each image, a model and a benchmark file."""
    place = tmp_path_factory.mktemp("results")
    data = build_mnist("stand-in", place / "data.h5", limit=4, progress=False)
    FusionVAE.from_preset("fusion-mnist-small").save_pretrained(place / "model", training={"epochs": 0})
    words = ["run", "--weights", place / "model", "--data", data, "--limit", 2, "--num-samples", 2, "--per-image"]
    assert call(*words, "-o", place / "r.json").exit_code == 0
    return place


@pytest.fixture
def place(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "results")


def call(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def contents(place):
    return {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "name",
    ["r.json", "r.per-image.csv", "data.h5", "model/config.json", "model/model.safetensors", "model/training.json"],
)
@pytest.mark.parametrize("form", [None, "md", "csv", "json"])
def test_a_report_replaces_nothing_else(place, name, form):
    before = contents(place)
    done = call("report", "--results", place, *(["--format", form] if form else []), "-o", place / name)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "another name" in done.stderr or "name a file ending in ." in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert contents(place) == before


@pytest.mark.parametrize("form", FORMATS)
def test_a_report_replaces_a_report(place, tmp_path, form):
    write_result(evaluate(Toy(), MemoryData(), 5, 5, name="ours"), place / "originals.json")
    hub = ["--format", form, "--dataset-id", "someone/digits"] if form == "hf-eval-results" else []
    for suffix in REPORTS[form].suffixes:
        output = tmp_path / f"report{suffix}"
        for _ in range(2):
            done = call("report", "--results", place, *hub, "-o", output)
            assert done.exit_code == 0, done.output
        assert output.read_text("utf-8").startswith(REPORTS[form].beginnings)
        output.write_text(f"my notes of {REPORTS[form].beginnings[0]}", "utf-8")
        assert call("report", "--results", place, *hub, "-o", output).exit_code == 1
    if hub:  # no result on originals
        (place / "originals.json").unlink()
        done = call("report", "--results", place, *hub)
        assert done.stdout.startswith(REPORTS[form].beginnings[1])


@pytest.mark.parametrize("words", [("-o", "report"), ("-o", "report.pdf"), ("-o", "report.tex", "--format", "html")])
def test_a_name_tells_what_a_report_is(place, tmp_path, words, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("report", "--results", place, *words)
    assert done.exit_code == 1
    assert "name a file ending in ." in done.stderr
    assert not (tmp_path / words[1]).exists()


@pytest.mark.parametrize("force", [(), ("--force",), ("--dry-run",)])
@pytest.mark.parametrize("name", ["data.h5", "notes.json", "model/config.json", "r.per-image.csv", "new", "new.h5"])
def test_a_result_replaces_nothing_else(place, name, force):
    (place / "notes.json").write_text('{"mine": "fusionvae-bench result"}')
    before = contents(place)
    words = ["run", "--weights", place / "model", "--data", place / "data.h5", "--limit", 1, "--num-samples", 2]
    done = call(*words, *force, "-o", place / name)
    assert done.exit_code == 1
    assert "another name" in done.stderr or "name a file ending in .json" in done.stderr
    assert contents(place) == before


def test_a_result_replaces_a_damaged_one(place):
    output = place / "r.json"
    words = ["run", "--weights", place / "model", "--data", place / "data.h5", "--limit", 1, "--num-samples", 2]
    output.write_bytes(output.read_bytes()[:400])
    assert "not JSON" in call(*words, "-o", output).stderr
    assert call(*words, "--force", "-o", output).exit_code == 0
    assert read_result(output).num_images == 1
    output.write_bytes(b"")
    check_output(output, RESULT)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in folders")
def test_what_is_no_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe.json", "folder.json"):
        with pytest.raises(ResultError, match="is no result, and nothing else is ever replaced"):
            check_output(tmp_path / name, RESULT)
