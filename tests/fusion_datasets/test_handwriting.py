"""Stand-in digits: as varied as handwriting, with MNIST's statistics and geometry, from a seed alone."""

from pathlib import Path

import numpy as np
import pytest

from fusion_datasets import FusionDatasetsError
from fusion_datasets.sources.handwriting import SKELETONS, render_digits
from fusion_datasets.sources.mnist import MnistSource
from fusion_datasets.sources.standin import StandInMnist


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    clean = render_digits(0, "train", 0, 2000)
    assert clean.labels is not None
    return clean.images[..., 0], clean.labels


def test_statistics_are_near_those_of_mnist(digits: tuple[np.ndarray, np.ndarray]) -> None:
    grey = digits[0] / 255
    assert grey.mean() == pytest.approx(0.1307, abs=0.006)
    assert grey.std() == pytest.approx(0.3081, abs=0.01)
    assert (grey > 0).mean() == pytest.approx(0.191, abs=0.015)  # measured of MNIST
    assert (grey > 0.98).mean() == pytest.approx(0.0736, abs=0.01)
    assert grey.mean(axis=(1, 2)).std() == pytest.approx(0.043, abs=0.006)


def test_digits_fill_twenty_pixels_and_are_centred_by_mass(digits: tuple[np.ndarray, np.ndarray]) -> None:
    images = digits[0].astype(float)
    inked = images > 64
    longer = np.maximum(inked.any(axis=1).sum(axis=1), inked.any(axis=2).sum(axis=1))
    assert longer.min() >= 18
    assert longer.max() <= 21
    mass = images.sum(axis=(1, 2))
    for axis in (1, 2):
        centre = (images.sum(axis=3 - axis) @ np.arange(28)) / mass
        assert np.abs(centre - 13.5).max() <= 0.51
    border = np.ones((28, 28), bool)
    border[1:-1, 1:-1] = False
    assert images[:, border].mean() < 0.5


def test_all_digits_and_all_skeletons_are_written(digits: tuple[np.ndarray, np.ndarray]) -> None:
    assert np.bincount(digits[1], minlength=10).min() > 150
    assert {skeleton.digit for skeleton in SKELETONS} == set(range(10))
    for skeleton in SKELETONS:
        assert {i for stroke in skeleton.strokes for i in stroke} == set(range(len(skeleton.points)))
        basis = skeleton.basis()
        assert np.allclose(basis.sum(axis=1), 1)  # a shifted skeleton gives a shifted stroke
        for point in skeleton.points:  # the pen passes through every control point
            assert np.linalg.norm(basis @ np.array(skeleton.points) - point, axis=1).min() < 1e-6


def test_no_two_are_alike(digits: tuple[np.ndarray, np.ndarray]) -> None:
    assert len({image.tobytes() for image in digits[0]}) == len(digits[0])


def test_a_nearest_neighbour_reads_them(digits: tuple[np.ndarray, np.ndarray]) -> None:
    known, labels = digits[0].reshape(2000, -1).astype(np.float32), digits[1]
    clean = render_digits(0, "test", 0, 300)
    images, truth = clean.images, clean.labels
    query = images.reshape(300, -1).astype(np.float32)
    squared = (known**2).sum(axis=1) - 2 * query @ known.T
    accuracy = (labels[squared.argmin(axis=1)] == truth).mean()
    assert 0.87 < accuracy < 0.99  # 0.87: the first 2000 digits of MNIST reading its first 2000 test digits


def test_a_digit_is_a_function_of_seed_split_and_index(digits: tuple[np.ndarray, np.ndarray]) -> None:
    clean = render_digits(0, "train", 700, 730)
    images, labels = clean.images, clean.labels
    assert labels is not None
    assert np.array_equal(images[..., 0], digits[0][700:730])
    assert np.array_equal(labels, digits[1][700:730])
    for seed, split in ((1, "train"), (0, "test")):
        assert not np.array_equal(render_digits(seed, split, 700, 730).images, images)  # type: ignore[arg-type]


def test_written_files_read_back_and_are_written_once(tmp_path: Path) -> None:
    recipe = StandInMnist(30, 5, seed=2)
    source = recipe.write(tmp_path, progress=False)
    assert (source.num_images("train"), source.num_images("test")) == (30, 5)
    clean = source.read("test", 0, 5)
    expected = render_digits(2, "test", 0, 5)
    assert np.array_equal(clean.images, expected.images)
    assert np.array_equal(clean.labels, expected.labels)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.gz")}
    recipe.write(tmp_path, progress=False)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.gz")} == before
    assert recipe.description.items() <= source.description.items()


def test_other_files_are_never_overwritten(tmp_path: Path) -> None:
    StandInMnist(8, 2).write(tmp_path, progress=False)
    with pytest.raises(FusionDatasetsError, match="holds another stand-in"):
        StandInMnist(8, 2, seed=1).write(tmp_path, progress=False)
    (tmp_path / "STAND-IN.json").unlink()
    with pytest.raises(FusionDatasetsError, match="no stand-in"):
        StandInMnist(8, 2).write(tmp_path, progress=False)
    assert MnistSource(tmp_path).num_images("train") == 8


@pytest.mark.parametrize("numbers", [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_impossible_recipes(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(FusionDatasetsError, match="at least one digit"):
        StandInMnist(*numbers)
