"""The paper's Figures 3–9, and what it lacks: curves beyond three inputs, visible against hidden pixels, calibration.

Every function returns a Matplotlib figure; the page embeds it, `write_plates` writes it as PNG and PDF.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from fusionvae_bench.atomic import write_atomically
from fusionvae_bench.figures import INK, MUTED, RULE, STYLE, smoothed
from fusionvae_bench.paper import TABLES
from fusionvae_bench.protocol import draw, is_deterministic
from fusionvae_bench.results import Result
from fusionvae_bench.rows import model_title
from fusionvae_bench.scoring import read_images

if TYPE_CHECKING:
    from fusion_datasets import FusionDataset
    from fusionvae_bench.report import History

PALETTE = ("#b5367a", "#1f77b4", "#2a9d5c", "#e0812b", "#7a5cc0", "#8c6d46", "#3aa6b0", "#707070")
"""Colours of the models, told apart by the colour-blind and in this order; the featured one comes first."""

_INPUTS = 3
_GAP, _WIDE = 2, 10  # pixels of the images, between them and between groups
_ABSENT = (0.5, 0.5, 0.5, 0.12)  # RGBA, on white as on black
_INCHES_PER_LETTER = 0.09  # of a group's title
_HYPOTHESES = 3
_ERROR_TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20, 30, 50)
_NATS_TICKS = (30, 40, 50, 60, 80, 100, 150, 200, 300, 500, 800, 1500, 3000, 6000, 10000, 20000, 40000)


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
    labels = ["target + 3" if row < 3 else "target" for row in range(len(target))]
    return _sheet([Group(title, tuple(rows)) for title, rows in columns.items()], labels)


def score_curves(results: Sequence[Result]) -> Figure:
    """Draw NLL and MSE_min against the number of inputs, a line for each result; the paper's FusionVAE is dashed."""
    panels = (
        ("NLL, nats per image", "nll_nats", "nll_standard_error", 1.0),
        ("MSE$_{min}$, 10⁻²", "mse_min", "mse_min_standard_error", 100.0),
    )
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.9), layout="constrained")
        for axes, (title, name, error_name, factor) in zip(figure.subplots(1, 2), panels, strict=True):
            axes.set_title(title, loc="left", fontsize=11)
            axes.set_xlabel("number of inputs k")
            for colour, result in zip(_colours(results), results, strict=True):
                known = [k for k in result.num_inputs if getattr(result.scores[str(k)], name) is not None]
                if known:
                    values = [factor * getattr(result.scores[str(k)], name) for k in known]
                    errors = [factor * (getattr(result.scores[str(k)], error_name) or 0) for k in known]
                    axes.errorbar(
                        known, values, errors, color=colour, marker="o", markersize=4.5, capsize=2.5, linewidth=1.7,
                        label=model_title(result),
                    )  # fmt: skip
            if paper := _papers(results, name):
                axes.plot(
                    range(4), paper, color=MUTED, linestyle="--", marker="o", markerfacecolor="none",
                    label="paper’s FusionVAE",
                )  # fmt: skip
            axes.set_xticks(sorted({k for result in results for k in result.num_inputs}))
            _spread_out(axes)
            _shade_beyond_training(axes, results)
        handles = {
            label: handle
            for axes in figure.axes
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=9.5)
    return figure


def _spread_out(axes: Axes) -> None:
    """Take a logarithmic scale where the largest of positive values would press the others together."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines] or [np.ones(1)])
    values = values[np.isfinite(values)]
    if len(values) and 0 < values.min() < values.max() / 5:
        axes.set_yscale("log")
        low, high = 0.85 * values.min(), 1.2 * values.max()
        ticks = [t for t in _ERROR_TICKS if low <= t <= high]
        axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
        axes.minorticks_off()
        axes.set_ylim(low, high)


def _papers(results: Sequence[Result], name: str) -> list[float]:
    """Return the paper's FusionVAE in the units of a panel, if the results are on its data."""
    first = results[0]
    table = next((t for t in TABLES.values() if t.benchmark == first.benchmark), None)
    if table is None or any(result.is_stand_in for result in results):
        return []
    if name == "mse_min":
        return list(table.mse_min["FusionVAE"][:4])
    return [v / 100 * first.num_dims * float(np.log(2)) for v in table.nll["FusionVAE"][:4]]


def _shade_beyond_training(axes: Any, results: Sequence[Result]) -> None:
    if (most := max(k for result in results for k in result.num_inputs)) > _INPUTS:
        axes.axvspan(_INPUTS + 0.5, most + 0.4, color=RULE, alpha=0.35, linewidth=0)
        axes.annotate("never seen in training", (_INPUTS + 0.6, 0.97), xycoords=("data", "axes fraction"), va="top",
                      color=MUTED, fontsize=9)  # fmt: skip


def visible_and_hidden(results: Sequence[Result]) -> Figure:
    """Draw the error of the mean of the draws over visible and over hidden pixels, against the number of inputs."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.6), layout="constrained")
        panels = (("visible in some input", "mse_visible"), ("hidden in all", "mse_hidden"))
        for axes, (title, name) in zip(figure.subplots(1, 2), panels, strict=True):
            axes.set_title(f"MSE of pixels {title}, 10⁻²", loc="left", fontsize=10.5)
            axes.set_xlabel("number of inputs k")
            for colour, result in zip(_colours(results), results, strict=True):
                known = [k for k in result.num_inputs if getattr(result.scores[str(k)], name) is not None]
                values = [100 * getattr(result.scores[str(k)], name) for k in known]
                axes.plot(
                    known, values, color=colour, marker="o", markersize=4.5, linewidth=1.7, label=model_title(result)
                )
            axes.set_xticks(range(_INPUTS + 1))
            axes.set_xlim(-0.2, _INPUTS + 0.2)
            axes.set_ylim(bottom=0)
            _spread_out(axes)
        handles, labels = figure.axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9.5)
    return figure


def calibration(result: Result) -> Figure:
    """Draw the actual error of the pixels against their predicted uncertainty, a line for each number of inputs.

    Bins of fewer than a thousandth of the pixels are left out; how the pixels spread over the bins stands below.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 5.2), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
        upper.plot([0, 0.5], [0, 0.5], color=MUTED, linestyle="--", linewidth=1.2)
        upper.annotate("perfectly calibrated", (0.5, 0.49), ha="right", va="top", color=MUTED, fontsize=9)
        upper.set_title(f"{model_title(result)}: root mean squared error of the pixels", loc="left", fontsize=11)
        shades = mpl.colormaps["magma"](np.linspace(0.8, 0.35, len(result.calibration)))
        for shade, (k, bins) in zip(shades, result.calibration.items(), strict=True):
            pixels = np.array([point.pixels for point in bins], float)
            kept = [point for point in bins if point.pixels >= pixels.sum() / 1000]
            upper.plot(
                [p.predicted for p in kept], [p.actual for p in kept], color=shade, marker="o", markersize=4.5,
                linewidth=1.7, label=f"k = {k}",
            )  # fmt: skip
            lower.plot([p.predicted for p in bins], pixels / pixels.sum(), color=shade, linewidth=1.5)
        upper.legend(frameon=False, loc="upper left")
        upper.set_xlim(0, 0.5)
        upper.set_ylim(0, 0.55)
        lower.set_yscale("log")
        lower.set_title("share of the pixels", loc="left", fontsize=11)
        lower.set_xlabel("predicted standard deviation")
    return figure


def learning_curves(histories: Mapping[str, History], floor_nats: float | None = None) -> Figure:
    """Draw the negative ELBO of the training batches over the epochs, smoothed, a line for each model.

    A single model's curve has its raw values behind it, and its warm-up shaded.

    Args:
        histories: title → learning curve.
        floor_nats: entropy of the grey values, the ground that no mean likelihood can go below.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 3.8), layout="constrained")
        axes = figure.subplots()
        for colour, (title, history) in zip(cycle(PALETTE), histories.items(), strict=False):
            axes.plot(history.epochs, smoothed(history.nats), color=colour, linewidth=1.9, label=title, zorder=3)
        if len(histories) == 1:
            _add_warm_up(axes, history)
            axes.plot(history.epochs, history.nats, color=RULE, linewidth=1)
        else:
            figure.legend(loc="outside right center", frameon=False, fontsize=9.5)
        curves = [smoothed(history.nats) for history in histories.values()]
        low, high = min(float(c.min()) for c in curves), max(float(c.max()) for c in curves)
        if floor_nats is not None:
            low = min(low, floor_nats)
            axes.axhline(floor_nats, color=MUTED, linestyle=":", linewidth=1.4)
            axes.annotate(
                f"entropy of the grey values, {floor_nats:.1f}", (1, floor_nats), xycoords=("axes fraction", "data"),
                xytext=(0, 4), textcoords="offset points", ha="right", color=MUTED, fontsize=9.5,
            )  # fmt: skip
        axes.set_title("−ELBO of the training batches, nats per image (log scale)", loc="left", fontsize=11)
        axes.set_xlabel("epoch")
        axes.set_yscale("log")
        axes.set_ylim(low * 0.93, high * 1.05)
        ticks = [t for t in _NATS_TICKS if low * 0.93 <= t <= high * 1.05]
        axes.set_yticks(ticks, [f"{t:,}" for t in ticks])
        axes.minorticks_off()
        axes.margins(x=0.01)
    return figure


def _add_warm_up(axes: Axes, history: History) -> None:
    if (warming := history.beta < 1).any() and not warming.all():
        axes.axvspan(history.epochs[0], history.epochs[int(warming.nonzero()[0][-1])], color=RULE, alpha=0.35, lw=0)
        axes.annotate("β < 1", (history.epochs[0], 0), xycoords=("data", "axes fraction"), xytext=(6, 26),
                      textcoords="offset points", color=MUTED)  # fmt: skip


def draw_plates(
    results: Sequence[Result],
    models: Mapping[str, Any],
    histories: Mapping[str, History],
    data: FusionDataset | None,
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
        seed: of the pictures.
        device: where the models live.

    Returns:
        By name, such as ``scores-by-inputs``.
    """
    figures: dict[str, Figure] = {}
    if data is not None and models:
        figures["predictions"] = predictions(models, data, seed=seed, device=device)
        figures["reconstructions"] = reconstructions(models, data, seed=seed, device=device)
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


def _colours(results: Sequence[Result]) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(len(results))]


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


def _sheet(groups: Sequence[Group], labels: Sequence[str]) -> Figure:
    """Lay images out, groups of columns side by side; equal labels of neighbouring rows are written once."""
    height, width = next(
        image.shape[:2] for group in groups for row in group.columns for image in row if image is not None
    )
    breaks = [i for i in range(1, len(labels)) if labels[i] != labels[i - 1]]
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
    scale = 11 / canvas.shape[1]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.6, canvas.shape[0] * scale + 0.5), layout="constrained")
        axes = figure.subplots()
        axes.imshow(canvas, interpolation="none")
        axes.set_axis_off()
        for group, left in zip(groups, lefts, strict=True):
            breadth = group.width * (width + _GAP) - _GAP
            title = textwrap.fill(
                group.title, max(1, int(breadth * scale / _INCHES_PER_LETTER)), break_long_words=False
            )
            axes.text(left + breadth / 2, -4, title, ha="center", va="bottom", color=INK, fontsize=10.5)
        for first, last in zip([0, *breaks], [*breaks, len(labels)], strict=True):
            middle = (tops[first] + tops[last - 1] + height) / 2
            axes.text(-6, middle, labels[first], ha="right", va="center", rotation=90, color=MUTED, fontsize=10)
    return figure
