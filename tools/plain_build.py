"""One side of a comparison of `tools/bench`: the plain build of FusionVAE, or the packages as they are.

The plain build is what one writes first from the paper: up cells that do everything after the upsampling, the default
memory layout and allocator, one optimiser call per parameter, a power iteration per convolution, and an evaluation that
repeats the whole pass for every number of inputs and every sample. It takes the packages' modules for the rest, so both
sides compute the same numbers.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from fusionvae_bench import estimate_nll
from fusionvae_model import FusionVAE, hierarchy, training, tune_process
from fusionvae_model.data import Batch, seeded_generator
from fusionvae_model.distributions import SCALE_FLOOR, SOFT_CLAMP, DiscretizedLogisticMixture
from fusionvae_model.hierarchy import draw_from_prior
from fusionvae_model.layers import BRANCH_SCALE, UpCell, WeightNormConv2d
from fusionvae_model.objective import POWER_ITERATIONS, balancing_weights
from fusionvae_model.trainer import Trainer

NUM_SAMPLES = 64
"""Importance samples of an evaluation round on the fast side; the plain side takes fewer, and counts what it did."""
PLAIN_NUM_SAMPLES = 4
EVALUATED = 64
"""Images of an evaluation round; fewer of those that are larger than 32×32, and with fewer samples."""
DECODED = 2
"""Colour images of a round of the decoder and its likelihood."""


def plain_up_cell(cell: UpCell) -> Callable[[Tensor], Tensor]:
    """The cell of App. A in the order in which it is written: upsample, then everything else."""

    def forward(features: Tensor) -> Tensor:
        smooth = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
        branch = cell.contract(cell.expand(F.interpolate(features, scale_factor=2, mode="nearest")))
        return cell.skip(smooth) + BRANCH_SCALE * branch

    return forward


def plain_bounded_normal(parameters: Tensor) -> Normal:
    """The soft clamp as App. A has it."""
    mean, log_scale = (SOFT_CLAMP * torch.tanh(parameters / SOFT_CLAMP)).chunk(2, dim=1)
    return Normal(mean, log_scale.exp() + SCALE_FLOOR, validate_args=False)


def plain_log_density(distribution: Normal, value: Tensor) -> Tensor:
    """The density of latents as PyTorch computes it."""
    return distribution.log_prob(value).flatten(1).sum(dim=1)


class PlainTraining:
    """Training steps as one writes them first."""

    def __init__(self, trainer: Trainer) -> None:
        self.config = trainer.run.train
        self.model = trainer.model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for module in self.model.modules():
            if isinstance(module, UpCell):
                module.forward = plain_up_cell(module)  # type: ignore[method-assign]
        self.gamma = trainer.state.gamma
        self.optimizer = torch.optim.Adamax(
            self.model.parameters(),
            lr=self.config.learning_rate,
            eps=self.config.adamax_eps,
            weight_decay=self.config.weight_decay,
            foreach=False,
        )
        self.convolutions = [m for m in self.model.modules() if isinstance(m, WeightNormConv2d | nn.Conv2d)]
        self.left = [F.normalize(torch.randn(len(module.weight)), dim=0) for module in self.convolutions]

    def step(self, batch: Batch) -> None:
        """One step on one batch."""
        bound = self.model(batch.target, batch.inputs)
        alpha = balancing_weights(bound.kl, self.gamma)
        loss = (bound.kl.mean(dim=0) * alpha).sum() - bound.log_likelihood.mean()
        loss = loss + self.config.regularization * (self.spectral() + self.batch_norm_gains())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def spectral(self) -> Tensor:
        """The largest singular values, one convolution after the other."""
        total = torch.zeros(())
        for index, module in enumerate(self.convolutions):
            weight = module.effective_weight() if isinstance(module, WeightNormConv2d) else module.weight
            matrix = weight.flatten(1)
            with torch.no_grad():
                left = self.left[index]
                for _ in range(POWER_ITERATIONS):
                    right = F.normalize(matrix.T @ left, dim=0)
                    left = F.normalize(matrix @ right, dim=0)
                self.left[index] = left
            total = total + left @ matrix @ right
        return total

    def batch_norm_gains(self) -> Tensor:
        """The largest gains of the batch norms."""
        norms = [module for module in self.model.modules() if isinstance(module, nn.BatchNorm2d)]
        return torch.stack([norm.weight.abs().max() for norm in norms]).sum()


@torch.no_grad()
def plain_nll(model: nn.Module, batch: Batch, num_samples: int, num_inputs: range) -> Tensor:
    """-log p(y|x) of every image and number of inputs, [b, n] nats: a whole pass for each of both and each sample."""
    columns = []
    for k in num_inputs:
        weights = [
            model.log_importance_weights(batch.target, batch.inputs[:, :k], num_samples=1) for _ in range(num_samples)
        ]
        columns.append(math.log(num_samples) - torch.cat(weights, dim=1).logsumexp(dim=1))
    return torch.stack(columns, dim=1)


def training_rounds(trainer: Trainer, plain: bool) -> Iterator[float]:
    """The bound of one batch, then images per second of rounds over k = 0 … 3."""
    kinds = trainer.run.train.max_inputs + 1
    work = PlainTraining(trainer) if plain else None
    yield bound_nats(trainer)
    while True:
        started = time.perf_counter()
        for k in range(kinds):
            batch = trainer.batch(k, num_inputs=k)
            if work is None:
                trainer.train_step(batch, k)
            else:
                work.step(batch)
        yield kinds * trainer.run.train.batch_size / (time.perf_counter() - started)


def evaluation_rounds(trainer: Trainer, plain: bool) -> Iterator[float]:
    """The bound of one batch, then image-samples per second, every number of inputs counted."""
    counts = range(trainer.run.train.max_inputs + 1)
    area = (trainer.model.config.image_size // 32) ** 2
    batch = Batch(*(part[: EVALUATED // area] for part in vars(trainer.batch(0, num_inputs=counts[-1])).values()))
    if plain:
        PlainTraining(trainer)
    yield bound_nats(trainer)
    model = trainer.model.eval()
    fast = model if plain else model.folded()
    num_samples = (PLAIN_NUM_SAMPLES if plain else NUM_SAMPLES) // area
    while True:
        started = time.perf_counter()
        if plain:
            plain_nll(model, batch, num_samples, counts)
        else:
            estimate_nll(
                fast,
                batch.target,
                batch.inputs,
                num_samples,
                num_inputs=tuple(counts),
                precision=trainer.run.precision,
            )
        yield len(batch.target) * len(counts) * num_samples / (time.perf_counter() - started)


def rendering_rounds(trainer: Trainer, _: bool) -> Iterator[float | tuple[float, float, float]]:
    """The share of a training step in which its batch is made, over k = 0 … 3; batches per second, steps per second."""
    kinds = trainer.run.train.max_inputs + 1
    yield 0.0
    while True:
        started = time.perf_counter()
        batches = [trainer.batch(k, num_inputs=k) for k in range(kinds)]
        made = time.perf_counter()
        for k, batch in enumerate(batches):
            trainer.train_step(batch, k)
        ended = time.perf_counter()
        yield (made - started) / (ended - started), kinds / (made - started), kinds / (ended - started)


@torch.no_grad()
def mixture_rounds(_: Trainer, __: bool) -> Iterator[float]:
    """The time of the colour likelihood over that of FusionCelebA's decoder: from ``h`` and drawn latents to pixels."""
    model = FusionVAE.from_preset("fusion-celeba").eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    no_inputs, image = [[None] * model.config.num_groups], torch.rand(DECODED, 3, 64, 64)
    yield 0.0
    while True:
        started = time.perf_counter()
        walk = model.walk(draw_from_prior(), batch_size=DECODED, contexts=no_inputs)
        pixels = model.image_head.parameters_of_pixels(F.elu(model.image_head.postprocess(walk.state)))
        decoded = time.perf_counter()
        DiscretizedLogisticMixture(pixels).log_prob(image)
        yield (time.perf_counter() - decoded) / (decoded - started)


def bound_nats(trainer: Trainer) -> float:
    """The mean bound of one batch in training mode, where every cell takes part; batch statistics are not kept."""
    batch = trainer.batch(0, num_inputs=trainer.run.train.max_inputs)
    kept = {name: buffer.clone() for name, buffer in trainer.model.named_buffers()}
    with torch.no_grad(), trainer.state._autocast():
        nats = trainer.model(batch.target, batch.inputs, generator=seeded_generator("check", 0, 0)).nats.mean()
    for name, buffer in trainer.model.named_buffers():
        buffer.copy_(kept[name])
    return float(nats)


ROUNDS = {
    "train": training_rounds,
    "evaluate": evaluation_rounds,
    "render": rendering_rounds,
    "mixture": mixture_rounds,
}


def main(job: str, side: str, data: str, settings: dict[str, Any]) -> None:
    """Prints the number to agree on; then, for every line read, the result of one round."""
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    plain = side == "plain"
    if plain:
        training.keep_freed_memory = lambda: None  # the process as it comes
        hierarchy.bounded_normal = plain_bounded_normal
        hierarchy._log_density = plain_log_density
    else:
        tune_process()
    with tempfile.TemporaryDirectory() as folder:
        trainer = training.prepare(
            Path(data),
            Path(folder) / "run",
            preset_name=settings["preset"],
            epochs=1,
            minutes=None,
            batch_size=settings["batch_size"],
            seed=0,
            device="cpu",
            precision="32" if plain else settings["precision"],
            resume=False,
            initial_weights=settings["weights"],
            overrides=("optimizer=adamax",),  # the paper's, on both sides
        )
    rounds = ROUNDS[job](trainer, plain)
    print(json.dumps(next(rounds)), flush=True)
    next(rounds)  # the first round pays for what is made once
    for _ in sys.stdin:
        print(json.dumps(next(rounds)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:4], json.loads(sys.argv[4]))
