import io

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import MemoryData, Toy

from fusionvae_bench import evaluate
from fusionvae_bench.plates import write_plates
from fusionvae_bench.report import History
from fusionvae_bench.trivial import VisibleMerge


@pytest.fixture(scope="module")
def results():
    return [evaluate(Toy(), MemoryData(), 5, 20, (0, 1, 2, 3, 8)), evaluate(Toy(), MemoryData(), 5, 20, seed=1)]


def test_every_figure_is_drawn_as_png_and_pdf_and_repeats(results, tmp_path):
    models = {"FusionVAE": Toy(), "visible merge": VisibleMerge(torch.zeros(1, 6, 6))}
    steps = np.arange(1, 50.0)
    histories = {"FusionVAE": History(steps, 80 + 300 / steps, np.ones(49), steps)}
    first, again = (
        write_plates(tmp_path / name, results, models, histories, MemoryData(), seed=3) for name in ("a", "b")
    )
    names = {"predictions", "reconstructions", "scores-by-inputs", "visible-and-hidden", "calibration"}
    assert {path.stem for path in first} == names | {"learning-curves"}
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
        if one.suffix == ".png":
            pixels = np.asarray(Image.open(io.BytesIO(one.read_bytes())).convert("L"))
            assert pixels.std() > 5  # something is drawn
        else:
            assert one.read_bytes().startswith(b"%PDF")


def test_without_models_and_data_the_results_are_drawn(results, tmp_path):
    drawn = {path.stem for path in write_plates(tmp_path, results, {}, {}, None)}
    assert drawn == {"scores-by-inputs", "visible-and-hidden", "calibration"}
    assert write_plates(tmp_path, [], {}, {}, None) == []
