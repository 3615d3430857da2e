"""`fusion-datasets stand-in`: look-alikes of original files."""

from pathlib import Path

import click

from fusion_datasets.build import STAND_IN_COUNT
from fusion_datasets.commands.options import COUNT, FOLDER, SEED
from fusion_datasets.plans import STAND_IN_FACES, stand_in_celeba
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


@stand_in.command("celeba")
@click.option("--output", type=FOLDER, required=True, help="Folder for the JPEGs and their lists.")
@click.option(
    "--count",
    type=COUNT,
    default=STAND_IN_FACES,
    show_default=True,
    help="Training faces; an eighth again to validate, and to test.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the faces.")
def stand_in_celeba_command(output: Path, count: int, seed: int) -> None:
    """Render faces that nobody has, and write them as CelebA's aligned photographs with its lists."""
    recipe = stand_in_celeba(count, seed)
    recipe.write(output)
    click.echo(f"{output}: {recipe.num_train} training, {recipe.num_valid} validation and {recipe.num_test} test faces")


@stand_in.command("tless")
@click.option("--output", type=FOLDER, required=True, help="Folder for the views.")
@click.option("--models", type=FOLDER, help="Folder of T-LESS's CAD models; built-in solids otherwise.")
@click.option(
    "--count",
    type=COUNT,
    help="Views of each object, spread over its view sphere; by default all of a CAD model, 30 of a solid.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the sensor noise.")
@click.option("--workers", type=COUNT, default=1, show_default=True, help="Processes; the content is the same.")
@click.option("--clean", is_flag=True, help="No halo, no sharpening, no noise: pure black around the object.")
@click.option(
    "--layout",
    type=click.Choice(["bop", "original"]),
    default="bop",
    show_default=True,
    help="Folders and files as in BOP, or as in T-LESS version 2.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def stand_in_tless_command(
    output: Path,
    models: Path | None,
    count: int | None,
    seed: int,
    workers: int,
    clean: bool,
    layout: str,
    dry_run: bool,
) -> None:
    """Render views of texture-less objects, and write them as T-LESS's training photographs.

    An interrupted rendering is continued. Needs the extra `render`.
    """
    from fusion_datasets.sources.object_views import StandInTless  # compiles: not for those who do without it

    recipe = StandInTless(models, count, seed, clean, layout)
    total = f"{sum(recipe.num_views.values())} views of {len(recipe.objects)} objects"
    if dry_run:
        recipe.require_own(output)
        there = sum(recipe.num_views[i] - len(recipe.missing(output, i)) for i in recipe.objects)
        click.echo(f"would write {output}: {total}" + f", {there} of them are there" * bool(there))
        return
    rendered = recipe.write(output, workers=workers)
    click.echo(f"{output}: {total}" + ", already there" * (not rendered))
