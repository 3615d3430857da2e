"""Contact sheets: some targets of a file with their inputs, what these show of them, or what hides them."""

from io import BytesIO
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fusion_datasets.corruptions import RenderedExample, render_example
from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.store import FusionDataset, write_atomically

Show = Literal["inputs", "masks", "occluders"]
SHOWN: Final[tuple[Show, ...]] = get_args(Show)
"""What a sheet may show."""

_TILE_PX: Final = 96  # about; an image is enlarged by a whole number
_GAP_PX: Final = 4
_PAIR_GAP_PX: Final = 8  # below an example of two lines
_GUTTER_PX: Final = 28  # between the two columns of examples
_MARGIN_PX: Final = 20
_CAPTION_PX: Final = 13
_TOP_PX: Final = _MARGIN_PX + 2 * (_CAPTION_PX + 9)
_OCCLUDERS_PER_LINE: Final = 12  # as many as FusionT-LESS has objects: each has a column of its own
_SQUARE_PX: Final = 10
_PDF_DOTS_PER_INCH: Final = 200
_PAPER, _INK, _FAINT = (255, 255, 255), (38, 38, 38), (130, 130, 130)
_HIDDEN: Final = np.array((222, 142, 56), np.uint8)
_SLATE: Final = np.array(((72, 84, 102), (84, 97, 116)), np.uint8)


def contact_sheet(
    data: FusionDataset, *, rows: int = 12, seed: int | None = None, show: Show = "inputs"
) -> Image.Image:
    """Draw examples in two columns, inputs, then the target, as in the paper's Fig. 3; or the occluders.

    Arguments:
        data: The split to show; the inputs of `train` are rendered for the sheet.
        rows: How many examples, or lines of occluders, ≥ 1.
        seed: Draws them at random; None shows the first examples, and of the occluders lines from all over.
        show: `"masks"` adds below each input what it shows of the target, and below the target what any of them does;
            `"occluders"` shows what is laid over this split's targets, instead.

    Returns:
        An RGB image, dark captions on white.

    Raises:
        FusionDatasetsError: If there are no rows, or no occluders where they are to be shown.
    """
    if rows < 1:
        raise FusionDatasetsError(f"got {rows} rows; expected at least 1")
    return _occluder_sheet(data, rows, seed) if show == "occluders" else _example_sheet(data, rows, seed, show)


def save_contact_sheet(
    data: FusionDataset, path: Path, *, rows: int = 12, seed: int | None = None, show: Show = "inputs"
) -> None:
    """Write a contact sheet as a PNG, or as a PDF where the name ends so; see `contact_sheet`, `check_sheet_name`."""
    check_sheet_name(path)
    content, sheet = BytesIO(), contact_sheet(data, rows=rows, seed=seed, show=show)
    if path.suffix.lower() == ".pdf":
        sheet.save(content, "PDF", resolution=_PDF_DOTS_PER_INCH)
    else:
        sheet.save(content, "PNG", optimize=True)
    write_atomically(path, content.getvalue())


def check_sheet_name(path: Path) -> None:
    """Check that a name is a sheet's, so that no other file is replaced by one.

    Raises:
        FusionDatasetsError: If it ends otherwise than in .png or .pdf.
    """
    if path.suffix.lower() not in (".png", ".pdf"):
        raise FusionDatasetsError(f"got {path} for the sheet; name a file ending in .png or .pdf")


def _example_sheet(data: FusionDataset, rows: int, seed: int | None, show: Show) -> Image.Image:
    if not len(data):
        raise FusionDatasetsError(f"{data.path} has no rows in the split {data.split}; choose another with --split")
    chosen = _choice(len(data), rows, seed)
    num_inputs, lines = data.spec.max_inputs, 1 + (show == "masks")
    columns = min(2, len(chosen))
    per_column = -(-len(chosen) // columns)
    tile_px = data.spec.height * max(1, -(-_TILE_PX // data.spec.height))
    pitch = tile_px + _GAP_PX
    height = lines * pitch + _PAIR_GAP_PX * (lines - 1)
    block_width = (num_inputs + 1) * pitch + _GAP_PX  # the target stands a little apart
    width = columns * block_width + (columns - 1) * _GUTTER_PX - _GAP_PX
    note = f"{len(data)} rows" + ", inputs drawn for this sheet" * (data.split == "train")
    note += "; below: orange where an input hides the target, at the right where all do" * (show == "masks")
    sheet, pen = _titled(data, note, width, per_column * height - _GAP_PX - _PAIR_GAP_PX * (lines - 1))
    captions = [f"input {k + 1}" for k in range(num_inputs)] + ["target"]
    for column in range(columns):
        left = _MARGIN_PX + column * (block_width + _GUTTER_PX)
        lefts = [left + k * pitch + (_GAP_PX if k == num_inputs else 0) for k in range(num_inputs + 1)]
        for x, caption in zip(lefts, captions, strict=True):
            pen.text((x + tile_px / 2, _TOP_PX - 6), caption, _INK, _font(), anchor="ms")
        for place, row in enumerate(chosen[column * per_column : (column + 1) * per_column]):
            target, inputs, masks = _example(data, int(row), seed or 0)
            shown = [[*inputs, target], [_seen(target, mask) for mask in (*masks, masks.any(axis=0))]]
            for line, images in enumerate(shown[:lines]):
                for x, image in zip(lefts, images, strict=True):
                    sheet.paste(_tile(image, tile_px), (x, _TOP_PX + place * height + line * pitch))
    return sheet


def _occluder_sheet(data: FusionDataset, rows: int, seed: int | None) -> Image.Image:
    pool = data.occluders
    if pool is None:
        raise FusionDatasetsError(
            f"{data.spec.title} shows {data.spec.law}, and no occluders are laid over its targets; expected a file "
            "that has some, such as FusionT-LESS's"
        )
    chosen = _choice(len(pool), rows * _OCCLUDERS_PER_LINE, seed)
    if seed is None:  # neighbouring views of an object look alike
        every = max(1, len(pool) // _OCCLUDERS_PER_LINE // rows)
        chosen += chosen // _OCCLUDERS_PER_LINE * (every - 1) * _OCCLUDERS_PER_LINE
    pitch = _TILE_PX + _GAP_PX
    across, down = min(_OCCLUDERS_PER_LINE, len(chosen)), -(-len(chosen) // _OCCLUDERS_PER_LINE)
    note = f"{len(pool)} occluders" + f", {len(chosen)} of them shown" * (len(chosen) < len(pool))
    sheet, _ = _titled(data, note, across * pitch - _GAP_PX, down * pitch - _GAP_PX)
    rows_px, columns_px = np.indices((_TILE_PX, _TILE_PX)) // _SQUARE_PX
    squares = Image.fromarray(_SLATE[(rows_px + columns_px) % 2])
    for place, occluder in enumerate(chosen):
        line, column = divmod(place, _OCCLUDERS_PER_LINE)
        picture = Image.fromarray(np.asarray(pool[int(occluder)])).resize((_TILE_PX, _TILE_PX))
        tile = squares.copy()
        tile.paste(picture, mask=picture)
        sheet.paste(tile, (_MARGIN_PX + column * pitch, _TOP_PX + line * pitch))
    return sheet


def _choice(count: int, wanted: int, seed: int | None) -> NDArray[np.int64]:
    wanted = min(wanted, count)
    return (
        np.arange(wanted) if seed is None else np.sort(np.random.default_rng(seed).choice(count, wanted, replace=False))
    )


def _titled(data: FusionDataset, note: str, width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """White paper around so much content, with what the file is written at its top."""
    title, start = data.spec.title, _MARGIN_PX
    origin = "rendered stand-in" if data.is_stand_in else f"from {data.source['name']}"
    words = ((title, _INK), (f"{data.split}, {origin}, {note}", _FAINT))
    needed = sum(int(_font().getlength(f"{text}   ")) for text, _ in words)
    sheet = Image.new("RGB", (2 * _MARGIN_PX + max(width, needed), _TOP_PX + height + _MARGIN_PX), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for text, colour in words:
        pen.text((start, _MARGIN_PX - 4), text, colour, _font())
        start += int(pen.textlength(f"{text}   ", _font()))
    return sheet, pen


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_CAPTION_PX)


def _example(data: FusionDataset, row: int, seed: int) -> RenderedExample:
    example = data[row]
    if example.inputs is not None and example.masks is not None:
        return RenderedExample(example.target, example.inputs, example.masks)
    return render_example(
        example.target, data.spec, seed, data.split, example.index, data.spec.max_inputs, data.occluders
    )


def _seen(target: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(mask[..., None], target, _HIDDEN)


def _tile(image: NDArray[np.uint8], side_px: int) -> Image.Image:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return picture.resize((side_px, side_px), Image.Resampling.NEAREST).convert("RGB")
