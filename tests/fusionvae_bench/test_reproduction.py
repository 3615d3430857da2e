import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from stand_ins import Config, MemoryData, Toy

from fusion_datasets.cli import main as datasets
from fusionvae_bench import cost, evaluate
from fusionvae_bench.cli import main
from fusionvae_bench.cost import ModelCost, estimate, measure
from fusionvae_bench.errors import BenchError
from fusionvae_bench.paper import TABLES
from fusionvae_bench.reproduction import Reproduction, Step, run_steps
from fusionvae_bench.rows import ROWS, row_title
from fusionvae_model import PRESETS, FusionVAE
from fusionvae_model.cli import main as model

COMMANDS = {"fusion-datasets": datasets, "fusionvae": model, "fusion-bench": main}


def test_rows_are_the_papers_in_its_order():
    for number, rows in ROWS.items():
        assert [row.title for row in rows] == list(TABLES[number].mse_min)
        assert len({row.slug for row in rows}) == len(rows)


def scored(benchmark="fusion-celeba", **config):
    toy = Toy()
    toy.config = Config(nll_size=4, **config)
    return evaluate(toy, MemoryData(benchmark=benchmark), 2, 2)


@pytest.mark.parametrize(
    ("config", "titles"),
    [
        ({"kind": "fusionvae"}, {2: "FusionVAE", 4: "q(y)", 5: "MaxAggAdd"}),
        (
            {"kind": "fusionvae", "posterior": "y", "aggregation": "max-add"},
            {2: "FusionVAE", 4: "q(y)", 5: "MaxAggAdd"},
        ),
        ({"kind": "fusionvae", "posterior": "xy"}, {4: "q(x,y)"}),
        ({"kind": "fusionvae", "aggregation": "bayes-all"}, {5: "BayAggAll"}),
        ({"kind": "fusionvae", "aggregation": "pool-add"}, {2: "Toy"}),
        ({"kind": "fusionvae", "aggregation": "mean-add", "posterior": "xy"}, {2: "Toy"}),
        ({"kind": "cvae-skip", "posterior": "xy", "aggregation": "max"}, {2: "CVAE+S"}),
        ({"kind": "visible-merge"}, {2: "visible merge"}),
        ({"kind": "transformer"}, {2: "Toy"}),
    ],
)
def test_a_result_finds_its_rows(config, titles):
    result = scored(**config)
    assert {number: title for number in ROWS if (title := row_title(result, number))} == titles


@pytest.mark.parametrize(
    ("config", "title"),
    [({"posterior": "xy"}, "FusionVAE q(x,y)"), ({"aggregation": "bayes-add"}, "FusionVAE BayAggAdd")],
)
def test_an_ablation_on_another_benchmark_is_a_row_below_the_papers(config, title):
    """The paper has ablations of FusionCelebA alone; no result is left out of the tables for that."""
    result = scored(kind="fusionvae", benchmark="fusion-mnist", **config)
    assert {number: name for number in ROWS if (name := row_title(result, number))} == {1: title}


def plan(tmp_path: Path, **changes) -> Reproduction:
    return Reproduction(**{"number": 1, "profile": "smoke", "output": tmp_path, **changes})


def test_every_command_of_a_plan_exists(tmp_path):
    """With --help added, a command line is still refused if it names an option that is not there."""
    for changes in (
        {},
        {"profile": "quick", "data_root": tmp_path, "workers": 2},
        {"profile": "full", "data_root": tmp_path},
        {"number": 3, "models": tmp_path},
    ):
        for step in plan(tmp_path, **changes).steps():
            done = CliRunner().invoke(COMMANDS[step.program], [*step.words, "--help"])
            assert done.exit_code == 0, f"{step.command}\n{done.output}"


def test_quick_minutes_bound_training_and_the_images_scored(tmp_path):
    quick = plan(tmp_path, profile="quick", data_root=tmp_path, minutes_per_row=10)
    (training, *_) = [step for step in quick.steps() if step.purpose == "train FusionVAE"]
    assert "--minutes 7 " in training.command + " "
    for minutes, trained in ((1e-4, "7e-05"), (0.0005, "0.00035"), (25, "17.5"), (1 / 3, "0.233333")):
        assert f"--minutes {trained} " in f"{plan(tmp_path, minutes_per_row=minutes).steps()[1].command} "
    assert "--preset fusion-mnist-plus " in training.command
    assert quick.num_images == 120


@pytest.mark.parametrize(
    ("profile", "presets"),
    [
        ("smoke", ["fusion-mnist-small", "fusion-celeba-small", "fusion-tless-small"]),
        ("quick", ["fusion-mnist-plus", "fusion-celeba-small", "fusion-tless-small"]),
        ("full", ["fusion-mnist", "fusion-celeba", "fusion-tless"]),
    ],
)
def test_presets_of_a_profile(profile, presets, tmp_path):
    roots = {} if profile == "smoke" else {"data_root": tmp_path}
    plans = [plan(tmp_path, number=number, profile=profile, **roots) for number in (1, 2, 3)]
    assert [one.preset_name for one in plans] == presets
    assert all(one.preset for one in plans)


def test_seeds_have_folders_of_their_own(tmp_path):
    trained = [step for step in plan(tmp_path, seeds=3).steps() if step.program == "fusionvae"]
    assert len(trained) == 15
    assert len({step.words[step.words.index("--output") + 1] for step in trained}) == 15
    assert {step.words[step.words.index("--seed") + 1] for step in trained} == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("words", "status", "expected"),
    [
        (["--profile", "quick"], 1, "--data-root"),
        (["--profile", "full", "--data-root", ".", "--minutes-per-row", "3"], 1, "leave out --minutes-per-row"),
        *((["--profile", "smoke", "--minutes-per-row", m], 1, f"got {float(m)}") for m in ("nan", "inf", "1e300")),
        (["--profile", "smoke", "--table", "6"], 2, "6"),
        (["--profile", "smoke", "--models", "."], 1, "Table 1 by smoke has none"),
        (["--profile", "smoke", "--row", "GAN"], 1, "no row 'GAN'; expected some of FCN, FCN+S"),
        (["--profile", "enormous"], 2, "smoke"),
    ],
)
def test_what_cannot_be_reproduced_is_one_sentence(tmp_path, words, status, expected):
    done = CliRunner().invoke(main, ["reproduce", "--table", "1", "--output", str(tmp_path / "out"), *words])
    assert done.exit_code == status
    assert expected in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_dry_run_measures_and_writes_nothing(tmp_path):
    words = ["reproduce", "--table", "1", "--profile", "smoke", "--output", str(tmp_path / "out"), "--dry-run"]
    text = CliRunner().invoke(main, words)
    assert text.exit_code == 0, text.output
    assert re.search(r"^time .* FusionVAE 0.25 min", text.stdout, re.MULTILINE)
    document = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    assert len(document["steps"]) == 18
    assert document["starting_minutes"] > 14 * 0.2 / 60  # a quarter of a minute a row is not all it takes
    assert document["memory_bytes"] > 1e6
    assert document["disk_bytes"] > 1e6
    assert not (tmp_path / "out").exists()


def test_full_is_the_papers_training_and_evaluation_by_each_rows_own_cost(tmp_path):
    full = plan(tmp_path, profile="full", data_root=tmp_path, seeds=3)
    one = ModelCost(
        step_seconds=0.08, train_seconds=0.008, decode_seconds=0.0001, activation_bytes=2e6, num_parameters=700_000
    )
    costs = {row.title: one for row in full.rows} | {"CVAE": replace(one, train_seconds=0.012)}
    taken = estimate(full, costs)
    steps, images = 400 * 60_000 / 800, 400 * 60_000  # epochs, targets, batch: Tab. 6
    trained = steps * 0.08 + images * 0.008
    draws = 10_000 * 1000 * 0.0001  # images, S: Sec. 5.5
    assert taken.minutes["FusionVAE"] == pytest.approx(3 * (trained + 4 * draws) / 60)
    assert taken.minutes["FCN"] == pytest.approx(3 * trained / 60)
    assert taken.minutes["CVAE"] == pytest.approx(3 * (trained + images * 0.004 + 7 * draws) / 60)
    assert taken.memory_bytes == pytest.approx(60_000 * 32 * 32 + 800 * 2e6 + 6 * 4 * 700_000)
    models = 5 * 3 * 10 * 4 * 700_000  # rows, seeds, copies in checkpoints and model
    assert taken.disk_bytes == pytest.approx(60_000 * 32 * 32 + 10_000 * 4 * 32 * 32 + models)


def test_the_cost_of_an_image_is_told_from_that_of_a_step(monkeypatch):
    """A step of n images takes 0.1 s and 0.02 s for each, whatever this machine does."""
    taken = []

    def seconds(work, device):
        count = len(work.args[0].target) if work.func.__name__ == "take" else 0
        taken.append(count)
        return 0.1 + 0.02 * count

    monkeypatch.setattr(cost, "_seconds", seconds)
    preset = PRESETS["fusion-mnist-small"]
    found = measure(preset.model, preset.train, torch.device("cpu"))
    assert (found.step_seconds, found.train_seconds) == (pytest.approx(0.1), pytest.approx(0.02))
    assert found.num_parameters == FusionVAE(preset.model).num_parameters
    assert found.activation_bytes > 4 * 32 * 32
    assert taken == [8, 8, 32, 32, 0]


def test_a_failed_step_stops_and_says_which():
    with pytest.raises(BenchError, match=r"could not try \(exit status 2\)"):
        run_steps([Step("try", "fusion-bench", ("no-such-command",)), Step("go on", "fusion-bench", ("--version",))])


def begin(words, folder):
    """Call the command in a session of its own, so that it can be killed with all that it started."""
    return subprocess.Popen(
        [sys.executable, "-m", "fusionvae_bench", *words, "--output", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_table_in_small_from_nothing_to_the_page(tmp_path):
    """Killed while it builds, trains and scores, it goes on; once done, a call computes nothing and prints the same."""
    words = ["reproduce", "--table", "1", "--profile", "smoke", "--minutes-per-row", "0.02"]
    words += ["--row", "FusionVAE"]
    for begun in ("*.h5*", "models/mnist-fusionvae/run.json", "models/mnist-fusionvae/model.safetensors"):
        with begin(words, tmp_path) as victim:
            while not list(tmp_path.glob(begun)) and victim.poll() is None:
                time.sleep(0.01)
            os.killpg(victim.pid, signal.SIGKILL)
        assert victim.returncode == -signal.SIGKILL
        assert not (tmp_path / "index.html").exists()
    tables = []
    for _ in range(2):
        with begin(words, tmp_path) as reproduction:
            table, said = reproduction.communicate()
        assert reproduction.returncode == 0, said
        tables.append(table)
    assert tables[0] == tables[1]
    assert "| FusionVAE | here (mnist-fusionvae, 20 evenly spaced images, S = 10) |" in tables[0]
    assert {"index.html", "tables.tex", "tables.csv"} <= {path.name for path in tmp_path.iterdir()}


def test_a_posterior_that_sees_the_inputs_costs_a_pass_for_each_number_of_them():
    rows = {row.title: row for row in ROWS[4]}
    assert [cost._passes(rows[title]) for title in ("q(y)", "q(x,y)")] == [4, 7]
