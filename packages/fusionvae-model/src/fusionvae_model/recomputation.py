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

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), statistics_untouched(cell)

    result = checkpoint(cell, features, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    assert isinstance(result, Tensor)
    return result


@contextmanager
def statistics_untouched(module: nn.Module) -> Iterator[None]:
    """Within, batch norms normalise as before and remember nothing of what they see."""
    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    with torch.no_grad():
        counts = [None if tracked is None else tracked.clone() for _, tracked in before]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, tracked), count in zip(norms, before, counts, strict=True):
            norm.momentum = momentum
            if tracked is not None and count is not None:
                tracked.copy_(count)
