"""Many small tensors handled as one vector: a handful of kernels in place of hundreds."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from itertools import accumulate
from typing import Self

import torch
from torch import Tensor


class FlatTensors:
    """Named tensors of one type and device, read and written as one vector, in logical (row-major) order.

    Args:
        named: The tensors themselves; they are never replaced, only written to.
    """

    def __init__(self, named: Mapping[str, Tensor]) -> None:
        self.names = list(named)
        self.tensors = list(named.values())
        self.sizes = [tensor.numel() for tensor in self.tensors]
        self._ends = list(accumulate(self.sizes))

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

    def read(self) -> Tensor:
        """Return a copy of all values, ``[n]``."""
        return torch.cat([tensor.detach().reshape(-1) for tensor in self.tensors])

    def gradient(self) -> Tensor:
        """Return all gradients, ``[n]``, zero where there is none."""
        return torch.cat(
            [
                tensor.new_zeros(size) if tensor.grad is None else tensor.grad.reshape(-1)
                for tensor, size in zip(self.tensors, self.sizes, strict=True)
            ]
        )

    @torch.no_grad()
    def write(self, values: Tensor) -> None:
        """Replace all values by ``[n]`` others."""
        torch._foreach_copy_(self.tensors, self._views(values))

    @torch.no_grad()
    def subtract(self, values: Tensor) -> None:
        """Subtract ``[n]`` values."""
        torch._foreach_sub_(self.tensors, self._views(values))

    def name_at(self, index: int) -> str:
        """Return the name of the tensor to which an entry of the vector belongs."""
        return self.names[bisect_right(self._ends, index)]

    def _views(self, values: Tensor) -> list[Tensor]:
        parts = values.split(self.sizes)
        return [part.view(tensor.shape) for part, tensor in zip(parts, self.tensors, strict=True)]
