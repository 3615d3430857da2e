"""`fusion-datasets publish`: a benchmark file with all that a reader needs to trust it."""

from pathlib import Path

import click

from fusion_datasets.commands.options import FILE
from fusion_datasets.hub import SCHEME, HubAddress
from fusion_datasets.publication import Publication, publish_to_hub
from fusion_datasets.publication import publish as publish_into


@click.command()
@click.argument("file", type=FILE)
@click.option("--to", "place", metavar="DIR|hf://owner/name", required=True, help="The folder or Hub data set to make.")
@click.option("--license", "license_name", help="Licence of the images, where the file does not know it.")
@click.option("--recipe", "recipe_only", is_flag=True, help="Leave the images out, as of CelebA: only a recipe.")
@click.option("--author", "authors", multiple=True, help="Who answers for the publication; may be given several times.")
@click.option("--revision", help="On the Hub: the branch, made where it is not there. [default: main]")
@click.option("--private", is_flag=True, help="On the Hub: a data set that is made is private.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def publish(
    file: Path,
    place: str,
    license_name: str | None,
    recipe_only: bool,
    authors: tuple[str, ...],
    revision: str | None,
    private: bool,
    dry_run: bool,
) -> None:
    """Publish a file: card, Croissant metadata, checksums, Parquet with viewable images, contact sheets.

    Of CelebA, whose terms forbid passing on any portion, only a recipe for `build celeba --recipe`. The Hub's token is
    taken from HF_TOKEN or from `hf auth login`.
    """
    address = HubAddress.parse(place) if place.startswith(SCHEME) else None
    if address is None and (revision or private):
        raise click.UsageError("--revision and --private belong to a data set on the Hub: --to hf://owner/name")
    if address is not None and revision:
        if "@" in place:
            raise click.UsageError(f"got --revision {revision} and {place}; name the revision once")
        address = HubAddress.parse(f"{place}@{revision}")
    if recipe_only and license_name:
        raise click.UsageError("--license is for images; a recipe, being numbers, is CC0-1.0")
    publication = Publication(file, Path(place), license_name, recipe_only, authors)
    kind = "a recipe without any image of " if publication.is_recipe else ""
    about = f"{kind}{publication.splits[0].spec.title} under {publication.terms.license}"
    if dry_run:
        click.echo(f"would publish {about} into {address or place}: {', '.join(publication.names)}, SHA256SUMS")
        return
    if address is not None:
        click.echo(f"{publish_to_hub(publication, address, private=private or None)}: {about}, in one commit")
        return
    sums = publish_into(publication)
    size = sum(path.stat().st_size for path in publication.folder.rglob("*") if path.is_file())
    click.echo(f"{place}: {about}, {len(sums) + 1} files, {size / 1e6:.1f} MB, verified")
