"""Objects cut out of their black background with a Canny edge detector, to be laid over other images (Sec. 5.1).

Canny finds the outline, closing and filling make a region of it, and the levels beside the outline settle which of
its pixels belong to the object. The arithmetic is on integers: a cut is the same on every machine.
"""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.typing import NDArray

from fusion_datasets.errors import FusionDatasetsError

CROP_SIDE_PX: Final = 100
"""Side of the crops that are stored."""

_BLACK_LEVEL: Final = 4
_BLUR_STD_PX: Final = 0.7  # against sensor noise; more would round off pins and join them
_GRADIENT_FLOOR: Final = 16  # of Sobel's sums, 2 levels per pixel: what is flatter is no edge in 8 bits
_STRONG_SHARE: Final = 0.9  # the quantile of the gradients above the floor that counts as a full edge
_HIGH, _LOW, _HIGHER_LOW = 0.4, 0.11, 0.17  # thresholds of the hysteresis in full edges; the third one for doubting
_HALO_PX: Final = 41  # a halo is compared with the brightest pixel this far around
_SOLID_SHARE: Final = 0.3
_SOLID_FLOOR: Final = 24
_CLOSED_PX: Final = 5  # bridges the gaps that Canny leaves where outlines meet
_GROWN_PX: Final = 2
_MIN_AREA_PX: Final = 64
_MAX_AREA_SHARE: Final = 0.9
_MIN_SHARE_OF_ONE: Final = 0.85
_MIN_AGREEMENT: Final = 0.9


class CutError(FusionDatasetsError):
    """No object could be cut out of an image with confidence.

    Arguments:
        reason: In a few words, the same for every image that fails alike.
        detail: The figures.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class OccluderCut:
    """One object, cut out.

    Arguments:
        mask: Where the object is, bool `[h, w]`, in the frame of the image; one piece, without holes.
        rgba: The tight crop, uint8 `[bottom - top, right - left, 4]`, transparent and black off the object.
        box: Left, top, right and bottom of that crop in pixels of the image, the last two excluded.
    """

    mask: NDArray[np.bool_]
    rgba: NDArray[np.uint8]
    box: tuple[int, int, int, int]


def cut_occluder(image: NDArray[np.uint8]) -> OccluderCut:
    """Cut the one object of an image out of its black background with a Canny edge detector (Sec. 5.1).

    Thin parts such as the pins of a plug stay and concavities remain open. Holes inside the object are filled, and the
    faint halo around real objects goes.

    Arguments:
        image: uint8 `[h, w, 3]` in RGB, or grey `[h, w]` or `[h, w, 1]`; black around the object.

    Returns:
        The mask in the frame of the image, the crop and its box.

    Raises:
        CutError: If there is no object, it touches the border, fills the frame or falls into pieces, or if another
            threshold finds another object.
        FusionDatasetsError: If this is no 8-bit image.
    """
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3))):
        raise FusionDatasetsError(
            f"got an image of {image.dtype} {list(image.shape)}; expected uint8 [h, w, 3] in RGB, or grey"
        )
    colours = np.broadcast_to(image.reshape(*image.shape[:2], -1), (*image.shape[:2], 3))
    level = np.maximum(np.maximum(colours[..., 0], colours[..., 1]), colours[..., 2])  # max(axis=2) is far slower
    mask = np.zeros_like(level)
    window = _lit_window(level)
    region = _region(level[window], _LOW)
    mask[window] = _largest(region)
    _check(int(np.count_nonzero(region)), mask)
    doubt = _largest(_region(level[window], _HIGHER_LOW))
    agreement = np.count_nonzero(mask[window] & doubt) / np.count_nonzero(mask[window] | doubt)
    if agreement < _MIN_AGREEMENT:
        raise CutError("two thresholds disagree", f"their objects overlap by {agreement:.0%} of their union")
    left, top, width, height = cv2.boundingRect(mask)
    box = (left, top, left + width, top + height)
    inside = np.s_[box[1] : box[3], box[0] : box[2]]
    rgba = np.dstack([colours[inside] * mask[inside][..., None], 255 * mask[inside]])
    return OccluderCut(mask.astype(np.bool_), rgba, box)


def fit_crop(rgba: NDArray[np.uint8], side_px: int = CROP_SIDE_PX) -> NDArray[np.uint8]:
    """Scale a crop so that its longer side fills a square, keep its aspect, and centre it on transparent pixels.

    Colours are averaged in proportion to their alpha, so that an edge does not darken towards what is transparent.

    Arguments:
        rgba: uint8 `[h, w, 4]`, alpha not multiplied into the colours.
        side_px: Side of the square.

    Returns:
        uint8 `[side_px, side_px, 4]`, alpha not multiplied into the colours, black where transparent.
    """
    longer = max(rgba.shape[:2])
    height, width = (max(1, round(side * side_px / longer)) for side in rgba.shape[:2])
    alpha = rgba[..., 3:].astype(np.float32)
    premultiplied = np.dstack([rgba[..., :3] * alpha / 255, alpha])
    method = cv2.INTER_AREA if longer > side_px else cv2.INTER_LINEAR
    small = cv2.resize(premultiplied, (width, height), interpolation=method)
    small = np.dstack([small[..., :3] * 255 / np.maximum(small[..., 3:], 1), small[..., 3:]])
    fitted = np.zeros((side_px, side_px, 4), np.uint8)
    top, left = (side_px - height) // 2, (side_px - width) // 2
    crop = np.rint(np.clip(small, 0, 255)).astype(np.uint8)
    fitted[top : top + height, left : left + width] = crop * (crop[..., 3:] > 0)
    return fitted


def _lit_window(level: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Find the part of an image that is not black, with some room around it: work elsewhere would be in vain."""
    left, top, width, height = cv2.boundingRect((level > _BLACK_LEVEL).astype(np.uint8))
    room = 2 * _CLOSED_PX
    return (
        slice(max(0, top - room), min(level.shape[0], top + height + room)),
        slice(max(0, left - room), min(level.shape[1], left + width + room)),
    )


def _region(level: NDArray[np.uint8], low: float) -> MatLike:
    """Find what outlines enclose, 0 or 1 `[h, w]`, its rim settled by the levels there."""
    blurred = cv2.GaussianBlur(level, (0, 0), _BLUR_STD_PX)  # bit-exact on 8 bits, unlike on floating point
    across, down = (cv2.Sobel(blurred, cv2.CV_16S, *order) for order in ((1, 0), (0, 1)))
    gradient = np.sqrt(across.astype(np.float32) ** 2 + down.astype(np.float32) ** 2)
    steep = gradient[gradient > _GRADIENT_FLOOR]
    if not steep.size:
        return np.zeros_like(level)
    full = float(np.quantile(steep, _STRONG_SHARE))
    threshold = max(low * full, _GRADIENT_FLOOR)
    edges = cv2.Canny(across, down, threshold, threshold, L2gradient=True)
    # An outline may stay open where a shaded side fades out; what no halo reaches is the object without one.
    bulk = level >= _SOLID_SHARE * cv2.dilate(level, np.ones((_HALO_PX, _HALO_PX), np.uint8))
    traces = ((edges > 0) | (bulk & (blurred > _SOLID_FLOOR))).astype(np.uint8)
    room = _CLOSED_PX  # or what meets the border of the image would close differently there
    closed = cv2.morphologyEx(np.pad(traces, room), cv2.MORPH_CLOSE, _disc(_CLOSED_PX))[room:-room, room:-room]
    # Hysteresis comes after closing: Canny interrupts a shaded side's outline where it meets a bright side's.
    count, labels = cv2.connectedComponents(closed)
    kept = np.zeros(count, np.uint8)
    kept[labels[(edges > 0) & (gradient > _HIGH * full)]] = 1
    region = _filled(kept[labels])
    # The object covers more than half of a pixel whose level is above half of the brightest one beside it.
    bright = (level >= 0.5 * cv2.dilate(level, _disc(5))).astype(np.uint8)
    region = cv2.erode(region, _disc(3)) | np.bitwise_and(region, bright)
    for _ in range(_GROWN_PX):
        region = region | np.bitwise_and(cv2.dilate(region, _disc(3)), bright)
    return _filled(region)


def _check(region_area: int, mask: NDArray[np.uint8]) -> None:
    """Raise `CutError` where the largest piece of a region cannot be the one whole object."""
    area = np.count_nonzero(mask)
    share = area / max(1, region_area)
    if area < _MIN_AREA_PX:
        raise CutError("no object found", f"the largest outline encloses {area} pixels")
    if area > _MAX_AREA_SHARE * mask.size:
        raise CutError("no background found", f"the outline encloses {area / mask.size:.0%} of the image")
    if mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any():
        raise CutError("object cut off", "it touches the border of the image")
    if share < _MIN_SHARE_OF_ONE:
        raise CutError("several objects found", f"the largest one has {share:.0%} of their area")


def _filled(binary: MatLike) -> MatLike:
    outlines, _ = cv2.findContours(binary, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(binary)
    cv2.drawContours(filled, outlines, -1, 1, cv2.FILLED)
    return filled


def _largest(region: MatLike) -> MatLike:
    """Keep the largest of the pieces that hang together over the sides of pixels."""
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(region, connectivity=4)
    if count < 2:
        return region
    largest = 1 + int(statistics[1:, cv2.CC_STAT_AREA].argmax())
    return (labels == largest).astype(np.uint8)


def _disc(diameter_px: int) -> MatLike:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter_px, diameter_px))
