"""The surface of the three commands: help, version, wrong usage, and both ways of calling them."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]

SUBCOMMANDS = {
    "fusion-datasets": {"build", "stand-in", "info", "verify", "preview"},
    "fusionvae": {"train", "fuse", "info"},
    "fusion-bench": {"run", "report"},
}
DISTRIBUTIONS = {
    "fusion-datasets": "fusion-datasets",
    "fusionvae": "fusionvae-model",
    "fusion-bench": "fusionvae-bench",
}


@pytest.mark.parametrize("program", SUBCOMMANDS)
def test_help_names_every_subcommand(command: Command, program: str) -> None:
    done = command(program, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    listed = {line.split()[0] for line in done.stdout.split("Commands:")[1].splitlines() if line.startswith("  ")}
    assert listed >= SUBCOMMANDS[program]


@pytest.mark.parametrize("program", SUBCOMMANDS)
def test_version(command: Command, program: str) -> None:
    done = command(program, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == f"{program}, version {importlib.metadata.version(DISTRIBUTIONS[program])}"


@pytest.mark.parametrize("program", SUBCOMMANDS)
def test_installed_script_is_the_module(program: str) -> None:
    (script,) = importlib.metadata.distribution(DISTRIBUTIONS[program]).entry_points.select(name=program)
    module, _, attribute = script.value.partition(":")
    package = module.partition(".")[0]
    assert importlib.import_module(f"{package}.__main__").main is getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize(
    "words",
    [
        ["fusion-datasets", "no-such-command"],
        ["fusion-datasets", "build", "no-such-benchmark"],
        ["fusion-datasets", "stand-in", "mnist"],
        ["fusionvae", "train", "--no-such-option"],
        ["fusionvae", "train", "--data", "x.h5", "--output", "x", "--minutes", "1", "--epochs", "1"],
        ["fusion-bench", "run", "--num-samples", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(command: Command, words: list[str], tmp_path: Path) -> None:
    done = command(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Error: " in done.stderr
    assert list(tmp_path.iterdir()) == []
