"""The original files by name: where they are published, how they are recognised, and fetching them into a folder."""

import contextlib
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.locking import locked
from fusion_datasets.sources.download import Downloader, RemoteFile


@dataclass(frozen=True)
class PublishedFiles:
    """The published files of one data set.

    Arguments:
        name: `mnist`, `celeba`, `tless` (BOP layout) or `tless-v2`.
        title: The name in print.
        page: Where its authors publish it.
        license: Its licence.
        files: All files that a build needs.
    """

    name: str
    title: str
    page: str
    license: str
    files: tuple[RemoteFile, ...]

    def missing(self, folder: Path) -> tuple[RemoteFile, ...]:
        """The files that do not lie in a folder."""
        return tuple(file for file in self.files if not (folder / file.name).is_file())


@cache
def originals(name: str) -> PublishedFiles:
    """Look a data set up in `originals.toml`.

    Raises:
        FusionDatasetsError: If there is none of that name.
    """
    table = tomllib.loads(files(__package__).joinpath("originals.toml").read_text(encoding="utf-8"))
    if name not in table:
        raise FusionDatasetsError(f"got originals of {name!r}; expected one of {', '.join(table)}")
    about = table[name]
    remote = (file for entry in about["files"] for file in _expanded(entry, about["mirrors"]))
    return PublishedFiles(name, about["title"], about["page"], about["license"], tuple(remote))


def _expanded(entry: dict[str, Any], mirrors: list[str]) -> list[RemoteFile]:
    first, last = entry.get("numbers", (0, 0))
    names = [entry["name"].format(number=number) for number in range(first, last + 1)]
    return [
        RemoteFile(
            name=name,
            urls=(*(mirror.format(name=name) for mirror in mirrors), *entry.get("urls", ())),
            kind=entry["kind"],
            size=entry.get("size"),
            sha256=entry.get("sha256"),
            md5=entry.get("md5"),
            confirmed=entry.get("confirmed", True),
        )
        for name in names
    ]


def originals_folder(name: str, data_root: Path | None = None) -> Path:
    """Where the originals of a data set lie: below `data_root`, or below the user's cache folder."""
    return (data_root or user_cache_path("fusion-datasets")) / originals(name).name


def fetch(
    name: str, data_root: Path | None = None, *, downloader: Downloader | None = None, progress: bool = True
) -> Path:
    """See that all files of a data set lie in their folder, verified; those that do are not fetched again.

    Arguments:
        name: A name that `originals` knows.
        data_root: The folder above; None means the user's cache folder.
        downloader: How to fetch; None means patiently.
        progress: Report on stderr.

    Returns:
        The folder with the files.

    Raises:
        FusionDatasetsError: If a file cannot be had, saying how to get it by hand, or if one that lies there already
            is not what its name says.
    """
    wanted, folder = originals(name), originals_folder(name, data_root)
    downloader = downloader or Downloader()
    with contextlib.ExitStack() as stack:
        if wanted.missing(folder):  # a folder that is complete may be read-only
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
        for file in wanted.files:
            downloader.fetch(file, folder, page=wanted.page, progress=progress)
    return folder
