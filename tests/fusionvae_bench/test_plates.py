import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from stand_ins import MemoryData, Toy

from fusionvae_bench import evaluate
from fusionvae_bench.curves import learning_curves
from fusionvae_bench.figures import HEAT_SCALE, heat_map, svg
from fusionvae_bench.gallery import make_gallery
from fusionvae_bench.plates import draw_plates, write_plates
from fusionvae_bench.report import History
from fusionvae_bench.trivial import VisibleMerge


@pytest.fixture(scope="module")
def results():
    return [evaluate(Toy(), MemoryData(), 5, 20, (0, 1, 2, 3, 8)), evaluate(Toy(), MemoryData(), 5, 20, seed=1)]


def test_every_figure_is_drawn_as_png_and_pdf_and_repeats(results, tmp_path):
    models = {"FusionVAE": Toy(), "visible merge": VisibleMerge(torch.zeros(1, 6, 6))}
    steps = np.arange(1, 50.0)
    histories = {"FusionVAE": History(steps, 80 + 300 / steps, np.ones(49), steps)}
    gallery = make_gallery(Toy(), MemoryData(), num_samples=5, num_unconditional=2)
    first, again = (
        write_plates(tmp_path / name, draw_plates(results, models, histories, MemoryData(), gallery, seed=3))
        for name in ("a", "b")
    )
    names = {"predictions", "reconstructions", "scores-by-inputs", "visible-and-hidden", "calibration"}
    assert {path.stem for path in first} == names | {"learning-curves", "uncertainty"}
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
        if one.suffix == ".png":
            pixels = np.asarray(Image.open(io.BytesIO(one.read_bytes())).convert("L"))
            assert pixels.std() > 5  # something is drawn
        else:
            assert one.read_bytes().startswith(b"%PDF")


def test_without_models_and_data_the_results_are_drawn(results):
    assert set(draw_plates(results, {}, {}, None)) == {"scores-by-inputs", "visible-and-hidden", "calibration"}
    assert draw_plates([], {}, {}, None) == {}


def test_plates_repeat_on_the_page_and_take_its_colours(results):
    steps = np.arange(1, 50.0)
    history = History(steps / 10, 80 + 300 / steps, np.minimum(1, steps / 15), steps)

    def draw() -> dict[str, str]:
        plates = draw_plates(results, {"FusionVAE": Toy()}, {"FusionVAE": history}, MemoryData())
        return {name: svg(figure, name, "") for name, figure in plates.items()}

    first = draw()
    assert first == draw()
    ids = [found for text in first.values() for found in re.findall(r'\bid="([^"]+)"', text)]
    assert len(ids) == len(set(ids))
    for text in first.values():
        assert text.startswith("<svg viewBox")
        assert "var(--ink)" in text
        assert "#101010" not in text
        referred = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
        assert referred <= set(re.findall(r'\bid="([^"]+)"', text))
    assert "β &lt; 1" in first["learning-curves"]
    assert f"entropy of the grey values, {results[0].entropy_floor_nats:.1f}" in first["learning-curves"]


def test_pictures_reach_the_page_pixel_by_pixel():
    plate = svg(draw_plates([], {"FusionVAE": Toy()}, {}, MemoryData())["predictions"], "predictions", "")
    (picture,) = re.findall(r"data:image/png;base64,([^\"]+)", plate)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))
    target = MemoryData().target[0, ..., 0]
    left = 3 * (6 + 2) - 2 + 10  # three inputs of 6 pixels, gaps of 2, a wide one of 10
    np.testing.assert_array_equal(pixels[:6, left : left + 6, 0], target)
    assert (pixels[:6, 6:8, 3] == 0).all()


def test_uncertainty_stands_beside_the_error_on_one_scale():
    gallery = make_gallery(Toy(), MemoryData(), num_samples=5, num_unconditional=2)
    figure = draw_plates([], {"FusionVAE": Toy()}, {}, None, gallery)["uncertainty"]
    (canvas,) = (np.asarray(image.get_array()) for image in figure.axes[0].images)
    lefts = [3 * (6 + 2) - 2 + 10 + place * (6 + 10) for place in range(4)]  # target, mean, uncertainty, error
    fusion = gallery.rows[0][0]
    shown = [fusion.target, fusion.mean, heat_map(fusion.uncertainty), heat_map(fusion.error)]
    for left, expected in zip(lefts, shown, strict=True):
        np.testing.assert_allclose(canvas[:6, left : left + 6, :3], np.broadcast_to(expected, (6, 6, 3)))
    assert figure.axes[1].get_xlim() == (0, HEAT_SCALE)
    assert [text.get_text() for text in figure.axes[0].texts].count("k = 3") == 3  # of each row


def test_several_learning_curves_share_one_plate():
    steps = np.arange(1, 50.0)
    histories = {name: History(steps, 80 + 300 / steps, np.ones(49), steps) for name in ("FCN", "CVAE")}
    text = svg(learning_curves(histories), "learning-curves", "")
    assert "FCN" in text
    assert "CVAE" in text
    assert "β" not in text
