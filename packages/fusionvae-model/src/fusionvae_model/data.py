"""From a FusionDataset to batches on the device: the only place that knows ``fusion_datasets``."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusionvae_model.config import PRESETS, ModelConfig
from fusionvae_model.errors import FusionVAEError

try:
    from fusion_datasets import BenchmarkSpec, FusionDataset, FusionDatasetsError
    from fusion_datasets.torch import occluder_pool, render_inputs, render_targets
except ImportError as error:  # the light core does without
    raise FusionVAEError(
        "training needs the package fusion-datasets with its extra torch; install it, in a checkout of this project "
        "by: pip install 'packages/fusion-datasets[torch]'"
    ) from error

ROWS_AT_ONCE = 1000
HELD_OUT_AT_ONCE = 100


def _remedy(shape: tuple[int, int, int], config: ModelConfig) -> str:
    """What to do so that a model takes images of a shape ``(c, h, w)``."""
    channels, height, width = shape
    if height != width or height % (1 << config.halvings):
        return f"build the data with a side that is a multiple of {1 << config.halvings} pixels"
    fitting = [
        name
        for name, preset in PRESETS.items()
        if (preset.model.channels, preset.model.image_size, preset.model.image_size) == shape
    ]
    preset = f"take the preset {' or '.join(fitting)}, or " if fitting else ""
    settings: dict[str, int | str] = {"image_size": height, "nll_size": height, "channels": channels}
    if channels > config.channels:
        settings["likelihood"] = "logistic-mixture"
    return f"{preset}add {' '.join(f'--set {name}={value}' for name, value in settings.items())}"


@dataclass(frozen=True)
class Batch:
    """One training step's images: target ``[b, c, h, w]`` and inputs ``[b, k, c, h, w]``, both in [0, 1]."""

    target: Tensor
    inputs: Tensor


class TrainingSet:
    """All training targets of a benchmark in the device's memory, with inputs rendered live.

    What a step sees depends on (seed, step) alone, so a resumed run sees what an uninterrupted one would.

    Args:
        path: HDF5 file that ``fusion-datasets build`` wrote, or ``hf://owner/name@revision``, fetched once.
        device: Where the batches are made.
        seed: Of order, number of inputs and rendering.
        channels: Of the model: 1 turns stored colours to grey; None takes what the benchmark is usually seen in.
        hold_out: So many of the targets, the same ones for every seed, are in no batch but in
            :meth:`held_out_batches`.

    Raises:
        FusionVAEError: If the file cannot be read, holds no training split, or all of it would be held out.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        seed: int,
        channels: int | None = None,
        hold_out: int = 0,
    ) -> None:
        try:
            with FusionDataset(path, split="train", grey=None if channels is None else channels == 1) as data:
                parts = [data.read(at, min(at + ROWS_AT_ONCE, len(data))) for at in range(0, len(data), ROWS_AT_ONCE)]
                targets = torch.from_numpy(np.concatenate([part.target for part in parts]))
                pool = list(data.occluder_blocks())
                self.occluders = occluder_pool(pool, grey=data.grey, device=device) if pool else None
                self.shape = data.shape
                self.spec: BenchmarkSpec = data.spec
                self.description: dict[str, Any] = {
                    "benchmark": data.benchmark,
                    "digest": data.digest,
                    "source": dict(data.source),
                    "stand_in": data.is_stand_in,
                    "seed": data.seed,
                }
        except FusionDatasetsError as error:
            raise FusionVAEError(str(error)) from error
        if hold_out >= len(targets):
            raise FusionVAEError(
                f"{hold_out} of {len(targets)} training images were to be held out; choose less, so that some are left"
            )
        targets = targets.permute(0, 3, 1, 2).contiguous()
        held_out = targets[:0]
        if hold_out:  # else one copy of all, which may be gigabytes, is enough
            chosen = torch.zeros(len(targets), dtype=torch.bool)
            chosen[torch.randperm(len(targets), generator=seeded_generator("held out", 0, 0))[:hold_out]] = True
            targets, held_out = targets[~chosen], targets[chosen]
        self.targets, self.held_out = targets.to(device), held_out.to(device)
        self.seed = seed
        self._epoch, self._epoch_order = -1, torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        """Return the number of targets that are trained on."""
        return len(self.targets)

    def check_fits(self, config: ModelConfig) -> None:
        """Raise :class:`FusionVAEError` unless the images have the model's size and channels and are all it needs."""
        height, width, channels = self.shape
        got, expected = (channels, height, width), (config.channels, config.image_size, config.image_size)
        if got != expected:
            raise FusionVAEError(
                f"the data has images of shape {list(got)}; the model expects {list(expected)}: {_remedy(got, config)}"
            )
        if config.modalities:
            raise FusionVAEError(
                f"the model expects further modalities of {', '.join(map(str, config.modalities))} channels, which no "
                "benchmark file holds; train it from Python: model.elbo(target, inputs, others=[…])"
            )

    def batch(self, step: int, batch_size: int, *, max_inputs: int, num_inputs: int | None = None) -> Batch:
        """Return the batch of a step.

        Args:
            step: Counted from 0 over the whole training.
            batch_size: ``b``; each epoch's order is drawn anew and its incomplete last batch dropped.
            max_inputs: ``k`` is uniform on ``0…max_inputs``, one for the batch.
            num_inputs: A fixed ``k`` instead.
        """
        epoch, position = divmod(step, self.steps_per_epoch(batch_size))
        rows = self._order(epoch)[position * batch_size : (position + 1) * batch_size]
        if num_inputs is None:
            choice = seeded_generator("number of inputs", self.seed, step)
            num_inputs = int(torch.randint(0, max_inputs + 1, (), generator=choice))
        generator = seeded_generator("rendering", self.seed, step, device=self.targets.device)
        return self._rendered(self.targets[rows], num_inputs, generator)

    def held_out_batches(self, *, max_inputs: int) -> Iterator[Batch]:
        """Yield the images held out, with ``max_inputs`` inputs; the same batches each time, whatever the seed."""
        for index, rows in enumerate(self.held_out.split(HELD_OUT_AT_ONCE)):
            generator = seeded_generator("held-out rendering", 0, index, device=rows.device)
            yield self._rendered(rows, max_inputs, generator)

    def _rendered(self, stored: Tensor, num_inputs: int, generator: torch.Generator) -> Batch:
        target = render_targets(stored.float() / 255, self.spec, generator=generator)
        inputs = render_inputs(target, num_inputs, self.spec, generator=generator, occluders=self.occluders).inputs
        return Batch(target, inputs)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Return the number of complete batches in one pass.

        Raises:
            FusionVAEError: If there is not even one.
        """
        if batch_size > len(self):
            raise FusionVAEError(
                f"the batch size is {batch_size} but the data has only {len(self)} training images; choose less"
            )
        return len(self) // batch_size

    def _order(self, epoch: int) -> Tensor:
        if self._epoch != epoch:
            order = torch.randperm(len(self), generator=seeded_generator("order", self.seed, epoch))
            self._epoch, self._epoch_order = epoch, order.to(self.targets.device)
        return self._epoch_order


def seeded_generator(purpose: str, seed: int, index: int, *, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator whose stream depends on purpose, seed and index alone."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{index}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
