"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Count finished units of work; a context manager.

    Args:
        description: what is being done.
        total: number of units.
        unit: what is being counted, in the plural.
        quiet: say nothing.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        description: str,
        total: int,
        unit: str,
        *,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.quiet, self.clock = quiet, clock
        self.done = self.skipped = 0
        self.started = self.spoke = clock()
        off = quiet or not sys.stderr.isatty()
        self.bar = tqdm(total=total, desc=description, unit=f" {unit}", disable=off)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def skip(self, units: int) -> None:
        """Count units that an earlier call had finished; they do not enter the rate."""
        self.done += units
        self.skipped += units
        self.bar.initial = self.skipped
        self.bar.update(units)

    def advance(self, units: int) -> None:
        """Count units finished now."""
        self.done += units
        self.bar.update(units)
        now = self.clock()
        due = now - self.spoke >= SECONDS_BETWEEN_LINES or self.done >= self.total
        if self.bar.disable and not self.quiet and due:
            self.spoke = now
            rate = (self.done - self.skipped) / max(now - self.started, 1e-9)
            left = (self.total - self.done) / max(rate, 1e-9)
            sys.stderr.write(
                f"{self.description}: {self.done}/{self.total} {self.unit}, {rate:.3g}/s, {left:.0f} s left\n"
            )
            sys.stderr.flush()
