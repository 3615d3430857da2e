"""Model × data set → result: tile by tile, resumable, the same whatever the order, the processes, the interruptions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from torch import nn

from fusionvae_bench.errors import DataError, ModelError
from fusionvae_bench.estimate import pixels_per_call
from fusionvae_bench.importance import reliable_pareto_k
from fusionvae_bench.metrics import entropy_floor
from fusionvae_bench.protocol import (
    LikelihoodModel,
    SamplingModel,
    for_inference,
    has_likelihood,
    is_deterministic,
)
from fusionvae_bench.provenance import git_commit, versions
from fusionvae_bench.results import AVERAGE, FORMAT_VERSION, PAPER_NUM_INPUTS, Result, Score
from fusionvae_bench.scoring import score_tile
from fusionvae_bench.summary import calibration_bins, floor_warnings, input_gains, summarise
from fusionvae_bench.tiles import ALONE, CALIBRATION_BINS, SCORE, TILE_ROWS, Share, Tile, TileStore, leaves_gaps, tiles
from fusionvae_model.device import PRECISIONS, Precision, usable_device
from fusionvae_model.progress import Progress

if TYPE_CHECKING:
    from fusion_datasets import FusionDataset

MAX_NUM_INPUTS = 8
"""Inputs beyond the stored ones continue a row's random stream; so many are promised by the data sets."""

PIXELS_PROBED = 512 * 32 * 32
"""Decoded pixels of a tile, for each metric and number of inputs, from which the time of an evaluation is told."""

Metrics = Literal["all", "nll", "mse"]
METRICS: tuple[Metrics, ...] = get_args(Metrics)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to score.

    Attributes:
        num_samples: S ≥ 1, importance samples for the likelihood and draws for MSE_min.
        limit: so many images, None for all.
        evenly_spaced: those at even distances over the whole split, instead of the first ones.
        num_inputs: numbers of inputs, ascending.
        seed: of all randomness.
        metrics: "nll", "mse", or "all" that the model offers.
        precision: what the model computes in.
    """

    num_samples: int = 1000
    limit: int | None = None
    evenly_spaced: bool = False
    num_inputs: tuple[int, ...] = PAPER_NUM_INPUTS
    seed: int = 0
    metrics: Metrics = "all"
    precision: Precision = "32"

    def num_images(self, data: FusionDataset) -> int:
        """Return how many images that is."""
        return min(self.limit or len(data), len(data))

    def leaves_gaps(self, data: FusionDataset) -> bool:
        """Tell whether they are evenly spaced, with others left out."""
        return self.evenly_spaced and leaves_gaps(self.num_images(data), len(data))

    def tiles(self, data: FusionDataset) -> list[Tile]:
        """Return the tiles that hold them."""
        return list(tiles(self.num_images(data), len(data), evenly_spaced=self.evenly_spaced))

    def wants(self, metric: Metrics) -> bool:
        """Tell whether a metric is asked for."""
        return self.metrics in ("all", metric)


def evaluate(
    model: LikelihoodModel | SamplingModel,
    data: FusionDataset,
    num_samples: int = 1000,
    limit: int | None = None,
    num_inputs: Sequence[int] = PAPER_NUM_INPUTS,
    seed: int = 0,
    *,
    evenly_spaced: bool = False,
    metrics: Metrics = "all",
    precision: Precision = "32",
    device: torch.device | str | None = None,
    name: str | None = None,
    training: dict[str, Any] | None = None,
    origin: str | None = None,
    partial: Path | None = None,
    share: Share = ALONE,
    quiet: bool = True,
) -> Result:
    """Score a model on the images of a data set, or some of them.

    Args:
        model: offers `log_importance_weights`, `sample`, or both; what it does not offer is left out. An `nn.Module`
            is scored in eval mode, and has its own mode again afterwards.
        data: the split to score.
        num_samples: S ≥ 1, importance samples for the likelihood and draws for MSE_min.
        limit: so many images, None for all.
        num_inputs: numbers of inputs, ascending; beyond the stored ones up to 8.
        seed: of all randomness.
        evenly_spaced: the ``limit`` images lie at even distances over the whole split, in runs of 20, and stand for
            all of it; else they are the first ones, which may be easier than the rest. An image's scores are the same.
        metrics: "nll", "mse", or "all" that the model offers.
        precision: what the model computes in: "32", or "bf16" by autocast.
        device: where the model lives; None for where its parameters are.
        name: name of the weights, for people; None for the model's class.
        training: summary of the training, stored as it is.
        origin: what tells a model that weights and settings do not tell from others (`fusionvae_bench.weights.origin`);
            with ``partial``, a model without either needs it.
        partial: folder for finished tiles; a call with the same settings continues from it. The caller removes it
            once the result is safe.
        share: this process among several with one folder ``partial``; each returns the whole result, once the
            others' tiles are there.
        quiet: no progress on stderr.

    Returns:
        The result, with every image's scores in ``per_image``.

    Raises:
        BenchError: if model and data do not fit, a setting is impossible, the model breaks its word, or a weight is not
            finite.
        FusionVAEError: if there is no such device.
    """
    request = Request(
        num_samples=_whole("num_samples", num_samples),
        limit=None if limit is None else _whole("limit", limit),
        evenly_spaced=bool(evenly_spaced),
        num_inputs=tuple(_whole("num_inputs", k) for k in _several("num_inputs", num_inputs)),
        seed=_whole("seed", seed),
        metrics=metrics,
        precision=precision,
    )
    check_request(model, data, request)
    if partial is not None and origin is None and weights_digest(model) is None and not model_config(model):
        raise ModelError(
            f"nothing tells this {type(model).__name__} from another one, whose scores may lie in {partial}; state "
            "what it is by origin, or do without partial"
        )
    where = usable_device(device) if device is not None else _device_of(model)
    try:
        json.dumps(training)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"training cannot be stored as JSON ({error}); state it in text and numbers") from error
    identity = fingerprint(model, data, request, where, origin=origin)
    store = TileStore(None if partial is None else Path(partial), identity, rank=share.rank)
    score_tiles(model, data, request, store, where, share=share, quiet=quiet)
    return _gather(model, data, request, store, where, name=name, training=training, identity=identity)


def score_tiles(
    model: Any,
    data: FusionDataset,
    request: Request,
    store: TileStore,
    device: torch.device,
    *,
    share: Share = ALONE,
    quiet: bool = True,
) -> None:
    """Score this process's tiles, but for those that an earlier call has finished.

    Args:
        model: the model.
        data: the split to score.
        request: checked by `check_request`.
        store: where finished tiles go.
        device: where the model lives.
        share: this process among several.
        quiet: no progress on stderr.
    """
    scorer = for_inference(model)
    mine = share.of(request.tiles(data))
    left = [tile for tile in mine if tile not in store]
    total = sum(tile.kept for tile in mine)
    done = total - sum(tile.kept for tile in left)
    with Progress("scoring", total, unit="images", done=done, quiet=quiet) as progress:
        for tile in left:
            store.write(tile, score_tile(scorer, data, tile, request, device))
            progress.advance(units=tile.kept)


def expected_seconds(model: Any, data: FusionDataset, request: Request, device: torch.device) -> float:
    """Return about how long all of a request takes here, from its first tile with a pass's worth of samples.

    Args:
        model: the model.
        data: the split to score.
        request: checked by `check_request`.
        device: where the model lives.
    """
    scorer, tiles = for_inference(model), request.tiles(data)
    images = TILE_ROWS * data.shape[0] * data.shape[1]
    few = min(request.num_samples, max(1, PIXELS_PROBED // images))
    score_tile(scorer, data, tiles[0], dataclasses.replace(request, num_samples=1), device)  # the first is slow
    seconds = score_tile(scorer, data, tiles[0], dataclasses.replace(request, num_samples=few), device).seconds
    draws_once = is_deterministic(model) and not has_likelihood(model)
    return seconds * len(tiles) * (1 if draws_once else request.num_samples / few)


def _gather(
    model: Any,
    data: FusionDataset,
    request: Request,
    store: TileStore,
    device: torch.device,
    *,
    name: str | None,
    training: dict[str, Any] | None,
    identity: str,
) -> Result:
    """Put the tiles together, waiting for those of other processes."""
    num_images, counts = request.num_images(data), request.num_inputs
    num_dims = data.spec.nll_size**2 * data.shape[-1]
    scores = np.empty((num_images, len(counts)), SCORE)
    floors = np.empty(num_images)
    calibration = np.empty((num_images, len(counts), CALIBRATION_BINS, 3))
    seconds = 0.0
    gathered = 0
    rows: list[int] = []
    for tile in request.tiles(data):
        images = slice(gathered, gathered + tile.kept)
        rows += range(tile.start, tile.start + tile.kept)
        finished = store.read(tile)
        scores[images] = finished.scores[: tile.kept]
        calibration[images] = finished.calibration[: tile.kept]
        floors[images] = entropy_floor(data.read(tile.start, tile.start + tile.kept).target, data.spec.nll_size)
        seconds += finished.seconds
        gathered = images.stop

    def summary(*shown: int) -> Score:
        columns = [counts.index(k) for k in shown]
        return summarise(scores[:, columns], shown, num_dims, request.num_samples, rows=rows)

    by_count = {str(k): summary(k) for k in counts}
    if set(PAPER_NUM_INPUTS) <= set(counts):
        by_count[AVERAGE] = summary(*PAPER_NUM_INPUTS)
    floor = float(floors.mean()) if _is_bernoulli(model) else None
    bins = {str(k): calibration_bins(calibration[:, i]) for i, k in enumerate(counts)}
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
        config=model_config(model),
        num_parameters=_num_parameters(model),
        training=training,
        num_images=num_images,
        evenly_spaced=request.leaves_gaps(data),
        num_samples=request.num_samples,
        pareto_k_reliable=reliable_pareto_k(request.num_samples),
        num_inputs=counts,
        seed=request.seed,
        precision=request.precision,
        num_dims=num_dims,
        entropy_floor_nats=floor,
        scores=by_count,
        gains=input_gains(scores, counts, rows=rows),
        warnings=(*floor_warnings(by_count, floor), *_provenance_warnings(training, data)),
        seconds=seconds,
        device=_describe(device),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        git_commit=git_commit(),
        fingerprint=identity,
        calibration={k: points for k, points in bins.items() if points},
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
    if request.metrics == "nll" and not has_likelihood(model):
        raise ModelError(
            f"{type(model).__name__} has no likelihood that could be estimated; ask for --metrics mse, or score "
            "a model with log_importance_weights"
        )
    if request.metrics == "mse" and not isinstance(model, SamplingModel):
        raise ModelError(f"{type(model).__name__} offers no sample; ask for --metrics nll")
    for what, chosen, known in (("metrics", request.metrics, METRICS), ("precision", request.precision, PRECISIONS)):
        if chosen not in known:
            raise DataError(f"got {what} {chosen!r}, expected one of {', '.join(map(repr, known))}")
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
    if not counts or list(counts) != sorted(set(counts)) or counts[0] < 0 or counts[-1] > MAX_NUM_INPUTS:
        raise DataError(
            f"got num_inputs {' '.join(map(str, counts)) or 'empty'}, expected different numbers from 0 to "
            f"{MAX_NUM_INPUTS}, ascending: each row stores {stored} inputs and can render {MAX_NUM_INPUTS}"
        )
    config, (height, width, channels) = model_config(model), data.shape
    taken = config.get("image_size", height), config.get("image_size", width), config.get("channels", channels)
    if taken != (height, width, channels):
        raise ModelError(
            f"the model takes images of {'×'.join(map(str, taken))}, {data.spec.title} has "
            f"{height}×{width}×{channels}; use a model trained on {data.spec.title}"
        )
    if (size := config.get("nll_size", data.spec.nll_size)) != data.spec.nll_size:
        raise ModelError(
            f"the model sums its likelihood over the centre {size}×{size} pixels, {data.spec.title} is scored over "
            f"{data.spec.nll_size}×{data.spec.nll_size}; use a model whose config has nll_size={data.spec.nll_size}"
        )


def _whole(name: str, value: Any) -> int:
    """Return a whole number of any type as Python's own."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise DataError(f"got {name}={value!r}, expected a whole number")


def _several(name: str, values: Any) -> tuple[Any, ...]:
    try:
        return tuple(values)
    except TypeError:
        raise DataError(f"got {name}={values!r}, expected several whole numbers, such as (0, 1, 2, 3)") from None


def fingerprint(
    model: Any,
    data: FusionDataset,
    request: Request,
    device: torch.device,
    *,
    origin: str | None = None,
    with_config: bool = True,
) -> str:
    """Return the identity of all that decides an image's scores: model, data, settings, kind of device.

    Args:
        model: its weights alone do not tell how they are used, such as how inputs are aggregated.
        data: the split to score.
        request: what is asked for.
        device: where the model lives.
        origin: as in `evaluate`.
        with_config: False as in results from before the configuration was part of it.
    """
    decisive: dict[str, Any] = {
        "result_version": FORMAT_VERSION,
        "weights": weights_digest(model) or type(model).__qualname__,
        "dataset": data.digest,
        "split": data.split,
        "num_samples": request.num_samples,
        "num_inputs": request.num_inputs,
        "seed": request.seed,
        "metrics": request.metrics,
        "scores": SCORE.names,
        "tile_rows": TILE_ROWS,
        "pixels_per_call": pixels_per_call(device),
        "device": device.type,
    }
    if request.precision != "32":
        decisive["precision"] = request.precision
    if with_config:
        decisive["config"] = _chosen_settings(model)
    if origin is not None:
        decisive["origin"] = origin
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def answers(
    result: Result,
    model: Any,
    data: FusionDataset,
    request: Request,
    device: torch.device,
    *,
    origin: str | None = None,
) -> bool:
    """Tell whether a stored result is what scoring this model would give; older ones are told by their own config."""
    images = (result.num_images, result.evenly_spaced) == (request.num_images(data), request.leaves_gaps(data))
    if not images or not has_scored(result, model):
        return False
    known = (fingerprint(model, data, request, device, origin=origin, with_config=flag) for flag in (True, False))
    return result.fingerprint in known


def has_scored(result: Result, model: Any) -> bool:
    """Tell whether a result is of this model: its weights and settings; those unknown to the result are at default."""
    config, known = model_config(model), result.config
    alike = (
        all(config.get(key) == value for key, value in known.items()) and _chosen_settings(model).keys() <= known.keys()
    )
    return alike and result.weights_digest == weights_digest(model)


def _chosen_settings(model: Any) -> dict[str, Any]:
    """Return the settings that are not at their default: one that a later version adds changes no identity."""
    config = getattr(model, "config", None)
    fields = dataclasses.fields(config) if dataclasses.is_dataclass(config) else ()
    defaults = {
        f.name: json.loads(json.dumps(f.default, default=str)) for f in fields if f.default is not dataclasses.MISSING
    }
    return {k: v for k, v in model_config(model).items() if k not in defaults or v != defaults[k]}


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
    return str(model_config(model).get("kind") or type(model).__name__.lower())


def _provenance_warnings(training: dict[str, Any] | None, data: FusionDataset) -> tuple[str, ...]:
    digest = (training or {}).get("dataset_digest")
    if digest in (None, data.digest):
        return ()
    return (
        f"the model was trained on other data (digest {digest[:12]}…) than it was scored on ({data.digest[:12]}…): "
        "its training images may be among those scored",
    )


def _is_bernoulli(model: Any) -> bool:
    return has_likelihood(model) and model_config(model).get("likelihood") == "bernoulli"


def model_config(model: Any) -> dict[str, Any]:
    """Return the configuration that a model states, as JSON has it; empty if it states none."""
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
