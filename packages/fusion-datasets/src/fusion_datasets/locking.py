"""One process at a time in a folder."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from fusion_datasets.errors import FusionDatasetsError


@contextlib.contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep a second process out of a folder of unfinished work; the system frees the lock however this one ends.

    Arguments:
        folder: Holds the file `lock` from then on.
        wait: For the other process to end.

    Raises:
        FusionDatasetsError: If another process works there, and `wait` is not set.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise FusionDatasetsError(f"{folder} is being worked on by another process; wait for it") from None
        yield
