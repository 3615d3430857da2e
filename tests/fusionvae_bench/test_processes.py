import multiprocessing

import pytest
import torch
from stand_ins import MemoryData, Toy

from fusionvae_bench.errors import BenchError
from fusionvae_bench.evaluate import Request, fingerprint
from fusionvae_bench.processes import processes_that_pay, score_in_processes, share_of
from fusionvae_bench.tiles import Share, TileStore
from fusionvae_bench.weights import origin
from fusionvae_model import FusionVAE


@pytest.mark.parametrize(
    ("failure", "sentence"), [("nan", r"the log importance weight is nan, expected a finite"), ("kill", "was killed")]
)
def test_when_one_process_fails_the_others_are_stopped_and_its_sentence_is_told(
    tmp_path, monkeypatch, failure, sentence
):
    """The other process would take ten minutes."""
    monkeypatch.setenv("TOY_FAILED", str(tmp_path / "failed"))
    monkeypatch.setenv("TOY_FAILURE", failure)
    request, partial = Request(num_samples=2), tmp_path / "tiles"
    with pytest.raises(BenchError, match=sentence):
        score_in_processes("stand_ins:Faltering", MemoryData(), request, partial, torch.device("cpu"), workers=2)
    assert multiprocessing.active_children() == []
    assert [path.name for path in partial.iterdir()] == ["fingerprint"]


@pytest.mark.parametrize(
    ("model", "num_samples", "device", "expected"),
    [
        ("fusion-mnist", 1_000_000, "cpu", 3),
        ("fusion-mnist", 10_000, "cpu", 2),
        ("fusion-mnist", 1_000, "cpu", 1),
        ("fusion-mnist", 1_000_000, "cuda", 1),
        (None, 1_000_000, "cpu", 1),
    ],
)
def test_a_process_for_each_core_where_each_has_enough_to_do(model, num_samples, device, expected, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    data = MemoryData(rows=10, size=32)
    built = Toy() if model is None else FusionVAE.from_preset(model)
    request = Request(num_samples=num_samples)
    assert processes_that_pay(built, request, data, torch.device(device)) == expected


def test_processes_score_for_the_identity_of_the_model_that_they_were_named(tmp_path):
    data, request, device = MemoryData(rows=20), Request(num_samples=2), torch.device("cpu")
    score_in_processes("stand_ins:Toy", data, request, tmp_path / "tiles", device, workers=1)
    identity = fingerprint(Toy(), data, request, device, origin=origin("stand_ins:Toy"))
    TileStore(tmp_path / "tiles", identity)  # else refused as those of another evaluation


def test_a_share_counts_the_processes_of_all_machines():
    assert share_of({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}) == Share(3, 4)
