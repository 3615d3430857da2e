"""The guard against numbers that are no longer finite: such a step leaves no trace, and somebody is told why."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fusionvae_model.flat_tensors import FlatTensors

MOST_CONSECUTIVE_SKIPS = 10
"""So many steps in a row may be skipped; then the training has diverged."""


@dataclass(frozen=True)
class Skip:
    """A step that was skipped: its number, counted from 1, and what was not finite."""

    step: int
    culprit: str


class StepGuard:
    """Judges each step on the device, undoes what a bad one did to the buffers, and reports later.

    Args:
        parameters: Whose gradients are watched.
        buffers: What a forward pass moves: batch statistics, singular vectors.
    """

    def __init__(self, parameters: FlatTensors, buffers: Mapping[str, Tensor]) -> None:
        self._parameters = parameters
        self._buffers = FlatTensors.by_type(buffers)
        self._before: list[Tensor] = []
        self._pending: list[tuple[int, list[str], Tensor]] = []
        self.consecutive = self.total = 0

    def remember(self) -> None:
        """Remember the buffers before the step's first pass."""
        self._before = [group.values.clone() for group in self._buffers]

    def restore(self) -> None:
        """Put the buffers back to what they were."""
        for group, before in zip(self._buffers, self._before, strict=True):
            group.values.copy_(before)

    def judge(self, step: int, terms: Mapping[str, Tensor], gradient: Tensor) -> Tensor:
        """Tell whether all is finite, and if it is not, undo what happened to the buffers; waits for nothing.

        Args:
            step: Counted from 1.
            terms: Terms of the loss by name, each ``[]``.
            gradient: Of all parameters, ``[n]``.

        Returns:
            Bool ``[]``, on the device.
        """
        values = torch.stack([*terms.values(), torch.linalg.vector_norm(gradient)])
        accept = values.isfinite().all()
        for group, before in zip(self._buffers, self._before, strict=True):
            group.values.copy_(torch.where(accept, group.values, before))
        worst = gradient.abs().argmax()  # a NaN counts as larger than all
        self._pending.append((step, list(terms), torch.cat((values.double(), worst[None].double()))))
        return accept

    def report(self) -> list[Skip]:
        """Return the steps skipped since the last report; waits for the device."""
        if not self._pending:
            return []
        skips = []
        rows = torch.stack([record for _, _, record in self._pending]).tolist()
        for (step, names, _), (*values, worst) in zip(self._pending, rows, strict=True):
            finite = torch.tensor(values).isfinite().tolist()
            self.consecutive = 0 if all(finite) else self.consecutive + 1
            if not all(finite):
                culprits = [name for name, is_finite in zip(names, finite, strict=False) if not is_finite]
                parameter = self._parameters.name_at(int(worst))
                skips.append(Skip(step, " and ".join(culprits) or f"the gradient of {parameter}"))
        self.total += len(skips)
        self._pending = []
        return skips
