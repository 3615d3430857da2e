"""Where clean images come from: original files in, 8-bit images and labels out, one protocol for all."""

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fusion_datasets.spec import Split


class CleanImages(NamedTuple):
    """Some images of a source, as its files hold them.

    Arguments:
        images: uint8 `[n, h, w, c]`.
        labels: int64 `[n]`, or None where the source has none.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None


class Source(Protocol):
    """Original files, opened. Sources are small and picklable: worker processes read on their own."""

    @property
    def description(self) -> dict[str, Any]:
        """`name`, `layout` and `digest` of the decompressed contents, `stand_in`, and what else tells it apart."""
        ...

    @property
    def license(self) -> str:
        """Licence of these images."""
        ...

    def num_images(self, split: Split) -> int:
        """Images in a split."""
        ...

    def read(self, split: Split, start: int, stop: int) -> CleanImages:
        """Read images `start … stop − 1` of a split."""
        ...
