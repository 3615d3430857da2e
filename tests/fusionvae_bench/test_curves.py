import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stand_ins import Config, MemoryData, Toy

from fusionvae_bench import evaluate
from fusionvae_bench.curves import (
    learning_curves,
    log_ticks,
    score_curves,
    shortened,
    spread_apart,
    visible_and_hidden,
)
from fusionvae_bench.figures import svg
from fusionvae_bench.palette import APPEARANCES, appearances
from fusionvae_bench.report import History, read_history
from fusionvae_bench.rows import ROWS, TRIVIAL_TITLES


def scored(kind: str, **changes: object):
    toy = Toy()
    toy.config = Config(kind=kind, nll_size=4, **changes)
    return evaluate(toy, MemoryData(), 4, 20)


@pytest.fixture(scope="module")
def results():
    return {kind: scored(kind) for kind in ("fusionvae", "cvae", "fcn-skip", "transformer")}


def named_lines(axes) -> dict[str, object]:
    return {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}


def test_a_model_keeps_its_colour_whoever_stands_beside_it(results):
    alone, together = score_curves([results["cvae"]]), score_curves(list(results.values()))
    steps = np.arange(1, 50.0)
    curves = {"FusionVAE": History(steps, 80 + 300 / steps, np.ones(49), steps)}
    curves["CVAE"] = curves["FusionVAE"]
    shown = [
        alone.axes[0],
        together.axes[0],
        visible_and_hidden([results["cvae"]]).axes[1],
        learning_curves(curves).axes[0],
    ]
    assert {named_lines(axes)["CVAE"].get_color() for axes in shown} == {APPEARANCES["CVAE"].colour}


def test_every_model_of_the_paper_can_be_told_from_every_other():
    titles = [row.title for row in ROWS[1]] + list(TRIVIAL_TITLES.values())
    titles += [f"FusionVAE {row.title}" for number in (4, 5) for row in ROWS[number] if row.slug != "fusionvae"]
    assert set(titles) == set(APPEARANCES)
    others = appearances([*titles, "theirs", "mine", "theirs"])
    looks = [(look.colour, look.line, look.marker) for look in others.values()]
    assert len(set(looks)) == len(titles) + 2


def test_each_line_is_named_where_it_ends(results):
    axes = score_curves(list(results.values())).axes[1]
    written = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert set(named_lines(axes)) == set(written)
    heights = sorted(written.values())
    assert min(np.diff(heights)) > 0.05
    assert heights[0] >= 0
    assert heights[-1] <= 1


def test_bands_are_standard_errors(results):
    result = results["fusionvae"]
    axes = score_curves([result]).axes[1]
    (band,) = axes.collections
    expected = [
        100 * (s.mse_min + sign * s.mse_min_standard_error)
        for sign in (-1, 1)
        for s in (result.score(k) for k in range(4))
    ]
    assert band.get_datalim(axes.transData).intervaly == pytest.approx([min(expected), max(expected)])


def test_a_logarithmic_axis_has_numbers_on_it(results):
    """The NLL of one model of several may be ten times that of the others, in nats as well as in hundredths."""
    score = results["fusionvae"].score(2)
    far = replace(results["cvae"], scores={**results["cvae"].scores, "2": replace(score, nll_nats=40 * score.nll_nats)})
    for axes in score_curves([results["fusionvae"], far]).axes[:1]:
        low, high = axes.get_ylim()
        assert axes.get_yscale() == "log"
        assert len([tick for tick in axes.get_yticks() if low <= tick <= high]) >= 3


@given(st.floats(1e-4, 1e4), st.floats(1.5, 1e5))
def test_ticks_are_few_and_never_none(low, ratio):
    ticks = log_ticks(low, low * ratio)
    assert 1 <= len(ticks) <= 9
    assert ticks == sorted(set(ticks))
    assert all(low * 0.999 <= tick <= low * ratio * 1.001 for tick in ticks)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=14))
def test_names_move_apart_in_order_and_no_further_than_they_must(values):
    spacing, given_heights = 0.06, np.array(values)
    moved = spread_apart(given_heights, spacing)
    order = np.argsort(given_heights, kind="stable")
    assert (np.diff(moved[order]) >= spacing - 1e-12).all()
    assert moved.min() >= 0
    assert moved.max() <= 1 + 1e-12
    np.testing.assert_allclose(spread_apart(moved, spacing), moved, atol=1e-12)


def test_two_names_give_way_to_each_other_alike():
    np.testing.assert_allclose(spread_apart(np.array([0.51, 0.49, 0.9]), 0.06), [0.53, 0.47, 0.9])


def test_every_figure_says_what_it_shows(results):
    assert 'role="img" aria-label="curves of &lt;scores&gt;"' in svg(
        score_curves([results["fusionvae"]]), "s", "curves of <scores>"
    )


def test_in_colour_there_is_no_line_of_the_papers(results):
    ours = results["fusionvae"]
    grey, colour = (replace(ours, num_dims=num_dims) for num_dims in (784, 3 * 784))
    assert "paper’s FusionVAE" in svg(score_curves([grey]), "s", "")
    assert "paper’s FusionVAE" not in svg(score_curves([colour]), "s", "")


def test_twelve_models_of_ones_own_look_different():
    looks = appearances([f"model {i}" for i in range(12)])
    assert len(set(looks.values())) == 12


def test_long_names_are_shortened_to_what_tells_them_apart():
    long = [f"mypackage.models.variant_{i}:build_pretrained" for i in range(3)]
    assert shortened(["short", *long]) == ["short", "…variant_0…", "…variant_1…", "…variant_2…"]
    assert shortened(["a" * 12 + "b" * 12]) == ["a" * 12 + "b" * 12]
    assert shortened(["a" * 20 + "b" * 20]) == ["a" * 11 + "…" + "b" * 12]
    assert shortened([long[0], long[0]]) == ["mypackage.m…d_pretrained"] * 2


def test_titles_are_typeset_and_names_are_not(results):
    named = replace(results["fusionvae"], model_name="$a_b$", model_kind="mine")
    page = re.sub(r"<!--.*?-->", "", svg(score_curves([named]), "scores", ""), flags=re.DOTALL)
    assert "mathrm" not in page
    assert "$a_b$" in page


def test_images_held_out_are_dots_in_their_models_colour(tmp_path):
    lines = [{"epoch": e, "elbo_nats": -100 / e, "beta": 1.0, "seconds": e} for e in range(1, 11)]
    for line in lines[4::5]:
        line["held_out_elbo_nats"] = line["elbo_nats"] - 7
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    history = read_history(tmp_path)
    assert history.held_out_epochs.tolist() == [5, 10]
    assert history.held_out_nats.tolist() == [27, 17]
    axes = learning_curves({"FusionVAE": history}).axes[0]
    (dots,) = (line for line in axes.lines if line.get_marker() == "o")
    assert (list(dots.get_xdata()), list(dots.get_ydata())) == ([5, 10], [27, 17])
    assert dots.get_color() == APPEARANCES["FusionVAE"].colour
    assert "dots: of images held out" in axes.get_title("left")


def test_without_images_held_out_nothing_is_said_of_them():
    steps = np.arange(1, 50.0)
    axes = learning_curves({"FusionVAE": History(steps, 80 + 300 / steps, np.ones(49), steps)}).axes[0]
    assert "held out" not in axes.get_title("left")
