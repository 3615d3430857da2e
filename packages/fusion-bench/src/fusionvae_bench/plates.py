"""The paper's Figures 3–9, and the uncertainty of each pixel beside its error: sheets of pictures.

Every function returns a Matplotlib figure; the page embeds it, `write_plates` writes it as PNG and PDF. `curves` draws
the others.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from fusionvae_bench.atomic import write_atomically
from fusionvae_bench.curves import calibration, learning_curves, score_curves, visible_and_hidden
from fusionvae_bench.figures import COLOUR_MAP, HEAT_SCALE, INK, MUTED, STYLE, heat_map
from fusionvae_bench.gallery import Gallery
from fusionvae_bench.protocol import draw, is_deterministic
from fusionvae_bench.results import Result
from fusionvae_bench.scoring import read_images

if TYPE_CHECKING:
    from fusion_datasets import FusionDataset
    from fusionvae_bench.report import History

_INPUTS = 3
_GAP, _WIDE = 2, 10  # pixels of the images, between them and between groups
_ABSENT = (0.5, 0.5, 0.5, 0.12)  # RGBA, on white as on black
_INCHES_PER_LETTER = 0.09  # of a group's title
_HYPOTHESES = 3


@dataclass(frozen=True)
class Group:
    """Neighbouring columns of a picture sheet.

    Attributes:
        title: written above.
        columns: for each row its images [h, w, c] in [0, 1]; None leaves a cell empty.
    """

    title: str
    columns: tuple[tuple[NDArray[np.float64] | None, ...], ...]

    @property
    def width(self) -> int:
        """Columns."""
        return max(len(row) for row in self.columns)


@torch.no_grad()
def predictions(
    models: Mapping[str, Any], data: FusionDataset, *, seed: int = 0, device: torch.device | str = "cpu"
) -> Figure:
    """Draw Figures 3–6: inputs, target and three hypotheses of each model, three images for each of 0 to 3 inputs.

    Args:
        models: title → model; a deterministic one shows its one image.
        data: an evaluation split; its first twelve rows are shown, not picked by hand.
        seed: of all randomness.
        device: where the models live.
    """
    where = torch.device(device)
    target, inputs, masks = read_images(data, 0, min(3 * (_INPUTS + 1), len(data)), _INPUTS, where)
    counts = [row // 3 for row in range(len(target))]
    columns: dict[str, list[tuple[NDArray[np.float64] | None, ...]]] = {"inputs": [], "target": []}
    for row, k in enumerate(counts):
        columns["inputs"].append(tuple(_picture(inputs[row, i]) if i < k else None for i in range(_INPUTS)))
        columns["target"].append((_picture(target[row]),))
    for title, model in models.items():
        columns[title] = []
        for row, k in enumerate(counts):
            shown = None if masks is None else masks[row : row + 1, :k]
            columns[title].append(_hypotheses(model, inputs[row : row + 1, :k], shown, seed + row, where))
    return _sheet([Group(title, tuple(rows)) for title, rows in columns.items()], [f"k = {k}" for k in counts])


@torch.no_grad()
def reconstructions(
    models: Mapping[str, Any], data: FusionDataset, *, seed: int = 0, device: torch.device | str = "cpu"
) -> Figure:
    """Draw Figures 7–9: what the models make of the target itself, given as an input, beside three others or alone.

    Args:
        models: title → model.
        data: an evaluation split; its first six rows are shown.
        seed: of all randomness.
        device: where the models live.
    """
    where = torch.device(device)
    target, inputs, masks = read_images(data, 0, min(6, len(data)), _INPUTS, where)
    everything = torch.ones_like(target[:, :1], dtype=torch.bool)
    columns: dict[str, list[tuple[NDArray[np.float64] | None, ...]]] = {"inputs": [], "target": []}
    given, seen = [], []
    for row in range(len(target)):
        k = _INPUTS if row < 3 else 0
        given.append(torch.cat((inputs[row, :k], target[row : row + 1]))[None])
        seen.append(None if masks is None else torch.cat((masks[row, :k], everything[row]))[None])
        columns["inputs"].append(tuple(_picture(inputs[row, i]) if i < k else None for i in range(_INPUTS)))
        columns["target"].append((_picture(target[row]),))
    for title, model in models.items():
        columns[title] = [
            _hypotheses(model, given[row], seen[row], seed + row, where)[:1] for row in range(len(target))
        ]
    labels = ["given: target + 3 inputs" if row < 3 else "given: target alone" for row in range(len(target))]
    return _sheet([Group(title, tuple(rows)) for title, rows in columns.items()], labels)


def uncertainty(gallery: Gallery, title: str) -> Figure:
    """Draw, pixel by pixel, what a model is unsure of beside what it gets wrong, for each number of inputs.

    Args:
        gallery: fusions of a few rows.
        title: of the model.
    """
    fusions = [fusion for row in gallery.rows for fusion in row]
    groups = [
        Group("inputs", tuple((*f.inputs, *[None] * (_INPUTS - len(f.inputs))) for f in fusions)),
        Group("target", tuple((f.target,) for f in fusions)),
        Group(f"{title}: mean", tuple((f.mean,) for f in fusions)),
        Group("uncertainty", tuple((heat_map(f.uncertainty),) for f in fusions)),
        Group("error", tuple((heat_map(f.error),) for f in fusions)),
    ]
    labels = [f"k = {fusion.num_inputs}" for fusion in fusions]
    breaks = [i for i, fusion in enumerate(fusions) if i and fusion.num_inputs < fusions[i - 1].num_inputs]
    figure = _sheet(groups, labels, breaks, breadth=6.6)
    scale = ScalarMappable(Normalize(0, HEAT_SCALE), mpl.colormaps[COLOUR_MAP])
    with mpl.rc_context(STYLE):
        bar = figure.colorbar(scale, ax=figure.axes[0], location="bottom", shrink=0.5, aspect=40, pad=0.01)
        bar.outline.set_visible(False)
        spread = f"uncertainty: standard deviation of {gallery.num_samples} draws"
        bar.set_label(f"{spread}\nerror: distance of their mean from the target", fontsize=9)
        bar.ax.tick_params(labelsize=8.5)
    return figure


def draw_plates(
    results: Sequence[Result],
    models: Mapping[str, Any],
    histories: Mapping[str, History],
    data: FusionDataset | None,
    gallery: Gallery | None = None,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> dict[str, Figure]:
    """Draw every figure for which there is something to show.

    Args:
        results: of one benchmark, all on the originals or all on stand-ins; the first one's calibration is drawn.
        models: title → model, for the pictures.
        histories: title → learning curve.
        data: for the pictures; None draws none.
        gallery: pictures of the first model; None draws no uncertainty.
        seed: of the pictures.
        device: where the models live.

    Returns:
        By name, such as ``scores-by-inputs``.
    """
    figures: dict[str, Figure] = {}
    if data is not None and models:
        figures["predictions"] = predictions(models, data, seed=seed, device=device)
        figures["reconstructions"] = reconstructions(models, data, seed=seed, device=device)
    if gallery is not None:
        figures["uncertainty"] = uncertainty(gallery, next(iter(models)))
    if results:
        figures["scores-by-inputs"] = score_curves(results)
        if any(score.mse_hidden is not None for result in results for score in result.scores.values()):
            figures["visible-and-hidden"] = visible_and_hidden(results)
        if calibrated := next((result for result in results if result.calibration), None):
            figures["calibration"] = calibration(calibrated)
    if histories:
        floor = next((r.entropy_floor_nats for r in results if r.entropy_floor_nats is not None), None)
        figures["learning-curves"] = learning_curves(histories, floor)
    return figures


def write_plates(folder: Path, plates: Mapping[str, Figure]) -> list[Path]:
    """Write figures as PNG and PDF, each whole or not at all; the same figure gives the same bytes.

    Args:
        folder: created where it is missing.
        plates: name → figure.
    """
    written: dict[Path, bytes] = {}
    for name, figure in plates.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="pdf", facecolor="white", metadata={"CreationDate": None})
        written[folder / f"{name}.png"] = png(figure)
        written[folder / f"{name}.pdf"] = buffer.getvalue()
    for path, content in written.items():
        write_atomically(path, content)
    return list(written)


def png(figure: Figure) -> bytes:
    """Return the figure as PNG, 200 dots per inch on white."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, facecolor="white")
    return buffer.getvalue()


def _hypotheses(
    model: Any, inputs: Tensor, masks: Tensor | None, seed: int, device: torch.device
) -> tuple[NDArray[np.float64], ...]:
    generator = torch.Generator(device).manual_seed(seed)
    count = 1 if is_deterministic(model) else _HYPOTHESES
    images = draw(model, inputs, num_samples=count, generator=generator, masks=masks)[0]
    return tuple(map(_picture, images))


def _picture(image: Tensor) -> NDArray[np.float64]:
    picture: NDArray[np.float64] = image.permute(1, 2, 0).double().cpu().numpy()
    return picture


def _sheet(
    groups: Sequence[Group], labels: Sequence[str], breaks: Sequence[int] | None = None, breadth: float = 11.6
) -> Figure:
    """Lay images out, groups of columns side by side; equal labels of neighbouring rows are written once.

    Args:
        groups: of columns.
        labels: of the rows.
        breaks: rows with a gap above; None for those whose label differs from the one above.
        breadth: inches.
    """
    height, width = next(
        image.shape[:2] for group in groups for row in group.columns for image in row if image is not None
    )
    changes = [i for i in range(1, len(labels)) if labels[i] != labels[i - 1]]
    breaks = changes if breaks is None else breaks
    tops = [i * (height + _GAP) + _WIDE * sum(b <= i for b in breaks) for i in range(len(labels))]
    lefts, at = [], 0
    for group in groups:
        lefts.append(at)
        at += group.width * (width + _GAP) - _GAP + _WIDE
    canvas = np.zeros((tops[-1] + height, at - _WIDE, 4))  # transparent between the images
    for group, left in zip(groups, lefts, strict=True):
        for top, row in zip(tops, group.columns, strict=True):
            for column, image in enumerate(row):
                x = left + column * (width + _GAP)
                cell = canvas[top : top + height, x : x + width]
                cell[:] = _ABSENT
                if image is not None:
                    cell[..., :3], cell[..., 3] = image, 1
    scale = (breadth - 0.6) / canvas.shape[1]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(breadth, canvas.shape[0] * scale + 0.5), layout="constrained")
        axes = figure.subplots()
        axes.imshow(canvas, interpolation="none")
        axes.set_axis_off()
        for group, left in zip(groups, lefts, strict=True):
            breadth = group.width * (width + _GAP) - _GAP
            title = textwrap.fill(
                group.title, max(1, int(breadth * scale / _INCHES_PER_LETTER)), break_long_words=False
            )
            axes.text(left + breadth / 2, -4, title, ha="center", va="bottom", color=INK, fontsize=10.5)
        for first, last in zip([0, *changes], [*changes, len(labels)], strict=True):
            middle = (tops[first] + tops[last - 1] + height) / 2
            axes.text(-6, middle, labels[first], ha="right", va="center", rotation=90, color=MUTED, fontsize=10)
    return figure
