import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from stand_ins import MemoryData, Toy

from fusionvae_bench import evaluate, write_result
from fusionvae_bench.cli import main
from fusionvae_bench.comparison import CONFIDENCE, _difference, _student_quantile
from fusionvae_bench.per_image import per_image_path, read_per_image, write_per_image
from fusionvae_bench.results import read_result
from fusionvae_bench.shared_draws import spread_of_mean, with_shared_draws


class Bright(Toy):
    def __init__(self, level: float):
        super().__init__()
        torch.nn.init.constant_(self.level, level)


def score(path, model, *, num_samples=40, precision="32", **changes):
    data = MemoryData(**changes)
    result = evaluate(model, data, num_samples, precision=precision, name=path.stem)
    write_result(result, path)
    write_per_image(result, data, per_image_path(path))
    return result


def project(*words):
    return CliRunner().invoke(main, ["project", *map(str, words)])


def compare(*words):
    return CliRunner().invoke(main, ["compare", *map(str, words)])


def test_the_difference_is_paired_and_a_better_model_is_called_so(tmp_path):
    a, b = score(tmp_path / "a.json", Bright(3.0)), score(tmp_path / "b.json", Bright(0.0))
    done = compare(tmp_path / "a.json", tmp_path / "b.json", "--json")
    assert done.exit_code == 0, done.output
    found = {(d["metric"], d["num_inputs"]): d for d in json.loads(done.stdout)["differences"]}
    assert len(found) == 10
    expected = a.per_image["nll_nats"][:, 2] - b.per_image["nll_nats"][:, 2]
    difference = found["nll_nats", "2"]
    assert difference["mean"] == pytest.approx(expected.mean())
    half = 2.0096 * expected.std(ddof=1) / np.sqrt(50)  # Student, 49 degrees of freedom
    assert difference["high"] - difference["mean"] == pytest.approx(half, rel=1e-3)
    assert difference["share_better"] == pytest.approx((expected > 0).mean())
    assert found["nll_nats", "avg"]["verdict"] == "B is better"
    text = compare(tmp_path / "b.json", tmp_path / "a.json").stdout
    assert "NLL: overall, A is better" in text


def test_what_the_images_do_not_tell_is_called_undecided(tmp_path):
    first = score(tmp_path / "a.json", Toy())
    data = MemoryData()
    other = evaluate(Toy(), data, 40, seed=1)
    write_result(other, tmp_path / "b.json")
    write_per_image(other, data, per_image_path(tmp_path / "b.json"))
    assert (first.per_image["nll_nats"] != other.per_image["nll_nats"]).all()
    text = compare(tmp_path / "a.json", tmp_path / "b.json").stdout
    assert "NLL: overall undecided; more images may tell" in text
    assert "another training seed" in text


def test_the_same_scores_are_called_equal_and_told_apart_by_their_files(tmp_path):
    score(tmp_path / "a.json", Toy())
    text = compare(tmp_path / "a.json", tmp_path / "a.json").stdout
    assert text.count("| equal |") == 10
    assert "NLL: overall, both lose the same on every image" in text
    assert f"A = {tmp_path / 'a.json'}" in text


def test_images_that_both_have_are_compared_wherever_they_stand(tmp_path):
    whole, data = score(tmp_path / "a.json", Bright(3.0), rows=130), MemoryData(rows=130)
    part = evaluate(Toy(), data, 40, 60, evenly_spaced=True)
    write_result(part, tmp_path / "b.json")
    write_per_image(part, data, per_image_path(tmp_path / "b.json"))
    rows = [*range(20), *range(40, 60), *range(80, 100)]
    expected = whole.per_image["mse_min"][rows, 1] - part.per_image["mse_min"][:, 1]
    done = compare(tmp_path / "a.json", tmp_path / "b.json", "--json")
    found = {(d["metric"], d["num_inputs"]): d for d in json.loads(done.stdout)["differences"]}
    assert found["mse_min", "1"]["mean"] == pytest.approx(expected.mean())
    assert found["mse_min", "1"]["num_images"] == 60


def test_another_precision_is_told(tmp_path):
    score(tmp_path / "a.json", Toy(), precision="bf16")
    score(tmp_path / "b.json", Toy())
    told = "The precision differs (bf16 and 32)"
    assert told in compare(tmp_path / "a.json", tmp_path / "b.json").stdout
    assert told not in compare(tmp_path / "b.json", tmp_path / "b.json").stdout


@pytest.mark.parametrize("change", [{"digest": "e" * 64}, {"split": "valid"}])
def test_other_images_are_not_compared(tmp_path, change):
    score(tmp_path / "a.json", Toy())
    score(tmp_path / "b.json", Toy(), **change)
    done = compare(tmp_path / "a.json", tmp_path / "b.json")
    assert done.exit_code == 1
    assert "scores of other images" in done.stderr


def test_missing_or_damaged_scores_are_one_sentence(tmp_path):
    score(tmp_path / "a.json", Toy())
    scores = per_image_path(tmp_path / "a.json")
    scores.write_text(scores.read_text("utf-8")[:-200], "utf-8")
    assert "is damaged" in compare(tmp_path / "a.json", tmp_path / "a.json").stderr
    scores.unlink()
    done = compare(tmp_path / "a.json", tmp_path / "a.json")
    assert done.exit_code == 1
    assert "--per-image" in done.stderr


def test_scores_of_another_result_or_in_another_order_are_refused(tmp_path):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    score(a, Bright(3.0))
    score(b, Bright(0.0))
    own = per_image_path(a).read_text()
    per_image_path(a).write_text(per_image_path(b).read_text())
    assert "holds the scores of another result than a.json" in compare(a, b).stderr
    head, *lines = own.splitlines()
    per_image_path(a).write_text("\n".join([head, *sorted(lines, key=lambda line: line.split(",")[3])]))
    assert "is not where its image's number of inputs belongs" in compare(a, b).stderr
    per_image_path(a).write_text("\n".join([head, *lines, "1" * 200_000]))
    assert "is damaged" in compare(a, b).stderr
    per_image_path(a).write_text("\n".join([head, *lines[:40]]))  # thinned, as those that are published
    assert compare(a, b).exit_code == 0


def test_a_part_of_another_results_scores_is_refused(tmp_path):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    score(a, Bright(3.0))
    score(b, Bright(0.0))
    head, *lines = per_image_path(b).read_text().splitlines()
    per_image_path(a).write_text("\n".join([head, *lines[:40]]))
    assert "holds the scores of another result than a.json" in compare(a, b).stderr
    assert "holds the scores of another result than a.json" in project(a, b).stderr


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (
            lambda lines: [lines[0], *(line.replace(line.split(",")[5], "inf", 1) for line in lines[1:])],
            "a score is inf",
        ),
        (lambda lines: [*lines[:5], *lines[1:5]], "an image stands in it twice"),
    ],
)
def test_scores_that_are_no_evidence_are_refused(harm, said, tmp_path):
    score(tmp_path / "a.json", Bright(3.0))
    path = per_image_path(tmp_path / "a.json")
    path.write_text("\n".join(harm(path.read_text().splitlines())))
    assert said in compare(tmp_path / "a.json", tmp_path / "a.json").stderr


def test_images_that_share_their_draws_err_together():
    """Of twenty images that share one error, the mean is no better known than by one of them."""
    generator = np.random.default_rng(0)
    shared = np.repeat(generator.normal(0, 1, (2000, 30)), 20, axis=1)
    plain, clustered = (
        [
            _difference("mse_min", "0", values, range(600), part).verdict
            for values, part in zip(shared, parts, strict=True)
        ]
        for parts in ([None] * 2000, shared)
    )
    assert plain.count("undecided") / 2000 < 0.5
    assert clustered.count("undecided") / 2000 == pytest.approx(CONFIDENCE, abs=0.017)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0, 10.0])
def test_a_mean_of_which_a_quarter_is_shared_keeps_its_confidence(share):
    """By how much images that share their draws err together is seen from few tiles, and doubted accordingly."""
    generator = np.random.default_rng(1)
    alone = generator.normal(0, 1, (2000, 4, 400))
    alone[:, 0] += np.repeat(generator.normal(0, share, (2000, 20)), 20, axis=1)
    verdicts = [_difference("mse_min", "avg", values.mean(0), range(400), values[0] / 4).verdict for values in alone]
    assert verdicts.count("undecided") / 2000 == pytest.approx(CONFIDENCE, abs=0.017)


def test_images_that_share_nothing_are_independent():
    values = np.random.default_rng(2).normal(0, 1, 600)
    apart = range(0, 12000, 20)
    assert _difference("mse_min", "0", values, apart, values) == _difference("mse_min", "0", values, apart)
    few = values[:180]  # nine tiles
    assert _difference("mse_min", "0", few, range(180), few) == _difference("mse_min", "0", few, range(180))
    balanced = np.tile([-1.0, 1.0], 300)  # whose tiles all have the same mean
    assert _difference("mse_min", "0", balanced, range(600), balanced).low < -0.07


def test_which_part_of_a_score_is_shared():
    by_num_inputs = {"0": np.arange(3.0), "1": np.ones(3), "avg": np.ones(3)}
    shared = with_shared_draws("mse_min", by_num_inputs)
    assert {k: v.tolist() for k, v in shared.items()} == {"0": [0, 1, 2], "avg": [0, 0.25, 0.5]}
    assert with_shared_draws("nll_nats", by_num_inputs) == {}
    assert with_shared_draws("mse_min", {"1": np.ones(3)}) == {}


def test_a_single_image_has_no_interval(tmp_path):
    for name in ("a", "b"):
        score(tmp_path / f"{name}.json", Toy(), rows=1)
    differences = json.loads(compare(tmp_path / "a.json", tmp_path / "b.json", "--json").stdout)["differences"]
    assert {(d["low"], d["high"], d["verdict"]) for d in differences} == {(None, None, "undecided")}


def test_grey_and_colour_are_not_compared(tmp_path):
    for name in ("a", "b"):
        result = score(tmp_path / f"{name}.json", Toy())
    write_result(replace(result, num_dims=3 * result.num_dims), tmp_path / "b.json")
    assert "such as in grey and in colour" in compare(tmp_path / "a.json", tmp_path / "b.json").stderr


def test_students_quantile_is_the_textbooks():
    for freedom, quantile in ((1, 12.706), (2, 4.3027), (3, 3.1824), (10, 2.2281), (49, 2.0096), (1000, 1.9623)):
        assert _student_quantile(freedom) == pytest.approx(quantile, rel=1e-4)


@pytest.mark.parametrize("num_images", [2, 5, 20, 180])
def test_intervals_of_images_without_any_difference_hold_zero_as_often_as_they_say(num_images):
    """Images differ in difficulty, which both models share; what is left is noise, of either sign."""
    generator = np.random.default_rng(num_images)
    difficulty = generator.gamma(4, 25, (4000, 1, num_images))
    a, b = np.moveaxis(difficulty + generator.normal(0, 3, (4000, 2, num_images)), 1, 0)
    verdicts = [_difference("nll_nats", "avg", paired, range(num_images)).verdict for paired in a - b]
    assert verdicts.count("undecided") / 4000 == pytest.approx(CONFIDENCE, abs=0.012)  # 3.5 standard errors
    assert verdicts.count("A is better") == pytest.approx(verdicts.count("B is better"), abs=80)


def test_intervals_find_a_difference_that_is_there():
    generator = np.random.default_rng(0)
    verdicts = [_difference("mse_min", "1", v, range(60)).verdict for v in generator.normal(0.5, 1, (200, 60))]
    assert verdicts.count("B is better") > 180


def test_ten_tiles_are_trusted_as_far_as_ten_numbers():
    """Student's quantile of nine degrees of freedom, 2.26: the normal's 1.96 would be wrong one time in twelve."""
    generator = np.random.default_rng(3)
    shared = np.repeat(generator.normal(0, 1, (4000, 10)), 20, axis=1)
    verdicts = [_difference("mse_min", "0", values, range(200), values).verdict for values in shared]
    assert verdicts.count("undecided") / 4000 == pytest.approx(CONFIDENCE, abs=0.012)


def test_compare_allows_for_the_draws_that_images_share(tmp_path):
    data = MemoryData(rows=220)
    for name, level, seed in (("a", 0.3, 0), ("b", 0.1, 1)):  # pools of draws of their own
        result = evaluate(Bright(level), data, 2, seed=seed)
        write_result(result, tmp_path / f"{name}.json")
        write_per_image(result, data, per_image_path(tmp_path / f"{name}.json"))
    found = json.loads(compare(tmp_path / "a.json", tmp_path / "b.json", "--json").stdout)["differences"]
    scores = [read_per_image(path, read_result(path)) for path in (tmp_path / "a.json", tmp_path / "b.json")]
    of_a, of_b = (each.by_num_inputs("mse_min") for each in scores)
    for k, part in (("0", 1), ("avg", 0.25)):
        (told,) = (d for d in found if (d["metric"], d["num_inputs"]) == ("mse_min", k))
        variance, freedom = spread_of_mean(of_a[k] - of_b[k], range(220), part * (of_a["0"] - of_b["0"]))
        assert freedom < 219
        half = _student_quantile(int(freedom)) * variance**0.5
        assert (told["high"] - told["low"]) / 2 == pytest.approx(half, rel=1e-6)


def test_a_tie_is_not_better():
    assert _difference("mse_min", "1", np.array([1.0, 0.0, 0.0, -1.0]), range(4)).share_better == 0.25


def test_scores_without_marks_are_known_by_their_means(tmp_path):
    """Files of earlier versions do not say whose scores they hold; nearly the same means are another result's."""
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    score(a, Bright(0.3))
    score(b, Bright(0.3001))

    def unmarked(path):
        lines = [line.split(",") for line in path.read_text().splitlines()]
        at = lines[0].index("result")
        return "\n".join(",".join(cell for i, cell in enumerate(line) if i != at) for line in lines)

    own, others = (unmarked(per_image_path(path)) for path in (a, b))
    assert own != others
    per_image_path(a).write_text(others)
    assert "holds the scores of another result than a.json" in compare(a, b).stderr
    per_image_path(a).write_text(own)
    assert compare(a, b).exit_code == 0


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_other_numbers_of_samples_are_noted_whichever_comes_first(tmp_path, names):
    for name, num_samples in (("a", 3), ("b", 5)):
        score(tmp_path / f"{name}.json", Toy(), num_samples=num_samples)
    done = compare(*(tmp_path / f"{name}.json" for name in names))
    assert done.exit_code == 0, done.output
    assert "S differs" in done.stdout
