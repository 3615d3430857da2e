import base64
import io

import numpy as np
from PIL import Image
from stand_ins import MemoryData, Toy

from fusionvae_bench.figures import colour_stops, heat_uri, mosaic, png_uri
from fusionvae_bench.gallery import make_gallery


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))


def test_pixels_survive_the_way_into_the_page():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    np.testing.assert_array_equal(decoded(png_uri(image / 255)), image)
    np.testing.assert_array_equal(decoded(png_uri(image[..., :1] / 255)), image[..., 0])


def test_heat_grows_brighter_and_ends_at_its_scale():
    values = np.linspace(0, 1, 11).reshape(1, 11, 1)
    brightness = decoded(heat_uri(values, 0.5)).astype(float).sum(-1)[0]
    assert (np.diff(brightness[:6]) > 0).all()
    assert (brightness[5:] == brightness[-1]).all()
    assert colour_stops(3).count("#") == 3


def test_a_mosaic_runs_row_by_row():
    tiles = np.arange(7.0).reshape(7, 1, 1, 1) * np.ones((1, 2, 3, 1))
    grid = mosaic(tiles, 3)
    assert grid.shape == (4, 9, 1)
    np.testing.assert_array_equal(grid[::2, ::3, 0], [[0, 1, 2], [3, 4, 5]])


def test_the_gallery_shows_different_classes_and_repeats():
    model, data = Toy(), MemoryData()
    first, again = (make_gallery(model, data, num_samples=6, num_unconditional=5, seed=2) for _ in range(2))
    assert len(first.rows) == 3
    assert [len(fusion.inputs) for fusion in first.rows[0]] == [0, 1, 2, 3]
    assert all(len(fusion.hypotheses) == 5 for fusions in first.rows for fusion in fusions)
    np.testing.assert_array_equal(first.rows[2][3].mean, again.rows[2][3].mean)
    np.testing.assert_array_equal(first.rows[1][0].target[..., 0], data.target[1, ..., 0] / np.float32(255))
    fusion = first.rows[0][2]
    np.testing.assert_allclose(fusion.error, np.abs(fusion.mean - fusion.target))
    assert (fusion.uncertainty <= 0.5).all()
    assert first.unconditional.shape == (5, 6, 6, 1)
