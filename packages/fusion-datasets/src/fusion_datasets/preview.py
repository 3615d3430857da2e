"""A contact sheet: some targets of a file, each with its inputs."""

from io import BytesIO
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fusion_datasets.corruptions import render_example
from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.store import FusionDataset, FusionExample, write_atomically

_TILE_PX: Final = 96  # about; an image is enlarged by a whole number
_GAP_PX: Final = 4
_GUTTER_PX: Final = 28  # between the two columns of examples
_MARGIN_PX: Final = 20
_CAPTION_PX: Final = 13
_PDF_DOTS_PER_INCH: Final = 200
_PAPER, _INK, _FAINT = (255, 255, 255), (38, 38, 38), (130, 130, 130)


def contact_sheet(data: FusionDataset, *, rows: int = 12, seed: int | None = None) -> Image.Image:
    """Draw examples in two columns: inputs, then the target, as in the paper's Fig. 3.

    Arguments:
        data: The split to show; the inputs of `train` are rendered for the sheet.
        rows: How many examples, ≥ 1.
        seed: Draws the examples at random; None shows the first ones.

    Returns:
        An RGB image, dark captions on white.
    """
    if rows < 1:
        raise FusionDatasetsError(f"got {rows} rows; expected at least 1")
    rows = min(rows, len(data))
    chosen = (
        np.arange(rows) if seed is None else np.sort(np.random.default_rng(seed).choice(len(data), rows, replace=False))
    )
    num_inputs = data.spec.max_inputs
    columns = min(2, rows)
    per_column = -(-rows // columns)
    tile_px = data.spec.height * max(1, -(-_TILE_PX // data.spec.height))
    pitch = tile_px + _GAP_PX
    block_width = (num_inputs + 1) * pitch + _GAP_PX  # the target stands a little apart
    font = ImageFont.load_default(_CAPTION_PX)
    top = _MARGIN_PX + 2 * (_CAPTION_PX + 9)
    size = (
        2 * _MARGIN_PX + columns * block_width + (columns - 1) * _GUTTER_PX - _GAP_PX,
        top + per_column * pitch - _GAP_PX + _MARGIN_PX,
    )
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    origin = "rendered stand-in" if data.is_stand_in else f"from {data.source['name']}"
    pen.text((_MARGIN_PX, _MARGIN_PX - 4), data.spec.title, _INK, font)
    start = _MARGIN_PX + pen.textlength(f"{data.spec.title}   ", font)
    pen.text((start, _MARGIN_PX - 4), f"{data.split}, {len(data)} rows, {origin}", _FAINT, font)
    captions = [f"input {k + 1}" for k in range(num_inputs)] + ["target"]
    for column in range(columns):
        left = _MARGIN_PX + column * (block_width + _GUTTER_PX)
        lefts = [left + k * pitch + (_GAP_PX if k == num_inputs else 0) for k in range(num_inputs + 1)]
        for x, caption in zip(lefts, captions, strict=True):
            pen.text((x + tile_px / 2, top - 6), caption, _INK, font, anchor="ms")
        for line, row in enumerate(chosen[column * per_column : (column + 1) * per_column]):
            for x, image in zip(lefts, _images(data, int(row), seed or 0), strict=True):
                sheet.paste(_tile(image, tile_px), (x, top + line * pitch))
    return sheet


def save_contact_sheet(data: FusionDataset, path: Path, *, rows: int = 12, seed: int | None = None) -> None:
    """Write a contact sheet as a PNG, or as a PDF where the name ends so; see `contact_sheet`."""
    content, sheet = BytesIO(), contact_sheet(data, rows=rows, seed=seed)
    if path.suffix.lower() == ".pdf":
        sheet.save(content, "PDF", resolution=_PDF_DOTS_PER_INCH)
    else:
        sheet.save(content, "PNG", optimize=True)
    write_atomically(path, content.getvalue())


def _images(data: FusionDataset, row: int, seed: int) -> list[NDArray[np.uint8]]:
    example: FusionExample = data[row]
    if example.inputs is not None:
        return [*example.inputs, example.target]
    target, inputs, _ = render_example(
        example.target, data.spec, seed, data.split, example.index, data.spec.max_inputs, data.occluders
    )
    return [*inputs, target]


def _tile(image: NDArray[np.uint8], side_px: int) -> Image.Image:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return picture.resize((side_px, side_px), Image.Resampling.NEAREST).convert("RGB")
