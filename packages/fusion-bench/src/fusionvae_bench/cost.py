"""What a reproduction will take on this machine: time, memory and disk, from a few seconds of measurement."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from fusion_datasets.spec import BENCHMARKS
from fusionvae_bench.evaluate import PAPER_NUM_INPUTS
from fusionvae_bench.reproduction import Reproduction, Step
from fusionvae_bench.rows import Row
from fusionvae_model import FusionVAE

SPLIT_ROWS = MappingProxyType(
    {"fusion-mnist": (60_000, 10_000), "fusion-celeba": (162_770, 19_867), "fusion-tless": (5_836, 644)}
)
"""Rows of the originals: training, evaluation."""

_PIXELS = 32 * 32 * 32  # of the targets of a measured step: enough for its rate to be that of larger ones
_DECODED = 32
_MEAN_NUM_INPUTS = 1.5  # of 0…3 in training


@dataclass(frozen=True)
class ModelCost:
    """What one image costs.

    Attributes:
        train_seconds: of a training step, per target.
        decode_seconds: of one sample, without gradients.
        activation_bytes: kept for the backward pass, per target.
        num_parameters: of the model.
    """

    train_seconds: float
    decode_seconds: float
    activation_bytes: float
    num_parameters: int


@dataclass(frozen=True)
class Estimate:
    """What a reproduction takes.

    Attributes:
        minutes: by row of the table, training and scoring, all seeds together.
        memory_bytes: largest at one time, beside Python and PyTorch themselves (about 0.5 GB).
        disk_bytes: of everything that is written, before compression.
    """

    minutes: dict[str, float]
    memory_bytes: float
    disk_bytes: float


def measure(model: FusionVAE, device: torch.device) -> ModelCost:
    """Train on a few images and decode a few, once to warm up and once by the clock.

    Args:
        model: untrained.
        device: where to compute.
    """
    config = model.config
    generator = torch.Generator().manual_seed(0)
    shape = (config.channels, config.image_size, config.image_size)
    count = max(2, _PIXELS // config.image_size**2)
    target = torch.rand(count, *shape, generator=generator).to(device)
    inputs = torch.rand(count, 2, *shape, generator=generator).to(device)
    saved = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    def train() -> None:
        (-model.elbo(target, inputs)).mean().backward()

    model = model.to(device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        train()
    encoded = (1 + _MEAN_NUM_INPUTS) / 3  # measured with two inputs, trained with 1.5 on average
    trained = _seconds(train, device) / count * (0.5 + 0.5 * encoded)
    folded = model.eval().folded()
    decoded = _seconds(lambda: folded.sample(inputs[:1], num_samples=_DECODED), device) / _DECODED
    return ModelCost(trained, decoded, saved / count, model.num_parameters)


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def estimate(plan: Reproduction, cost: ModelCost) -> Estimate:
    """Extrapolate from the cost of one image; all rows of a table are about equally large (Sec. 5.3).

    Args:
        plan: what will be done.
        cost: measured on FusionVAE.
    """
    spec = BENCHMARKS[plan.benchmark]
    limit = plan.settings.rows
    num_train, num_evaluated = (min(count, limit or count) for count in SPLIT_ROWS[plan.benchmark])
    images = min(plan.num_images or num_evaluated, num_evaluated)
    train = plan.preset.train
    minutes = {
        row.title: plan.seeds
        * (
            plan.minutes
            or (
                train.epochs * num_train * cost.train_seconds
                + images * plan.num_samples * _passes(row) * cost.decode_seconds
            )
            / 60
        )
        for row in plan.rows
    }
    batch = plan.settings.batch_size or train.batch_size
    target_bytes = float(torch.Size(spec.target_shape("train")).numel())
    evaluation_bytes = num_evaluated * torch.Size(spec.shape).numel() * (1 + spec.max_inputs)
    weights = 4.0 * cost.num_parameters
    return Estimate(
        minutes,
        memory_bytes=num_train * target_bytes + batch * cost.activation_bytes + 4 * weights,
        disk_bytes=num_train * target_bytes + evaluation_bytes + len(minutes) * plan.seeds * 10 * weights,
    )


def _passes(row: Row) -> int:
    """Decodings per image and sample: the likelihood, once if q ignores the inputs, and draws for k = 1, 2, 3."""
    with_inputs = len(PAPER_NUM_INPUTS) - 1
    if row.kind.startswith("fcn"):
        return 0
    ignores_inputs = row.kind == "fusionvae" and row.posterior == "y"
    return with_inputs + (1 if ignores_inputs else len(PAPER_NUM_INPUTS))


def describe(plan: Reproduction, steps: list[Step], device: torch.device, *, as_json: bool) -> str:
    """Say what would be done and what it takes, as text or as a JSON object."""
    taken = estimate(plan, measure(FusionVAE(plan.preset.model), device))
    if as_json:
        return json.dumps({"steps": [step.command for step in steps], **dataclasses.asdict(taken)}, indent=1)
    lines = [f"{number}. {step.purpose}\n   $ {step.command}" for number, step in enumerate(steps, 1)]
    rows = ", ".join(f"{title} {_duration(minutes)}" for title, minutes in taken.minutes.items())
    return "\n".join(
        [
            *lines,
            "",
            f"time    {_duration(sum(taken.minutes.values()))} on {device.type}: {rows}",
            f"memory  about {taken.memory_bytes / 1e9 + 0.5:.1f} GB",
            f"disk    at most {taken.disk_bytes / 1e9:.1f} GB",
        ]
    )


def _duration(minutes: float) -> str:
    if minutes < 120:
        return f"{minutes:.3g} min"
    return f"{minutes / 60:.3g} h" if minutes < 60 * 72 else f"{minutes / 60 / 24:.3g} days"
