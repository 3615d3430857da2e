"""Data sets in torchvision's manner: the same items from any number of workers, however they were started."""

import hashlib
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bad_server import bad_server, whole
from torch.utils.data import DataLoader

from fusion_datasets import FusionDataset, FusionDatasetsError
from fusion_datasets.sources import originals
from fusion_datasets.sources.download import RemoteFile
from fusion_datasets.sources.originals import PublishedFiles
from fusion_datasets.sources.standin import StandInCelebA
from fusion_datasets.torch import FusionCelebA, FusionItem, FusionMNIST, FusionTLESS, RandomNumInputs

TRAIN_ROWS = 90


@pytest.fixture(scope="module")
def root(benchmark_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the benchmark's file."""
    folder = tmp_path_factory.mktemp("root")
    shutil.copy(benchmark_file, folder / "fusion-mnist.h5")
    return folder


def test_items_of_a_frozen_split_are_those_of_the_file(root: Path) -> None:
    data, file = FusionMNIST(root, "test"), FusionDataset(root / "fusion-mnist.h5")
    assert len(data) == len(file) == 40
    target, inputs, masks = data[7]
    assert (target.shape, inputs.shape, masks.shape) == ((1, 32, 32), (3, 1, 32, 32), (3, 32, 32))
    assert (target.dtype, inputs.dtype, masks.dtype) == (torch.float32, torch.float32, torch.bool)
    assert np.array_equal((inputs * 255).round().numpy()[:, 0], file[7].inputs[..., 0])  # type: ignore[index]
    assert np.array_equal(masks.numpy(), file[7].masks)
    assert np.array_equal((target * 255).round().numpy()[0], file[7].target[..., 0])


def test_training_inputs_depend_on_seed_epoch_and_row_alone(root: Path) -> None:
    data = FusionMNIST(root, seed=4)
    first = data[3].inputs
    assert torch.equal(data[3].inputs, first)
    assert torch.equal(FusionMNIST(root, seed=4)[3].inputs, first)
    others = [data[4].inputs, FusionMNIST(root, seed=5)[3].inputs]
    data.set_epoch(1)
    others.append(data[3].inputs)
    assert torch.equal(data[3].target, FusionMNIST(root)[3].target)
    assert not any(torch.equal(first, other) for other in others)
    data.set_epoch(0)
    assert torch.equal(data[3].inputs, first)


def test_unrendered_items_are_the_stored_targets(root: Path) -> None:
    target, inputs, masks = FusionMNIST(root, render=False)[2]
    assert torch.equal(target, FusionMNIST(root)[2].target)
    assert (inputs.shape, masks.shape) == ((0, 1, 32, 32), (0, 32, 32))


def test_a_transform_sees_the_whole_item(root: Path) -> None:
    def flipped(item: FusionItem) -> Any:
        return FusionItem(*(part.flip(-1) for part in item))

    plain, turned = FusionMNIST(root, "test")[0], FusionMNIST(root, "test", flipped)[0]
    assert all(torch.equal(a.flip(-1), b) for a, b in zip(plain, turned, strict=True))


def loaded(data: FusionMNIST, epochs: int = 2, **settings: Any) -> list[str]:
    """Digest and k of every batch of some epochs, in a shuffled order of their own."""
    loader: DataLoader[Any] = DataLoader(data, 16, collate_fn=RandomNumInputs(seed=1), **settings)
    said = []
    for epoch in range(epochs):
        data.set_epoch(epoch)
        for batch in loader:
            assert batch.inputs.shape[:2] == batch.masks.shape[:2]
            parts = b"".join(part.contiguous().numpy().tobytes() for part in batch)
            said.append(f"{batch.inputs.shape[1]} {hashlib.sha256(parts).hexdigest()}")
    return said


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a machine of one core
@pytest.mark.parametrize(
    "workers",
    [
        {"num_workers": 1, "multiprocessing_context": "fork"},
        {"num_workers": 2, "multiprocessing_context": "fork", "persistent_workers": True},
        {"num_workers": 2, "multiprocessing_context": "spawn", "persistent_workers": True},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_change_nothing(root: Path, workers: dict[str, Any]) -> None:
    alone = loaded(FusionMNIST(root, seed=2))
    assert len(alone) == 12
    assert len(set(alone)) >= 10  # batches without inputs recur
    data = FusionMNIST(root, seed=2)
    assert data[0] is not None  # the handle is open when the workers start
    assert loaded(data, **workers) == alone


@pytest.mark.cuda
def test_batches_arrive_in_pinned_memory(root: Path) -> None:
    loader: DataLoader[Any] = DataLoader(FusionMNIST(root), 8, collate_fn=RandomNumInputs(), pin_memory=True)
    for batch in loader:
        assert isinstance(batch, FusionItem)
        assert all(part.is_pinned() for part in batch if part.numel())


def test_the_number_of_inputs_is_uniform_and_the_batch_keeps_the_first(root: Path) -> None:
    data = FusionMNIST(root)
    collate = RandomNumInputs()
    counts: Counter[int] = Counter()
    for epoch in range(8):
        data.set_epoch(epoch)
        for row in range(50):
            item = data[row]
            batch = collate([item])
            counts[batch.inputs.shape[1]] += 1
            assert torch.equal(batch.inputs[0], item.inputs[: batch.inputs.shape[1]])
    assert sorted(counts) == [0, 1, 2, 3]
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 16.3  # χ² of 3 degrees of freedom, p = 0.001
    with pytest.raises(FusionDatasetsError, match="items with 0 inputs; expected at least 3"):
        collate([FusionMNIST(root, render=False)[0]])
    for number in (-1, 2.5):
        with pytest.raises(FusionDatasetsError, match="expected a whole number from 0 up"):
            RandomNumInputs(number)  # type: ignore[arg-type]
    with pytest.raises(FusionDatasetsError, match="got no items"):
        collate([])


def test_whole_numbers_and_the_benchmark_are_checked_at_once(root: Path, tmp_path: Path) -> None:
    data = FusionMNIST(root)
    for number in (-1, 1.7):
        with pytest.raises(FusionDatasetsError, match=f"got epoch {number}; expected a whole number"):
            data.set_epoch(number)  # type: ignore[arg-type]
        with pytest.raises(FusionDatasetsError, match=f"got seed {number}; expected a whole number"):
            FusionMNIST(root, seed=number)  # type: ignore[arg-type]
    assert data.epoch == 0
    shutil.copy(root / "fusion-mnist.h5", tmp_path / "fusion-celeba.h5")
    with pytest.raises(FusionDatasetsError, match=r"holds FusionMNIST; expected fusion-celeba"):
        FusionCelebA(tmp_path)


@pytest.mark.parametrize("below", [".", "MNIST/raw", "mnist"])
def test_a_missing_file_is_built_from_what_lies_there(digits_folder: Path, tmp_path: Path, below: str) -> None:
    shutil.copytree(digits_folder, tmp_path / below, dirs_exist_ok=True)
    assert len(FusionMNIST(tmp_path)) == TRAIN_ROWS
    assert (tmp_path / "fusion-mnist.h5").is_file()


FACES = {"train": 5, "valid": 2, "test": 2}


@pytest.mark.parametrize("below", [".", "celeba"])
def test_celeba_is_built_from_what_lies_there(tmp_path: Path, below: str) -> None:
    StandInCelebA(*FACES.values()).write(tmp_path / below, progress=False)
    data = FusionCelebA(tmp_path, split=None, transform=lambda item: item.inputs.shape, grey=True)
    assert (data.data.split, len(data), data[0]) == ("valid", 2, (3, 1, 64, 64))
    shutil.rmtree(tmp_path / below / "img_align_celeba")
    assert [len(FusionCelebA(tmp_path, split)) for split in FACES] == [5, 2, 2]  # type: ignore[arg-type]


def test_tless_is_built_from_what_lies_there(tless_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tless_folder, tmp_path / "tless", copy_function=lambda here, there: Path(there).symlink_to(here))
    target, inputs, masks = FusionTLESS(tmp_path)[0]
    assert (target.shape, inputs.shape, masks.shape) == ((1, 64, 64), (3, 1, 64, 64), (3, 64, 64))
    assert (tmp_path / "fusion-tless.h5").is_file()


def test_celeba_is_fetched_and_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "published"
    StandInCelebA(*FACES.values()).write(here, progress=False)
    with zipfile.ZipFile(here / "img_align_celeba.zip", "w") as archive:
        for photograph in sorted((here / "img_align_celeba").iterdir()):
            archive.write(photograph, photograph.relative_to(here))
    with bad_server() as server:
        files = tuple(
            RemoteFile(name, (server.at(f"/{name}", whole((here / name).read_bytes())),), kind)
            for name, kind in (("img_align_celeba.zip", "zip"), ("list_eval_partition.txt", "text"))
        )
        published = PublishedFiles("celeba", "CelebA", "https://example.org", "LicenseRef-CelebA", files)
        monkeypatch.setattr(originals, "originals", lambda _: published)
        data = FusionCelebA(tmp_path / "root", download=True)
    assert len(data) == FACES["train"]
    assert data.data.source["name"] == "celeba-like"
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == ["celeba", "fusion-celeba.h5"]


def test_nothing_to_build_from_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FusionDatasetsError, match=r"nor originals to build it from \(.*MNIST's four.*download=True"):
        FusionMNIST(tmp_path)
    nowhere = RemoteFile("train-images-idx3-ubyte.gz", (), "gzip")
    published = PublishedFiles("mnist", "MNIST", "https://example.org", "CC0-1.0", (nowhere,))
    monkeypatch.setattr(originals, "originals", lambda _: published)
    with pytest.raises(FusionDatasetsError, match="could not be fetched"):
        FusionMNIST(tmp_path, download=True)
    for kind, said in (
        (FusionCelebA, r"holds neither fusion-celeba.h5 nor originals .* lacks list_eval_partition.txt"),
        (FusionTLESS, r"holds neither fusion-tless.h5 nor originals .* in no layout known"),
    ):
        with pytest.raises(FusionDatasetsError, match=f"{said}.*download=True"):
            kind(tmp_path)
    (tmp_path / "celeba").mkdir()
    with pytest.raises(FusionDatasetsError, match=rf"\({tmp_path / 'celeba'} lacks list_eval_partition.txt"):
        FusionCelebA(tmp_path)
    assert not list(tmp_path.glob("*.h5*"))
    with pytest.raises(FusionDatasetsError, match="expected a whole number from 0 up"):
        FusionMNIST(tmp_path, seed=-1)
