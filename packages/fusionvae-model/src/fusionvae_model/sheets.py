"""Pictures in, one sheet out: inputs, hypotheses, their mean and where they disagree."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

from fusionvae_model.atomic import write_file
from fusionvae_model.config import ModelConfig
from fusionvae_model.errors import FusionVAEError
from fusionvae_model.model import FusionModel

TILE_PX = 128
GAP_PX = 12
CAPTION_PX = 22
COLUMNS = 8
INK = (32, 33, 36)
FITS = ("crop", "pad", "stretch")
UNCERTAINTY = "uncertainty, 0 to 0.5"
WHITE_16_BITS = 65535
_PART = re.compile(r"(mean|uncertainty|hypothesis-\d+)\.png")
FULL_SCALE = 0.5
"""The largest standard deviation that values in [0, 1] can have: the white end of the uncertainty's scale."""


@dataclass(frozen=True)
class Fusion:
    """What fusing gave, all on the CPU and in [0, 1].

    Attributes:
        inputs: ``[k, c, h, w]``.
        hypotheses: Means of ``p(y|z)`` for ``z ~ p(z|x)``, ``[S, c, h, w]``.
    """

    inputs: Tensor
    hypotheses: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean of the hypotheses, ``[c, h, w]``."""
        return self.hypotheses.mean(dim=0)

    @property
    def tells_uncertainty(self) -> bool:
        """Whether there are several hypotheses; of one alone, nobody can say how sure it is."""
        return len(self.hypotheses) > 1

    @property
    def standard_deviation(self) -> Tensor:
        """Standard deviation of the hypotheses, the per-pixel uncertainty, ``[c, h, w]`` in [0, 0.5]."""
        return self.hypotheses.std(dim=0, correction=0)


def read_inputs(paths: Sequence[str | Path], config: ModelConfig, *, fit: str = "crop") -> Tensor:
    """Read pictures as inputs of a model.

    Args:
        paths: Any format that Pillow reads; transparent pixels count as hidden (black).
        config: Gives size and channels.
        fit: ``"crop"`` fills the square and cuts what is over, ``"pad"`` shows all on black, ``"stretch"`` distorts.

    Returns:
        ``[1, k, c, h, w]`` in [0, 1].

    Raises:
        FusionVAEError: If a file is missing or no picture, the model's channels are neither grey nor RGB, or the fit is
            unknown.
    """
    if fit not in FITS:
        raise FusionVAEError(f"got fit {fit!r}; expected one of {', '.join(FITS)}")
    mode = {1: "L", 3: "RGB"}.get(config.channels)
    if mode is None:
        raise FusionVAEError(f"the model has {config.channels} channels; ordinary pictures have 1 or 3")
    size = (config.image_size, config.image_size)
    pictures = [_fitted(_visible(Path(path)).convert(mode), size, fit) for path in paths]
    levels = np.array([np.asarray(picture) for picture in pictures], dtype=np.float32)
    images = torch.from_numpy(levels.reshape(len(pictures), *size, config.channels)).permute(0, 3, 1, 2)
    return images[None].contiguous() / 255


def _visible(path: Path) -> Image.Image:
    """Return a picture upright in RGB, hidden pixels black."""
    try:
        Image.init()
        formats = [name for name in Image.OPEN if name != "EPS"]  # which would start another program, Ghostscript
        with Image.open(path, formats=formats) as opened:
            picture = _in_8_bits(ImageOps.exif_transpose(opened)).convert("RGBA")
    except FileNotFoundError:
        raise FusionVAEError(f"{path} does not exist; give the path of a picture") from None
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise FusionVAEError(f"{path} is not a readable picture ({error}); give a PNG, JPEG or the like") from error
    return Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture).convert("RGB")


def _in_8_bits(picture: Image.Image) -> Image.Image:
    """Scale 16-bit grey levels, which Pillow's own conversion would cut off at 255; refuse what has no known white."""
    if picture.mode == "F":
        raise ValueError("its grey levels are floating-point numbers; expected 8 or 16 bits")
    if picture.mode != "I" and not picture.mode.startswith("I;16"):
        return picture
    levels = np.asarray(picture).astype(np.float64)
    if levels.min(initial=0) < 0 or levels.max(initial=0) > WHITE_16_BITS:
        raise ValueError(f"grey levels from {levels.min():.0f} to {levels.max():.0f} exceed 16 bits; expected 8 or 16")
    return Image.fromarray((levels * 255 / WHITE_16_BITS).round().astype(np.uint8))


def _fitted(picture: Image.Image, size: tuple[int, int], fit: str) -> Image.Image:
    """Bring a picture to the model's size: area averaging where it shrinks, as the benchmarks do; else bicubic."""
    method = Image.Resampling.BOX if min(picture.size) > size[0] else Image.Resampling.BICUBIC
    if picture.size == size:
        return picture
    if fit == "crop":
        return ImageOps.fit(picture, size, method)
    if fit == "pad":
        if 2 * min(picture.size) * size[0] <= max(picture.size):  # a short side that Pillow rounds to nothing
            width, height = (max(1, round(side / max(picture.size) * size[0])) for side in picture.size)
            picture = picture.resize((width, height), method)
        return ImageOps.pad(picture, size, method, color="black")
    return picture.resize(size, method)


def fuse(model: FusionModel, inputs: Tensor, *, num_samples: int, temperature: float = 1.0, seed: int = 0) -> Fusion:
    """Fuse the inputs ``[1, k, c, h, w]`` of one thing."""
    device = model.device
    generator = torch.Generator(device).manual_seed(seed)
    hypotheses = model.sample(inputs.to(device), num_samples=num_samples, temperature=temperature, generator=generator)
    return Fusion(inputs[0].cpu(), hypotheses[0].float().cpu())


def check_output(path: Path, images: Sequence[Path]) -> None:
    """Check before any work that a sheet may be written there.

    Raises:
        FusionVAEError: If the name is no PNG's, or that of one of the pictures to be fused.
    """
    if path.suffix.lower() != ".png":
        raise FusionVAEError(f"got {path} for the sheet, which is a PNG; name a file ending in .png")
    if any(path.exists() and image.exists() and path.samefile(image) for image in images):
        raise FusionVAEError(f"got {path} for both a picture and the sheet; name another file ending in .png")


def check_parts_folder(folder: Path, images: Sequence[Path], sheet: Path) -> None:
    """Check before any work that the parts may be written there, in place of earlier ones alone.

    Raises:
        FusionVAEError: If it is no folder, or holds one of the pictures to be fused or anything else but the sheet.
    """
    if folder.exists() and not folder.is_dir():
        raise FusionVAEError(f"got {folder} for the parts, which is a file; name a folder")
    if among := [path for path in images if path.resolve().parent == folder.resolve()]:
        raise FusionVAEError(f"{folder} holds {among[0].name}, which is to be fused; name a folder of the parts' own")
    for path in folder.iterdir() if folder.exists() else ():
        if not _PART.fullmatch(path.name) and path.resolve() != sheet.resolve():
            raise FusionVAEError(f"{folder} holds {path.name}, which is none of the parts; name a folder of their own")


def write_parts(folder: Path, fusion: Fusion) -> None:
    """Write mean, uncertainty (if told) and hypotheses as PNGs in the model's size, in place of an earlier call's.

    The grey levels of ``uncertainty.png`` are 510 times the standard deviation, whose most is a half.

    Raises:
        FusionVAEError: If a file cannot be written.
    """
    hypotheses = {f"hypothesis-{i:02d}.png": image for i, image in enumerate(fusion.hypotheses, start=1)}
    uncertainty = {"uncertainty.png": fusion.standard_deviation / FULL_SCALE} if fusion.tells_uncertainty else {}
    images = {"mean.png": fusion.mean, **uncertainty, **hypotheses}
    for path in folder.iterdir() if folder.exists() else ():
        if _PART.fullmatch(path.name) and path.name not in images:
            path.unlink()
    for name, image in images.items():
        write_file(folder / name, _png(_picture(image, heat=False)))


def write_sheet(path: Path, fusion: Fusion) -> None:
    """Write a PNG: the inputs, the hypotheses, then mean and uncertainty, if that is told.

    Raises:
        FusionVAEError: If the file cannot be written.
    """
    uncertainty = fusion.standard_deviation.mean(dim=0, keepdim=True) / FULL_SCALE
    rows = [
        *_rows([(f"input {i}", image) for i, image in enumerate(fusion.inputs, start=1)]),
        *_rows([(f"hypothesis {i}", image) for i, image in enumerate(fusion.hypotheses, start=1)]),
        [("mean", fusion.mean), *([(UNCERTAINTY, uncertainty)] if fusion.tells_uncertainty else [])],
    ]
    _write_tiles(path, rows)


def write_samples(path: Path, model: FusionModel, target: Tensor, inputs: Tensor) -> None:
    """Write a PNG: a row per image with target, inputs, and what the model makes of the first 0, 1, … of them.

    The noise is the same on every call, so that sheets of one training can be leafed through.

    Args:
        path: Final name.
        model: In any state of training.
        target: ``[b, c, h, w]`` in [0, 1].
        inputs: ``[b, k, c, h, w]`` in [0, 1].

    Raises:
        FusionVAEError: If the file cannot be written.
    """
    columns = [("target", target), *((f"input {i}", x) for i, x in enumerate(inputs.unbind(dim=1), start=1))]
    for k in range(inputs.shape[1] + 1):
        generator = torch.Generator(inputs.device).manual_seed(0)
        hypotheses = model.sample(inputs[:, :k], num_samples=2, generator=generator)
        columns += [(f"from {k} inputs" if k != 1 else "from 1 input", hypotheses[:, s]) for s in range(2)]
    images = [(caption, images.float().cpu()) for caption, images in columns]
    rows = range(len(target))
    _write_tiles(path, [[(caption if b == 0 else "", column[b]) for caption, column in images] for b in rows])


def _write_tiles(path: Path, rows: list[list[tuple[str, Tensor]]]) -> None:
    pitch = TILE_PX + GAP_PX
    captions_px = [CAPTION_PX if any(caption for caption, _ in row) else 0 for row in rows]
    height = sum(pitch + caption_px for caption_px in captions_px) + GAP_PX
    sheet = Image.new("RGB", (max(map(len, rows)) * pitch + GAP_PX, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    top = GAP_PX
    for row, caption_px in zip(rows, captions_px, strict=True):
        for c, (caption, image) in enumerate(row):
            left = GAP_PX + c * pitch
            draw.text((left, top), caption, fill=INK, font=font)
            tile = _picture(image, heat=caption == UNCERTAINTY).resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST)
            sheet.paste(tile, (left, top + caption_px))
        top += pitch + caption_px
    write_file(path, _png(sheet))


def _png(picture: Image.Image) -> bytes:
    png = io.BytesIO()
    picture.save(png, format="PNG")
    return png.getvalue()


def _rows(tiles: list[tuple[str, Tensor]]) -> list[list[tuple[str, Tensor]]]:
    return [tiles[first : first + COLUMNS] for first in range(0, len(tiles), COLUMNS)]


def _picture(image: Tensor, *, heat: bool) -> Image.Image:
    values = image.clamp(0, 1).permute(1, 2, 0).numpy()
    if heat:  # black → violet → orange → white, even in lightness
        stops = np.array([[0, 0, 4], [81, 18, 124], [183, 55, 121], [252, 137, 97], [252, 253, 191]], dtype=np.float32)
        position = values[..., 0] * (len(stops) - 1)
        colours = [np.interp(position, np.arange(len(stops)), stops[:, channel]) for channel in range(3)]
        return Image.fromarray(np.stack(colours, axis=-1).round().astype(np.uint8))
    levels = (values * 255).round().astype(np.uint8)
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
