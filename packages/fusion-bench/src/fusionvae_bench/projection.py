"""What a costly scoring would give on all images: measured on some of them, and carried over by a cheap one of all.

Two-phase sampling with the difference estimator (Cochran 1977, ch. 12): the cheap scores a of all N images, the costly
ones b of n of them; the mean of b over all is about ``mean_N(a) + mean_n(b − a)``. A thousand samples instead of a
hundred change every image by about as much, so few images tell by how much, and all of them tell the rest.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusionvae_bench.comparison import METRICS
from fusionvae_bench.errors import ResultError
from fusionvae_bench.per_image import read_per_image, shared_images
from fusionvae_bench.results import Result, read_result
from fusionvae_bench.shared_draws import spread_of_mean, with_shared_draws

_STANDARD_ERRORS = {"nll_nats": "nll_standard_error", "mse_min": "mse_min_standard_error"}


@dataclass(frozen=True)
class ProjectedScore:
    """A mean over all images, of scores that some of them have.

    Attributes:
        metric: key of `comparison.METRICS`.
        num_inputs: number of inputs, or "avg".
        cheap: mean of the cheap scores of all images.
        change: mean of costly − cheap over the images that have both.
        change_standard_error: over those images.
        mean: of the costly scores of all images, as far as is known: ``cheap + change``.
        standard_error: over images; that of all being scored, and that of some only having been scored twice.
    """

    metric: str
    num_inputs: str
    cheap: float
    change: float
    change_standard_error: float
    mean: float
    standard_error: float


@dataclass(frozen=True)
class Projection:
    """Scores of one model carried over from some images to all.

    Attributes:
        cheap: of all images.
        costly: of some of them.
        scores: by metric and number of inputs.
        num_shared: images that have both scores.
    """

    cheap: Result
    costly: Result
    scores: tuple[ProjectedScore, ...]
    num_shared: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know."""
        if self.costly.evenly_spaced or self.costly.num_images == self.cheap.num_images:
            return ()
        return (
            f"What changes was measured on {self.costly.images}, which need not be like the rest; score evenly spaced "
            "ones (--evenly-spaced).",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        sides = {
            side: {"images": result.num_images, "num_samples": result.num_samples, "precision": result.precision}
            for side, result in (("cheap", self.cheap), ("costly", self.costly))
        }
        return {
            "model": self.cheap.model_name,
            **sides,
            "images_scored_twice": self.num_shared,
            "scores": [asdict(s) for s in self.scores],
            "notes": self.notes,
        }

    def to_text(self) -> str:
        """Return a Markdown table."""
        cheap, costly = self.cheap, self.costly
        lines = [
            f"{cheap.model_name} as S = {costly.num_samples} ({costly.precision}) would score it on "
            f"{cheap.num_images:,} images of {cheap.title}: their scores at S = {cheap.num_samples} "
            f"({cheap.precision}), and by how much those of {self.num_shared:,} of them change.",
            "",
            f"| metric | k | S = {cheap.num_samples}, all | change | S = {costly.num_samples}, all |",
            "| --- | --- | ---: | ---: | ---: |",
        ]
        for score in self.scores:
            heading, factor, digits = METRICS[score.metric]
            change = f"{factor * score.change:+.{digits}f}".replace("-", "−")
            lines.append(
                f"| {heading} | {score.num_inputs} | {factor * score.cheap:.{digits}f} | "
                f"{change} ± {factor * score.change_standard_error:.{digits}f} | "
                f"{factor * score.mean:.{digits}f} ± {factor * score.standard_error:.{digits}f} |"
            )
        return "\n".join([*lines, "", "± is the standard error over images.", *self.notes])


def project(all_images: Path, some_images: Path) -> Projection:
    """Carry the scores of some images over to all.

    Args:
        all_images: result file of many images, scored at little cost, with ``--per-image``. Of the file beside it only
            the lines of ``some_images`` are read; the others may be left out.
        some_images: result file of the same model on some of them, with more samples or a finer precision.

    Raises:
        ResultError: if they are of different models or data, the second holds an image that the first does not or
            fewer than two, or they have no number in common.
    """
    cheap, costly = read_result(all_images), read_result(some_images)
    of_all, of_some = read_per_image(all_images, cheap), read_per_image(some_images, costly)
    models = [(r.model_kind, r.weights_digest, r.config) for r in (cheap, costly)]
    data = [(r.benchmark, r.dataset_digest, r.split) for r in (cheap, costly)]
    if models[0] != models[1] or data[0] != data[1]:
        what = "models" if models[0] != models[1] else "data"
        raise ResultError(
            f"{all_images} and {some_images} are scores of different {what}; expected one model on one data set, "
            "scored twice"
        )
    once, twice = shared_images(of_all, of_some)
    if len(twice.images) < len(of_some.images) or len(twice.images) < 2:
        raise ResultError(
            f"{len(twice.images)} of the {len(of_some.images)} images in {some_images} have scores beside "
            f"{all_images}; expected at least two, and all of them: name the result of more images first"
        )
    scores = []
    for metric in METRICS:
        before, after = once.by_num_inputs(metric), twice.by_num_inputs(metric)
        known = [k for k, score in cheap.scores.items() if getattr(score, metric) is not None]
        changes = {k: after[k] - before[k] for k in known if k in before and k in after}
        shared = with_shared_draws(metric, changes)
        for k, change in changes.items():
            of_change, _ = spread_of_mean(change, once.rows, shared.get(k))
            scores.append(_projected(metric, k, cheap, before[k], change, of_change))
    if not scores:
        raise ResultError(
            f"{all_images} and {some_images} have no metric and number of inputs in common; score both for the same "
            "ones"
        )
    return Projection(cheap, costly, tuple(scores), len(once.images))


def _projected(
    metric: str,
    num_inputs: str,
    cheap: Result,
    before: NDArray[np.float64],
    changes: NDArray[np.float64],
    of_change: float,
) -> ProjectedScore:
    """Estimate the mean of the costly scores over all images from [n] cheap ones and how they change.

    Args:
        metric: key of `comparison.METRICS`.
        num_inputs: number of inputs, or "avg".
        cheap: scores of all images.
        before: the cheap ones of some.
        changes: costly − cheap of these.
        of_change: variance of their mean.
    """
    score, error = cheap.scores[num_inputs], _STANDARD_ERRORS[metric]
    mean, of_cheap = float(getattr(score, metric)), float(getattr(score, error)) ** 2
    # the n images are in both means, which therefore vary together
    together = float(np.cov(before, changes)[0, 1]) / cheap.num_images
    return ProjectedScore(
        metric=metric,
        num_inputs=num_inputs,
        cheap=mean,
        change=float(changes.mean()),
        change_standard_error=math.sqrt(of_change),
        mean=mean + float(changes.mean()),
        standard_error=math.sqrt(max(0.0, of_cheap + 2 * together + of_change)),
    )
