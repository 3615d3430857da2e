"""The commands as a user has them, judged by how they end, what they print and what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from fusionvae_model import FusionVAE

sys.path.insert(0, str(Path(__file__).parents[1] / "fusion_datasets"))  # for fake_hub.py

Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]

MODULES = {"fusion-datasets": "fusion_datasets", "fusionvae": "fusionvae_model", "fusion-bench": "fusionvae_bench"}


def call(folder: Path, program: str, *arguments: object) -> Done:
    """Runs one of the three commands in a folder, on one thread, for several suites share the cores."""
    command = [sys.executable, "-m", MODULES[program], *map(str, arguments)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)


def succeed(folder: Path, program: str, *arguments: object) -> Done:
    """Runs a command that must not fail; its own words say why it did."""
    done = call(folder, program, *arguments)
    assert done.returncode == 0, f"{program} {arguments} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """`command(program, *arguments)` in the test's own folder."""
    return lambda *words: call(tmp_path, *words)


@pytest.fixture
def succeeding(tmp_path: Path) -> Command:
    """`succeeding(program, *arguments)`: the same for a command that must not fail."""
    return lambda *words: succeed(tmp_path, *words)


@pytest.fixture
def end_of() -> Callable[..., object]:
    """`end_of(program, *arguments)`: the exit status of a command in this process, where PyTorch is imported once."""

    def end(program: str, *arguments: object) -> object:
        (script,) = entry_points(group="console_scripts", name=program)
        with pytest.raises(SystemExit) as stop:
            script.load()(list(map(str, arguments)), prog_name=program)
        return stop.value.code

    return end


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def stand_in_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small FusionMNIST of stand-in digits, built once per worker: 60 to train on, 60 to test."""
    file = tmp_path_factory.mktemp("data") / "fusion-mnist.h5"
    succeed(file.parent, "fusion-datasets", "build", "mnist", "--source", "stand-in", "--output", file, "--limit", 60)
    return file


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a laptop-sized model with its first weights."""
    folder = tmp_path_factory.mktemp("weights") / "untrained"
    FusionVAE.from_preset("fusion-mnist-small").save_pretrained(folder)
    return folder
