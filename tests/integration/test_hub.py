"""Training and scoring on a publication of the Hugging Face Hub, by its address alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_hub import FakeHub, fake_hub

import fusionvae_bench.cli
import fusionvae_model.cli
from fusion_datasets import FusionDataset

pytest.importorskip("huggingface_hub")

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's own making


@pytest.fixture
def hub(stand_in_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub that holds one publication."""
    content = stand_in_file.read_bytes()
    sums = f"{hashlib.sha256(content).hexdigest()}  fusion-mnist.h5\n".encode()
    monkeypatch.setattr("fusion_datasets.hub.user_cache_path", lambda _: tmp_path / "cache")
    with fake_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        running.repositories["somebody/digits"] = {"v1": {"fusion-mnist.h5": content, "SHA256SUMS": sums}}
        yield running


def test_train_and_score_by_address(hub: FakeHub, stand_in_file: Path, tmp_path: Path) -> None:
    def call(package: object, *words: object) -> Result:
        return CliRunner().invoke(package.cli.main, list(map(str, words)))  # type: ignore[attr-defined]

    address, model, digest = "hf://somebody/digits@v1", tmp_path / "model", FusionDataset(stand_in_file).digest
    done = call(fusionvae_model, "train", "--data", address, "--epochs", 1, "--batch-size", 8, "--preset",
                "fusion-mnist-small", "--output", model)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads((model / "training.json").read_text())["dataset_digest"] == digest
    assert hub.requests.count("resolve") == 4
    words = ["run", "--weights", model, "--data", address, "--limit", 2, "--num-samples", 2, "-o", tmp_path / "a.json"]
    planned = call(fusionvae_bench, *words, "--dry-run", "--json")
    assert json.loads(planned.stdout)["data"] == address
    done = call(fusionvae_bench, *words)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "a.json").read_text())["dataset_digest"] == digest
    assert hub.requests.count("resolve") == 4  # fetched once


def test_an_altered_publication_is_refused(hub: FakeHub, tmp_path: Path) -> None:
    files = hub.repositories["somebody/digits"]["v1"]
    files["fusion-mnist.h5"] = files["fusion-mnist.h5"][:-1] + b"?"
    words = ["train", "--data", "hf://somebody/digits@v1", "--output", str(tmp_path / "model")]
    done = CliRunner().invoke(fusionvae_model.cli.main, words)
    assert done.exit_code == 1
    assert "its SHA256SUMS says" in done.stderr
    assert not (tmp_path / "model").exists()
