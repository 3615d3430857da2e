"""`fusion-datasets stand-in`: look-alikes of original files."""

from pathlib import Path

import click

from fusion_datasets.build import STAND_IN_COUNT
from fusion_datasets.commands.options import COUNT, FOLDER, SEED
from fusion_datasets.sources.standin import StandInMnist


@click.group("stand-in")
def stand_in() -> None:
    """Render look-alikes of original files, in their layout."""


@stand_in.command("mnist")
@click.option("--output", type=FOLDER, required=True, help="Folder for the four IDX files.")
@click.option(
    "--count", type=COUNT, default=STAND_IN_COUNT, show_default=True, help="Training digits; a sixth again to test."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the handwriting.")
def stand_in_mnist_command(output: Path, count: int, seed: int) -> None:
    """Render digits from strokes, and write them as MNIST's four files."""
    recipe = StandInMnist(count, -(-count // 6), seed)
    recipe.write(output)
    click.echo(f"{output}: {recipe.num_train} training and {recipe.num_test} test digits")
