"""What is committed under results/ hangs together: the weights are those that were scored, and they keep the laws."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
import torch

from fusionvae_bench import read_result
from fusionvae_bench.evaluate import weights_digest
from fusionvae_model import FusionVAE
from fusionvae_model.checkpoint import BOX, model_folder, read_training_summary

RESULTS = Path(__file__).parents[2] / "results"
IN_THE_BOX = {"fusion-mnist-muon-42-both": "fusion-mnist"}
"""Whose weights come with the package, and so stand there alone."""


def weights(path: Path) -> Path:
    """The folder of the weights that a result scored."""
    return model_folder(IN_THE_BOX.get(path.parent.name, path.parent / "model"))


SCORED = sorted(path for path in RESULTS.glob("*/result.json") if weights(path).is_dir())


def test_there_are_results() -> None:
    assert SCORED


def test_all_weights_in_the_box_are_scored() -> None:
    scored = {weights(path) for path in SCORED}
    assert {folder for folder in BOX.iterdir() if folder.is_dir()} <= scored


@pytest.mark.parametrize("path", SCORED, ids=lambda path: path.parent.name)
def test_the_weights_are_those_that_were_scored(path: Path) -> None:
    result = read_result(path)
    assert weights_digest(FusionVAE.from_pretrained(weights(path))) == result.weights_digest


def test_where_trainings_started_from_is_kept() -> None:
    """Whoever trains the weights in the box again begins with weights that are here."""
    kept = {f"sha256:{sha256(path.read_bytes()).hexdigest()}" for path in RESULTS.glob("*/model/model.safetensors")}
    summaries = [read_training_summary(weights(path)) or {} for path in SCORED]
    starts = {start for summary in summaries for start in (summary.get("initial_weights") or "").split(" + ") if start}
    assert starts
    assert starts <= kept


@pytest.mark.parametrize("path", SCORED, ids=lambda path: path.parent.name)
def test_the_scores_are_possible(path: Path) -> None:
    """Above the entropy of the grey values; no input hurts; no result on stand-ins under a real name."""
    result = read_result(path)
    nats = [result.score(k).nll_nats for k in range(4)]
    assert all(value is not None and value > result.entropy_floor_nats for value in nats)
    assert nats == sorted(nats, reverse=True)
    assert not result.warnings
    assert result.is_stand_in == ("stand-in" in path.parent.name)


@pytest.mark.parametrize("path", SCORED, ids=lambda path: path.parent.name)
def test_the_trained_model_does_not_see_the_order_of_its_inputs(path: Path) -> None:
    model = FusionVAE.from_pretrained(weights(path))
    size = model.config.image_size
    inputs = torch.rand(2, 3, model.config.channels, size, size, generator=torch.Generator().manual_seed(0))
    first, second = (
        model.sample(x, num_samples=2, generator=torch.Generator().manual_seed(1)) for x in (inputs, inputs.flip(1))
    )
    assert torch.equal(first, second)


def test_table_1_is_complete_and_above_the_floor() -> None:
    """Five rows and three baselines, scored on the same images; the committed commands print them."""
    results = [read_result(path) for path in sorted((RESULTS / "table-1-quick" / "results").glob("*.json"))]
    kinds = {"fusionvae", "cvae", "cvae-skip", "fcn", "fcn-skip"}
    assert kinds < {result.model_kind for result in results}
    assert len(results) == len(kinds) + 3
    assert len({(result.dataset_digest, result.num_images, result.num_samples) for result in results}) == 1
    for result in results:
        likelihoods = [result.score(k).nll_nats for k in range(4)]
        assert result.model_kind.startswith(("fusionvae", "cvae")) == (None not in likelihoods)
        assert all(nats > result.entropy_floor_nats for nats in likelihoods if nats is not None)
