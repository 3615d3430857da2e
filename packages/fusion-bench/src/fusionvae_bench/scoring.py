"""One tile of rows, scored: the estimates of the likelihood, the errors of the draws, the honesty of their spread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fusionvae_bench.errors import ModelError, NonFiniteWeightError
from fusionvae_bench.estimate import estimate_draws, estimate_nll
from fusionvae_bench.metrics import DrawErrors, calibration_sums
from fusionvae_bench.protocol import SamplingModel, has_likelihood, is_deterministic
from fusionvae_bench.tiles import CALIBRATION_BINS, POSTERIOR, PRIOR, SCORE, Scores, Tile, TileScores

if TYPE_CHECKING:
    from fusion_datasets import FusionBatch, FusionDataset
    from fusionvae_bench.evaluate import Request

Images = tuple[Tensor, Tensor, Tensor | None]
"""Target [b, c, h, w], inputs [b, k, c, h, w] and, where they are known, masks [b, k, h, w] of a few rows."""


def images_from_batch(batch: FusionBatch, device: torch.device) -> Images:
    """Turn a batch of bytes into target and inputs, floats in [0, 1], and masks, true where the target is visible."""
    assert batch.inputs is not None  # check_request
    target = torch.from_numpy(batch.target).to(device).permute(0, 3, 1, 2)
    inputs = torch.from_numpy(batch.inputs).to(device).permute(0, 1, 4, 2, 3)
    masks = None if batch.masks is None else torch.from_numpy(batch.masks).to(device)
    return target.float().div(255), inputs.float().div(255), masks


def read_images(data: FusionDataset, start: int, stop: int, num_inputs: int, device: torch.device) -> Images:
    """Read rows with at least so many inputs; those beyond the stored ones are rendered."""
    batch = data.read(start, stop)
    target, inputs, masks = images_from_batch(batch, device)
    if num_inputs > inputs.shape[1]:
        rendered = [data.render(row, num_inputs) for row in range(start, stop)]
        more, shown = np.stack([row.inputs for row in rendered]), np.stack([row.masks for row in rendered])
        inputs = torch.from_numpy(more).to(device).permute(0, 1, 4, 2, 3).float().div(255)
        masks = torch.from_numpy(shown).to(device)
    return target, inputs, masks


def score_tile(model: Any, data: FusionDataset, tile: Tile, request: Request, device: torch.device) -> TileScores:
    """Score all rows of a tile.

    Raises:
        NonFiniteWeightError: naming row and sample, if a weight is not finite.
        ModelError: if the model breaks its word.
    """
    started = time.perf_counter()
    counts = request.num_inputs
    target, inputs, masks = read_images(data, tile.start, tile.stop, max(counts), device)
    scores = np.full((len(target), len(counts)), np.nan, SCORE)
    calibration = np.zeros((*scores.shape, CALIBRATION_BINS, 3))
    if has_likelihood(model) and request.wants("nll"):
        generator = tile.generator(request.seed, POSTERIOR, device=device)
        try:
            nll = estimate_nll(
                model, target, inputs, request.num_samples, counts, generator, precision=request.precision
            )
        except NonFiniteWeightError as error:
            raise NonFiniteWeightError(tile.start + error.image, error.sample, error.num_inputs, error.value) from error
        scores["nll_nats"], scores["nll_sampling_error"] = nll.nats, nll.standard_error
        scores["ess"], scores["pareto_k"] = nll.effective_sample_size, nll.pareto_k
    if isinstance(model, SamplingModel) and request.wants("mse"):
        num_draws = 1 if is_deterministic(model) else request.num_samples
        for column, k in enumerate(counts):
            shown = None if masks is None else masks[:, :k]
            generator = tile.generator(request.seed, PRIOR, k, device=device)
            try:
                errors = estimate_draws(
                    model, target, inputs[:, :k], num_draws, generator, masks=shown, precision=request.precision
                )
            except ModelError as error:
                raise ModelError(f"rows {tile.start} to {tile.stop - 1}, {k} input(s): {error}") from error
            _enter(scores[:, column], errors, target, shown)
            if num_draws > 1:
                calibration[:, column] = calibration_sums(errors, target, CALIBRATION_BINS)
    return TileScores(scores, calibration, time.perf_counter() - started)


def _enter(scores: Scores, errors: DrawErrors, target: Tensor, masks: Tensor | None) -> None:
    for name in ("mse_min", "mse_one", "mse_mean"):
        scores[name] = getattr(errors, name).cpu()
    scores["pixel_standard_deviation"] = errors.standard_deviation.square().mean((1, 2, 3)).sqrt().cpu()
    if masks is not None:
        visible = masks.any(1)
        squares = (errors.mean - target).square().mean(1)
        scores["mse_visible"] = _mean_where(visible, squares)
        scores["mse_hidden"] = _mean_where(~visible, squares)


def _mean_where(chosen: Tensor, values: Tensor) -> Tensor:
    """Average [b, h, w] values over the chosen pixels of each image; NaN where there are none."""
    return ((values * chosen).sum((1, 2)) / chosen.sum((1, 2))).cpu()
