"""A publication in a folder: made beside its final place, continued when interrupted, verified, then put there."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property, partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Final

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.hub import RECIPE, SUMS, digests_in
from fusion_datasets.locking import locked
from fusion_datasets.preview import Show, save_contact_sheet
from fusion_datasets.progress import Progress
from fusion_datasets.publication.card import card, recipe_card, summary
from fusion_datasets.publication.citation import citation_file
from fusion_datasets.publication.croissant import croissant
from fusion_datasets.publication.parquet import ROWS_PER_FILE, file_names, write_parquet
from fusion_datasets.publication.recipe import recipe_of
from fusion_datasets.publication.terms import RECIPE_TERMS, Terms, is_celeba, terms_of
from fusion_datasets.shards import file_sha256
from fusion_datasets.spec import BENCHMARKS
from fusion_datasets.store import FusionDataset, copy_durably, write_atomically
from fusion_datasets.verification import verify

CROISSANT: Final = "croissant.json"
MAINTAINERS: Final = "The fusionvae maintainers"


@dataclass(frozen=True)
class Publication:
    """What is to be published, and where.

    Arguments:
        file: A benchmark file.
        folder: What is to be made.
        license_name: Licence of the images, where the file does not know it.
        recipe_only: Leave the images out, whatever their licence.
        named_authors: Who answer for it; where nobody is named, of the paper's benchmarks the maintainers of this
            software, of any other its publisher.

    Raises:
        FusionDatasetsError: On asking for its terms, if these images may not be published.
    """

    file: Path
    folder: Path
    license_name: str | None = None
    recipe_only: bool = False
    named_authors: tuple[str, ...] = ()

    @cached_property
    def splits(self) -> list[FusionDataset]:
        """Every split of the file."""
        first = FusionDataset(self.file)
        return [FusionDataset(self.file, split) for split in first.spec.splits]

    @cached_property
    def is_recipe(self) -> bool:
        """Whether the images stay here, and only a recipe goes."""
        return self.recipe_only or (self.license_name is None and is_celeba(self.splits[0].header))

    @cached_property
    def terms(self) -> Terms:
        """The terms under which what is published travels."""
        return RECIPE_TERMS if self.is_recipe else terms_of(self.splits[0].header, self.license_name)

    @property
    def title(self) -> str:
        """What it is called."""
        return self.splits[0].spec.title + ": a recipe" * self.is_recipe

    @property
    def authors(self) -> tuple[str, ...]:
        """Who answer for it, at least one."""
        data = self.splits[0]
        default = MAINTAINERS if data.benchmark in BENCHMARKS else f"The publisher of {data.spec.title}"
        return self.named_authors or (default,)

    @property
    def file_name(self) -> str:
        """Name of the HDF5 file in the folder."""
        return f"{self.splits[0].benchmark}.h5"

    @property
    def names(self) -> list[str]:
        """Paths of all files but the sums, in the order in which they are made."""
        if self.is_recipe:
            return [RECIPE, "CITATION.cff", "README.md", CROISSANT]
        data = [f"data/{name}" for split in self.splits for name in file_names(split)]
        sheets = [self.sheet_name(split, show) for show in self.shown for split in self.splits]
        return [self.file_name, *data, *sheets, "CITATION.cff", "README.md", CROISSANT]

    @property
    def shown(self) -> tuple[Show, ...]:
        """What there are contact sheets of."""
        return ("inputs", "occluders") if self.splits[0].header.occluders else ("inputs",)

    @staticmethod
    def sheet_name(split: FusionDataset, show: Show) -> str:
        """Path of a contact sheet."""
        return f"previews/{split.split}{'-occluders' * (show == 'occluders')}.png"

    @cached_property
    def mark(self) -> str:
        """What tells it from a publication of another file, under another licence or by another version."""
        about = [file_sha256(self.file), self.terms.license, self.is_recipe, self.authors, version("fusion-datasets")]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]

    @property
    def workshop(self) -> Path:
        """The folder of unfinished work."""
        return self.folder.with_name(f".{self.folder.name}.{self.mark}.partial")


def publish(publication: Publication, *, progress: bool = True) -> dict[str, str]:
    """Make a publication, or see that the one that is there is this one, whole.

    Arguments:
        publication: What and where.
        progress: Report on stderr.

    Returns:
        Path of each file → its SHA-256, as `SHA256SUMS` says.

    Raises:
        FusionDatasetsError: If the file is damaged, its images may not be published, or the folder holds anything else.
    """
    terms, folder = publication.terms, publication.folder
    verify(publication.file, progress=progress)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        return _published(publication)
    workshop = publication.workshop
    try:
        for name in publication.names:
            (workshop / name).parent.mkdir(parents=True, exist_ok=True)
        with locked(workshop):
            kept = {workshop / name for name in (*publication.names, "lock")}
            for torn in {path for path in workshop.rglob("*") if path.is_file()} - kept:
                torn.unlink()
            (_make_recipe if publication.is_recipe else _make)(publication, terms, workshop, progress)
            sums = {name: file_sha256(workshop / name) for name in publication.names}
            lines = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(sums.items()))
            write_atomically(workshop / SUMS, lines.encode())
        check_sums(workshop)
        if not publication.is_recipe:
            verify(workshop / publication.file_name, progress=progress)
        (workshop / "lock").unlink(missing_ok=True)
        if folder.exists():
            folder.rmdir()
        workshop.replace(folder)
    except OSError as error:
        raise FusionDatasetsError(
            f"{folder} cannot be written: {error.strerror or error}; free some space or choose another place"
        ) from error
    return sums


def check_sums(folder: Path) -> dict[str, str]:
    """Compare a folder's files with its `SHA256SUMS`.

    Returns:
        Path → SHA-256.

    Raises:
        FusionDatasetsError: If a file is missing, altered, or not mentioned.
    """
    try:
        sums = digests_in((folder / SUMS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FusionDatasetsError(f"{folder} holds no {SUMS} that can be read; choose another folder") from error
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if differing := sorted(present ^ {*sums, SUMS, *({"lock"} & present)}):
        raise FusionDatasetsError(f"{folder}: {differing[0]} is not where {SUMS} says; publish into another folder")
    for name, sha256 in sums.items():
        if file_sha256(folder / name) != sha256:
            raise FusionDatasetsError(f"{folder}: {name} is not the file that {SUMS} names; it was altered or damaged")
    return sums


def _published(publication: Publication) -> dict[str, str]:
    sums, terms = check_sums(publication.folder), publication.terms
    if publication.is_recipe:
        is_same = sums.get(RECIPE) == hashlib.sha256(recipe_of(publication.file)).hexdigest()
    else:
        is_same = sums.get(publication.file_name) == file_sha256(publication.file)
    if not is_same or CROISSANT not in sums:
        raise FusionDatasetsError(f"{publication.folder} holds another publication; choose another folder")
    about = json.loads((publication.folder / CROISSANT).read_bytes())
    authors = tuple(author["name"] for author in about["creator"])
    for told, wanted in ((about["license"], terms.url or terms.license), (authors, publication.authors)):
        if told != wanted:
            raise FusionDatasetsError(
                f"{publication.folder} holds this file as published under {about['license']} by {', '.join(authors)}; "
                "choose another folder"
            )
    return sums


def _make_recipe(publication: Publication, terms: Terms, workshop: Path, progress: bool) -> None:
    data = publication.splits[0]
    write_atomically(workshop / RECIPE, recipe_of(publication.file))
    text = recipe_card(data, title=publication.title, tool=data.header.created_with)
    write_atomically(workshop / "README.md", text.encode())
    _describe(publication, terms, workshop, [RECIPE])


def _make(publication: Publication, terms: Terms, workshop: Path, progress: bool) -> None:
    """Make every file that is not there; each appears whole or not at all."""

    def once(name: str, make: Callable[[Path], object]) -> None:
        if not (workshop / name).exists():
            make(workshop / name)

    splits, hdf5 = publication.splits, publication.file_name
    once(hdf5, lambda path: copy_durably(publication.file, path))
    with Progress("Parquet rows", sum(map(len, splits)), shown=progress) as bar:
        for data in splits:
            for i, name in enumerate(file_names(data)):
                rows = range(i * ROWS_PER_FILE, min((i + 1) * ROWS_PER_FILE, len(data)))
                if (workshop / "data" / name).exists():
                    bar.advance(len(rows))
                    continue
                for count in write_parquet(data, workshop / "data" / name, rows.start, rows.stop):
                    bar.advance(count)
    for show, data in product(publication.shown, splits):
        once(publication.sheet_name(data, show), partial(save_contact_sheet, data, show=show))
    text = card(splits, terms, file_name=hdf5, tool=splits[0].header.created_with)
    write_atomically(workshop / "README.md", text.encode())
    _describe(publication, terms, workshop, [n for n in publication.names if n == hdf5 or n.startswith("data/")])


def _describe(publication: Publication, terms: Terms, workshop: Path, names: list[str]) -> None:
    """Write the citation and the metadata of these files, both of one day."""
    splits, released = publication.splits, _today()
    citation = citation_file(splits[0], terms, title=publication.title, authors=publication.authors, released=released)
    write_atomically(workshop / "CITATION.cff", citation.encode())
    files = {name: ((workshop / name).stat().st_size, file_sha256(workshop / name)) for name in names}
    about = croissant(
        splits,
        terms,
        title=publication.title,
        description=summary(splits[0]),
        authors=publication.authors,
        released=released,
        files=files,
    )
    write_atomically(workshop / CROISSANT, json.dumps(about, indent=2, ensure_ascii=False).encode())


def _today() -> date:
    """The day in UTC, or that of SOURCE_DATE_EPOCH, with which a publication can be made again byte for byte."""
    seconds = os.environ.get("SOURCE_DATE_EPOCH", "")
    return datetime.fromtimestamp(int(seconds), UTC).date() if seconds.isdecimal() else datetime.now(UTC).date()
