"""How far a long command has come: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Final

from tqdm import tqdm

_LINE_EVERY_S: Final = 10.0


class Progress:
    """Reports on stderr.

    Arguments:
        title: What is being done.
        total: How many items there are.
        done: How many were done before, in an earlier run.
        shown: Whether to report at all.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, shown: bool = True) -> None:
        self._title, self._total, self._done, self._shown = title, total, done, shown
        self._earlier = done
        self._began = self._said = time.monotonic()
        terminal = shown and sys.stderr.isatty()
        self._bar = tqdm(desc=title, total=total, initial=done, leave=False) if terminal else None

    def advance(self, count: int) -> None:
        """Count more items as done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._shown and time.monotonic() - self._said >= _LINE_EVERY_S:
            self._said = time.monotonic()
            rate = (self._done - self._earlier) / (self._said - self._began)
            left = (self._total - self._done) / max(rate, 1e-9)
            line = f"{self._title}: {self._done} of {self._total}, {rate:.0f}/s, {left:.0f} s left\n"
            sys.stderr.write(line)
            sys.stderr.flush()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
