"""A file's bytes on their way to the disk while more of them are being made."""

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path


class Flusher:
    """Sends what a growing file holds to the disk beside other work, so that little is left to wait for at its end.

    Arguments:
        path: The file; it exists.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR)
        self._thread = ThreadPoolExecutor(1)
        self._last: Future[None] | None = None

    def flush(self) -> None:
        """Begin to send, unless the last sending is still under way.

        Raises:
            OSError: If the last sending failed: the system says so once, and not to whoever opens the file later.
        """
        if self._last is None or self._last.done():
            self.wait()
            self._last = self._thread.submit(os.fsync, self._descriptor)

    def wait(self) -> None:
        """Wait for what is under way; raises as `flush` does."""
        if self._last is not None:
            self._last.result()

    def close(self) -> None:
        """Wait for what is under way, whatever becomes of it; closing again does nothing."""
        if self._descriptor >= 0:
            self._thread.shutdown()
            os.close(self._descriptor)
            self._descriptor = -1
