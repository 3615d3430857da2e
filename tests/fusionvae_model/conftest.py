"""Models small enough for laws that need many passes, and a training that takes moments."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # plain.py and variants.py
from variants import TINY

from fusion_datasets.build import build_mnist
from fusionvae_model import PRESETS, FusionVAE, ModelConfig, TrainConfig, trainer
from fusionvae_model.config import Preset
from fusionvae_model.training import prepare, train

PRESET_NAME = "fusion-mnist-small"
QUICK = Preset(
    ModelConfig(
        image_size=32,
        channels=1,
        nll_size=28,
        likelihood="bernoulli",
        groups_per_scale=(1, 1),
        latent_channels=2,
        base_channels=2,
        preprocessing_blocks=2,
        cells_per_block=1,
        encoder_cells=1,
        decoder_cells=1,
    ),
    TrainConfig(epochs=2, batch_size=12, warmup_fraction=0.1, regularization=1e-3),
)


@pytest.fixture
def tiny_model():
    """An untrained FusionVAE of 16×16 grey images."""
    torch.manual_seed(0)
    return FusionVAE(TINY)


@pytest.fixture(scope="session")
def data_file(tmp_path_factory):
    """FusionMNIST of 48 stand-in digits; never written to."""
    path = tmp_path_factory.mktemp("data") / "fusion-mnist.h5"
    return build_mnist("stand-in", path, stand_in_count=48, progress=False)


def quicken(patch):
    """Put a preset of moments under the name of the small one."""
    patch.setitem(PRESETS, PRESET_NAME, QUICK)
    patch.setattr(trainer, "STATISTICS_BATCHES_PER_KIND", 1)
    patch.setattr(trainer, "GAP_BATCHES_PER_KIND", 1)


@pytest.fixture
def quick_preset(monkeypatch):
    """For the length of a test, the small preset trains in moments; its name."""
    quicken(monkeypatch)
    return PRESET_NAME


@pytest.fixture(scope="session")
def quick_train(data_file):
    """`quick_train(output, **options)`: train the quick preset, 8 steps of 12 images unless told otherwise."""

    def run(output, *, data=data_file, log_every=3, **options):
        with pytest.MonkeyPatch.context() as patch:
            quicken(patch)
            return train(data, output, preset_name=PRESET_NAME, device="cpu", log_every=log_every, **options)

    return run


@pytest.fixture
def quick_trainer(data_file, quick_preset, tmp_path):
    """`quick_trainer(**options)`: a trainer that stands where `quick_train` would begin or go on."""

    def make(output=tmp_path / "run", **options):
        length = {"epochs": None, "minutes": None, "batch_size": None}
        defaults = length | {"seed": 0, "device": "cpu", "precision": "32", "resume": False}
        return prepare(data_file, output, preset_name=quick_preset, **(defaults | options))

    return make


@pytest.fixture
def generators_of(monkeypatch):
    """`generators_of(module)`: the list of (purpose, seed, index) that the module asks generators for from now on."""

    def record_in(module):
        asked, make = [], module.seeded_generator

        def record(purpose, seed, index, **options):
            asked.append((purpose, seed, index))
            return make(purpose, seed, index, **options)

        monkeypatch.setattr(module, "seeded_generator", record)
        return asked

    return record_in


@pytest.fixture(scope="session")
def finished_run(quick_train, tmp_path_factory):
    """The folder of a run that nothing interrupted; never written to."""
    output = tmp_path_factory.mktemp("uninterrupted") / "run"
    quick_train(output)
    return output


@pytest.fixture
def run_copy(finished_run, tmp_path):
    """A copy of the finished run, to spoil."""
    return shutil.copytree(finished_run, tmp_path / "copy")


@pytest.fixture(scope="session")
def quick_settings():
    """Name, model and training of the quick preset as words for another process."""
    return PRESET_NAME, json.dumps(QUICK.model.to_dict()), json.dumps(QUICK.train.to_dict())


@pytest.fixture(scope="session")
def python(tmp_path_factory):
    """`python(script, *arguments)`: run it in a process of its own, on one thread."""
    folder = tmp_path_factory.mktemp("process")

    def run(script, *arguments):
        command = [sys.executable, "-c", script, *map(str, arguments)]
        variables = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300)

    return run
