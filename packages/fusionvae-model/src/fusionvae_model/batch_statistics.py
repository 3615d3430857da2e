"""What batch norm remembers: the gap between training and inference, and how to close it."""

import copy
from collections.abc import Iterable

import torch
from torch import nn

from fusionvae_model.data import Batch, seeded_generator
from fusionvae_model.fusionvae import FusionVAE


@torch.no_grad()
def train_eval_gap(model: FusionVAE, batches: Iterable[Batch], *, seed: int) -> float:
    """Return by how many nats the bound (Eq. 8) is better in train mode than in eval mode, on the same images.

    The noise is the same as well, and the model itself is left as it is.

    Args:
        model: Any state of training.
        batches: At least one; each weighs the same.
        seed: Of the latents.
    """
    in_train_mode, in_eval_mode = copy.deepcopy(model).train(), copy.deepcopy(model).eval()
    gaps = []
    for index, batch in enumerate(batches):
        with_batch, with_memory = (
            copy_.elbo(batch.target, batch.inputs, generator=_noise(batch, seed, index)).mean()
            for copy_ in (in_train_mode, in_eval_mode)
        )
        gaps.append(with_batch - with_memory)
    return float(torch.stack(gaps).mean())


@torch.no_grad()
def reestimate_batch_norm(model: FusionVAE, batches: Iterable[Batch], *, seed: int) -> None:
    """Replace the running statistics by plain means over the batches.

    The running means of training remember the last few batches alone, whose numbers of inputs were drawn at random.

    Args:
        model: Its mode and momenta stay as they are.
        batches: At least one; equal shares of every number of inputs.
        seed: Of the latents.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    was_training = model.training
    model.train()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative mean
        for index, batch in enumerate(batches):
            model(batch.target, batch.inputs, generator=_noise(batch, seed, index))
    finally:
        model.train(was_training)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _noise(batch: Batch, seed: int, index: int) -> torch.Generator:
    return seeded_generator("batch statistics", seed, index, device=batch.target.device)
