"""`fusion-datasets publish`: a benchmark file with all that a reader needs to trust it."""

from pathlib import Path

import click

from fusion_datasets.commands.options import FILE, FOLDER
from fusion_datasets.publication import Publication
from fusion_datasets.publication import publish as publish_into


@click.command()
@click.argument("file", type=FILE)
@click.option("--to", "folder", type=FOLDER, required=True, help="The folder to make.")
@click.option("--license", "license_name", help="Licence of the images, where the file does not know it.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def publish(file: Path, folder: Path, license_name: str | None, dry_run: bool) -> None:
    """Publish a file: card, Croissant metadata, checksums, Parquet with viewable images, contact sheets.

    Of CelebA, whose terms forbid passing on any portion, only a recipe for `build celeba --recipe`.
    """
    publication = Publication(file, folder, license_name)
    kind = "a recipe without any image of " if publication.is_recipe else ""
    about = f"{kind}{publication.splits[0].spec.title} under {publication.terms.license}"
    if dry_run:
        click.echo(f"would publish {about} into {folder}: {', '.join(publication.names)}, SHA256SUMS")
        return
    sums = publish_into(publication)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    click.echo(f"{folder}: {about}, {len(sums) + 1} files, {size / 1e6:.1f} MB, verified")
