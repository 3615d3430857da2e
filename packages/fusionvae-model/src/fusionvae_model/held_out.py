"""The bound of images that the training never sees: the same ones, with the same inputs and noise, each time."""

import torch

from fusionvae_model.data import TrainingSet, seeded_generator
from fusionvae_model.model import FusionModel
from fusionvae_model.processes import ALONE, Processes

MOST_MEASUREMENTS = 50
MOST_OF_THE_TIME = 0.1
"""What all measurements may take of the time of the steps, but for the last one."""
STEP_PER_PASS = 3
"""Time of a step per time of a pass without gradient."""


def measurements(total_steps: int, images_per_step: int, images_held_out: int) -> int:
    """Return how often the bound is measured in a run: as often as its time allows, at least once.

    Args:
        total_steps: Of the run.
        images_per_step: Counted once for each number of inputs that a step sees them with.
        images_held_out: Likewise.
    """
    affordable = int(MOST_OF_THE_TIME * STEP_PER_PASS * images_per_step * total_steps / images_held_out)
    return max(1, min(MOST_MEASUREMENTS, total_steps, affordable))


def is_measured(step: int, total_steps: int, count: int) -> bool:
    """Tell whether it is measured after this step, counted from 1: evenly over the run, at last after the last."""
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
