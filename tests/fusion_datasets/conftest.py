"""A small stand-in of MNIST, and a benchmark file built from it."""

import sys
from pathlib import Path

import pytest

from fusion_datasets.build import build_mnist
from fusion_datasets.sources.standin import StandInMnist

sys.path.insert(0, str(Path(__file__).parent))  # for bad_server.py, fake_hub.py, kills.py

TRAIN_ROWS, TEST_ROWS = 90, 40


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST's four files, holding 90 + 40 rendered digits."""
    folder = tmp_path_factory.mktemp("stand-in")
    StandInMnist(TRAIN_ROWS, TEST_ROWS, seed=5).write(folder, progress=False)
    return folder


@pytest.fixture(scope="session")
def benchmark_file(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FusionMNIST of these digits; never written to."""
    return build_mnist(digits_folder, tmp_path_factory.mktemp("built") / "fusion-mnist.h5", seed=3, progress=False)
