"""Pictures for a self-contained page: pixels as PNG data URIs, curves as SVG that follows the page's colours."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

COLOUR_MAP = "magma"  # perceptually uniform, and ordered in grey print too

INK, MUTED, RULE, ACCENT = "#101010", "#808080", "#d0d0d0", "#b5367a"
_VARIABLES = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", ACCENT: "var(--accent)"}

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fusionvae-bench",
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


def heat_uri(values: NDArray[np.floating], most: float) -> str:
    """Encode a map of magnitudes on the scale from 0 to ``most``; larger ones take the last colour.

    Args:
        values: [h, w, c] ≥ 0, averaged over c.
        most: end of the scale.
    """
    return png_uri(mpl.colormaps[COLOUR_MAP](values.mean(-1) / most)[..., :3])


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


@dataclass(frozen=True)
class Curve:
    """A line over the numbers of inputs.

    Attributes:
        label: written beside its last point.
        x: numbers of inputs.
        y: values.
        error: standard errors, if known.
        is_reference: drawn quietly, dashed and hollow.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    is_reference: bool = False


def inputs_chart(panels: Sequence[tuple[str, Sequence[Curve]]]) -> str:
    """Draw scores over the number of inputs, a panel per metric, as SVG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.0), layout="constrained")
        for axes, (title, curves) in zip(np.ravel(figure.subplots(1, len(panels), squeeze=False)), panels, strict=True):
            axes.set_title(title, loc="left", fontsize=11)
            axes.set_xlabel("number of inputs k")
            for curve in curves:
                _draw(axes, curve)
            axes.set_xticks(sorted({x for curve in curves for x in curve.x}))
            axes.margins(x=0.08, y=0.12)
            if len(curves) > 1:
                axes.legend(frameon=False)
        return _svg(figure, "inputs")


def _draw(axes: Axes, curve: Curve) -> None:
    colour = MUTED if curve.is_reference else ACCENT
    axes.errorbar(
        curve.x, curve.y, yerr=curve.error, label=curve.label, color=colour, capsize=3, linewidth=1.8,
        linestyle="--" if curve.is_reference else "-", marker="o", markersize=5.5,
        markerfacecolor="none" if curve.is_reference else colour,
    )  # fmt: skip


def learning_chart(
    epochs: NDArray[np.float64], nats: NDArray[np.float64], *, floor: float | None, beta: NDArray[np.float64]
) -> str:
    """Draw the negative ELBO of the training batches over the epochs, as SVG.

    Args:
        epochs: [n] ascending.
        nats: [n] negative ELBO.
        floor: entropy of the grey values, drawn as the ground no model can go below.
        beta: [n] weight of the KL terms; its warm-up is shaded.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(epochs, nats, color=RULE, linewidth=1)
        axes.plot(epochs, smoothed(nats), color=ACCENT, linewidth=2)
        axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_title("−ELBO of the training batches, nats per image (log scale)", loc="left", fontsize=11)
        low, high = float(nats.min()), float(nats.max())
        if floor is not None:
            axes.axhline(floor, color=MUTED, linestyle=":", linewidth=1.4)
            axes.annotate(
                f"entropy of the grey values, {floor:.1f}", (1, floor), xycoords=("axes fraction", "data"),
                xytext=(0, 4), textcoords="offset points", ha="right", color=MUTED,
            )  # fmt: skip
            low = min(low, floor)
        axes.set_ylim(low * 0.93, high * 1.05)
        ticks = [
            t for t in (30, 40, 50, 60, 80, 100, 150, 200, 300, 500, 800, 1500, 3000) if low * 0.93 <= t <= high * 1.05
        ]
        axes.set_yticks(ticks, [str(t) for t in ticks])
        axes.minorticks_off()
        if (warming := beta < 1).any() and not warming.all():
            axes.axvspan(epochs[0], epochs[int(warming.nonzero()[0][-1])], color=RULE, alpha=0.35, linewidth=0)
            axes.annotate(
                "β < 1", (epochs[0], 0), xycoords=("data", "axes fraction"),
                xytext=(6, 26), textcoords="offset points", color=MUTED,
            )  # fmt: skip
        axes.margins(x=0.01)
        return _svg(figure, "learning")


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the centred running mean over a fortieth of the curve."""
    width = max(1, len(values) // 40) | 1
    padded = np.pad(values, width // 2, mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def _svg(figure: Figure, name: str) -> str:
    buffer = io.StringIO()
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
        r'<svg \1 xmlns:xlink="http://www.w3.org/1999/xlink" role="img">',
        text,
        count=1,
    )
