import multiprocessing

import pytest
import torch
from stand_ins import MemoryData

from fusionvae_bench.errors import BenchError
from fusionvae_bench.evaluate import Request
from fusionvae_bench.processes import score_in_processes


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
