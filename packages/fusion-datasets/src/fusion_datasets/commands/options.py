"""Options that several commands share."""

import os
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from fusion_datasets.hub import SCHEME, HubAddress, local_recipe, located
from fusion_datasets.schema import MAX_SEED

STAND_IN: Final = "stand-in"
"""Given as a source: render look-alikes."""

DOWNLOAD: Final = "download"
"""Given as a source: fetch the originals."""


class BenchmarkFile(click.Path):
    """A benchmark file, or `hf://owner/name@revision`, which is fetched."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The local path."""
        text = os.fspath(value)
        return located(text) if text.startswith(SCHEME) else super().convert(value, param, ctx)


class RecipeFile(click.Path):
    """The `recipe.json` of a publication, or `hf://owner/name@revision`, from where it is fetched."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The local path."""
        text = os.fspath(value)
        if text.startswith(SCHEME):
            return local_recipe(HubAddress.parse(text))
        return super().convert(value, param, ctx)


BENCHMARK: Final = BenchmarkFile(path_type=Path, dir_okay=False)
RECIPE: Final = RecipeFile(path_type=Path, dir_okay=False)
FILE: Final = click.Path(path_type=Path, dir_okay=False)
FOLDER: Final = click.Path(path_type=Path, file_okay=False)
SEED: Final = click.IntRange(min=0, max=MAX_SEED)
COUNT: Final = click.IntRange(min=1)

DATA_ROOT: Final = click.option(
    "--data-root",
    type=FOLDER,
    envvar="FUSION_DATA_ROOT",
    show_envvar=True,
    help="With --source download: the folder above the originals, instead of the user's cache folder.",
)


def given(*names: str) -> list[str]:
    """Those of these parameters that stand on the command line, as options."""
    context = click.get_current_context()
    return [
        param.opts[-1]
        for param in context.command.params
        if param.name in names and context.get_parameter_source(param.name) is ParameterSource.COMMANDLINE
    ]
