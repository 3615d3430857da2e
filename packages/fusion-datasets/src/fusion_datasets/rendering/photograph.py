"""From light to an 8-bit picture: tone curve, and what a real camera adds."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray


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
    """
    coverage = light[..., 3]
    picture = np.zeros((*coverage.shape, 3), np.float32)
    inside = np.flatnonzero(coverage.ravel() > 0)
    if not inside.size:
        return picture.astype(np.uint8)
    reach = int(np.ceil(_HALO_REACH * photography.halo_px + 4 * _SHARPENING_PX))
    rows, columns = (np.flatnonzero((coverage > 0).any(axis)) for axis in (1, 0))
    window = tuple(slice(max(int(s[0]) - reach, 0), int(s[-1]) + reach + 1) for s in (rows, columns))
    crop = light[window]
    covered = crop[..., 3:]
    tone = 255 * _tone(crop[..., :3] / np.maximum(covered, 1e-6)) * covered
    distance = cv2.distanceTransform((crop[..., 3] < 0.5).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    near = distance < _HALO_REACH * photography.halo_px
    if any(photography.halo):
        fade = np.exp(-0.5 * (distance / photography.halo_px) ** 2) - np.exp(-0.5 * _HALO_REACH**2)
        tone += (1 - covered) * np.maximum(fade, 0)[..., None] * np.array(photography.halo, np.float32)
    if photography.sharpening:
        blurred = cv2.GaussianBlur(tone, (0, 0), _SHARPENING_PX)
        tone += photography.sharpening * (tone - blurred)
    if photography.noise:
        assert generator is not None, "noise needs a generator"
        noise = generator.standard_normal(tone.shape, np.float32)
        tone += photography.noise * noise * (near & (tone.max(-1) > 1))[..., None]
    picture[window] = tone
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _tone(linear: NDArray[np.floating]) -> NDArray[np.float32]:
    """The response of the camera: a gamma of 2.2 with a soft shoulder."""
    shouldered = np.where(linear < 0.7, linear, 1 - 0.3 * np.exp(-(linear - 0.7) / 0.3))
    return np.asarray(shouldered ** (1 / 2.2), np.float32)
