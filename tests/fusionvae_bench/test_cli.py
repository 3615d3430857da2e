import errno
import json
import re
import sys
from pathlib import Path
from unittest import mock

import click
import pytest
from click.testing import CliRunner

from fusion_datasets.cli import main as datasets
from fusion_datasets.locking import locked
from fusionvae_bench import read_result
from fusionvae_bench.cli import main
from fusionvae_model import FusionVAE


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data of stand-in digits and an untrained model."""
    folder = tmp_path_factory.mktemp("bench")
    arguments = ["build", "mnist", "--source", "stand-in", "--limit", "12", "--output", str(folder / "data.h5")]
    built = CliRunner().invoke(datasets, arguments)
    assert built.exit_code == 0, built.output
    FusionVAE.from_preset("fusion-mnist-small").save_pretrained(folder / "model", training={"epochs": 0, "seed": 1})
    lines = [
        {"step": s, "epoch": s / 10, "seconds": s, "elbo_nats": -500 / s, "beta": min(1, s / 9)} for s in range(1, 40)
    ]
    log = "\n".join(map(json.dumps, lines)) + '\n{"step": 40, "ep'  # cut short by a kill
    (folder / "model" / "log.jsonl").write_text(log)
    return folder


def call(*arguments: object) -> click.testing.Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def run(place: Path, output: Path, *more: object) -> click.testing.Result:
    base = ("run", "--weights", place / "model", "--data", place / "data.h5", "-o", output)
    return call(*base, "--limit", 6, "--num-samples", 7, *more)


def test_run_scores_and_says_so(place, tmp_path):
    done = run(place, tmp_path / "r.json", "--per-image")
    assert done.exit_code == 0, done.output
    result = read_result(tmp_path / "r.json")
    assert (result.num_images, result.num_samples, result.num_inputs) == (6, 7, (0, 1, 2, 3))
    assert result.is_stand_in
    assert result.model_name == "model"
    assert result.training == {"epochs": 0, "seed": 1}
    assert result.num_parameters == FusionVAE.from_preset("fusion-mnist-small").num_parameters
    assert result.entropy_floor_nats > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.json", "r.per-image.csv"]
    assert "Table 1 on stand-in images" in done.stdout
    assert "6/6 images" in done.stderr
    assert str(place) not in (tmp_path / "r.json").read_text()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: you tried to allocate 8 bytes")])
def test_too_little_memory_is_one_sentence(error, place, tmp_path, monkeypatch):
    monkeypatch.setattr("fusionvae_bench.cli.scoring.evaluate", mock.Mock(side_effect=error))
    done = run(place, tmp_path / "r.json")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("Error: there is not enough memory for this; take fewer --workers")


def test_a_reader_who_has_had_enough_is_no_failure(place, tmp_path, monkeypatch):
    monkeypatch.setattr("fusionvae_bench.cli.scoring.evaluate", mock.Mock(side_effect=BrokenPipeError(errno.EPIPE, "")))
    done = run(place, tmp_path / "r.json")
    assert done.exit_code == 1
    assert "Error" not in done.output


def test_a_second_call_reuses_the_first(place, tmp_path):
    run(place, tmp_path / "r.json")
    before = (tmp_path / "r.json").stat().st_mtime_ns
    done = run(place, tmp_path / "r.json", "--json")
    assert done.exit_code == 0
    assert "already" in done.stderr
    assert json.loads(done.stdout)["num_images"] == 6
    assert (tmp_path / "r.json").stat().st_mtime_ns == before


def test_other_settings_do_not_overwrite_without_force(place, tmp_path):
    run(place, tmp_path / "r.json")
    refused = run(place, tmp_path / "r.json", "--seed", 1)
    assert refused.exit_code == 1
    assert "--force" in refused.stderr
    assert read_result(tmp_path / "r.json").seed == 0
    assert run(place, tmp_path / "r.json", "--seed", 1, "--force").exit_code == 0
    assert read_result(tmp_path / "r.json").seed == 1


def test_bf16_is_nearly_the_same_and_says_so(place, tmp_path, monkeypatch):
    monkeypatch.setattr("fusionvae_model.device.slowdown_in_bfloat16", lambda: 11.0)
    exact, rounded = (
        run(place, tmp_path / f"{precision}.json", "--precision", precision) for precision in ("32", "bf16")
    )
    assert rounded.exit_code == 0, rounded.output
    a, b = (read_result(tmp_path / f"{precision}.json") for precision in ("32", "bf16"))
    assert (a.precision, b.precision) == ("32", "bf16")
    for k in range(4):
        assert a.score(k).nll_nats == pytest.approx(b.score(k).nll_nats, rel=0.01)
        assert a.score(k).mse_min == pytest.approx(b.score(k).mse_min, rel=0.05)
        assert a.score(k).nll_nats != b.score(k).nll_nats
    assert "bfloat16" in rounded.stdout
    assert "bfloat16" not in exact.output
    assert "11 times" in rounded.stderr
    again = run(place, tmp_path / "bf16.json", "--precision", "bf16")
    assert "11 times" not in again.stderr  # nothing is computed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--num-inputs", 0, 3), (0, 3)),
        (("--num-inputs", 2), (2,)),
        (("--num-inputs", 0, "--num-inputs", 1), (0, 1)),
        (("--num-inputs", 1, 2, "--seed", 4), (1, 2)),
    ],
)
def test_several_numbers_may_follow_one_flag(place, tmp_path, words, expected):
    done = run(place, tmp_path / "r.json", "--dry-run", "--json", *words)
    assert tuple(json.loads(done.stdout)["num_inputs"]) == expected


def test_evenly_spaced_images_stand_for_all(place, tmp_path):
    data = tmp_path / "data.h5"
    CliRunner().invoke(datasets, ["build", "mnist", "--source", "stand-in", "--limit", "80", "--output", str(data)])
    base = ("run", "--weights", "stand_ins:toy", "--data", data, "--per-image", "--num-samples")
    evenly = ("--limit", 40, "--evenly-spaced", "-o", tmp_path / "evenly.json")
    assert call(*base, 3, "-o", tmp_path / "all.json").exit_code == 0
    assert json.loads(call(*base, 9, *evenly, "--dry-run", "--json").stdout)["evenly_spaced"] is True
    assert call(*base, 9, *evenly).exit_code == 0
    assert read_result(tmp_path / "evenly.json").images == "40 evenly spaced images"
    starts = [line.split(",")[0] for line in (tmp_path / "evenly.per-image.csv").read_text().splitlines()[1::80]]
    assert starts == ["0", "40"]
    assert "holds this result already" in call(*base, 9, *evenly).stderr
    assert "holds a result of other" in call(*base, 9, "--limit", 40, "-o", tmp_path / "evenly.json").stderr
    table = call("project", tmp_path / "all.json", tmp_path / "evenly.json").stdout
    assert "S = 9 (32) would score it on 80 images" in table
    assert "40 evenly spaced images" in call("report", "--results", tmp_path, "--format", "md").stdout
    assert "of --limit N" in call(*base, 9, "--evenly-spaced", "-o", tmp_path / "new.json").stderr


def test_a_dry_run_writes_nothing(place, tmp_path):
    done = run(place, tmp_path / "r.json", "--dry-run")
    assert done.exit_code == 0
    assert "images: 6" in done.stdout
    assert "workers: 1" in done.stdout
    assert re.search(r"^minutes: \d+\.\d$", done.stdout, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("run",),
        ("run", "--num-samples", "0"),
        ("report", "--format", "pdf"),
        ("report", "--data", "x.h5"),
        ("score",),
        ("report", "--format", "hf-eval-results"),
    ],
)
def test_wrong_usage_exits_with_2(words):
    assert call(*words).exit_code == 2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"--weights": "nowhere"}, "nowhere"),
        ({"--weights": "no_such_module:make"}, "no_such_module"),
        ({"--weights": "trivial:guess"}, "trivial:nearest"),
        ({"--weights": "trivial:mean", "--metrics": "nll"}, "no likelihood"),
        ({"--data": "nothing.h5"}, "nothing.h5"),
        ({"--split": "train"}, "frozen inputs"),
        ({"--num-inputs": 9}, "stores 3 inputs"),
        ({"--device": "cuda"}, "no CUDA"),
    ],
)
def test_what_fails_is_one_sentence(place, tmp_path, change, expected):
    import torch

    if "--device" in change and torch.cuda.is_available():
        pytest.skip("has a CUDA device")
    options = {"--weights": place / "model", "--data": place / "data.h5", "-o": tmp_path / "r.json", **change}
    done = call("run", *(word for pair in options.items() for word in pair))
    assert done.exit_code == 1
    assert expected in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", ["", "."])
def test_a_result_needs_a_name(place, tmp_path, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    done = run(place, output)
    assert isinstance(done.exception, SystemExit)
    assert done.exit_code == 2 or "name a file ending in .json" in done.stderr


def test_scores_of_each_image_go_with_the_result_that_they_were_of(place, tmp_path):
    output, beside = tmp_path / "r.json", tmp_path / "r.per-image.csv"
    run(place, output, "--per-image")
    before = beside.read_text()
    assert run(place, output, "--seed", 1, "--force").exit_code == 0
    assert not beside.exists()
    beside.write_text(before)
    done = run(place, output, "--seed", 1, "--per-image")
    assert done.exit_code == 1
    assert "holds the scores of another result than r.json" in done.stderr
    assert run(place, output, "--seed", 1, "--per-image", "--force").exit_code == 0


@pytest.mark.parametrize("more", [(), ("--force",)])
def test_two_calls_on_one_output_do_not_meet(place, tmp_path, more):
    partial = tmp_path / "r.json.partial"
    partial.mkdir()
    with locked(partial):
        (partial / "fingerprint").write_bytes(b"\xff\xfe\x00")
        done = run(place, tmp_path / "r.json", *more)
    assert done.exit_code == 1
    assert "is being worked on by another process" in done.stderr
    assert (partial / "fingerprint").is_file()
    assert "holds an unfinished evaluation of other weights" in run(place, tmp_path / "r.json").stderr
    assert run(place, tmp_path / "r.json", "--force").exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


def test_a_third_partys_factory_is_scored(place, tmp_path):
    arguments = ("run", "--weights", "stand_ins:toy", "--data", place / "data.h5", "--limit", 3, "--num-samples", 4)
    done = call(*arguments, "-o", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    assert read_result(tmp_path / "r.json").model_name == "stand_ins:toy"


def test_the_readmes_own_model_is_scored_from_the_folder_that_holds_it(place, tmp_path, monkeypatch):
    """Word for word, but for the data; an installed command does not have the working folder among its paths."""
    readme = (Path(__file__).parents[2] / "packages" / "fusion-bench" / "README.md").read_text("utf-8")
    (module,) = re.findall(r"<!-- tested -->\n```python\n(class VisibleMerge.*?)```", readme, re.DOTALL)
    (words,) = re.findall(r"^fusion-bench (run --weights my_module.*)$", readme, re.MULTILINE)
    (tmp_path / "my_module.py").write_text(module, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    done = call(*words.replace("fusion-mnist.h5", str(place / "data.h5")).split(), "--limit", 3)
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    assert done.exit_code == 0, done.output
    assert read_result("results/merge.json").model_name == "my_module:VisibleMerge"


def test_report_without_results_prints_dashes(tmp_path):
    done = call("report", "--results", tmp_path)
    assert done.exit_code == 0
    assert "| FusionVAE | paper | **15.93** |" in done.stdout
    assert "no result files" in done.stderr


def test_report_of_a_broken_result_is_one_sentence(tmp_path):
    (tmp_path / "r.json").write_text('{"format": "fusionvae-bench result", "format_version": 1}')
    done = call("report", "--results", tmp_path)
    assert done.exit_code == 1
    assert "r.json is damaged" in done.stderr
    assert done.stdout == ""


def test_the_page_stands_alone(place, tmp_path):
    run(place, tmp_path / "results" / "r.json")
    page = tmp_path / "report" / "index.html"
    words = ("--weights", place / "model", "--data", place / "data.h5")
    done = call("report", "--results", tmp_path / "results", "-o", page, *words)
    assert done.exit_code == 0, done.output
    text = page.read_text()
    links = re.findall(r"(?:src|href)=[\"']([^\"'#]{1,30})", text)
    assert all(link.startswith("data:image/png;base64") for link in links)
    assert "<script" not in text
    assert "@import" not in text
    for phrase in (
        "Stand-in images.",
        "What each further input brings",
        "Learning curves",
        "Side by side",
        "Does it know when it errs?",
        "Pareto",
        "Data digest",
    ):
        assert phrase in text
    hypotheses = re.findall(r"alt=\"hypothesis", text)
    assert len(hypotheses) == 3 * 4 * 5
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_a_models_name_may_hold_dollars(place, tmp_path):
    run(place, tmp_path / "r.json")
    document = json.loads((tmp_path / "r.json").read_text())
    (tmp_path / "r.json").write_text(json.dumps(document | {"model_name": r"a$\bad$b", "model_kind": "own"}))
    done = call("report", "--results", tmp_path, "--format", "html")
    assert done.exit_code == 0, done.output
    assert r"a$\bad$b" in done.stdout


def test_the_page_without_results_is_the_papers_table(tmp_path):
    done = call("report", "--results", tmp_path, "--format", "html")
    assert done.exit_code == 0, done.output
    assert "No results yet" in done.stdout
    assert "15.93" in done.stdout


def test_a_score_below_the_floor_is_shouted(place, tmp_path, monkeypatch):
    import stand_ins

    original = stand_ins.Toy.log_importance_weights
    monkeypatch.setattr(
        stand_ins.Toy, "log_importance_weights", lambda *args, **kwargs: original(*args, **kwargs) + 1e4
    )
    words = ("--weights", "stand_ins:toy", "--data", place / "data.h5", "--limit", 2, "--num-samples", 3)
    done = call("run", *words, "-o", tmp_path / "r.json")
    assert "WARNING" in done.stderr
    assert "bug" in done.stderr
    assert "Something is wrong" in call("report", "--results", tmp_path, "--format", "html").stdout
    assert "Warning" in call("report", "--results", tmp_path).stdout
