import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
from stand_ins import MemoryData, Toy

from fusionvae_bench import evaluate, find_results, read_result, write_result
from fusionvae_bench.errors import ResultError
from fusionvae_bench.per_image import write_per_image


@pytest.fixture(scope="module")
def result():
    return evaluate(Toy(), MemoryData(), 10, 10, name="toy", training={"epochs": 0.5, "steps": 3})


def test_a_result_round_trips(result, tmp_path):
    write_result(result, tmp_path / "deep" / "r.json")
    assert read_result(tmp_path / "deep" / "r.json") == result
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["r.json"]


def test_the_file_holds_every_key_of_the_contract_and_no_nan(result, tmp_path):
    write_result(result, tmp_path / "r.json")
    document = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert set(document["scores"]) == {"0", "1", "2", "3", "avg"}
    contract = {
        "nll_nats",
        "nll_bits_per_dim",
        "nll_standard_error",
        "ess",
        "pareto_k",
        "mse_min",
        "mse_one",
        "mse_mean",
    }
    assert contract <= set(document["scores"]["2"])
    assert document["scores"]["2"]["pareto_k"] is None  # ten samples have no tail to fit
    assert document["training"]["steps"] == 3
    assert "per_image" not in document


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda d: d.update(format="other"), "no result file"),
        (lambda d: d.update(format_version=2), "has version 2, expected 1"),
        (lambda d: d.pop("num_samples"), "lacks 'num_samples'"),
        (lambda d: d.update(num_samples="10"), "num_samples should be of type int, got '10'"),
        (lambda d: d.update(num_samples=True), "num_samples should be of type int"),
        (lambda d: d.update(num_inputs=[0, "1"]), r"num_inputs\[1\] should be of type int"),
        (lambda d: d["scores"].update({"1": 3}), r"scores\[1\] should be an object"),
        (lambda d: d["scores"]["1"].update(nll_nats="low"), "nll_nats should be of type float"),
        (lambda d: d["gains"][0].pop("mean"), "lacks 'mean'"),
        (lambda d: d["scores"]["1"].update(mse_min=float("nan")), "mse_min is nan"),
        (lambda d: d["scores"].pop("3"), "lacks the scores of 3 inputs"),
        (lambda d: d.update(num_inputs=[]), "names no numbers of inputs"),
        *(
            (lambda d, name=name: d.update({name: -5}), f"its {name} is -5, expected at least 1")
            for name in ("num_images", "num_samples", "num_dims")
        ),
        (lambda d: d.update(training={"seed": "abc"}), "its training's seed should be int, got 'abc'"),
        (lambda d: d.update(training={"epochs": "many"}), "its training's epochs should be float, got 'many'"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(result, tmp_path, change, expected):
    document = result.to_dict()
    change(document)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ResultError, match=expected) as caught:
        read_result(path)
    assert "r.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("{", "is not JSON"), ("[" * 200_000, "is not JSON"), ("[1]", "holds a list"), (None, "cannot be read")],
)
def test_what_is_no_json_object_is_refused(tmp_path, text, expected):
    if text is not None:
        (tmp_path / "r.json").write_text(text)
    with pytest.raises(ResultError, match=expected):
        read_result(tmp_path / "r.json")


def test_unknown_keys_are_passed_over(result, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({**result.to_dict(), "later": 1}))
    assert read_result(tmp_path / "r.json") == result


def test_results_are_found_among_other_files_once_each(result, tmp_path, capsys):
    write_result(result, tmp_path / "b" / "r.json")
    write_result(dataclasses.replace(result, seed=1), tmp_path / "a.json")
    shutil.copy(tmp_path / "a.json", tmp_path / "b" / "copy.json")
    (tmp_path / "z.json").symlink_to(tmp_path / "a.json")
    (tmp_path / "config.json").write_text('{"format": "fusionvae-model"}')
    (tmp_path / "b" / "broken.json").write_text("{")
    (tmp_path / "b" / "gone.json").symlink_to(tmp_path / "nowhere.json")
    (tmp_path / "b" / "folder.json").mkdir()
    (tmp_path / "b" / "short.json").write_bytes((tmp_path / "a.json").read_bytes()[:500])
    assert [path.name for path, _ in find_results(tmp_path)] == ["a.json", "r.json"]
    said = capsys.readouterr().err
    assert f"left out: {tmp_path / 'b' / 'short.json'} is not JSON" in said
    assert "broken" not in said
    assert said.count("a.json again") == 2
    assert find_results(tmp_path / "b")[1][1] == result
    with pytest.raises(ResultError, match="is not a folder"):
        find_results(tmp_path / "nowhere")


def test_a_result_of_another_version_is_not_passed_over(result, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({**result.to_dict(), "format_version": 9}))
    with pytest.raises(ResultError, match="has version 9"):
        find_results(tmp_path)


def test_per_image_scores_average_to_the_result(result, tmp_path):
    write_per_image(result, MemoryData(), tmp_path / "r.csv")
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 40
    nats = [float(row["nll_nats"]) for row in rows if row["num_inputs"] == "2"]
    assert np.mean(nats) == pytest.approx(result.score(2).nll_nats, rel=1e-12)
    assert rows[-1]["row"] == "9"
    assert rows[-1]["label"] == "9"
    assert rows[0]["pareto_k"] == ""


def test_a_full_disk_does_not_cost_the_earlier_result(result, tmp_path, full_disk):
    write_result(result, tmp_path / "r.json")
    full_disk()
    with pytest.raises(ResultError, match="No space left"):
        write_result(dataclasses.replace(result, seed=1), tmp_path / "r.json")
    assert read_result(tmp_path / "r.json") == result
