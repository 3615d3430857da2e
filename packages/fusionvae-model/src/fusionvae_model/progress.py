"""How far a long command has come: a bar on a terminal, a line now and then elsewhere; always on stderr."""

import sys
import time
from typing import Self

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts units of work; a context manager.

    Args:
        title: What is being done.
        total: How many units there are.
        unit: What is counted, in the plural.
        done: How many an earlier call had finished; they do not enter the rate.
        quiet: Say nothing.
    """

    def __init__(self, title: str, total: int, *, unit: str, done: int = 0, quiet: bool = False) -> None:
        self._quiet = quiet
        self._title, self._total, self._unit = title, total, unit
        self._done = self._earlier = done
        self._began = self._spoke = time.monotonic()
        self._bar = (
            tqdm(desc=title, total=total, initial=done, unit=f" {unit}", dynamic_ncols=True, leave=False)
            if sys.stderr.isatty() and not quiet
            else None
        )

    def advance(self, remark: str = "", *, units: int = 1) -> None:
        """Count units finished now.

        Args:
            remark: How things stand, kept until the next one.
            units: How many.
        """
        self._done += units
        if self._bar is not None:
            if remark:
                self._bar.set_postfix_str(remark, refresh=False)
            self._bar.update(units)
        elif not self._quiet and (
            (now := time.monotonic()) - self._spoke >= SECONDS_BETWEEN_LINES or self._done >= self._total
        ):
            rate = (self._done - self._earlier) / max(now - self._began, 1e-9)
            left = tqdm.format_interval((self._total - self._done) / rate)
            said = f"{self._title}: {self._done}/{self._total} {self._unit}, {rate:.3g}/s, {left} left"
            note(f"{said}, {remark}" if remark else said)
            self._spoke = now

    def __enter__(self) -> Self:
        """Start counting."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.close()


def note(sentence: str) -> None:
    """Say one line on stderr."""
    tqdm.write(sentence, file=sys.stderr)
    sys.stderr.flush()
