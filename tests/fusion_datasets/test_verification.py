"""Verification finds whatever was altered, and says where."""

import hashlib
import json
import random
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from fusion_datasets import FusionDataset, FusionDatasetsError
from fusion_datasets.cli import main
from fusion_datasets.seal import SEAL_BYTES, is_sealed, seal
from fusion_datasets.sources.mnist import MnistSource
from fusion_datasets.sources.standin import StandInMnist
from fusion_datasets.store import ContentDigest
from fusion_datasets.verification import verify

ARRAYS = (
    *("train/target", "train/index", "train/label"),
    *("test/target", "test/inputs", "test/masks", "test/index", "test/label"),
)


@pytest.fixture
def altered_file(benchmark_file: Path, tmp_path: Path) -> Path:
    """A copy to alter."""
    return Path(shutil.copy(benchmark_file, tmp_path / "altered.h5"))


def alter(path: Path, array: str, row: int, *, forge: bool = False) -> None:
    """Change one value of a row; a forger also mends the recorded digest and the seal."""
    with h5py.File(path, "r+") as file:
        rows = file[array][row : row + 1]
        rows.reshape(-1)[-1] ^= 1
        file[array][row] = rows[0]
        if forge:
            digest = ContentDigest(file[array].dtype, file[array].shape)
            digest.update(file[array][:])
            recorded = json.loads(file.attrs["content_sha256"])
            file.attrs["content_sha256"] = json.dumps(recorded | {array: digest.hexdigest()})
    if forge:
        seal(path)


def test_a_whole_file_passes(benchmark_file: Path, digits_folder: Path) -> None:
    header = verify(benchmark_file, progress=False)
    assert header.rows == {"train": 90, "test": 40}
    assert verify(benchmark_file, MnistSource(digits_folder), progress=False) == header


@pytest.mark.parametrize("array", ARRAYS)
def test_one_flipped_bit_is_found_by_its_digest(altered_file: Path, array: str) -> None:
    alter(altered_file, array, 23)
    with pytest.raises(FusionDatasetsError, match=f"/{array} does not have the digest"):
        verify(altered_file, progress=False)


@pytest.mark.parametrize("array", ARRAYS)
def test_a_forged_digest_is_found_by_the_source(altered_file: Path, digits_folder: Path, array: str) -> None:
    alter(altered_file, array, 23, forge=True)
    verify(altered_file, progress=False)
    with pytest.raises(FusionDatasetsError, match=f"/{array}, row 23, differs from what its source yields"):
        verify(altered_file, MnistSource(digits_folder), progress=False)


@pytest.mark.parametrize(("array", "value"), [("test/masks", 2), ("train/index", -1), ("test/label", -5)])
def test_values_out_of_range(altered_file: Path, array: str, value: int) -> None:
    with h5py.File(altered_file, "r+") as file:
        file[array][11] = value
    with pytest.raises(FusionDatasetsError, match=f"/{array}, row 11, is out of range"):
        verify(altered_file, progress=False)


def test_another_source(benchmark_file: Path, tmp_path: Path) -> None:
    other = StandInMnist(90, 40, seed=6).write(tmp_path / "other", progress=False)
    with pytest.raises(FusionDatasetsError, match="built from another source"):
        verify(benchmark_file, other, progress=False)


def test_digests_are_those_of_type_shape_and_bytes(benchmark_file: Path) -> None:
    masks = FusionDataset(benchmark_file).read(0, 40).masks
    assert masks is not None
    expected = hashlib.sha256(b"|u1 [40, 3, 32, 32]\n" + masks.astype("u1").tobytes()).hexdigest()
    assert FusionDataset(benchmark_file).content_sha256["test/masks"] == expected


@pytest.mark.parametrize("array", [np.zeros((2, 3), "u1"), np.zeros((3, 2), "u1"), np.zeros((2, 3), "i1")])
def test_digests_tell_shapes_and_types_apart(array: np.ndarray) -> None:
    reference, other = ContentDigest(np.dtype("u1"), (6,)), ContentDigest(array.dtype, array.shape)
    reference.update(np.zeros(6, "u1"))
    other.update(array)
    assert reference.hexdigest() != other.hexdigest()


def test_a_sample_is_compared_bit_for_bit(altered_file: Path, digits_folder: Path) -> None:
    source = MnistSource(digits_folder)
    for sample in (1, 40, 1000):
        verify(altered_file, source, sample=sample, progress=False)
    alter(altered_file, "test/inputs", 23, forge=True)
    with pytest.raises(FusionDatasetsError, match="/test/inputs, row 23, differs"):
        verify(altered_file, source, sample=40, progress=False)
    found = 0
    for seed in range(20):
        try:
            verify(altered_file, source, sample=20, seed=seed, progress=False)
        except FusionDatasetsError:
            found += 1
    assert 4 <= found <= 16  # the sample is another one each time, and half of the rows
    other = StandInMnist(9, 4, seed=5).write(altered_file.parent / "other", progress=False)
    with pytest.raises(FusionDatasetsError, match="built from 40 test images, more than the source given has"):
        verify(altered_file, other, sample=2, progress=False)


def test_any_flipped_byte_is_found(altered_file: Path) -> None:
    content = altered_file.read_bytes()
    chance = random.Random(0)
    head, body = range(0, 3000, 60), chance.sample(range(3000, len(content)), 150)
    for position in (*head, *body, len(content) - 1):
        flipped = bytearray(content)
        flipped[position] ^= 1 << chance.randrange(8)
        altered_file.write_bytes(flipped)
        with pytest.raises(FusionDatasetsError) as caught:
            verify(altered_file, progress=False)
        assert "\n" not in str(caught.value), position


def test_attributes_are_sealed_too(altered_file: Path) -> None:
    assert is_sealed(altered_file)
    with h5py.File(altered_file, "r+") as file:
        file.attrs["license"] = "CC0-2.0"
    with pytest.raises(FusionDatasetsError, match="not those that were sealed"):
        verify(altered_file, progress=False)


def test_files_without_a_seal_are_read(benchmark_file: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.h5"
    bare.write_bytes(benchmark_file.read_bytes()[SEAL_BYTES:])
    assert is_sealed(bare) is None
    said = CliRunner().invoke(main, ["verify", str(bare)])
    assert said.stdout.endswith("130 rows, sound arrays, but no seal over the bytes outside them\n")
    assert verify(bare, progress=False).rows == {"train": 90, "test": 40}
