"""What is built from what: a plan for each benchmark; `build.execute` carries them out alike."""

from pathlib import Path
from typing import Final, Literal

from fusion_datasets.build import BuildPlan
from fusion_datasets.errors import FusionDatasetsError
from fusion_datasets.sources import Recipe, Source
from fusion_datasets.sources.celeba import CelebaSource
from fusion_datasets.sources.folder import FolderSource, folder_spec
from fusion_datasets.sources.standin import StandInCelebA
from fusion_datasets.sources.tless import TlessSource
from fusion_datasets.spec import BENCHMARKS

STAND_IN_FACES: Final = 1200
"""Training faces of a stand-in; an eighth of them again for validation, and for testing, CelebA's own proportion."""


def stand_in_celeba(count: int = STAND_IN_FACES, seed: int = 0, limit: int | None = None) -> StandInCelebA:
    """The recipe with so many training faces; a limit cuts each split down."""
    eighth = -(-count // 8)
    train, valid, test = (min(number, limit or number) for number in (count, eighth, eighth))
    return StandInCelebA(train, valid, test, seed)


def plan_celeba(
    source: Path | Literal["stand-in"],
    output: Path,
    *,
    seed: int = 0,
    limit: int | None = None,
    skip_bad: bool = False,
    stand_in_count: int = STAND_IN_FACES,
) -> BuildPlan:
    """Plan FusionCelebA (Sec. 5.1).

    Arguments:
        source: CelebA's aligned images, zipped or not, with the list that splits them (see `CelebaSource`), or
            `"stand-in"` for rendered faces.
        output: The file to make.
        seed: Seed of the frozen inputs and of the stand-in, ≥ 0.
        limit: Most images per split, or None for all.
        skip_bad: Leave out images that are missing or broken instead of stopping.
        stand_in_count: Training faces of the stand-in.
    """
    origin: Source | Recipe
    origin = stand_in_celeba(stand_in_count, seed, limit) if source == "stand-in" else CelebaSource(Path(source))
    return BuildPlan(BENCHMARKS["fusion-celeba"], origin, Path(output), seed, limit, skip_bad)


def plan_tless(
    source: Path | Literal["stand-in"],
    output: Path,
    *,
    seed: int = 0,
    limit: int | None = None,
    skip_bad: bool = False,
    views: int | None = None,
    models: Path | None = None,
) -> BuildPlan:
    """Plan FusionT-LESS (Sec. 5.1).

    Arguments:
        source: T-LESS's Primesense training images in either layout, zipped or not (see `TlessSource`), or `"stand-in"`
            for rendered views.
        output: The file to make.
        seed: Seed of the frozen inputs and of the stand-in, ≥ 0.
        limit: Most photographs per split, and per set of occluders, or None for all.
        skip_bad: Leave out photographs that are missing or broken instead of stopping.
        views: Views of each object of the stand-in, ≥ 10; None for as many as it has by default.
        models: Folder of CAD models to render; None renders built-in solids.
    """
    origin: Source | Recipe
    if source == "stand-in":
        from fusion_datasets.sources.object_views import StandInTless  # compiles: not for those who do without it
        from fusion_datasets.sources.rendered_tless import RenderedTless

        origin = RenderedTless(StandInTless(models, views, seed))
    else:
        origin = TlessSource(Path(source))
    return BuildPlan(BENCHMARKS["fusion-tless"], origin, Path(output), seed, limit, skip_bad)


def plan_folder(
    source: Path,
    output: Path,
    *,
    size: int = 64,
    grey: bool = False,
    flips: bool = False,
    cutouts: Path | None = None,
    license_name: str = "unknown",
    seed: int = 0,
    limit: int | None = None,
    skip_bad: bool = False,
) -> BuildPlan:
    """Plan a benchmark of one's own pictures.

    Arguments:
        source: Folder or zip of pictures; sub-folders become labels.
        output: The file to make.
        size: Side of an image in pixels; a picture's largest centred square is scaled to it.
        grey: Keep one channel instead of three.
        flips: Flip training targets at random.
        cutouts: Folder or zip of pictures with transparency to lay over the targets; None shows ellipses of them.
        license_name: Licence of the pictures.
        seed: Seed of the frozen inputs, ≥ 0.
        limit: Most pictures per split, or None for all.
        skip_bad: Leave out pictures that are broken instead of stopping.

    Raises:
        FusionDatasetsError: If the output lies among the pictures.
    """
    for read in (source, cutouts):
        if read is not None and Path(read).is_dir() and Path(output).resolve().is_relative_to(Path(read).resolve()):
            raise FusionDatasetsError(
                f"got the output {output} inside {read}, whose pictures are read; choose a place outside of it"
            )
    spec = folder_spec(source, size=size, objects=cutouts is not None, grey=grey, flips=flips)
    return BuildPlan(spec, FolderSource(Path(source), spec, cutouts, license_name), Path(output), seed, limit, skip_bad)
