"""One optimiser step, complete: passes, loss, gradient, guard, update. It never waits for the device."""

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fusionvae_model.adamax import Adamax, WeightAverage
from fusionvae_model.catalogue import build_model
from fusionvae_model.config import ModelConfig, TrainConfig
from fusionvae_model.data import Batch, seeded_generator
from fusionvae_model.device import compiled
from fusionvae_model.errors import FusionVAEError
from fusionvae_model.fusionvae import FusionVAE
from fusionvae_model.global_batch_norm import globalise_batch_norm
from fusionvae_model.guard import StepGuard
from fusionvae_model.initial_weights import with_revived_channels
from fusionvae_model.model import Bound, FusionModel
from fusionvae_model.muon import Muon
from fusionvae_model.noise import BatchNoise
from fusionvae_model.objective import (
    SpectralRegularizer,
    batch_norm_regularizer,
    beta,
    group_gamma,
    negative_elbo,
)
from fusionvae_model.processes import Processes
from fusionvae_model.run import Run
from fusionvae_model.weights_as_used import WeightsAsUsed

OPTIMIZERS = {"adamax": Adamax, "muon": Muon}
"""What moves the weights, by the name that configurations use (:data:`~fusionvae_model.config.OPTIMIZER_NAMES`)."""


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """Return the rate of a step: linear warm-up, then a cosine to the floor at the last step (Sec. 5.4, App. A).

    A run of one or two steps ends before it has come down.
    """
    warmup = config.warmup_fraction * total_steps
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1.0, total_steps - 1 - warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine


def build_seeded(config: ModelConfig, seed: int, device: torch.device | str) -> FusionModel:
    """Build an untrained model whose weights depend on the seed alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(config)
    return model.to(device)


class TrainingStep:
    """All that a step moves, and the step itself.

    Args:
        run: What to compute.
        device: Where.
        processes: Among whom each batch is shared.
        initial: Weights and batch statistics to start from instead of random ones.
    """

    def __init__(
        self,
        run: Run,
        device: torch.device,
        processes: Processes,
        initial: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.run, self.device, self.processes = run, device, processes
        config = run.train
        self.model = build_seeded(run.model, config.seed, device).train()
        if initial is not None:
            revives = config.revive_channels
            self.model.load_state_dict(with_revived_channels(self.model, initial) if revives else initial)
        self.model.recompute_activations(config.recompute_activations)
        if processes.count > 1:
            globalise_batch_norm(self.model)
        directions = seeded_generator("spectral", config.seed, 0)
        self.weights = WeightsAsUsed(self.model)
        self.spectral = SpectralRegularizer(self.weights.compute(), generator=directions).to(device)
        self.gamma = torch.tensor(group_gamma(run.model.latents_per_scale), device=device)
        self.optimizer = OPTIMIZERS[config.optimizer](
            dict(self.model.named_parameters()), eps=config.adamax_eps, weight_decay=config.weight_decay
        )
        self.parameters = self.optimizer.parameters
        self.average = WeightAverage(self.parameters, decay=config.ema) if config.ema else None
        buffers = [*self.model.named_buffers(), *self.spectral.named_buffers(prefix="spectral")]
        self.guard = StepGuard(self.parameters, dict(buffers))
        self.latent_shapes = run.model.latent_shapes
        self.group_sizes = [math.prod(shape) for shape in self.latent_shapes]
        self._forward = compiled(self.model, device) if run.compile else self.model

    def take(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Take the step of this number, counted from 0, unless it has come out non-finite.

        Args:
            batch: The whole batch; each process picks its shares.
            step: Decides the schedules and the noise.

        Returns:
            What the log wants, on the device; zero, and ``accepted`` as well, where the step was skipped.
        """
        config = self.run.train
        shares = self.processes.shares(len(batch.target), self.run.accumulate)
        self.optimizer.learning_rate.fill_(learning_rate(step, self.run.total_steps, config))
        self.optimizer.zero_grad()
        self.guard.remember()
        if self.run.compile:
            torch.compiler.cudagraph_mark_step_begin()  # what the last step's graphs returned is no longer needed
        mean_kl = self._kl_of_all_passes(batch, step, shares)
        seen, spread = [], []
        penalty = torch.zeros((), device=self.device)
        for rows in shares:
            with self._weights() as weights:
                bound, moments = self._bound(batch, step, rows)
                sides = torch.stack((bound.nats.detach().mean(), -bound.log_likelihood.detach().mean()))
                means = torch.cat((sides, bound.kl.detach().mean(dim=0)))
                if mean_kl is None:
                    means = self.processes.mean(means)
                loss = negative_elbo(
                    bound, self.gamma, beta=self.beta(step), mean_kl=means[2:] if mean_kl is None else mean_kl
                )
                best = self._best_of_prior(batch, step, rows)
                loss = loss - config.prior_weight * best
                seen.append(torch.cat((torch.stack((loss.detach(), best.detach())), means)))
                spread.append(moments)
                loss = loss / len(shares)
                if rows is shares[-1]:
                    penalty = config.regularization * (self.spectral(weights) + batch_norm_regularizer(self.model))
                    loss = loss + penalty
                loss.backward()
        gradient = self.processes.mean(self.parameters.gradient())
        loss, best, nats, reconstruction, *kl = self.processes.mean(torch.stack(seen).mean(dim=0)).unbind()
        means, mean_squares = self.processes.mean(torch.stack(spread).mean(dim=0))
        terms = {"the reconstruction": reconstruction}
        terms |= {f"the KL of group {l}": value for l, value in enumerate(kl, start=1)}
        terms |= {"the best draw from the prior": best}
        accept = self.guard.judge(step + 1, terms | {"the regulariser": penalty.detach()}, gradient)
        self.optimizer.step(gradient, accept)
        if self.average is not None:
            self.average.update(step, accept)
        values = {
            "loss": loss + penalty.detach(),
            "reconstruction_nats": reconstruction,
            "kl_per_group": torch.stack(kl) if kl else self.gamma[:0],
            "gradient_norm": torch.linalg.vector_norm(gradient),
            "posterior_variance": (mean_squares - means.square()).clamp(min=0),
            "accepted": torch.ones_like(loss),
        }
        if config.importance_samples > 1:
            values["importance_bound_nats"] = nats
        if config.prior_draws:
            values["best_of_prior_nats"] = best
        return {name: torch.where(accept, value, 0.0) for name, value in values.items()}

    def beta(self, step: int) -> float:
        """Return ``β`` of a step."""
        config = self.run.train
        return beta(step, self.run.total_steps, fraction=config.beta_fraction, floor=config.beta_floor)

    def tensors(self) -> dict[str, Tensor]:
        """Return what, besides the model, decides how training goes on."""
        tensors = {f"spectral/{name}": tensor for name, tensor in self.spectral.state_dict().items()}
        tensors |= {f"adamax/{name}": tensor for name, tensor in self.optimizer.state.items()}
        if self.average is not None:
            tensors |= {f"ema/{name}": tensor for name, tensor in self.average.state.items()}
        return tensors

    def load(self, weights: Mapping[str, Tensor], parts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on from a model's tensors and from those of :meth:`tensors`, grouped by what stands before the slash.

        Raises:
            KeyError: If one is missing.
            RuntimeError: If one has another shape.
        """
        self.model.load_state_dict(weights)
        self.spectral.load_state_dict(parts["spectral"])
        self.optimizer.load_state(parts["adamax"])
        if self.average is not None:
            self.average.state["weights"].copy_(parts["ema"]["weights"])

    def _bound(self, batch: Batch, step: int, rows: slice) -> tuple[Bound, Tensor]:
        """Return the bound of some rows, and mean and mean square of their posterior means, ``[2, latents]``."""
        generator = seeded_generator("latents", self.run.train.seed, step, device=self.device)
        options = self._pass_options(step)
        noise = BatchNoise(
            generator,
            batch_size=len(batch.target),
            rows=rows,
            num_samples=options.get("num_samples", 1),
            shapes=self.latent_shapes,
        )
        # Passes without gradient are few; compiling for them as well would not pay.
        forward = self._forward if torch.is_grad_enabled() else self.model
        with self._autocast():
            try:
                bound = forward(batch.target[rows], batch.inputs[rows], generator=noise, **options)
            except RuntimeError as error:
                if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                    raise
                raise FusionVAEError(
                    f"the model's code could not be compiled ({' '.join(str(error).split())[:200]}); empty PyTorch's "
                    "folder of compiled code (TORCHINDUCTOR_CACHE_DIR), or leave out --compile"
                ) from error
        return bound, torch.cat([self.gamma.new_zeros(2, 0), *noise.moments], dim=1)

    def _best_of_prior(self, batch: Batch, step: int, rows: slice) -> Tensor:
        """Return ``log p(y | z)`` of the best of the prior's draws, the mean over some rows; 0 where none is drawn."""
        config = self.run.train
        if not config.prior_draws:
            return torch.zeros((), device=self.device)
        choice = seeded_generator("number of inputs", config.seed, step)
        num_inputs = int(torch.randint(1, config.max_inputs + 1, (), generator=choice))
        noise = BatchNoise(
            seeded_generator("prior draws", config.seed, step, device=self.device),
            batch_size=len(batch.target),
            rows=rows,
            num_samples=config.prior_draws,
        )
        assert isinstance(self.model, FusionVAE)
        with self._autocast():
            best = self.model.best_of_prior(
                batch.target[rows], batch.inputs[rows, :num_inputs], num_draws=config.prior_draws, generator=noise
            )
        return best.mean()

    def _autocast(self) -> AbstractContextManager[Any]:
        # Weights that best_of_prior casts without a gradient must not be found by the pass with one.
        return torch.autocast(
            self.device.type,
            torch.bfloat16,
            enabled=self.run.precision == "bf16",
            cache_enabled=not self.run.train.prior_draws,
        )

    def _pass_options(self, step: int) -> dict[str, Any]:
        """Return what a pass is asked for beyond the paper's: nothing, unless the configuration does."""
        config = self.run.train
        options: dict[str, Any] = {}
        if config.every_k:
            options["num_inputs"] = tuple(range(config.max_inputs + 1))
        if config.importance_samples > 1 and self.beta(step) >= 1:
            options["num_samples"] = config.importance_samples
        return options

    def _weights(self) -> AbstractContextManager[list[Tensor]]:
        """Compute all weights at once; compiled code computes those of its convolutions by itself, fused."""
        return nullcontext(self.weights.compute()) if self.run.compile else self.weights.in_place()

    def _kl_of_all_passes(self, batch: Batch, step: int, shares: list[slice]) -> Tensor | None:
        """Return the KL that balances the groups where several passes make up a batch, ``[L]``; else nothing.

        ``α_l`` of Eq. (8) comes from the whole batch and is needed before the first pass's gradient, so the batch is
        seen once without one.
        """
        if len(shares) == 1 or self.beta(step) >= 1:
            return None
        with torch.no_grad(), self._weights():
            kl = torch.stack([self._bound(batch, step, rows)[0].kl.mean(dim=0) for rows in shares]).mean(dim=0)
        self.guard.restore()
        return self.processes.mean(kl)
