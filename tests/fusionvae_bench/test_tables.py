import dataclasses
import re

import pytest
from stand_ins import MemoryData, Toy

from fusionvae_bench import evaluate
from fusionvae_bench.records import records
from fusionvae_bench.rendering import to_html, to_latex, to_markdown
from fusionvae_bench.report import markdown_report
from fusionvae_bench.results import Score
from fusionvae_bench.seeds import seed_groups
from fusionvae_bench.tables import all_tables, score_tables, settings_table, spread_table, tables_beyond


def scored(nats: float, **changes):
    """A result with the same likelihood for every k, over 784 dimensions."""
    result = evaluate(Toy(), MemoryData(), 5, 5, name=changes.pop("name", "toy"))
    score = Score(
        nll_nats=nats, nll_bits_per_dim=nats / (784 * 0.6931471805599453), nll_standard_error=0.5, mse_min=0.01,
        mse_min_standard_error=0.001,
    )  # fmt: skip
    scores = changes.pop("scores", dict.fromkeys(("0", "1", "2", "3", "avg"), score))
    return dataclasses.replace(result, scores=scores, **{"num_dims": 784, **changes})


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


def test_a_score_in_less_than_float32_is_noted():
    (table, _) = score_tables([scored(80.0, precision="bf16")])
    assert any("bfloat16" in note for note in table.notes)
    assert "S = 5, bf16" in to_html(table)
    (table, _) = score_tables([scored(80.0)])
    assert not any("bfloat16" in note for note in table.notes)


def test_a_model_that_draws_nothing_says_nothing_of_its_samples():
    without = dict.fromkeys(("0", "1", "2", "3", "avg"), Score(mse_min=0.01))
    (bits, *_) = score_tables([scored(80.0, model_kind="visible-merge", calibration={}, scores=without)])
    assert not any("S = 5" in note for note in bits.notes)


def test_rows_in_nats_are_of_models_with_a_likelihood():
    kinds = ("fusionvae", "fcn", "visible-merge")
    without = dict.fromkeys(("0", "1", "2", "3", "avg"), Score(mse_min=0.01))
    results = [scored(80.0, model_kind=kind, **({} if kind == "fusionvae" else {"scores": without})) for kind in kinds]
    bits, nats = score_tables(results)
    assert {line.model for line in bits.lines} >= {"FCN", "visible merge"}
    assert list(dict.fromkeys(line.model for line in nats.lines)) == ["CVAE", "CVAE+S", "FusionVAE"]
    stand_ins = [dataclasses.replace(result, is_stand_in=True) for result in results[1:]]
    assert [table.is_stand_in for table in score_tables(stand_ins)] == [True, False, False]


def test_other_benchmarks_are_left_out():
    (table, _) = score_tables([scored(80.0, benchmark="fusion-celeba")])
    assert not any(line.role == "difference" for line in table.lines)


def test_a_model_that_the_paper_does_not_know_gets_a_row_of_its_own():
    (table, _) = score_tables([scored(80.0, model_kind="transformer", name="mine")])
    assert [line.model for line in table.lines][-1] == "mine"
    assert table.lines[-1].cells[0].value == pytest.approx(14.72, abs=0.01)
    assert not any(line.role == "difference" for line in table.lines)


def test_scores_of_other_images_never_compete():
    """On another split, or other data, a lower score says nothing, and the paper's is no measure of it."""
    ours = scored(80.0, name="ours")
    for changes in ({"split": "train"}, {"dataset_digest": "0" * 64}):
        table = score_tables([ours, scored(70.0, name="lucky", **changes)])[1]
        lines = {line.result.model_name: line for line in table.lines if line.result}
        assert not any(cell.is_best for line in lines.values() for cell in line.cells)
        remark = ", split train" if "split" in changes else ", data 00000000…"
        assert lines["lucky"].remark.endswith(remark)
        for text in (to_markdown(table), to_html(table), to_latex(table).replace(r"\ldots{}", "…")):
            assert remark in text
    (table,) = [t for t in score_tables([scored(70.0, split="train")]) if "nats" in t.title]
    assert not any(line.role == "difference" for line in table.lines)


def test_fewer_samples_never_compete():
    (_, table) = score_tables([scored(80.0), scored(70.0, name="few", num_samples=1)])
    assert not any(cell.is_best for line in table.lines if line.result for cell in line.cells)


def test_own_benchmarks_have_a_table_for_each_split():
    mine = {"benchmark": "folder", "title": "Mine"}
    tables = all_tables([scored(80.0, **mine), scored(70.0, split="valid", **mine)])
    assert [table.title for table in tables] == ["Scores on Mine, split test.", "Scores on Mine, split valid."]


def test_other_dimensions_have_no_difference_from_the_paper():
    (_, table) = score_tables([scored(80.0, num_dims=3 * 784)])
    assert not any(line.role == "difference" for line in table.lines)


@pytest.mark.parametrize("changed", [{"dataset_digest": "b"}, {"precision": "bf16"}])
def test_trainings_on_other_data_are_no_seeds_of_the_same(changed):
    other = seeded(82.0, 0.04, 1)
    other = dataclasses.replace(other, training={**other.training, **changed})
    assert len(seed_groups([seeded(80.0, 0.02, 0), other])) == 2


def test_names_cannot_break_a_table():
    text = to_markdown(score_tables([scored(80.0, model_kind="mine", name="a|b\nc <script> *d*")])[1])
    (line,) = [line for line in text.splitlines() if "script" in line]
    assert len(re.findall(r"(?<!\\)\|", line)) == 8
    assert r"a\|b c \<script> \*d\*" in line


def with_more_inputs(nats: float, *counts: int, **changes):
    result = scored(nats, **changes)
    more = {str(k): dataclasses.replace(result.score(0), nll_nats=nats - k, mse_min=k / 1000) for k in counts}
    return dataclasses.replace(result, num_inputs=(0, 1, 2, 3, *counts), scores={**result.scores, **more})


def test_more_inputs_than_the_paper_has_get_a_table_of_their_own():
    results = [with_more_inputs(80.0, 4, 8), with_more_inputs(78.0, 8, name="other"), scored(70.0)]
    (table,) = tables_beyond(results)
    assert table.columns == ("4", "8")
    assert [[cell.value for cell in line.cells] for line in table.lines] == [
        [pytest.approx(v) if v else None for v in row] for row in ([76, 72, 0.4, 0.8], [None, 70, None, 0.8])
    ]
    assert table.lines[1].cells[1].is_best
    assert "NLL, nats per image: k = 4 | 8 | MSE_min, 10⁻²: k = 4 | 8 |" in to_markdown(table)
    assert "avg" not in to_markdown(table) + to_html(table) + to_latex(table)
    assert to_html(table).count("<th scope='col'>8</th>") == 2
    assert r"\multicolumn{2}{c}{NLL, nats per image}" in to_latex(table)
    assert {(record["metric"], record["num_inputs"]) for record in records([table])} == {
        (metric, k) for metric in ("NLL, nats per image", "MSE_min, 10⁻²") for k in ("4", "8")
    }
    assert table in all_tables(results)
    assert tables_beyond([scored(70.0)]) == []


def test_a_measure_that_nobody_knows_has_no_columns():
    result = with_more_inputs(80.0, 5)
    scores = {k: dataclasses.replace(score, nll_nats=None) for k, score in result.scores.items()}
    (table,) = tables_beyond([dataclasses.replace(result, scores=scores)])
    assert [block.heading for block in table.blocks] == ["MSE_min, 10⁻²"]


def test_html_escapes_names():
    (table, _) = score_tables([scored(80.0, name="<script>")])
    assert "<script>" not in to_html(table)
    assert to_html(table).count("<tbody>") == 5


def seeded(nats: float, mse: float, seed: int, **changes):
    result = scored(nats, training={"seed": seed, "preset": "fusion-mnist", "epochs": 400.0}, **changes)
    score = dataclasses.replace(result.score(0), mse_min=mse)
    return dataclasses.replace(result, scores=dict.fromkeys(("0", "1", "2", "3", "avg"), score))


def test_of_several_seeds_the_best_is_shown_and_the_mean_beside_it():
    results = [seeded(80.0, 0.02, 0), seeded(83.0, 0.01, 1), seeded(80.0, 0.03, 2)]
    bits, nats = score_tables(results)
    lines = {line.role: line for line in nats.lines if line.model == "FusionVAE"}
    assert list(lines) == ["paper", "best of 3", "difference", "mean of 3"]
    assert lines["best of 3"].cells[0].value == 83.0  # of least MSE_min, as the paper chooses
    assert lines["mean of 3"].cells[0].value == pytest.approx(81.0)
    assert lines["mean of 3"].cells[0].error == pytest.approx(2**0.5)
    assert lines["difference"].cells[4].value == pytest.approx(83 - 78.2, abs=0.05)
    assert any("best of several seeds" in note for note in bits.notes)


def test_tables_of_spreads_wait_for_a_second_seed():
    one, two = [seeded(80.0, 0.02, 0)], [seeded(80.0, 0.02, 0), seeded(82.0, 0.04, 1)]
    assert not spread_table(one, 8).has_ours
    table = spread_table(two, 8)
    (mean,) = [line for line in table.lines if line.role == "mean of 2"]
    assert mean.model == "FusionVAE"
    assert mean.cells[4].value == pytest.approx(3.0)
    assert mean.cells[4].error == pytest.approx(1.0)
    (difference,) = [line for line in table.lines if line.role == "difference"]
    assert difference.cells[4].value == pytest.approx(3.0 - 1.47)
    assert "| FusionVAE | paper | **3.14 ± 0.01** |" in to_markdown(table)
    for changes in ({"is_stand_in": True}, {"split": "train"}, {"num_dims": 3 * 784}):
        assert not spread_table([dataclasses.replace(r, **changes) for r in two], 8).has_ours


@pytest.mark.parametrize("changed", [{"epochs": 8.0}, {"initial_weights": "sha256:0"}])
def test_other_trainings_are_no_seeds_of_the_same(changed):
    other = seeded(82.0, 0.04, 1)
    other = dataclasses.replace(other, training={**other.training, **changed})
    roles = [line.role for line in score_tables([seeded(80.0, 0.02, 0), other])[0].lines if line.model == "FusionVAE"]
    assert roles == ["paper", "here", "difference", "here", "difference"]


def test_a_training_scored_twice_is_not_two_trainings():
    """Neither with a seed on record nor without one; the second score gets lines of its own."""
    results = [seeded(80.0, 0.02, 0), seeded(80.5, 0.02, 0), seeded(83.0, 0.01, 1)]
    lines = [line for line in score_tables(results)[0].lines if line.model == "FusionVAE"]
    assert [line.role for line in lines] == ["paper", "best of 2", "difference", "mean of 2", "here", "difference"]
    assert not spread_table(results[:2], 8).has_ours
    unknown = [scored(80.0), scored(80.5)]
    assert not any("mean of" in line.role for line in score_tables(unknown)[0].lines)


def test_trainings_of_equal_minutes_are_seeds_of_the_same_however_far_they_came():
    def of_minutes(minutes: float, epochs: float, seed: int):
        result = seeded(80.0 + seed, 0.02, seed)
        return dataclasses.replace(result, training={**result.training, "minutes": minutes, "epochs": epochs})

    roles = [
        [line.role for line in score_tables([of_minutes(17.5, 1.4, 0), other])[0].lines if line.model == "FusionVAE"]
        for other in (of_minutes(17.5, 1.6, 1), of_minutes(7.5, 1.4, 1))
    ]
    assert "mean of 2" in roles[0]
    assert "mean of 2" not in roles[1]


def test_all_twelve_tables_are_printed_without_any_result():
    tables = all_tables([])
    assert [table.number for table in tables] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 7, 8, 9, 10, 11, 12]
    text = "\n".join(map(to_markdown, tables))
    assert "| q(x,y) | paper | 309.2 | 246.8 | **211.1** |" in text
    assert "| BayAggAll | paper | 255.6 | 568.3 |" in text
    assert "| CVAE+S | paper | 487.4 ± 27.45 |" in text


def test_the_presets_stand_beside_table_6():
    rows = settings_table().rows
    assert rows["# latent groups per scale"][0] == ("5, 2", "5, 2")
    assert rows["spatial dimensions of z_l per scale"][0] == ("4², 8²", "4², 8²")
    assert rows["batch size"][0] == ("800", "800")
    assert rows["# GPUs"][0] == ("2", "–")


def test_latex_has_as_many_cells_as_columns_and_only_its_own_commands():
    results = [seeded(80.0, 0.02, 0, name="50%_&_#1"), seeded(82.0, 0.04, 1)]
    for table in all_tables(results):
        text = to_latex(table)
        number = re.match(r"Table (\d+): ", table.title)
        assert not number or rf"\renewcommand{{\thetable}}{{{number[1]}}}" in text
        columns = len(re.search(r"begin\{tabular\}\{(\w+)\}", text)[1])
        for line in re.findall(r"^(.*) \\\\$", text, re.MULTILINE):
            spans = [int(n) - 1 for n in re.findall(r"multicolumn\{(\d+)\}", line)]
            assert len(re.findall(r"(?<!\\)&", line)) + sum(spans) == columns - 1, line
        assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
        assert text.isascii(), re.findall(r"[^\x00-\x7f]", text)
        assert not re.search(r"(?<!\\)[%#]", text)


@pytest.mark.parametrize(("before", "words"), [(720_000, "720,000"), (None, "unknown")])
def test_the_page_says_what_was_seen_before(before, words):
    training = {"seed": 1, "epochs": 3.0, "initial_weights": "sha256:0", "images_seen_before": before}
    page = markdown_report([scored(80.0, training=training)], [1])
    assert f"- Training: 3.0 epochs, seed 1, from trained weights (images seen before: {words})" in page
    training["initial_weights"] = "sha256:0 + sha256:1"
    page = markdown_report([scored(80.0, training=training)], [1])
    assert f"seed 1, from the mean of 2 trained models (images seen before: {words})" in page


@pytest.mark.parametrize("kind", ["fcn", "fusionvae"])  # the first and the last row
def test_a_score_of_few_images_is_not_the_best(kind):
    few = dataclasses.replace(scored(70.0, model_kind=kind, config={"kind": kind}), num_images=3)
    others = [scored(80.0, model_kind="fusionvae"), scored(81.0, model_kind="cvae"), few]
    for order in (others, others[::-1]):
        lines = [line for line in score_tables(order)[1].lines if line.role == "here" and line.result]
        assert {line.result.scores["avg"].nll_nats: line.cells[4].is_best for line in lines} == {
            70.0: False,
            80.0: True,
            81.0: False,
        }


@pytest.mark.parametrize(
    "changed",
    [
        {"num_samples": 6},
        {"num_images": 4},
        {"evenly_spaced": True},
        {"seed": 1},
        {"split": "valid"},
        {"precision": "bf16"},
        {"dataset_digest": "e" * 64},
    ],
)
def test_seeds_scored_in_different_ways_are_not_averaged(changed):
    one, other = seeded(80.0, 0.02, 0), seeded(82.0, 0.02, 1)
    assert [len(group.results) for group in seed_groups([one, other])] == [2]
    assert [len(group.results) for group in seed_groups([one, dataclasses.replace(other, **changed)])] == [1, 1]


def own(nats: float, **changes):
    changes = {"benchmark": "cats", "title": "cats", "dataset_digest": "c" * 64, **changes}
    return scored(nats, **changes)


def test_a_benchmark_of_ones_own_has_a_table_and_the_papers_stay_away():
    first, second = own(60.0, name="a"), own(50.0, name="b", model_kind="cvae")
    (table,) = all_tables([first, second])
    text = to_markdown(table)
    assert text.startswith("**Scores on cats, split test.**")
    assert "| CVAE | here (b, 5 images, S = 5) | **50.0 ± 0.5** |" in text
    assert "| FusionVAE | here (a, 5 images, S = 5) | 60.0 ± 0.5 |" in text
    assert "| **1.00 ± 0.10** |" in text
    assert "paper" not in text
    assert "S = 5: with fewer samples both" in text
    assert "<b>50.0</b>" in to_html(table)
    assert r"\caption{Scores on cats, split test." in to_latex(table)


def test_tables_of_ones_own_stand_before_the_papers_and_apart():
    results = [own(60.0), own(61.0, dataset_digest="d" * 64, title="dogs"), scored(80.0)]
    titles = [table.title for table in all_tables(results)]
    assert titles[:2] == ["Scores on cats, split test.", "Scores on dogs, split test."]
    assert titles[2].startswith("Table 1: ")
    assert all("Scores on" not in table.title for table in all_tables(results, (1,)))
    assert len(all_tables([own(60.0)], (1,))) == 2  # asked for, though there is nothing in it


@pytest.mark.parametrize(("rate", "sizes"), [(0.1, [2]), (0.2, [1, 1])])
def test_seeds_are_of_one_training_only_where_nothing_but_the_seed_differs(rate, sizes):
    first, second = (
        scored(80.0, training={"seed": seed, "train_config": {"seed": seed, "learning_rate": of_it}})
        for seed, of_it in ((0, 0.1), (1, rate))
    )
    assert [len(group.results) for group in seed_groups([first, second])] == sizes
