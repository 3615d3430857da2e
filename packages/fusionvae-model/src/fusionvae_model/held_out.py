"""The bound of images that the training never sees: the same ones, with the same inputs and noise, each time."""

import torch

from fusionvae_model.data import TrainingSet, seeded_generator
from fusionvae_model.model import FusionModel
from fusionvae_model.processes import ALONE, Processes

MOST_MEASUREMENTS = 50


def measurements(total_steps: int) -> int:
    """Return how often the bound is measured in a run of so many steps."""
    return min(MOST_MEASUREMENTS, total_steps)


def is_measured(step: int, total_steps: int) -> bool:
    """Tell whether it is measured after this step, counted from 1: evenly over the run, at last after the last."""
    count = measurements(total_steps)
    return step * count // total_steps > (step - 1) * count // total_steps


@torch.no_grad()
def held_out_bound(model: FusionModel, data: TrainingSet, *, max_inputs: int, processes: Processes = ALONE) -> float:
    """Return the bound (Eq. 8, nothing weighted) in nats, its mean over the images held out and ``k = 0…max_inputs``.

    The model computes in eval mode, with the batch statistics that it remembers, and is left in the mode it was in.

    Args:
        model: Any state of training.
        data: With images held out.
        max_inputs: The most inputs.
        processes: Among whom the images are shared.
    """
    was_training = model.training
    total = torch.zeros((), device=data.held_out.device)
    model.eval()
    try:
        for index, batch in enumerate(data.held_out_batches(max_inputs=max_inputs)):
            if index % processes.count == processes.rank:
                for k in range(max_inputs + 1):
                    generator = seeded_generator("held-out latents", 0, index, device=batch.target.device)
                    total = total + model(batch.target, batch.inputs[:, :k], generator=generator).nats.float().sum()
    finally:
        model.train(was_training)
    return float(processes.mean(total)) * processes.count / (len(data.held_out) * (max_inputs + 1))
