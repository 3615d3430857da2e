"""Activation checkpointing: cells computed a second time in the backward pass instead of being remembered."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def recompute(cell: nn.Module, features: Tensor) -> Tensor:
    """Run a cell that keeps only its input for the backward pass; same output, gradients and batch statistics.

    Args:
        cell: Deterministic.
        features: Its input.
    """
    training = cell.training  # the backward pass may come when it no longer is

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _as_before(cell, training=training)

    result = checkpoint(cell, features, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    assert isinstance(result, Tensor)
    return result


@contextmanager
def _as_before(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Be in the mode of the first time, and keep the running statistics of batch norms from counting a batch twice."""
    is_training = module.training
    module.train(training)
    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    with torch.no_grad():
        counts = [None if tracked is None else tracked.clone() for _, tracked in before]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        module.train(is_training)
        for norm, (momentum, tracked), count in zip(norms, before, counts, strict=True):
            norm.momentum = momentum
            if tracked is not None and count is not None:
                tracked.copy_(count)
