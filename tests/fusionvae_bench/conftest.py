import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # solvable.py and stand_ins.py, for tests and for the command alike


@pytest.fixture
def full_disk(monkeypatch):
    """`full_disk()`: from now on the disk takes nothing more."""

    def refuse(_):
        raise OSError(28, "No space left on device")

    return lambda: monkeypatch.setattr(os, "fsync", refuse)
