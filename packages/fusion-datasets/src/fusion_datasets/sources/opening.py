"""The source that a file was built from, opened again: for verifying, and for building on."""

from pathlib import Path
from typing import Any

from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.schema import FileHeader
from fusion_datasets.sources import Recipe, Source, celeba, folder, mnist, tless
from fusion_datasets.sources.celeba import CelebaSource
from fusion_datasets.sources.folder import FolderSource
from fusion_datasets.sources.mnist import MnistSource
from fusion_datasets.sources.standin import StandInCelebA, StandInMnist
from fusion_datasets.sources.tless import TlessSource


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
    if any(layout == known.name for known in tless.LAYOUTS):
        return TlessSource(path)
    if layout == folder.LAYOUT:
        return FolderSource(path, header.spec, cutouts, header.license)
    raise FusionDatasetsError(f"the file was built from a source of layout {layout!r}, which this release cannot open")


def recipe_of(header: FileHeader) -> Recipe:
    """The recipe of the stand-in that a file was built from.

    Raises:
        FusionDatasetsError: If it was built from something else.
    """
    if any(header.source.get("layout") == known.name for known in tless.LAYOUTS):
        return _rendered_tless(header.source)
    source, recipes = header.source, {mnist.LAYOUT: StandInMnist, celeba.LAYOUT: StandInCelebA}
    try:
        counts = {f"num_{split}": int(count) for split, count in source["counts"].items()}
        recipe: Recipe = recipes[source["layout"]](**counts, seed=int(source["seed"]))
    except (KeyError, TypeError, AttributeError, ValueError):
        raise FusionDatasetsError(
            "the file was not built from a stand-in; name the folder of its source instead"
        ) from None
    return recipe


def _rendered_tless(source: dict[str, Any]) -> Recipe:
    from fusion_datasets.sources.object_views import StandInTless  # compiles: not for those who do without it
    from fusion_datasets.sources.rendered_tless import RenderedTless

    try:
        recipe = RenderedTless(StandInTless(None, int(source["views"]["1"]), int(source["seed"])))
    except (KeyError, TypeError, ValueError):
        recipe = None
    if recipe is None or any(source.get(key) != value for key, value in recipe.description.items()):
        raise FusionDatasetsError("the file was not built from built-in solids; name the folder of its source instead")
    return recipe
