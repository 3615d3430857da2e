"""The training loop: one run's model, its optimiser, its steps, its log and its checkpoints."""

import copy
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusionvae_model import __version__
from fusionvae_model.batch_statistics import reestimate_batch_norm, train_eval_gap
from fusionvae_model.checkpoint import TRAINING_FILE, first_non_finite, read_json
from fusionvae_model.config import ModelConfig, TrainConfig
from fusionvae_model.data import Batch, TrainingSet, seeded_generator
from fusionvae_model.device import device_name
from fusionvae_model.errors import FusionVAEError
from fusionvae_model.fusionvae import FusionVAE
from fusionvae_model.interruption import StopRequest
from fusionvae_model.objective import (
    SpectralRegularizer,
    batch_norm_regularizer,
    beta,
    group_gamma,
    negative_elbo,
)
from fusionvae_model.progress import Progress
from fusionvae_model.run import Run
from fusionvae_model.run_checkpoints import finished_checkpoints, read_checkpoint, write_checkpoint
from fusionvae_model.training_log import TrainingLog

LOG_FILE = "log.jsonl"
STATISTICS_BATCHES_PER_KIND = 20
"""Batches, for each number of inputs, from which the final batch statistics are estimated."""
GAP_BATCHES_PER_KIND = 2


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """Return the rate of a step: linear warm-up, then a cosine to the floor at the last step (Sec. 5.4, App. A)."""
    warmup = config.warmup_fraction * total_steps
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1.0, total_steps - 1 - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine


def build_seeded(config: ModelConfig, seed: int, device: torch.device | str) -> FusionVAE:
    """Build an untrained model whose weights depend on the seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FusionVAE(config)
    return model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Trainer:
    """One run: the model, its optimiser and where it stands.

    Args:
        run: What to compute.
        data: Training targets on the device.
        output: The run's folder.
        device: Where to compute.
    """

    def __init__(self, run: Run, data: TrainingSet, output: Path, device: torch.device) -> None:
        self.run = run
        self.data = data
        self.output = output
        self.device = device
        self.step = 0
        self.seconds = 0.0
        config = run.train
        self.model = build_seeded(run.model, config.seed, device).train()
        directions = seeded_generator("spectral", config.seed, 0)
        self.spectral = SpectralRegularizer(self.model, generator=directions).to(device)
        self.gamma = torch.tensor(group_gamma(run.model.groups_per_scale), device=device)
        self.optimizer = torch.optim.Adamax(
            self.model.parameters(),
            lr=config.learning_rate,
            eps=config.adamax_eps,
            weight_decay=config.weight_decay,
            foreach=True,
        )
        self.log = TrainingLog(output / LOG_FILE)

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take one optimiser step; return what the log wants, as tensors on the device."""
        config = self.run.train
        current_beta = self._beta(step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.run.total_steps, config)
        noise = seeded_generator("latents", config.seed, step, device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.run.precision == "bf16"):
            bound = self.model(batch.target, batch.inputs, generator=noise)
        loss = negative_elbo(bound, self.gamma, beta=current_beta)
        loss = loss + config.regularization * (self.spectral() + batch_norm_regularizer(self.model))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return {
            "loss": loss.detach(),
            "reconstruction_nats": -bound.log_likelihood.detach().mean(),
            "kl_per_group": bound.kl.detach().mean(dim=0),
        }

    def _beta(self, step: int) -> float:
        config = self.run.train
        return beta(step, self.run.total_steps, fraction=config.beta_fraction, floor=config.beta_floor)

    def batch(self, step: int, num_inputs: int | None = None) -> Batch:
        """Return the batch of a step."""
        config = self.run.train
        return self.data.batch(step, config.batch_size, max_inputs=config.max_inputs, num_inputs=num_inputs)

    def train(self, *, log_every: int, checkpoint_seconds: float) -> None:
        """Run to the end from where it stands; write log and checkpoints on the way.

        Args:
            log_every: Steps between two lines of the log.
            checkpoint_seconds: Least time between two checkpoints.

        Raises:
            FusionVAEError: If it is asked to stop, diverges, or the disk refuses; what was saved stays.
        """
        total = self.run.total_steps
        self.log.rewind(self.step)
        saved = time.monotonic()
        started = saved - self.seconds
        with Progress("training", total, unit="steps", done=self.step) as progress, StopRequest() as stop:
            while self.step < total:
                batch = self.batch(self.step)
                self.log.add(self.train_step(batch, self.step), len(batch.target), batch.inputs.shape[1])
                self.step += 1
                self.seconds = time.monotonic() - started
                logs = self.step % log_every == 0 or self.step == total
                progress.advance(f"bound {self._write_log_line():.1f} nats" if logs else "")
                if stop.received or self.step == total or time.monotonic() - saved >= checkpoint_seconds:
                    self.save_checkpoint()
                    saved = time.monotonic()
                if stop.received and self.step < total:
                    raise FusionVAEError(
                        f"interrupted after step {self.step} of {total}, which is saved; continue with --resume"
                    )

    def _write_log_line(self) -> float:
        self._refuse_divergence(self.log.is_finite())
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return self.log.write(
            step=self.step,
            epoch=self.step / self.data.steps_per_epoch(self.run.train.batch_size),
            seconds=self.seconds,
            beta=self._beta(self.step - 1),
            learning_rate=self.optimizer.param_groups[0]["lr"],
            gradient_norm=float(torch.nn.utils.get_total_norm(gradients)),
        )

    def _refuse_divergence(self, is_finite: bool) -> None:
        if not is_finite:
            checkpoints = finished_checkpoints(self.output)
            kept = f"{checkpoints[-1]} is from before" if checkpoints else "no checkpoint had been saved"
            raise FusionVAEError(
                f"the training diverged by step {self.step}, its numbers are no longer finite; {kept}; start anew with "
                "another seed, a larger batch or precision 32"
            )

    def finish(self) -> dict[str, Any]:
        """Re-estimate the batch statistics, write the finished model and return the summary of the training."""
        config, total = self.run.train, self.run.total_steps
        kinds = config.max_inputs + 1
        statistics, held = STATISTICS_BATCHES_PER_KIND * kinds, GAP_BATCHES_PER_KIND * kinds
        with Progress("batch statistics", statistics + 2 * held, unit="batches") as progress:

            def batches(first: int, count: int) -> Iterator[Batch]:
                for i in range(first, first + count):
                    yield self.batch(total + i, num_inputs=i % kinds)
                    progress.advance()

            gap_before = train_eval_gap(self.model, batches(statistics, held), seed=config.seed)
            reestimate_batch_norm(self.model, batches(0, statistics), seed=config.seed)
            gap_after = train_eval_gap(self.model, batches(statistics, held), seed=config.seed)
        summary = {
            "preset": self.run.preset,
            "epochs": round(total / self.data.steps_per_epoch(config.batch_size), 3),
            "steps": total,
            "batch_size": config.batch_size,
            "images_seen": total * config.batch_size,
            "seconds": round(self.seconds, 1),
            "device": device_name(self.device),
            "precision": self.run.precision,
            "seed": config.seed,
            "train_eval_gap_nats": round(gap_before, 3),
            "train_eval_gap_nats_after_reestimation": round(gap_after, 3),
            "versions": {"fusionvae-model": __version__, "torch": torch.__version__},
            "dataset_digest": self.run.data["digest"],
            "dataset_source": self.run.data["source"],
            "dataset_stand_in": self.run.data["stand_in"],
            "train_config": config.to_dict(),
            "history": LOG_FILE,
        }
        self.model.save_pretrained(self.output, training=summary)
        return summary

    def finished_summary(self) -> dict[str, Any] | None:
        """Return the summary that :meth:`finish` wrote, if this run has come to its end before."""
        path = self.output / TRAINING_FILE
        summary = read_json(path) if path.exists() else {}
        return summary if summary.get("steps") == self.run.total_steps else None

    def save_checkpoint(self) -> None:
        """Write everything that decides how the run goes on; refuse once a number is no longer finite.

        The log looks for that now and then, so as not to wait for the device in every step; a checkpoint in between
        must not bury the last good one.
        """
        self._refuse_divergence(self.log.is_finite() and first_non_finite(self.model.state_dict()) is None)
        tensors = {f"spectral/{name}": tensor for name, tensor in self.spectral.state_dict().items()}
        tensors |= {f"log/{name}": tensor for name, tensor in self.log.sums.items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"adamax/{name}/{key}"] = value
        state = {"step": self.step, "seconds": self.seconds, "log": self.log.position}
        write_checkpoint(self.output, self.model, tensors, state)

    def load_checkpoint(self, folder: Path) -> None:
        """Continue from a checkpoint, bit for bit.

        Raises:
            FusionVAEError: If it is damaged.
        """
        weights, others, state = read_checkpoint(folder)
        parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in others.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = tensor
        parameters = dict(self.model.named_parameters())
        try:
            self.model.load_state_dict(weights)
            self.spectral.load_state_dict(parts["spectral"])
            self.optimizer.state.clear()
            for name, tensor in parts["adamax"].items():
                owner, _, key = name.rpartition("/")
                parameter = parameters[owner]
                # The step count stays on the CPU; averages take the layout of their parameter.
                value = tensor if key == "step" else torch.empty_like(parameter).copy_(tensor)
                self.optimizer.state[parameter][key] = value
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise FusionVAEError(f"{folder} holds tensors of another model ({reason}); remove it") from error
        self.log.go_on(state.get("log", {}), {name: t.to(self.device) for name, t in parts["log"].items()})
        self.step, self.seconds = state["step"], state["seconds"]

    def measure_step_seconds(self, *, seconds: float) -> float:
        """Return the time of a step, averaged over equal shares of each number of inputs, on a throw-away copy."""
        probe = copy.copy(self)
        probe.model = copy.deepcopy(self.model)
        probe.spectral = SpectralRegularizer(probe.model, generator=seeded_generator("probe", 0, 0)).to(self.device)
        probe.optimizer = torch.optim.Adamax(probe.model.parameters(), lr=0.0, foreach=True)
        kinds = self.run.train.max_inputs + 1

        def round_of_steps() -> None:
            for k in range(kinds):
                float(probe.train_step(self.batch(k, num_inputs=k), k)["loss"])

        round_of_steps()
        rounds, started = 0, time.monotonic()
        while rounds == 0 or time.monotonic() - started < seconds:
            round_of_steps()
            rounds += 1
        return (time.monotonic() - started) / (rounds * kinds)
