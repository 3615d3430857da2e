"""Numba, which the renderer's inner loops are compiled with: an extra, and one sentence where it is missing."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

from fusion_datasets.errors import FusionDatasetsError

try:
    import numba
except ImportError as error:
    raise FusionDatasetsError(
        "rendering objects needs numba, which is not installed; run `pip install fusion-datasets[render]`"
    ) from error

Kernel = TypeVar("Kernel", bound=Callable[..., Any])


def compiled(kernel: Kernel) -> Kernel:
    """Compile a loop over arrays to machine code when it is first called.

    Strict IEEE arithmetic, one thread: the same inputs give the same bits, whoever calls.
    """
    try:
        return cast(Kernel, numba.njit(cache=True, nogil=True, error_model="numpy")(kernel))
    except RuntimeError:  # nowhere to keep machine code between runs
        return cast(Kernel, numba.njit(nogil=True, error_model="numpy")(kernel))
