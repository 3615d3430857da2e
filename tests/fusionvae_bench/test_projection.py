import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from stand_ins import Config, MemoryData, Toy

from fusionvae_bench import Score, evaluate, write_result
from fusionvae_bench.cli import main
from fusionvae_bench.per_image import per_image_path, write_per_image
from fusionvae_bench.projection import _projected, project
from fusionvae_bench.shared_draws import spread_of_mean

ROWS = 130


def score(path, num_samples, limit=None, *, model=None, data=None, **settings):
    data = data or MemoryData(rows=ROWS)
    result = evaluate(model or Toy(), data, num_samples, limit, **settings)
    write_result(result, path)
    write_per_image(result, data, per_image_path(path))
    return result


def fails(*paths):
    done = CliRunner().invoke(main, ["project", *map(str, paths)])
    assert done.exit_code == 1
    assert done.stdout == ""
    return done.stderr


def test_the_mean_of_all_is_corrected_by_what_changes_where_both_are_known(tmp_path):
    cheap = score(tmp_path / "all.json", 10).per_image
    costly = score(tmp_path / "some.json", 200, 60, evenly_spaced=True).per_image
    rows = [*range(20), *range(40, 60), *range(80, 100)]
    done = CliRunner().invoke(main, ["project", str(tmp_path / "all.json"), str(tmp_path / "some.json"), "--json"])
    assert done.exit_code == 0, done.output
    scores = {(s["metric"], s["num_inputs"]): s for s in json.loads(done.stdout)["scores"]}
    beside = per_image_path(tmp_path / "all.json")
    kept = [line for line in beside.read_text().splitlines() if line.split(",")[0] in ("row", *map(str, rows))]
    beside.write_text("\n".join(kept))  # the lines of other images are of no use here
    assert project(tmp_path / "all.json", tmp_path / "some.json").to_dict()["scores"] == list(scores.values())
    assert len(scores) == 10
    for metric in ("nll_nats", "mse_min"):
        change = (costly[metric] - cheap[metric][rows]).mean(1)
        found = scores[metric, "avg"]
        assert found["change"] == pytest.approx(change.mean())
        assert found["change_standard_error"] == pytest.approx(change.std(ddof=1) / np.sqrt(60))
        assert found["mean"] == pytest.approx(cheap[metric].mean() + change.mean())
        assert found["change"] < 0  # more samples, less loss


def test_what_is_known_of_all_images_needs_no_projection(tmp_path):
    score(tmp_path / "all.json", 10)
    costly = score(tmp_path / "costly.json", 200)
    found = project(tmp_path / "all.json", tmp_path / "costly.json")
    assert found.notes == ()
    for projected in found.scores:
        known = costly.score(projected.num_inputs)
        error = known.nll_standard_error if projected.metric == "nll_nats" else known.mse_min_standard_error
        assert projected.mean == pytest.approx(getattr(known, projected.metric), rel=1e-6)
        assert projected.standard_error == pytest.approx(error, rel=1e-6)


@pytest.mark.parametrize("pull", [0.0, -0.15, 0.15])
def test_the_standard_error_is_that_of_repeating_it_all(pull):
    """Images change by some noise, and the hard ones by more (or less) than the easy ones."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(3000):
        nats = generator.gamma(4, 5, 400)
        known = Score(nll_nats=nats.mean(), nll_standard_error=nats.std(ddof=1) / 20)
        cheap = SimpleNamespace(scores={"avg": known}, num_images=400)
        changes = nats[:40] * pull - 1 + generator.normal(0, 1, 40)
        found.append(_projected("nll_nats", "avg", cheap, nats[:40], changes, changes.var(ddof=1) / 40))
    means, errors = np.array([(score.mean, score.standard_error) for score in found]).T
    assert means.mean() == pytest.approx(20 * (1 + pull) - 1, abs=0.05)
    assert errors.mean() == pytest.approx(means.std(), rel=0.05)


def test_the_first_images_are_said_to_be_the_first(tmp_path):
    score(tmp_path / "all.json", 10)
    score(tmp_path / "first.json", 50, 40)
    score(tmp_path / "evenly.json", 50, 40, evenly_spaced=True)
    texts = [
        CliRunner().invoke(main, ["project", str(tmp_path / "all.json"), str(tmp_path / name)]).stdout
        for name in ("first.json", "evenly.json")
    ]
    assert "measured on the first 40 images, which need not be like the rest" in texts[0]
    assert "need not be like the rest" not in texts[1]
    assert "| S = 10, all | change | S = 50, all |" in texts[1]


def test_what_does_not_belong_together_is_one_sentence(tmp_path):
    many, few = tmp_path / "many.json", tmp_path / "few.json"
    score(many, 10)
    score(few, 20, 40)
    assert "40 of the 130 images in" in fails(few, many)
    score(few, 20, 40, model=Toy().requires_grad_(False).apply(lambda m: m.level.data.fill_(1)))
    assert "different models" in fails(many, few)
    score(few, 20, 40, data=MemoryData(rows=ROWS, digest="e" * 64))
    assert "different data" in fails(many, few)
    score(few, 20, 1)
    assert "1 of the 1 images" in fails(many, few)
    score(many, 10, metrics="nll")
    score(few, 20, 40, metrics="mse")
    assert "no metric and number of inputs in common" in fails(many, few)
    score(few, 20, 40, metrics="mse")
    score(many, 10, metrics="nll")
    assert "no metric and number of inputs in common" in fails(many, few)


def test_changes_of_images_that_share_their_draws_are_known_less_well(tmp_path):
    """Without inputs all images of a tile change by what one pool of draws becomes another."""
    costly = score(tmp_path / "some.json", 9, data=MemoryData(rows=220))
    cheap = score(tmp_path / "all.json", 3, data=MemoryData(rows=220))
    before, after = (np.array([r.per_image["mse_min"][:, 0]]).ravel() for r in (cheap, costly))
    tiles = np.arange(220) // 20
    expected, _ = spread_of_mean(after - before, range(220), after - before)
    projected = project(tmp_path / "all.json", tmp_path / "some.json").scores
    (found,) = (s for s in projected if (s.metric, s.num_inputs) == ("mse_min", "0"))
    assert found.change_standard_error == pytest.approx(expected**0.5, rel=1e-6)
    by_tile = [(after - before)[tiles == tile].mean() for tile in range(11)]
    assert found.change_standard_error == pytest.approx(np.std(by_tile, ddof=1) / 11**0.5, rel=1e-3)


def test_the_table_tells_the_error_of_the_change_and_that_of_the_mean_apart(tmp_path):
    score(tmp_path / "all.json", 3)
    score(tmp_path / "some.json", 9, 60)
    found = project(tmp_path / "all.json", tmp_path / "some.json")
    first = found.scores[0]
    assert f"{first.change_standard_error:.2f}" != f"{first.standard_error:.2f}"
    expected = f"± {first.change_standard_error:.2f} | {first.mean:.2f} ± {first.standard_error:.2f} |"
    assert expected in found.to_text()


def test_scores_of_another_split_or_another_model_carry_nothing_over(tmp_path):
    score(tmp_path / "many.json", 3)
    score(tmp_path / "few.json", 5, 40, data=MemoryData(rows=ROWS, split="valid"))
    assert "different data" in fails(tmp_path / "many.json", tmp_path / "few.json")
    other = Toy()
    other.config = Config(kind="fusionvae", nll_size=4, likelihood="bernoulli", aggregation="mean-add")
    score(tmp_path / "few.json", 5, 40, model=other)
    assert "different models" in fails(tmp_path / "many.json", tmp_path / "few.json")
