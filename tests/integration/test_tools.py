"""The repository's own commands: what they would run, and how they fail."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from fusion_datasets import FusionDatasetsError


def load(repository: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Imports a file of tools/ as a module, as if it stood on the path."""
    monkeypatch.syspath_prepend(repository / "tools")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = importlib.machinery.SourceFileLoader(f"tools_{name}", str(repository / "tools" / name))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, loader.name, module)  # dataclasses look their module up
    loader.exec_module(module)
    return module


def tool(repository: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "tools" / words[0]), *words[1:]]
    return subprocess.run(command, capture_output=True, text=True)


def test_tools_that_are_commands_can_be_called(repository: Path) -> None:
    """As the README calls them: by their path."""
    for path in (repository / "tools").iterdir():
        if path.is_file() and path.read_text("utf-8").startswith("#!"):
            assert os.access(path, os.X_OK), f"tools/{path.name} is not executable"


def test_the_bench_of_celeba_measures_both_sides(repository: Path) -> None:
    done = tool(repository, "bench_celeba.py", "--count", "120", "--rounds", "1", "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0].strip() for line in done.stdout.splitlines()[1:]] == [
        *("plain loop", "build, 1 worker", "ratio", "memory", "disk")
    ]
    refused = tool(repository, "bench_celeba.py", "--count", "80")
    assert (refused.returncode, refused.stdout) == (2, "")


def test_quickstart_would_run_commands_that_exist(
    repository: Path, tmp_path: Path, end_of: Callable[..., object]
) -> None:
    done = tool(repository, "quickstart", "--dry-run", "--output", str(tmp_path / "out"))
    assert done.returncode == 0
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    jobs = [words for words in lines if words[0].startswith("fusion")]
    assert [words[:2] for words in jobs] == [
        ["fusion-datasets", "build"],
        ["fusionvae", "train"],
        ["fusion-bench", "run"],
        ["fusion-bench", "report"],
    ]
    for words in jobs:  # --help answers only after every option was recognised
        assert end_of(*words, "--help") == 0
    assert list(tmp_path.iterdir()) == []


def test_quickstart_states_a_wrong_data_root(repository: Path, tmp_path: Path) -> None:
    done = tool(repository, "quickstart", "--data-root", str(tmp_path / "nowhere"))
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "nowhere" in done.stderr


@pytest.mark.parametrize("words", [["quickstart", "--minutes", "-1"], ["quickstart", "x"], ["test", "--only", "x"]])
def test_wrong_usage_exits_with_2(repository: Path, words: list[str]) -> None:
    assert tool(repository, *words).returncode == 2


def test_an_old_python_is_refused_in_one_sentence(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = load(repository, "environment.py", monkeypatch)
    environment.require_python()
    monkeypatch.setattr(environment, "OLDEST_PYTHON", (99, 0))
    with pytest.raises(environment.StatedError, match=r"need 99\.0 or newer"):
        environment.require_python()


def test_a_foreign_folder_is_left_alone(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = load(repository, "environment.py", monkeypatch)
    (tmp_path / "letter.txt").write_text("mine", "utf-8")
    with pytest.raises(environment.StatedError, match="no working environment"):
        environment.Environment(tmp_path).create()
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_torch_has_an_upper_bound(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = load(repository, "environment.py", monkeypatch)
    assert environment.torch_requirement().startswith("torch>=")
    assert ",<" in environment.torch_requirement()


@pytest.mark.parametrize(("failing", "not_run"), [("types", ["imports", "tests", "wheels"]), ("wheels", [])])
def test_the_proof_stops_at_the_first_failure(
    repository: Path,
    tmp_path: Path,
    failing: str,
    not_run: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    test = load(repository, "test", monkeypatch)
    proof = test.Proof(test.Environment(tmp_path), tmp_path, None, 1)
    stages = [test.Stage(stage.name, stage.group, lambda name=stage.name: name != failing) for stage in proof.stages()]
    monkeypatch.setattr(proof, "stages", lambda: stages)
    assert proof.run(None) is False
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed if line.endswith("did not run")] == not_run
    assert printed[-1].startswith(f"FAILED at {failing},")
    assert proof.run("lint") is True
    assert capsys.readouterr().out.splitlines()[-1].startswith("all good,")


@pytest.mark.slow
def test_bench_compares_two_builds_that_agree(repository: Path) -> None:
    settings = ("--rounds", "1", "--batch-size", "8", "--threads", "1", "--preset", "fusion-mnist-small", "--json")
    done = tool(repository, "bench", "train", "render", *settings, "--precision", "bf16")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert list(rows) == ["train", "render"]
    assert rows["train"]["ratio"] == pytest.approx(rows["train"]["here"] / rows["train"]["plain"])
    assert 0 < rows["render"]["here"] < 1


@pytest.mark.slow
def test_bench_evaluates_in_as_many_processes_as_the_plain_side_has_threads(repository: Path) -> None:
    settings = ("--rounds", "1", "--threads", "2", "--preset", "fusion-mnist-small", "--json")
    done = tool(repository, "bench", "evaluate", *settings)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)["evaluate"]
    assert row["ratio"] == pytest.approx(row["here"] / row["plain"])
    assert row["ratio"] > 2


def test_bench_refuses_an_unknown_job(repository: Path) -> None:
    done = tool(repository, "bench", "dance")
    assert done.returncode == 2
    assert "'dance' is no job; expected train, evaluate, render" in done.stderr


@pytest.mark.parametrize("reader", ["idx", "zip", "ply", "attributes"])
def test_fuzzing_begins_with_files_that_are_read(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    tool = load(repository, "fuzz", monkeypatch)
    target = tool.TARGETS[reader](tmp_path)
    sound, broken = target.seeds, target.seeds[0][:9]
    if reader == "attributes":  # of five seeds at a place the first is as it was
        sound, broken = target.seeds[::20], target.seeds[4]
    assert len(sound) > 1
    for seed in sound:
        (tmp_path / "input").write_bytes(seed)
        target.read(tmp_path / "input")
    (tmp_path / "input").write_bytes(broken)
    with pytest.raises(FusionDatasetsError):
        target.read(tmp_path / "input")
