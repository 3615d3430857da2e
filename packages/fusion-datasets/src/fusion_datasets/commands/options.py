"""Options that several commands share."""

from pathlib import Path
from typing import Final

import click

STAND_IN: Final = "stand-in"
"""Given as a source: render look-alikes."""

FILE: Final = click.Path(path_type=Path, dir_okay=False)
FOLDER: Final = click.Path(path_type=Path, file_okay=False)
SEED: Final = click.IntRange(min=0)
COUNT: Final = click.IntRange(min=1)
