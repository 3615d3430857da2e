"""A small stand-in of MNIST, and a benchmark file built from it."""

import sys
from collections.abc import Iterator
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


@pytest.fixture(scope="session", autouse=True)
def one_day() -> Iterator[None]:
    """The day that publications name, also where a test runs over midnight."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SOURCE_DATE_EPOCH", "1000000000")  # 9 September 2001
        yield
