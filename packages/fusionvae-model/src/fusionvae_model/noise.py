"""The noise of a batch's latents, the same however the batch is cut among processes and passes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fusionvae_model.errors import FusionVAEError

NoiseSource = torch.Generator | Callable[[Tensor], Tensor]
"""A generator, or a function from the means of one group (``[b, m, h, w]``) to standard normal noise of their shape."""


def standard_normal(mean: Tensor, source: NoiseSource | None) -> Tensor:
    """Return standard normal noise of the shape, type and device of the means ``[b, m, h, w]``.

    Raises:
        FusionVAEError: If the source is none.
    """
    if source is None or isinstance(source, torch.Generator):
        return torch.randn(mean.shape, generator=source, device=mean.device, dtype=mean.dtype)
    if not callable(source):
        raise FusionVAEError(
            f"got {source!r:.60} as generator; expected a torch.Generator, which torch.Generator().manual_seed(…) "
            "makes of a seed, or None"
        )
    return source(mean)


class BatchNoise:
    """A :data:`NoiseSource` that draws for a whole batch and hands out the rows of one share of it.

    It also notes how much the means differ among its rows, from which latents in use can be told.

    Args:
        generator: Source of randomness; every share starts from an equal one.
        batch_size: Rows of the whole batch.
        rows: Those of this share.
        num_samples: Draws for each row, side by side.
        shapes: ``(m, h_l, w_l)`` of the groups in the order in which they will ask, to draw for all of them at once
            beforehand, as compiled code needs it.
    """

    def __init__(
        self,
        generator: torch.Generator,
        *,
        batch_size: int,
        rows: slice,
        num_samples: int = 1,
        shapes: Sequence[Sequence[int]] = (),
    ) -> None:
        self._generator = generator
        self._batch_size = batch_size * num_samples
        self._rows = slice(rows.start * num_samples, rows.stop * num_samples)
        self.moments: list[Tensor] = []
        self._drawn = [self._draw(shape) for shape in shapes]

    def __call__(self, mean: Tensor) -> Tensor:
        """Return the rows' noise for the next group, ``[b · num_samples, m, h, w]``."""
        drawn = self._drawn[len(self.moments)] if self._drawn else self._draw(mean.shape[1:])
        means = mean.detach().float()
        self.moments.append(torch.stack((means.mean(dim=0), means.square().mean(dim=0))).flatten(1))
        return drawn

    def _draw(self, shape: Sequence[int]) -> Tensor:
        device = self._generator.device
        return torch.randn((self._batch_size, *shape), generator=self._generator, device=device)[self._rows]
