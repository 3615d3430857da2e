"""The main job on a thimbleful of data, through the commands alone: build, train, run, report; then all of it again."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Job:
    """Where the job writes, and its four commands."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "fusion-mnist.h5"

    @property
    def weights(self) -> Path:
        return self.folder / "model"

    @property
    def result(self) -> Path:
        return self.folder / "results" / "fusionvae.json"

    @property
    def page(self) -> Path:
        return self.folder / "report" / "index.html"

    def commands(self) -> list[list[object]]:
        trained = ["--weights", self.weights, "--data", self.data]
        brief = ["--epochs", 1, "--batch-size", 4, "--resume"]
        return [
            ["fusion-datasets", "build", "mnist", "--source", "stand-in", "--limit", 12, "--output", self.data],
            [
                "fusionvae",
                "train",
                "--preset",
                "fusion-mnist-small",
                *brief,
                "--data",
                self.data,
                "--output",
                self.weights,
            ],
            ["fusion-bench", "run", *trained, "--num-samples", 3, "--limit", 4, "-o", self.result],
            ["fusion-bench", "report", "--results", self.result.parent, *trained, "-o", self.page],
        ]


def states(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file below a folder with its time of writing and digest."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_main_path_and_again(succeeding: Command, tmp_path: Path) -> None:
    job = Job(tmp_path / "job")
    job.folder.mkdir()
    for words in job.commands():
        done = succeeding(*words)
        assert "Traceback" not in done.stderr

    info = json.loads(succeeding("fusion-datasets", "info", job.data, "--json").stdout)
    model = json.loads(succeeding("fusionvae", "info", job.weights, "--json").stdout)
    result = json.loads(job.result.read_text("utf-8"))
    assert info["rows"] == {"train": 12, "test": 12}
    assert model["training"]["steps"] == 3
    assert model["training"]["dataset_digest"] == info["digest"]
    assert result["dataset_digest"] == info["digest"]
    assert result["num_parameters"] == model["parameters"]

    page = job.page.read_text("utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "stand-in" in page.lower()
    assert "<img" in page or "<svg" in page
    assert not re.search(r"""<(?:script|link|img)[^>]*\b(?:src|href)=["']?(?:https?:)?//""", page)  # needs no network
    table = succeeding("fusion-bench", "report", "--results", job.result.parent).stdout
    assert "| FusionVAE | paper |" in table

    before = states(job.folder)
    for words in job.commands()[:3]:
        succeeding(*words)
    assert states(job.folder) == before
