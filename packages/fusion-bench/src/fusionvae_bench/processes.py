"""Several processes on one evaluation: started by us, or by ``torchrun`` on one machine or many."""

from __future__ import annotations

import os
from collections.abc import Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch

from fusion_datasets import FusionDataset, FusionDatasetsError
from fusionvae_bench.errors import BenchError, ModelError
from fusionvae_bench.evaluate import Request, fingerprint, score_tiles
from fusionvae_bench.tiles import ALONE, Share, TileStore
from fusionvae_bench.weights import load_model
from fusionvae_model import FusionVAEError


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


def score_in_processes(
    weights: str, data: FusionDataset, request: Request, partial: Path, device: torch.device, *, workers: int
) -> None:
    """Score all tiles in several processes; what they finish lies in ``partial``, for `evaluate` to put together.

    Args:
        weights: as in `load_model`.
        data: the split to score.
        request: checked by `check_request`.
        partial: folder of the finished tiles.
        device: where the models live.
        workers: how many processes, at least 1.

    Raises:
        BenchError: if one of them fails; the others are stopped, and all finished tiles remain.
    """
    threads = max(1, torch.get_num_threads() // workers)
    context = get_context("spawn")
    processes, outcomes = [], []
    try:
        for rank in range(workers):
            outcome, sender = context.Pipe(duplex=False)
            work = (weights, data, request, partial, device, Share(rank, workers), threads)
            processes.append(context.Process(target=_send_outcome, args=(sender, *work), daemon=True))
            processes[-1].start()
            sender.close()  # the child's copy alone is left: its end is seen at once
            outcomes.append(outcome)
        while outcomes:
            ready = wait(outcomes)
            for outcome in [outcome for outcome in outcomes if outcome in ready]:
                outcomes.remove(outcome)
                _raise_failure(outcome)
    finally:
        for process in processes:
            process.terminate()  # of no effect on one that has finished; tiles are whole or not there
            process.join()


def _raise_failure(outcome: Connection) -> None:
    try:
        failure = outcome.recv()
    except EOFError as error:
        raise BenchError(
            "a process of the evaluation was killed, perhaps for want of memory; call again to resume, with fewer "
            "--workers"
        ) from error
    if failure is not None:
        raise failure


def _send_outcome(
    sender: Connection,
    weights: str,
    data: FusionDataset,
    request: Request,
    partial: Path,
    device: torch.device,
    share: Share,
    threads: int,
) -> None:
    """Do a share of the work, then tell the parent None, or what went wrong."""
    try:
        _score_share(weights, data, request, partial, device, share, threads)
    except (BenchError, FusionDatasetsError, FusionVAEError, OSError) as error:
        sender.send(error)
    else:
        sender.send(None)


def _score_share(
    weights: str,
    data: FusionDataset,
    request: Request,
    partial: Path,
    device: torch.device,
    share: Share,
    threads: int,
) -> None:
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    model = load_model(weights, data, device)
    store = TileStore(partial, fingerprint(model, data, request, device), rank=share.rank)
    score_tiles(model, data, request, store, device, share=share, quiet=share.rank > 0)
