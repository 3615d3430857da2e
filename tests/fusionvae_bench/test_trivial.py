import re
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from fusion_datasets.cli import main as datasets
from fusionvae_bench import read_result
from fusionvae_bench.cli import main
from fusionvae_bench.trivial import NearestImage, TrainingMean, VisibleMerge


def fuse(model, inputs, masks):
    samples = model.sample(inputs, num_samples=3, masks=masks)
    assert samples.shape == (len(inputs), 3, *inputs.shape[2:])
    assert (samples == samples[:, :1]).all()
    return samples[:, 0]


def scene(b=5, k=3, c=2, size=7):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(b, k, c, size, size, generator=generator)
    masks = torch.rand(b, k, size, size, generator=generator) < 0.4
    return inputs, masks, torch.rand(40, c, size, size, generator=generator)


def test_the_merge_averages_what_is_visible_and_takes_the_mean_elsewhere():
    inputs, masks, images = scene()
    merged = fuse(VisibleMerge(images.mean(0)), inputs, masks)
    for b, row, column in np.ndindex(5, 7, 7):
        shown = [inputs[b, i, :, row, column] for i in range(3) if masks[b, i, row, column]]
        expected = torch.stack(shown).mean(0) if shown else images.mean(0)[:, row, column]
        torch.testing.assert_close(merged[b, :, row, column], expected)


def test_the_nearest_image_is_nearest_where_something_is_visible():
    inputs, masks, images = scene()
    found = fuse(NearestImage(images), inputs, masks)
    for b in range(5):
        distance = ((inputs[b][None] - images[:, None]).square() * masks[b, None, :, None]).sum((1, 2, 3, 4))
        torch.testing.assert_close(found[b], images[distance.argmin()])
    assert len(found.unique(dim=0)) > 1


def test_a_training_image_finds_itself_and_searching_in_parts_changes_nothing(monkeypatch):
    _, _, images = scene()
    everywhere = torch.ones(40, 1, 7, 7, dtype=torch.bool)
    whole = NearestImage(images)
    assert torch.equal(fuse(whole, images[:, None], everywhere), images)
    monkeypatch.setattr("fusionvae_bench.trivial._IMAGES_PER_PRODUCT", 7)
    assert torch.equal(fuse(whole, images[:, None], everywhere), images)


def test_without_inputs_there_is_the_mean_and_what_is_nearest_to_it():
    inputs, masks, images = scene()
    nothing, hidden, mean = inputs[:, :0], masks[:, :0], images.mean(0)
    for model in (TrainingMean(mean), VisibleMerge(mean)):
        torch.testing.assert_close(fuse(model, nothing, hidden), mean.expand(5, -1, -1, -1))
    nearest = images[(images - mean).square().sum((1, 2, 3)).argmin()]
    torch.testing.assert_close(fuse(NearestImage(images), nothing, hidden), nearest.expand(5, -1, -1, -1))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "data.h5"
    words = ["build", "mnist", "--source", "stand-in", "--stand-in-count", "240", "--output", str(file)]
    assert CliRunner().invoke(datasets, words).exit_code == 0
    return file


@pytest.mark.parametrize("name", ["merge", "mean", "nearest"])
def test_a_baseline_is_scored_by_name_and_has_no_likelihood(data, tmp_path, name):
    words = [
        "run",
        "--weights",
        f"trivial:{name}",
        "--data",
        str(data),
        "--limit",
        "30",
        "-o",
        str(tmp_path / "r.json"),
    ]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    result = read_result(tmp_path / "r.json")
    errors = [result.score(k).mse_min for k in range(4)]
    assert result.score(0).nll_nats is None
    assert result.num_parameters == 0
    assert result.score(3).mse_one == result.score(3).mse_min  # one answer
    if name == "mean":
        assert len(set(errors)) == 1
    else:
        assert errors == sorted(errors, reverse=True)
        assert errors[3] < 0.8 * errors[0]


def test_several_processes_give_the_same_numbers(data, tmp_path):
    numbers = []
    for workers in ("1", "2"):
        words = ["run", "--weights", "trivial:merge", "--data", str(data), "--workers", workers]
        done = CliRunner().invoke(main, [*words, "-o", str(tmp_path / f"{workers}.json")])
        assert done.exit_code == 0, done.output
        numbers.append(read_result(tmp_path / f"{workers}.json").scores)
    assert numbers[0] == numbers[1]
    assert not list(tmp_path.glob("*.partial"))


def test_the_model_of_the_readme_merges_like_the_baseline():
    text = (Path(__file__).parents[2] / "packages" / "fusion-bench" / "README.md").read_text("utf-8")
    (code,) = re.findall(r"<!-- tested -->\n```python\n(.*?)```", text, re.DOTALL)
    assert len(code.strip().splitlines()) <= 10
    scope: dict = {}
    exec(code, scope)
    inputs, masks, images = scene()
    torch.testing.assert_close(
        fuse(scope["VisibleMerge"](), inputs, masks), fuse(VisibleMerge(torch.zeros_like(images[0])), inputs, masks)
    )
