"""The surface of the three commands: help, version, wrong usage, and both ways of calling them."""

from __future__ import annotations

import importlib
import importlib.metadata
import subprocess
from collections.abc import Callable

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]

SUBCOMMANDS = {
    "fusion-datasets": {"build", "stand-in", "info", "verify", "preview"},
    "fusionvae": {"train", "fuse", "info"},
    "fusion-bench": {"run", "report", "compare", "reproduce"},
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
def test_version(program: str, end_of: Callable[..., object], capfd: pytest.CaptureFixture[str]) -> None:
    assert end_of(program, "--version") == 0
    installed = importlib.metadata.version(DISTRIBUTIONS[program])
    assert capfd.readouterr() == (f"{program}, version {installed}\n", "")


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
def test_wrong_usage_exits_with_2(
    words: list[str], end_of: Callable[..., object], capfd: pytest.CaptureFixture[str]
) -> None:
    assert end_of(*words) == 2
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "Error: " in printed.err
