"""Options that several commands share."""

from pathlib import Path
from typing import Final

import click

STAND_IN: Final = "stand-in"
"""Given as a source: render look-alikes."""

DOWNLOAD: Final = "download"
"""Given as a source: fetch the originals."""

FILE: Final = click.Path(path_type=Path, dir_okay=False)
FOLDER: Final = click.Path(path_type=Path, file_okay=False)
SEED: Final = click.IntRange(min=0)
COUNT: Final = click.IntRange(min=1)

DATA_ROOT: Final = click.option(
    "--data-root",
    type=FOLDER,
    envvar="FUSION_DATA_ROOT",
    show_envvar=True,
    help="With --source download: the folder above the originals, instead of the user's cache folder.",
)
