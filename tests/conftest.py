"""What every suite shares: the originals, the text of the paper, reproducible examples."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples on every run and machine; a shared core must not fail a law by being slow.
settings.register_profile("reproducible", derandomize=True, deadline=None, database=None)
settings.load_profile("reproducible")

IDX_FILES = tuple(
    f"{part}-{kind}.gz" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
)


def data_root() -> Path | None:
    """The folder of the originals, or None where FUSION_DATA_ROOT names none with the four files of MNIST."""
    root = Path(os.environ.get("FUSION_DATA_ROOT") or os.devnull)
    return root if all((root / "mnist" / name).is_file() for name in IDX_FILES) else None


def paper_file() -> Path | None:
    """The text of the paper, or None where FUSION_PAPER_TEXT names no file."""
    path = Path(os.environ.get("FUSION_PAPER_TEXT") or os.devnull)
    return path if path.is_file() else None


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


REQUIREMENTS = {
    "originals": (data_root, "FUSION_DATA_ROOT names no folder with mnist/ and its four IDX files"),
    "paper": (paper_file, "FUSION_PAPER_TEXT names no text of the paper"),
    "cuda": (has_cuda, "no CUDA device"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips, with the reason, each marked test whose requirement this machine does not meet."""
    for item in items:
        for marker, (met, reason) in REQUIREMENTS.items():
            if item.get_closest_marker(marker) and not met():
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The folder of the four original IDX files; for tests marked `originals`."""
    root = data_root()
    assert root is not None, "a test that uses mnist_root must be marked originals"
    return root / "mnist"


@pytest.fixture(scope="session")
def tless_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Painted objects, 11 photographs of each target and 3 of the others, laid out as T-LESS's in release v2."""
    import cv2
    import numpy as np

    folder = tmp_path_factory.mktemp("t-less")
    for object_id in range(1, 31):
        images = folder / "train_primesense" / f"{object_id:02d}" / "rgb"
        images.mkdir(parents=True)
        for number in range(11 if 19 <= object_id <= 24 else 3):
            image = np.zeros((400, 400, 3), np.uint8)
            angle, colour = 30 * number + 12 * object_id, (130 + 4 * object_id, 200 - 3 * object_id, 160 + 8 * number)
            box = cv2.boxPoints(((200, 200), (60 + 3 * object_id, 110), angle))
            cv2.fillPoly(image, [np.rint(box).astype(int)], colour, cv2.LINE_AA)
            cv2.circle(image, (200 + number, 200), 8 + object_id % 7, (60, 60, 60), cv2.FILLED, cv2.LINE_AA)
            assert cv2.imwrite(str(images / f"{number:04d}.png"), image)
    return folder


@pytest.fixture(scope="session")
def paper_text() -> str:
    """The whole text of the paper; for tests marked `paper`."""
    path = paper_file()
    assert path is not None, "a test that uses paper_text must be marked paper"
    return path.read_text(encoding="utf-8")
