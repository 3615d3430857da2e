"""Digits being fused: what a model makes of the same rows with 0, 1, 2, … inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from fusionvae_bench.metrics import DrawStream
from fusionvae_bench.protocol import SamplingModel, draw
from fusionvae_bench.scoring import images_from_batch

if TYPE_CHECKING:
    from fusion_datasets import FusionDataset

Image = NDArray[np.float64]  # [h, w, c] in [0, 1]


@dataclass(frozen=True)
class Fusion:
    """One row of the data set, fused from its first k inputs.

    Attributes:
        num_inputs: k.
        inputs: the k inputs.
        target: the truth.
        hypotheses: a few draws.
        mean: average of all draws.
        uncertainty: per-pixel standard deviation of all draws.
        error: per-pixel distance of ``mean`` from ``target``.
    """

    num_inputs: int
    inputs: tuple[Image, ...]
    target: Image
    hypotheses: tuple[Image, ...]
    mean: Image
    uncertainty: Image
    error: Image


@dataclass(frozen=True)
class Gallery:
    """Pictures of one model on one data set.

    Attributes:
        rows: for each chosen row of the data set, its fusions for 0, 1, 2, … inputs.
        unconditional: [n, h, w, c] draws without any input.
        num_samples: draws behind each mean and uncertainty.
    """

    rows: tuple[tuple[Fusion, ...], ...]
    unconditional: Image
    num_samples: int


@torch.no_grad()
def make_gallery(
    model: SamplingModel,
    data: FusionDataset,
    *,
    num_rows: int = 3,
    num_inputs: Sequence[int] = (0, 1, 2, 3),
    num_hypotheses: int = 5,
    num_samples: int = 64,
    num_unconditional: int = 48,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Gallery:
    """Fuse the first rows of different classes (not hand-picked) for each number of inputs.

    Args:
        model: offers `sample`.
        data: an evaluation split.
        num_rows: how many rows.
        num_inputs: numbers of inputs.
        num_hypotheses: draws shown.
        num_samples: draws behind mean and uncertainty.
        num_unconditional: draws without inputs.
        seed: of all randomness.
        device: where the model lives.
    """
    where = torch.device(device)
    generator = torch.Generator(where).manual_seed(seed)
    fused = []
    for row in _rows_of_different_classes(data, num_rows):
        target, inputs, masks = images_from_batch(data.read(row, row + 1), where)
        fusions = []
        for k in num_inputs:
            stream = DrawStream(target)
            shown = None if masks is None else masks[:, :k]
            samples = draw(model, inputs[:, :k], num_samples=num_samples, generator=generator, masks=shown)
            stream.update(samples)
            errors = stream.errors()
            fusions.append(
                Fusion(
                    num_inputs=k,
                    inputs=tuple(_picture(image) for image in inputs[0, :k]),
                    target=_picture(target[0]),
                    hypotheses=tuple(_picture(image) for image in samples[0, :num_hypotheses]),
                    mean=_picture(errors.mean[0]),
                    uncertainty=_picture(errors.standard_deviation[0]),
                    error=_picture((errors.mean - target)[0].abs()),
                )
            )
        fused.append(tuple(fusions))
    empty = inputs[:, :0]
    nothing = None if masks is None else masks[:, :0]
    prior = draw(model, empty, num_samples=num_unconditional, generator=generator, masks=nothing)[0]
    return Gallery(tuple(fused), np.stack([_picture(image) for image in prior]), num_samples)


def _rows_of_different_classes(data: FusionDataset, count: int) -> list[int]:
    head = data.read(0, min(len(data), 10 * count))
    if head.label is None:
        return list(range(min(count, len(data))))
    _, first = np.unique(head.label, return_index=True)
    return sorted(int(row) for row in first)[:count]


def _picture(image: Any) -> Image:
    picture: Image = image.permute(1, 2, 0).double().cpu().numpy()
    return picture
