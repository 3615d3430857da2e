"""Batches: what a step sees depends on the seed and the step alone."""

import dataclasses
import shutil

import h5py
import pytest
import torch

from fusion_datasets import FusionDataset
from fusion_datasets.build import execute
from fusion_datasets.plans import plan_tless
from fusionvae_model import FusionVAEError
from fusionvae_model import data as data_module
from fusionvae_model.config import preset_model
from fusionvae_model.data import TrainingSet, seeded_generator


@pytest.fixture(scope="module")
def data(data_file):
    return TrainingSet(data_file, seed=0)


def rows_of(batch, data):
    """Which training rows a batch shows."""
    everything = data.targets.float() / 255
    return [int(torch.nonzero((everything == target).flatten(1).all(dim=1))[0]) for target in batch.target]


def test_targets_are_those_of_the_file(data, data_file):
    with FusionDataset(data_file, split="train") as file:
        expected = file.read(0, len(file)).target
    assert len(data) == 48
    assert data.targets.dtype == torch.uint8
    assert torch.equal(data.targets, torch.from_numpy(expected).permute(0, 3, 1, 2))


@pytest.mark.parametrize("k", [0, 1, 3, 5])
def test_batch_has_its_shapes_and_range(k, data):
    batch = data.batch(2, 7, max_inputs=3, num_inputs=k)
    assert batch.target.shape == (7, 1, 32, 32)
    assert batch.inputs.shape == (7, k, 1, 32, 32)
    for images in batch.target, batch.inputs:
        assert images.dtype == torch.float32
        assert torch.equal((images * 255).round() / 255, images)
        assert images.numel() == 0 or 0 <= images.min() <= images.max() <= 1


def test_batch_depends_on_seed_and_step_alone(data, data_file):
    fresh, other = TrainingSet(data_file, seed=0), TrainingSet(data_file, seed=1)
    for step in (30, 3, 0, 12):  # in whatever order they are asked for
        one, two = (some.batch(step, 10, max_inputs=3) for some in (data, fresh))
        assert torch.equal(one.target, two.target)
        assert torch.equal(one.inputs, two.inputs)
    assert not torch.equal(data.batch(3, 10, max_inputs=3).target, other.batch(3, 10, max_inputs=3).target)


def test_fixed_number_of_inputs_leaves_the_rest_alone(data):
    drawn = data.batch(5, 10, max_inputs=3)
    fixed = data.batch(5, 10, max_inputs=3, num_inputs=drawn.inputs.shape[1])
    assert torch.equal(drawn.target, fixed.target)
    assert torch.equal(drawn.inputs, fixed.inputs)


def test_global_generator_plays_no_part(data):
    torch.manual_seed(1)
    first = data.batch(4, 10, max_inputs=3)
    torch.manual_seed(2)
    expected = torch.Generator().manual_seed(2)
    assert torch.equal(data.batch(4, 10, max_inputs=3).inputs, first.inputs)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=expected))


@pytest.mark.parametrize("batch_size", [48, 16, 13])
def test_epoch_shows_every_row_at_most_once(batch_size, data):
    steps = data.steps_per_epoch(batch_size)
    assert steps == 48 // batch_size
    epochs = [
        [row for step in range(steps) for row in rows_of(data.batch(e * steps + step, batch_size, max_inputs=0), data)]
        for e in range(2)
    ]
    for rows in epochs:
        assert len(rows) == len(set(rows)) == steps * batch_size
    assert epochs[0] != epochs[1]


def test_inputs_are_drawn_anew_each_time(data):
    first, second = (data.batch(step, 48, max_inputs=3, num_inputs=1) for step in (0, 1))
    order = [rows_of(batch, data) for batch in (first, second)]
    row = order[0][0]
    assert not torch.equal(first.inputs[0], second.inputs[order[1].index(row)])


def test_number_of_inputs_covers_its_range(data):
    counts = {data.batch(step, 1, max_inputs=2).inputs.shape[1] for step in range(60)}
    assert counts == {0, 1, 2}


def test_description_names_the_data(data, data_file):
    with FusionDataset(data_file) as file:
        assert data.description["digest"] == file.digest
    assert data.description["benchmark"] == "fusion-mnist"
    assert data.description["stand_in"] is True


def test_batch_larger_than_the_data(data):
    with pytest.raises(FusionVAEError, match=r"the batch size is 49 but the data has only 48 .*choose less"):
        data.batch(0, 49, max_inputs=3)


def test_images_of_another_size(data, tiny_model):
    remedy = "take the preset fusion-mnist or .*, or add --set image_size=32 --set nll_size=32 --set channels=1$"
    with pytest.raises(FusionVAEError, match=rf"shape \[1, 32, 32\]; the model expects \[1, 16, 16\]: {remedy}"):
        data.check_fits(tiny_model.config)
    data.check_fits(dataclasses.replace(tiny_model.config, image_size=32))
    with pytest.raises(FusionVAEError, match=r"expects \[3, 32, 32\]"):
        data.check_fits(dataclasses.replace(tiny_model.config, image_size=32, channels=3))


def test_a_side_that_cannot_be_halved_so_often(data, tiny_model):
    data.shape = (30, 30, 1)
    with pytest.raises(FusionVAEError, match=r"a side that is a multiple of 4 pixels$"):
        data.check_fits(tiny_model.config)


def foreign(path):
    with h5py.File(path, "w") as file:
        file["images"] = [1]


@pytest.mark.parametrize(
    "make",
    [
        lambda path, good: None,
        lambda path, good: path.mkdir(),
        lambda path, good: path.write_text("no HDF5"),
        lambda path, good: path.write_bytes(b""),
        lambda path, good: path.write_bytes(good.read_bytes()[: good.stat().st_size // 2]),
        lambda path, good: foreign(path),
    ],
    ids=["missing", "a folder", "a text", "empty", "cut", "foreign"],
)
def test_bad_file_is_one_sentence(make, tmp_path, data_file):
    path = tmp_path / "bad.h5"
    make(path, data_file)
    with pytest.raises(FusionVAEError, match=r"bad\.h5"):
        TrainingSet(path, seed=0)


def test_damaged_pixels_are_one_sentence(tmp_path, data_file):
    path = shutil.copy(data_file, tmp_path / "damaged.h5")
    with h5py.File(path) as file:
        chunk = file["train/target"].id.get_chunk_info(0)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)
    with pytest.raises(FusionVAEError, match=r"damaged\.h5"):
        TrainingSet(path, seed=0)


def test_streams_differ_by_purpose_seed_and_index():
    first = {
        float(torch.rand(1, generator=seeded_generator(purpose, seed, index)))
        for purpose in ("order", "latents")
        for seed in (0, 1, 10)
        for index in (0, 1, 10)
    }
    assert len(first) == 18
    again = torch.rand(1, generator=seeded_generator("order", 0, 1))
    assert float(again) in first


@pytest.fixture(scope="module")
def objects_file(tless_folder, tmp_path_factory):
    """FusionT-LESS of painted objects, 12 training targets and 12 occluders for them."""
    path = tmp_path_factory.mktemp("objects") / "fusion-tless.h5"
    return execute(plan_tless(tless_folder, path, limit=12), progress=False)


@pytest.mark.parametrize("channels", [None, 1, 3])
def test_objects_are_laid_over_targets_as_the_model_sees_them(channels, objects_file):
    data = TrainingSet(objects_file, seed=0, channels=channels)
    c = channels or 1  # grey, unless the model takes colours
    assert data.targets.shape == (12, c, 128, 128)
    assert data.occluders.shape == (12, c + 1, 50, 50)
    data.check_fits(dataclasses.replace(preset_model("fusion-tless-small"), channels=c))
    with pytest.raises(FusionVAEError, match=f"channels={c}" + " --set likelihood=logistic-mixture" * (c == 3)):
        data.check_fits(preset_model("fusion-celeba-small" if c == 1 else "fusion-tless-small"))
    batch, again = (data.batch(5, 6, max_inputs=3, num_inputs=3) for _ in range(2))
    assert batch.target.shape == (6, c, 64, 64)
    assert batch.inputs.shape == (6, 3, c, 64, 64)
    for images in batch.target, batch.inputs:
        assert 0 <= images.min() < images.max() <= 1
    shown = (batch.inputs == batch.target[:, None]).all(2).float().mean()
    assert 0.1 < shown < 0.9
    assert torch.equal(batch.inputs, again.inputs)
    assert not torch.equal(batch.target, data.batch(6, 6, max_inputs=3, num_inputs=3).target)


def test_every_batch_is_occluded_anew(data_file, generators_of, monkeypatch):
    monkeypatch.setattr(data_module, "HELD_OUT_AT_ONCE", 5)
    asked, images = generators_of(data_module), TrainingSet(data_file, seed=2, hold_out=12)
    for step in range(6):  # two epochs
        images.batch(step, 12, max_inputs=3)
    assert len(list(images.held_out_batches(max_inputs=3))) == 3
    assert len(set(asked)) == len(asked)
    assert {index for purpose, _, index in asked if purpose == "rendering"} == set(range(6))
