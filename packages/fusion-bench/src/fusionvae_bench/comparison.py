"""Two models on the same images: paired differences with intervals, and whether they tell which is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import atan, cos, floor, pi, sin, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusionvae_bench.errors import ResultError
from fusionvae_bench.per_image import read_per_image, shared_images
from fusionvae_bench.results import AVERAGE, Result, read_result
from fusionvae_bench.shared_draws import FEWEST_TILES, spread_of_mean, with_shared_draws
from fusionvae_bench.tiles import TILE_ROWS
from fusionvae_model.checkpoint import without_nan

CONFIDENCE = 0.95

METRICS = {"nll_nats": ("NLL, nats", 1.0, 2), "mse_min": ("MSE_min, 10⁻²", 100.0, 3)}
"""Field of the scores → heading, factor and digits in print."""


@dataclass(frozen=True)
class Difference:
    """How much less B loses than A, image by image; positive is better for B.

    Attributes:
        metric: key of `METRICS`.
        num_inputs: number of inputs, or "avg".
        num_images: images compared.
        mean: of A − B.
        low: lower end of the interval for the mean.
        high: its upper end.
        share_better: share of the images on which B is better.
    """

    metric: str
    num_inputs: str
    num_images: int
    mean: float
    low: float
    high: float
    share_better: float

    @property
    def verdict(self) -> str:
        """Which is better, that this is undecided as the interval holds zero, or that there is no difference."""
        if self.low == self.high == 0:
            return "equal"
        if self.low > 0:
            return "B is better"
        return "A is better" if self.high < 0 else "undecided"


@dataclass(frozen=True)
class Comparison:
    """All differences of two results.

    Attributes:
        a: name of the first model; where both have the same, the paths of the files tell them apart.
        b: name of the second.
        differences: by metric and number of inputs.
        notes: what a reader must know.
    """

    a: str
    b: str
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object; an interval of a single image, which knows no bounds, has null for them."""
        found = [without_nan({**asdict(d), "verdict": d.verdict}) for d in self.differences]
        return {"a": self.a, "b": self.b, "confidence": CONFIDENCE, "differences": found, "notes": self.notes}

    def to_text(self) -> str:
        """Return a Markdown table and a plain sentence for each metric."""
        lines = [f"A = {self.a}, B = {self.b}; A − B, so what is positive speaks for B.", ""]
        lines += ["| metric | k | A − B | 95 % interval | B better on | verdict |"]
        lines += ["| --- | --- | ---: | ---: | ---: | --- |"]
        for d in self.differences:
            heading, factor, digits = METRICS[d.metric]
            mean, low, high = (f"{factor * v:+.{digits}f}".replace("-", "−") for v in (d.mean, d.low, d.high))
            lines.append(
                f"| {heading} | {d.num_inputs} | {mean} | {low} … {high} | {d.share_better:.0%} of {d.num_images} | "
                f"{d.verdict} |"
            )
        return "\n".join([*lines, "", *self.notes])


def compare(first: Path, second: Path) -> Comparison:
    """Compare two results by the scores of each image beside them.

    Args:
        first: result file A, scored with ``--per-image``.
        second: result file B.

    Raises:
        ResultError: if they are not of the same images, or have no number in common.
    """
    a, b = read_result(first), read_result(second)
    images_a, images_b = read_per_image(first, a), read_per_image(second, b)
    images_a, images_b = shared_images(images_a, images_b)
    if a.num_dims != b.num_dims:
        raise ResultError(
            f"{first} and {second} are scores of other images, of {a.num_dims:,} and {b.num_dims:,} dimensions, such "
            "as in grey and in colour; score both models on the same"
        )
    same = (a.benchmark, a.dataset_digest, a.split) == (b.benchmark, b.dataset_digest, b.split)
    if not same or not images_a.images:
        raise ResultError(
            f"{first} and {second} are scores of other images ({a.title}, {a.split}, {a.dataset_digest[:12]}… and "
            f"{b.title}, {b.split}, {b.dataset_digest[:12]}…); score both on the same file and split"
        )
    differences = []
    for metric in METRICS:
        of_a, of_b = images_a.by_num_inputs(metric), images_b.by_num_inputs(metric)
        paired = {k: of_a[k] - of_b[k] for k in of_a if k in of_b}
        shared = with_shared_draws(metric, paired)
        differences += [_difference(metric, k, v, images_a.rows, shared.get(k)) for k, v in paired.items()]
    if not differences:
        raise ResultError(
            f"{first} and {second} have no metric and number of inputs in common; score both for the same ones"
        )
    names = (str(first), str(second)) if a.model_name == b.model_name else (a.model_name, b.model_name)
    return Comparison(*names, tuple(differences), tuple(_notes(a, b, differences)))


def _difference(
    metric: str,
    num_inputs: str,
    values: NDArray[np.float64],
    rows: Sequence[int],
    shared: NDArray[np.float64] | None = None,
) -> Difference:
    """Estimate the mean of [n] differences of images, of which a part may come from draws that tiles share."""
    mean = float(values.mean())
    variance, freedom = spread_of_mean(values, rows, shared)
    half = _student_quantile(max(1, floor(freedom))) * sqrt(variance) if freedom > 0 else float("inf")
    return Difference(metric, num_inputs, len(values), mean, mean - half, mean + half, float((values > 0).mean()))


def _student_quantile(freedom: int) -> float:
    """Return the quantile of Student's t that bounds `CONFIDENCE` on two sides, by bisection of its distribution."""
    low, high = 0.0, 1e3  # one degree of freedom, the widest, has 12.7
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if _student_mass(middle, freedom) < CONFIDENCE else (low, middle)
    return high


def _student_mass(t: float, freedom: int) -> float:
    """Return P(|T| < t) for a whole number of degrees of freedom (Abramowitz & Stegun, 26.7.3 and 26.7.4)."""
    angle = atan(t / sqrt(freedom))
    squared = cos(angle) ** 2
    odd = freedom % 2
    term = total = 1.0 if freedom > 1 else 0.0
    for power in range(2 + odd, freedom - 1, 2):
        term *= squared * (power - 1) / power
        total += term
    if odd:
        return 2 / pi * (angle + sin(angle) * cos(angle) * total)
    return sin(angle) * total


def _notes(a: Result, b: Result, differences: Sequence[Difference]) -> list[str]:
    notes = []
    for metric, (heading, _, _) in METRICS.items():
        overall = next((d for d in differences if d.metric == metric and d.num_inputs == AVERAGE), None)
        if overall and overall.verdict == "equal":
            notes.append(f"{heading.split(',')[0]}: overall, both lose the same on every image.")
        elif overall and overall.verdict == "undecided":
            notes.append(f"{heading.split(',')[0]}: overall undecided; more images may tell.")
        elif overall:
            half = (overall.high - overall.low) / 2
            much = (
                f"by {abs(overall.mean) / half:.1f} times the half-width of the interval" if half else "on every image"
            )
            notes.append(f"{heading.split(',')[0]}: overall, {overall.verdict}; {much}.")
    if any(d.metric == "mse_min" and d.num_inputs == "0" for d in differences):
        notes.append(
            f"Without inputs {TILE_ROWS} images in a row share their draws; from {FEWEST_TILES} such groups on, the "
            "intervals of MSE_min at k = 0 and of avg allow for it."
        )
    if a.num_samples != b.num_samples:
        notes.append(
            f"S differs ({a.num_samples} and {b.num_samples}): fewer samples make NLL and MSE_min larger, whoever is "
            "better."
        )
    if a.precision != b.precision:
        notes.append(f"The precision differs ({a.precision} and {b.precision}): part of the difference is rounding.")
    notes.append(
        f"Each interval holds for itself: of lines without any difference, one in {1 / (1 - CONFIDENCE):.0f} is called "
        "one. They are over images; another training seed would move the means by more than they say."
    )
    return notes
