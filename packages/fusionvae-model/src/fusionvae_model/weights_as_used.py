"""The weights of a model's convolutions as they are used, normalised for all of one shape at once."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fusionvae_model.layers import WeightNormConv2d, norm_gain


class WeightsAsUsed:
    """The convolutions of a model by kind and shape, and their weights in a handful of operations.

    Normalised one by one, a hundred small weights cost as many operations as the network itself, and once more each
    in the backward pass.

    Args:
        model: Its convolutions are found once.

    Attributes:
        alike: Convolutions of one kind whose weights have one shape once flattened.
    """

    def __init__(self, model: nn.Module) -> None:
        alike: dict[tuple[type[nn.Module], int, int], list[WeightNormConv2d | nn.Conv2d]] = defaultdict(list)
        for module in model.modules():
            if isinstance(module, WeightNormConv2d | nn.Conv2d):
                alike[type(module), len(module.weight), module.weight[0].numel()].append(module)
        self.alike = list(alike.values())

    def compute(self) -> list[Tensor]:
        """Return for each of :attr:`alike` the weights ``[n, out, in·height·width]``, differentiably."""
        return [_weights(convolutions) for convolutions in self.alike]

    @contextmanager
    def in_place(self) -> Iterator[list[Tensor]]:
        """Let the convolutions use weights that are computed once, here, until the gradient has been taken.

        They lie in memory with channels last, and so do the features that come of them.

        Yields:
            What :meth:`compute` returns.
        """
        stacks = self.compute()
        normalised = [
            (convolution, weight)
            for convolutions, weights in zip(self.alike, stacks, strict=True)
            if isinstance(convolutions[0], WeightNormConv2d)
            for convolution, weight in zip(convolutions, _filters(weights, convolutions[0]), strict=True)
        ]
        try:
            for convolution, weight in normalised:
                assert isinstance(convolution, WeightNormConv2d)
                convolution.computed_weight = weight
            yield stacks
        finally:
            for convolution, _ in normalised:
                convolution.computed_weight = None


def _weights(convolutions: list[WeightNormConv2d | nn.Conv2d]) -> Tensor:
    weights = torch.stack([convolution.weight.flatten(1) for convolution in convolutions])
    log_norms: list[Tensor] = [
        convolution.log_norm for convolution in convolutions if isinstance(convolution, WeightNormConv2d)
    ]
    if log_norms:
        weights = weights * norm_gain(weights, torch.stack(log_norms)[..., None], dims=(2,))
    return weights


def _filters(weights: Tensor, convolution: WeightNormConv2d) -> Sequence[Tensor]:
    """Return each of the weights ``[n, out, in·height·width]`` in the shape of the convolution's own."""
    out_channels, in_channels, height, width = convolution.weight.shape
    # Not contiguous(): it leaves 1×1 filters and those of grey images as they are, and what follows them loses the
    # layout.
    filters = weights.view(-1, in_channels, height, width).to(memory_format=torch.channels_last)
    return filters.split(out_channels)
