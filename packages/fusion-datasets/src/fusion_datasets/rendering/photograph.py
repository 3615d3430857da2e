"""From light to an 8-bit picture: tone curve, and what a real camera adds."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion_datasets.errors import FusionDatasetsError


@dataclass(frozen=True, slots=True)
class Photography:
    """What a camera and the cutting-out of the object leave in a picture; measured on a training photograph of T-LESS.

    Arguments:
        sharpening: Strength of the camera's edge enhancement, 0 for none.
        noise: Standard deviation of the sensor noise, in grey levels.
        halo: Red, green and blue of the backdrop that remains next to the object, in grey levels.
        halo_px: Distance from the object over which it fades by a factor of exp(½).
    """

    sharpening: float = 0.0
    noise: float = 0.0
    halo: tuple[float, float, float] = (0.0, 0.0, 0.0)
    halo_px: float = 6.0


CLEAN: Final = Photography()
"""Nothing added: black is 0, wherever there is no object."""

REAL: Final = Photography(sharpening=0.9, noise=1.1, halo=(27.0, 25.5, 14.0), halo_px=6.0)
"""As in T-LESS's training photographs."""

_HALO_REACH: Final = 2.6  # in units of halo_px: beyond, the photographs are exactly black
_SHARPENING_PX: Final = 1.3


def develop(
    light: NDArray[np.float32], photography: Photography, generator: np.random.Generator | None
) -> NDArray[np.uint8]:
    """Turn light into a picture.

    Arguments:
        light: float32 `[h, w, 4]`, linear red, green, blue (weighted by coverage) and coverage.
        photography: What to add.
        generator: Draws the noise; needed where there is any.

    Returns:
        uint8 `[h, w, 3]`, RGB.

    Raises:
        FusionDatasetsError: If there is noise to draw and no generator.
    """
    picture = np.zeros((*light.shape[:2], 3), np.uint8)
    rows, columns = (np.flatnonzero(light[..., 3].any(axis)) for axis in (1, 0))
    if not rows.size:
        return picture
    reach = int(np.ceil(_HALO_REACH * photography.halo_px + 4 * _SHARPENING_PX))
    window = tuple(slice(max(int(s[0]) - reach, 0), int(s[-1]) + reach + 1) for s in (rows, columns))
    crop = light[window]
    tone, pixels = np.zeros((*crop.shape[:2], 3), np.float32), crop.reshape(-1, 4)
    hit = pixels[np.flatnonzero(pixels[:, 3])]
    tone.reshape(-1, 3)[np.flatnonzero(pixels[:, 3])] = 255 * _tone(hit[:, :3] / hit[:, 3:]) * hit[:, 3:]
    distance = cv2.distanceTransform((crop[..., 3] < 0.5).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    near = distance < _HALO_REACH * photography.halo_px
    if any(photography.halo):
        beside = np.flatnonzero(near & (crop[..., 3] < 1))
        fade = np.exp(-0.5 * (distance.ravel()[beside] / photography.halo_px) ** 2) - np.exp(-0.5 * _HALO_REACH**2)
        backdrop = np.maximum(fade, 0)[:, None] * np.array(photography.halo, np.float32)
        tone.reshape(-1, 3)[beside] += (1 - pixels[beside, 3:]) * backdrop
    if photography.sharpening:
        tone += photography.sharpening * (tone - cv2.GaussianBlur(tone, (0, 0), _SHARPENING_PX))
    if photography.noise:
        if generator is None:
            raise FusionDatasetsError("noise is drawn, and no generator was given; pass np.random.default_rng(seed)")
        noise = generator.standard_normal(tone.shape, np.float32)
        lit = near & (np.maximum(np.maximum(tone[..., 0], tone[..., 1]), tone[..., 2]) > 1)  # black stays black
        tone += photography.noise * noise * lit[..., None]
    picture[window] = np.clip(np.rint(tone), 0, 255)
    return picture


def _tone(linear: NDArray[np.floating]) -> NDArray[np.float32]:
    """The response of the camera: a gamma of 2.2 with a soft shoulder."""
    shouldered = np.where(linear < 0.7, linear, 1 - 0.3 * np.exp(-(linear - 0.7) / 0.3))
    return np.asarray(shouldered ** (1 / 2.2), np.float32)
