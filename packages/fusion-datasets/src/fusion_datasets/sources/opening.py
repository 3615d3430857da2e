"""The source that a file was built from, opened again: for verifying, and for building on."""

from pathlib import Path

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.schema import FileHeader
from fusion_datasets.sources import Recipe, Source, celeba, folder, mnist
from fusion_datasets.sources.celeba import CelebaSource
from fusion_datasets.sources.folder import FolderSource
from fusion_datasets.sources.mnist import MnistSource
from fusion_datasets.sources.standin import StandInCelebA, StandInMnist


def open_source(header: FileHeader, path: Path, cutouts: Path | None = None) -> Source:
    """Open original files as those of a benchmark file.

    Arguments:
        header: What the file says of itself.
        path: The original files.
        cutouts: The occluders, where they lie apart.

    Raises:
        FusionDatasetsError: If they are not what the file was built from.
    """
    layout = header.source.get("layout")
    if layout == mnist.LAYOUT:
        return MnistSource(path)
    if layout == celeba.LAYOUT:
        return CelebaSource(path)
    if layout == folder.LAYOUT:
        return FolderSource(path, header.spec, cutouts, header.license)
    raise FusionDatasetsError(f"the file was built from a source of layout {layout!r}, which this release cannot open")


def recipe_of(header: FileHeader) -> Recipe:
    """The recipe of the stand-in that a file was built from.

    Raises:
        FusionDatasetsError: If it was built from something else.
    """
    source, recipes = header.source, {mnist.LAYOUT: StandInMnist, celeba.LAYOUT: StandInCelebA}
    try:
        counts = {f"num_{split}": int(count) for split, count in source["counts"].items()}
        recipe: Recipe = recipes[source["layout"]](**counts, seed=int(source["seed"]))
    except (KeyError, TypeError, AttributeError, ValueError):
        raise FusionDatasetsError(
            "the file was not built from a stand-in; name the folder of its source instead"
        ) from None
    return recipe
