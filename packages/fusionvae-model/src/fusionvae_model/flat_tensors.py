"""Many small tensors handled as one vector: a handful of kernels in place of hundreds."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor


class FlatTensors:
    """Named tensors of one type and device that become views of one vector, in row-major order.

    Whoever holds one of the tensors keeps it and may write to it, in place.

    Args:
        named: The tensors themselves.

    Attributes:
        values: The vector, ``[n]``.
    """

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        self.names = list(named)
        self.tensors = list(named.values())
        self.sizes = [tensor.numel() for tensor in self.tensors]
        self._ends = list(accumulate(self.sizes))
        self.values = torch.cat([tensor.detach().reshape(-1) for tensor in self.tensors])
        for tensor, part in zip(self.tensors, self.values.split(self.sizes), strict=True):
            tensor.data = part.view(tensor.shape)

    @classmethod
    def by_type(cls, named: Mapping[str, Tensor]) -> list[Self]:
        """Group tensors of several types."""
        groups: dict[torch.dtype, dict[str, Tensor]] = defaultdict(dict)
        for name, tensor in named.items():
            groups[tensor.dtype][name] = tensor
        return [cls(group) for group in groups.values()]

    def __len__(self) -> int:
        """Return the length of the vector."""
        return self._ends[-1]

    def gradient(self) -> Tensor:
        """Return all gradients, ``[n]``, zero where there is none."""
        return torch.cat(
            [
                tensor.new_zeros(size) if tensor.grad is None else tensor.grad.reshape(-1)
                for tensor, size in zip(self.tensors, self.sizes, strict=True)
            ]
        )

    def name_at(self, index: int) -> str:
        """Return the name of the tensor to which an entry of the vector belongs."""
        return self.names[bisect_right(self._ends, index)]
