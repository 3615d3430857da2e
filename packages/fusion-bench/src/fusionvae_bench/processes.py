"""Several processes on one evaluation: started by us, or by ``torchrun`` on one machine or many."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fusion_datasets import FusionDataset, FusionDatasetsError
from fusion_datasets.processes import spread
from fusionvae_bench.errors import BenchError, ModelError
from fusionvae_bench.evaluate import Request, fingerprint, score_tiles
from fusionvae_bench.tiles import ALONE, Share, TileStore
from fusionvae_bench.weights import load_model, origin
from fusionvae_model import FusionModel, FusionVAEError, tune_process

PIXELS_WORTH_A_PROCESS = 50_000 * 32 * 32
"""Decoded pixels, for each metric and number of inputs, in which a process earns the seconds of its start."""
MOST_PROCESSES = 16
"""Processes that are started unasked; where there are more threads, each process takes several."""


def share_of(environment: Mapping[str, str]) -> Share:
    """Return this process's share, as ``torchrun`` tells it by RANK and WORLD_SIZE."""
    rank, count = int(environment.get("RANK", 0)), int(environment.get("WORLD_SIZE", 1))
    return Share(rank, count) if count > 1 else ALONE


def device_of(name: str, environment: Mapping[str, str]) -> torch.device:
    """Return the device to compute on; processes of one machine take different GPUs.

    Args:
        name: "auto", "cpu" or "cuda".
        environment: where ``torchrun`` leaves LOCAL_RANK.

    Raises:
        ModelError: if CUDA is asked for and absent.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError("got --device cuda, but PyTorch sees no CUDA device; use --device cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(environment.get("LOCAL_RANK", 0)) % torch.cuda.device_count())


def processes_that_pay(model: Any, request: Request, data: FusionDataset, device: torch.device) -> int:
    """Return in how many processes an evaluation ends soonest, where the user leaves it open.

    The threads of one process meet after every operation, which evaluation has hundreds of; processes never wait for
    one another. So on a CPU each of its threads becomes one, as far as there is enough to do for each to be worth its
    start, and up to a number whose memory any machine with so many cores has. A GPU is kept busy by one; and of others'
    models it is not known what a process of theirs takes.

    Args:
        model: what is scored.
        request: how much of it.
        data: the split to score.
        device: where.
    """
    if device.type != "cpu" or not isinstance(model, FusionModel):
        return 1
    height, width, _ = data.shape
    pixels = request.num_images(data) * request.num_samples * height * width
    return max(1, min(torch.get_num_threads(), MOST_PROCESSES, pixels // PIXELS_WORTH_A_PROCESS))


def score_in_processes(
    weights: str, data: FusionDataset, request: Request, folder: Path, device: torch.device, *, workers: int
) -> None:
    """Score all tiles in several processes; what they finish lies in ``folder``, for `evaluate` to put together.

    Args:
        weights: as in `load_model`.
        data: the split to score.
        request: checked by `check_request`.
        folder: where finished tiles go.
        device: where the models live.
        workers: how many processes, at least 1.

    Raises:
        BenchError: if one of them fails; the others are stopped, and all finished tiles remain.
    """
    threads = max(1, torch.get_num_threads() // workers)
    score_share = partial(_score_share, weights, data, request, folder, device, threads)
    shares = [Share(rank, workers) for rank in range(workers)]
    stated = (BenchError, FusionDatasetsError, FusionVAEError, OSError)
    for _ in spread(score_share, shares, workers, stated=stated, lost=BenchError):
        pass  # what is done lies in the folder


def _score_share(
    weights: str,
    data: FusionDataset,
    request: Request,
    folder: Path,
    device: torch.device,
    threads: int,
    share: Share,
) -> None:
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    tune_process()
    model = load_model(weights, data, device)
    identity = fingerprint(model, data, request, device, origin=origin(weights))
    store = TileStore(folder, identity, rank=share.rank)
    score_tiles(model, data, request, store, device, share=share, quiet=share.rank > 0)
