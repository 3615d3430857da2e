"""What the paper lacks: scores against the number of inputs, visible and hidden pixels, calibration, learning curves.

Every function returns a Matplotlib figure. Lines are named where they end, and keep their colours (`palette`); bands
are standard errors over the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fusionvae_bench.figures import MUTED, RULE, STYLE, smoothed
from fusionvae_bench.palette import Appearance, appearances
from fusionvae_bench.paper import NUM_DIMS, TABLES
from fusionvae_bench.results import Result
from fusionvae_bench.rows import model_title

if TYPE_CHECKING:
    from fusionvae_bench.report import History

TRAINED_INPUTS = 3
"""The most inputs seen in training."""

_PAPER = Appearance(MUTED, "o", "--", filled=False)
_LABEL_SPACING = 0.058  # of the height of the axes, from one name to the next
_MARKS = 1.06  # of their width: where names begin with the line's mark
_NEAR_THE_EDGE = 0.9
_STEPS = (
    ("#c76a1b", "o", "-"), ("#c9487a", "s", "--"), ("#8a63c9", "^", "-."), ("#3d83c4", "D", ":"),
    ("#2c8f83", "v", "-"), ("#7d8b2a", "P", "--"), ("#9a7350", "X", "-."), ("#7f7f86", "<", ":"), ("#b5574f", ">", "-"),
)  # fmt: skip
"""Colour, mark and line of each number of inputs: all told from paper and from black by 3 : 1 and more."""
_FEWEST_PIXELS = 1 / 1000  # share of all, for a point of a calibration curve


def score_curves(results: Sequence[Result]) -> Figure:
    """Draw NLL and MSE_min against the number of inputs, a line for each result and one for the paper's FusionVAE."""
    panels = (
        ("NLL, nats per image", "nll_nats", 1.0),
        (r"MSE$_\mathrm{min}$, 10⁻²", "mse_min", 100.0),
    )
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 4.3), layout="constrained")
        for axes, (title, name, factor) in zip(figure.subplots(1, 2), panels, strict=True):
            _draw_scores(axes, results, name, factor)
            if paper := _papers(results, name):
                _draw_line(axes, list(range(4)), paper, None, _PAPER, "paper’s FusionVAE")
            axes.set_title(title, loc="left", fontsize=11, parse_math=True)
            axes.set_xlabel("number of inputs k")
            axes.set_xticks(sorted({k for result in results for k in result.num_inputs}))
            _scale(axes, from_zero=name == "mse_min")
            _shade_beyond_training(axes, results)
            _name_lines(axes)
        _explain_bands(figure)
    return figure


def visible_and_hidden(results: Sequence[Result]) -> Figure:
    """Draw the error of the mean of the draws over visible and over hidden pixels, against the number of inputs."""
    panels = (("visible in some input", "mse_visible"), ("hidden in all inputs", "mse_hidden"))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 4.1), layout="constrained")
        for axes, (title, name) in zip(figure.subplots(1, 2), panels, strict=True):
            _draw_scores(axes, results, name, 100.0)
            axes.set_title(f"MSE of the pixels {title}, 10⁻²", loc="left", fontsize=11)
            axes.set_xlabel("number of inputs k")
            axes.set_xticks(sorted({*range(TRAINED_INPUTS + 1), *(k for result in results for k in result.num_inputs)}))
            axes.set_xlim(-0.15, TRAINED_INPUTS + 0.15)
            _scale(axes, from_zero=True)
            _shade_beyond_training(axes, results)
            _name_lines(axes)
        _explain_bands(figure)
    return figure


def calibration(result: Result) -> Figure:
    """Draw the actual error of the pixels against their predicted uncertainty, a line for each number of inputs.

    Bins of fewer than a thousandth of the pixels are left out; how the pixels spread over the bins stands below.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 5.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
        upper.plot([0, 0.5], [0, 0.5], color=MUTED, linestyle="--", linewidth=1.2)
        upper.text(0.11, 0.092, "error = uncertainty", rotation=45, rotation_mode="anchor", transform_rotates_text=True,
                   ha="center", va="top", color=MUTED, fontsize=9.5)  # fmt: skip
        upper.set_title(
            f"{model_title(result)}: actual error of the pixels (root mean square)", loc="left", fontsize=11
        )
        for number, (k, bins) in enumerate(result.calibration.items()):
            shade, marker, dashes = _STEPS[number % len(_STEPS)]
            pixels = np.array([point.pixels for point in bins], float)
            kept = [point for point in bins if point.pixels >= pixels.sum() * _FEWEST_PIXELS]
            predicted, actual = [p.predicted for p in kept], np.array([p.actual for p in kept])
            errors = np.array([p.actual_standard_error or 0 for p in kept])
            upper.fill_between(predicted, actual - errors, actual + errors, color=shade, alpha=0.2, linewidth=0)
            upper.plot(predicted, actual, color=shade, marker=marker, markersize=4.5, linewidth=1.7, linestyle=dashes,
                       label=f"k = {k}")  # fmt: skip
            lower.plot([p.predicted for p in bins], pixels / pixels.sum(), color=shade, linewidth=1.5, linestyle=dashes)
        upper.legend(frameon=False, loc="upper left", fontsize=10)
        upper.set_xlim(0, 0.5)
        upper.set_ylim(0, 0.55)
        lower.set_yscale("log")
        lower.set_ylim(_FEWEST_PIXELS / 2, 1.3)
        lower.set_yticks([0.001, 0.01, 0.1, 1], ["0.1 %", "1 %", "10 %", "100 %"])
        lower.minorticks_off()
        lower.set_title("share of the pixels", loc="left", fontsize=11)
        lower.set_xlabel("predicted uncertainty of the pixels: standard deviation of the draws")
    return figure


def learning_curves(histories: Mapping[str, History], floor_nats: float | None = None) -> Figure:
    """Draw the negative ELBO of the training batches over the epochs, smoothed, a line for each model.

    Dots are that of images held out from the training.

    A single model's curve has its raw values behind it, and its warm-up shaded.

    Args:
        histories: title → learning curve.
        floor_nats: entropy of the grey values, the ground that no mean likelihood can go below.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.4, 4.1), layout="constrained")
        axes = figure.subplots()
        for (title, history), look in zip(histories.items(), appearances(histories).values(), strict=True):
            axes.plot(history.epochs, smoothed(history.nats), color=look.colour, linestyle=look.line, linewidth=1.9,
                      label=title, zorder=3)  # fmt: skip
            axes.plot(history.held_out_epochs, history.held_out_nats, color=look.colour, linestyle="none", marker="o",
                      markersize=4, markerfacecolor="none", label="_held out", zorder=4)  # fmt: skip
        if len(histories) == 1:
            _add_warm_up(axes, history)
            axes.plot(history.epochs, history.nats, color=RULE, linewidth=1)
        curves = [smoothed(history.nats) for history in histories.values()]
        curves += [history.held_out_nats for history in histories.values() if len(history.held_out_nats)]
        low, high = min(float(c.min()) for c in curves), max(float(c.max()) for c in curves)
        if floor_nats is not None:
            low = min(low, floor_nats)
            axes.axhline(floor_nats, color=MUTED, linestyle=":", linewidth=1.4)
            axes.annotate(
                f"entropy of the grey values, {floor_nats:.1f}", (1, floor_nats), xycoords=("axes fraction", "data"),
                xytext=(0, 4), textcoords="offset points", ha="right", color=MUTED, fontsize=9.5,
            )  # fmt: skip
        dots = "" if len(curves) == len(histories) else " (dots: of images held out)"
        axes.set_title(f"−ELBO of the training batches{dots}, nats per image (log scale)", loc="left", fontsize=11)
        axes.set_xlabel("epochs: passes over the training images")
        axes.set_xlim(0, max(float(history.epochs[-1]) for history in histories.values()) * 1.01)
        _take_logarithms(axes, low * 0.93, high * 1.05)
        if len(histories) > 1:
            _name_lines(axes)
    return figure


def log_ticks(low: float, high: float, most: int = 9) -> list[float]:
    """Return round numbers between two positive ones: 1, 2, 5 of each decade, or as many more as are legible."""
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9), (1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1,)):
        ticks = [float(f"{step * decade:.6g}") for decade in decades for step in steps if low <= step * decade <= high]
        if len(ticks) <= most:
            break
    return ticks


def spread_apart(values: NDArray[np.float64], spacing: float) -> NDArray[np.float64]:
    """Move values as little as possible (least squares) until neighbours are ``spacing`` apart; the order is kept.

    With ``i · spacing`` taken off the i-th smallest, that is the nearest ascending sequence: neighbours out of order
    are pooled at their mean. What would then lie outside [0, 1] is pushed back inside, as far as there is room.
    """
    order = np.argsort(values, kind="stable")
    blocks: list[tuple[float, int]] = []
    for position, value in enumerate(values[order]):
        mean, count = float(value) - position * spacing, 1
        while blocks and blocks[-1][0] > mean:
            other, many = blocks.pop()
            mean, count = (mean * count + other * many) / (count + many), count + many
        blocks.append((mean, count))
    steps = spacing * np.arange(len(values))
    ascending = steps + np.repeat([mean for mean, _ in blocks], [count for _, count in blocks])
    moved = np.empty(len(values))
    moved[order] = np.maximum(np.minimum(ascending, 1 - steps[::-1]), steps)
    return moved


def _draw_scores(axes: Axes, results: Sequence[Result], name: str, factor: float) -> None:
    titles = [model_title(result) for result in results]
    looks = appearances(titles)
    for title, result in zip(titles, results, strict=True):
        scores = {k: result.scores[str(k)] for k in result.num_inputs}
        known = [k for k, score in scores.items() if getattr(score, name) is not None]
        if known:
            values = [factor * getattr(scores[k], name) for k in known]
            errors = [
                factor * (getattr(scores[k], f"{name}_standard_error".replace("nll_nats", "nll")) or 0) for k in known
            ]
            _draw_line(axes, known, values, errors, looks[title], title)


def _draw_line(
    axes: Axes, counts: list[int], values: list[float], errors: list[float] | None, look: Appearance, title: str
) -> None:
    if errors is not None:
        low, high = np.subtract(values, errors), np.add(values, errors)
        axes.fill_between(counts, low, high, color=look.colour, alpha=0.18, linewidth=0)
    axes.plot(
        counts, values, color=look.colour, linestyle=look.line, linewidth=1.7, marker=look.marker, markersize=5,
        markerfacecolor=look.colour if look.filled else "none", label=title,
    )  # fmt: skip


def _name_lines(axes: Axes) -> None:
    """Write each line's name beside its end; names that would overlap move apart, and a hairline leads to them."""
    lines = [line for line in axes.lines if not str(line.get_label()).startswith("_")]
    if not lines:
        return
    ends = np.array([(np.asarray(line.get_xdata())[-1], np.asarray(line.get_ydata())[-1]) for line in lines], float)
    ends = axes.transAxes.inverted().transform(axes.transData.transform(ends))
    beside: dict[str, Any] = {"transform": axes.transAxes, "clip_on": False, "label": "_"}
    names = shortened([str(line.get_label()) for line in lines])
    heights = spread_apart(ends[:, 1], _LABEL_SPACING)
    for line, (x, y), height, name in zip(lines, ends, heights, names, strict=True):
        colour, marker = line.get_color(), line.get_marker()
        if x > _NEAR_THE_EDGE:  # a hairline through half of the axes would be taken for data
            axes.plot([x, _MARKS], [y, height], color=colour, linewidth=0.7, **beside)
        face = line.get_markerfacecolor()
        axes.plot(
            [_MARKS], [height], color=colour, marker="s" if marker == "None" else marker, markersize=5,
            markerfacecolor=face, **beside,
        )  # fmt: skip
        axes.text(_MARKS + 0.02, height, name, transform=axes.transAxes, va="center", fontsize=9.5)


def shortened(names: Sequence[str], most: int = 24) -> list[str]:
    """Return names that fit beside lines: from long ones goes what they begin and end with alike, then their middle."""
    long = {name for name in names if len(name) > most}
    ahead = behind = 0
    if len(long) > 1:
        ahead = _beginning(long)
        behind = _beginning({name[ahead:][::-1] for name in long})

    def short(name: str) -> str:
        if len(name) <= most:
            return name
        own = "…" * bool(ahead) + name[ahead : len(name) - behind] + "…" * bool(behind)
        half = (most - 1) // 2
        return own if len(own) <= most else f"{own[:half]}…{own[len(own) - (most - 1 - half) :]}"

    return [short(name) for name in names]


def _beginning(names: set[str]) -> int:
    """Return how many letters several names begin with alike, whole words if there are some; a single one is none."""
    first, last = min(names), max(names)  # all others begin as these two do
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    words = max(first.rfind(sign, 0, same) for sign in "./:") + 1
    alike = words or same
    return alike if alike > 1 else 0


def _explain_bands(figure: Figure) -> None:
    figure.supxlabel("bands: ± one standard error over the images", x=0.01, ha="left", color=MUTED, fontsize=9)


def _scale(axes: Axes, *, from_zero: bool) -> None:
    """Take logarithms where the largest of positive values would press the others together."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines] or [np.ones(1)])
    values = values[np.isfinite(values)]
    if len(values) and 0 < values.min() < values.max() / 5:
        _take_logarithms(axes, 0.85 * float(values.min()), 1.15 * float(values.max()))
        axes.set_title(f"{axes.get_title('left')} (log scale)", loc="left", fontsize=11)
    elif from_zero:
        axes.set_ylim(bottom=0)


def _take_logarithms(axes: Axes, low: float, high: float) -> None:
    axes.set_yscale("log")
    ticks = log_ticks(low, high)
    axes.set_yticks(ticks, [f"{t:,.6g}" for t in ticks])
    axes.minorticks_off()
    axes.set_ylim(low, high)


def _papers(results: Sequence[Result], name: str) -> list[float]:
    """Return the paper's FusionVAE in the units of a panel, if the results are on its data."""
    first = results[0]
    table = next((t for t in TABLES.values() if t.benchmark == first.benchmark), None)
    if table is None or any(result.is_stand_in for result in results):
        return []
    if any(result.num_dims != NUM_DIMS[first.benchmark] for result in results):
        return []  # of other images: in colour, or of another size
    if name == "mse_min":
        return list(table.mse_min["FusionVAE"][:4])
    return [v / 100 * first.num_dims * float(np.log(2)) for v in table.nll["FusionVAE"][:4]]


def _shade_beyond_training(axes: Axes, results: Sequence[Result]) -> None:
    if (most := max(k for result in results for k in result.num_inputs)) > TRAINED_INPUTS:
        axes.axvspan(TRAINED_INPUTS + 0.5, most + 0.3, color=RULE, alpha=0.35, linewidth=0)
        axes.set_xlim(-0.3, most + 0.3)
        axes.annotate("never seen in training", (TRAINED_INPUTS + 0.6, 0.97), xycoords=("data", "axes fraction"),
                      va="top", color=MUTED, fontsize=9)  # fmt: skip


def _add_warm_up(axes: Axes, history: History) -> None:
    if (warming := history.beta < 1).any() and not warming.all():
        axes.axvspan(history.epochs[0], history.epochs[int(warming.nonzero()[0][-1])], color=RULE, alpha=0.35, lw=0)
        axes.annotate("β < 1", (history.epochs[0], 0), xycoords=("data", "axes fraction"), xytext=(6, 26),
                      textcoords="offset points", color=MUTED)  # fmt: skip
