"""From every image's scores to the numbers of a result."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, pairwise

import numpy as np
from numpy.typing import NDArray

from fusionvae_bench.importance import reliable_pareto_k
from fusionvae_bench.metrics import bits_per_dim, mean_and_standard_error
from fusionvae_bench.results import CalibrationBin, InputGain, Score
from fusionvae_bench.shared_draws import paired_gain, standard_error
from fusionvae_bench.tiles import Scores


def summarise(
    scores: Scores, counts: Sequence[int], num_dims: int, num_samples: int, *, rows: Sequence[int] = ()
) -> Score:
    """Average over images; scores of several numbers of inputs are first averaged image by image.

    Args:
        scores: [n, m].
        counts: the m numbers of inputs.
        num_dims: d, which bits per dimension refer to.
        num_samples: S.
        rows: of the n images in the data set, from which is known who shared draws without inputs.
    """
    nats, nats_error = mean_and_standard_error(scores["nll_nats"].mean(1))
    # The latents are shared by all numbers of inputs: their errors count as fully correlated.
    sampling = np.sqrt(np.square(scores["nll_sampling_error"]).mean(1).mean() / scores.shape[0])
    errors = {}
    for name in ("mse_min", "mse_one", "mse_mean"):
        values = scores[name].mean(1)
        errors[name] = values.mean()
        errors[f"{name}_standard_error"] = standard_error(values, rows, _shared(scores[name], counts))
    shapes = scores["pareto_k"]
    unreliable = np.where(np.isnan(shapes), np.nan, shapes > reliable_pareto_k(num_samples))
    values = {
        "nll_nats": nats,
        "nll_bits_per_dim": bits_per_dim(nats, num_dims),
        "nll_standard_error": nats_error,
        "nll_sampling_error": sampling,
        "nll_bias_nats": np.square(scores["nll_sampling_error"]).mean() / 2,
        "ess": scores["ess"].mean(),
        "ess_median": np.median(scores["ess"]),
        "pareto_k": np.median(shapes),
        "pareto_k_unreliable_share": unreliable.mean(),
        **errors,
        "pixel_standard_deviation": np.sqrt(np.square(scores["pixel_standard_deviation"]).mean()),
        "mse_visible": _mean_of_known(scores["mse_visible"]),
        "mse_visible_standard_error": _error_of_known(scores["mse_visible"], counts),
        "mse_hidden": _mean_of_known(scores["mse_hidden"]),
        "mse_hidden_standard_error": _error_of_known(scores["mse_hidden"], counts, rows),
    }
    return Score(**{key: float(value) if np.isfinite(value) else None for key, value in values.items()})


def input_gains(scores: Scores, counts: tuple[int, ...], *, rows: Sequence[int] = ()) -> tuple[InputGain, ...]:
    """Compare neighbouring numbers of inputs, image by image.

    Args:
        scores: [n, numbers of inputs].
        counts: the numbers of inputs, ascending.
        rows: of the n images in the data set, from which is known who shared draws without inputs.
    """
    gains = []
    for metric in ("nll_nats", "mse_min"):
        values: NDArray[np.float64] = scores[metric]
        if np.isnan(values).any():
            continue
        for column, (before, after) in enumerate(pairwise(counts)):
            shared = values[:, column] if metric == "mse_min" and before == 0 else None
            gain = paired_gain(values[:, column], values[:, column + 1], rows, shared)
            error = gain.standard_error if np.isfinite(gain.standard_error) else None
            gains.append(
                InputGain(
                    before=before,
                    after=after,
                    metric=metric,
                    mean=gain.mean,
                    standard_error=error,
                    share_improved=gain.share_improved,
                )
            )
    return tuple(gains)


def calibration_bins(sums: NDArray[np.float64]) -> tuple[CalibrationBin, ...]:
    """Turn each image's sums over pixels into the points of a calibration curve; empty bins are left out.

    The pixels of an image err together, so the standard error is that of a ratio of sums over independent images.

    Args:
        sums: [images, bins, 3]: number of pixels, sum of the predicted variances, sum of the squared errors.
    """
    points = []
    for counts, variances, squares in sums.transpose(1, 2, 0):
        if pixels := counts.sum():
            actual = np.sqrt(squares.sum() / pixels)
            shown = counts > 0
            deviations = squares[shown] - actual**2 * counts[shown]  # they add up to zero
            images = int(shown.sum())
            known = images > 1 and actual > 0
            error = np.sqrt(np.square(deviations).sum() * images / (images - 1)) / pixels if known else np.nan
            points.append(
                CalibrationBin(
                    pixels=int(pixels),
                    predicted=float(np.sqrt(variances.sum() / pixels)),
                    actual=float(actual),
                    actual_standard_error=float(error / (2 * actual)) if known else None,
                )
            )
    return tuple(points)


def floor_warnings(scores: dict[str, Score], floor: float | None) -> tuple[str, ...]:
    """Name each score that lies where no Bernoulli likelihood can reach."""
    warnings = []
    for k, score in scores.items():
        if floor is not None and score.nll_nats is not None and score.nll_nats < floor:
            warnings.append(
                f"the mean NLL for {k} inputs, {score.nll_nats:.2f} nats, lies below the entropy of the grey values, "
                f"{floor:.2f} nats, which no Bernoulli likelihood can pass: the model or its likelihood has a bug"
            )
    return tuple(warnings)


def _mean_of_known(values: NDArray[np.float64]) -> float:
    """Average [n, m] over the images that have a value, then over the m columns; NaN where a column has none."""
    known = ~np.isnan(values)
    if not known.any(0).all():
        return float("nan")
    return float((np.where(known, values, 0).sum(0) / known.sum(0)).mean())


def _error_of_known(values: NDArray[np.float64], counts: Sequence[int], rows: Sequence[int] = ()) -> float:
    """Return the standard error over the images of [n, m] that have all m values; NaN for fewer than two."""
    known = np.asarray(~np.isnan(values).any(1))
    if known.sum() < 2:
        return float("nan")
    return standard_error(values[known].mean(1), list(compress(rows, known)), _shared(values[known], counts))


def _shared(values: NDArray[np.float64], counts: Sequence[int]) -> NDArray[np.float64] | None:
    """Return the part of the mean over [n, m] columns that comes from draws without inputs, which a tile shares."""
    return values[:, list(counts).index(0)] / len(counts) if 0 in counts else None
