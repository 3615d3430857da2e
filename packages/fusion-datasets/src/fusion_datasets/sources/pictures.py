"""From the bytes of a picture to the image of a benchmark: decoded, cropped, scaled by area averaging."""

import io
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from fusion_datasets.errors import FusionDatasetsError

Window = tuple[tuple[int, int], tuple[int, int]]
"""First and last row, then first and last column, all included."""

DECODER: Final = f"OpenCV {cv2.__version__}"
"""What decodes PNGs and scales: pixels are promised for one version of it."""

JPEG_DECODER: Final = f"simplejpeg {version('simplejpeg')}"
"""What decodes JPEGs of known kind, libjpeg-turbo: pixels are promised for one version of it."""

MAX_PIXELS: Final = 100_000_000
_FORMATS: Final = (
    "AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP",
)  # fmt: skip
_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_WHITE_16_BITS: Final = 65535
_SIXTEEN_BITS_IN_32: Final = frozenset({"PNG", "PPM"})
"""Formats whose levels of 16 bits Pillow may hold in 32."""


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read: pixels alone, nothing that would start another program."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@cache
def _endings() -> frozenset[str]:
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in formats())


def is_picture_name(name: str) -> bool:
    """Whether the ending of a file's name is that of a format that is read."""
    return Path(name).suffix.lower() in _endings()


def decode_jpeg(content: bytes | FusionDatasetsError, height: int, width: int) -> NDArray[np.uint8]:
    """Decode a JPEG of known size quickly.

    Arguments:
        content: Its bytes, or why there are none, which is raised.
        height: Rows that it should have.
        width: Columns that it should have.

    Returns:
        uint8 `[height, width, 3]`, RGB.

    Raises:
        FusionDatasetsError: If it is no JPEG, of another size, ends early, or has data that are visibly none of a
            JPEG's. Damage that leaves a valid sequence of code words cannot be told from a picture.
    """
    if isinstance(content, FusionDatasetsError):
        raise content
    if not content.startswith(_JPEG_START):
        raise FusionDatasetsError("no JPEG" if content else "empty")
    # Neither marker occurs within the data of a scan, and nearly every file ends with the one that ends it.
    if not content.endswith(_JPEG_END) and content.rfind(_JPEG_END) < content.rfind(_JPEG_SCAN):
        raise FusionDatasetsError("cut short")
    # Whatever its header claims, no larger image than expected is unpacked: it does not fit.
    room = np.empty((height, width, 3), np.uint8)
    try:
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, buffer=room)
        rows, columns, _ = image.shape
    except ValueError as error:  # libjpeg's own words, also where it could go on with what is left
        rows, columns = _jpeg_size(content) or (height, width)
        if (rows, columns) == (height, width):
            raise FusionDatasetsError("damaged") from error
    if (rows, columns) != (height, width):
        raise FusionDatasetsError(f"{columns}×{rows} pixels instead of {width}×{height}")
    return image


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """Rows and columns by the header of a JPEG, or None where that is damaged."""
    try:
        rows, columns, *_ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    return rows, columns


def decode_picture(content: bytes | FusionDatasetsError) -> NDArray[np.uint8]:
    """Decode a picture in any of the usual formats, upright; transparency becomes black.

    Returns:
        uint8 `[h, w, 3]`, RGB.

    Raises:
        FusionDatasetsError: If it is no picture, is damaged, or has more than `MAX_PIXELS` pixels.
    """
    rgba = _decode(content)
    opaque = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
    opaque.alpha_composite(rgba)
    return np.asarray(opaque.convert("RGB"))


def decode_cutout(content: bytes | FusionDatasetsError) -> NDArray[np.uint8]:
    """Decode a picture with transparency; like `decode_picture`, but RGBA, uint8 `[h, w, 4]`."""
    return np.asarray(_decode(content))


def _decode(content: bytes | FusionDatasetsError) -> Image.Image:
    if isinstance(content, FusionDatasetsError):
        raise content
    try:
        with Image.open(io.BytesIO(content), formats=formats()) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise FusionDatasetsError(f"{picture.width}×{picture.height} pixels, more than {MAX_PIXELS}")
            upright = ImageOps.exif_transpose(_decoded_jpeg(content, picture) or picture)
            if upright.mode == "F" or (upright.mode == "I" and picture.format not in _SIXTEEN_BITS_IN_32):
                raise FusionDatasetsError("levels of 32 bits, of unknown range: convert it to 8 or 16 bits")
            if upright.mode.startswith("I;16") or upright.mode == "I":
                grey = np.asarray(upright, np.float64) * (255 / _WHITE_16_BITS)
                upright = Image.fromarray(np.rint(np.clip(grey, 0, 255)).astype(np.uint8))
            return upright.convert("RGBA")
    except FusionDatasetsError:
        raise
    except Image.DecompressionBombError:
        raise FusionDatasetsError(f"more than {MAX_PIXELS} pixels") from None
    except Exception as error:  # Pillow's readers of damaged files raise nearly anything
        raise FusionDatasetsError("cannot be decoded" if content else "empty") from error


def _decoded_jpeg(content: bytes, picture: Image.Image) -> Image.Image | None:
    """The pixels and orientation of a JPEG, unless it has other colours than usual; Pillow would overlook damage."""
    colours = {"L": "GRAY", "RGB": "RGB"}.get(picture.mode)
    if colours is None or not content.startswith(_JPEG_START):
        return None
    levels = simplejpeg.decode_jpeg(content, colours)
    decoded = Image.fromarray(levels[..., 0] if colours == "GRAY" else levels)
    decoded.getexif()[ExifTags.Base.Orientation] = picture.getexif().get(ExifTags.Base.Orientation, 1)
    return decoded


def scaled(image: NDArray[np.uint8], window: Window | None, height: int, width: int) -> NDArray[np.uint8]:
    """Crop an image and scale it.

    Arguments:
        image: uint8 `[h, w, c]`.
        window: What to keep of it; None keeps the largest centred square.
        height: Rows of the result.
        width: Columns of the result.

    Returns:
        uint8 `[height, width, c]`, by area averaging where it shrinks, bilinear where it grows.
    """
    if window is None:
        side = min(image.shape[:2])
        top, left = ((length - side) // 2 for length in image.shape[:2])
        window = (top, top + side - 1), (left, left + side - 1)
    (top, bottom), (left, right) = window
    part = image[top : bottom + 1, left : right + 1]
    shrinks = part.shape[0] >= height and part.shape[1] >= width
    result = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return result.reshape(height, width, -1).astype(np.uint8, copy=False)
