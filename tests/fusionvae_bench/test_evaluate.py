import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.lib.recfunctions import structured_to_unstructured
from stand_ins import Config, MemoryData, Multiplying, Toy

from fusionvae_bench import estimate_nll, evaluate, read_result, write_result
from fusionvae_bench.errors import DataError, ModelError, NonFiniteWeightError, ResultError
from fusionvae_bench.evaluate import (
    Request,
    answers,
    expected_seconds,
    fingerprint,
    has_scored,
    score_tiles,
    weights_digest,
)
from fusionvae_bench.metrics import bits_per_dim
from fusionvae_bench.scoring import read_images
from fusionvae_bench.shared_draws import spread_of_mean
from fusionvae_bench.tiles import POSTERIOR, PRIOR, TILE_ROWS, Share, Tile, TileStore
from fusionvae_model import FusionVAEError


def numbers(result) -> np.ndarray:
    """Scores of each image as plain numbers, in which NaN equals NaN."""
    return structured_to_unstructured(result.per_image)


def same_but_for_time(first, second) -> bool:
    times = {"seconds": 0.0, "created": ""}
    return dataclasses.replace(first, **times) == dataclasses.replace(second, **times)


def test_scores_are_averages_over_the_images():
    result = evaluate(Toy(), MemoryData(), 30, seed=3)
    images = result.per_image
    assert images.shape == (50, 4)
    for column, k in enumerate(result.num_inputs):
        score, nats = result.score(k), images["nll_nats"][:, column]
        assert score.nll_nats == pytest.approx(nats.mean())
        assert score.nll_standard_error == pytest.approx(nats.std(ddof=1) / np.sqrt(50))
        assert score.nll_bits_per_dim == pytest.approx(bits_per_dim(nats.mean(), 16))
        assert score.mse_min == pytest.approx(images["mse_min"][:, column].mean())
        assert score.ess == pytest.approx(images["ess"][:, column].mean())
        assert 1 <= score.ess <= 30
    average = result.score("avg")
    assert average.nll_nats == pytest.approx(np.mean([result.score(k).nll_nats for k in range(4)]))
    paired = images["nll_nats"].mean(1)
    assert average.nll_standard_error == pytest.approx(paired.std(ddof=1) / np.sqrt(50))


def test_gains_pair_the_images():
    result = evaluate(Toy(), MemoryData(), 20)
    (gain,) = [g for g in result.gains if g.metric == "nll_nats" and g.after == 2]
    nats = result.per_image["nll_nats"]
    difference = nats[:, 1] - nats[:, 2]
    assert gain.mean == pytest.approx(difference.mean())
    assert gain.share_improved == pytest.approx((difference > 0).mean())
    assert gain.standard_error == pytest.approx(difference.std(ddof=1) / np.sqrt(50))


@pytest.mark.parametrize("limit", [1, TILE_ROWS - 1, TILE_ROWS, TILE_ROWS + 7, 50])
def test_the_score_of_an_image_does_not_depend_on_the_limit(limit):
    whole, part = evaluate(Toy(), MemoryData(), 30), evaluate(Toy(), MemoryData(), 30, limit)
    assert part.num_images == limit
    np.testing.assert_array_equal(numbers(part), numbers(whole)[:limit])
    assert part.fingerprint == whole.fingerprint


@pytest.mark.parametrize(
    ("limit", "starts"),
    [(20, [0]), (40, [0, 60]), (45, [0, 40, 80]), (120, range(0, 120, 20)), (125, range(0, 140, 20))],
)
def test_evenly_spaced_images_have_the_scores_that_they_have_among_all(limit, starts):
    data = MemoryData(rows=130)
    whole, part = evaluate(Toy(), data, 10), evaluate(Toy(), data, 10, limit, evenly_spaced=True)
    rows = [row for start in starts for row in range(start, min(start + TILE_ROWS, 130))][:limit]
    assert part.num_images == limit
    assert part.evenly_spaced == (limit <= 120)  # else none is left out but the last
    np.testing.assert_array_equal(numbers(part), numbers(whole)[rows])
    floor = evaluate(Toy(), data, 10, limit).entropy_floor_nats
    assert (part.entropy_floor_nats == floor) == (rows == list(range(limit)))


def test_shares_of_evenly_spaced_images_are_alike(tmp_path):
    models, data = (Toy(), Toy()), MemoryData(rows=160)
    request, device = Request(num_samples=10, limit=80, evenly_spaced=True), torch.device("cpu")
    identity = fingerprint(Toy(), data, request, device)
    for rank, model in enumerate(models):
        score_tiles(model, data, request, TileStore(tmp_path, identity, rank=rank), device, share=Share(rank, 2))
    assert [model.seen for model in models] == [40, 40]


def test_mse_does_not_depend_on_which_other_numbers_of_inputs_are_asked_for():
    whole, part = evaluate(Toy(), MemoryData(), 10), evaluate(Toy(), MemoryData(), 10, num_inputs=(2,))
    np.testing.assert_array_equal(part.per_image["mse_min"][:, 0], whole.per_image["mse_min"][:, 2])
    assert set(part.scores) == {"2"}  # no average without the paper's four
    assert part.gains == ()


def test_inputs_beyond_the_stored_ones_are_rendered():
    few, many = evaluate(Toy(), MemoryData(), 10), evaluate(Toy(), MemoryData(), 10, num_inputs=(0, 1, 2, 3, 8))
    np.testing.assert_array_equal(numbers(many)[:, :4], numbers(few))
    assert many.score("avg") == few.score("avg")
    assert many.score(8).nll_nats not in (None, many.score(3).nll_nats)
    assert many.score(8).mse_visible not in (None, many.score(3).mse_visible)


def test_visible_and_hidden_pixels_make_up_the_error_of_the_mean():
    data = MemoryData()
    result = evaluate(Toy(), data, 10)
    for k in (1, 2, 3):
        visible = data.masks[:, :k].any(1).mean((1, 2))
        images = result.per_image[:, k]
        parts = visible * images["mse_visible"] + (1 - visible) * images["mse_hidden"]
        np.testing.assert_allclose(parts, images["mse_mean"], rtol=1e-5)
    assert result.score(0).mse_visible is None
    assert result.score(0).mse_hidden == pytest.approx(result.score(0).mse_mean, rel=1e-5)


def test_the_calibration_counts_every_pixel_and_adds_up_to_the_error():
    result = evaluate(Toy(), MemoryData(), 10)
    for k in range(4):
        bins = result.calibration[str(k)]
        pixels = np.array([point.pixels for point in bins])
        assert pixels.sum() == 50 * 6 * 6
        error = (pixels * np.square([point.actual for point in bins])).sum() / pixels.sum()
        assert error == pytest.approx(result.score(k).mse_mean, rel=1e-5)
        spread = (pixels * np.square([point.predicted for point in bins])).sum() / pixels.sum()
        assert spread == pytest.approx(result.score(k).pixel_standard_deviation ** 2, rel=1e-5)
        assert [point.predicted for point in bins] == sorted(point.predicted for point in bins)


def test_shares_of_several_processes_make_the_same_result(tmp_path):
    alone = evaluate(Toy(), MemoryData(), 10)
    folder, models = tmp_path / "tiles", (Toy(), Toy())
    data, request, device = MemoryData(), Request(num_samples=10), torch.device("cpu")
    identity = fingerprint(Toy(), data, request, device)
    for rank, model in enumerate(models):
        store = TileStore(folder, identity, rank=rank)
        score_tiles(model, data, request, store, device, share=Share(rank, 2))
    assert [model.seen for model in models] == [TILE_ROWS + 10, TILE_ROWS]
    idle = Toy()
    assert same_but_for_time(evaluate(idle, data, 10, partial=folder), alone)
    assert idle.seen == 0


def test_data_other_than_trained_on_are_recorded():
    trained = {"dataset_digest": "e" * 64}
    (warning,) = evaluate(Toy(), MemoryData(), 5, 5, training=trained).warnings
    assert "trained on other data (digest eeeeeeeeeeee…)" in warning
    assert evaluate(Toy(), MemoryData(), 5, 5, training={"dataset_digest": "d" * 64}).warnings == ()


def test_a_single_bad_draw_is_named():
    class Broken(Toy):
        def sample(self, *args, **kwargs):
            samples = super().sample(*args, **kwargs).clone()
            samples[-1, 2, 0, 0, 0] = torch.nan
            return samples

    with pytest.raises(ModelError, match=r"rows 0 to 19, 1 input.*image 19, sample 2"):
        evaluate(Broken(), MemoryData(), 10, num_inputs=(1,))


def test_seeds_matter_and_repeat():
    first, again, other = (evaluate(Toy(), MemoryData(), 10, 20, seed=s) for s in (0, 0, 1))
    assert same_but_for_time(first, again)
    assert (first.per_image["nll_nats"] != other.per_image["nll_nats"]).all()


def test_the_average_floor_is_stored_and_a_score_below_it_is_called_a_bug():
    class Flattering(Toy):
        gift = 0.0

        def log_importance_weights(self, *args, **kwargs):
            return super().log_importance_weights(*args, **kwargs) + self.gift

    honest = evaluate(Toy(), MemoryData(), 10)
    assert 0 < honest.entropy_floor_nats < honest.score(3).nll_nats
    gaps = [honest.score(k).nll_nats - honest.entropy_floor_nats for k in range(4)]
    model = Flattering()
    model.gift = min(gaps) - 0.01
    assert evaluate(model, MemoryData(), 10).warnings == ()
    model.gift = max(gaps) + 0.01
    (warning, *others) = evaluate(model, MemoryData(), 10).warnings
    assert len(others) == 4  # each k, and the average
    assert "below the entropy of the grey values" in warning
    assert "bug" in warning


def test_another_likelihood_has_no_floor():
    model = Toy()
    model.config = Config(likelihood="discretized-logistic", nll_size=4)
    assert evaluate(model, MemoryData(), 5, 5).entropy_floor_nats is None


def test_what_a_model_does_not_offer_is_left_out():
    class OnlyLikelihood:
        log_importance_weights = Toy.log_importance_weights
        _mean = Toy._mean
        level, seen = torch.tensor(0.1), 0

    class OnlySample:
        sample = Toy.sample
        _mean = Toy._mean
        level, size = torch.tensor(0.1), 6

    with torch.no_grad():
        likelihood, sampler = (evaluate(m(), MemoryData(), 6, 10) for m in (OnlyLikelihood, OnlySample))
    assert likelihood.score(1).mse_min is None
    assert likelihood.score(1).nll_nats > 0
    assert {g.metric for g in likelihood.gains} == {"nll_nats"}
    assert sampler.score(1).nll_nats is None
    assert sampler.entropy_floor_nats is None
    assert sampler.score(1).mse_min > 0


def test_a_broken_weight_is_named_by_its_row_in_the_data():
    class Broken(Toy):
        def log_importance_weights(self, target, *args, **kwargs):
            weights = super().log_importance_weights(target, *args, **kwargs)
            weights[5] = torch.where(torch.tensor(self.seen > TILE_ROWS), torch.inf, weights[5])
            return weights

    with pytest.raises(NonFiniteWeightError, match="image 25, sample 0"):
        evaluate(Broken(), MemoryData(), 10, num_inputs=(1,))


def test_an_evaluation_resumes_from_its_tiles(tmp_path):
    folder = tmp_path / "r.json.partial"
    evaluate(Toy(), MemoryData(), 10, limit=2 * TILE_ROWS, partial=folder)
    model = Toy()
    resumed = evaluate(model, MemoryData(), 10, partial=folder)
    assert model.seen == 10 * 1  # the third tile alone, in one chunk
    assert same_but_for_time(resumed, evaluate(Toy(), MemoryData(), 10))


def test_tiles_of_other_settings_are_refused(tmp_path):
    folder = tmp_path / "r.json.partial"
    evaluate(Toy(), MemoryData(), 10, limit=5, partial=folder)
    changes = [{"seed": 1}, {"num_samples": 11}, {"num_inputs": (0, 1)}, {"precision": "bf16"}, {"metrics": "nll"}]
    for change in changes:
        with pytest.raises(ResultError, match="--force"):
            evaluate(Toy(), MemoryData(), **{"num_samples": 10, "partial": folder, **change})
    for other in ({"digest": "e" * 64}, {"split": "valid"}):
        with pytest.raises(ResultError, match="--force"):
            evaluate(Toy(), MemoryData(**other), 10, partial=folder)
    trained = Toy()
    torch.nn.init.constant_(trained.level, 0.2)
    with pytest.raises(ResultError, match="--force"):
        evaluate(trained, MemoryData(), 10, partial=folder)


def test_models_that_differ_in_their_configuration_alone_share_nothing(tmp_path):
    folder = tmp_path / "r.json.partial"
    evaluate(Toy(), MemoryData(), 10, limit=5, partial=folder)
    other = Toy()
    other.config = Config(kind="fusionvae", nll_size=4, likelihood="bernoulli", aggregation="mean-add")
    with pytest.raises(ResultError, match="--force"):
        evaluate(other, MemoryData(), 10, limit=5, partial=folder)


def test_a_result_answers_for_its_model_alone_and_so_do_those_without_the_configuration_in_their_fingerprint():
    data, request, device = MemoryData(), Request(num_samples=10, limit=5), torch.device("cpu")
    result = evaluate(Toy(), data, 10, limit=5)
    older = dataclasses.replace(result, fingerprint=fingerprint(Toy(), data, request, device, with_config=False))
    other = Toy()
    other.config = Config(kind="fusionvae", nll_size=4, likelihood="bernoulli", aggregation="mean-add")
    for known in (result, older):
        assert answers(known, Toy(), data, request, device)
        assert not answers(known, other, data, request, device)
        assert not answers(known, Toy(), data, dataclasses.replace(request, limit=6), device)
        assert not answers(known, Toy(), data, dataclasses.replace(request, seed=1), device)
        assert not answers(known, Toy(), data, dataclasses.replace(request, metrics="nll"), device)
        assert not answers(known, Toy(), MemoryData(split="valid"), request, device)


def test_a_setting_added_later_changes_no_identity_while_it_is_at_its_default():
    @dataclasses.dataclass
    class Earlier:
        kind: str
        nll_size: int = 4

        def to_dict(self):
            return dataclasses.asdict(self)

    @dataclasses.dataclass
    class Later(Earlier):
        modalities: tuple = ()

    def toy(config):
        model = Toy()
        model.config = config
        return model

    data, request, device = MemoryData(), Request(num_samples=2, limit=5), torch.device("cpu")
    result = evaluate(toy(Earlier("fusionvae")), data, 2, 5)
    assert answers(result, toy(Later("fusionvae")), data, request, device)
    assert not answers(result, toy(Later("fusionvae", modalities=(3,))), data, request, device)


def test_a_damaged_tile_is_named(tmp_path):
    folder = tmp_path / "r.json.partial"
    evaluate(Toy(), MemoryData(), 10, limit=5, partial=folder)
    (folder / "tile-000000.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(ResultError, match=r"tile-000000.npz cannot be read .*; delete it"):
        evaluate(Toy(), MemoryData(), 10, partial=folder)


SCRIPT = """
from fusionvae_bench import evaluate, write_result
from pathlib import Path
from stand_ins import MemoryData, Toy
write_result(evaluate(Toy(), MemoryData(), 10, partial=Path("r.json.partial")), "r.json")
"""


def test_kill_minus_nine_leaves_nothing_half_written_and_costs_one_tile(tmp_path):
    from fusionvae_bench import read_result

    def call(**variables: str) -> int:
        folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        paths = {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": str(torch.get_num_threads())}
        return subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=tmp_path, env={**os.environ, **paths, **variables}, check=False
        ).returncode

    assert call(TOY_DIES_AFTER=str(2 * TILE_ROWS)) == -signal.SIGKILL
    assert not (tmp_path / "r.json").exists()
    tiles = sorted(p.name for p in (tmp_path / "r.json.partial").iterdir())
    assert tiles == ["fingerprint", "tile-000000.npz", "tile-000001.npz"]
    assert call(TOY_DIES_AFTER="10") == 0  # only the ten rows of the last tile were left
    assert same_but_for_time(read_result(tmp_path / "r.json"), evaluate(Toy(), MemoryData(), 10))


@pytest.mark.parametrize(
    ("change", "error", "expected"),
    [
        ({"model": object()}, ModelError, "neither log_importance_weights nor sample"),
        ({"model": Toy(nll_size=6)}, ModelError, "6×6 pixels, FusionMNIST is scored over 4×4"),
        ({"num_inputs": (0, 9)}, DataError, "stores 3 inputs and can render 8"),
        ({"num_inputs": (1, 0)}, DataError, "ascending"),
        ({"num_inputs": ()}, DataError, "empty"),
        ({"num_samples": 0}, DataError, "at least 1"),
        ({"limit": 0}, DataError, "at least 1"),
        ({"seed": -1}, DataError, "0 or more"),
        *(({"metrics": chosen}, DataError, "got metrics .*, expected one of 'all', 'nll'") for chosen in ("NLL", None)),
        *(({"precision": chosen}, DataError, "got precision .*, expected one of '32'") for chosen in ("fp16", 32)),
        *(
            ({name: value}, DataError, f"got {name}=.*, expected a whole number")
            for name in ("num_samples", "limit", "seed")
            for value in (True, 2.0, "2")
        ),
        ({"num_inputs": (False, True)}, DataError, "got num_inputs=False"),
        ({"training": {"path": Path()}}, DataError, "cannot be stored as JSON"),
        ({"num_inputs": 3}, DataError, "got num_inputs=3, expected several"),
        ({"device": "nonsense"}, FusionVAEError, "got device 'nonsense'; expected one that PyTorch knows"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_any_work(change, error, expected):
    with pytest.raises(error, match=expected):
        evaluate(**{"model": Toy(), "data": MemoryData(), **change})


def test_the_time_is_told_from_a_tile_of_few_samples(monkeypatch):
    asked = []

    def score_tile(model, data, tile, request, device):
        asked.append(request.num_samples)
        return SimpleNamespace(seconds=request.num_samples / 10)

    evaluation = sys.modules["fusionvae_bench.evaluate"]
    monkeypatch.setattr(evaluation, "score_tile", score_tile)
    monkeypatch.setattr(evaluation, "PIXELS_PROBED", 6 * 6 * TILE_ROWS * 8)
    seconds = [
        expected_seconds(Toy(), MemoryData(), Request(num_samples=s, limit=n), torch.device("cpu"))
        for s, n in ((80, None), (80, 20), (4, None))
    ]
    assert asked == [1, 8, 1, 8, 1, 4]
    assert seconds == pytest.approx([3 * 8.0, 8.0, 3 * 0.4])  # 50 rows are three tiles


def test_whole_numbers_of_numpy_are_whole_numbers(tmp_path):
    data, counts = MemoryData(), np.arange(4)
    result = evaluate(Toy(), data, np.int64(3), np.int32(5), counts, np.uint8(1), partial=str(tmp_path / "tiles"))
    assert same_but_for_time(result, evaluate(Toy(), data, 3, 5, seed=1))
    write_result(result, tmp_path / "r.json")
    assert read_result(tmp_path / "r.json").num_inputs == (0, 1, 2, 3)


def test_a_model_for_other_images_is_refused():
    model = Toy()
    model.config = Config(image_size=64, channels=3, nll_size=64)
    with pytest.raises(ModelError, match="64×64×3, FusionMNIST has 6×6×1"):
        evaluate(model, MemoryData())


def test_a_split_without_frozen_inputs_is_refused():
    data = MemoryData(split="train")
    rows = data.read
    data.read = lambda start, stop: type(rows(0, 1))(**{**vars(rows(start, stop)), "inputs": None})
    with pytest.raises(DataError, match="no frozen inputs"):
        evaluate(Toy(), data)


def test_every_seed_tile_and_purpose_has_a_stream_of_its_own():
    """Tiles that drew alike would err alike, and every standard error over them would be too small."""

    def first(seed, number, *purpose):
        tile = Tile(number, TILE_ROWS * number, TILE_ROWS * (number + 1), TILE_ROWS)
        return torch.rand((), generator=tile.generator(seed, *purpose, device=torch.device("cpu"))).item()

    streams = [(s, n, *p) for s in (0, 1) for n in (0, 1, 2) for p in ((POSTERIOR,), (PRIOR, 0), (PRIOR, 1))]
    assert len({first(*stream) for stream in streams}) == len(streams)
    assert first(*streams[4]) == first(*streams[4])


def test_what_draws_nothing_has_no_calibration():
    still = Toy()
    still.deterministic = True
    assert not any(evaluate(still, MemoryData(), 5, 20).calibration.values())
    assert all(evaluate(Toy(), MemoryData(), 5, 20).calibration.values())


def test_every_purpose_and_every_tile_has_a_stream_of_its_own(monkeypatch):
    asked, make = set(), Tile.generator

    def record(self, *key, device):
        asked.add((self.number, *key))
        return make(self, *key, device=device)

    monkeypatch.setattr(Tile, "generator", record)
    evaluate(Toy(), MemoryData(rows=40), 2, seed=5)
    purposes = [(POSTERIOR,), *((PRIOR, k) for k in range(4))]
    assert asked == {(tile, 5, *purpose) for tile in (0, 1) for purpose in purposes}


def test_scores_without_inputs_know_which_images_share_their_draws():
    result = evaluate(Toy(), MemoryData(rows=220), 2)
    for k, columns in ((0, [0]), ("avg", [0, 1, 2, 3])):
        values = result.per_image["mse_min"][:, columns].mean(1)
        variance, freedom = spread_of_mean(values, range(220), result.per_image["mse_min"][:, 0] / len(columns))
        assert freedom < 219  # the tiles decide
        assert result.score(k).mse_min_standard_error == pytest.approx(variance**0.5)
    change = -np.diff(result.per_image["mse_min"][:, :2])[:, 0]
    variance, _ = spread_of_mean(change, range(220), result.per_image["mse_min"][:, 0])
    gain = next(g for g in result.gains if (g.metric, g.before) == ("mse_min", 0))
    assert gain.standard_error == pytest.approx(variance**0.5)


def test_an_image_is_scored_as_the_estimator_scores_it():
    data, result = MemoryData(rows=20), evaluate(Toy(), MemoryData(rows=20), 30)
    target, inputs, _ = read_images(data, 0, 20, 3, torch.device("cpu"))
    noise = Tile(0, 0, 20, 20).generator(0, POSTERIOR, device=torch.device("cpu"))
    expected = estimate_nll(Toy(), target, inputs, 30, (0, 1, 2, 3), noise)
    np.testing.assert_allclose(result.per_image["nll_nats"], expected.nats)
    np.testing.assert_allclose(result.per_image["nll_sampling_error"], expected.standard_error)


def test_visible_and_hidden_pixels_make_up_a_colour_image():
    data = MemoryData()
    data.shape = (*data.shape[:2], 3)
    data.target, data.inputs = (images.repeat(3, axis=-1) for images in (data.target, data.inputs))
    data.target[..., 1] //= 2

    class Grey:
        def sample(self, inputs, *, num_samples, generator=None):
            return torch.full((len(inputs), num_samples, *inputs.shape[2:]), 0.5)

    scores = evaluate(Grey(), data, 3).per_image[:, 2]
    visible = data.masks[:, :2].any(1).mean((1, 2))
    parts = visible * scores["mse_visible"] + (1 - visible) * scores["mse_hidden"]
    np.testing.assert_allclose(parts, scores["mse_mean"], rtol=1e-5)


@pytest.mark.parametrize("metrics", ["nll", "mse"])
def test_both_kinds_of_scores_are_computed_in_the_precision_asked_for(metrics):
    model = Multiplying()
    evaluate(model, MemoryData(rows=20), 3, metrics=metrics, precision="bf16")
    assert set(model.types) == {torch.bfloat16}


def test_a_result_belongs_to_weights_not_to_a_configuration():
    result, other = evaluate(Toy(), MemoryData(), 2, 5), Toy()
    torch.nn.init.constant_(other.level, 0.2)
    assert has_scored(result, Toy())
    assert not has_scored(result, other)
    one, two = torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2)
    two.running_mean.fill_(1)
    assert weights_digest(one) != weights_digest(two)


def test_the_time_is_that_of_all_tiles(tmp_path):
    result = evaluate(Toy(), MemoryData(), 2, partial=tmp_path)
    tiles = [float(np.load(path)["seconds"]) for path in tmp_path.glob("tile-*.npz")]
    assert len(tiles) == 3
    assert result.seconds == pytest.approx(sum(tiles))


def test_tiles_that_do_not_say_whose_they_are_count_for_nothing(tmp_path):
    evaluate(Toy(), MemoryData(), 5, seed=1, partial=tmp_path)
    (tmp_path / "fingerprint").unlink()
    assert evaluate(Toy(), MemoryData(), 5, partial=tmp_path).scores == evaluate(Toy(), MemoryData(), 5).scores


def test_later_processes_wait_until_the_first_has_said_whose_tiles_these_are(tmp_path):
    later = threading.Thread(target=TileStore, args=(tmp_path, "ours"), kwargs={"rank": 1}, daemon=True)
    later.start()
    later.join(0.3)
    assert later.is_alive()
    assert not list(tmp_path.iterdir())
    TileStore(tmp_path, "ours")
    later.join(10)
    assert not later.is_alive()


def test_a_full_disk_leaves_no_half_tile(tmp_path, full_disk):
    result = evaluate(Toy(), MemoryData(), 2, 5)
    store, tile = TileStore(tmp_path, "ours"), Tile(0, 0, 20, 20)
    full_disk()
    with pytest.raises(ResultError, match="No space left"):
        store.write(tile, SimpleNamespace(scores=result.per_image, calibration=np.zeros(1), seconds=1.0))
    assert tile not in store
