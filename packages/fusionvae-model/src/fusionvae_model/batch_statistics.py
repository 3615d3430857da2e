"""What batch norm remembers: the gap between training and inference, and how to close it."""

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from fusionvae_model.data import Batch, seeded_generator
from fusionvae_model.model import FusionModel
from fusionvae_model.noise import BatchNoise
from fusionvae_model.processes import ALONE, Processes


@torch.no_grad()
def train_eval_gap(
    model: FusionModel,
    batches: Iterable[Batch],
    *,
    seed: int,
    num_inputs: Sequence[int] | None = None,
    processes: Processes = ALONE,
) -> float:
    """Return by how many nats the bound (Eq. 8) is better in train mode than in eval mode, on the same images.

    The noise is the same as well, and the model itself is left as it is.

    Args:
        model: Any state of training.
        batches: At least one; each weighs the same.
        seed: Of the latents.
        num_inputs: Numbers of inputs over which the mean is taken in each batch, instead of all inputs it has.
        processes: Among whom each batch is shared.
    """
    in_train_mode, in_eval_mode = copy.deepcopy(model).train(), copy.deepcopy(model).eval()
    gaps = []
    for index, batch in enumerate(batches):
        with_batch, with_memory = (
            _bound(copy_, batch, seed, index, processes, num_inputs).mean() for copy_ in (in_train_mode, in_eval_mode)
        )
        gaps.append(with_batch - with_memory)
    return float(processes.mean(torch.stack(gaps).mean()))


@torch.no_grad()
def reestimate_batch_norm(
    model: FusionModel, batches: Iterable[Batch], *, seed: int, processes: Processes = ALONE
) -> None:
    """Replace the running statistics by plain means over the batches.

    The running means of training remember the last few batches alone, whose numbers of inputs were drawn at random.

    Args:
        model: Its mode and momenta stay as they are.
        batches: At least one; with as many inputs as in training: equal shares of every number, or the most.
        seed: Of the latents.
        processes: Among whom each batch is shared.
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
            _bound(model, batch, seed, index, processes, None)
    finally:
        model.train(was_training)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def _bound(
    model: FusionModel, batch: Batch, seed: int, index: int, processes: Processes, num_inputs: Sequence[int] | None
) -> Tensor:
    """Return the bound of this process's rows in nats, ``[rows]``."""
    generator = seeded_generator("batch statistics", seed, index, device=batch.target.device)
    (rows,) = processes.shares(len(batch.target))
    noise = BatchNoise(generator, batch_size=len(batch.target), rows=rows)
    options = {} if num_inputs is None else {"num_inputs": num_inputs}
    return model(batch.target[rows], batch.inputs[rows], generator=noise, **options).nats
