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
        unit: What is counted; `"B"` shows bytes as megabytes.
        shown: Whether to report at all.
    """

    def __init__(self, title: str, total: int, *, done: int = 0, unit: str = "it", shown: bool = True) -> None:
        self._title, self._total, self._done, self._shown = title, total, done, shown
        self._scale, self._unit = (1e-6, " MB") if unit == "B" else (1.0, "")
        self._earlier = done
        self._began = self._said = time.monotonic()
        terminal = shown and sys.stderr.isatty()
        bytewise = unit == "B"
        self._bar = (
            tqdm(desc=title, total=total, initial=done, unit=unit, unit_scale=bytewise, leave=False)
            if terminal
            else None
        )

    def advance(self, count: int) -> None:
        """Count more items as done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._shown and time.monotonic() - self._said >= _LINE_EVERY_S:
            self._said = time.monotonic()
            rate = (self._done - self._earlier) / (self._said - self._began)
            left = (self._total - self._done) / max(rate, 1e-9)
            done, total, per_s = (self._scale * value for value in (self._done, self._total, rate))
            line = f"{self._title}: {done:.0f} of {total:.0f}{self._unit}, {per_s:.0f}{self._unit}/s, {left:.0f} s left"
            sys.stderr.write(f"{line}\n")
            sys.stderr.flush()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
