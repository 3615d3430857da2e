"""Work for processes that ends when other work has: importable by them."""

import os
import sys
import threading
import time
from pathlib import Path

from fusion_datasets.processes import spread

PATIENCE_S = 60


def wait_for_the_others(item: tuple[Path, int, int]) -> bool:
    """Leave a mark, but for the first item: that waits for so many marks, and says whether they came."""
    folder, number, marks = item
    if number:
        (folder / str(number)).touch()
        return True
    deadline = time.monotonic() + PATIENCE_S
    while len(list(folder.iterdir())) < marks and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(list(folder.iterdir())) >= marks


def fail(item: tuple[Path, int, int]) -> bool:
    """Break off in a way that nobody states."""
    raise SystemExit(3)


def sleep_for_ever(item: Path) -> None:
    """Leave one's process number there, and never come to an end."""
    (item / str(os.getpid())).touch()
    threading.Event().wait()


if __name__ == "__main__":  # whom a test kills
    list(spread(sleep_for_ever, [Path(sys.argv[1])] * 2, 2))
