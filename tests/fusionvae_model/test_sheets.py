"""Pictures of any kind become inputs; the sheet that comes out is complete and the same each time."""

import dataclasses
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fusionvae_model import FusionVAE, FusionVAEError
from fusionvae_model.sheets import (
    CAPTION_PX,
    FULL_SCALE,
    GAP_PX,
    TILE_PX,
    Fusion,
    fuse,
    read_inputs,
    write_samples,
    write_sheet,
)

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)


@pytest.fixture
def config(tiny_model):
    return tiny_model.config


@pytest.fixture
def colour(config):
    return dataclasses.replace(config, channels=3)


def read(path, config, fit="crop"):
    return read_inputs([path], config, fit=fit)[0, 0]


def saved(tmp_path, image, name="picture.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def levels(values):
    return torch.as_tensor(np.asarray(values, dtype=np.float32)) / 255


def test_grey_picture_of_the_right_size_is_taken_as_it_is(tmp_path, config):
    got = read_inputs([saved(tmp_path, Image.fromarray(GREY))], config, fit="crop")
    assert got.shape == (1, 1, 1, 16, 16)
    assert torch.equal(got[0, 0, 0], levels(GREY))


def test_order_of_pictures_is_kept(tmp_path, config):
    paths = [saved(tmp_path, Image.new("L", (16, 16), level), f"{level}.png") for level in (10, 30, 20)]
    assert read_inputs(paths, config, fit="crop")[0, :, 0, 0, 0].tolist() == pytest.approx(
        [10 / 255, 30 / 255, 20 / 255]
    )


def test_no_pictures(config):
    got = read_inputs([], config, fit="crop")
    assert got.shape == (1, 0, 1, 16, 16)
    assert got.dtype == torch.float32


def test_transparent_is_hidden(tmp_path, config, colour):
    rgba = np.full((16, 16, 4), 200, dtype=np.uint8)
    rgba[..., 3] = 255
    rgba[:8, :, 3] = 0
    rgba[8, :, 3] = 51
    path = saved(tmp_path, Image.fromarray(rgba))
    for model in config, colour:
        got = read(path, model)
        assert (got[:, :8] == 0).all()
        assert got[:, 8].unique().tolist() == pytest.approx([40 / 255])
        assert got[:, 9:].unique().tolist() == pytest.approx([200 / 255])


def test_16_bit_grey_keeps_its_shades(tmp_path, config):
    deep = GREY.astype(np.uint16) * 257
    for name in ("a.png", "a.tiff"):
        assert torch.equal(read(saved(tmp_path, Image.fromarray(deep), name), config)[0], levels(GREY))
    wide = saved(tmp_path, Image.fromarray(deep.astype(np.int32)), "wide.tiff")
    assert torch.equal(read(wide, config)[0], levels(GREY))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_white_is_white_in_every_mode(mode, tmp_path, config, colour):
    white = np.full((16, 16), 65535, dtype=np.uint16)
    picture = Image.fromarray(white) if mode == "I;16" else Image.new("RGB", (16, 16), "white").convert(mode)
    path = saved(tmp_path, picture, "a.tiff" if mode == "CMYK" else "a.png")
    for model in config, colour:
        assert (read(path, model) == 1).all()


def test_palette_with_transparency(tmp_path, config):
    picture = Image.new("P", (16, 16), 1)
    picture.putpalette([255, 255, 255, 255, 0, 0])
    picture.paste(0, (0, 0, 16, 8))
    got = read(saved(tmp_path, picture, "a.gif", transparency=0), config)
    assert (got[:, :8] == 0).all()
    assert got[0, 8:].unique().tolist() == pytest.approx([76 / 255])  # red's luminance


def test_colour_stays_for_a_colour_model(tmp_path, colour):
    got = read(saved(tmp_path, Image.new("RGB", (16, 16), (10, 20, 30))), colour)
    assert got[:, 5, 5].tolist() == pytest.approx([10 / 255, 20 / 255, 30 / 255])


def test_turned_photograph_is_upright(tmp_path, config):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    got = read(saved(tmp_path, Image.fromarray(GREY), exif=exif), config)
    assert torch.equal(got[0], levels(GREY[::-1, ::-1].copy()))


def wide_picture():
    """Black, white, black: three squares of 64×64 side by side."""
    return Image.fromarray(np.kron(np.array([[0, 255, 0]], dtype=np.uint8), np.ones((64, 64), dtype=np.uint8)))


def test_crop_fills_the_square(tmp_path, config):
    assert (read(saved(tmp_path, wide_picture()), config, "crop") == 1).all()


def test_pad_shows_all_on_black(tmp_path, config):
    got = read(saved(tmp_path, Image.new("L", (48, 16), 255)), config, "pad")[0]
    assert (got[:5] == 0).all()
    assert (got[11:] == 0).all()
    assert (got[6:10] == 1).all()


def test_stretch_distorts(tmp_path, config):
    got = read(saved(tmp_path, wide_picture()), config, "stretch")[0]
    assert (got[:, :5] == 0).all()
    assert (got[:, 6:10] == 1).all()
    assert (got[:, 11:] == 0).all()


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(1, 1), (7, 90), (90, 7), (300, 200), (16, 17), (1, 4000)])
def test_every_size_fits(fit, size, tmp_path, config):
    got = read(saved(tmp_path, Image.new("L", size, 255)), config, fit)
    assert got.shape == (1, 16, 16)
    assert 0 <= got.min() <= got.max() == 1  # nothing is too thin to be seen


def test_shrinking_averages_areas(tmp_path, config):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    areas = noise.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    got = read(saved(tmp_path, Image.fromarray(noise)), config)[0]
    assert torch.allclose(got, levels(areas), atol=1 / 255)


def bad_checksum():
    """A PNG whose header chunk fails its check."""
    header = struct.pack(">IIBBBBB", 16, 16, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", 1 ^ zlib.crc32(b"IHDR" + header))
    return b"\x89PNG\r\n\x1a\n" + chunk


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "does not exist; give the path of a picture"),
        (b"Dear reader", "is not a readable picture"),
        (b"", "is not a readable picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "cannot identify image file"),
        (bad_checksum(), "is not a readable picture"),
    ],
    ids=["missing", "text", "empty", "PostScript", "bad checksum"],
)
def test_what_is_no_picture_is_one_sentence(content, expected, tmp_path, config):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FusionVAEError, match=r"a\.png") as caught:
        read(path, config)
    assert expected in str(caught.value)


def test_folder_and_cut_picture(tmp_path, config):
    path = saved(tmp_path, Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)))
    path.write_bytes(path.read_bytes()[:1000])
    for bad in path, tmp_path:
        with pytest.raises(FusionVAEError, match="is not a readable picture"):
            read(bad, config)


def test_shades_that_no_scale_is_known_for(tmp_path, config):
    floats = saved(tmp_path, Image.fromarray(np.ones((16, 16), dtype=np.float32)), "f.tiff")
    with pytest.raises(FusionVAEError, match="floating-point numbers; expected 8 or 16 bits"):
        read(floats, config)
    wide = saved(tmp_path, Image.fromarray(np.full((16, 16), 70_000, dtype=np.int32)), "i.tiff")
    with pytest.raises(FusionVAEError, match="exceed 16 bits"):
        read(wide, config)


def test_an_unknown_fit(tmp_path, config):
    with pytest.raises(FusionVAEError, match="got fit 'zoom'; expected one of crop, pad, stretch"):
        read_inputs([], config, fit="zoom")


def test_models_of_other_channels(tmp_path, config):
    with pytest.raises(FusionVAEError, match="the model has 2 channels"):
        read_inputs([], dataclasses.replace(config, channels=2), fit="crop")


@pytest.mark.parametrize("k", [0, 1, 4])
def test_fusion_is_reproducible(k, tiny_model):
    inputs = torch.rand(1, k, 1, 16, 16, generator=torch.Generator().manual_seed(5))
    first, again = (fuse(tiny_model, inputs, num_samples=3, seed=7) for _ in "ab")
    assert torch.equal(first.hypotheses, again.hypotheses)
    assert not torch.equal(first.hypotheses, fuse(tiny_model, inputs, num_samples=3, seed=8).hypotheses)
    assert first.hypotheses.shape == (3, 1, 16, 16)
    torch.testing.assert_close(first.mean, first.hypotheses.mean(dim=0))
    assert 0 < first.standard_deviation.max() <= 0.5


def test_no_temperature_no_disagreement(tiny_model):
    fusion = fuse(tiny_model, torch.rand(1, 2, 1, 16, 16), num_samples=3, temperature=0)
    assert fusion.standard_deviation.max() < 1e-6


def tile(sheet, row, column):
    """The pixels of a tile, and those of its caption."""
    x = GAP_PX + column * (TILE_PX + GAP_PX)
    y = GAP_PX + row * (TILE_PX + CAPTION_PX + GAP_PX)
    image = np.asarray(sheet)
    return image[y + CAPTION_PX : y + CAPTION_PX + TILE_PX, x : x + TILE_PX], image[y : y + CAPTION_PX, x : x + TILE_PX]


def test_sheet_shows_everything_in_its_place(tmp_path):
    inputs = torch.stack([torch.full((1, 16, 16), level) for level in (0.0, 0.2)])
    hypotheses = torch.stack([torch.full((1, 16, 16), level) for level in (0.0, 1.0, 0.0, 1.0)])
    write_sheet(tmp_path / "new" / "folder" / "sheet.png", Fusion(inputs, hypotheses))
    with Image.open(tmp_path / "new" / "folder" / "sheet.png") as sheet:
        assert sheet.size == (4 * (TILE_PX + GAP_PX) + GAP_PX, 3 * (TILE_PX + CAPTION_PX + GAP_PX) + GAP_PX)
        expected = {(0, 0): 0, (0, 1): 51, (1, 0): 0, (1, 1): 255, (1, 3): 255, (2, 0): 128}
        for (row, column), level in expected.items():
            shown, caption = tile(sheet, row, column)
            assert (shown == level).all()
            assert caption.min() < 100  # something is written there
        uncertainty, _ = tile(sheet, 2, 1)
        assert (uncertainty == (252, 253, 191)).all()  # the largest there is
        beside, caption = tile(sheet, 0, 2)
        assert (beside == 255).all()
        assert (caption == 255).all()


def test_sheet_without_inputs_has_no_row_for_them(tmp_path):
    write_sheet(tmp_path / "sheet.png", Fusion(torch.empty(0, 1, 16, 16), torch.rand(2, 1, 16, 16)))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height == 2 * (TILE_PX + CAPTION_PX + GAP_PX) + GAP_PX


def test_many_hypotheses_are_wrapped(tmp_path):
    write_sheet(tmp_path / "sheet.png", Fusion(torch.rand(1, 3, 16, 16), torch.rand(20, 3, 16, 16)))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (8 * (TILE_PX + GAP_PX) + GAP_PX, 5 * (TILE_PX + CAPTION_PX + GAP_PX) + GAP_PX)


def test_sheet_that_cannot_be_written(tmp_path, monkeypatch):
    fusion = Fusion(torch.rand(1, 1, 16, 16), torch.rand(2, 1, 16, 16))
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "sheet.png", tmp_path / "folder"):
        with pytest.raises(FusionVAEError, match="cannot write"):
            write_sheet(path, fusion)
    write_sheet(tmp_path / "sheet.png", fusion)
    before = (tmp_path / "sheet.png").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FusionVAEError, match="No space left on device"):
        write_sheet(tmp_path / "sheet.png", Fusion(torch.zeros(1, 1, 16, 16), torch.zeros(2, 1, 16, 16)))
    assert (tmp_path / "sheet.png").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "sheet.png"]


def test_same_sheet_same_bytes(tmp_path, tiny_model):
    for name in ("a.png", "b.png"):
        model = FusionVAE(tiny_model.config)
        model.load_state_dict(tiny_model.state_dict())
        write_sheet(tmp_path / name, fuse(model, torch.full((1, 1, 1, 16, 16), 0.5), num_samples=2, seed=3))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_samples_show_the_same_noise_on_every_call(tiny_model, tmp_path):
    target = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for name in ("a.png", "b.png"):
        write_samples(tmp_path / name, tiny_model, target, target[:, None].repeat(1, 2, 1, 1, 1))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as sheet:
        columns = 1 + 2 + 2 * 3  # target, inputs, two samples from 0, 1 and 2 of them
        assert sheet.size == (columns * (TILE_PX + GAP_PX) + GAP_PX, 2 * (TILE_PX + GAP_PX) + CAPTION_PX + GAP_PX)


def test_uncertainty_is_the_deviation_of_the_hypotheses_themselves():
    """Not an estimate for others: of two that could not differ more it is a half, the end of its scale."""
    fusion = Fusion(torch.zeros(0, 1, 2, 2), torch.stack((torch.zeros(1, 2, 2), torch.ones(1, 2, 2))))
    assert torch.equal(fusion.standard_deviation, torch.full((1, 2, 2), FULL_SCALE))


@pytest.mark.parametrize(("size", "method"), [((100, 8), Image.Resampling.BICUBIC), ((100, 40), Image.Resampling.BOX)])
def test_a_picture_grows_smoothly_if_its_short_side_must(size, method, config, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, size[::-1], dtype=np.uint8))
    picture.save(tmp_path / "wide.png")
    side = config.image_size
    expected = np.asarray(ImageOps.fit(picture, (side, side), method)) / 255
    (seen,) = read_inputs([tmp_path / "wide.png"], config)[0]
    np.testing.assert_allclose(seen[0].numpy(), expected, atol=1e-6)
