import dataclasses
import re

import pytest
from stand_ins import MemoryData, Toy

from fusionvae_bench import evaluate
from fusionvae_bench.results import Score
from fusionvae_bench.tables import score_tables, to_html, to_markdown


def scored(nats: float, **changes):
    """A result with the same likelihood for every k, over 784 dimensions."""
    result = evaluate(Toy(), MemoryData(), 5, 5, name=changes.pop("name", "toy"))
    score = Score(
        nll_nats=nats, nll_bits_per_dim=nats / (784 * 0.6931471805599453), nll_standard_error=0.5, mse_min=0.01,
        mse_min_standard_error=0.001,
    )  # fmt: skip
    return dataclasses.replace(result, scores=dict.fromkeys(("0", "1", "2", "3", "avg"), score), **changes)


def test_without_results_every_cell_of_ours_is_a_dash():
    bits, nats = score_tables([])
    ours = [line for line in bits.lines if line.role == "here"]
    assert [line.model for line in ours] == ["FCN", "FCN+S", "CVAE", "CVAE+S", "FusionVAE"]
    assert all(cell.value is None for line in ours for cell in line.cells)
    assert "| FusionVAE | paper | **15.93** | **14.17** | 13.70 | 13.48 | **14.39** | **3.14** |" in to_markdown(bits)
    assert "| FusionVAE | paper | **86.6** | **77.0** | 74.4 | 73.3 | **78.2** |" in to_markdown(nats)
    assert re.search(r"\|  \| here \|( – \|){10}", to_markdown(bits))


def test_the_difference_is_ours_minus_the_papers_with_our_standard_error():
    bits, nats = score_tables([scored(80.0)])
    (line,) = [line for line in nats.lines if line.role == "difference"]
    assert line.model == "FusionVAE"
    assert line.cells[-1].value == pytest.approx(80 - 78.2, abs=0.05)
    assert line.cells[-1].error == 0.5
    text = to_markdown(bits)
    assert "14.72 ± 0.09" in text  # 80 and 0.5 nats over 784 dimensions
    assert "1.00 ± 0.10" in text
    assert "−1.21 ± 0.09" in text  # k = 0: 14.72 - 15.93


def test_the_best_of_one_is_not_bold_but_the_best_of_two_is():
    (alone, _) = score_tables([scored(80.0)])
    assert not any(cell.is_best for line in alone.lines if line.role == "here" for cell in line.cells)
    (both, _) = score_tables([scored(80.0), scored(70.0, model_kind="cvae")])
    best = {line.model: line.cells[0].is_best for line in both.lines if line.role == "here"}
    assert best["CVAE"]
    assert not best["FusionVAE"]
    paper = {line.model: line.cells[0].is_best for line in both.lines if line.role == "paper"}
    assert paper["FusionVAE"]
    assert not paper["CVAE"]


def test_stand_ins_never_stand_beside_the_paper():
    tables = score_tables([scored(60.0, is_stand_in=True)])
    assert len(tables) == 4
    for table in tables[:2]:
        assert "not the originals" in table.title
        assert {line.role for line in table.lines} == {"here"}
    for table in tables[2:]:
        assert "for orientation" in table.title
        assert all(cell.value is None for line in table.lines if line.role != "paper" for cell in line.cells)
        assert not any(line.role == "difference" for line in table.lines)


def test_stand_ins_and_originals_are_kept_apart():
    tables = score_tables([scored(60.0, is_stand_in=True, name="fake"), scored(80.0, name="real")])
    stand_in, original = to_markdown(tables[0]), to_markdown(tables[2])
    assert "fake" in stand_in
    assert "real" not in stand_in
    assert "real" in original
    assert "fake" not in original


def test_fewer_samples_than_the_papers_are_noted():
    (table, _) = score_tables([scored(80.0)])
    assert any("S = 5 here, 1000 in the paper" in note for note in table.notes)
    (table, _) = score_tables([scored(80.0, num_samples=1000)])
    assert not any("in the paper:" in note for note in table.notes)


def test_other_benchmarks_are_left_out():
    (table, _) = score_tables([scored(80.0, benchmark="fusion-celeba")])
    assert not any(line.role == "difference" for line in table.lines)


def test_a_model_that_the_paper_does_not_know_gets_a_row_of_its_own():
    (table, _) = score_tables([scored(80.0, model_kind="transformer", name="mine")])
    assert [line.model for line in table.lines][-1] == "mine"
    assert table.lines[-1].cells[0].value == pytest.approx(14.72, abs=0.01)
    assert not any(line.role == "difference" for line in table.lines)


def test_html_escapes_names():
    (table, _) = score_tables([scored(80.0, name="<script>")])
    assert "<script>" not in to_html(table)
    assert to_html(table).count("<tbody>") == 5
