"""Pictures for a self-contained page: pixels as PNG data URIs, curves as SVG that follows the page's colours."""

from __future__ import annotations

import base64
import io
import re
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

COLOUR_MAP = "magma"  # perceptually uniform, and ordered in grey print too

HEAT_SCALE = 0.5
"""End of the colour scale of uncertainty and error: no value in [0, 1] can deviate by more than ½ on average."""

INK, MUTED, RULE, ACCENT = "#101010", "#808080", "#d0d0d0", "#b5367a"
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", ACCENT: "var(--accent)"}

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fusionvae-bench",
    "text.parse_math": False,  # a model's name may hold dollars
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
}


def png_uri(image: NDArray[np.floating]) -> str:
    """Encode an image.

    Args:
        image: [h, w, c] with c = 1 or 3, values in [0, 1].
    """
    pixels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def heat_map(values: NDArray[np.floating], most: float = HEAT_SCALE) -> NDArray[np.float64]:
    """Colour magnitudes on the scale from 0 to ``most``; larger ones take the last colour.

    Args:
        values: [h, w, c] ≥ 0, averaged over c.
        most: end of the scale.

    Returns:
        [h, w, 3] in [0, 1].
    """
    colours: NDArray[np.float64] = mpl.colormaps[COLOUR_MAP](values.mean(-1) / most)[..., :3]
    return colours


def heat_uri(values: NDArray[np.floating], most: float = HEAT_SCALE) -> str:
    """Encode magnitudes in the colours of `heat_map`."""
    return png_uri(heat_map(values, most))


def colour_stops(count: int = 9) -> str:
    """Return the colour map as the stops of a CSS gradient."""
    colours = mpl.colormaps[COLOUR_MAP](np.linspace(0, 1, count))
    return ", ".join(to_hex(colour) for colour in colours)


def mosaic(images: NDArray[np.floating], columns: int) -> NDArray[np.floating]:
    """Lay [n, h, w, c] images out in rows of so many columns, without gaps; an incomplete row is left out."""
    rows = len(images) // columns
    _, height, width, channels = images.shape
    grid = images[: rows * columns].reshape(rows, columns, height, width, channels)
    return grid.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centred running mean over a fortieth of the curve."""
    width = max(1, len(values) // 40) | 1
    padded = np.pad(values, width // 2, mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def svg(figure: Figure, name: str, described: str) -> str:
    """Encode a figure for the page, whose colours and typeface it takes; the same figure gives the same text.

    Args:
        figure: of any size.
        name: told apart from the page's other figures by it.
        described: what it shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r"font-family: [^;\"]*|(?<=px )(?:'[^']*'|[\w-]+)(?:, (?:'[^']*'|[\w-]+))*", "inherit", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|xlink:href=")#', rf"\1#{name}-", text)
    return re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
        lambda found: (
            f'<svg {found[1]} xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
            f'aria-label="{escape(described, quote=True)}">'
        ),
        text,
        count=1,
    )
