"""Model × data set → result: tile by tile, resumable, the same whatever the order and the interruptions."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fusionvae_bench.errors import DataError, ModelError, NonFiniteWeightError
from fusionvae_bench.estimate import estimate_draws, estimate_nll, pixels_per_call
from fusionvae_bench.importance import RELIABLE_PARETO_K
from fusionvae_bench.metrics import bits_per_dim, entropy_floor, mean_and_standard_error, paired_gain
from fusionvae_bench.progress import Progress
from fusionvae_bench.protocol import FoldableModel, LikelihoodModel, SamplingModel
from fusionvae_bench.provenance import git_commit, versions
from fusionvae_bench.results import AVERAGE, FORMAT_VERSION, InputGain, Result, Score
from fusionvae_bench.tiles import POSTERIOR, PRIOR, SCORE, TILE_ROWS, Scores, Tile, TileStore, tiles

if TYPE_CHECKING:
    from fusion_datasets import FusionBatch, FusionDataset

PAPER_NUM_INPUTS = (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to score.

    Attributes:
        num_samples: S ≥ 1, importance samples for the likelihood and draws for MSE_min.
        limit: the first so many images, None for all.
        num_inputs: numbers of inputs, ascending.
        seed: of all randomness.
    """

    num_samples: int = 1000
    limit: int | None = None
    num_inputs: tuple[int, ...] = PAPER_NUM_INPUTS
    seed: int = 0

    def num_images(self, data: FusionDataset) -> int:
        """Return how many images that is."""
        return min(self.limit or len(data), len(data))


def evaluate(
    model: LikelihoodModel | SamplingModel,
    data: FusionDataset,
    num_samples: int = 1000,
    limit: int | None = None,
    num_inputs: Sequence[int] = PAPER_NUM_INPUTS,
    seed: int = 0,
    *,
    device: torch.device | str | None = None,
    name: str | None = None,
    training: dict[str, Any] | None = None,
    partial: Path | None = None,
    quiet: bool = True,
) -> Result:
    """Score a model on the first images of a data set.

    Args:
        model: offers `log_importance_weights`, `sample`, or both; what it does not offer is left out.
        data: the split to score.
        num_samples: S ≥ 1, importance samples for the likelihood and draws for MSE_min.
        limit: the first so many images, None for all.
        num_inputs: numbers of inputs, ascending.
        seed: of all randomness.
        device: where the model lives; None for where its parameters are.
        name: name of the weights, for people; None for the model's class.
        training: summary of the training, stored as it is.
        partial: folder for finished tiles; a call with the same settings continues from it. The caller removes it
            once the result is safe.
        quiet: no progress on stderr.

    Returns:
        The result, with every image's scores in ``per_image``.

    Raises:
        BenchError: if model and data do not fit, the model breaks its word, or a weight is not finite.
    """
    request = Request(num_samples=num_samples, limit=limit, num_inputs=tuple(num_inputs), seed=seed)
    check_request(model, data, request)
    where = torch.device(device) if device is not None else _device_of(model)
    identity = fingerprint(model, data, request, where)
    store = TileStore(partial, identity) if partial else None
    num_images, num_dims = request.num_images(data), data.spec.num_dims

    scorer = model.folded() if isinstance(model, FoldableModel) else model
    scores = np.empty((num_images, len(request.num_inputs)), SCORE)
    floors = np.empty(num_images)
    seconds = 0.0
    with Progress("scoring", num_images, "images", quiet=quiet) as progress:
        for tile in tiles(num_images, len(data)):
            rows = slice(tile.start, min(tile.stop, num_images))
            count = rows.stop - rows.start
            batch = data.read(tile.start, tile.stop)
            floors[rows] = entropy_floor(batch.target, data.spec.nll_size)[:count]
            finished = store.read(tile) if store else None
            if finished is None:
                started = time.perf_counter()
                finished = _score(scorer, batch, tile, request, where), time.perf_counter() - started
                if store:
                    store.write(tile, *finished)
                progress.advance(count)
            else:
                progress.skip(count)
            scores[rows] = finished[0][:count]
            seconds += finished[1]

    by_count = {str(k): _summarise(scores[:, [i]], num_dims) for i, k in enumerate(request.num_inputs)}
    if set(PAPER_NUM_INPUTS) <= set(request.num_inputs):
        columns = [request.num_inputs.index(k) for k in PAPER_NUM_INPUTS]
        by_count[AVERAGE] = _summarise(scores[:, columns], num_dims)
    floor = float(floors.mean()) if _is_bernoulli(model) else None
    return Result(
        benchmark=data.benchmark,
        title=data.spec.title,
        split=data.split,
        is_stand_in=data.is_stand_in,
        dataset_digest=data.digest,
        dataset_source=dict(data.source),
        model_kind=model_kind(model),
        model_name=name or type(model).__name__,
        weights_digest=weights_digest(model),
        config=_config(model),
        num_parameters=_num_parameters(model),
        training=training,
        num_images=num_images,
        num_samples=num_samples,
        num_inputs=request.num_inputs,
        seed=seed,
        num_dims=num_dims,
        entropy_floor_nats=floor,
        scores=by_count,
        gains=_gains(scores, request.num_inputs),
        warnings=_warnings(by_count, floor),
        seconds=seconds,
        device=_describe(where),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        git_commit=git_commit(),
        fingerprint=identity,
        per_image=scores,
    )


def check_request(model: Any, data: FusionDataset, request: Request) -> None:
    """Refuse what cannot be scored, before any work.

    Raises:
        BenchError: if model, data and settings do not fit together.
    """
    if not isinstance(model, LikelihoodModel | SamplingModel):
        raise ModelError(
            f"{type(model).__name__} offers neither log_importance_weights nor sample; expected at least one of them"
        )
    if request.num_samples < 1:
        raise DataError(f"got {request.num_samples} samples, expected at least 1")
    if request.limit is not None and request.limit < 1:
        raise DataError(f"got a limit of {request.limit} images, expected at least 1")
    if request.seed < 0:
        raise DataError(f"got the seed {request.seed}, expected 0 or more")
    if (inputs := data.read(0, 1).inputs) is None:
        raise DataError(
            f"the split {data.split!r} has no frozen inputs to score; expected an evaluation split, such as 'test'"
        )
    counts, stored = request.num_inputs, inputs.shape[1]
    if not counts or list(counts) != sorted(set(counts)) or counts[0] < 0 or counts[-1] > stored:
        raise DataError(
            f"got num_inputs {' '.join(map(str, counts)) or 'empty'}, expected different numbers from 0 to {stored}, "
            f"ascending: each row of this file stores {stored} inputs"
        )
    config, (height, width, channels) = _config(model), data.shape
    if (size := config.get("nll_size", data.spec.nll_size)) != data.spec.nll_size:
        raise ModelError(
            f"the model sums its likelihood over the centre {size}×{size} pixels, {data.spec.title} is scored over "
            f"{data.spec.nll_size}×{data.spec.nll_size}; use a model whose config has nll_size={data.spec.nll_size}"
        )
    taken = config.get("image_size", height), config.get("image_size", width), config.get("channels", channels)
    if taken != (height, width, channels):
        raise ModelError(
            f"the model takes images of {'×'.join(map(str, taken))}, {data.spec.title} has "
            f"{height}×{width}×{channels}; use a model trained on {data.spec.title}"
        )


def fingerprint(model: Any, data: FusionDataset, request: Request, device: torch.device) -> str:
    """Return the identity of all that decides an image's scores: weights, data, settings, kind of device."""
    decisive = {
        "result_version": FORMAT_VERSION,
        "weights": weights_digest(model) or type(model).__qualname__,
        "dataset": data.digest,
        "split": data.split,
        "num_samples": request.num_samples,
        "num_inputs": request.num_inputs,
        "seed": request.seed,
        "tile_rows": TILE_ROWS,
        "pixels_per_call": pixels_per_call(device),
        "device": device.type,
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def weights_digest(model: Any) -> str | None:
    """Return a hex digest of names, types, shapes and values of all tensors; None if it is no `nn.Module`."""
    if not isinstance(model, nn.Module):
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def model_kind(model: Any) -> str:
    """Return the kind by which results are sorted into the paper's rows, such as ``fusionvae``."""
    return str(_config(model).get("kind") or type(model).__name__.lower())


def images_from_batch(batch: FusionBatch, device: torch.device) -> tuple[Tensor, Tensor]:
    """Turn a batch of bytes into floats in [0, 1]: target [b, c, h, w] and inputs [b, k, c, h, w]."""
    assert batch.inputs is not None  # check_request
    target = torch.from_numpy(batch.target).to(device).permute(0, 3, 1, 2)
    inputs = torch.from_numpy(batch.inputs).to(device).permute(0, 1, 4, 2, 3)
    return target.float().div(255), inputs.float().div(255)


def _score(model: Any, batch: FusionBatch, tile: Tile, request: Request, device: torch.device) -> Scores:
    target, inputs = images_from_batch(batch, device)
    scores = np.full((len(target), len(request.num_inputs)), np.nan, SCORE)
    if isinstance(model, LikelihoodModel):
        generator = tile.generator(request.seed, POSTERIOR, device=device)
        try:
            nll = estimate_nll(model, target, inputs, request.num_samples, request.num_inputs, generator)
        except NonFiniteWeightError as error:
            raise NonFiniteWeightError(tile.start + error.image, error.sample, error.num_inputs, error.value) from error
        scores["nll_nats"], scores["nll_sampling_error"] = nll.nats, nll.standard_error
        scores["ess"], scores["pareto_k"] = nll.effective_sample_size, nll.pareto_k
    if isinstance(model, SamplingModel):
        for column, k in enumerate(request.num_inputs):
            generator = tile.generator(request.seed, PRIOR, k, device=device)
            errors = estimate_draws(model, target, inputs[:, :k], request.num_samples, generator)
            scores["mse_min"][:, column] = errors.mse_min.cpu()
            scores["mse_one"][:, column] = errors.mse_one.cpu()
            scores["mse_mean"][:, column] = errors.mse_mean.cpu()
            spread = errors.standard_deviation.square().mean((1, 2, 3)).sqrt()
            scores["pixel_standard_deviation"][:, column] = spread.cpu()
    return scores


def _summarise(scores: Scores, num_dims: int) -> Score:
    """Average over images; [n, m] scores of m numbers of inputs are first averaged image by image."""
    nats, nats_error = mean_and_standard_error(scores["nll_nats"].mean(1))
    # The latents are shared by all numbers of inputs: their errors count as fully correlated.
    sampling = np.sqrt(np.square(scores["nll_sampling_error"]).mean(1).mean() / scores.shape[0])
    errors = {}
    for name in ("mse_min", "mse_one", "mse_mean"):
        errors[name], errors[f"{name}_standard_error"] = mean_and_standard_error(scores[name].mean(1))
    shapes = scores["pareto_k"]
    unreliable = np.where(np.isnan(shapes), np.nan, shapes > RELIABLE_PARETO_K)
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
    }
    return Score(**{key: float(value) if np.isfinite(value) else None for key, value in values.items()})


def _gains(scores: Scores, counts: tuple[int, ...]) -> tuple[InputGain, ...]:
    gains = []
    for metric in ("nll_nats", "mse_min"):
        values: NDArray[np.float64] = scores[metric]
        if np.isnan(values).any():
            continue
        for column, (before, after) in enumerate(pairwise(counts)):
            gain = paired_gain(values[:, column], values[:, column + 1])
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


def _warnings(scores: dict[str, Score], floor: float | None) -> tuple[str, ...]:
    warnings = []
    for k, score in scores.items():
        if floor is not None and score.nll_nats is not None and score.nll_nats < floor:
            warnings.append(
                f"the mean NLL for {k} inputs, {score.nll_nats:.2f} nats, lies below the entropy of the grey values, "
                f"{floor:.2f} nats, which no Bernoulli likelihood can pass: the model or its likelihood has a bug"
            )
    return tuple(warnings)


def _is_bernoulli(model: Any) -> bool:
    return isinstance(model, LikelihoodModel) and _config(model).get("likelihood", "bernoulli") == "bernoulli"


def _config(model: Any) -> dict[str, Any]:
    config = getattr(model, "config", None)
    return dict(json.loads(json.dumps(config.to_dict()))) if config is not None and hasattr(config, "to_dict") else {}


def _num_parameters(model: Any) -> int | None:
    if (stated := getattr(model, "num_parameters", None)) is not None:
        return int(stated() if callable(stated) else stated)
    return sum(p.numel() for p in model.parameters()) if isinstance(model, nn.Module) else None


def _device_of(model: Any) -> torch.device:
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return parameter.device if parameter is not None else torch.device("cpu")


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({torch.get_num_threads()} threads)"
