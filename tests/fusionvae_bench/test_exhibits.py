import dataclasses

import pytest
import stand_ins
import torch
from stand_ins import MemoryData, Toy

from fusionvae_bench import evaluate
from fusionvae_bench.errors import ModelError
from fusionvae_bench.exhibits import exhibits
from fusionvae_bench.figures import svg
from fusionvae_bench.trivial import VisibleMerge


def test_the_first_model_is_featured_and_leads_the_figures(monkeypatch):
    monkeypatch.setattr(stand_ins, "toy", Toy)
    merge = evaluate(VisibleMerge(torch.zeros(1, 6, 6)), MemoryData(), 2, 5)
    elsewhere = evaluate(VisibleMerge(torch.zeros(1, 6, 6)), MemoryData(digest="e" * 64), 2, 5)
    toy = evaluate(Toy(), MemoryData(), 2, 5)
    shown = exhibits([elsewhere, merge, toy], ["stand_ins:toy"])
    assert shown.featured is toy
    assert shown.gallery is None
    assert set(shown.plates) == {"scores-by-inputs", "visible-and-hidden", "calibration"}
    text = svg(shown.plates["visible-and-hidden"], "v", "")
    assert text.index(">FusionVAE<") < text.index(">visible merge<")
    assert text.count(">visible merge<") == 2  # once in each panel: the one on other data is left out
    assert "FusionVAE: actual error" in svg(shown.plates["calibration"], "c", "")


def test_pictures_of_one_model_do_not_stand_beside_the_scores_of_another(monkeypatch):
    monkeypatch.setattr(stand_ins, "toy", Toy)
    merge = evaluate(VisibleMerge(torch.zeros(1, 6, 6)), MemoryData(), 2, 5)
    with pytest.raises(ModelError, match="none of the results is of stand_ins:toy, whose pictures would stand beside"):
        exhibits([merge], ["stand_ins:toy"])
    assert exhibits([], ["stand_ins:toy"]).featured is None
    named = dataclasses.replace(merge, model_name="stand_ins:merge")
    monkeypatch.setattr(stand_ins, "merge", lambda: VisibleMerge(torch.zeros(1, 6, 6)), raising=False)
    assert exhibits([named], ["stand_ins:merge"]).featured is named


def test_without_models_the_first_result_is_featured():
    toy = evaluate(Toy(), MemoryData(), 2, 5)
    assert exhibits([toy]).featured is toy
    assert exhibits([]).plates == {}
