"""A data set in memory and a model without training, for tests of what surrounds them."""

import os
import signal
import time
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

from fusion_datasets.corruptions import RenderedExample


@dataclass
class MemoryData:
    """Rows of random bytes with what `evaluate` asks of a FusionDataset."""

    rows: int = 50
    size: int = 6
    is_stand_in: bool = False
    split: str = "test"
    digest: str = "d" * 64
    benchmark: str = "fusion-mnist"
    source: dict = field(default_factory=lambda: {"name": "random bytes"})
    order: np.ndarray | None = None

    def __post_init__(self):
        self.shape = (self.size, self.size, 1)
        self.spec = SimpleNamespace(nll_size=self.size - 2, num_dims=(self.size - 2) ** 2, title="FusionMNIST")
        generator = np.random.default_rng(0)
        self.target = generator.integers(0, 256, (self.rows, *self.shape), np.uint8)
        self.inputs = generator.integers(0, 256, (self.rows, 8, *self.shape), np.uint8)
        self.masks = generator.random((self.rows, 3, self.size, self.size)) < 0.4

    def __len__(self):
        return self.rows

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read(self, start, stop):
        rows = np.arange(start, stop)
        return SimpleNamespace(
            target=self.target[rows], inputs=self.inputs[rows, :3], masks=self.masks[rows], index=rows, label=rows % 10
        )

    def render(self, row, num_inputs):
        beyond = np.flip(self.masks[row], axis=1)[np.arange(num_inputs) % 3]
        masks = np.concatenate((self.masks[row], beyond))[:num_inputs]
        return RenderedExample(self.target[row], self.inputs[row, :num_inputs], masks)


class Config:
    def __init__(self, **values):
        self.values = values

    def to_dict(self):
        return self.values


class Toy(nn.Module):
    """Bernoulli pixels around a blend of a latent grey level and the inputs' mean; q is a wide Gaussian at y's mean."""

    def __init__(self, size: int = 6, nll_size: int = 4):
        super().__init__()
        self.size = size
        self.level = nn.Parameter(torch.tensor(0.1))
        self.config = Config(kind="fusionvae", nll_size=nll_size, likelihood="bernoulli")
        self.seen = 0

    def _mean(self, z: Tensor, shape) -> Tensor:
        ramp = torch.linspace(-1, 1, shape[-1]).expand(shape)
        return torch.sigmoid(self.level + z[..., None, None, None] * (0.5 + ramp))

    def log_importance_weights(self, target, inputs, *, num_samples, num_inputs=None, generator=None):
        self.seen += len(target)
        if os.environ.get("TOY_DIES_AFTER") and self.seen > int(os.environ["TOY_DIES_AFTER"]):
            os.kill(os.getpid(), 9)
        z = torch.randn(len(target), num_samples, generator=generator)
        logits = torch.logit(self._mean(z, target.shape[1:]))
        grey = (target[:, None] * logits - nn.functional.softplus(logits))[..., 1:-1, 1:-1].sum((2, 3, 4))
        counts = (inputs.shape[1],) if num_inputs is None else num_inputs
        centres = [inputs[:, :k].mean((1, 2, 3, 4)) if k else torch.zeros(len(target)) for k in counts]
        priors = [0.5 * z.square() - 0.5 * (z - centre[:, None]).square() for centre in centres]
        weights = torch.stack([grey + prior for prior in priors], 1)
        return weights[:, 0] if num_inputs is None else weights

    def sample(self, inputs=None, *, num_samples=1, batch_size=None, temperature=1.0, generator=None):
        count = batch_size if inputs is None else len(inputs)
        size = self.size if inputs is None else inputs.shape[-1]
        z = temperature * torch.randn(count, num_samples, generator=generator)
        if inputs is not None and inputs.shape[1]:
            z = z * 0.3 + inputs.mean((1, 2, 3, 4))[:, None]
        return self._mean(z, (1, size, size))


def toy() -> Toy:
    return Toy(size=32, nll_size=28)


class Faltering(Toy):
    """The first process to ask for its likelihood fails as ``TOY_FAILURE`` says; any other one takes ten minutes."""

    def log_importance_weights(self, *args, num_inputs, **kwargs):
        try:
            os.close(os.open(os.environ["TOY_FAILED"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            time.sleep(600)
        if os.environ["TOY_FAILURE"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().log_importance_weights(*args, num_inputs=num_inputs, **kwargs) * torch.nan


class Multiplying:
    """Its weights and images are products of matrices; it remembers of which type they were."""

    def __init__(self):
        self.types = []

    def product(self, count):
        values = torch.full((count, 8), 1 / 3) @ torch.full((8, 1), 1 / 7)
        self.types.append(values.dtype)
        return values

    def log_importance_weights(self, target, inputs, *, num_samples, generator=None):
        return self.product(len(target) * num_samples).view(len(target), num_samples)

    def sample(self, inputs, *, num_samples, generator=None):
        shape = (len(inputs), num_samples, 1, 1, 1)
        return self.product(len(inputs) * num_samples).view(shape).expand(*shape[:3], *inputs.shape[-2:])
