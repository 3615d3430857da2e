"""How much of its targets a split's inputs show."""

from typing import NamedTuple

import numpy as np

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.store import FusionDataset, blocks, opened


class Visibility(NamedTuple):
    """Shares of an image's pixels, 0 … 1.

    Arguments:
        mean: What an input shows of the target, on average.
        standard_deviation: Of that, over all inputs.
        together: What the inputs of a row show together, on average.
    """

    mean: float
    standard_deviation: float
    together: float

    def __str__(self) -> str:
        mean, deviation, together = (f"{100 * share:.1f}" for share in self)
        return f"{mean} ± {deviation} % of an image in each input, {together} % in all of a row together"


def visibility(data: FusionDataset) -> Visibility:
    """Measure what the frozen inputs of a split show, by its masks alone.

    Raises:
        FusionDatasetsError: If the split is `train`, whose inputs are rendered live, if it has no rows, or if the file
            is damaged.
    """
    if data.split == "train":
        raise FusionDatasetsError("the split 'train' has no frozen inputs, and so no masks of them")
    if not len(data):
        raise FusionDatasetsError(f"the split {data.split!r} has no rows, and so no inputs that could show anything")
    shares, together = [], []
    with opened(data.path) as file:
        for _, masks in blocks(file[f"{data.split}/masks"]):
            shares.append(masks.mean((2, 3)))
            together.append(masks.any(1).mean((1, 2)))
    each = np.concatenate(shares)
    return Visibility(float(each.mean()), float(each.std()), float(np.concatenate(together).mean()))
