import csv
import io
import json
import re
import shutil
import subprocess

import pytest
from click.testing import CliRunner
from stand_ins import MemoryData, Toy

from fusionvae_bench import evaluate, write_result
from fusionvae_bench.cli import main
from fusionvae_bench.paper import TABLES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("results")
    write_result(evaluate(Toy(), MemoryData(), 5, 5, name="ours"), place / "r.json")
    return place


def report(folder, *words) -> str:
    done = CliRunner().invoke(main, ["report", "--results", str(folder), *words])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_csv_and_json_hold_the_numbers_of_the_tables(folder):
    rows = list(csv.DictReader(io.StringIO(report(folder, "--format", "csv"))))
    document = json.loads(report(folder, "--format", "json"))
    assert len(document["numbers"]) == len(rows)
    chosen = {
        row["whose"]: float(row["value"])
        for row in rows
        if (row["table"], row["model"], row["num_inputs"]) == ("1", "FusionVAE", "2")
        and row["metric"].startswith("MSE")
    }
    (result,) = document["results"]
    assert chosen == {"paper": 0.74, "here": pytest.approx(100 * result["scores"]["2"]["mse_min"])}
    printed = {float(row["value"]) for row in rows if row["table"] == "5" and row["whose"] == "paper"}
    assert {v for values in TABLES[5].nll.values() for v in values} <= printed
    assert any(row["table"] == "6" and row["value"] == "800" for row in rows)


def test_one_table_can_be_asked_for(folder):
    rows = list(csv.DictReader(io.StringIO(report(folder, "--format", "csv", "--table", "3", "--table", "9"))))
    assert {row["table"] for row in rows} == {"3", "9"}


def test_the_hub_gets_averages_on_originals_alone(folder, tmp_path):
    words = ("--format", "hf-eval-results", "--dataset-id", "someone/fusion-mnist")
    text = report(folder, *words)
    assert re.findall(r"^- dataset:$", text, re.MULTILINE) == ["- dataset:"] * 2
    assert '    id: "someone/fusion-mnist"\n    task_id: "fusion-mnist-nll_bits_per_dim"\n  value: ' in text
    write_result(evaluate(Toy(), MemoryData(is_stand_in=True), 5, 5), tmp_path / "r.json")
    assert report(tmp_path, *words) == "[]\n"


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX")
def test_the_document_compiles(folder, tmp_path):
    (tmp_path / "t.tex").write_text(report(folder, "--format", "latex"), "utf-8")
    done = subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_document_is_balanced(folder):
    text = report(folder, "--format", "latex")
    begun, ended = re.findall(r"\\begin\{(\w+)\}", text), re.findall(r"\\end\{(\w+)\}", text)
    assert sorted(begun) == sorted(ended)
    assert begun[0] == ended[-1] == "document"
    assert begun.count("tabular") == 17
