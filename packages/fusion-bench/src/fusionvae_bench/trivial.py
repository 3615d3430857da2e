"""The baselines that everyone asks for first: no network, no training, one answer.

All know where the inputs show the target, which the models of the paper have to find out.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from fusion_datasets import FusionDataset
from fusionvae_bench.errors import DataError, ModelError

PREFIX = "trivial:"
_MOST_TRAINING_PIXELS = 1 << 28
"""Pixels of the training images kept for the search, 1 GiB of floats: all of FusionMNIST's and FusionT-LESS's."""
_IMAGES_PER_PRODUCT = 2048  # what fits into a cache beside its squares


class _Trivial:
    """One deterministic image for each set of inputs.

    Args:
        kind: name of the row in the report.
    """

    deterministic = True

    def __init__(self, kind: str) -> None:
        self.config = _TrivialConfig(kind)
        self.num_parameters = 0

    def fuse(self, inputs: Tensor, masks: Tensor) -> Tensor:
        """Return [b, c, h, w] for inputs [b, k, c, h, w] and masks [b, k, h, w]."""
        raise NotImplementedError

    def sample(
        self, inputs: Tensor, *, num_samples: int, masks: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the same image ``num_samples`` times, [b, S, c, h, w]."""
        return self.fuse(inputs, masks)[:, None].expand(-1, num_samples, -1, -1, -1)


class _TrivialConfig:
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind}


class TrainingMean(_Trivial):
    """The average training image, whatever the inputs.

    Args:
        mean: [c, h, w] in [0, 1].
    """

    def __init__(self, mean: Tensor) -> None:
        super().__init__("training-mean")
        self.mean = mean

    def fuse(self, inputs: Tensor, masks: Tensor) -> Tensor:
        """Return the mean for every image."""
        return self.mean.to(inputs.device).expand(len(inputs), -1, -1, -1)


class VisibleMerge(_Trivial):
    """Each pixel is the average over the inputs that show it, or the training mean where none does.

    Args:
        mean: [c, h, w] in [0, 1].
    """

    def __init__(self, mean: Tensor) -> None:
        super().__init__("visible-merge")
        self.mean = mean

    def fuse(self, inputs: Tensor, masks: Tensor) -> Tensor:
        """Merge what is visible."""
        shown, count = visible_sum(inputs, masks)
        return torch.where(count > 0, shown / count.clamp(min=1), self.mean.to(inputs.device))


class NearestImage(_Trivial):
    """The training image that differs least from the inputs over the pixels that they show.

    Without inputs, the one that differs least from the training mean.

    Args:
        images: [n, c, h, w] in [0, 1].
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__("nearest-image")
        self.images = images
        self.mean = images.mean(0)

    def fuse(self, inputs: Tensor, masks: Tensor) -> Tensor:
        """Find the nearest ``argmin_t Σ_i Σ_visible (x_i − t)²``: two matrix products, as Σ x² does not matter."""
        images = self.images.to(inputs.device)
        if inputs.shape[1]:
            shown, count = visible_sum(inputs, masks)
            count = count.expand_as(shown)
        else:
            shown = self.mean.to(inputs.device).expand(len(inputs), -1, -1, -1)
            count = torch.ones_like(shown)
        distances = [
            count.flatten(1) @ chunk.square().T - 2 * shown.flatten(1) @ chunk.T
            for chunk in images.flatten(1).split(_IMAGES_PER_PRODUCT)
        ]
        return images[torch.cat(distances, 1).argmin(1)]


def visible_sum(inputs: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Add up what the inputs show.

    Args:
        inputs: [b, k, c, h, w] in [0, 1], k ≥ 0.
        masks: bool [b, k, h, w].

    Returns:
        The sum over the inputs that show a pixel, [b, c, h, w], and their number, [b, 1, h, w].
    """
    return (inputs * masks[:, :, None]).sum(1), masks.sum(1, dtype=inputs.dtype)[:, None]


TRIVIAL: MappingProxyType[str, Callable[[Tensor], _Trivial]] = MappingProxyType(
    {
        "merge": lambda images: VisibleMerge(images.mean(0)),
        "mean": lambda images: TrainingMean(images.mean(0)),
        "nearest": NearestImage,
    }
)
"""Name after `PREFIX` → baseline from training images [n, c, h, w]."""


def build_trivial(name: str, data: FusionDataset) -> _Trivial:
    """Build a trivial baseline from the training images of a file.

    Args:
        name: such as ``"trivial:merge"``.
        data: any split of the file.

    Raises:
        ModelError: if there is no such baseline.
        DataError: if the file holds no training images.
    """
    if (make := TRIVIAL.get(name.removeprefix(PREFIX))) is None:
        known = ", ".join(PREFIX + key for key in TRIVIAL)
        raise ModelError(f"there is no baseline {name!r}; expected one of {known}")
    return make(training_images(data))


def training_images(data: FusionDataset) -> Tensor:
    """Read training images at the size of the evaluation rows, floats in [0, 1], as many as 1 GiB holds.

    Args:
        data: any split of the file.

    Returns:
        [n, c, h, w].
    """
    if "train" not in data.splits:
        raise DataError(f"{data.path} holds no training images, which the trivial baselines are made of")
    height, width, channels = data.shape
    with FusionDataset(data.path, "train", grey=data.grey) as train:
        count = min(len(train), _MOST_TRAINING_PIXELS // (height * width * channels))
        blocks = [_at_size(train.read(at, min(at + 1024, count)).target, height) for at in range(0, count, 1024)]
    return torch.cat(blocks)


def _at_size(target: np.ndarray[Any, Any], height: int) -> Tensor:
    """Turn bytes [n, H, W, c] into floats [n, c, h, w]; larger images are averaged over areas."""
    images = torch.from_numpy(target).permute(0, 3, 1, 2).float().div(255)
    return avg_pool2d(images, images.shape[-2] // height) if images.shape[-2] > height else images.contiguous()
