"""Cutting objects out of black: what stays, what goes, and which cuts are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from fusion_datasets import FusionDatasetsError
from fusion_datasets.occluders import CROP_SIDE_PX, CutError, cut_occluder, fit_crop

SIDE_PX = 400
SUPERSAMPLED = 4


def painted(*shapes: tuple[str, tuple[float, ...], int]) -> tuple[np.ndarray, np.ndarray]:
    """Paint shapes, each with its grey level, anti-aliased on black: the image `[h, w, 3]` and its true mask.

    A level of 0 takes away; `box` is left, top, right, bottom; `disc` is column, row, radius.
    """
    fine = np.zeros((SIDE_PX * SUPERSAMPLED,) * 2, np.uint8)
    for kind, numbers, level in shapes:
        scaled = [round(number * SUPERSAMPLED) for number in numbers]
        if kind == "box":
            fine[scaled[1] : scaled[3], scaled[0] : scaled[2]] = level
        else:
            cv2.circle(fine, (scaled[0], scaled[1]), scaled[2], level, cv2.FILLED)
    blocks = fine.reshape(SIDE_PX, SUPERSAMPLED, SIDE_PX, SUPERSAMPLED)
    grey = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2), (blocks > 0).mean(axis=(1, 3)) >= 0.5


PLUG = (
    ("box", (120, 160, 280, 260), 210),
    ("box", (150, 260, 250, 300), 150),
    ("box", (170, 300, 174, 340), 235),
    ("box", (226, 300, 230, 340), 235),
)


def photographed(image: np.ndarray, mask: np.ndarray, seed: int = 0) -> np.ndarray:
    """Add what a photograph adds: a glow around the object, dark next to it, and noise wherever there is light."""
    generator = np.random.default_rng(seed)
    distance = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5)[..., None]
    glow = 0.2 * cv2.GaussianBlur(image.astype(np.float32), (0, 0), 6) * np.clip((distance - 1.5) / 3, 0, 1)
    lit = np.where(mask[..., None] | (distance < 2), image, glow * (distance < 16))
    noisy = lit + generator.normal(0, 2.5, image.shape) * (lit > 0.5)
    return np.rint(np.clip(noisy, 0, 255)).astype(np.uint8)


def overlap(mask: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union."""
    return float((mask & other).sum() / (mask | other).sum())


@pytest.mark.parametrize("real", [False, True], ids=["clean", "photographed"])
def test_thin_pins_stay_and_the_halo_goes(real: bool) -> None:
    image, truth = painted(*PLUG)
    cut = cut_occluder(photographed(image, truth) if real else image)
    assert overlap(cut.mask, truth) > 0.97
    pins = np.zeros_like(truth)
    pins[302:340, 100:300] = True
    assert overlap(cut.mask & pins, truth & pins) > 0.8


@pytest.mark.parametrize("real", [False, True], ids=["clean", "photographed"])
def test_concavities_stay_open(real: bool) -> None:
    image, truth = painted(("disc", (200, 200, 90), 190), ("box", (200, 175, 300, 225), 0))
    assert not truth[200, 250]
    cut = cut_occluder(photographed(image, truth) if real else image)
    assert overlap(cut.mask, truth) > 0.97


def test_holes_inside_are_filled() -> None:
    image, _ = painted(("disc", (200, 200, 90), 190), ("disc", (200, 200, 50), 0))
    _, full = painted(("disc", (200, 200, 90), 190))
    assert overlap(cut_occluder(image).mask, full) > 0.98


def test_a_shaded_side_belongs_to_the_object() -> None:
    image, truth = painted(("box", (120, 120, 200, 280), 220), ("box", (200, 120, 280, 280), 40))
    assert overlap(cut_occluder(image).mask, truth) > 0.98


def test_an_outline_that_fades_out_is_closed() -> None:
    image, truth = painted(("box", (120, 120, 280, 280), 200))
    fading = np.linspace(1, 0.35, SIDE_PX)[None, :, None]
    assert overlap(cut_occluder(np.rint(image * fading).astype(np.uint8)).mask, truth) > 0.98


def test_an_open_outline_is_closed_by_what_no_halo_reaches() -> None:
    image, truth = painted(("box", (120, 120, 280, 280), 180))
    fading = np.clip((np.arange(SIDE_PX) - 250) / 60, 0, 1)[None, :, None]  # the right side has no edge at all
    soft = np.where(
        np.arange(SIDE_PX)[None, :, None] < 250, image, 180 * (1 - fading) * truth.any(axis=1)[:, None, None]
    )
    mask = cut_occluder(np.rint(soft).astype(np.uint8)).mask
    assert mask[122:278, 122:270].all()
    assert not mask[:, 312:].any()


def test_the_crop_is_the_object_and_nothing_else() -> None:
    image = (painted(*PLUG)[0] * np.array([1, 0.8, 0.6])).astype(np.uint8)
    cut = cut_occluder(image)
    left, top, right, bottom = cut.box
    assert cut.rgba.shape == (bottom - top, right - left, 4)
    alpha = cut.rgba[..., 3]
    assert np.array_equal(alpha, 255 * cut.mask[top:bottom, left:right])
    assert np.array_equal(cut.rgba[alpha > 0, :3], image[cut.mask])
    assert not cut.rgba[alpha == 0].any()
    assert cut.mask.sum() == (alpha > 0).sum()
    for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]):
        assert edge.any()


def test_grey_and_colour_are_cut_alike() -> None:
    image, _ = painted(*PLUG)
    expected = cut_occluder(image)
    for grey in (image[..., 0], image[..., :1]):
        assert np.array_equal(cut_occluder(grey).rgba, expected.rgba)


def test_a_cut_moves_with_its_object() -> None:
    image, truth = painted(*PLUG)
    image = photographed(image, truth)
    moved = np.roll(image, (31, -47), axis=(0, 1))
    assert np.array_equal(np.roll(cut_occluder(image).mask, (31, -47), axis=(0, 1)), cut_occluder(moved).mask)


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ((), "no object"),
        ((("disc", (200, 200, 3), 200),), "no object"),
        ((("box", (2, 2, 398, 398), 200),), "no background"),
        ((("box", (100, 300, 200, 400), 200),), "cut off"),
        ((("box", (0, 100, 200, 200), 200),), "cut off"),
        ((("disc", (100, 200, 50), 200), ("disc", (300, 200, 45), 190)), "several objects"),
    ],
    ids=["black", "speck", "white", "at the bottom", "at the left", "two"],
)
def test_what_cannot_be_one_whole_object_is_refused(shapes: tuple, reason: str) -> None:
    image, _ = painted(*shapes)
    with pytest.raises(CutError, match=reason) as caught:
        cut_occluder(image)
    assert caught.value.reason in str(caught.value)


def test_a_cut_that_depends_on_the_threshold_is_refused() -> None:
    image, _ = painted(("box", (120, 120, 200, 280), 220), ("box", (200, 120, 280, 280), 30))
    with pytest.raises(CutError, match="thresholds disagree"):
        cut_occluder(image)


def test_a_veil_beside_the_object_is_not_its_part() -> None:
    image, truth = painted(("disc", (200, 200, 60), 250))
    distance = cv2.distanceTransform((~truth).astype(np.uint8), cv2.DIST_L2, 5)
    veil = np.where((distance > 0) & (distance < 18), 26, 0).astype(np.uint8)
    assert overlap(cut_occluder(np.maximum(image, veil[..., None])).mask, truth) > 0.98


@pytest.mark.parametrize("bad", [np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3)), np.zeros(8, np.uint8)])
def test_other_arrays_are_answered_in_one_sentence(bad: np.ndarray) -> None:
    with pytest.raises(FusionDatasetsError, match="expected uint8"):
        cut_occluder(bad)


@pytest.mark.parametrize(("height", "width"), [(240, 120), (60, 75), (3, 200), (1, 1)])
def test_crops_fill_the_square_along_their_longer_side(height: int, width: int) -> None:
    fitted = fit_crop(np.full((height, width, 4), 255, np.uint8))
    assert fitted.shape == (CROP_SIDE_PX, CROP_SIDE_PX, 4)
    rows, columns = (np.flatnonzero(fitted[..., 3].any(axis=axis)) for axis in (1, 0))
    longer = max(height, width)
    for found, side in ((rows, height), (columns, width)):
        assert len(found) == max(1, round(side * CROP_SIDE_PX / longer))
        assert abs((found[0] + found[-1]) / 2 - (CROP_SIDE_PX - 1) / 2) <= 0.5
    assert (fitted[fitted[..., 3] > 0] == 255).all()


@pytest.mark.parametrize("longer_px", [37, 260])
def test_edges_do_not_darken_when_scaled(longer_px: int) -> None:
    columns = np.arange(longer_px)
    crop = np.zeros((longer_px, longer_px, 4), np.uint8)
    crop[..., 1] = 255  # a colour that is never seen
    crop[np.abs(columns[:, None] - columns[None, :]) < longer_px / 4] = (200, 150, 90, 255)
    fitted = fit_crop(crop).astype(int)
    opaque, soft = fitted[..., 3] == 255, (fitted[..., 3] > 8) & (fitted[..., 3] < 255)
    assert soft.any()
    assert (fitted[opaque][:, :3] == (200, 150, 90)).all()
    assert np.abs(fitted[soft][:, :3] - (200, 150, 90)).max() <= 8  # colours are kept up to what alpha's 8 bits allow


@pytest.mark.originals
def test_the_real_photograph_is_cut_as_its_mask_says() -> None:
    folder = Path(os.environ["FUSION_DATA_ROOT"]) / "tless" / "real_train_samples"
    if not folder.is_dir():
        pytest.skip("FUSION_DATA_ROOT has no tless/real_train_samples")
    image = cv2.imread(str(folder / "obj20_a_rgb.png"), cv2.IMREAD_COLOR)[..., ::-1]
    mask = cv2.imread(str(folder / "obj20_a_mask.png"), cv2.IMREAD_GRAYSCALE) > 0
    assert overlap(cut_occluder(image).mask, mask) > 0.955


def assert_cut_well(*arguments: object) -> None:
    """Measure cuts of rendered views by the repository's own command, and hold them against what is asked of them."""
    tool = Path(__file__).parents[2] / "tools" / "bench_occluders.py"
    command = [sys.executable, str(tool), "--json", *map(str, arguments)]
    measured = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    assert list(measured) == ["clean", "with halo and noise"]
    for name, figures in measured.items():
        assert figures["refused"] <= 0.02 * figures["views"], name
        assert figures["median"] >= 0.97, name
        assert figures["percentile_5"] >= 0.93, name


def test_rendered_solids_are_cut_as_their_masks_say() -> None:
    pytest.importorskip("numba")
    assert_cut_well("--views", 2)


@pytest.mark.originals
def test_rendered_cad_models_are_cut_as_their_masks_say() -> None:
    pytest.importorskip("numba")
    models = Path(os.environ["FUSION_DATA_ROOT"]) / "tless" / "models_cad"
    if not models.is_dir():
        pytest.skip("FUSION_DATA_ROOT has no tless/models_cad")
    assert_cut_well("--views", 1, "--models", models)
