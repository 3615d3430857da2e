"""What a reproduction will take on this machine: time, memory and disk, from a few seconds of measurement."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from statistics import mean
from types import MappingProxyType

import torch
from torch import Tensor

from fusion_datasets.spec import BENCHMARKS
from fusionvae_bench.reproduction import Reproduction, Step
from fusionvae_bench.results import PAPER_NUM_INPUTS
from fusionvae_bench.rows import Row
from fusionvae_model.config import ModelConfig, TrainConfig, preset_model
from fusionvae_model.data import Batch
from fusionvae_model.processes import ALONE
from fusionvae_model.progress import note
from fusionvae_model.run import Run
from fusionvae_model.step import TrainingStep

SPLIT_ROWS = MappingProxyType(
    {"fusion-mnist": (60_000, 10_000), "fusion-celeba": (162_770, 19_867), "fusion-tless": (5_836, 644)}
)
"""Rows of the originals: training, evaluation."""

_PIXELS = 32 * 32 * 32  # of the targets of the larger measured step, four times as many as of the smaller
_DECODED = 32
_STATES = 6  # weights, gradient, two moments of AdaMax, the guard's copy and what a checkpoint holds, about


@dataclass(frozen=True)
class ModelCost:
    """What training and decoding take.

    Attributes:
        step_seconds: of a training step, however small its batch: weight norm, regularisers, update.
        train_seconds: of a training step, for each target.
        decode_seconds: of one sample, without gradients.
        activation_bytes: kept for the backward pass, per target.
        num_parameters: of the model.
    """

    step_seconds: float
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


def measure(config: ModelConfig, train: TrainConfig, device: torch.device) -> ModelCost:
    """Take a few training steps on noise, small and larger ones with one input and with two, and decode a few samples.

    Args:
        config: of an untrained model.
        train: how it is trained.
        device: where to compute.
    """
    step = TrainingStep(Run("", config, train, None, 100, "32", {}), device, ALONE)
    many = max(8, _PIXELS // config.image_size**2)
    few = many // 4
    saved: dict[int, int] = {}  # several operations keep the same memory

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step.take(_noise(config, many, 2, device), 0)  # also warms up
    # The mean number of inputs in training is 1½, and a step's time grows linearly with it.
    smaller, larger = (
        mean(_seconds(partial(step.take, _noise(config, count, k, device), k), device) for k in (1, 2))
        for count in (few, many)
    )
    per_image = (larger - smaller) / (many - few)
    if not 0 < per_image < larger / many:  # a busy machine's clock
        per_image = larger / many
    folded = step.model.eval().folded()
    inputs = _noise(config, 1, 2, device).inputs
    folded.sample(inputs, num_samples=_DECODED)
    decoded = _seconds(partial(folded.sample, inputs, num_samples=_DECODED), device) / _DECODED
    return ModelCost(
        larger - many * per_image, per_image, decoded, sum(saved.values()) / many, step.model.num_parameters
    )


def _noise(config: ModelConfig, count: int, num_inputs: int, device: torch.device) -> Batch:
    shape = (config.channels, config.image_size, config.image_size)
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(count, *shape, generator=generator).to(device)
    return Batch(target, torch.rand(count, num_inputs, *shape, generator=generator).to(device))


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def measure_rows(plan: Reproduction, device: torch.device) -> dict[str, ModelCost]:
    """Measure every row, or the paper's own model alone where the profile fixes the minutes of all."""
    own = preset_model(plan.preset_name)
    if plan.minutes is not None:
        return dict.fromkeys((row.title for row in plan.rows), measure(own, plan.preset.train, device))
    costs = {}
    for row in plan.rows:
        note(f"measuring {row.title}")
        choice = {"posterior": row.posterior, "aggregation": row.aggregation} if row.kind == own.kind else {}
        costs[row.title] = measure(preset_model(plan.preset_name, kind=row.kind, **choice), plan.preset.train, device)
    return costs


def estimate(plan: Reproduction, costs: Mapping[str, ModelCost]) -> Estimate:
    """Extrapolate from the cost of one step and one image.

    Args:
        plan: what will be done.
        costs: by title of the row.
    """
    spec = BENCHMARKS[plan.benchmark]
    limit = plan.settings.rows
    num_train, num_evaluated = (min(count, limit or count) for count in SPLIT_ROWS[plan.benchmark])
    images = min(plan.num_images or num_evaluated, num_evaluated)
    epochs, batch = plan.preset.train.epochs, plan.preset.train.batch_size

    def row_minutes(row: Row) -> float:
        cost = costs[row.title]
        training = epochs * num_train * (cost.train_seconds + cost.step_seconds / batch)
        return (training + images * plan.num_samples * _passes(row) * cost.decode_seconds) / 60

    minutes = {row.title: plan.seeds * (plan.minutes or row_minutes(row)) for row in plan.rows}
    target_bytes = float(torch.Size(spec.target_shape("train")).numel())
    evaluation_bytes = num_evaluated * torch.Size(spec.shape).numel() * (1 + spec.max_inputs)
    weights = 4.0 * max(cost.num_parameters for cost in costs.values())
    activations = batch * max(cost.activation_bytes for cost in costs.values())
    return Estimate(
        minutes,
        memory_bytes=num_train * target_bytes + activations + _STATES * weights,
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
    taken = estimate(plan, measure_rows(plan, device))
    started = [step for step in steps if not step.here]
    starting = len(started) * _start_seconds() / 60
    if as_json:
        document = {"steps": [step.command for step in steps], **dataclasses.asdict(taken)}
        return json.dumps({**document, "starting_minutes": starting}, indent=1)
    lines = [f"{number}. {step.purpose}\n   $ {step.command}" for number, step in enumerate(steps, 1)]
    rows = ", ".join(f"{title} {_duration(minutes)}" for title, minutes in taken.minutes.items())
    return "\n".join(
        [
            *lines,
            "",
            f"time    {_duration(sum(taken.minutes.values()) + starting)} on {device.type}: {rows}, "
            f"starting {len(started)} commands {_duration(starting)}; besides, building the data and the page",
            f"memory  about {taken.memory_bytes / 1e9 + 0.5:.1f} GB",
            f"disk    at most {taken.disk_bytes / 1e9:.1f} GB",
        ]
    )


def _start_seconds() -> float:
    """Return how long a command takes before it does anything: mostly loading PyTorch."""
    start = partial(
        subprocess.run, [sys.executable, "-m", "fusionvae_bench", "--version"], check=True, capture_output=True
    )
    return _seconds(start, torch.device("cpu"))


def _duration(minutes: float) -> str:
    if minutes < 120:
        return f"{minutes:.3g} min"
    return f"{minutes / 60:.3g} h" if minutes < 60 * 72 else f"{minutes / 60 / 24:.3g} days"
