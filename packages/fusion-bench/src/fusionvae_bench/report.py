"""The report: one self-contained page, or the same numbers as Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fusionvae_bench.gallery import Gallery
from fusionvae_bench.rendering import escaped, to_html, to_markdown
from fusionvae_bench.results import AVERAGE, InputGain, Result
from fusionvae_bench.rows import model_title
from fusionvae_bench.tables import ALL_TABLES, all_tables, draws, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class History:
    """How the training went, from its log; all [n], but what is held out [m].

    Attributes:
        epochs: passes over the training images.
        nats: negative ELBO of the batches.
        beta: weight of the KL terms.
        seconds: since the start.
        held_out_epochs: where the images held out from it were looked at.
        held_out_nats: their negative ELBO.
    """

    epochs: NDArray[np.float64]
    nats: NDArray[np.float64]
    beta: NDArray[np.float64]
    seconds: NDArray[np.float64]
    held_out_epochs: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    held_out_nats: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


def read_history(folder: Path) -> History | None:
    """Read ``log.jsonl`` of a training folder; None if there is none. A last line cut short is passed over."""
    path = folder / "log.jsonl"
    if not path.is_file():
        return None
    rows, held_out = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
            if "held_out_elbo_nats" in entry:
                held_out.append([float(entry[key]) for key in ("epoch", "held_out_elbo_nats")])
            rows.append([float(entry[key]) for key in ("epoch", "elbo_nats", "beta", "seconds")])
        except (ValueError, KeyError, TypeError):
            continue
    if len(rows) < 2:
        return None
    epochs, elbo, beta, seconds = np.array(rows).T
    held_out_epochs, held_out_elbo = np.array(held_out).reshape(-1, 2).T
    return History(epochs, -elbo, beta, seconds, held_out_epochs, -held_out_elbo)


def markdown_report(results: Sequence[Result], numbers: Sequence[int] = ALL_TABLES) -> str:
    """Write tables, gains and provenance as Markdown.

    Args:
        results: what the tables show.
        numbers: of the paper's tables.
    """
    parts = ["# Results", ""]
    parts += [
        f"> **Warning, {escaped(r.model_name)}:** {escaped(warning)}\n" for r in results for warning in r.warnings
    ]
    parts += [to_markdown(table) for table in all_tables(results, numbers)]
    for result in results:
        parts.append(_markdown_details(result))
    return "\n".join(parts)


def html_report(
    results: Sequence[Result],
    *,
    gallery: Gallery | None = None,
    history: History | None = None,
    plates: Mapping[str, Figure] = MappingProxyType({}),
    featured: Result | None = None,
    numbers: Sequence[int] = ALL_TABLES,
) -> str:
    """Write the page.

    Args:
        results: what the tables show.
        gallery: pictures to open with.
        history: learning curve of the featured model.
        plates: figures by name, of `plates.draw_plates`.
        featured: the result that the page is about; None for the first one.
        numbers: of the paper's tables.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from fusionvae_bench import figures

    featured = featured or (results[0] if results else None)
    tables = all_tables(results, numbers)
    environment = Environment(
        loader=PackageLoader("fusionvae_bench"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["png"] = figures.png_uri
    environment.filters["heat"] = figures.heat_uri
    environment.filters["number"] = number
    page: str = environment.get_template("report.html.j2").render(
        results=results,
        featured=featured,
        average=featured.score(AVERAGE) if featured else None,
        model=model_title(featured) if featured else "FusionVAE",
        gallery=gallery,
        unconditional=figures.png_uri(figures.mosaic(gallery.unconditional, 12)) if gallery else None,
        heat_scale=figures.HEAT_SCALE,
        colour_stops=figures.colour_stops(),
        tables=[(table, to_html(table)) for table in tables if table.has_ours or not results],
        other_tables=[(table, to_html(table)) for table in tables if results and not table.has_ours],
        besides_paper=any(table.number is not None for table in tables),
        notes=list(dict.fromkeys(note for table in tables for note in table.notes)),
        plates={
            name: figures.svg(figure, name, _DESCRIBED.get(name, name))
            for name, figure in plates.items()
            if name != "uncertainty"
        },  # the gallery
        gains=_gain_rows(featured.gains) if featured else [],
        learning_text=_learning_text(history) if history else None,
        trust=[(k, s) for k, s in featured.scores.items() if s.ess is not None and k != AVERAGE] if featured else [],
        facts=_facts(featured) if featured else {},
        draws=draws(featured) if featured else True,
    )
    return page


_DESCRIBED = {
    "scores-by-inputs": "Negative log-likelihood and MSE_min against the number of inputs, a line for each model; the "
    "numbers stand in the tables below.",
    "predictions": "Inputs, target and three hypotheses of each model for twelve images.",
    "reconstructions": "What each model makes of inputs with the target among them.",
    "visible-and-hidden": "Error of the mean of the draws over visible and over hidden pixels, against the number of "
    "inputs, a line for each model.",
    "calibration": "Actual error of the pixels against their predicted uncertainty, a line for each number of inputs, "
    "and how the pixels spread over the uncertainty.",
    "learning-curves": "Negative bound of the training batches over the epochs, a line for each model.",
}


def _gain_rows(gains: Sequence[InputGain]) -> list[dict[str, Any]]:
    """One row per further input, NLL and MSE_min side by side."""
    steps = dict.fromkeys((gain.before, gain.after) for gain in gains)
    by_metric = {(g.before, g.after, g.metric): g for g in gains}
    return [
        {
            "before": before,
            "after": after,
            "nll": by_metric.get((before, after, "nll_nats")),
            "mse": by_metric.get((before, after, "mse_min")),
        }
        for before, after in steps
    ]


def _learning_text(history: History) -> str:
    """Say where the run stands and what its last tenth promises."""
    count = max(1, len(history.nats) // 10)
    now, before = history.nats[-count:].mean(), history.nats[-2 * count : -count].mean()
    return (
        f"After {history.epochs[-1]:.3g} epochs ({_duration(history.seconds[-1])}) the training batches stand at "
        f"{now:.1f} nats; the last tenth of the run still brought {before - now:.1f}."
        + (f" Images held out stand at {history.held_out_nats[-1]:.1f}." if len(history.held_out_nats) else "")
    )


def _facts(result: Result) -> dict[str, str]:
    training, source = result.training or {}, result.dataset_source
    facts = {
        "Model": f"{model_title(result)} “{result.model_name}”"
        + (f", {result.num_parameters:,} parameters" if result.num_parameters else ""),
        "Data": f"{result.title}, split {result.split}, {result.images}"
        + (f", from {source['name']}" if "name" in source else ""),
        "Data digest": result.dataset_digest,
        "Weights digest": result.weights_digest or "unknown",
        "Samples": (
            f"S = {result.num_samples} for the likelihood and for MSE_min, seed {result.seed}"
            if draws(result)
            else "none: the model answers with one image"
        ),
        "Scored": f"{result.created}, {_duration(result.seconds)} on {result.device}"
        + (f", in {result.precision}" if result.is_rounded else ""),
        "Versions": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
        "Code": result.git_commit or "no git checkout",
    }
    if training:
        known = {
            "preset": "preset {}",
            "epochs": "{} epochs",
            "steps": "{} steps",
            "images_seen": "{} images seen",
            "device": "{}",
            "seed": "seed {}",
        }
        told = [text.format(training[key]) for key, text in known.items() if training.get(key) is not None]
        if start := training.get("initial_weights"):
            before = training.get("images_seen_before")
            seen = "unknown" if before is None else f"{before:,}"
            several = len(start.split(" + "))
            what = "trained weights" if several == 1 else f"the mean of {several} trained models"
            told.append(f"from {what} (images seen before: {seen})")
        if training.get("seconds"):
            told.append(_duration(float(training["seconds"])))
        if name := (training.get("dataset_source") or {}).get("name"):
            told.append(f"on {name}")
        facts["Training"] = ", ".join(told)
    return facts


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _markdown_details(result: Result) -> str:
    lines = [f"## {escaped(result.model_name)}", ""]
    if result.entropy_floor_nats is not None:
        lines += [
            f"Entropy of the grey values of these images, below which no Bernoulli likelihood can fall: "
            f"{result.entropy_floor_nats:.2f} nats.",
            "",
        ]
    if rows := _gain_rows(result.gains):
        lines += [
            "What a further input brings, image by image:",
            "",
            "| inputs | NLL falls by, nats | images improved | MSE_min falls by, 10⁻² | images improved |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for row in rows:
            nll, mse = _gain_text(row["nll"], 1, 2), _gain_text(row["mse"], 100, 3)
            lines.append(f"| {row['before']} → {row['after']} | {nll} | {mse} |")
        lines.append("")
    if any(score.ess is not None for score in result.scores.values()):
        lines += [
            f"How far to trust the likelihoods, S = {result.num_samples}:",
            "",
            "| inputs | effective samples, mean (median) | Pareto k̂, median | images with "
            f"k̂ > {result.pareto_k_reliable:.2g} | bias of the NLL |",
            "| --- | ---: | ---: | ---: | ---: |",
        ]
        for k, s in result.scores.items():
            share = "–" if s.pareto_k_unreliable_share is None else f"{s.pareto_k_unreliable_share:.0%}"
            lines.append(
                f"| {k} | {number(s.ess, 1)} ({number(s.ess_median, 1)}) | {number(s.pareto_k, 2)} | {share} | "
                f"≈ +{number(s.nll_bias_nats, 2)} |"
            )
        lines.append("")
    return "\n".join([*lines, *(f"- {key}: {escaped(value)}" for key, value in _facts(result).items()), ""])


def _gain_text(gain: InputGain | None, factor: float, decimals: int) -> str:
    if gain is None:
        return "– | –"
    error = "" if gain.standard_error is None else f" ± {factor * gain.standard_error:.{decimals}f}"
    return f"{number(factor * gain.mean, decimals)}{error} | {gain.share_improved:.0%}"
